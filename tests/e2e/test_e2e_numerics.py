"""What the values are: float32 arithmetic in one form, rounded once; equal inputs give themselves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction

import pytest
import torch
from float64_reference import closeness, combination
from model_files import as_bytes, same_bits
from project_space import Space
from tiny_models import INTEGERS, NAMES, block_names, sd15
from torch import Tensor

pytestmark = pytest.mark.portable

Model = Mapping[str, Tensor]
Coefficients = Callable[[str], tuple[str, ...]]

SOURCES = """
[sources]
one = "one.safetensors"
two = "two.safetensors"
three = "three.safetensors"
"""


def _blockwise(name: str) -> tuple[str, ...]:
    if name in block_names("IN04"):
        return ("0.1", "0.9", "0")
    if "input_blocks" in name or "time_embed" in name:
        return ("0.9", "0.1", "0")
    if any(name in block_names(block) for block in ("OUT07", "OUT08", "OUT09")):
        return ("0.55", "0.45", "0")
    return ("0.75", "0.25", "0")


RECIPES: Mapping[str, tuple[str, Coefficients]] = {
    "weighted_sum": (
        """
        method = "weighted_sum"
        a = "one"
        b = "two"
        alpha = 0.3
        """,
        lambda _: ("0.7", "0.3", "0"),
    ),
    "add_difference": (
        """
        method = "add_difference"
        a = "one"
        b = "two"
        c = "three"
        alpha = 0.7
        """,
        lambda _: ("1", "0.7", "-0.7"),
    ),
    "chain of three steps": (
        """
        method = "weighted_sum"
        a = "second"
        b = "three"
        alpha = 0.35
        [targets.first]
        method = "weighted_sum"
        a = "one"
        b = "two"
        alpha = 0.15
        [targets.second]
        method = "add_difference"
        a = "first"
        b = "two"
        c = "three"
        alpha = 0.55
        """,
        lambda _: ("0.5525", "0.455", "-0.0075"),
    ),
    "block weights": (
        """
        method = "weighted_sum"
        a = "one"
        b = "two"
        alpha = { default = 0.25, IN = 0.1, IN04 = 0.9, OUT07-OUT09 = 0.45 }
        """,
        _blockwise,
    ),
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_float16_values_are_the_rounded_float64_ones(space: Space, recipe: str) -> None:
    """No element is off by more than 1 unit in the last place, and 99.8 % are exact."""
    text, coefficients = RECIPES[recipe]
    models = [sd15(1), sd15(2), sd15(3)]
    for name, model in zip(("one", "two", "three"), models, strict=True):
        space.model(f"{name}.safetensors", model)
    indented = "\n".join(line.strip() for line in text.splitlines())
    space.write(f'{SOURCES}\n[targets.result]\noutput = "out.safetensors"{indented}')

    space.build()

    result = space.read("out.safetensors")
    pairs = []
    for name in NAMES:
        terms = zip(map(Fraction, coefficients(name)), (model[name] for model in models), strict=True)
        pairs.append((as_bytes(result[name]), combination(list(terms))))
    found = closeness(pairs)
    assert found.elements > 50_000
    assert found.worst <= 1
    assert found.exact >= 0.998 * found.elements


EVERY_FLOAT = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip


def _every_value(dtype: torch.dtype) -> Tensor:
    """Return many values of a dtype: every finite one where there are few, else made-up ones of all sizes."""
    if dtype.itemsize <= 2:
        count = 256**dtype.itemsize
        words = torch.arange(count, dtype=torch.int32).to(torch.uint8 if dtype.itemsize == 1 else torch.uint16)
        found = words.view(dtype)
    else:
        generator = torch.Generator().manual_seed(5)
        sizes = torch.arange(5000) % 60 - 30
        found = (torch.randn(5000, generator=generator) * torch.exp2(sizes.to(torch.float32))).to(dtype)
    return found[torch.isfinite(found.to(torch.float32))]


@pytest.mark.parametrize("dtype", EVERY_FLOAT, ids=str)
def test_equal_inputs_give_themselves_to_the_bit(space: Space, dtype: torch.dtype) -> None:
    """Coefficients that add up to 1 leave a tensor that all inputs share as it is, in every dtype, -0 included."""
    model = sd15(1, dtype=dtype) | {"model.diffusion_model.time_embed.2.bias": _every_value(dtype)}
    for name in ("one", "two", "three"):
        space.model(f"{name}.safetensors", model)
    space.write(
        f"""{SOURCES}
