"""Laws of checkpoints read in place: the same numbers as torch loads, found without loading any."""

from __future__ import annotations

import argparse
import collections
import pickle
import struct
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_files import as_bytes

from mergebuild.errors import Problem, SourceError
from mergebuild.formats import reading as reading_module
from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.formats.header import Piece, TensorInfo
from mergebuild.formats.model import Model
from mergebuild.formats.pickles import is_pickle, read_pickle
from mergebuild.system.platform import pread_into

BASE = torch.arange(24.0).reshape(2, 3, 4)
VIEWS: dict[str, torch.Tensor] = {
    "whole": BASE,
    "a row": BASE[1],
    "one number": torch.tensor(7.0),
    "a number of many": BASE[1, 2, 3],
    "nothing": BASE[:, :0],
    "transposed": BASE.permute(2, 0, 1),
    "every other": BASE[:, :, ::2],
    "a column": BASE[:, 1:2, 1],
    "repeated": torch.tensor([3.0]).expand(4, 5),
    "a dimension of one": BASE.reshape(24)[3:7].as_strided((1, 4), (999, 1)),
    "channels last": torch.arange(48.0).reshape(2, 2, 3, 4).to(memory_format=torch.channels_last),
}


@pytest.fixture(params=[True, False], ids=["zip", "row"])
def is_zip(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints") / "model.ckpt"


def saved(path: Path, value: object, *, is_zip: bool = True, protocol: int = 2) -> Model:
    torch.save(value, path, _use_new_zipfile_serialization=is_zip, pickle_protocol=protocol)
    assert is_pickle(path.read_bytes()[:512])
    return read_pickle(path, shown="model.ckpt")


def refused(path: Path, value: object) -> Problem:
    torch.save(value, path)
    with pytest.raises(SourceError) as caught:
        read_pickle(path, shown="model.ckpt")
    (problem,) = caught.value.problems
    return problem


def numbers(content: bytes, info: TensorInfo) -> list[bytes]:
    """Return the elements that a tensor is said to consist of, each as its bytes."""
    size = DTYPES_BY_WORD[info.dtype].size
    if not info.pieces:
        return [content[at : at + size] for at in range(info.begin, info.end, size)]
    (piece,) = info.pieces
    assert (info.begin, info.end) == (0, info.count * size)
    assert piece.file == 0
    offsets = [0]
    for length, stride in zip(piece.shape, piece.strides, strict=True):
        offsets = [offset + index * stride for offset in offsets for index in range(length)]
    return [content[at : at + size] for at in (piece.begin + offset * size for offset in offsets)]


def expected(tensor: torch.Tensor) -> list[bytes]:
    raw = as_bytes(tensor)
    return [raw[at : at + tensor.itemsize] for at in range(0, len(raw), tensor.itemsize)]


def agrees(model: Model, tensors: Mapping[str, torch.Tensor]) -> None:
    """Assert that the model is these tensors."""
    content = model.files[0].read_bytes()
    assert list(model.tensors) == list(tensors)
    for name, tensor in tensors.items():
        info = model.tensors[name]
        assert (info.name, info.shape, info.dtype) == (
            name,
            tuple(tensor.shape),
            str(tensor.dtype).removeprefix("torch."),
        )
        assert numbers(content, info) == expected(tensor)


# Tensors


def test_views_are_the_numbers_that_torch_saved(file: Path, is_zip: bool) -> None:
    model = saved(file, VIEWS, is_zip=is_zip)
    agrees(model, VIEWS)
    assert (model.format, model.files, model.sizes) == ("pickle", (file,), (file.stat().st_size,))
    assert model.notices == ()


def test_what_lies_in_one_run_needs_no_pieces(file: Path, is_zip: bool) -> None:
    model = saved(file, VIEWS, is_zip=is_zip)
    assert {name for name, info in model.tensors.items() if info.pieces} == {
        "transposed",
        "every other",
        "a column",
        "repeated",
        "channels last",
    }


def test_a_view_is_a_piece_of_its_storage(file: Path) -> None:
    info = saved(file, {"a": BASE, "b": BASE[1:, 1:, ::2]}).tensors
    assert info["b"].pieces == (Piece(0, info["a"].begin + 16 * 4, (1, 2, 2), (12, 4, 2)),)


def test_names_may_share_a_storage(file: Path, is_zip: bool) -> None:
    """Tied weights lie at one place."""
    tensors = saved(file, {"a": BASE, "b": BASE, "c": BASE[1]}, is_zip=is_zip).tensors
    assert (tensors["a"].begin, tensors["a"].end) == (tensors["b"].begin, tensors["b"].end)
    assert tensors["c"].begin == tensors["a"].begin + 48


@pytest.mark.parametrize("word", DTYPES_BY_WORD)
def test_every_dtype_is_read(file: Path, word: str) -> None:
    tensor = (BASE % 2).to(getattr(torch, word))
    agrees(saved(file, {"a": tensor, "b": tensor[1:]}), {"a": tensor, "b": tensor[1:]})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_is_read(file: Path, is_zip: bool, protocol: int) -> None:
    tensors = {"a": BASE, "ü" * 300: torch.nn.Parameter(BASE[1])}
    agrees(saved(file, {"state_dict": tensors}, is_zip=is_zip, protocol=protocol), tensors)


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    steps=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), min_size=4, max_size=4),
    order=st.permutations(range(4)),
)
def test_any_view_is_the_numbers_that_torch_saved(
    file: Path, shape: list[int], steps: list[tuple[int, int]], order: list[int]
) -> None:
    view = torch.arange(1000.0).as_strided(shape, [100, 7, 3, 1][: len(shape)])
    view = view[tuple(slice(begin, None, step) for begin, step in steps[: len(shape)])]
    view = view.permute([axis for axis in order if axis < len(shape)])
    agrees(saved(file, {"a": view}), {"a": view})


