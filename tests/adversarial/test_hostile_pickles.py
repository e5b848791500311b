"""Hostile and broken checkpoints: each is refused by name, none runs anything, crashes, hangs or fills the memory."""

from __future__ import annotations

import io
import pickle
import re
import struct
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergebuild import formats
from mergebuild.errors import Problem, SourceError
from mergebuild.formats import unpickling
from mergebuild.formats.model import Model
from mergebuild.formats.pickles import is_pickle, read_pickle

# Pickles are put together of opcodes here, since no class need exist that they name.


def text(value: str) -> bytes:
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + len(raw).to_bytes(4, "little") + raw


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def named_on_stack(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


def called(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


def integer(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes((len(raw),)) + raw


def integers(*values: int) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def stored(kind: bytes = named("torch", "FloatStorage"), key: bytes = text("0"), count: bytes = b"K\x06") -> bytes:
    return b"(" + text("storage") + kind + key + text("cpu") + count + b"tQ"


def tensor(
    storage: bytes = stored(), offset: int = 0, shape: bytes = integers(2, 3), strides: bytes = integers(3, 1)
) -> bytes:
    hooks = named("collections", "OrderedDict") + b")R"
    return called(named("torch._utils", "_rebuild_tensor_v2"), storage, integer(offset), shape, strides, b"\x89", hooks)


def holding(value: bytes, name: str = "a") -> bytes:
    """Return a state dict with that value under that name."""
    return b"}" + text(name) + value + b"s"


def beside(value: bytes) -> bytes:
    """Return a sound state dict beside a value."""
    return b"}" + text("state_dict") + holding(tensor()) + b"s" + text("other") + value + b"s"


def pickled(body: bytes) -> bytes:
    return b"\x80\x02" + body + b"."


# Files


DATA = struct.pack("<6f", *range(6))
Entries = list[tuple[str, bytes]]


def zipped(body: bytes, *more: tuple[str, bytes], data: bytes = DATA) -> bytes:
    return archived([("x/data.pkl", pickled(body)), ("x/byteorder", b"little"), ("x/data/0", data), *more])


def archived(entries: Entries, **changes: int) -> bytes:
    """Return an archive of stored entries; `changes` are fields of the last one's description."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, (name, content) in enumerate(entries):
            info = zipfile.ZipInfo(name)
            for field, value in (changes if number == len(entries) - 1 else {}).items():
                setattr(info, field, value)
            archive.writestr(info, content)
    return file.getvalue()


def in_a_row(body: bytes, keys: object = ("0",), storages: bytes = struct.pack("<q", 6) + DATA) -> bytes:
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    first = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, machine)]
    keys = list(keys) if isinstance(keys, tuple) else keys
    return b"".join(first) + pickled(body) + pickle.dumps(keys, protocol=2) + storages


SOUND = zipped(beside(b"K\x05"))
SOUND_ROW = in_a_row(beside(b"K\x05"))


def changed(old: bytes, new: bytes, content: bytes = SOUND) -> bytes:
    """Return a file with bytes replaced, at their first place."""
    at = content.index(old)
    return content[:at] + new + content[at + len(old) :]


def directory_changed(entry: str, offset: int, new: bytes, content: bytes = SOUND) -> bytes:
    """Return an archive with bytes of an entry of its directory replaced."""
    at = content.rindex(entry.encode()) - 46 + offset
    return content[:at] + new + content[at + len(new) :]


def local_changed(entry: str, offset: int, new: bytes, content: bytes = SOUND) -> bytes:
    """Return an archive with bytes of the header of an entry itself replaced."""
    at = content.index(entry.encode()) - 30 + offset
    return content[:at] + new + content[at + len(new) :]


def end_changed(offset: int, new: bytes, content: bytes = SOUND) -> bytes:
    at = content.rindex(b"PK\5\6") + offset
    return content[:at] + new + content[at + len(new) :]


# Names that no state dict takes


COMMAND = text("touch canary")
GLOBALS = """
    os.system posix.system nt.system os.popen os.execv subprocess.Popen subprocess.check_output commands.getoutput
    builtins.eval builtins.exec builtins.compile builtins.getattr builtins.setattr builtins.__import__ builtins.open
    builtins.globals __builtin__.eval __builtin__.execfile operator.attrgetter operator.methodcaller operator.itemgetter
    functools.partial functools.reduce itertools.starmap runpy.run_path runpy._run_code webbrowser.open
    importlib.import_module types.FunctionType types.CodeType marshal.loads pickle.loads _pickle.loads dill.loads
    cloudpickle.loads joblib.load shelve.open copyreg._reconstructor copyreg.__newobj__ copy_reg._reconstructor
    copyreg.add_extension ctypes.CDLL socket.create_connection pty.spawn timeit.timeit cProfile.run pdb.run
    code.interact shutil.rmtree pathlib.PosixPath urllib.request.urlopen platform.popen pip.main pydoc.pipepager
    sys.exit sys.setrecursionlimit threading.Thread logging.FileHandler torch.load torch.save torch.hub.load
    torch.jit.load torch.storage._load_from_bytes torch.storage.TypedStorage torch.serialization.load torch._utils.os
    torch.ops.load_library torch.utils.cpp_extension.load torch.nn.modules.linear.Linear torch.nn.Module
    numpy.load numpy.fromfile numpy.testing._private.utils.runstring numpy.core.multiarray.fromfile
    transformers.training_args.TrainingArguments diffusers.UNet2DModel __main__.Model __torch__.Model
    lightning.main lightning.pytorch.cli.run pytorch_lightning.os.system omegaconf._utils.get_yaml_loader
    collections.namedtuple collections.abc.Callable _codecs.decode argparse.FileType typing.get_type_hints
""".split()
DOTTED = [
    ("torch._utils", "_rebuild_tensor_v2.__globals__"),
    ("torch", "_utils._rebuild_tensor_v2"),
    ("torch", "hub.load"),
    ("torch", "serialization.os.system"),
    ("torch.serialization", "_get_layout.__globals__"),
    ("collections", "OrderedDict.__init__"),
    ("collections", "OrderedDict.__reduce_ex__"),
    ("collections", "abc.sys.modules"),
    ("builtins", "dict.update"),
    ("builtins", "str.format"),
    ("numpy.core.multiarray", "scalar.__class__"),
    ("pytorch_lightning.callbacks", "ModelCheckpoint.__init__"),
    ("lightning", "Trainer.os.system"),
    ("", "os.system"),
    ("os.system", ""),
    ("os\0", "system"),
    ("\x1b[2J", "x\u202e"),
]

UNSAFE: dict[str, bytes] = {}
for path in GLOBALS:
    module, _, name = path.rpartition(".")
    UNSAFE[path] = holding(called(named(module, name), COMMAND))
for module, name in DOTTED:
    UNSAFE[f"{module!r} and {name!r} on the stack"] = holding(called(named_on_stack(module, name), COMMAND))
UNSAFE |= {
    "a name without a call": holding(named("os", "system")),
    "a name that is thrown away": named("os", "system") + b"0" + holding(tensor()),
    "a call that is thrown away": called(named("os", "system"), COMMAND) + b"0" + holding(tensor()),
    "a call in a dict's key": b"}" + called(named("os", "system"), COMMAND) + tensor() + b"s",
    "a call beside the state dict": beside(called(named("os", "system"), COMMAND)),
    "a call in the arguments of a tensor": holding(tensor(strides=called(named("builtins", "eval"), COMMAND))),
    "a call in a persistent id": holding(tensor(storage=stored(key=called(named("os", "getenv"), COMMAND)))),
    "a class that is made": holding(named("subprocess", "Popen") + b"(" + COMMAND + b"t\x81"),
    "a class with keywords": holding(named("subprocess", "Popen") + b")}" + b"\x92"),
    "keywords for a class that may be": holding(named("collections", "OrderedDict") + b")}" + b"\x92"),
    "an instance of old": b"(" + COMMAND + b"ios\nsystem\n",
    "an instance of old of a class that may be": b"(icollections\nOrderedDict\n",
    "an object of old": b"(" + named("os", "system") + COMMAND + b"o",
    "an object of old of a class that may be": b"(" + named("collections", "OrderedDict") + b"o",
    "a state that a class is built with": holding(
        named("builtins", "object") + b")\x81}" + text("__setstate__") + named("os", "system") + b"sb"
    ),
    "a function within a tensor of a class": holding(
        called(named("torch._tensor", "_rebuild_from_type_v2"), named("os", "system"), b"N", COMMAND + b"\x85", b"N")
    ),
    "a number of the registry": holding(b"\x82\x01"),
    "a number of two bytes": holding(b"\x83\x01\x01"),
    "a number of four bytes": holding(b"\x84\x01\0\0\0"),
    "a buffer out of band": holding(b"\x97"),
    "a buffer made read-only": holding(b"C\x01a\x98"),
    "a persistent id of text": holding(b"Pos.system\n"),
    "a string of protocol 0": holding(b"S'a'\n"),
    "unicode of protocol 0": holding(b"Va\n"),
    "a number of 100,000 digits": holding(b"L" + b"9" * 100_000 + b"L\n"),
    "an integer of protocol 0": holding(b"I5\n"),
    "a float of protocol 0": holding(b"F5.0\n"),
    "a memo of protocol 0": holding(b"K\1p1\n"),
    "a get of protocol 0": holding(b"g1\n"),
}  # fmt: skip

# Pickles that make no sense


BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "bad-pickle"),
    "an empty mark": (b"(t0", "bad-pickle"),
    "a tuple of what is not there": (b"K\x01\x87", "bad-pickle"),
    "a tuple without a mark": (b"t", "bad-pickle"),
    "a pop of nothing": (b"0", "bad-pickle"),
    "a pop to no mark": (b"1", "bad-pickle"),
    "nothing twice": (b"2", "bad-pickle"),
    "a memo of nothing": (b"q\0", "bad-pickle"),
    "a get before its put": (b"h\0", "bad-pickle"),
    "a get far away": (b"}j\xff\xff\xff\xff", "bad-pickle"),
    "an unknown opcode": (b"}\xff", "bad-pickle"),
    "protocol 6": (b"\x80\x06}", "bad-pickle"),
    "a whole number of 2 GB": (b"\x8b\xff\xff\xff\x7f", "bad-pickle"),
    "a whole number of negative length": (b"\x8b\xff\xff\xff\xff", "bad-pickle"),
    "a string of negative length": (b"T\xff\xff\xff\xff", "bad-pickle"),
    "a string that is not UTF-8": (b"X\x01\0\0\0\xff", "bad-pickle"),
    "a name without end": (b"c" + b"a" * 2000, "bad-pickle"),
    "a name that is not UTF-8": (b"c\xff\nx\n", "bad-pickle"),
    "a name of numbers": (b"K\1K\1\x93", "bad-pickle"),
    "a key without a value": (b"}(K\1u", "bad-pickle"),
    "an item of a list": (b"]K\1K\1s", "bad-pickle"),
    "an item of a string": (text("a") + b"K\1K\1s", "bad-pickle"),
    "an element of a dict": (b"}K\1a", "bad-pickle"),
    "elements of a tuple": (b")(K\1e", "bad-pickle"),
    "elements of a tensor": (tensor() + b"(K\1e", "bad-pickle"),
    "a call of a string": (called(text("os.system"), COMMAND), "bad-pickle"),
    "a call of what a call made": (called(called(named("collections", "OrderedDict"))), "bad-pickle"),
    "a call of a tensor": (called(tensor()), "bad-pickle"),
    "a call of a dtype": (called(named("torch", "float16"), COMMAND), "bad-pickle"),
    "a call of a storage": (called(named("torch", "FloatStorage"), COMMAND), "bad-pickle"),
    "a call with a list": (named("collections", "OrderedDict") + b"]R", "bad-pickle"),
    "a state for a class": (named("torch", "Size") + b"}b", "bad-pickle"),
    "a state for a number": (b"K\1}b", "bad-pickle"),
    "a dict of numbers": (called(named("collections", "OrderedDict"), b"](K\1K\2e"), "bad-pickle"),
    "a dict of triples": (called(named("collections", "OrderedDict"), b"](" + integers(1, 2, 3) + b"e"), "bad-pickle"),
    "a dict of a string": (called(named("collections", "OrderedDict"), text("ab")), "bad-pickle"),
    # tensors
    "a tensor of nothing": (holding(called(named("torch._utils", "_rebuild_tensor_v2"))), "bad-pickle"),
    "a tensor of strings": (
        holding(called(named("torch._utils", "_rebuild_tensor_v2"), *[COMMAND] * 6)),
        "bad-pickle",
    ),
    "an old tensor with too much": (
        holding(called(named("torch._utils", "_rebuild_tensor"), *[b"N"] * 5)),
        "bad-pickle",
    ),
    "a tensor without its dtype": (
        holding(called(named("torch._utils", "_rebuild_tensor_v3"), stored(), *[b"N"] * 6)),
        "bad-pickle",
    ),
    "a tensor of a tensor's class without end": (
        holding(
            called(named("torch._tensor", "_rebuild_from_type_v2"), named("torch._tensor", "_rebuild_from_type_v2"),
                   b"N", b")", b"N")
        ),
        "bad-pickle",
    ),
    "a parameter of a string": (holding(called(named("torch._utils", "_rebuild_parameter"), text("a"))), "bad-pickle"),
    "a shape of strings": (holding(tensor(shape=b"(" + text("a") + b"t")), "bad-pickle"),
    "a shape of booleans": (holding(tensor(shape=b"\x88\x88\x86")), "bad-pickle"),
    "a shape of a number": (holding(tensor(shape=b"K\6")), "bad-pickle"),
    "a shape of 65 dimensions": (holding(tensor(shape=integers(*[1] * 65))), "bad-pickle"),
    "a size of a string": (holding(called(named("torch", "Size"), text("ab"))), "bad-pickle"),
    "a shape and strides of other lengths": (holding(tensor(shape=integers(6))), "bad-view"),
    "a negative size": (holding(tensor(shape=integers(-2, -3))), "bad-view"),
    "a negative stride": (holding(tensor(offset=5, strides=integers(-3, -1))), "bad-view"),
    "a negative offset": (holding(tensor(offset=-1)), "bad-view"),
    "an offset too far": (holding(tensor(offset=1)), "view-outside"),
    "an offset beyond 64 bits": (holding(tensor(offset=2**64)), "view-outside"),
    "a stride too far": (holding(tensor(strides=integers(4, 1))), "view-outside"),
    "strides of 4000 digits": (holding(tensor(strides=integers(2**900, 2**900))), "view-outside"),
    "a shape too large": (holding(tensor(shape=integers(3, 3))), "view-outside"),
    "a product that wraps": (holding(tensor(shape=integers(2**32, 2**32))), "shape-overflow"),
    "a huge size beside a 0": (
        holding(tensor(shape=integers(2**60, 2, 0), strides=integers(1, 1, 1))),
        "shape-overflow",
    ),
    "gigabytes of one number": (holding(tensor(shape=integers(2**20, 2**20), strides=integers(0, 0))), "view-repeats"),
    # storages
    "a persistent id that is a string": (holding(tensor(storage=text("0") + b"Q")), "bad-pickle"),
    "a persistent id of a module": (
        holding(b"(" + text("module") + named("torch", "Tensor") + text("a.py") + text("import os") + b"tQ"),
        "bad-pickle",
    ),
    "a persistent id too short": (holding(b"(" + text("storage") + b"tQ"), "bad-pickle"),
    "a storage without a class": (holding(tensor(storage=stored(kind=text("FloatStorage")))), "bad-pickle"),
    "a storage of a class that is none": (holding(tensor(storage=stored(kind=named("torch", "Size")))), "bad-pickle"),
    "a storage without a key": (holding(tensor(storage=stored(key=b"N"))), "bad-pickle"),
    "a storage of negative size": (holding(tensor(storage=stored(count=integer(-6)))), "bad-pickle"),
    "a storage of true size": (holding(tensor(storage=stored(count=b"\x88"))), "bad-pickle"),
    "a storage of 30 digits": (holding(tensor(storage=stored(count=integer(10**30)))), "bad-pickle"),
    "a part of a storage that is none": (
        holding(tensor(storage=stored().removesuffix(b"tQ") + b"K\1tQ")),
        "bad-pickle",
    ),
    "a storage larger than its bytes": (holding(tensor(storage=stored(count=b"K\x07"))), "storage-too-short"),
    "a storage that is not there": (holding(tensor(storage=stored(key=text("1")))), "storage-missing"),
    "a storage that is the pickle": (holding(tensor(storage=stored(key=text("../data.pkl")))), "storage-missing"),
    # dtypes and kinds
    "complex numbers of 16 bytes": (
        holding(tensor(storage=stored(named("torch", "ComplexDoubleStorage"), count=b"K\1"), shape=integers(1),
                       strides=integers(1))),
        "unsupported-dtype",
    ),
    "a quantized tensor": (holding(called(named("torch._utils", "_rebuild_qtensor"), b"N")), "unsupported-tensor"),
    "a sparse tensor": (holding(called(named("torch._utils", "_rebuild_sparse_tensor"), b"N")), "unsupported-tensor"),
    # names
    "an escape sequence in a name": (holding(tensor(), "\x1b[2J"), "bad-tensor-name"),
    "half a character in a name": (holding(tensor(), "\ud800"), "bad-tensor-name"),
    "a reserved name": (holding(tensor(), "__metadata__"), "bad-tensor-name"),
    # what is no state dict
    "a number": (b"K\1", "no-tensors"),
    "a list of tensors": (b"]" + tensor() + b"a", "no-tensors"),
    "an object": (called(named("argparse", "Namespace")), "no-tensors"),
    "a lone tensor": (tensor(), "lone-tensor"),
    "an empty dict": (b"}", "no-tensors"),
    "a state dict of nothing": (b"}" + text("state_dict") + b"}s", "no-tensors"),
    "a state dict within itself": (b"}q\0" + text("state_dict") + b"h\0s", "no-tensors"),
    "tensors too deep": (
        b"".join(b"}" + text("state_dict") for _ in range(3)) + holding(tensor()) + b"sss",
        "no-tensors",
    ),
    "an optimizer alone": (b"}" + text("optimizer") + holding(tensor()) + b"s", "no-tensors"),
    "names that are numbers": (b"}K\1" + tensor() + b"s", "no-tensors"),
}  # fmt: skip

# Files that are no archives of torch, or not whole


def bomb() -> bytes:
    """Return an archive whose pickle is 64 MB of zeros, packed into 64 KB."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(1 << 26))
    return file.getvalue()


def with_packed_tensor() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x/data.pkl", pickled(holding(tensor())))
        archive.writestr("x/data/0", DATA, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def overlapping() -> bytes:
    """Return an archive whose storage lies within the entry before it."""
    inner = archived([("x/data/0", DATA)])[: 30 + 8 + len(DATA)]
    content = archived([("x/data.pkl", pickled(holding(tensor()))), ("x/more", inner), ("x/data/0", DATA)])
    at = content.index(b"x/data/0") - 30
    return directory_changed("x/data/0", 42, struct.pack("<L", at), content)


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    return file.getvalue()


def large_end(*, begin: int = 0, count: int = 3) -> bytes:
    """Return the sound archive with an end for large archives that adds to where the directory begins."""
    at = SOUND.rindex(b"PK\5\6")
    size, old = struct.unpack_from("<2L", SOUND, at + 12)
    more = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, old + begin)
    more += struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
    return SOUND[:at] + more + SOUND[at:]


def evil(name: str, **changes: int) -> bytes:
    """Return a sound archive with one more entry."""
    content = [("x/data.pkl", pickled(holding(tensor()))), ("x/data/0", DATA), ("x/" + "?" * (len(name) - 2), b"evil")]
    raw = archived(content, **changes)
    return raw.replace(content[2][0].encode(), name.encode())


PICKLE = ("x/data.pkl", pickled(holding(tensor())))
FILES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "file-empty"),
    "a tar archive": (tarred(), "old-tar-checkpoint"),
    "a pickle of its own": (pickle.dumps({"a": 1}, protocol=2), "not-a-model"),
    "a magic number alone": (pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2), "data-truncated"),
    "another protocol": (changed(b"M\xe9\x03", b"M\xea\x03", SOUND_ROW), "not-a-model"),
    # archives
    "the beginning of an archive": (b"PK\3\4", "zip-truncated"),
    "an archive without its end": (SOUND[:-30], "zip-truncated"),
    "half an archive": (SOUND[: len(SOUND) // 2], "zip-truncated"),
    "an empty archive": (b"PK\5\6" + bytes(18), "not-a-model"),
    "an archive of something else": (archived([("x/model.py", b"")]), "not-a-model"),
    "an archive of an archive": (archived([("x/inner.ckpt", SOUND)]), "not-a-model"),
    "a pickle in no folder": (archived([("data.pkl", pickled(b"}")), ("data/0", DATA)]), "not-a-model"),
    "two pickles": (archived([PICKLE, ("y/data.pkl", pickled(b"}"))]), "not-a-model"),
    "a program": (archived([PICKLE, ("x/constants.pkl", pickled(b")")), ("x/data/0", DATA)]), "not-a-state-dict"),
    "bytes in the other order": (changed(b"x/byteorderlittle", b"x/byteorderbigend"), "big-endian"),
    "bytes behind the archive": (SOUND + b"x", "bad-zip"),
    "a comment cut short": (end_changed(20, b"\5\0"), "bad-zip"),
    "a second disk": (end_changed(4, b"\1\0"), "bad-zip"),
    "more entries than there are": (
        end_changed(8, b"\5\0\5\0", archived([PICKLE, ("x/data/0", DATA), ("x/long", b""), ("x/" + "y" * 200, b"")])),
        "bad-zip",
    ),
    "more entries than there is room for": (end_changed(8, b"\4\0\4\0"), "zip-too-many"),
    "fewer entries than there are": (end_changed(8, b"\1\0\1\0"), "bad-zip"),
    "as many entries as can be said": (end_changed(8, b"\xff\xff\xff\xff"), "zip-too-many"),
    "a directory somewhere else": (end_changed(16, b"\0\0\0\0"), "bad-zip"),
    "a directory behind the file": (end_changed(16, b"\xff\xff\xff\x7f"), "bad-zip"),
    "a directory without entries": (directory_changed("x/data.pkl", 0, b"PK\0\0"), "bad-zip"),
    "an entry's name that is too long": (directory_changed("x/data/0", 28, b"\xff\xff"), "bad-zip"),
    "an end for large archives that disagrees": (large_end(begin=1), "zip-disagrees"),
    "an end for large archives of more": (large_end(count=2**63), "zip-disagrees"),
    "an end for large archives elsewhere": (changed(b"PK\6\7\0\0\0\0", b"PK\6\7\0\0\0\0\7", large_end()), "bad-zip"),
    "billions of entries": (end_changed(8, b"\xff\xff\xff\xff", large_end(count=2**40)), "zip-too-many"),
    # entries
    "an entry twice": (evil("x/data.pkl"), "duplicate-entry"),
    "a way out": (evil("../../../canary"), "unsafe-entry"),
    "a way out in between": (evil("x/../../canary"), "unsafe-entry"),
    "an absolute name": (evil("/etc/canary"), "unsafe-entry"),
    "a drive": (evil("C:/canary"), "unsafe-entry"),
    "a name of another system": (evil("x\\..\\canary"), "unsafe-entry"),
    "a name with a NUL": (evil("x/data/1\0.pkl"), "unsafe-entry"),
    "no name": (evil("./"), "unsafe-entry"),
    "a link": (evil("x/data/1", create_system=3, external_attr=0o120777 << 16), "unsafe-entry"),
    "a name that is not UTF-8": (
        directory_changed("x/data/0", 46, b"\xff", directory_changed("x/data/0", 8, b"\0\x08")),
        "bad-zip",
    ),
    "a bomb as pickle": (bomb(), "compressed-entry"),
    "a packed tensor": (with_packed_tensor(), "compressed-entry"),
    "a tensor of two sizes": (directory_changed("x/data/0", 24, b"\xff"), "compressed-entry"),
    "a secret tensor": (directory_changed("x/data/0", 8, b"\1\0"), "encrypted-entry"),
    "a tensor as large as can be said": (directory_changed("x/data/0", 20, b"\xff\xff\xff\xff" * 2), "entry-outside"),
    "a tensor behind the file": (directory_changed("x/data/0", 42, b"\xff\xff\xff\x7f"), "entry-outside"),
    "a tensor within another entry": (overlapping(), "entries-overlap"),
    "two tensors at one place": (directory_changed("x/data/0", 42, bytes(4)), "entries-overlap"),
    "an entry of another name": (changed(b"x/data/0", b"x/data/1"), "zip-disagrees"),
    "an entry of another size": (local_changed("x/data/0", 22, b"\x14"), "zip-disagrees"),
    "an entry that is packed after all": (local_changed("x/data/0", 8, b"\x08"), "zip-disagrees"),
    "an entry of a longer head": (local_changed("x/data/0", 28, b"\xc8"), "entries-overlap"),
    "no entry where one should be": (local_changed("x/data/0", 0, b"PK\0\0"), "bad-zip"),
    # pickles in a row
    "a row cut short": (SOUND_ROW[:60], "data-truncated"),
    "a row without its storages": (SOUND_ROW[:-32], "data-truncated"),
    "a row without the end of a storage": (SOUND_ROW[:-1], "data-truncated"),
    "a storage of negative length": (in_a_row(holding(tensor()), storages=b"\xff" * 8 + DATA), "data-truncated"),
    "a storage shorter than described": (
        in_a_row(holding(tensor()), storages=struct.pack("<q", 2) + DATA),
        "storage-too-short",
    ),
    "a storage listed twice": (in_a_row(holding(tensor()), keys=("0", "0")), "bad-pickle"),
    "a storage that nothing describes": (in_a_row(holding(tensor()), keys=("1",)), "bad-pickle"),
    "a storage listed by a number": (in_a_row(holding(tensor()), keys=(0,)), "bad-pickle"),
    "a storage not listed": (in_a_row(holding(tensor()), keys=()), "storage-missing"),
    "no list of storages": (in_a_row(holding(tensor()), keys="0"), "bad-pickle"),
    "a part beyond its storage": (
        in_a_row(holding(tensor(stored().removesuffix(b"tQ") + b"(" + text("v") + b"K\1K\6ttQ"))),
        "storage-too-short",
    ),
    "a row with bytes in the other order": (changed(b"\x88", b"\x89", SOUND_ROW), "big-endian"),
    "a string of exabytes": (SOUND_ROW[:60] + b"\x8d" + b"\xff" * 8, "data-truncated"),
}  # fmt: skip


# What must hold for each


@pytest.fixture(scope="module")
def watch(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return a list of everything that the interpreter is made to do; cleared by whoever looks."""
    first = tmp_path_factory.mktemp("first") / "x"
    first.write_bytes(zipped(b""))
    refused(first)  # what is imported when it is first needed is, now
    seen: list[str] = []

    def look(event: str, _: object) -> None:
        if event != "builtins.id":
            seen.append(event)

    sys.addaudithook(look)  # it stays, and costs nothing much
    return seen


def refused(path: Path) -> Problem:
    """Return why a file is refused."""
    with pytest.raises(SourceError) as caught:
        read_pickle(path, shown="models/x.ckpt")
    assert caught.value.exit_code == 4
    (problem,) = caught.value.problems
    assert problem.message.startswith("`models/x.ckpt` ")
    assert str(problem.where) == "models/x.ckpt"
    assert problem.help
    for part in (problem.message, problem.help, *problem.rows):
        assert part.isprintable()
        assert len(part) < 500
        part.encode()
    return problem


@pytest.mark.parametrize("is_row", [False, True], ids=["zip", "row"])
@pytest.mark.parametrize("body", UNSAFE.values(), ids=UNSAFE.keys())
def test_what_could_run_code_is_refused_and_runs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: list[str], body: bytes, is_row: bool
) -> None:
    """The file is opened, and the interpreter is asked for nothing else: no import, no call, no other file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_bytes(in_a_row(body) if is_row else zipped(body))
    assert is_pickle((tmp_path / "x").read_bytes()[:512])
    modules = set(sys.modules)
    watch.clear()
    problem = refused(tmp_path / "x")
    assert watch == ["open"]
    assert set(sys.modules) == modules
    assert [each.name for each in tmp_path.iterdir()] == ["x"]
    assert problem.code == "unsafe-pickle"


def test_the_canary_sings_where_pickles_are_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: list[str]
) -> None:
    """The same bytes, read the usual way, do what they say: so the tests above would see it."""
    monkeypatch.chdir(tmp_path)
    watch.clear()
    pickle.loads(pickled(UNSAFE["os.system"]))
    assert (tmp_path / "canary").exists()
    assert {"pickle.find_class", "os.system"} <= set(watch)


@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "copyreg._reconstructor", "torch.hub.load"])
def test_the_name_that_is_refused_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").write_bytes(zipped(UNSAFE[name]))
    assert f"asks for `{name.removeprefix('builtins.')}`" in refused(tmp_path / "x").message


