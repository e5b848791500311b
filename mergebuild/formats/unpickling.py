"""Interprets pickles without running code: a small machine that knows the opcodes.

A pickle is a program, and the usual reader imports and calls whatever it names. Here a name is looked up in a table of
what state dicts consist of, and stands for a value that records it. Calling such a value gives the description of a
tensor, a dict, or an inert object. Nothing is imported, so no code of the pickle's author can run, and names outside
the table are refused. Nothing here recurses, so depth costs nothing; opcodes are counted, so time and memory are
bounded by the pickle's size.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeGuard

from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.formats.reading import AGAIN, BrokenRuleError, in_bytes, quoted

__all__ = [
    "MOST_BYTES",
    "MOST_STEPS",
    "Dict",
    "Global",
    "Odd",
    "Opaque",
    "ShortPickle",
    "Storage",
    "Tensor",
    "unpickle",
]

MOST_BYTES: Final = 1 << 26
"""The longest pickle that is read; one for a hundred thousand tensors takes a quarter of it."""

MOST_STEPS: Final = 5_000_000
"""The most opcodes; those that need more memory count as several. A tensor takes fifty to seventy."""

_LIST: Final = 2
_DICT: Final = 7

_MOST_DIGITS: Final = 128
"""Bytes of the longest integer; states of random generators have long ones."""
_MOST_NAME: Final = 1000
_MOST_DIMENSIONS: Final = 64


# What pickles consist of


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """A function or class that a pickle may name: `what` it stands for, and the dtype if it stands for one."""

    path: str
    what: Literal["storage", "dtype", "maker", "inert"]
    dtype: str = ""


@dataclass(slots=True, eq=False)
class Dict:
    """A dict: the entries whose keys are strings, and the values of all others."""

    named: dict[str, object] = field(default_factory=dict)
    others: list[object] = field(default_factory=list)

    def put(self, key: object, value: object) -> None:
        """Set an entry. Only strings are hashed: other keys could be made to collide, or be deeply nested."""
        if isinstance(key, str):
            self.named[key] = value
        else:
            self.others.append(value)


@dataclass(slots=True, eq=False)
class Opaque:
    """Any other object that training leaves in a checkpoint, with the values that it was made of."""

    parts: list[object] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """Elements outside the pickle: a key, their dtype in torch's word, their number, and which part if not all."""

    key: str
    dtype: str
    count: int
    view: tuple[str, int, int] | None
    """A name for the part, its first element, and its number of elements."""


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A view of a storage, in elements. Only the types of its fields are checked."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True, eq=False)
class Odd:
    """A tensor whose numbers aren't simply elements of a storage; `kind` says why."""

    kind: str


STORAGES: Final[Mapping[str, tuple[str, int]]] = {
    "DoubleStorage": ("float64", 8),
    "FloatStorage": ("float32", 4),
    "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2),
    "LongStorage": ("int64", 8),
    "IntStorage": ("int32", 4),
    "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1),
    "ByteStorage": ("uint8", 1),
    "BoolStorage": ("bool", 1),
    "ComplexFloatStorage": ("complex64", 8),
    "ComplexDoubleStorage": ("complex128", 16),
    "QInt8Storage": ("qint8", 1),
    "QUInt8Storage": ("quint8", 1),
    "QInt32Storage": ("qint32", 4),
    "QUInt4x2Storage": ("quint4x2", 1),
    "QUInt2x4Storage": ("quint2x4", 1),
    "UntypedStorage": ("uint8", 1),
    "_UntypedStorage": ("uint8", 1),
}
"""Classes of storages: dtype, and bytes of an element."""

SIZES: Final[Mapping[str, int]] = {word: row.size for word, row in DTYPES_BY_WORD.items()} | dict(STORAGES.values())
"""Bytes of an element, by dtype."""

_STRANGE_DTYPES: Final = (
    "complex32 complex128 qint8 quint8 qint32 quint4x2 quint2x4 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu "
    "float4_e2m1fn_x2 bits1x8 bits2x4 bits4x2 bits8 bits16 int1 int2 int3 int4 int5 int6 int7 uint1 uint2 uint3 uint4 "
    "uint5 uint6 uint7"
).split()
"""Dtypes that torch has and this version can neither merge nor copy."""

_DICTS: Final = "OrderedDict defaultdict Counter".split()

