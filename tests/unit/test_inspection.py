"""What `inspect` says is what the bytes are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.errors import SourceError
from mergebuild.events import Event, Hashing
from mergebuild.inspection import inspect


def write(path: Path, tensors: dict[str, tuple[str, list[int], int]], metadata: dict[str, str] | None = None) -> bytes:
    """Write tensors, given as tag, shape and size in bytes; return the whole file."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    offset = 0
    for name, (tag, shape, size) in tensors.items():
        header[name] = {"dtype": tag, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    raw = json.dumps(header).encode()
    data = hashlib.shake_128(raw).digest(offset)
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    return path.read_bytes()


SD15 = {
    "model.diffusion_model.input_blocks.1.1.proj_in.weight": ("F16", [320, 320, 1, 1], 204800),
    "model.diffusion_model.input_blocks.0.0.weight": ("F16", [320, 4, 3, 3], 23040),
    "cond_stage_model.transformer.text_model.embeddings.position_ids": ("I64", [1, 77], 616),
    "model_ema.decay": ("F32", [], 4),
    "odd": ("F32", [2], 8),
}


def test_counts_and_components_add_up(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    raw = write(path, SD15, {"z": "1", "format": "pt"})
    found = inspect(path, with_tensors=True)
    assert (found.path, found.format, found.tensors, found.bytes) == (str(path), "safetensors", 5, len(raw))
    assert found.dtypes == {"float16": 2, "float32": 2, "int64": 1}
    assert found.metadata == {"format": "pt", "z": "1"}
    assert list(found.metadata) == ["format", "z"]
    assert sum(int(str(facts["tensors"])) for facts in found.components.values()) == 5
    assert sum(int(str(facts["bytes"])) for facts in found.components.values()) == 228468
    assert found.components["ema"] == {"tensors": 1, "bytes": 4, "dtypes": {"float32": 1}}
    assert ("odd", "float32", (2,), 8) in found.tensor_list


def test_ema_copies_make_a_file_full(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write(path, SD15)
    assert inspect(path).weights == "full"
    write(path, {"odd": ("F32", [2], 8)})
    assert inspect(path).weights == "pruned"
    assert inspect(path).tensor_list == ()


@given(st.dictionaries(st.text("abc", min_size=1), st.text(max_size=5), max_size=3))
def test_metadata_change_all_hashes_but_autov3(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("m") / "m.safetensors"
    raw = write(path, {"a": ("U8", [64], 64)}, metadata | {"x": "1"})
    with_metadata = inspect(path).hashes
    header = b'{"a":{"dtype":"U8","shape":[64],"data_offsets":[0,64]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[-64:])
    without = inspect(path).hashes
    assert with_metadata["autov3"] == without["autov3"]
    assert with_metadata["sha256"] != without["sha256"]


def test_the_reading_is_announced_under_the_name_that_is_shown(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    raw = write(path, {"a": ("U8", [8], 8)})
    events: list[Event] = []
    assert inspect(path, shown="models/m", emit=events.append).path == "models/m"
    assert events == [Hashing("models/m", len(raw))]


def test_what_is_no_safetensors_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"oops")
    with pytest.raises(SourceError):
        inspect(tmp_path / "m.safetensors")
    with pytest.raises(SourceError):
        inspect(tmp_path / "missing.safetensors")