def test_parameters_and_classes_of_tensors_are_tensors(file: Path, is_zip: bool) -> None:
    parameter = torch.nn.Parameter(BASE)
    tagged = torch.nn.Parameter(BASE[1])
    tagged.tag = "x"  # type: ignore[attr-defined]  # saved with a state
    plain = BASE[0].clone()
    plain.tag = "x"  # type: ignore[attr-defined]  # saved as `_rebuild_from_type_v2`
    tensors = {"a": parameter, "b": tagged, "c": plain}
    agrees(saved(file, tensors, is_zip=is_zip), tensors)


def test_a_module_s_state_dict_is_read(file: Path, is_zip: bool) -> None:
    """Its dict has an attribute with versions."""
    state = torch.nn.BatchNorm2d(3).state_dict()
    agrees(saved(file, state, is_zip=is_zip), state)


def test_no_number_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten megabytes, the end with the directory, the pickle and ten headers are."""
    torch.save({str(number): torch.zeros(250_000) for number in range(10)}, file)
    asked = []

    def count(fd: int, view: memoryview | bytearray, offset: int) -> int:
        asked.append(len(view))
        return pread_into(fd, view, offset)

    monkeypatch.setattr(reading_module, "pread_into", count)
    assert read_pickle(file).size > 10_000_000
    assert sum(asked) < 80_000


# Files of other times


def text(value: str) -> bytes:
    return b"U" + bytes((len(value),)) + value.encode()


def row(body: bytes, keys: list[str], storages: bytes) -> bytes:
    first = (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    return (
        b"".join(pickle.dumps(value, 2) for value in first)
        + b"\x80\x02"
        + body
        + b"."
        + pickle.dumps(keys, 2)
        + storages
    )


def old_tensor(view: bytes, count: int, offset: int = 0) -> bytes:
    """Return a tensor as PyTorch 0.1 saved one with Python 2: of three numbers, in a part of a storage of eight."""
    storage = (
        b"(" + text("storage") + b"ctorch.cuda\nHalfStorage\n" + text("17") + text("cuda:0") + b"K\x08" + view + b"tQ"
    )
    return (
        b"ctorch._utils\n_rebuild_tensor\n(" + storage + bytes((75, offset)) + b"K" + bytes((count,)) + b"\x85K\1\x85tR"
    )


def test_files_of_python_2_are_read(file: Path) -> None:
    """Strings of bytes, dicts as lists of pairs, storages on other devices, and parts of storages."""
    part = b"(" + text("18") + b"K\2K\5t"
    pairs = b"](](" + text("a") + old_tensor(b"N", 8) + b"e](" + text("b") + old_tensor(part, 3, 1) + b"ee"
    body = b"ccollections\nOrderedDict\n(" + pairs + b"tR"
    data = struct.pack("<8e", *range(8))
    file.write_bytes(row(body, ["17"], struct.pack("<q", 8) + data))
    tensors = {"a": torch.arange(8.0).half(), "b": torch.arange(3.0, 6.0).half()}
    agrees(read_pickle(file), tensors)


def test_of_a_name_that_comes_twice_the_last_counts(file: Path) -> None:
    body = b"}" + text("a") + old_tensor(b"N", 8) + b"s" + text("a") + old_tensor(b"N", 3) + b"s"
    file.write_bytes(row(body, ["17"], struct.pack("<q", 8) + bytes(16)))
    assert [info.shape for info in read_pickle(file).tensors.values()] == [(3,)]


@pytest.mark.parametrize("size", [1 << 20, 3 << 20])
def test_a_long_pickle_in_a_row_is_read(file: Path, size: int) -> None:
    """Longer than what is read of the file at first."""
    agrees(saved(file, {"state_dict": {"a": BASE}, "notes": "x" * size}, is_zip=False), {"a": BASE})


def test_numbers_in_the_other_order_are_refused(file: Path) -> None:
    torch.save({"a": BASE}, file)
    file.write_bytes(file.read_bytes().replace(b"little", b"bigger"))
    with pytest.raises(SourceError, match="big-endian"):
        read_pickle(file)


# Which dict is the model's


OTHER = {"x": torch.zeros(1), "y": torch.zeros(2)}
MODEL = {"a": BASE, "b": BASE[1]}


@pytest.mark.parametrize(
    ("value", "notices"),
    [
        (MODEL, []),
        (collections.OrderedDict(MODEL), []),
        (collections.defaultdict(dict, MODEL), []),
        ({"state_dict": MODEL}, []),
        ({"state_dict": {"state_dict": MODEL}}, []),
        ({"state_dict": {"model": MODEL}}, []),
        ({"module": MODEL}, []),
        ({"model": MODEL, "optimizer": {"state": {0: OTHER}}, "epoch": 3}, ["`optimizer` (2 tensors), `epoch`"]),
        ({"model_state_dict": MODEL, "loss": 0.5}, ["`loss`"]),
        ({"params": OTHER, "params_ema": MODEL}, ["`params` (2 tensors)"]),
        ({"state_dict": MODEL, "model": OTHER}, ["`model` (2 tensors)"]),
        ({"state_dict": MODEL, "step": torch.tensor(1)}, ["`step` (1 tensor)"]),
        ({"epoch": 1, "state_dict": {"state_dict": MODEL, "y": 2}}, ["`epoch`, `y`"]),
        ({str(number): number for number in range(12)} | {"state_dict": MODEL}, ["`7` and 4 more"]),
    ],
)
def test_the_model_is_found_and_the_rest_is_told(file: Path, value: dict[str, object], notices: list[str]) -> None:
    model = saved(file, value)
    agrees(model, MODEL)
    assert len(model.notices) == len(notices)
    for notice, words in zip(model.notices, notices, strict=True):
        assert notice.startswith("left out what training needs, not the model: ")
        assert notice.endswith(words)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"c": 3}, "`c`"),
        ({"model": OTHER}, "`model` (2 tensors)"),
        ({"c": OTHER, "d": [BASE], "e": None}, "`c` (2 tensors), `d` (1 tensor), `e`"),
        ({3: torch.zeros(1)}, "`entries without a name` (1 tensor)"),
    ],
)
def test_what_is_no_tensor_among_tensors_is_left_out(file: Path, more: dict[object, object], words: str) -> None:
    """Also dicts of tensors: names are not made up by joining."""
    model = saved(file, {**MODEL, **more})
    agrees(model, MODEL)
    assert model.notices == (f"left out what stands between the tensors and is none: {words}",)


@pytest.fixture
def trainer() -> Iterator[type]:
    """Make a class that a trainer's checkpoints name; it exists here alone, and not when they are read."""
    names = ["pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint"]
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    made = type("ModelCheckpoint", (), {"__module__": names[-1]})
    sys.modules[names[-1]].ModelCheckpoint = made  # type: ignore[attr-defined]
    yield made
    for name in names:
        sys.modules.pop(name, None)


