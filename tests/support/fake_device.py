"""A pretended device: its tensors say that they are on `maia:0`, and mixing them with the host's tensors is an error.

Copies are done as late as allowed, namely when something waits for them. So code that forgets to wait finds old values,
and code that fills a buffer again too early finds new ones. Kernels are done at once.

The order of accesses is checked too, for all memory that streams copy to or from: every stream and every thread has a
vector clock, which says how far it knows the others to be. Two conflicting accesses that may happen at the same time
are an error, even if they did not in this run.

It also knows which operations give the same bits on every device; `remotely(exact=True)` allows no others.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from mergebuild.engine.devices import Device, Event, Stream

__all__ = ["FakeDevice", "Remote", "remotely"]

PLACE = torch.device("maia", 0)
"""A kind of device of which torch knows only the name."""
_MOVES = frozenset({"copy_", "_to_copy"})
"""Operations between the host and a device."""


_ROUNDED_ONCE = """
    abs add amax amin bitwise_and ceil clamp copysign div floor maximum minimum mul nan_to_num neg remainder round rsub
    sign sqrt sub where
"""
"""Elementwise operations that IEEE 754 rounds in one way, or that don't round."""

_MOVED = """
    _local_scalar_dense _to_copy _unsafe_view alias as_strided cat clone copy detach empty empty_like equal expand fill
    flip full_like gather index index_put index_select masked_fill median narrow new_empty new_full new_zeros ones_like
    permute repeat reshape scatter select slice split squeeze stack t transpose unbind unfold unsqueeze view zero
    zeros_like
"""
"""Operations that move or choose values and round none."""

_TOLD = """
    all any argmax argmin argsort bincount count_nonzero eq ge gt isfinite isinf isnan le logical_and logical_not
    logical_or lt ne nonzero searchsorted sort topk
"""
"""Operations that compare values and compute no new ones."""

_ALIKE = frozenset((_ROUNDED_ONCE + _MOVED + _TOLD).split())


