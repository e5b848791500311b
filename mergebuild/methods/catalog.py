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
    "LATER",
    "METHODS",
    "Method",
    "Parameter",
    "Program",
    "ProgramError",
    "UndefinedError",
    "method_named",
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

LATER: frozenset[str] = frozenset(
    """
    extract_lora resize_lora merge_loras
    """.split()
)
"""Methods that a later version will have; naming one is an error that says so."""


def method_named(name: str) -> Method | None:
    """Return the method of that canonical name."""
    return METHODS.get(name)
