"""Parts that are files of their own, or of other models, in whole models of any spelling."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import pytest
import torch
from lab import Lab
from model_files import write_model
from parts_of_models import PREFIXES, clip, flux, open_clip, renamed, t5, under, vae, weights, whole
from torch import Tensor

from mergebuild.errors import MismatchError, RecipeError
from mergebuild.results.build import Verdict

CLIP_L, T5 = PREFIXES["clip_l"], PREFIXES["t5"]
BAKED = """
[targets.x]
method = "copy"
a = "whole"
components.{component} = "part"
output = "out/x.safetensors"
"""

State = Mapping[str, Tensor]


def _baked(lab: Lab, there: State, part: State, component: str) -> dict[str, Tensor]:
    lab.model("whole", **there)
    lab.model("part", **part)
    lab.write(BAKED.format(component=component))
    assert lab.build("x").ok
    assert lab.verdicts() == {"x": str(Verdict.UP_TO_DATE)}
    return lab.read("out/x.safetensors")


def _assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


def _without_text_model(state: State) -> dict[str, Tensor]:
    return {name.removeprefix("text_model."): tensor for name, tensor in state.items()}


@pytest.mark.parametrize("lacks", [False, True])
@pytest.mark.parametrize(
    ("component", "shapes", "prefix"),
    [
        ("vae", vae(), "vae."),
        ("text_encoder", clip(), CLIP_L),
        ("clip_l", clip(), CLIP_L),
        ("text_encoder", t5(), T5),
        ("t5", t5(), T5),
        ("t5xxl", t5(), T5),
        ("text_encoder_2", t5(), T5),
    ],
)
def test_a_part_alone_takes_its_place_in_flux(
    lab: Lab, component: str, shapes: dict[str, tuple[int, ...]], prefix: str, lacks: bool
) -> None:
    """The one that the model has, or one more, under the name that the file's clients read."""
    there = weights(whole("flux"), 1)
    kept = {name: each for name, each in there.items() if not (lacks and name.startswith(prefix))}
    part = weights(shapes, 2)
    _assert_same(_baked(lab, kept, part, component), there | renamed(prefix, part))


def test_a_bare_transformer_gets_parts_as_one_file_of_flux_has_them(lab: Lab) -> None:
    there, part = weights(flux(), 1), weights(vae(), 2)
    _assert_same(_baked(lab, there, part, "vae"), there | renamed("vae.", part))


@pytest.mark.parametrize("spell", [_without_text_model, open_clip])
def test_how_a_part_is_spelled_does_not_matter(lab: Lab, spell: Callable[[State], dict[str, Tensor]]) -> None:
    there, part = weights(whole("flux"), 1), weights(clip(), 2)
    _assert_same(_baked(lab, there, spell(part), "clip_l"), there | renamed(CLIP_L, part))


@pytest.mark.parametrize("names", [["shared"], ["encoder.embed_tokens"], ["shared", "encoder.embed_tokens"]])
@pytest.mark.parametrize("own", [["shared"], ["encoder.embed_tokens"], ["shared", "encoder.embed_tokens"]])
def test_a_tied_embedding_is_written_as_the_model_has_it(lab: Lab, names: list[str], own: list[str]) -> None:
    """Once or twice, by either name."""

    def tied(state: State, words: list[str]) -> dict[str, Tensor]:
        return {name: each for name, each in state.items() if name != "shared.weight"} | {
            f"{word}.weight": state["shared.weight"] for word in words
        }

    part = weights(t5(), 2)
    there = weights(whole("flux", without="t5"), 1) | renamed(T5, tied(weights(t5(), 3), names))
    _assert_same(_baked(lab, there, tied(part, own), "t5"), there | renamed(T5, tied(part, names)))


def test_a_folder_of_transformers_is_such_a_part(lab: Lab) -> None:
    there, part = weights(whole("flux"), 1), weights(t5(), 2)
    lab.model("whole", **there)
    (lab / "t5").mkdir()
    write_model(lab / "t5/model.safetensors", part)
    (lab / "t5/config.json").write_text(json.dumps({"model_type": "t5", "architectures": ["T5EncoderModel"]}))
    lab.sources["part"] = "t5/"
    lab.write(BAKED.format(component="t5"))
    assert lab.build("x").ok
    _assert_same(lab.read("out/x.safetensors"), there | renamed(T5, part))


