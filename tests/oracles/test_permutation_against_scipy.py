"""Assignments against scipy's, and the blocks of SDXL against sd-mecha's graph of permutations."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sd_mecha.extensions.builtin.merge_methods.rebasin.sdxl_sgm import perm_graph, sdxl_config

from mergebuild.methods.kernels.assignment import assignment, rounded
from mergebuild.methods.scopes.channels import blocks


@pytest.mark.parametrize(("problems", "size"), [(1, 1), (7, 2), (20, 12), (3, 64), (1, 200)])
@pytest.mark.parametrize("kind", ["random", "few values", "dots"])
def test_assignments_are_as_good(kind: str, problems: int, size: int) -> None:
    source = torch.Generator().manual_seed(size)
    scores = {
        "random": torch.randn(problems, size, size, generator=source),
        "few values": torch.randint(1, 5, (problems, size, size), generator=source).float(),
        "dots": torch.randn(problems, size, 9, generator=source) @ torch.randn(problems, 9, size, generator=source),
    }[kind]
    whole = rounded(scores, float(scores.abs().max()))
    ours = whole.gather(2, assignment(whole)[:, :, None]).sum((1, 2))
    for each, mine in zip(whole, ours.tolist(), strict=True):
        rows, columns = linear_sum_assignment(each.numpy(), maximize=True)
        assert mine == int(each[rows, columns].sum())


def test_all_that_sd_mecha_reorders_is_in_a_block() -> None:
    """Ours has the residual blocks besides; heads of 64 rows, where sd-mecha has 64 heads of whatever rows."""
    shapes = {name: tuple(each.shape) for name, each in sdxl_config.metadata().items()}
    ours = {name for block in blocks(shapes) for name in block.tensors}
    theirs = perm_graph.keys_with_perms()
    assert theirs <= ours
    assert all("in_layers.2" in name or "emb_layers" in name or "out_layers" in name for name in ours - theirs)