[targets.sum]
method = "weighted_sum"
a = "one"
b = "two"
alpha = 0.37
output = "out/sum.safetensors"
[targets.difference]
method = "add_difference"
a = "one"
b = "two"
c = "three"
alpha = 0.9
output = "out/difference.safetensors"
[targets.soup]
method = "linear"
models = ["one", "two", "three"]
weight = 1
output = "out/soup.safetensors"
"""
    )

    space.build()

    for target in ("sum", "difference", "soup"):
        result = space.read(f"out/{target}.safetensors")
        different = [name for name, tensor in model.items() if not same_bits(result[name], tensor)]
        assert not different, target


@pytest.mark.parametrize("dtype", EVERY_FLOAT, ids=str)
def test_equal_tensors_with_unequal_neighbours_give_themselves(space: Space, dtype: torch.dtype) -> None:
    """Elements that agree stay as they are, also where the tensors as a whole differ (but for the sign of a zero)."""
    one = sd15(1, dtype=dtype)
    two = sd15(2, dtype=dtype)
    for name in NAMES:
        shared = torch.arange(one[name].numel()).reshape(one[name].shape) % 2 == 0
        raw_one, raw_two = one[name].to(torch.float32), two[name].to(torch.float32)
        two[name] = torch.where(shared, raw_one, raw_two).to(dtype)
    space.model("one.safetensors", one)
    space.model("two.safetensors", two)
    space.model("three.safetensors", two)
    space.write(
        f"""{SOURCES}
[targets.sum]
formula = "0.7*one + 0.3*two"
output = "sum.safetensors"
"""
    )

    space.build()

    result = space.read("sum.safetensors")
    for name in NAMES:
        found, mine, other = (model[name].to(torch.float64) for model in (result, one, two))
        agree = mine == other
        assert agree.sum() * 2 >= agree.numel()
        assert torch.equal(found[agree], mine[agree]), name


def test_a_lone_coefficient_of_1_is_the_tensor_byte_for_byte(space: Space) -> None:
    """Alpha 0 is a, alpha 1 is b, whatever stands in the other: NaN, Inf and odd bit patterns pass through."""
    one, two = sd15(1), sd15(2)
    name = NAMES[3]
    two[name].view(torch.int16).reshape(-1)[:4] = torch.tensor([0x7E01, 0x7C00, -0x0400, 0x7DFF]).to(torch.int16)
    space.model("one.safetensors", one)
    space.model("two.safetensors", two)
    space.write(
        """
        [sources]
        one = "one.safetensors"
        two = "two.safetensors"
        [targets.mix]
        foreach.alpha = [0, 1]
        method = "weighted_sum"
        a = "one"
        b = "two"
        alpha = "${alpha}"
        output = "mix-${alpha}.safetensors"
        """
    )

    built = space.build()

    assert built.computed == 0
    for alpha, model in ((0, one), (1, two)):
        result = space.read(f"mix-{alpha}.safetensors")
        assert all(same_bits(result[each], model[each]) for each in NAMES)


def test_a_coefficient_of_0_drops_its_input(space: Space) -> None:
    """What is multiplied by 0 is not looked at: its NaN does no harm, and the result is that without it."""
    one, two, three = sd15(1), sd15(2), sd15(3)
    for name in NAMES:
        three[name].reshape(-1)[0] = float("nan")
    for name, model in zip(("one", "two", "three"), (one, two, three), strict=True):
        space.model(f"{name}.safetensors", model)
    space.write(
        f"""{SOURCES}
[targets.with]
formula = "one/2 + two/2 + 0*three"
output = "with.safetensors"
[targets.without]
formula = "one/2 + two/2"
output = "without.safetensors"
"""
    )

    built = space.build()

    assert built["with"]["artifact"] == built["without"]["artifact"]
    assert space.bytes("with.safetensors") == space.bytes("without.safetensors")


def test_integers_are_the_first_inputs(pair: Space) -> None:
    """Integers and booleans are never merged, whatever the weights."""
    one, two = sd15(1), sd15(2)
    two[INTEGERS] = two[INTEGERS] + 100
    one["flag"], two["flag"] = torch.tensor([True, False]), torch.tensor([False, False])
    pair.model("one.safetensors", one)
    pair.model("two.safetensors", two)
    pair.edit("alpha = 0.3", "alpha = 1")

    pair.build()

    result = pair.read("out/mix.safetensors")
    assert same_bits(result[INTEGERS], one[INTEGERS])
    assert same_bits(result["flag"], one["flag"])


def test_scalars_and_empty_tensors_are_merged_like_all_others(pair: Space) -> None:
    one, two = sd15(1), sd15(2)
    for model, value in ((one, 1.0), (two, 3.0)):
        model["scalar"] = torch.tensor(value, dtype=torch.float16)
        model["empty"] = torch.empty((0, 4), dtype=torch.float16)
    pair.model("one.safetensors", one)
    pair.model("two.safetensors", two)
    pair.edit("alpha = 0.3", "alpha = 0.5")

    pair.build()

    result = pair.read("out/mix.safetensors")
    assert result["scalar"].shape == ()
    assert result["scalar"].item() == 2.0
    assert result["empty"].shape == (0, 4)


DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}


@pytest.mark.parametrize("word", DTYPES)
def test_dtype_is_rounded_to_once(pair: Space, word: str) -> None:
    """A target's file has its dtype, each value the float32 one rounded once; integers keep theirs."""
    pair.edit("alpha = 0.3", f'alpha = 0.3\ndtype = "{word}"')
    pair.write(
        (pair / "mergefile.toml").read_text()
        + '\n[targets.exact]\nformula = "0.7*one + 0.3*two"\ndtype = "float32"\noutput = "out/exact.safetensors"\n'
    )

    pair.build()

    result, exact = pair.read("out/mix.safetensors"), pair.read("out/exact.safetensors")
    for name in NAMES:
        assert exact[name].dtype is torch.float32
        assert same_bits(result[name], exact[name].to(DTYPES[word])), name
    assert result[INTEGERS].dtype is torch.int64