_ODD: Final[Mapping[str, str]] = {
    "_rebuild_qtensor": "quantized",
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_sparse_csr_tensor": "sparse",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "on no device, without numbers",
    "_rebuild_wrapper_subclass": "of a class of its own",
    "_rebuild_device_tensor_from_numpy": "kept inside the pickle, as devices of their own leave it",
    "_rebuild_xla_tensor": "kept inside the pickle, as devices of their own leave it",
}

_INERT: Final = {
    "builtins": "bool bytearray bytes complex dict float frozenset int list set slice str tuple",
    "__builtin__": "bool bytearray bytes complex dict float frozenset int list long set slice str tuple unicode",
    "argparse": "Namespace",
    "_codecs": "encode",
    "datetime": "date datetime timedelta timezone",
    "numpy": "dtype ndarray",
    "numpy.core.multiarray": "scalar _reconstruct",
    "numpy._core.multiarray": "scalar _reconstruct",
    "torch": "Tensor device strided per_tensor_affine per_channel_affine per_tensor_symmetric per_channel_symmetric "
    "per_channel_affine_float_qparams sparse_coo sparse_csr sparse_csc sparse_bsr sparse_bsc contiguous_format "
    "preserve_format channels_last channels_last_3d",
    "torch.nn.modules.container": "ParameterDict ParameterList",
    "torch.serialization": "_get_layout",
    "typing": "Any",
}
"""Objects in checkpoints of training that merging does not need."""

_INERT_PACKAGES: Final = "pytorch_lightning lightning lightning_fabric lightning_utilities omegaconf".split()
"""Classes in these packages are inert too: callbacks and configurations that trainers save."""

_CLASS: Final = re.compile(r"_?[A-Z][A-Za-z0-9]*")


def _table() -> Mapping[tuple[str, str], Global]:
    found = {(module, name): "inert" for module, names in _INERT.items() for name in names.split()}
    found |= {("torch._utils", name): "maker" for name in (*_MAKERS_OF_TENSORS, *_ODD)}
    found |= {("collections", name): "maker" for name in _DICTS}
    found |= {("torch.nn.parameter", name): "maker" for name in ("Parameter", "Buffer")}
    found |= {("torch._tensor", "_rebuild_from_type_v2"): "maker", ("torch", "Size"): "maker"}
    table = {key: Global(".".join(key), what) for key, what in found.items()}  # type: ignore[arg-type]
    for module in ("torch", "torch.cuda", "torch.storage"):
        for name, (dtype, _) in STORAGES.items():
            table[module, name] = Global(f"{module}.{name}", "storage", dtype)
    for word in (*DTYPES_BY_WORD, *_STRANGE_DTYPES):
        table["torch", word] = Global(f"torch.{word}", "dtype", word)
    return table


# The machine


class ShortPickle(Exception):  # noqa: N818 -- no error if more bytes follow
    """The pickle continues after the bytes that were given; at least `needed` bytes are required."""

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


class _ArgumentsError(Exception):
    """A maker was called with arguments that don't fit it."""


def unpickle(data: bytes, begin: int = 0) -> tuple[object, int]:
    """Return the value of the pickle that begins at `begin`, and where it ends.

    Values are None, bool, int, float, str, bytes, tuples and lists of values, and the classes of this module.

    Raises:
        ShortPickle: it continues after the end of `data`.
        BrokenRuleError: it is damaged, asks for something forbidden, or for too much.
    """
    machine = _Machine(data, begin)
    try:
        return machine.run(), machine.at
    except IndexError:
        raise machine.broken("takes a value where there is none") from None
    except UnicodeDecodeError:
        raise machine.broken("holds a string that is not UTF-8") from None


