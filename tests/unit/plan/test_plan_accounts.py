"""Every field of what a target is made by is in each key and each cache, or is left out for a reason.

Keys and caches are derived from the fields of dataclasses; here each field is changed, and what sees the change is what
the tables say. A new field has no change here, and so a test fails until it is decided.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from mergebuild.errors import Place
from mergebuild.fold import division, view
from mergebuild.fold.draft import LIKENESS
from mergebuild.fold.likeness import Likeness
from mergebuild.key import Key, Line, written
from mergebuild.methods.catalog import METHODS
from mergebuild.plan.manifest import lines_of
from mergebuild.recipe import model
from mergebuild.recipe.formula import parse_formula
from mergebuild.recipe.model import (
    Component,
    Constant,
    Elemental,
    Gradient,
    Input,
    LayerRange,
    Mbw,
    NumberPerTensor,
    Preset,
    Rule,
    SelectorText,
    Slice,
    Target,
    TensorRule,
)
from mergebuild.recipe.tokenizer import ChatTemplate, TokenizerText


class Somewhere:
    """A place in a file."""

    def place(self, *_path: str | int, key: bool = False) -> Place:  # noqa: ARG002
        return Place("mergefile.toml")


HERE, THERE = Somewhere(), Somewhere()


def number(value: str) -> NumberPerTensor:
    return NumberPerTensor((Rule("default", Constant(Fraction(value)), HERE),))


def selectors(*texts: str) -> tuple[SelectorText, ...]:
    return tuple(SelectorText(text, HERE) for text in texts)


def inputs(*named: tuple[str, str]) -> tuple[Input, ...]:
    return tuple(Input(role, ref, HERE) for role, ref in named)


TARGET = Target(
    name="t",
    method="weighted_sum",
    inputs=inputs(("a", "x"), ("b", "y")),
    numbers={"alpha": number("0.25")},
    flags={"normalize": True},
    words={"vote": "sum"},
    formula=None,
    output="t.safetensors",
    output_path=Path("/p/t.safetensors"),
    dtype="float16",
    merge=None,
    drop=(),
    missing="keep",
    ema="drop",
    nonfinite="error",
    metadata="minimal",
    cache=True,
    where=HERE,
    row=METHODS["weighted_sum"],
)

CHANGES: Mapping[str, Any] = {
    "name": "u",
    "method": "replace",
    "inputs": inputs(("a", "x"), ("c", "y")),
    "numbers": {"beta": number("0.25")},
    "flags": {"normalize": False},
    "words": {"vote": "count"},
    "formula": parse_formula("x + y", (), lambda name: name.name),
    "output": "u.safetensors",
    "output_path": Path("/p/u.safetensors"),
    "dtype": "float32",
    "merge": selectors("a*"),
    "drop": selectors("a*"),
    "missing": "error",
    "ema": "keep",
    "nonfinite": "allow",
    "metadata": "none",
    "cache": False,
    "where": THERE,
    "config": Input("config", "x", HERE),
    "max_shard_size": 1000,
    "tokenizer": TokenizerText(None, (), 64),
    "chat_template": ChatTemplate(Input("chat_template", "x", HERE)),
    "components": (Component("vae", Input("vae", "z", HERE), None),),
    "on_channels": "common",
    "architectures": "allow",
    "rules": (TensorRule(selectors("a*"), TARGET),),
    "slices": (Slice(TARGET, (LayerRange(0, 1, HERE),) * 2, "", ()),),
    "row": METHODS["add_difference"],
    "kin": object(),
}

NO_LINE = {
    "name": "a name",
    "output": "a path",
    "output_path": "a path",
    "missing": "decides between an error and the same result",
    "nonfinite": "decides between an error and the same result",
    "architectures": "decides between an error and the same result",
    "metadata": "in the header alone, which `why` names by itself",
    "cache": "whether something is kept, not what it is",
    "where": "a place in a file is for messages",
    "max_shard_size": "which tensors share a file; each file is judged by itself",
    "row": "what `method` names; a user's own has a line for its program",
    "kin": "stands for the other fields",
}
"""What of a target `why` has no line for. Its dtype is given with it: that of the goal comes first."""

NO_FINGERPRINT = {
    "where": "a place in a file is for messages",
    "row": "the program's version and the user's own methods are in every fingerprint",
    "kin": "stands for the other fields",
}
"""What of a target is in no fingerprint: what does not take part in comparing it."""


def changed(field: str) -> Target:
    return dataclasses.replace(TARGET, **{field: CHANGES[field]})


def test_every_field_has_a_change() -> None:
    assert set(CHANGES) == {each.name for each in dataclasses.fields(Target)}


@pytest.mark.parametrize("field", CHANGES)
def test_the_frame_sees_every_field_that_is_not_left_out(field: str) -> None:
    assert (LIKENESS(changed(field)) != LIKENESS(TARGET)) == (field not in LIKENESS.left_out)


@pytest.mark.parametrize("field", CHANGES)
def test_the_fingerprint_sees_every_field_that_is_not_left_out(field: str) -> None:
    assert (written(changed(field)) != written(TARGET)) == (field not in NO_FINGERPRINT)
    keys = [Key((Line("target", each),)) for each in (TARGET, changed(field))]
    assert (keys[0].digest != keys[1].digest) == (field not in NO_FINGERPRINT)


@pytest.mark.parametrize("field", CHANGES)
def test_the_manifest_has_a_line_for_every_field_that_is_not_left_out(field: str) -> None:
    def lines(target: Target) -> dict[str, str]:
        return dict(lines_of(target, None, target.dtype))

    assert (lines(changed(field)) != lines(TARGET)) == (field not in NO_LINE)


def test_values_that_are_put_into_a_frame_do_not_decide_about_it() -> None:
    """A thousand members of a family share one; what the numbers reach does decide."""
    other = dataclasses.replace(TARGET, numbers={"alpha": number("0.5")})
    assert LIKENESS(other) == LIKENESS(TARGET)
    reaching = NumberPerTensor((Rule("a*", Constant(Fraction(1, 4)), HERE),))
    assert LIKENESS(dataclasses.replace(TARGET, numbers={"alpha": reaching})) != LIKENESS(TARGET)


NUMBERS = (
    Constant(Fraction(1)),
    Gradient((Fraction(1), Fraction(0))),
    Preset("GRAD_V", Fraction(0), Fraction(1)),
    Mbw((Fraction(1),)),
    Elemental(("IN00",), not_blocks=False, elements=("attn",), not_elements=False, number=Fraction(1)),
)


def test_every_field_of_a_number_is_in_a_fingerprint() -> None:
    """Equal texts are equal values, however deep a field stands."""
    texts = [written(each) for each in NUMBERS]
    for each, text in zip(NUMBERS, tuple(texts), strict=True):
        for field in dataclasses.fields(each):
            value = getattr(each, field.name)
            other = dataclasses.replace(each, **{field.name: not value if isinstance(value, bool) else (value, value)})
            texts.append(written(other))
            assert texts[-1] != text
    assert len(set(texts)) == len(texts)


NOT_COMPARED = {
    "Component": set[str](),
    "Input": {"where"},
    "LayerRange": {"where"},
    "LayoutText": {"where"},
    "Rule": {"where"},
    "SelectorText": {"where"},
    "Slice": {"own"},
    "Source": {"where"},
    "Target": set(NO_FINGERPRINT),
}
"""By class of the recipe: the fields that are in no fingerprint. Of those that are not named here every field is."""


def test_only_places_in_files_are_in_no_fingerprint() -> None:
    """And what stands for others. A field that does not take part in comparing is a decision: it is red here."""
    found = {
        name: {field.name for field in dataclasses.fields(each) if not field.compare}
        for name, each in vars(model).items()
        if inspect.isclass(each) and each.__module__ == model.__name__ and dataclasses.is_dataclass(each)
    }
    assert {name: fields for name, fields in found.items() if fields or name in NOT_COMPARED} == NOT_COMPARED


def test_every_field_of_a_view_and_of_a_rule_is_decided() -> None:
    """What frames, what LoRAs add and rules are found by, beside a target."""
    decided = {
        view.VIEW_LIKENESS: {"layout", "specs", "kinds", "ema_dropped", "spelling", "tied", "copies"},
        view.MODEL_LIKENESS: {
            "layout",
            "specs",
            "kinds",
            "ema_dropped",
            "palette",
            "delta",
            "spelling",
            "tied",
            "copies",
        },
        division.RULE_LIKENESS: {"tensors"},
    }
    for likeness, names in decided.items():
        assert set(likeness.names) == names


@dataclasses.dataclass(frozen=True)
class Sample:
    """A value with a field more than its table knows."""

    known: int = 0
    new: int = 0


def test_a_field_that_no_table_knows_decides() -> None:
    """To forget a field may cost sharing, and never gives the answer of another."""
    likeness = Likeness(Sample, left_out={"known": "a name"})
    assert likeness(Sample(1, 2)) == likeness(Sample(3, 2)) != likeness(Sample(3, 4))
    assert written(Sample(1, 2)) != written(Sample(1, 3))


def test_a_table_names_fields_that_are_there() -> None:
    with pytest.raises(TypeError, match=r"Sample has no fields \['knwon'\]"):
        Likeness(Sample, left_out={"knwon": "a name"})
