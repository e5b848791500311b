"""Deltas of every family against their formulas, written out in float64 as other tools give them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from functools import reduce
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mergebuild.errors import SourceError
from mergebuild.lora import needs
from mergebuild.methods.kernels.lora import FactorSource, blocks, delta

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
Shape = tuple[int, ...]


def made(shapes: Mapping[str, Shape], dtype: torch.dtype, seed: int = 1) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {
        role: torch.tensor(6.0, dtype=dtype) if not shape else (torch.randn(shape, generator=source) * 0.3).to(dtype)
        for role, shape in shapes.items()
    }


def tucker(core: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return torch.einsum("nm...,in,mj->ij...", core, left.flatten(1), right.flatten(1))


def loha_side(core: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return torch.einsum("ir...,ij->jr...", torch.einsum("ij...,jr->ir...", core, right), left)


def reference(family: str, f: Mapping[str, Tensor], shape: Shape) -> Tensor:
    """Return a delta in float64, before it is scaled."""
    f = {role: tensor.double() for role, tensor in f.items()}
    match family:
        case "lora":
            up, down = f["up"].flatten(1), f["down"].flatten(1)
            found = torch.stack([torch.stack([(up[i] * down[:, j]).sum() for j in range(down.shape[1])])
                                 for i in range(up.shape[0])])  # fmt: skip
        case "tucker":
            found = tucker(f["mid"], f["up"], f["down"])
        case "loha" if "t1" in f:
            found = loha_side(f["t1"], f["w1_a"], f["w1_b"]) * loha_side(f["t2"], f["w2_a"], f["w2_b"])
        case "loha":
            found = (f["w1_a"] @ f["w1_b"]) * (f["w2_a"] @ f["w2_b"])
        case "lokr":
            one = f["w1"] if "w1" in f else f["w1_a"] @ f["w1_b"]
            if "t2" in f:
                two = torch.einsum("ij...,ip,jr->pr...", f["t2"], f["w2_a"], f["w2_b"])
            else:
                two = f["w2"] if "w2" in f else f["w2_a"] @ f["w2_b"]
            found = torch.kron(one.reshape(*one.shape, *(1 for _ in two.shape[2:])), two.contiguous())
        case _:
            (found,) = f.values()
    return found.reshape(shape)


FAMILIES: list[tuple[str, dict[str, Shape], Shape]] = [
    ("lora", {"up": (12, 4), "down": (4, 10)}, (12, 10)),
    ("lora", {"up": (12, 1, 1, 1), "down": (1, 5, 3, 3)}, (12, 5, 3, 3)),
    ("lora", {"up": (12, 4), "down": (4, 10)}, (12, 10, 1, 1)),
    ("tucker", {"up": (12, 3, 1, 1), "mid": (3, 2, 3, 3), "down": (2, 5, 1, 1)}, (12, 5, 3, 3)),
    ("loha", {"w1_a": (12, 3), "w1_b": (3, 10), "w2_a": (12, 2), "w2_b": (2, 10)}, (12, 10)),
    ("loha", {"w1_a": (12, 3), "w1_b": (3, 45), "w2_a": (12, 3), "w2_b": (3, 45)}, (12, 5, 3, 3)),
    ("loha", {"w1_a": (3, 12), "w1_b": (3, 5), "t1": (3, 3, 3, 3), "w2_a": (3, 12), "w2_b": (3, 5), "t2": (3, 3, 3, 3)},
     (12, 5, 3, 3)),
    ("lokr", {"w1": (3, 2), "w2": (4, 5)}, (12, 10)),
    ("lokr", {"w1_a": (3, 2), "w1_b": (2, 2), "w2_a": (4, 2), "w2_b": (2, 5)}, (12, 10)),
    ("lokr", {"w1": (3, 2), "w2": (4, 5, 3, 3)}, (12, 10, 3, 3)),
    ("lokr", {"w1": (3, 2), "w2_a": (4, 2), "w2_b": (2, 45)}, (12, 10, 3, 3)),
    ("lokr", {"w1": (3, 2), "w2_a": (2, 4), "w2_b": (2, 5), "t2": (2, 2, 3, 3)}, (12, 10, 3, 3)),
    ("full", {"diff": (12, 10)}, (12, 10)),
    ("norm", {"w_norm": (12,)}, (12,)),
    ("bias", {"up_bias": (12,)}, (12,)),
]  # fmt: skip
every_family = pytest.mark.parametrize(("family", "shapes", "shape"), FAMILIES, ids=str)
SCALED = [case for case in FAMILIES if case[0] not in {"full", "norm"}]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@every_family
def test_without_a_scale(family: str, shapes: dict[str, Shape], shape: Shape, dtype: torch.dtype) -> None:
    factors = made(shapes, dtype)
    found = delta(family, factors, {}, shape)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), reference(family, factors, shape), rtol=1e-7, atol=1e-15)


@pytest.mark.parametrize(
    ("facts", "more", "scale"),
    [
        ({"rank": 3}, {}, 1),
        ({"rank": 3}, {"alpha": 6.0}, 2),
        ({"rank": 4}, {"alpha": 1.0}, 0.25),
        ({"rank": 3}, {"alpha": 1.0}, 1 / 3),
        ({"rank": 3, "alpha": Fraction(1)}, {}, 1 / 3),
        ({"rank": 3, "alpha": Fraction(3, 2), "rslora": True}, {}, 1.5 / math.sqrt(3)),
        ({"rank": 3, "alpha": Fraction(1)}, {"alpha": 6.0}, 2),
        ({"rank": 3}, {"alpha": 6.0, "scale": -0.75}, -0.75),
        ({}, {"alpha": 6.0}, 1),
    ],
)
@pytest.mark.parametrize(("family", "shapes", "shape"), SCALED, ids=str)
def test_the_scale(
    family: str, shapes: dict[str, Shape], shape: Shape, facts: dict[str, Any], more: dict[str, float], scale: float
) -> None:
    if family == "bias" and more:
        return
    factors = made(shapes, torch.float16)
    found = delta(family, factors | {role: torch.tensor(value) for role, value in more.items()}, facts, shape)
    wanted = scale * reference(family, factors, shape)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-7, atol=1e-15)


def test_an_alpha_of_0_adds_nothing_whatever_the_factors_are() -> None:
    factors = {"up": torch.full((4, 2), math.inf), "down": torch.ones(2, 3), "alpha": torch.tensor(0.0)}
    assert torch.equal(delta("lora", factors, {"rank": 2}, (4, 3)), torch.zeros(4, 3))


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.375, 1 / 3])
def test_half_precision_does_not_depend_on_the_order_of_the_sum(scale: float) -> None:
    """Ranks, rows and columns in any order, in blocks or at once: the same bits."""
    factors = made({"up": (96, 64), "down": (64, 80)}, torch.float16)
    factors["scale"] = torch.tensor(scale, dtype=torch.float64)
    found = delta("lora", factors, {"rank": 64}, (96, 80))
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    turned = factors | {"up": factors["up"][:, order], "down": factors["down"][order]}
    assert torch.equal(delta("lora", turned, {"rank": 64}, (96, 80)), found)
    other = FactorSource("lora", turned, {"rank": 64}, (96, 80))
    pieces = torch.cat([other.rows(first, last) for first, last in pairwise([0, 1, 8, 50, 96])])
    assert torch.equal(pieces, found)


def summed(left: Tensor, right: Tensor) -> Tensor:
    """Return a product whose terms are added up in the order of the rank, each operation rounded by itself."""
    return torch.tensor(
        [[reduce(lambda total, k: total + row[k] * column[k], range(len(row)), 0.0) for column in right.T.tolist()]
         for row in left.tolist()],
        dtype=torch.float64,
    ).view(len(left), right.shape[1])  # fmt: skip


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(5, 31, 7), (1, 1, 1), (0, 3, 4), (64, 3, 1), (3, 0, 5)], ids=str)
def test_terms_are_added_up_in_the_order_of_the_rank(dtype: torch.dtype, shape: Shape) -> None:
    """Then what they come to is multiplied, and rounded once: rows, columns, rank of any number."""
    rows, rank, columns = shape
    factors = made({"up": (rows, rank), "down": (rank, columns)}, dtype, seed=5)
    factors["up"] *= 10.0 ** torch.arange(rank).remainder(9).sub(4).to(dtype)
    if dtype == torch.float64:
        factors = {role: each * (1 + 2.0**-40) for role, each in factors.items()}
    scale = torch.tensor(1 / 3, dtype=torch.float64)
    wanted = (summed(factors["up"], factors["down"]) * scale).float()
    assert torch.equal(delta("lora", factors | {"scale": scale}, {}, (rows, columns)), wanted)


def test_products_of_what_was_multiplied_before_are_rounded_before_they_are_added() -> None:
    """A contracted core has digits beyond float32's, so that its products are not exact."""
    factors = made({"up": (40, 8, 1, 1), "mid": (8, 8, 3, 3), "down": (8, 30, 1, 1)}, torch.float32)
    up, mid, down = (factors[role].double() for role in ("up", "mid", "down"))
    points = torch.stack([summed(mid[:, :, i, j], down.flatten(1)) for i in range(3) for j in range(3)], dim=2)
    wanted = summed(up.flatten(1), points.flatten(1)).float()
    assert torch.equal(delta("tucker", factors, {}, (40, 30, 3, 3)), wanted.view(40, 30, 3, 3))


