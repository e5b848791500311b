"""Laws of reading headers: what a sound file says, without a look at its tensors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import TensorSpec as StockSpec
from safetensors import serialize_file

from mergebuild.errors import SourceError
from mergebuild.formats import header as header_module
from mergebuild.formats import reading as reading_module
from mergebuild.formats.header import Header, TensorInfo, read_header, read_header_fd
from mergebuild.formats.layout import encode_header
from mergebuild.system.platform import pread_into


def stock_file(folder: Path) -> Path:
    """Write a file with the stock writer (the part of it that needs no numpy)."""
    path = folder / "stock.safetensors"
    tensors = {
        "ids": torch.arange(77),
        "flag": torch.tensor(True),
        "half": torch.ones(3, 5, dtype=torch.float16),
        "empty": torch.ones(0, 4, dtype=torch.bfloat16),
        "small": torch.ones(7).to(torch.float8_e4m3fn),
    }
    specs = {
        name: StockSpec(
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=list(tensor.shape),
            data_ptr=tensor.data_ptr(),
            data_len=tensor.nbytes,
        )
        for name, tensor in tensors.items()
    }
    serialize_file(specs, path, metadata={"format": "pt", "note": "a\nb"})
    return path


@pytest.mark.parametrize("hidden", ["", "1"])
def test_a_stock_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    monkeypatch.setenv("MERGEBUILD_PORTABLE", hidden)
    path = stock_file(tmp_path)
    header = read_header(path)
    content = path.read_bytes()
    said = json.loads(content[8 : header.data_start])
    assert header.metadata == {"format": "pt", "note": "a\nb"}
    assert header.file_size == len(content)
    assert {name: (info.dtype, info.shape, info.count, info.nbytes) for name, info in header.tensors.items()} == {
        "ids": ("int64", (77,), 77, 616),
        "flag": ("bool", (), 1, 1),
        "half": ("float16", (3, 5), 15, 30),
        "empty": ("bfloat16", (0, 4), 0, 0),
        "small": ("float8_e4m3fn", (7,), 7, 7),
    }
    assert [name for name, info in header.tensors.items() if info.is_float] == [
        name for name in header.tensors if name in {"half", "empty", "small"}
    ]
    for name, info in header.tensors.items():
        assert [info.begin - header.data_start, info.end - header.data_start] == said[name]["data_offsets"]


def test_tensors_come_in_the_order_of_their_bytes(tmp_path: Path) -> None:
    """Whatever the order of the header's text."""
    entries = {"b": [4, 6], "a": [6, 8], "c": [0, 4]}
    text = json.dumps(
        {n: {"dtype": "F16", "shape": [(e - b) // 2], "data_offsets": [b, e]} for n, (b, e) in entries.items()}
    ).encode()
    (tmp_path / "f").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    assert list(read_header(tmp_path / "f").tensors) == ["c", "b", "a"]


def test_a_file_without_tensors_is_sound(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert read_header(tmp_path / "f") == Header({}, {}, 10, 10)


def test_null_metadata_are_none(tmp_path: Path) -> None:
    """The stock reader takes them so."""
    text = b'{"__metadata__":null}'
    (tmp_path / "f").write_bytes(len(text).to_bytes(8, "little") + text)
    assert read_header(tmp_path / "f").metadata == {}


def test_no_byte_of_a_tensor_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A header says all; gigabytes behind it stay on the disk."""
    raw, header = encode_header([("a", "float32", (1 << 20,))], {"k": "x" * 5000})
    with (tmp_path / "f").open("wb") as file:
        file.write(raw)
        file.truncate(header.file_size)
    ends: list[int] = []

    def watch(fd: int, view: memoryview | bytearray, offset: int) -> int:
        ends.append(offset + len(view))
        return pread_into(fd, view, offset)

    monkeypatch.setattr(reading_module, "pread_into", watch)
    assert read_header(tmp_path / "f") == header
    assert max(ends) == header.data_start


def test_an_open_file_is_read_whatever_its_path_leads_to(tmp_path: Path) -> None:
    """A file that is replaced while a build uses it stays the file that was opened."""
    path = stock_file(tmp_path)
    before = read_header(path)
    fd = os.open(path, os.O_RDONLY)
    try:
        (tmp_path / "new").write_bytes((2).to_bytes(8, "little") + b"{}")
        (tmp_path / "new").replace(path)
        assert read_header_fd(fd, "shown") == before
    finally:
        os.close(fd)
    assert read_header(path).tensors == {}


def test_descriptors_are_closed(tmp_path: Path) -> None:
    """Also when the file is refused."""
    path = stock_file(tmp_path)
    free = os.dup(0)
    os.close(free)
    read_header(path)
    path.write_bytes(b"no")
    with pytest.raises(SourceError):
        read_header(path)
    after = os.dup(0)
    os.close(after)
    assert after == free


def test_a_second_name_given_while_reading_does_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It changes the file's ctime, but nothing of what was read."""
    path = stock_file(tmp_path)
    expected = read_header(path)
    parse = header_module._parse

    def link_meanwhile(raw: bytearray, file_size: int) -> Header:
        (tmp_path / "second").hardlink_to(path)
        return parse(raw, file_size)

    monkeypatch.setattr(header_module, "_parse", link_meanwhile)
    assert read_header(path) == expected
    assert (tmp_path / "second").exists()


def test_thousands_of_tensors_are_read_back(tmp_path: Path) -> None:
    specs = [(f"model.layers.{number}.weight", "float16", (number % 7, 3)) for number in range(5000)]
    raw, header = encode_header(specs, {})
    (tmp_path / "f").write_bytes(raw + bytes(header.file_size - header.data_start))
    assert read_header(tmp_path / "f") == header


def test_tensor_infos_are_values() -> None:
    info = TensorInfo("a", "int8", (2, 3), 100, 106)
    assert info == TensorInfo("a", "int8", (2, 3), 100, 106)
    assert (info.nbytes, info.count, info.is_float) == (6, 6, False)
    with pytest.raises(AttributeError):
        info.begin = 0  # type: ignore[misc]


@pytest.mark.processes
def test_formats_load_no_heavy_library() -> None:
    """`plan` reads headers, and must not wait for torch."""
    code = (
        "import sys, mergebuild.formats; print(sorted({'torch', 'numpy', 'safetensors', 'ctypes'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