class _Machine:
    """The stack, the memo and the position in one pickle. Opcodes are methods, in the table at the end."""

    __slots__ = ("at", "begin", "data", "marks", "memo", "stack", "steps")

    def __init__(self, data: bytes, begin: int) -> None:
        self.data = data
        self.begin = begin
        self.at = begin
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.steps = 0

    def run(self) -> object:
        """Return the value on top of the stack when the pickle stops."""
        opcodes, data, length = _OPCODES, self.data, len(self.data)
        while True:
            at = self.at
            if at >= length:
                raise ShortPickle(at + 1)
            self.at = at + 1
            step = opcodes.get(data[at])
            if step is None:
                if data[at] == _STOP:
                    return self.stack.pop()
                raise self.refused(data[at])
            self.spend(1)
            step(self)

    def spend(self, steps: int) -> None:
        """Count steps."""
        self.steps += steps
        if self.steps > MOST_STEPS:
            sentence = f"has a pickle of more than {MOST_STEPS:,} steps, which no model takes"
            raise BrokenRuleError("pickle-too-large", sentence, "it is damaged, or made to do harm: do not use it")

    def broken(self, sentence: str) -> BrokenRuleError:
        """Return the error for a pickle that breaks a rule of pickles."""
        where = (f"at byte {self.at - self.begin:,} of the pickle",)
        return BrokenRuleError("bad-pickle", f"has a pickle that {sentence}", AGAIN, where)

    def refused(self, code: int) -> BrokenRuleError:
        """Return the error for an opcode that is not in the table."""
        name = _REFUSED.get(code)
        if name is None:
            return self.broken(f"has 0x{code:02x} where an opcode is expected")
        sentence = f"has a pickle with the opcode `{name}`, which no state dict takes: it may be made to run code"
        return BrokenRuleError("unsafe-pickle", sentence, _DO_NOT, (f"at byte {self.at - 1 - self.begin:,} of it",))

    # Bytes

    def take(self, length: int) -> bytes:
        at = self.at
        end = at + length
        if end > len(self.data):
            raise ShortPickle(end)
        self.at = end
        return self.data[at:end]

    def number(self, length: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(length), "little", signed=signed)

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + _MOST_NAME)
        if end < 0:
            if len(self.data) - self.at < _MOST_NAME:
                raise ShortPickle(len(self.data) + 1)
            raise self.broken("has a name without end")
        found = self.data[self.at : end]
        self.at = end + 1
        return found.decode()

    # The stack

    def since_mark(self) -> list[object]:
        begin = self.marks.pop()
        found = self.stack[begin:]
        del self.stack[begin:]
        return found

    def mark(self) -> None:
        self.marks.append(len(self.stack))

    def pop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def pop_mark(self) -> None:
        self.since_mark()

    def duplicate(self) -> None:
        self.stack.append(self.stack[-1])

    def protocol(self) -> None:
        if self.number(1) > 5:
            raise self.broken(f"is of protocol {self.data[self.at - 1]}, and 5 is the highest known")

    def frame(self) -> None:
        self.number(8)

    # The memo

    def put(self, key: int) -> None:
        self.spend(1)
        self.memo[key] = self.stack[-1]

    def get(self, key: int) -> None:
        if key not in self.memo:
            raise self.broken(f"asks for value {key} before it was made")
        self.stack.append(self.memo[key])

    # Plain values

    def push(self, value: object) -> None:
        self.stack.append(value)

    def push_long(self, size: int) -> None:
        length = self.number(size, signed=size == 4)
        if not 0 <= length <= _MOST_DIGITS:
            raise self.broken(f"has a whole number of {length:,} bytes, and {_MOST_DIGITS} are allowed")
        self.stack.append(self.number(length, signed=True))

    def push_float(self) -> None:
        self.stack.append(struct.unpack(">d", self.take(8))[0])

    def push_text(self, size: int) -> None:
        self.stack.append(self.take(self.number(size)).decode("utf-8", "surrogatepass"))

    def push_old_text(self, size: int) -> None:
        """Push a string of Python 2, which may be bytes."""
        length = self.number(size, signed=size == 4)
        if length < 0:
            raise self.broken("has a string of negative length")
        self.stack.append(self.take(length).decode("utf-8", "surrogateescape"))

    def push_bytes(self, size: int) -> None:
        self.stack.append(self.take(self.number(size)))

    # Containers

    def push_short_tuple(self, size: int) -> None:
        if len(self.stack) < size:
            raise IndexError
        begin = len(self.stack) - size
        found = tuple(self.stack[begin:])
        del self.stack[begin:]
        self.stack.append(found)

    def push_tuple(self) -> None:
        self.stack.append(tuple(self.since_mark()))

    def push_list(self) -> None:
        self.spend(_LIST)
        self.stack.append([])

    def push_dict(self) -> None:
        self.spend(_DICT)
        self.stack.append(Dict())

    def push_set(self) -> None:
        self.spend(_LIST)
        self.stack.append(Opaque())

    def push_list_of(self) -> None:
        self.stack.append(self.since_mark())

    def push_dict_of(self) -> None:
        found = self.since_mark()
        self.push_dict()
        self.set_all(found)

    def push_set_of(self) -> None:
        self.stack.append(Opaque(self.since_mark()))

    def append(self) -> None:
        self.append_all([self.stack.pop()])

    def append_since_mark(self) -> None:
        self.append_all(self.since_mark())

    def append_all(self, values: list[object]) -> None:
        target = self.stack[-1]
        if isinstance(target, Opaque):
            target = target.parts
        if not isinstance(target, list):
            raise self.broken(f"appends to {_kind(target)}")
        target.extend(values)

    def set_item(self) -> None:
        value = self.stack.pop()
        self.set_all([self.stack.pop(), value])

    def set_items(self) -> None:
        self.set_all(self.since_mark())

    def set_all(self, values: list[object]) -> None:
        target = self.stack[-1]
        if len(values) % 2:
            raise self.broken("has a key without a value")
        if isinstance(target, Opaque):
            target.parts.extend(values)
        elif isinstance(target, Dict):
            for key, value in zip(values[::2], values[1::2], strict=True):
                target.put(key, value)
        else:
            raise self.broken(f"sets an item of {_kind(target)}")

    # Names, and what is made by calling them

    def named(self) -> None:
        module = self.line()
        self.find(module, self.line())

    def named_on_stack(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise self.broken("names a class by what is no string")
        self.find(module, name)

    def find(self, module: str, name: str) -> None:
        found = _GLOBALS.get((module, name))
        if found is None and module.partition(".")[0] in _INERT_PACKAGES and _CLASS.fullmatch(name):
            found = Global(f"{module}.{name}", "inert")
        if found is None:
            asked = ascii(f"{module}.{name}".removeprefix("builtins.").removeprefix("__builtin__."))[1:-1]
            sentence = f"asks for {quoted(asked)}, which no state dict takes: loading it the usual way may run code"
            where = (f"at byte {self.at - self.begin:,} of its pickle",)
            raise BrokenRuleError("unsafe-pickle", sentence, _DO_NOT, where)
        self.stack.append(found)

    def old_instance(self) -> None:
        """Refuse `INST`; if its class is forbidden, because of that."""
        self.named()
        raise self.refused(_INST)

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global):
            raise self.broken(f"calls {_kind(function)}")
        if not isinstance(arguments, tuple):
            raise self.broken(f"calls `{function.path}` with {_kind(arguments)}")
        try:
            self.stack.append(self.made(function, arguments))
        except _ArgumentsError:
            raise self.broken(f"calls `{function.path}` with arguments that don't fit it") from None

    def made(self, function: Global, arguments: tuple[object, ...]) -> object:
        """Return what a call stands for."""
        if function.what == "inert":
            self.spend(_LIST)
            return Opaque([arguments])
        name = function.path.rpartition(".")[2]
        if function.what != "maker":
            raise _ArgumentsError
        if name in _ODD:
            return Odd(_ODD[name])
        if name in _DICTS:
            return self.dict_of(arguments)
        if name == "_rebuild_from_type_v2":
            return self.of_type(arguments)
        return _MAKERS[name](arguments)

    def of_type(self, arguments: tuple[object, ...]) -> object:
        """Return the tensor that a call of `_rebuild_from_type_v2(function, class, arguments, state)` makes."""
        if len(arguments) != 4 or not isinstance(arguments[0], Global) or not isinstance(arguments[2], tuple):
            raise _ArgumentsError
        if arguments[0].path.endswith("._rebuild_from_type_v2"):  # never nested in real files; nesting could be endless
            raise _ArgumentsError
        return self.made(arguments[0], arguments[2])

    def dict_of(self, arguments: tuple[object, ...]) -> Dict:
        """Return a dict made of pairs, as Python 2 saved them, or a copy of a dict."""
        self.spend(_DICT)
        found = Dict()
        for each in arguments:
            if isinstance(each, Dict):
                self.spend(len(each.named) + len(each.others))
                found.named.update(each.named)
                found.others.extend(each.others)
            elif isinstance(each, list | tuple):
                self.spend(len(each))
                _put_pairs(found, each)
            elif not isinstance(each, Global) and each is not None:  # a defaultdict's factory
                raise _ArgumentsError
        return found

    def build(self) -> None:
        """Give an object its state; for tensors and dicts it has no meaning here."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Opaque):
            target.parts.append(state)
        elif not isinstance(target, Dict | Tensor | Odd):
            raise self.broken(f"gives a state to {_kind(target)}")

    def stored(self) -> None:
        """Push the storage that a persistent id refers to."""
        found = self.stack.pop()
        if not isinstance(found, tuple) or len(found) not in (5, 6) or found[0] != "storage":
            raise self.broken("refers to something outside it that is no storage")
        kind, key, count = found[1], found[2], found[4]
        view = found[5] if len(found) == 6 else None
        if not isinstance(kind, Global) or kind.what != "storage" or not isinstance(key, str):
            raise self.broken("refers to a storage without a class or a key")
        if not _is_count(count):
            raise self.broken(f"refers to the storage {quoted(key)} by a size that is none")
        self.stack.append(Storage(key, kind.dtype, count, None if view is None else self.part(view)))

    def part(self, view: object) -> tuple[str, int, int]:
        """Return the part of a storage that a persistent id of old files refers to."""
        if isinstance(view, tuple | list) and len(view) == 3:
            name, offset, count = view
            if isinstance(name, str) and _is_count(offset) and _is_count(count):
                return name, offset, count
        raise self.broken("refers to a part of a storage that is none")


def _put_pairs(found: Dict, pairs: Iterable[object]) -> None:
    """Put items, given as pairs of a key and a value, into a dict."""
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise _ArgumentsError
        found.put(*pair)


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value < 1 << 62


def _kind(value: object) -> str:
    kinds = {Dict: "a dict", Opaque: "an object", Global: "a class", type(None): "None", Storage: "a storage"}
    return kinds.get(type(value)) or ("a tensor" if isinstance(value, Tensor | Odd) else f"a {type(value).__name__}")


# What functions of torch make


def _tensor(arguments: tuple[object, ...], dtype: str = "", more: object = None) -> Tensor | Odd:
    """Return the tensor of `(storage, offset, shape, strides, ...)`."""
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage) or type(offset) is not int:
        raise _ArgumentsError
    if isinstance(more, Dict) and any(more.named.values()):
        return Odd("conjugated or negated")
    return Tensor(storage, offset, _integers(shape), _integers(strides), dtype or storage.dtype)


def _integers(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple | list) or len(value) > _MOST_DIMENSIONS:
        raise _ArgumentsError
    if any(type(each) is not int for each in value):
        raise _ArgumentsError
    return tuple(value)


def _tensor_v1(arguments: tuple[object, ...]) -> Tensor | Odd:
    if len(arguments) != 4:
        raise _ArgumentsError
    return _tensor(arguments)


def _tensor_v2(arguments: tuple[object, ...]) -> Tensor | Odd:
    if len(arguments) not in (6, 7):
        raise _ArgumentsError
    return _tensor(arguments, more=arguments[6] if len(arguments) == 7 else None)


def _tensor_v3(arguments: tuple[object, ...]) -> Tensor | Odd:
    if len(arguments) not in (7, 8):
        raise _ArgumentsError
    dtype = arguments[6]
    if not isinstance(dtype, Global) or dtype.what != "dtype":
        raise _ArgumentsError
    return _tensor(arguments, dtype.dtype, arguments[7] if len(arguments) == 8 else None)


def _first(arguments: tuple[object, ...]) -> Tensor | Odd:
    """Return the tensor that a parameter wraps."""
    if not 1 <= len(arguments) <= 4 or not isinstance(arguments[0], Tensor | Odd):
        raise _ArgumentsError
    return arguments[0]


def _size(arguments: tuple[object, ...]) -> tuple[int, ...]:
    if len(arguments) != 1:
        raise _ArgumentsError
    return _integers(arguments[0])


def _from_cpu(arguments: tuple[object, ...]) -> Tensor | Odd:
    """Return the tensor of `(tensor, dtype, device, requires_grad)` on a device, if its numbers stay the same."""
    if len(arguments) != 4 or not isinstance(arguments[0], Tensor) or not isinstance(arguments[1], Global):
        raise _ArgumentsError
    return arguments[0] if arguments[0].dtype == arguments[1].dtype else Odd("saved in another dtype than its own")


_MAKERS_OF_TENSORS: Final[Mapping[str, Callable[[tuple[object, ...]], object]]] = {
    "_rebuild_tensor": _tensor_v1,
    "_rebuild_tensor_v2": _tensor_v2,
    "_rebuild_tensor_v3": _tensor_v3,
    "_rebuild_parameter": _first,
    "_rebuild_parameter_with_state": _first,
    "_rebuild_device_tensor_from_cpu_tensor": _from_cpu,
}
_MAKERS: Final = {**_MAKERS_OF_TENSORS, "Parameter": _first, "Buffer": _first, "Size": _size}

_GLOBALS: Final = _table()

# The opcodes

_STOP: Final = ord(".")
_INST: Final = ord("i")
_DO_NOT: Final = "do not load it with other programs either, unless you know who made it; take a safetensors release"

_OPCODES: Final[Mapping[int, Callable[[_Machine], None]]] = {
    ord("("): _Machine.mark,
    ord("0"): _Machine.pop,
    ord("1"): _Machine.pop_mark,
    ord("2"): _Machine.duplicate,
    0x80: _Machine.protocol,
    0x95: _Machine.frame,
    ord("q"): lambda machine: machine.put(machine.number(1)),
    ord("r"): lambda machine: machine.put(machine.number(4)),
    0x94: lambda machine: machine.put(len(machine.memo)),
    ord("h"): lambda machine: machine.get(machine.number(1)),
    ord("j"): lambda machine: machine.get(machine.number(4)),
    ord("N"): lambda machine: machine.push(None),
    0x88: lambda machine: machine.push(value=True),
    0x89: lambda machine: machine.push(value=False),
    ord("J"): lambda machine: machine.push(machine.number(4, signed=True)),
    ord("K"): lambda machine: machine.push(machine.number(1)),
    ord("M"): lambda machine: machine.push(machine.number(2)),
    0x8A: lambda machine: machine.push_long(1),
    0x8B: lambda machine: machine.push_long(4),
    ord("G"): _Machine.push_float,
    ord("X"): lambda machine: machine.push_text(4),
    0x8C: lambda machine: machine.push_text(1),
    0x8D: lambda machine: machine.push_text(8),
    ord("T"): lambda machine: machine.push_old_text(4),
    ord("U"): lambda machine: machine.push_old_text(1),
    ord("B"): lambda machine: machine.push_bytes(4),
    ord("C"): lambda machine: machine.push_bytes(1),
    0x8E: lambda machine: machine.push_bytes(8),
    0x96: lambda machine: machine.push_bytes(8),
    ord(")"): lambda machine: machine.push(()),
    0x85: lambda machine: machine.push_short_tuple(1),
    0x86: lambda machine: machine.push_short_tuple(2),
    0x87: lambda machine: machine.push_short_tuple(3),
    ord("t"): _Machine.push_tuple,
    ord("]"): _Machine.push_list,
    ord("l"): _Machine.push_list_of,
    ord("}"): _Machine.push_dict,
    ord("d"): _Machine.push_dict_of,
    0x8F: _Machine.push_set,
    0x90: _Machine.append_since_mark,
    0x91: _Machine.push_set_of,
    ord("a"): _Machine.append,
    ord("e"): _Machine.append_since_mark,
    ord("s"): _Machine.set_item,
    ord("u"): _Machine.set_items,
    ord("c"): _Machine.named,
    0x93: _Machine.named_on_stack,
    ord("i"): _Machine.old_instance,
    ord("R"): _Machine.call,
    0x81: _Machine.call,
    ord("b"): _Machine.build,
    ord("Q"): _Machine.stored,
}

_REFUSED: Final[Mapping[int, str]] = {
    ord("F"): "FLOAT",
    ord("I"): "INT",
    ord("L"): "LONG",
    ord("P"): "PERSID",
    ord("S"): "STRING",
    ord("V"): "UNICODE",
    ord("g"): "GET",
    ord("i"): "INST",
    ord("o"): "OBJ",
    ord("p"): "PUT",
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
    0x92: "NEWOBJ_EX",
    0x97: "NEXT_BUFFER",
    0x98: "READONLY_BUFFER",
}
"""Opcodes that torch never writes: texts of protocol 0, instances of old classes, numbers in a registry, buffers."""


def length_error(length: int) -> BrokenRuleError:
    """Return the error for a pickle that is too long."""
    sentence = f"has a pickle of {in_bytes(length)}, and at most {MOST_BYTES:,} are read"
    return BrokenRuleError("pickle-too-large", sentence, "it holds something else than a model's tensors")
