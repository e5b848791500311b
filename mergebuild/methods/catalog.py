"""The methods by name. What a row is: `method.py`; the rows: `tables`. Pages made from it: `docs/methods.md`."""

from __future__ import annotations

from collections.abc import Mapping

from mergebuild.methods.method import Method, Parameter, Program, ProgramError, UndefinedError
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

__all__ = [
    "METHODS",
    "Method",
    "Parameter",
    "Program",
    "ProgramError",
    "UndefinedError",
]

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
