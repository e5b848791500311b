"""Named curves of block weights, against points computed by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.layouts import PRESETS, built_in, preset_numbers
from mergebuild.layouts.presets import BLOCKS, SHORT_BLOCKS, preset_values
from mergebuild.recipe.model import Preset
from mergebuild.recipe.preset_names import PRESET_NAMES

HALF = Fraction(1, 2)

POINTS: dict[str, dict[str, Fraction | int]] = {
    "GRAD_V": {"IN00": 1, "IN01": Fraction(11, 12), "IN06": HALF, "M00": 0, "OUT11": 1},
    "GRAD_A": {"IN00": 0, "IN03": Fraction(1, 4), "M00": 1, "OUT05": HALF, "OUT11": 0},
    "FLAT_25": {"IN00": Fraction(1, 4), "OUT11": Fraction(1, 4)},
    "FLAT_75": {"IN00": Fraction(3, 4), "M00": Fraction(3, 4)},
    "WRAP08": {"IN03": 1, "IN04": 0, "OUT07": 0, "OUT08": 1},
    "WRAP12": {"IN05": 1, "IN06": 0, "OUT05": 0, "OUT06": 1},
    "WRAP14": {"IN06": 1, "IN07": 0, "OUT04": 0, "OUT05": 1},
    "WRAP16": {"IN07": 1, "IN08": 0, "OUT03": 0, "OUT04": 1},
    "MID12_50": {"IN04": 0, "IN05": HALF, "M00": HALF, "OUT05": HALF, "OUT06": 0},
    "OUT07": {"OUT04": 0, "OUT05": 1, "OUT11": 1},
    "OUT12": {"IN11": 0, "M00": 0, "OUT00": 1, "OUT11": 1},
    "OUT12_5": {"IN11": 0, "M00": HALF, "OUT00": 1},
    "RING08_SOFT": {"IN04": 0, "IN05": HALF, "IN06": 1, "IN09": HALF, "OUT02": HALF, "OUT05": 1, "OUT06": HALF},
    "RING08_5": {"IN05": 0, "IN06": 1, "IN09": 1, "IN10": 0, "OUT01": 0, "OUT02": 1, "OUT05": 1, "OUT06": 0},
    "RING10_5": {"IN04": 0, "IN05": 1, "IN09": 1, "IN10": 0, "OUT02": 1, "OUT06": 1, "OUT07": 0},
    "RING10_3": {"IN05": 0, "IN06": 1, "IN10": 1, "IN11": 0, "OUT01": 1, "OUT05": 1, "OUT06": 0},
    "ALL_A": {"BASE": 0, "IN00": 0, "OUT11": 0},
    "ALL_B": {"BASE": 1, "IN00": 1, "OUT11": 1},
    "SMOOTHSTEP": {"IN00": 0, "IN06": Fraction(5, 32), "M00": HALF, "OUT05": Fraction(27, 32), "OUT11": 1},
    "REVERSE_SMOOTHSTEP": {"IN00": 1, "IN06": Fraction(27, 32), "M00": HALF, "OUT11": 0},
    "SMOOTHSTEP*2": {"IN00": 0, "IN06": Fraction(5, 16), "M00": 1, "OUT05": Fraction(5, 16), "OUT11": 0},
    "SMOOTHSTEP*3": {"IN06": Fraction(15, 32), "M00": HALF, "OUT05": Fraction(17, 32), "OUT11": 1},
    "SMOOTHSTEP*4": {"IN06": Fraction(5, 8), "M00": 0, "OUT05": Fraction(5, 8), "OUT11": 0},
    "R_SMOOTHSTEP*2": {"IN00": 1, "M00": 0, "OUT11": 1},
    "SMOOTHSTEP/2": {"IN03": Fraction(5, 32), "IN06": HALF, "M00": 1, "OUT05": HALF, "OUT11": 0},
    "SMOOTHSTEP/3": {"IN02": Fraction(5, 32), "IN04": HALF, "IN08": 1, "OUT03": 0, "OUT11": 1},
    "SMOOTHSTEP/4": {"IN03": HALF, "IN06": 1, "M00": 0, "OUT05": 1, "OUT11": 0},
    "R_SMOOTHSTEP/4": {"IN00": 1, "IN06": 0, "M00": 1},
    "COSINE": {"IN00": 1, "IN08": Fraction(3, 4), "M00": HALF, "OUT03": Fraction(1, 4), "OUT11": 0},
    "REVERSE_COSINE": {"IN00": 0, "IN08": Fraction(1, 4), "M00": HALF, "OUT11": 1},
    "FAKE_CUBIC_HERMITE": {"IN00": 0, "IN06": Fraction(35, 64), "M00": HALF, "OUT11": 1},
    "TRUE_CUBIC_HERMITE": {"IN00": 0, "IN06": Fraction(35, 64) + Fraction(9, 256), "M00": Fraction(25, 48), "OUT11": 1},
    "FAKE_REVERSE_CUBIC_HERMITE": {"IN00": 1, "IN06": Fraction(29, 64), "OUT11": 0},
    "TRUE_REVERSE_CUBIC_HERMITE": {"IN00": 1, "M00": Fraction(23, 48), "OUT11": 0},
}  # fmt: skip

SAME = {
    "REVERSE-SMOOTHSTEP": "REVERSE_SMOOTHSTEP",
    "R_SMOOTHSTEP": "REVERSE_SMOOTHSTEP",
    "2SMOOTHSTEP": "SMOOTHSTEP*2",
    "4R_SMOOTHSTEP": "R_SMOOTHSTEP*4",
    "HALF_SMOOTHSTEP": "SMOOTHSTEP/2",
    "ONE_THIRD_R_SMOOTHSTEP": "R_SMOOTHSTEP/3",
    "ONE_FOURTH_SMOOTHSTEP": "SMOOTHSTEP/4",
}


@pytest.mark.parametrize("name", POINTS)
def test_a_preset_goes_through_its_points(name: str) -> None:
    values = preset_values(name)
    assert {block: values[block] for block in POINTS[name]} == POINTS[name]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_26_numbers_from_0_to_1_with_base_first(name: str) -> None:
    values = preset_values(name)
    assert tuple(values) == BLOCKS
    assert len(BLOCKS) == 26
    assert values["BASE"] == (1 if name == "ALL_B" else 0)
    assert all(0 <= value <= 1 for value in values.values())


def test_the_recipe_knows_the_names_of_all_presets_and_of_no_others() -> None:
    assert set(PRESETS) == PRESET_NAMES


@pytest.mark.parametrize("name", SAME)
def test_both_tools_names_mean_one_curve(name: str) -> None:
    assert preset_values(name) == preset_values(SAME[name])


def test_the_cosine_is_right_to_30_digits_and_rational_where_it_can_be() -> None:
    """cos(pi/4) = sqrt(2)/2, so (2c - 1)^2 = 1/2 to as many digits as c has right; no number has more than 30."""
    values = list(preset_values("COSINE").values())[1:]
    assert abs((2 * values[6] - 1) ** 2 - HALF) < Fraction(1, 10**29)
    assert all(
        math.isclose(value, (1 + math.cos(math.pi * i / 24)) / 2, abs_tol=1e-15) for i, value in enumerate(values)
    )
    assert [len(str(value * 10**32).lstrip("0").rstrip("0")) <= 30 for value in values] == [True] * 25
    assert all((value * 10**32).denominator == 1 for value in values)


def test_the_reversed_cosine_is_the_cosine_from_the_other_end() -> None:
    values, reverse = (list(preset_values(name).values())[1:] for name in ("COSINE", "REVERSE_COSINE"))
    assert reverse == values[::-1]
    assert all(abs(one + other - 1) < Fraction(1, 10**29) for one, other in zip(values, reverse, strict=True))


@pytest.mark.parametrize(("name", "blocks"), [("sd15", BLOCKS), ("sd2", BLOCKS), ("sdxl", SHORT_BLOCKS)])
def test_presets_reach_the_blocks_of_a_unet_and_not_the_vae(name: str, blocks: tuple[str, ...]) -> None:
    assert tuple(preset_numbers(Preset("GRAD_V"), built_in(name))) == blocks


def test_sdxl_has_the_numbers_of_the_blocks_of_the_same_name() -> None:
    """26 to 20: w[0:9] + w[12:22] of the 25 behind BASE, which drops IN09-IN11 and OUT09-OUT11."""
    whole = list(preset_values("TRUE_CUBIC_HERMITE").values())
    short = list(preset_numbers(Preset("TRUE_CUBIC_HERMITE"), built_in("sdxl")).values())
    assert len(short) == 20
    assert short == [whole[0], *whole[1:][0:9], *whole[1:][12:22]]


@given(st.fractions(), st.fractions(), st.sampled_from(sorted(PRESETS)))
def test_0_and_1_are_mapped_linearly(low: Fraction, high: Fraction, name: str) -> None:
    plain = preset_values(name)
    mapped = preset_numbers(Preset(name, low, high), built_in("sd15"))
    assert all(mapped[block] == (1 - plain[block]) * low + plain[block] * high for block in BLOCKS)


def test_layouts_without_those_blocks_have_no_presets() -> None:
    with pytest.raises(ValueError, match="blocks of a UNet"):
        preset_numbers(Preset("GRAD_V"), built_in("llama"))
