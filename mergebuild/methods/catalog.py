"""All methods by name.

`method.py` says what a row is, `tables/` has the rows; `docs/methods.md` is generated from them.
"""

from __future__ import annotations

import copyreg
from collections.abc import Mapping
from typing import Any

from mergebuild.methods.method import Method, Parameter, ProgramError, UndefinedError
from mergebuild.methods.tables import (
    adjust,
    elementwise,
    experts,
    gram,
    linear,
    lora,
    low_rank,
    model_wide,
    rotation,
    rows,
    spectra,
    task_vectors,
    ties_sums,
)
from mergebuild.methods.tables.rows_of_tokens import ROWS_OF_TOKENS

__all__ = ["METHODS", "Method", "Parameter", "ProgramError", "UndefinedError"]

_TABLES = (
    linear,
    lora,
    adjust,
    elementwise,
    gram,
    task_vectors,
    ties_sums,
    rows,
    spectra,
    low_rank,
    rotation,
    model_wide,
    experts,
)

METHODS: Mapping[str, Method] = {row.name: row for table in _TABLES for row in table.ROWS}


_INTERNAL = (lora.DELTA, lora.FACTOR, ROWS_OF_TOKENS, experts.RANDOM_GATE, experts.PROMPT_GATE)
_ROWS = {**METHODS, **{row.name: row for row in _INTERNAL}}
"""`METHODS`, and the rows that LoRAs, tokenizers and experts use internally and that no recipe can name."""


def _row(name: str) -> Method:
    return _ROWS[name]


def _pickled(row: Method) -> Any:
    """Return how to pickle a row: one of ours by name, so that unpickling gives the same object.

    A user's own by its fields.
    """
    import pickle  # imported here: a plan that pickles nothing does not need it

    return (_row, (row.name,)) if _ROWS.get(row.name) is row else row.__reduce_ex__(pickle.DEFAULT_PROTOCOL)


copyreg.pickle(Method, _pickled)
