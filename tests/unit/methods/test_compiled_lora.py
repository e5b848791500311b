"""What LoRAs add has the bits of the torch kernel where compiled kernels make it; the rest they leave to torch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from math import prod
from typing import NamedTuple

import pytest
import torch
from compiled_driver import DTYPES, Stored, running_with, stored
from example_counts import examples
from hypothesis import given
from hypothesis import strategies as st

from mergebuild import native
from mergebuild.lora import DeltaSum, Fact, ShapedDelta
from mergebuild.methods.compiled import lora
from mergebuild.methods.kernels.lora import LoraDeltas

FACTORS = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
NUMBERS = ("float64", "float32", "float16", "bfloat16")
HARD = (0.0, -0.0, 1.0, 2.0**-149, -(2.0**-126), 3.4e38, -3.4e38, 65504.0, float("inf"), -float("inf"), float("nan"))
"""Values at the ends of arithmetic."""

Shape = tuple[int, ...]


class Given(NamedTuple):
    """What is added to a tensor of a shape, and all factors in their order."""

    added: DeltaSum
    shape: Shape
    factors: Sequence[Stored]


def numbers(data: st.DataObject, shape: Shape, dtypes: Sequence[str]) -> Stored:
    """Draw a tensor: values of about one size, of many sizes, or hard ones."""
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 999), "seed"))
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    match data.draw(st.sampled_from(("plain", "plain", "many sizes", "hard")), "kind"):
        case "many sizes":
            values *= 10.0 ** torch.randint(-12, 9, shape, generator=generator)
        case "hard":
            chance = random.Random(data.draw(st.integers(0, 999), "places"))
            flat = values.view(-1)
            for place in range(len(flat)):
                if chance.random() < 0.3:
                    flat[place] = chance.choice(HARD)
    found = stored(values, data.draw(st.sampled_from(dtypes), "dtype"))
    return found._replace(values=values.to(DTYPES[found.dtype]))


def delta(data: st.DataObject, shape: Shape) -> tuple[ShapedDelta, Sequence[Stored]]:
    """Draw what a module adds to a tensor or to some of its rows, with its factors."""
    ends = st.tuples(st.integers(0, shape[0]), st.integers(0, shape[0])).map(sorted)
    rows = data.draw(st.none() | ends, "rows")
    low, high = rows or (0, shape[0])
    facts: dict[str, Fact] = {"offset": data.draw(st.integers(0, 3), "offset")}
    family = data.draw(st.sampled_from(("lora", "peft_embedding", "loha", "full")), "family")
    made = (high - low + int(facts["offset"]), *shape[1:])
    roles: dict[str, Shape] = {"diff": made}
    if family != "full":
        facts["transposed"] = data.draw(st.booleans(), "transposed")
        roles = sides(data, family, (made[0], prod(made[1:])), turned=bool(facts["transposed"]))
    dtypes = (*FACTORS, "float64") if family == "full" else FACTORS
    factors = [numbers(data, each, dtypes) for each in roles.values()]
    for role in (
        data.draw(st.sets(st.sampled_from(("alpha", "scale", "rank", "rslora"))), "scale") if len(roles) > 1 else ()
    ):
        if role == "rank":
            facts["rank"] = data.draw(st.integers(1, 40), "divisor")
        elif role == "rslora":
            facts["rslora"] = True
        else:
            roles[role] = data.draw(st.sampled_from(((), (1,))), "shape of a number")
            factors.append(number(data, roles[role]))
    place = None if rows is None else (low, high)
    return ShapedDelta(family, tuple(roles.items()), place, tuple(sorted(facts.items()))), factors


def sides(data: st.DataObject, family: str, size: tuple[int, int], *, turned: bool) -> dict[str, Shape]:
    """Draw the shapes of the factors of a product, or of two, that makes so many rows and columns."""
    rows, columns = size[::-1] if turned else size
    found: dict[str, Shape] = {}
    for left, right in (("w1_a", "w1_b"), ("w2_a", "w2_b")) if family == "loha" else (("up", "down"),):
        rank = data.draw(st.integers(1, 5) | st.sampled_from((17, 40)), "rank")
        points = data.draw(st.sampled_from(((), (1, 1))), "kernel")
        found |= {left: (rows, rank, *points), right: (rank, columns, *points)}
    return found


def number(data: st.DataObject, shape: Shape) -> Stored:
    """Draw a single number."""
    value = torch.full(shape, data.draw(st.sampled_from((0.0, 1.0, 0.3, -8.0, 1e-30)), "number"), dtype=torch.float64)
    found = stored(value, data.draw(st.sampled_from(NUMBERS), "dtype of a number"))
    return found._replace(values=value.to(DTYPES[found.dtype]))


def drawn(data: st.DataObject) -> Given:
    shape = data.draw(
        st.sampled_from(((5, 7), (1, 1), (9, 16), (17, 33), (3, 2, 3, 3), (8,), (40, 130), (0, 4), (3, 0))), "shape"
    )
    deltas = [delta(data, shape) for _ in range(data.draw(st.integers(1, 3), "modules"))]
    return Given(DeltaSum(tuple(each for each, _ in deltas)), shape, [each for _, some in deltas for each in some])


def by_torch(known: Given) -> bytes:
    made = LoraDeltas(known.added, known.shape)
    made.take([each.values.reshape(-1) for each in known.factors])
    out = torch.empty(prod(known.shape))
    return bits(made.fill(out, 0, None).numpy().tobytes())


def compiled(known: Given, cuts: random.Random | None) -> bytes:
    """Return all rows, made in chunks, as one that is read by others and as one that is written."""
    factors = [(memoryview(each.bytes), each.dtype) for each in known.factors]
    applied = lora.applied(known.added, known.shape, factors)
    unit, count = max(1, prod(known.shape[1:])), prod(known.shape)
    assert applied.is_given
    found, start = b"", 0
    while start < count:
        size = min(count - start, unit * (cuts.randint(1, 9) if cuts else count))
        given = applied.given((), (start, size))
        room = bytearray(4 * size)
        native.apply(applied.kernel, given, room, "float32", (start, size))
        assert bits(bytes(given[0][0])) == bits(bytes(room))
        found += bytes(room)
        start += size
    return bits(found)


def bits(lying: bytes) -> bytes:
    """Return float32 values with one NaN for all: which it is shows nowhere."""
    values = torch.frombuffer(bytearray(lying), dtype=torch.float32) if lying else torch.empty(0)
    return bytes(
        values.nan_to_num(torch.nan, torch.inf, -torch.inf).abs().where(values.isnan(), values).numpy().tobytes()
    )


@examples(150)
@given(data=st.data())
def test_what_is_added_has_the_bits_of_the_torch_kernel(data: st.DataObject) -> None:
    """Of all that is taken, in any dtypes, shapes and cuts, with every instruction set."""
    known = drawn(data)
    cuts = data.draw(st.none() | st.integers(0, 999).map(random.Random), "cuts")
    assert lora.takes(known.added, known.shape, [each.dtype for each in known.factors])
    wanted = by_torch(known)
    for variant in native.variants():
        with running_with(variant):
            assert compiled(known, cuts) == wanted, variant


@pytest.mark.parametrize("dtype", FACTORS)
@pytest.mark.parametrize("shape", [(300, 320, 1, 1), (130, 1000), (2, 40_000), (700, 5)], ids=str)
def test_large_tensors_come_out_alike(shape: Shape, dtype: str) -> None:
    """Of more rows and columns than are made together, with ranks that people use."""
    generator = torch.Generator().manual_seed(7)
    for rank in (1, 32, 67):
        roles = {"up": (shape[0], rank, *(1 for _ in shape[2:])), "down": (rank, *shape[1:])}
        factors = [stored(0.1 * torch.randn(each, generator=generator), dtype) for each in roles.values()]
        factors = [each._replace(values=each.values.to(DTYPES[dtype])) for each in factors]
        module = ShapedDelta("lora", tuple(roles.items()), None, (("alpha", Fraction(9)), ("rank", rank)))
        known = Given(DeltaSum((module,)), shape, factors)
        wanted = by_torch(known)
        for variant in native.variants():
            with running_with(variant):
                assert compiled(known, random.Random(rank)) == wanted, variant


UP_AND_DOWN = (("up", (6, 2)), ("down", (2, 4)))
LEFT_TO_TORCH = {
    "factors of float64": (ShapedDelta("lora", UP_AND_DOWN, None, ()), ("float64", "float16")),
    "a decomposed weight": (
        ShapedDelta("lora", (*UP_AND_DOWN, ("dora_scale", (6, 1))), None, (("dora", "rows"),)), ("float16",) * 3
    ),
    "fewer channels": (ShapedDelta("lora", UP_AND_DOWN, None, (("channels", 4),)), ("float16",) * 2),
    "a core": (ShapedDelta("tucker", (*UP_AND_DOWN, ("mid", (2, 2, 1, 1))), None, ()), ("float16",) * 3),
    "a Kronecker product": (ShapedDelta("lokr", (("w1", (3, 2)), ("w2", (2, 2))), None, ()), ("float16",) * 2),
    "LoHa with cores": (
        ShapedDelta(
            "loha", (("w1_a", (2, 6)), ("w1_b", (2, 4)), ("w2_a", (2, 6)), ("w2_b", (2, 4)), ("t1", (2, 2, 1, 1)),
                     ("t2", (2, 2, 1, 1))), None, ()
        ),
        ("float16",) * 6,
    ),
    "gains": (ShapedDelta("ia3", (("ia3", (6,)),), None, (("peft", True), ("on_input", False))), ("float16",)),
    "an alpha that is an integer": (
        ShapedDelta("lora", (*UP_AND_DOWN, ("alpha", ())), None, (("rank", 2),)), ("float16", "float16", "int64")
    ),
    "what is missing": (ShapedDelta("lora", UP_AND_DOWN, None, ()), ("float16",)),
}  # fmt: skip


@pytest.mark.parametrize("what", LEFT_TO_TORCH)
def test_what_is_left_to_torch_is_not_taken(what: str) -> None:
    """Alone or beside what is."""
    module, dtypes = LEFT_TO_TORCH[what]
    usual = ShapedDelta("lora", UP_AND_DOWN, None, ())
    assert lora.takes(DeltaSum((usual,)), (6, 4), ("float16", "float32"))
    assert not lora.takes(DeltaSum((module,)), (6, 4), dtypes)
    assert not lora.takes(DeltaSum((usual, module)), (6, 4), ("float16", "float32", *dtypes))