class Remote(Tensor):
    """A tensor that says it is on the device. Its values are in a tensor of the host."""

    values: Tensor
    device = PLACE  # type: ignore[assignment]  # for torch itself it is a tensor on `meta`, so torch computes nothing

    @staticmethod
    def __new__(cls: type[Remote], values: Tensor) -> Remote:
        """Wrap a tensor of the host."""
        made: Remote = Tensor._make_wrapper_subclass(
            cls,
            values.size(),
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device="meta",
        )  # type: ignore[attr-defined]
        made.values = values
        return made

    def tolist(self) -> Any:
        """Return the values; torch's own method refuses subclasses."""
        return self.values.tolist()

    def __repr__(self, **_: object) -> str:
        """Show the values."""
        return f"Remote({self.values!r})"

    @classmethod
    def __torch_dispatch__(
        cls, call: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Do an operation on the host."""
        return _done(call, args, kwargs or {})


class remotely(TorchDispatchMode):  # noqa: N801 -- a context, as torch has them
    """Within the context, tensors can be made on the device."""

    def __init__(self, *, exact: bool = False) -> None:
        """`exact`: an operation on floats that devices may round differently is an error."""
        super().__init__()
        self._exact = exact

    def __enter__(self) -> remotely:
        self._before = getattr(_thread, "exact", False)
        _thread.exact = self._before or self._exact
        found: remotely = super().__enter__()
        return found

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        _thread.exact = self._before

    def __torch_dispatch__(
        self, call: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return _done(call, args, kwargs or {})


class _Line:
    """A sequence of actions: a stream, or a thread of the host. `clock`: how far it knows other lines to be."""

    def __init__(self) -> None:
        self.tick = 0
        self.clock: dict[_Line, int] = {}

    def learn(self, clock: Mapping[_Line, int]) -> None:
        """Take over from another clock how far other lines are."""
        for line, tick in clock.items():
            self.clock[line] = max(tick, self.clock.get(line, 0))

    def known(self) -> dict[_Line, int]:
        """Return how far this line is, and how far it knows the others to be."""
        return {**self.clock, self: self.tick}


@dataclass
class _Memory:
    """The last write to some memory, and the reads since then. `values` keeps it allocated, so its address stays."""

    values: Tensor
    written: tuple[_Line, int] | None = None
    read: dict[_Line, int] = field(default_factory=dict)

    def used(self, line: _Line, *, writes: bool) -> None:
        """Record a use, at the current tick of its line; assert that it comes after all uses that it conflicts with."""
        others = [*([self.written] if self.written else []), *(self.read.items() if writes else ())]
        for other, tick in others:
            assert other is line or line.clock.get(other, 0) >= tick, "two may use the same memory at the same time"
        if writes:
            self.written, self.read = (line, line.tick), {}
        else:
            self.read[line] = line.tick


_tracked: dict[int, _Memory] = {}
_thread = threading.local()


def _host() -> _Line:
    """Return this thread's line."""
    if not hasattr(_thread, "host"):
        _thread.host = _Line()
    found: _Line = _thread.host
    return found


def _launched(line: _Line) -> _Line:
    """Add an action to a stream's line, requested by this thread; return the line."""
    host = _host()
    host.tick += 1
    line.tick += 1
    line.learn(host.known())
    return line


def _where(tensor: Tensor) -> int:
    return (tensor.values if isinstance(tensor, Remote) else tensor).untyped_storage().data_ptr()


def _track(tensor: Tensor) -> _Memory:
    values = tensor.values if isinstance(tensor, Remote) else tensor
    return _tracked.setdefault(_where(tensor), _Memory(values))


def _account(call: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Record the uses of memory by an operation of the thread itself, or of the stream that it has entered."""
    if any(each.alias_info is not None and not each.alias_info.is_write for each in call._schema.returns):
        return  # a view: it reads no values
    written = {each.name for each in call._schema.arguments if each.alias_info is not None and each.alias_info.is_write}
    named = [*zip((each.name for each in call._schema.arguments), args, strict=False), *kwargs.items()]
    found = [(name, part) for name, given in named for part in (given if isinstance(given, list | tuple) else [given])]
    uses = [(name in written, each) for name, each in found if isinstance(each, Tensor) and _where(each) in _tracked]
    if uses:
        there = any(isinstance(each, Remote) for _, each in found)
        line = _launched(_thread.stream) if there else _host()
        if not there:
            line.tick += 1
        for writes, each in uses:
            _tracked[_where(each)].used(line, writes=writes)


def _refuse_inexact(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    plain = name.removesuffix("_")
    other = args[1] if len(args) > 1 else None
    if plain == "sum" and any(frame.name == "all_finite" for frame in traceback.extract_stack(limit=16)):
        return  # whether a sum is finite does not depend on the order
    assert plain in _ALIKE, f"devices may differ in `{name}`"
    assert kwargs.get("alpha", 1) == 1, f"devices may fuse `{name}` with alpha"
    is_plain = not isinstance(other, Remote)
    assert plain != "div" or not is_plain, "devices multiply by the inverse of a number that is not theirs"


_AT_ONCE: Mapping[str, Callable[[Tensor], Tensor]] = {"_conj": torch.conj_physical, "_neg_view": torch.neg}


def _done(call: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    flat, tree = tree_flatten((tuple(args), dict(kwargs)))
    name = call.overloadpacket.__name__
    _account(call, args, kwargs)
    if getattr(_thread, "exact", False) and any(isinstance(each, Remote) and each.is_floating_point() for each in flat):
        _refuse_inexact(name, args, kwargs)
    there = [each for each in flat if isinstance(each, Remote)]
    here = [each for each in flat if isinstance(each, Tensor) and not isinstance(each, Remote) and each.dim()]
    if there and here and name not in _MOVES:
        message = f"{name}: tensors on a device and on the host, of shapes {[each.shape for each in here]}"
        raise RuntimeError(message)
    asked = kwargs.get("device")
    is_remote = bool(there) if asked is None else torch.device(asked).type == PLACE.type
    if name == "copy_":
        is_remote = isinstance(args[0], Remote)
    own, own_kwargs = tree_unflatten([each.values if isinstance(each, Remote) else each for each in flat], tree)
    if asked is not None:
        own_kwargs["device"] = torch.device("cpu")
    own_kwargs.pop("pin_memory", None)
    # torch handles lazy conjugates and negatives before this, but only for the wrapper: do it for the values
    found = _AT_ONCE.get(name, call)(*own, **own_kwargs)
    if name == "_local_scalar_dense" or not is_remote:
        return found.clone() if asked is not None and isinstance(found, Tensor) and there else found
    known = {id(each.values): each for each in there}
    return tree_map(lambda each: known[id(each)] if id(each) in known else _wrapped(each), found)


def _wrapped(value: Any) -> Any:
    return Remote(value) if isinstance(value, Tensor) else value


class _Event(Event):
    def __init__(self, owed: list[Callable[[], None]], clock: Mapping[_Line, int]) -> None:
        self._owed = owed
        self._count = len(owed)
        self.clock = clock

    def wait(self) -> None:
        """Let the host's thread wait."""
        _host().learn(self.clock)
        self.done()

    def done(self) -> None:
        """Do all pending copies of the stream up to this event."""
        while self._count:
            self._count -= 1
            self._owed[self._count], now = _nothing, self._owed[: self._count + 1]
            for each in now:
                each()
            self._owed[: self._count] = [_nothing] * self._count
            self._count = 0


def _nothing() -> None:
    pass


class _Stream(Stream):
    """A stream: pending copies, in order."""

    def __init__(self, notes: list[str]) -> None:
        self._owed: list[Callable[[], None]] = []
        self._line = _Line()
        self._notes = notes

    def copy(self, to: Tensor, of: Tensor) -> None:
        self._notes.append("in" if isinstance(to, Remote) else "out")
        line = _launched(self._line)
        _track(of).used(line, writes=False)
        _track(to).used(line, writes=True)
        values = [each.values if isinstance(each, Remote) else each for each in (to, of)]

        def do() -> None:
            with _disable_current_modes():
                values[0].copy_(values[1])

        self._owed.append(do)

    def record(self) -> Event:
        return _Event(self._owed, _launched(self._line).known())

    def wait(self, event: Event) -> None:
        assert isinstance(event, _Event)
        self._line.learn(event.clock)
        event.done()

    @contextmanager
    def entered(self) -> Iterator[None]:
        before = getattr(_thread, "stream", None)
        _thread.stream = self._line
        try:
            with remotely():
                yield
        finally:
            _thread.stream = before


class FakeDevice(Device):
    """The pretended device, as the engine sees it."""

    def __init__(self, name: str = "cuda:0") -> None:
        """Make a device with this name, and forget all memory tracked before."""
        self.name, self.place, self.memory = name, PLACE, 1 << 30
        self.notes: list[str] = []
        """The copies so far, `in` or `out`, and `freed` for each call of `free_unused`."""
        self.limited: list[int] = []
        _tracked.clear()

    def stream(self) -> Stream:
        return _Stream(self.notes)

    def pinned(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8)

    def limit(self, size: int) -> None:
        self.limited.append(size)

    def free_unused(self) -> None:
        self.notes.append("freed")
