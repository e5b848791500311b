"""How a build is made, as one value: what the options of the command say, one for one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

if TYPE_CHECKING:
    from mergebuild.build.options import BuilderOptions

__all__ = ["BuildOptions", "BuildWords"]


class BuildWords(TypedDict, total=False):
    """The fields of `BuildOptions`, as keywords of a call."""

    keep_going: bool
    threads: int | None
    device: str
    force: bool
    locked: bool
    durable: bool
    out: Path | str | None
    dtype: str | None
    lock_timeout: float | None
    profile: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How to build."""

    keep_going: bool = False
    """Whether what can be built is built when a target fails."""
    threads: int | None = None
    """How many compute; None: as many as there are processors."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:1`."""
    force: bool = False
    """Whether outputs that were changed by hand are put aside and made anew."""
    locked: bool = False
    """Whether sources and results other than those of `mergefile.lock` are refused."""
    durable: bool = False
    """Whether to wait until the disk has what is written."""
    out: Path | str | None = None
    """Where one target is written in place of its output; nothing else changes then."""
    dtype: str | None = None
    """The dtype of what goes to `out`; None: the target's."""
    lock_timeout: float | None = None
    """Seconds for which another process is waited for that uses the store; None: as long as it takes."""
    profile: bool = False
    """Whether the result says how many seconds each part of the build took."""

    def changed(self, **words: Unpack[BuildWords]) -> BuildOptions:
        """Return these options with some of them changed."""
        return replace(self, **words) if words else self

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing to do where all is up to date, with no closer look."""
        return not (self.force or self.locked or self.out is not None) and self.device in ("auto", "cpu")

    def of_builder(self, link: str) -> BuilderOptions:
        """Return what of it the builder has a use for. `link`: what the project says of second names."""
        from mergebuild.build.options import BuilderOptions

        return BuilderOptions(self.keep_going, self.threads, self.force, link, self.durable, device=self.device)