def test_what_a_trainer_saves_is_read(file: Path, is_zip: bool, trainer: type) -> None:
    value = {
        "epoch": 3,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": MODEL,
        "callbacks": {trainer: {"best_model_score": torch.tensor(0.5), "best_model_path": ""}},
        "optimizer_states": [{"state": {0: {"exp_avg": BASE}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]}],
        "lr_schedulers": [],
        "hparams": argparse.Namespace(seed=2**70, name="x", where={1, 2}, raw=bytearray(b"x"), unit=2 + 3j),
        "object": trainer(),
    }
    torch.save(value, file, _use_new_zipfile_serialization=is_zip)
    for name in ("pytorch_lightning.callbacks.model_checkpoint", "pytorch_lightning.callbacks", "pytorch_lightning"):
        del sys.modules[name]
    model = read_pickle(file)
    agrees(model, MODEL)
    (notice,) = model.notices
    assert notice == (
        "left out what training needs, not the model: `callbacks` (1 tensor), `optimizer_states` (1 tensor), `epoch`, "
        "`pytorch-lightning_version`, `lr_schedulers`, `hparams`, `object`"
    )
    assert "pytorch_lightning" not in sys.modules


# What is refused, as torch itself writes it


@pytest.mark.parametrize(
    ("value", "code", "words"),
    [
        ({"a": torch.eye(3).to_sparse()}, "unsupported-tensor", "`a`, which is sparse"),
        ({"a": torch.zeros(3, dtype=torch.complex64).conj()}, "unsupported-tensor", "conjugated"),
        ({"a": torch.zeros(3, dtype=torch.complex128)}, "unsupported-dtype", "complex128"),
        ({"a": torch.zeros(3, dtype=torch.float8_e4m3fnuz)}, "unsupported-dtype", "float8_e4m3fnuz"),
        ({"a": torch.zeros(3, device="meta")}, "unsupported-tensor", "without numbers"),
        ({"a": torch.zeros(1).expand(5_000_000)}, "view-repeats", "20,000,000 bytes for `a` of a storage of 4"),
        ({"a\n": torch.zeros(1)}, "bad-tensor-name", "`a\\u000a`"),
        (torch.zeros(3), "lone-tensor", "single tensor"),
        ([torch.zeros(3)], "no-tensors", "holds no dict"),
        ({"a": 1, "optimizer": OTHER}, "no-tensors", "no dict of tensors"),
        (torch.nn.Linear(1, 1), "unsafe-pickle", "`torch.nn.modules.linear.Linear`"),
        ({"a": BASE, "path": Path("x")}, "unsafe-pickle", "`pathlib."),
    ],
)
def test_what_can_not_be_merged_is_refused_by_name(file: Path, value: object, code: str, words: str) -> None:
    problem = refused(file, value)
    assert (problem.code, str(problem.where)) == (code, "model.ckpt")
    assert words in problem.message


