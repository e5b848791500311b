"""The answers of the verbs, as plain frozen values, each typed and equal where its fields are.

    from mergebuild.results import BuildResult, WhyResult

`build.py` has those of `build` and `plan`, `looks.py` those of all other commands. Each has `to_json()`, which is what
`--json` prints, and is a table in a notebook (`html.py`); `quantities.py` writes bytes, seconds and counts as text. May
import errors and what is beside them. What is exported here is imported when it is first used, as a build with nothing
to do starts with `build.py` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mergebuild.errors import Place, Problem
    from mergebuild.results.build import BuildResult, MemoryBounds, PlanResult, TargetResult, Verdict
    from mergebuild.results.looks import (
        Change,
        CleanResult,
        Inspection,
        KeyLine,
        Lineage,
        OutputState,
        StatusResult,
        TargetState,
        TensorWhy,
        Trusted,
        VerifyResult,
        WhatItIs,
        WhyResult,
    )
    from mergebuild.results.tensor_work import How, TensorWork
    from mergebuild.system.profile import Seconds

__all__ = [
    "BuildResult",
    "Change",
    "CleanResult",
    "How",
    "Inspection",
    "KeyLine",
    "Lineage",
    "MemoryBounds",
    "OutputState",
    "Place",
    "PlanResult",
    "Problem",
    "Seconds",
    "StatusResult",
    "TargetResult",
    "TargetState",
    "TensorWhy",
    "TensorWork",
    "Trusted",
    "Verdict",
    "VerifyResult",
    "WhatItIs",
    "WhyResult",
]

_HOMES = {
    **dict.fromkeys(
        ("BuildResult", "MemoryBounds", "PlanResult", "TargetResult", "Verdict"), "mergebuild.results.build"
    ),
    **dict.fromkeys(("How", "TensorWork"), "mergebuild.results.tensor_work"),
    **dict.fromkeys(("Place", "Problem"), "mergebuild.errors"),
    "Seconds": "mergebuild.system.profile",
}
"""Where what is exported is, if not in `looks.py`."""


def __getattr__(name: str) -> object:
    """Import what the package exports when it is first asked for."""
    if name not in __all__:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module

    return getattr(import_module(_HOMES.get(name, "mergebuild.results.looks")), name)
