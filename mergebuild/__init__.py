"""An incremental build system for model merges.

    import mergebuild
    result = mergebuild.load("mergefile.toml").build(["orange"])

The names in `__all__` are imported when they are first used, so that `import mergebuild` alone is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mergebuild import results
    from mergebuild.errors import MergeBuildError
    from mergebuild.project.options import BuildOptions
    from mergebuild.project.project import Project, load
    from mergebuild.results import (
        BuildResult,
        CleanResult,
        Inspection,
        Lineage,
        PlanResult,
        StatusResult,
        TargetResult,
        Trusted,
        Verdict,
        VerifyResult,
        WhyResult,
    )

__all__ = [
    "REVISION",
    "BuildOptions",
    "BuildResult",
    "CleanResult",
    "Inspection",
    "Lineage",
    "MergeBuildError",
    "PlanResult",
    "Project",
    "StatusResult",
    "TargetResult",
    "Trusted",
    "Verdict",
    "VerifyResult",
    "WhyResult",
    "__version__",
    "load",
    "results",
]

__version__ = "0.1.0"

REVISION = 3
"""Raised when the digests of some targets change: what an earlier version left up to date is then planned anew."""

_HOMES = {
    "BuildOptions": "mergebuild.project.options",
    "MergeBuildError": "mergebuild.errors",
    "Project": "mergebuild.project.project",
    "load": "mergebuild.project.project",
}
"""Where what is exported is, if not in `mergebuild.results`."""


def __getattr__(name: str) -> object:
    """Import one of the package's exported names when it is first asked for."""
    if name not in __all__:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module

    home = import_module(_HOMES.get(name, "mergebuild.results"))
    return home if name == "results" else getattr(home, name)
