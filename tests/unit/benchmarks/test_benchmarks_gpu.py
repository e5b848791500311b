"""The GPU's benchmark, as far as no GPU is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli

from benchmarks import gpu
from benchmarks.lab import Lab
from mergebuild.engine import devices
from mergebuild.methods.catalog import METHODS

pytestmark = pytest.mark.processes


def test_every_exact_method_is_tried() -> None:
    """But for LoRAs', which have files of their own kind."""
    tried = dict(gpu.every_exact_method())
    left = {name for name, method in METHODS.items() if method.exact} - tried.keys()
    assert all(METHODS[name].makes.makes_lora or METHODS[name].listed == "loras" for name in left)
    assert {"weighted_sum", "ties", "della", "slerp"} <= tried.keys()
    for name, text in tried.items():
        assert tomli.loads(text)["targets"][name]["method"] == name


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(devices, "devices", list)
    assert gpu.main([]) == 2
    assert "there is no device `cuda:0` here" in capsys.readouterr().err


def test_files_are_compared_to_the_last_byte(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.mkdir()
    for name, first, second in (("a", b"12", b"12"), ("b", b"12", b"13"), ("c", b"12", b"1")):
        (one / f"{name}.safetensors").write_bytes(first)
        (other / f"{name}.safetensors").write_bytes(second)
    (one / "d.safetensors").touch()
    assert gpu.equal_files(one, other) == {
        "a.safetensors": True, "b.safetensors": False, "c.safetensors": False, "d.safetensors": False
    }  # fmt: skip


def test_a_case_says_how_fast_and_whether_the_same(tmp_path: Path) -> None:
    """The processor beside itself, on small models."""
    row = gpu._case(Lab(tmp_path, shrink=32), "weighted_sum", "cpu", 1e9)
    assert row["same"] is True
    assert float(str(row["times"])) > 0
    text = "\n".join(gpu._table([row], {"ties": True, "slerp": False}))
    assert "weighted_sum" in text
    assert text.endswith("1 of 2 exact methods have the same bytes; not: slerp")