@every_family
def test_blocks_and_neighbours_do_not_matter(family: str, shapes: dict[str, Shape], shape: Shape) -> None:
    """Rows of what is large, alone and in any blocks; every family, and decomposed weights too."""
    factors = made(shapes, torch.float32, seed=3)
    weight = made({"w": shape}, torch.float32, seed=4)["w"]
    for facts in ({}, {"dora": "rows"}) if len(shape) > 1 and family not in {"full", "norm", "bias"} else ({},):
        more = {"dora_scale": torch.rand(shape[0])} if facts else {}
        whole = delta(family, factors | more, facts, shape, weight).view(shape[0], -1)
        found = FactorSource(family, factors | more, facts, shape, weight)
        flat = weight.view(shape[0], -1)
        pieces = [found.rows(first, last, flat[first:last]) for first, last in pairwise([0, 1, 6, 7, 12])]
        assert torch.equal(torch.cat(pieces).view_as(whole), whole)


@pytest.mark.parametrize(("family", "shapes", "shape"), [case for case in FAMILIES if len(case[2]) == 2], ids=str)
def test_transposed(family: str, shapes: dict[str, Shape], shape: Shape) -> None:
    factors = made(shapes, torch.float32)
    found = delta(family, factors, {"transposed": True}, shape[::-1])
    assert torch.equal(found, delta(family, factors, {}, shape).T)


