"""First layers with other numbers of channels, put together without reading a byte."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_files import values, write_model

from mergebuild.formats.model import Model
from mergebuild.sources.channels import Joint, LyingChannels, cut, is_served, joined
from mergebuild.sources.opening import read_model

NAME = "img_in.weight"
SHAPES = [(6, 9, 3, 3), (6, 12), (4, 5, 1, 2, 2)]


def lying(path: Path, tensor: torch.Tensor) -> LyingChannels:
    return LyingChannels(read_model(write_model(path, {NAME: tensor})), NAME)


def value(model: Model) -> torch.Tensor:
    return values(model)[NAME]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_channels_are_cut_and_joined(tmp_path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """The first ones, those of one model and then another's, and zeros for either."""
    wide, narrow = torch.randn(shape).to(dtype), torch.randn((shape[0], 3, *shape[2:])).to(dtype)
    many, few = lying(tmp_path / "wide.safetensors", wide), lying(tmp_path / "narrow.safetensors", narrow)
    zero = LyingChannels(read_model(write_model(tmp_path / "z.safetensors", {"z": torch.arange(3)})), "z")
    word = {torch.float32: "float32", torch.float16: "float16"}[dtype]
    joint = Joint(NAME, word, shape, 3)
    assert torch.equal(value(cut(many, NAME, 3)), wide[:, :3])
    assert torch.equal(value(joined(few, many, zero, joint)), torch.cat([narrow, wide[:, 3:]], 1))
    none = torch.zeros_like(wide)
    assert torch.equal(value(joined(few, None, zero, joint)), torch.cat([narrow, none[:, 3:]], 1))
    assert torch.equal(value(joined(None, many, zero, joint)), torch.cat([none[:, :3], wide[:, 3:]], 1))


def test_what_is_joined_of_rows_in_parts_is_not_put_together_again(tmp_path: Path) -> None:
    """A cut one is: its pieces are whole rows."""
    many = lying(tmp_path / "wide.safetensors", torch.randn(4, 6))
    few = lying(tmp_path / "narrow.safetensors", torch.randn(4, 2))
    assert is_served(LyingChannels(cut(many, NAME, 3), NAME))
    assert torch.equal(value(cut(LyingChannels(cut(many, NAME, 3), NAME), NAME, 2)), value(cut(many, NAME, 2)))
    assert not is_served(LyingChannels(joined(few, many, few, Joint(NAME, "float32", (4, 6), 2)), NAME))