def test_defaults_give_targets_with_an_output_their_dtype(pair: Space) -> None:
    pair.write('[defaults]\ndtype = "bfloat16"\n' + (pair / "mergefile.toml").read_text())

    pair.build()

    assert pair.read("out/mix.safetensors")[NAMES[0]].dtype is torch.bfloat16


def test_source_dtype_is_the_first_inputs_tensor_by_tensor(pair: Space) -> None:
    """Through virtual targets it is their first source's, and a file target's is its own."""
    one = sd15(1)
    one[NAMES[5]] = one[NAMES[5]].to(torch.float32)
    pair.model("one.safetensors", one)
    pair.model("two.safetensors", sd15(2, dtype=torch.bfloat16))
    pair.write(
        """
        [sources]
        one = "one.safetensors"
        two = "two.safetensors"
        [targets.virtual]
        formula = "one - two"
        [targets.through]
        formula = "virtual + two"
        output = "through.safetensors"
        [targets.other]
        formula = "two/2 + one/2"
        output = "other.safetensors"
        """
    )

    pair.build()

    through, other = pair.read("through.safetensors"), pair.read("other.safetensors")
    assert through[NAMES[5]].dtype is torch.float32
    assert through[NAMES[6]].dtype is torch.float16
    assert {other[name].dtype for name in NAMES} == {torch.bfloat16}


def test_conversion_of_dtype_alone_rounds_the_source_once(space: Space) -> None:
    """From every dtype to every other, `copy` gives what rounding the source's values once gives.

    Of float64 to narrower ones than float32 that is the business of `test_engine_rounding`: torch rounds twice.
    """
    every = {word: _every_value(dtype) for word, dtype in DTYPES.items()}
    every["float64"] = every["float32"].to(torch.float64)
    model = sd15(1) | {f"model.diffusion_model.extra.{word}": values for word, values in every.items()}
    space.model("one.safetensors", model)
    space.write(
        """
        [sources]
        one = "one.safetensors"
        [targets.as]
        foreach.dtype = ["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
        method = "copy"
        a = "one"
        dtype = "${dtype}"
        nonfinite = "allow"
        output = "as-${dtype}.safetensors"
        """
    )

    space.build()

    for word, dtype in DTYPES.items():
        result = space.read(f"as-{word}.safetensors")
        for name, values in model.items():
            if values.is_floating_point():
                wanted = values.to(torch.float32).to(dtype)
                assert same_bits(result[name], wanted), (word, name)


def test_a_file_target_is_read_as_its_rounded_file(pair: Space) -> None:
    """Whoever reads a target with an output reads its file's values: the same whether made in one pass or in two."""
    text = """
        [sources]
        one = "one.safetensors"
        two = "two.safetensors"
        [targets.half]
        formula = "0.7*one + 0.3*two"
        dtype = "float8_e4m3fn"
        output = "half.safetensors"
        [targets.whole]
        formula = "half*2 - one"
        dtype = "float32"
        output = "whole.safetensors"
        """
    pair.write(text)
    pair.build()
    together = pair.bytes("whole.safetensors")
    half = pair.read("half.safetensors")
    pair.write(
        """
        [sources]
        one = "one.safetensors"
        rounded = "half.safetensors"
        [targets.again]
        formula = "rounded*2 - one"
        dtype = "float32"
        output = "again.safetensors"
        """,
        "second.toml",
    )

    built = pair.build("-f", "second.toml")

    whole, again = pair.read("whole.safetensors"), pair.read("again.safetensors")
    assert half[NAMES[0]].dtype is torch.float8_e4m3fn
    assert all(same_bits(whole[name], again[name]) for name in NAMES)
    assert built["again"]["tensors_computed"] == 0 or together  # the second store may know these tensors already


def test_a_missing_parent_of_a_file_target_is_built_with_it(pair: Space) -> None:
    """Asked for one target, a build makes the files that it reads, and lists them behind it."""
    pair.write(
        """
        [sources]
        one = "one.safetensors"
        two = "two.safetensors"
        [targets.half]
        formula = "0.7*one + 0.3*two"
        output = "half.safetensors"
        [targets.whole]
        formula = "half*2 - one"
        output = "whole.safetensors"
        """
    )

    built = pair.build("whole")

    assert list(built.verdicts.items()) == [("whole", "built"), ("half", "built")]
    assert (pair / "half.safetensors").exists()