def test_an_embedding_is_the_transpose_of_the_product() -> None:
    factors = made({"up": (6, 3), "down": (3, 20)}, torch.float32)
    found = delta("peft_embedding", factors, {"transposed": True, "rank": 3, "alpha": 6}, (20, 6))
    torch.testing.assert_close(found, 2 * (factors["up"] @ factors["down"]).T)


@every_family
def test_an_offset_takes_later_rows(family: str, shapes: dict[str, Shape], shape: Shape) -> None:
    factors = made(shapes, torch.float32)
    whole = delta(family, factors, {}, shape)
    assert torch.equal(delta(family, factors, {"offset": 4}, (5, *shape[1:])), whole[4:9])


def decomposed(weight: Tensor, added: Tensor, magnitude: Tensor, axis: str) -> Tensor:
    """Return W' - W of a decomposed weight, in float64."""
    direction = weight.double() + added
    flat = direction.flatten(1) if axis == "rows" else direction.transpose(0, 1).flatten(1)
    norms = flat.square().sum(1).sqrt()
    shape = (-1, *(1 for _ in direction.shape[1:])) if axis == "rows" else (1, -1, *(1 for _ in direction.shape[2:]))
    return direction * (magnitude.double().flatten() / norms).reshape(shape) - weight.double()


@pytest.mark.parametrize("axis", ["rows", "columns"])
@pytest.mark.parametrize(("family", "shapes", "shape"), [case for case in SCALED if len(case[2]) > 1], ids=str)
def test_a_decomposed_weight(family: str, shapes: dict[str, Shape], shape: Shape, axis: str) -> None:
    weight = made({"w": shape}, torch.float32, 7)["w"]
    factors = made(shapes, torch.float16)
    scaled = reference(family, factors, shape) / 3
    factors["dora_scale"] = made({"m": (shape[0], 1) if axis == "rows" else (1, shape[1])}, torch.float32, 3)["m"]
    factors["alpha"] = torch.tensor(1.0)
    found = delta(family, factors, {"rank": 3, "dora": axis}, shape, weight)
    wanted = decomposed(weight, scaled, factors["dora_scale"], axis)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_a_decomposed_weight_that_is_stored_transposed(axis: str) -> None:
    weight = made({"w": (12, 10)}, torch.float32, 7)["w"]
    factors = made({"up": (12, 3), "down": (3, 10), "dora_scale": (12 if axis == "rows" else 10,)}, torch.float32)
    plain = delta("lora", factors, {"rank": 3, "dora": axis}, (12, 10), weight)
    facts = {"rank": 3, "dora": axis, "transposed": True}
    turned = delta("lora", factors, facts, (10, 12), weight.T.contiguous())
    torch.testing.assert_close(turned, plain.T)


