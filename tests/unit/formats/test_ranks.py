"""Files of which each holds a part of the tensors are known by their names."""

from __future__ import annotations

import pytest

from mergebuild.formats.ranks import may_be_one, ranks


@pytest.mark.parametrize(
    "names",
    [
        "consolidated.00.pth consolidated.01.pth",
        "mp_rank_00_model_states.pt mp_rank_01_model_states.pt",
        "zero_pp_rank_0_mp_rank_00_optim_states.pt zero_pp_rank_1_mp_rank_00_optim_states.pt",
        "__0_0.distcp __1_0.distcp",
        "model_world_size_2_rank_0.pt model_world_size_2_rank_1.pt",
        "model.rank0.safetensors model.rank1.safetensors",
    ],
)
def test_parts_of_one_checkpoint_are_known(names: str) -> None:
    found = ranks([*names.split(), "params.json"])
    assert found is not None
    assert found.names == tuple(sorted(names.split()))
    assert all(map(may_be_one, names.split()))
    assert "part of" in found.sentence


@pytest.mark.parametrize(
    "names",
    [
        "consolidated.00.pth params.json",
        "consolidated.safetensors model.safetensors",
        "style_rank16.safetensors style_rank32.safetensors",
        "model-00001-of-00002.safetensors model-00002-of-00002.safetensors",
        "a.safetensors b.safetensors",
    ],
)
def test_what_is_whole_or_a_shard_is_no_part_of_tensors(names: str) -> None:
    assert ranks(names.split()) is None
