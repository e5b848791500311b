"""An incremental build system for model merges.

    import mergebuild
    result = mergebuild.load("mergefile.toml").build(["orange"])

The names in `__all__` are imported when they are first used, so that `import mergebuild` alone is fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mergebuild.errors import MergeBuildError
    from mergebuild.project.project import Project, load

__all__ = ["REVISION", "MergeBuildError", "Project", "__version__", "load"]

__version__ = "0.1.0"

REVISION = 3
"""Raised when the digests of some targets change: what an earlier version left up to date is then planned anew."""

_HOMES = {
    "MergeBuildError": "mergebuild.errors",
    "Project": "mergebuild.project.project",
    "load": "mergebuild.project.project",
}


def __getattr__(name: str) -> object:
    """Import one of the package's exported names when it is first asked for."""
    home = _HOMES.get(name)
    if home is None:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from importlib import import_module

    return getattr(import_module(home), name)