def test_a_part_of_another_whole_model_takes_its_place(lab: Lab) -> None:
    there, other = weights(whole("flux"), 1), weights(whole("sd3"), 2)
    theirs = {name: each for name, each in other.items() if name.startswith(T5)}
    _assert_same(_baked(lab, there, other, "t5"), there | theirs)


def test_an_encoder_is_put_together_as_the_model_has_it(lab: Lab) -> None:
    """Three projections in one tensor."""
    prefix = "conditioner.embedders.1.model."
    there: dict[str, Tensor] = {"model.diffusion_model.label_emb.0.0.weight": torch.ones(2, 2)}
    there |= renamed(prefix, open_clip(weights(clip(8, 3, projected=True), 1)))
    part = weights(clip(8, 3, projected=True), 2)
    _assert_same(_baked(lab, there, part, "clip_g"), there | renamed(prefix, open_clip(part)))


@pytest.mark.parametrize(
    ("component", "part", "code"),
    [
        ("t5", clip(), "component-missing"),
        ("clip_l", t5(), "component-missing"),
        ("clip_l", clip() | {"odd.weight": (2,)}, "component-unknown"),
        ("t5", t5(12), "shape-mismatch"),
        ("clip_g", clip(), "unknown-component"),
    ],
)
def test_what_is_no_such_part_is_refused(lab: Lab, component: str, part: dict[str, tuple[int, ...]], code: str) -> None:
    lab.model("whole", **weights(whole("flux"), 1))
    lab.model("part", **weights(part, 2))
    lab.write(BAKED.format(component=component))
    with pytest.raises((MismatchError, RecipeError)) as refused:
        lab.build("x")
    assert refused.value.problems[0].code == code


def test_where_nothing_tells_which_encoder_is_meant_the_help_says_how_to(lab: Lab) -> None:
    lab.model("whole", **weights(whole("sd3", without="text_encoder"), 1))
    lab.model("part", **weights(clip(), 2))
    lab.write(BAKED.format(component="text_encoder"))
    with pytest.raises(MismatchError) as refused:
        lab.build("x")
    (problem,) = refused.value.problems
    assert problem.code == "component-doubtful"
    assert problem.message == "`part` may be `clip_l` or `clip_g` of `x`, and nothing in it tells which"
    assert problem.help == 'say which: `components.clip_l = "part"`'


def test_parts_of_a_model_whose_architecture_has_no_layout_are_known_by_the_rules(lab: Lab) -> None:
    blocks: dict[str, tuple[int, ...]] = {"blocks.0.self_attn.q.weight": (4, 4), "blocks.0.cross_attn.q.weight": (4, 4)}
    prefix = "text_encoders.umt5xxl.transformer."
    there = weights(under("model.diffusion_model.", blocks) | under(prefix, t5()), 1)
    for number, component in enumerate(("umt5xxl", "t5", "text_encoder")):
        part = weights(t5(), 2 + number)
        _assert_same(_baked(lab, there, part, component), there | renamed(prefix, part))


MERGED = """
[targets.x]
method = "weighted_sum"
a = "a"
b = "b"
alpha = {alpha}
output = "out/x.safetensors"
{more}
"""
PARTS = {
    "clip_l": (clip(), CLIP_L),
    "t5": (t5(), T5),
    "vae": (vae(), "vae."),
}


def _halves(one: State, other: State, prefix: str) -> dict[str, Tensor]:
    return {name: (each + other[prefix + name]) / 2 for name, each in one.items()}