@pytest.mark.parametrize(
    ("name", "opcode"),
    [("a number of the registry", "EXT1"), ("keywords for a class that may be", "NEWOBJ_EX"),
     ("an instance of old of a class that may be", "INST"), ("an object of old of a class that may be", "OBJ")],
)  # fmt: skip
def test_the_opcode_that_is_refused_is_told(tmp_path: Path, name: str, opcode: str) -> None:
    (tmp_path / "x").write_bytes(zipped(UNSAFE[name]))
    assert f"the opcode `{opcode}`" in refused(tmp_path / "x").message


@pytest.mark.parametrize(("body", "code"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_pickle_is_refused_by_name(tmp_path: Path, watch: list[str], body: bytes, code: str) -> None:
    (tmp_path / "x").write_bytes(zipped(body))
    watch.clear()
    assert refused(tmp_path / "x").code == code
    assert watch == ["open"]


@pytest.mark.parametrize(("content", "code"), FILES.values(), ids=FILES.keys())
def test_a_broken_file_is_refused_by_name(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "x").write_bytes(content)
    assert refused(tmp_path / "x").code == code


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    assert refused(tmp_path / "none").code == "file-missing"


def test_a_pickle_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = pickled(holding(tensor()))
    for length in range(len(whole)):
        (tmp_path / "x").write_bytes(archived([("x/data.pkl", whole[:length]), ("x/data/0", DATA)]))
        assert refused(tmp_path / "x").code == "bad-pickle"


INERT: dict[str, bytes] = {
    "a pickle within a pickle": b"B" + struct.pack("<L", 60) + pickle.dumps(print, protocol=2).ljust(60),
    "what decodes": called(named("_codecs", "encode"), COMMAND, text("latin1")),
    "a number of numpy": called(named("numpy.core.multiarray", "scalar"), called(named("numpy", "dtype"), COMMAND)),
    "a callback of a trainer": called(named("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")),
    "a class of a package that does not exist": called(named("lightning.nowhere", "Evil"), COMMAND),
    "options with a state": called(named("argparse", "Namespace")) + b"}" + text("__class__") + COMMAND + b"sb",
    "a set": called(named("__builtin__", "set"), b"]" + COMMAND + b"a"),
    "a set of protocol 4": b"\x8f(" + COMMAND + b"\x90",
    "bytes": b"\x96" + struct.pack("<Q", 3) + b"abc",
    "a class as key": b"}" + named("lightning", "Trainer") + b"}s",
    "lists that contain themselves": b"]q\0h\0a",
    "a dict that contains itself": b"}q\0(" + text("a") + b"h\0u",
    "an object that contains itself": called(named("argparse", "Namespace")) + b"q\0h\0b",
    "a memo far away": b"}r\xff\xff\xff\xff",
    "lists in lists": b"]" * 100_000 + b"a" * 99_999,
    "tuples in tuples": b")" + b"\x85" * 100_000,
    "a tuple of 100,000 levels as key": b"})" + b"\x85" * 100_000 + b"K\1s",
    "a billion laughs": b"(K\1lq\0" + (b"0(" + b"h\0" * 10 + b"lq\0") * 60,
    "pairs of pairs": b"(" + text("lol") + b"lq\0" + b"0h\0h\0\x86q\0" * 100,
}


@pytest.mark.parametrize("is_row", [False, True], ids=["zip", "row"])
@pytest.mark.parametrize("value", INERT.values(), ids=INERT.keys())
def test_what_training_leaves_behind_is_inert(tmp_path: Path, watch: list[str], value: bytes, is_row: bool) -> None:
    """However it is nested: it is left out, with a notice, and nothing is made of it."""
    (tmp_path / "x").write_bytes(in_a_row(beside(value)) if is_row else zipped(beside(value)))
    watch.clear()
    model = read_pickle(tmp_path / "x")
    assert watch == ["open"]
    assert list(model.tensors) == ["a"]
    assert model.notices == ("left out what training needs, not the model: `other`",)


BOMBS: dict[str, bytes] = {
    "lists": b"]" * 300_000,
    "dicts": b"}" * 300_000,
    "dicts by calls": named("collections", "OrderedDict") + b"q\0" + b"h\0)R" * 100_000,
    "marks": b"(" * 300_000,
    "memos": b"N" + b"".join(b"r" + struct.pack("<L", number) for number in range(300_000)),
    "copies": b"N" + b"2" * 300_000,
    "copies of a dict": b"](" + b"K\1K\1\x86" * 1000 + b"e\x85q\0" + named("collections", "OrderedDict") + b"q\1"
    + b"h\1h\0R" * 1000,
    "copies of a copy": b"}(" + b"".join(text(str(n)) + b"N" for n in range(1000)) + b"u\x85q\0"
    + named("collections", "OrderedDict") + b"q\1" + b"h\1h\0R" * 1000,
}  # fmt: skip


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS.keys())
def test_steps_and_so_memory_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    """A twentieth of the limit here: the whole takes twenty times as much."""
    monkeypatch.setattr(unpickling, "MOST_STEPS", 200_000)
    (tmp_path / "x").write_bytes(zipped(body))
    tracemalloc.start()
    try:
        assert refused(tmp_path / "x").code == "pickle-too-large"
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


def test_a_long_pickle_is_not_even_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x", "w") as archive, archive.open("x/data.pkl", "w") as file:
        for _ in range(65):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        assert refused(tmp_path / "x").code == "pickle-too-large"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_long_pickle_in_a_row_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as file:
        file.write(in_a_row(b"\x8e" + struct.pack("<Q", 1 << 30)))
        file.truncate(1 << 31)
    tracemalloc.start()
    try:
        assert refused(tmp_path / "x").code == "pickle-too-large"
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_every_error_of_the_reader_is_provoked_here() -> None:
    """A new rule needs a file that breaks it."""
    folder = Path(formats.__file__).parent
    names = ("pickles.py", "unpickling.py", "zips.py")
    sources = "".join((folder / name).read_text(encoding="utf-8") for name in names)
    codes = set(re.findall(r'BrokenRuleError\(\s*"([a-z0-9-]+)"', sources))
    provoked = {code for _, code in (*BROKEN.values(), *FILES.values())}
    assert codes - provoked == {"unsafe-pickle", "pickle-too-large"}
    assert len(UNSAFE) > 100


# Fuzzing


ROW = in_a_row(beside(tensor()))
ZIP = zipped(beside(tensor()))
EDITS = st.lists(
    st.tuples(st.integers(0, max(len(ROW), len(ZIP))), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=4
)
BLOCKS = st.sampled_from(
    [bytes((code,)) for code in range(256)]
    + [text("a"), stored(), tensor(), integers(2, 3), named("collections", "OrderedDict"), b"K\1", b"q\0", b"h\0"]
    + [named("torch._utils", "_rebuild_tensor_v2"), named("argparse", "Namespace"), named("os", "system")]
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return tmp_path_factory.mktemp("fuzz") / "x"


def read_or_refused(path: Path) -> Model | None:
    """Return the model if the file is taken; what it says then lies within the file."""
    try:
        model = read_pickle(path)
    except SourceError:
        return None
    for info in model.tensors.values():
        assert 0 <= info.begin <= info.end
        spans = [(info.begin, info.end)]
        for piece in info.pieces:
            reach = sum((size - 1) * stride for size, stride in zip(piece.shape, piece.strides, strict=True))
            size = info.nbytes // info.count
            spans = [(piece.begin, piece.begin + (reach + 1) * size)]
        assert all(0 <= begin <= end <= model.size for begin, end in spans)
    return model


@pytest.mark.parametrize("content", [ZIP, ROW], ids=["zip", "row"])
@given(edits=EDITS, cut=st.none() | st.integers(0, 1200))
@settings(max_examples=300)
def test_edits_of_a_sound_file_end_in_a_model_or_an_error(
    fuzzed: Path, content: bytes, edits: list[tuple[int, int, bytes]], cut: int | None
) -> None:
    for at, removed, put in edits:
        content = content[:at] + put + content[at + removed :]
    fuzzed.write_bytes(content[:cut])
    read_or_refused(fuzzed)


@pytest.mark.parametrize("content", [ZIP, ROW], ids=["zip", "row"])
@given(places=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=300)
def test_flipped_bytes_end_in_a_model_or_an_error(fuzzed: Path, content: bytes, places: list[tuple[int, int]]) -> None:
    """Lengths stay as they are, so that these come deeper than edits do."""
    found = bytearray(content)
    for at, value in places:
        found[at % len(found)] = value
    fuzzed.write_bytes(found)
    read_or_refused(fuzzed)


@given(st.lists(BLOCKS, max_size=40))
@settings(max_examples=500)
def test_any_row_of_opcodes_ends_in_a_model_or_an_error(fuzzed: Path, blocks: list[bytes]) -> None:
    fuzzed.write_bytes(zipped(b"".join(blocks)))
    read_or_refused(fuzzed)


def test_the_files_that_are_fuzzed_are_sound(fuzzed: Path) -> None:
    for content in (ZIP, ROW, SOUND, SOUND_ROW, large_end()):
        fuzzed.write_bytes(content)
        model = read_or_refused(fuzzed)
        assert model is not None
        (info,) = model.tensors.values()
        assert content[info.begin : info.end] == DATA