@pytest.mark.parametrize("axis", ["rows", "columns"])
def test_where_a_norm_is_0_so_is_the_result(axis: str) -> None:
    weight = torch.ones(3, 3)
    weight[1] = 0
    weight[:, 1] = 0
    factors = {"up": torch.zeros(3, 1), "down": torch.zeros(1, 3), "dora_scale": torch.ones(3)}
    found = delta("lora", factors, {"rank": 1, "dora": axis}, (3, 3), weight)
    assert torch.isfinite(found).all()
    assert torch.equal((weight + found) == 0, weight == 0)


@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 3, 3), (12,)], ids=str)
@pytest.mark.parametrize("on_input", [True, False])
@pytest.mark.parametrize("peft", [True, False])
def test_ia3(shape: Shape, on_input: bool, peft: bool) -> None:
    """PEFT multiplies the weight by what it learns; kohya's trainers learn what is added, from 0."""
    if on_input and len(shape) == 1:
        return
    weight = made({"w": shape}, torch.float32, 7)["w"]
    gains = made({"g": (1, shape[1]) if on_input else (shape[0], 1)}, torch.float32)["g"]
    factors = {"ia3": gains} if peft else {"weight": gains, "on_input": torch.tensor(int(on_input))}
    facts = {"peft": True, "on_input": on_input} if peft else {}
    wide = gains.reshape((1, -1) if on_input else (-1,) if len(shape) == 1 else (-1, 1)).double()
    wide = wide.reshape(*wide.shape, *(1 for _ in shape[2:]))
    wanted = weight.double() * (wide - 1 if peft else wide)
    found = delta("ia3", factors, facts, shape, weight)
    torch.testing.assert_close(found.double(), wanted, rtol=1e-7, atol=1e-15)
    if len(shape) == 2:
        turned = delta("ia3", factors, facts | {"transposed": True}, shape[::-1], weight.T.contiguous())
        assert torch.equal(turned, found.T)


def test_gains_that_contradict_their_number_are_refused() -> None:
    factors = {"weight": torch.ones(5), "on_input": torch.tensor(0)}
    with pytest.raises(SourceError) as caught:
        delta("ia3", factors, {}, (12, 5), torch.ones(12, 5))
    assert caught.value.problems[0].code == "lora-shape"


def test_what_replaces_adds_the_difference() -> None:
    old, new = torch.tensor([[1.0, 2.0]]), torch.tensor([[5.0, 0.5]], dtype=torch.float16)
    assert torch.equal(delta("replace", {"weight": new}, {}, (1, 2), old), torch.tensor([[4.0, -1.5]]))


@pytest.mark.parametrize(
    ("family", "facts", "wanted"),
    [
        ("lora", {}, "nothing"),
        ("full", {}, "nothing"),
        ("lora", {"dora": "rows"}, "rows"),
        ("lokr", {"dora": "columns"}, "whole"),
        ("lora", {"dora": "rows", "transposed": True}, "whole"),
        ("lora", {"dora": "columns", "transposed": True}, "rows"),
        ("ia3", {}, "rows"),
        ("replace", {}, "rows"),
    ],
)
def test_what_must_be_known_of_the_weight(family: str, facts: dict[str, Any], wanted: str) -> None:
    assert needs(family, facts) == wanted


@given(st.lists(st.integers(0, 3000), max_size=3))
def test_blocks_cover_the_rows_once(shape: list[int]) -> None:
    found = list(blocks(shape))
    rows = shape[0] if shape else 1
    assert [row for first, last in found for row in range(first, last)] == list(range(rows))
