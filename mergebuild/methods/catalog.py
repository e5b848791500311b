"""The methods by name. What a row is: `method.py`; the rows: `tables`. Pages made from it: `docs/methods.md`."""

from __future__ import annotations

import copyreg
from collections.abc import Mapping
from typing import Any

from mergebuild.methods.method import Method, Parameter, ProgramError, UndefinedError
from mergebuild.methods.tables import (
    adjust,
    elementwise,
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
)

METHODS: Mapping[str, Method] = {row.name: row for table in _TABLES for row in table.ROWS}


_ROWS = {**METHODS, lora.DELTA.name: lora.DELTA, lora.FACTOR.name: lora.FACTOR}
"""Those too that have no name in a recipe."""


def _row(name: str) -> Method:
    return _ROWS[name]


def _pickled(row: Method) -> Any:
    """Return how a row travels: by its name, so that it is the same object there; a user's own by its parts."""
    import pickle  # it is being used already, and a plan has no use for it

    return (_row, (row.name,)) if _ROWS.get(row.name) is row else row.__reduce_ex__(pickle.DEFAULT_PROTOCOL)


copyreg.pickle(Method, _pickled)