def test_the_keys_are_told_where_no_model_is(file: Path) -> None:
    problem = refused(file, {"epoch": 3, "optimizer": OTHER})
    assert problem.rows == ("it holds `optimizer` (2 tensors), `epoch`",)


def test_odd_tensors_elsewhere_do_no_harm(file: Path) -> None:
    model = saved(
        file, {"state_dict": MODEL, "optimizer": [torch.eye(3).to_sparse(), torch.zeros(1).to(torch.complex128)]}
    )
    agrees(model, MODEL)
    assert model.notices == ("left out what training needs, not the model: `optimizer` (2 tensors)",)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_program_is_refused(file: Path) -> None:
    class Doubled(torch.nn.Module):
        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return value * 2

    traced = torch.jit.trace(Doubled(), torch.zeros(1))
    torch.jit.save(traced, str(file))
    with pytest.raises(SourceError, match="TorchScript"):
        read_pickle(file)


def test_a_file_that_changes_while_it_is_read_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(MODEL, file)

    def change(fd: int, view: memoryview | bytearray, offset: int) -> int:
        found = pread_into(fd, view, offset)
        with file.open("ab") as end:
            end.write(b"x")
        return found

    monkeypatch.setattr(reading_module, "pread_into", change)
    with pytest.raises(SourceError, match="changed while it was read"):
        read_pickle(file)


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        (b"PK\3\4", True),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", True),
        (b"\x80\x04\x95", True),
        (bytes(257) + b"ustar", True),
        (b"", False),
        (b"GGUF", False),
        (b"\x40\0\0\0\0\0\0\0{", False),
        (b"<!DOCTYPE html>", False),
    ],
)
def test_a_checkpoint_is_known_by_how_it_begins(head: bytes, answer: bool) -> None:
    assert is_pickle(head) is answer
