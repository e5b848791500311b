"""Copies bytes unchanged to outputs: blocks are shared if the file system can do it."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace

from mergebuild.engine.mappings import Mappings
from mergebuild.engine.outputs import Outputs
from mergebuild.engine.work import Copy, Location, OutputRange
from mergebuild.events import Emit, Progress
from mergebuild.system import platform
from mergebuild.system.spans import span

__all__ = ["Copier", "shared"]

_PIECE = 1 << 26
"""Bytes copied between two checks whether to stop."""


def shared(copy: Copy, outputs: Outputs, emit: Emit) -> Copy | None:
    """Share the whole pages of a copy with the other file; return what is left to be copied, or None."""
    lying = copy.location
    pages = 0 if lying.pieces else lying.size // platform.PAGE * platform.PAGE
    with lying.path.open("rb") as file:
        if not pages or not platform.clone_range(
            file.fileno(), lying.offset, outputs.descriptor(copy.place.output), copy.place.offset, pages
        ):
            return copy
    emit(Progress(pages))
    if lying.size == pages:
        return None
    rest = replace(lying, offset=lying.offset + pages, size=lying.size - pages)
    return Copy(rest, copy.place._replace(offset=copy.place.offset + pages))


class Copier:
    """Copies for the outputs of a pass; any thread may use it."""

    def __init__(self, outputs: Outputs, mappings: Mappings, emit: Emit, stop: threading.Event) -> None:
        self._outputs = outputs
        self._mappings = mappings
        self._emit = emit
        self._stop = stop

    def share(self, copies: Iterable[Copy]) -> None:
        """Do several copies; pages are shared if possible."""
        for left in [shared(each, self._outputs, self._emit) for each in copies]:
            if left is not None:
                self.copy(left)

    def copy(self, copy: Copy) -> None:
        """Copy in the kernel; or through blocks, if the output is written past the page cache."""
        lying = copy.location
        with span("copy", file=lying.path, offset=lying.offset, bytes=lying.size):
            if lying.pieces:
                self._put_together(lying, copy.place)
            else:
                self._copy_run(lying, copy.place)

    def _copy_run(self, lying: Location, to: OutputRange) -> None:
        file = self._mappings.opened(lying.path)
        done = 0
        while done < lying.size and not self._stop.is_set():
            place = to._replace(offset=to.offset + done)
            if self._outputs.is_direct:
                done += self._outputs.fill(file.fd, lying.offset + done, lying.size - done, place)
            else:
                size = min(_PIECE, lying.size - done)
                fd = self._outputs.descriptor(place.output)
                platform.copy_range(file.fd, lying.offset + done, fd, place.offset, size)
                self._emit(Progress(size))
                done += size

    def _put_together(self, lying: Location, place: OutputRange) -> None:
        """Copy a scattered tensor, through blocks."""
        width = lying.width
        total = lying.size // width if width else 0
        done = 0
        while done < total and not self._stop.is_set():
            block = self._outputs.block()
            count = min(total - done, len(block.memory) // width)
            block.memory[: count * width] = self._mappings.gathered(lying, done, count)
            self._outputs.put(block, count * width, [place._replace(offset=place.offset + done * width)])
            done += count
