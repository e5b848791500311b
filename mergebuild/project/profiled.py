"""A build with a profile: its result says where the time went, even if the build is refused."""

from __future__ import annotations

from collections.abc import Callable

from mergebuild.errors import MergeBuildError
from mergebuild.results.build import BuildResult
from mergebuild.system.profile import Profile

__all__ = ["profiled"]


def profiled(build: Callable[[], BuildResult]) -> BuildResult:
    """Return the result of a build, with the seconds that each part took.

    Raises:
        MergeBuildError: as `build` does; its result has the seconds, too.
    """
    profile = Profile()
    try:
        with profile:
            result = build()
    except MergeBuildError as error:
        if error.result is not None:
            error.result = error.result._replace(profile=profile.seconds())
        raise
    return result._replace(profile=profile.seconds())
