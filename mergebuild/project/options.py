"""How a build is made, as one value, with a field for each option of the command."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

from mergebuild.errors import UsageError
from mergebuild.formats.dtypes import DTYPES_BY_WORD

if TYPE_CHECKING:
    from mergebuild.build.options import BuilderOptions

__all__ = ["BuildOptions", "BuildWords"]


_EXPECTED = {
    "threads": "expected a whole number from 1 on, or None",
    "device": "expected `auto`, `cpu`, `cuda` or `cuda:0`",
    "out": "expected a path",
    "dtype": "expected a dtype, such as `float16`",
    "lock_timeout": "expected seconds from 0 on, or None",
}
"""For each option that is checked, its values in words."""


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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

    def checked(self) -> BuildOptions:
        """Return these options.

        Raises:
            UsageError: one has a value that it can't have, or goes with another one.
        """
        wrong = next((name for name, is_right in self._is_right() if not is_right), None)
        if wrong is not None:
            message, help_ = f"`{wrong}` is {getattr(self, wrong)!r}", _EXPECTED[wrong]
            raise UsageError.one("bad-option", message, help=help_)
        if self.dtype is not None and self.out is None:
            raise UsageError.one("dtype-without-out", "`dtype` goes with `out`", help="or set `dtype` in the mergefile")
        return self

    def _is_right(self) -> Iterator[tuple[str, bool]]:
        """Yield each option whose value is not only yes or no, and whether it can have its value."""
        device: object = self.device
        out: object = self.out
        wait: object = self.lock_timeout
        yield "threads", self.threads is None or (_is_whole(self.threads) and self.threads > 0)
        yield "device", isinstance(device, str)
        yield "out", out is None or (isinstance(out, str | Path) and "\0" not in str(out))
        yield "dtype", self.dtype is None or self.dtype in DTYPES_BY_WORD
        yield "lock_timeout", wait is None or (isinstance(wait, int | float) and 0 <= wait <= threading.TIMEOUT_MAX)

    @property
    def is_plain(self) -> bool:
        """Whether a build with these options has nothing to do if all targets are up to date."""
        return not (self.force or self.locked or self.out is not None) and self.device in ("auto", "cpu")

    def of_builder(self, link: str) -> BuilderOptions:
        """Return the options that the builder needs. `link`: the project's option for second names."""
        from mergebuild.build.options import BuilderOptions

        return BuilderOptions(self.keep_going, self.threads, self.force, link, self.durable, device=self.device)
