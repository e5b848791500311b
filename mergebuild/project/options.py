"""How a build is made, as one value, with a field for each option of the command."""

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
    """Whether to build the other targets if one fails."""
    threads: int | None = None
    """How many threads compute; None: one for each processor."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:1`."""
    force: bool = False
    """Whether outputs that were changed by hand are put aside and made again."""
    locked: bool = False
    """Whether sources and results that differ from `mergefile.lock` are refused."""
    durable: bool = False
    """Whether to wait until everything written is on the disk."""
    out: Path | str | None = None
    """Where one target is written instead of its output; nothing else changes then."""
    dtype: str | None = None
    """The dtype for `out`; None: the target's."""
    lock_timeout: float | None = None
    """Seconds to wait for another process that uses the store; None: without limit."""
    profile: bool = False
    """Whether the result says how many seconds each part of the build took."""

    def changed(self, **words: Unpack[BuildWords]) -> BuildOptions:
        """Return these options with some of them changed."""
        return replace(self, **words) if words else self

    @property
    def is_plain(self) -> bool:
        """Whether a build with these options has nothing to do if all targets are up to date."""
        return not (self.force or self.locked or self.out is not None) and self.device in ("auto", "cpu")

    def of_builder(self, link: str) -> BuilderOptions:
        """Return the options that the builder needs. `link`: the project's option for second names."""
        from mergebuild.build.options import BuilderOptions

        return BuilderOptions(self.keep_going, self.threads, self.force, link, self.durable, device=self.device)