@pytest.mark.parametrize("more", ["", 'merge = ["{part}"]'])
@pytest.mark.parametrize("part", list(PARTS))
def test_a_part_alone_merges_with_that_of_a_whole_model(lab: Lab, part: str, more: str) -> None:
    """In either order; what is written is spelled, and has all tensors, as the first input."""
    shapes, prefix = PARTS[part]
    model, alone = weights(whole("flux"), 1), weights(shapes, 2)
    for number, (a, b) in enumerate(((model, alone), (alone, model))):
        lab.model("a", file=f"a{number}.safetensors", **a)
        lab.model("b", file=f"b{number}.safetensors", **b)
        lab.write(
            MERGED.format(alpha=0.5, more=more.format(part=part if a is model or part == "vae" else "text_encoder"))
        )
        assert lab.build("x").ok
        mixed = _halves(alone, model, prefix)
        _assert_same(lab.read("out/x.safetensors"), mixed if a is alone else model | renamed(prefix, mixed))
        assert lab.verdicts() == {"x": str(Verdict.UP_TO_DATE)}


def test_an_encoder_that_is_cut_otherwise_merges_with_that_of_a_whole_model(lab: Lab) -> None:
    """Three projections in one tensor here, and three tensors there."""
    prefix = "conditioner.embedders.1.model."
    bare = weights(clip(8, 3, projected=True), 1)
    model: dict[str, Tensor] = {"model.diffusion_model.label_emb.0.0.weight": torch.ones(2, 2)}
    model |= renamed(prefix, open_clip(bare))
    alone = weights(clip(8, 3, projected=True), 2)
    mixed = _halves(alone, bare, "")
    for number, (a, b, expected) in enumerate(
        ((model, alone, model | renamed(prefix, open_clip(mixed))), (alone, model, mixed))
    ):
        lab.model("a", file=f"a{number}.safetensors", **a)
        lab.model("b", file=f"b{number}.safetensors", **b)
        lab.write(MERGED.format(alpha=0.5, more=""))
        assert lab.build("x").ok
        _assert_same(lab.read("out/x.safetensors"), expected)


def test_what_a_target_makes_is_such_a_part_too(lab: Lab) -> None:
    model, one, two = weights(whole("flux"), 1), weights(clip(), 2), weights(clip(), 3)
    for name, state in (("a", model), ("one", one), ("two", two)):
        lab.model(name, **state)
    between = '[targets.b]\nmethod = "weighted_sum"\na = "one"\nb = "two"\nalpha = 0.5\n{output}\n'
    mixed = {name: (model[CLIP_L + name] + (one[name] + two[name]) / 2) / 2 for name in one}
    for output in ("", 'output = "out/b.safetensors"'):
        lab.write(between.format(output=output) + MERGED.format(alpha=0.5, more=""))
        assert lab.build("x").ok
        _assert_same(lab.read("out/x.safetensors"), model | renamed(CLIP_L, mixed))


@pytest.mark.parametrize(
    ("part", "other", "code"),
    [
        (clip(10), whole("flux"), "shape-mismatch"),
        (t5(), whole("flux", without="t5"), "too-little-in-common"),
    ],
)
def test_a_part_that_the_model_does_not_have_is_no_half_of_it(
    lab: Lab, part: dict[str, tuple[int, ...]], other: dict[str, tuple[int, ...]], code: str
) -> None:
    lab.model("a", **weights(other, 1))
    lab.model("b", **weights(part, 2))
    lab.write(MERGED.format(alpha=0.5, more=""))
    with pytest.raises(MismatchError) as refused:
        lab.build("x")
    assert refused.value.problems[0].code == code


@pytest.mark.parametrize("word", ["clip_l", "t5", "t5xxl", "text_encoder_2", "vae", "transformer"])
def test_the_parts_of_the_rules_are_selectors(lab: Lab, word: str) -> None:
    prefix = {"clip_l": CLIP_L, "vae": "vae.", "transformer": "model.diffusion_model."}.get(word, T5)
    one, two = weights(whole("flux"), 1), weights(whole("flux"), 2)
    lab.model("a", **one)
    lab.model("b", **two)
    lab.write(MERGED.format(alpha=f"{{ default = 0, {word} = 1 }}", more=""))
    assert lab.build("x").ok
    _assert_same(
        lab.read("out/x.safetensors"), {name: two[name] if name.startswith(prefix) else one[name] for name in one}
    )
