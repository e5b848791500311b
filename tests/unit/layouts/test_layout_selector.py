"""The number that reaches each tensor, and the keys that are refused."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from layout_headers import AtPath, every_real_layout, floats

from mergebuild.errors import Problem, RecipeError
from mergebuild.layouts import Selector, built_in, parse_layout, patience, resolve, select, selector_for, structure
from mergebuild.layouts.blocks import block_id, expand, layer_number, natural
from mergebuild.layouts.presets import preset_values
from mergebuild.recipe.model import (
    Constant,
    Elemental,
    Gradient,
    LayoutText,
    Mbw,
    NumberPerTensor,
    Preset,
    Rule,
    SelectorText,
    Value,
)

UNET = "model.diffusion_model."
HALF = Fraction(1, 2)
PLAIN = ("first.weight", "second.weight", "second.bias")


def number(*rules: tuple[str, Value | int | Fraction]) -> NumberPerTensor:
    return NumberPerTensor(
        tuple(
            Rule(key, Constant(Fraction(value)) if isinstance(value, int | Fraction) else value, AtPath(f"alpha.{key}"))
            for key, value in rules
        )
    )


def on(name: str, *rules: tuple[str, Value | int | Fraction]) -> dict[str, Fraction]:
    return resolve(number(*rules), floats(name), built_in(name))


def picked(name: str, *keys: str) -> frozenset[str]:
    return select([SelectorText(key, AtPath(f"merge.{key}")) for key in keys], floats(name), built_in(name))


def refused(name: str | None, *rules: tuple[str, Value | int | Fraction]) -> tuple[Problem, ...]:
    layout, names = (built_in(name), floats(name)) if name else (None, PLAIN)
    with pytest.raises(RecipeError) as caught:
        resolve(number(*rules), names, layout)
    return caught.value.problems


def elemental(
    blocks: str, elements: str, value: Fraction, *, not_blocks: bool = False, not_elements: bool = False
) -> Elemental:
    return Elemental(tuple(blocks.split()), not_blocks, tuple(elements.split()), not_elements, value)


# -- what keys select


@every_real_layout
def test_a_plain_number_reaches_every_tensor(name: str) -> None:
    assert on(name, ("default", Fraction(1, 3))) == dict.fromkeys(floats(name), Fraction(1, 3))


@pytest.mark.parametrize("key", ["IN04", "IN4", "IN004"])
def test_a_block_is_known_by_its_number(key: str) -> None:
    assert set(on("sd15", (key, 1))) == {t for t in floats("sd15") if t.startswith(f"{UNET}input_blocks.4.")}


def test_the_small_parts_of_a_unet_are_in_its_outermost_blocks() -> None:
    assert f"{UNET}time_embed.0.weight" in picked("sd15", "IN00")
    assert f"{UNET}label_emb.0.0.weight" in picked("sdxl", "IN00")
    assert f"{UNET}out.2.bias" in picked("sd15", "OUT11")
    assert f"{UNET}out.2.bias" in picked("sdxl", "OUT08")


@pytest.mark.parametrize("key", ["IN00-IN05", "IN05-IN00", "IN5-IN0"])
def test_a_range_may_run_either_way(key: str) -> None:
    assert picked("sd15", key) == picked("sd15", *expand(["IN00-IN05"]))


def test_a_range_may_cross_families_in_the_layouts_order() -> None:
    assert picked("sd15", "IN11-OUT01") == picked("sd15", "IN11", "M00", "OUT00", "OUT01")
    assert picked("llama", "L20-head") == picked("llama", "L20", "L21", "head")


def test_a_family_of_blocks_is_a_group() -> None:
    assert picked("sd15", "OUT") == picked("sd15", "OUT00-OUT11")
    assert picked("llama", "L") == picked("llama", "L00-L21")


def test_components_are_groups() -> None:
    assert picked("sd15", "unet") == picked("sd15", f"{UNET}*")
    assert picked("sd15", "text_encoder") == picked("sd15", "cond_stage_model.*")
    assert picked("sdxl", "text_encoder") == picked("sdxl", "BASE")
    assert picked("sdxl", "vae") == picked("sdxl", "VAE")


@pytest.mark.parametrize(
    ("name", "key", "inside", "outside"),
    [
        ("sd15", "attn", "output_blocks.3.1.transformer_blocks.0.attn2.to_k.weight",
         "first_stage_model.decoder.mid.attn_1.k.weight"),
        ("sd15", "attn", "text_model.encoder.layers.0.self_attn.k_proj.weight",
         "output_blocks.3.1.transformer_blocks.0.norm2.weight"),
        ("sd15", "mlp", "output_blocks.3.1.transformer_blocks.0.ff.net.2.weight", "output_blocks.3.1.proj_in.weight"),
        ("sd15", "norm", "input_blocks.1.0.in_layers.0.weight", "input_blocks.1.0.in_layers.2.weight"),
        ("sd15", "norm", "model.diffusion_model.out.0.weight", "model.diffusion_model.out.2.weight"),
        ("sdxl", "attn", "resblocks.0.attn.in_proj_weight", "resblocks.0.ln_1.weight"),
        ("sdxl", "norm", "resblocks.0.ln_1.weight", "resblocks.0.mlp.c_fc.weight"),
        ("llama", "attn", "layers.0.self_attn.q_proj.weight", "layers.0.input_layernorm.weight"),
        ("llama", "norm", "model.norm.weight", "lm_head.weight"),
        ("llama", "mlp", "layers.0.mlp.up_proj.weight", "layers.0.self_attn.q_proj.weight"),
    ],
)  # fmt: skip
def test_groups_hold_what_their_name_says(name: str, key: str, inside: str, outside: str) -> None:
    chosen = picked(name, key)
    assert any(tensor.endswith(inside) for tensor in chosen)
    assert any(tensor.endswith(outside) for tensor in floats(name))
    assert not any(tensor.endswith(outside) for tensor in chosen)


def test_globs_regexes_and_whole_names_select_by_name() -> None:
    attn2 = {tensor for tensor in floats("sd15") if ".attn2." in tensor}
    assert picked("sd15", "*.attn2.*") == attn2
    assert picked("sd15", r"re:\.attn2\.") == attn2
    assert picked("sd15", f"{UNET}out.2.bias") == {f"{UNET}out.2.bias"}


def test_names_globs_and_regexes_need_no_layout() -> None:
    found = resolve(number(("default", 0), ("second.*", 1), ("re:bias$", 2), ("first.weight", 3)), PLAIN, None)
    assert found == {"first.weight": 3, "second.weight": 1, "second.bias": 2}


@every_real_layout
def test_blocks_together_are_the_model(name: str) -> None:
    """Every tensor is in exactly one block: the blocks' selections are a partition."""
    selector = selector_for(built_in(name), floats(name))
    chosen = [picked(name, block) for block in selector.blocks]
    assert frozenset().union(*chosen) == set(floats(name))
    assert sum(map(len, chosen)) == len(floats(name))


# -- which key wins


def test_the_later_key_wins_and_what_no_key_selects_has_no_number() -> None:
    found = on("sd15", ("IN", Fraction(1, 2)), ("attn", Fraction(7, 10)), ("text_encoder", 0))
    assert found[f"{UNET}input_blocks.4.0.in_layers.2.weight"] == Fraction(1, 2)
    assert found[f"{UNET}input_blocks.4.1.transformer_blocks.0.attn1.to_k.weight"] == Fraction(7, 10)
    assert found[f"{UNET}output_blocks.4.1.transformer_blocks.0.attn1.to_k.weight"] == Fraction(7, 10)
    assert found["cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.k_proj.weight"] == 0
    assert f"{UNET}output_blocks.4.0.in_layers.2.weight" not in found
    assert "first_stage_model.quant_conv.weight" not in found


KEYS = ["IN04", "IN00-IN05", "IN", "OUT", "M00", "BASE", "VAE", "unet", "text_encoder", "attn", "norm", "*.weight"]


@given(st.lists(st.sampled_from(KEYS), min_size=1, unique=True))
def test_numbers_are_those_of_a_naive_reading(keys: list[str]) -> None:
    """Later wins, tensor by tensor; and a key is refused exactly where it keeps no tensor."""
    naive = {tensor: index for index, key in enumerate(keys) for tensor in picked("sd15", key)}
    rules = [(key, Fraction(index)) for index, key in enumerate(keys)]
    lost = [key for index, key in enumerate(keys) if index not in naive.values()]
    if lost:
        problems = refused("sd15", *rules)
        assert [problem.code for problem in problems] == ["selector-overridden"] * len(lost)
        assert [problem.where.note for problem in problems if problem.where] == [f"alpha.{key} (key)" for key in lost]
    else:
        assert on("sd15", *rules) == naive


def test_default_may_be_wholly_overridden() -> None:
    assert set(on("sd15", ("default", 1), ("*", 2)).values()) == {2}


def test_the_same_keys_with_other_numbers_give_other_numbers() -> None:
    """What is remembered between members of a sweep is the selection, never a number."""
    selector = Selector(built_in("sd15"), floats("sd15"))

    def member(n: int) -> dict[str, Fraction]:
        value = Fraction(n)
        rules: list[tuple[str, Value | int | Fraction]] = [("default", n), ("mbw", Mbw((value,) * 26)), ("IN", n)]
        rules += [("OUT", Gradient((value, value))), ("M00", Preset("GRAD_A", value, value)), ("attn", n)]
        return selector.resolve(number(*rules))

    assert [set(member(n).values()) for n in (1, 2, 3)] == [{1}, {2}, {3}]


def test_one_tuple_of_names_and_one_layout_have_one_selector() -> None:
    names, other = floats("llama"), (*floats("llama"),)
    assert selector_for(built_in("llama"), names) is selector_for(built_in("llama"), names)
    assert selector_for(built_in("llama"), names) is not selector_for(built_in("llama"), other)
    assert selector_for(None, names) is not selector_for(built_in("llama"), names)


# -- lists of block weights, presets, gradients, elemental rules


def by_block(name: str, found: dict[str, Fraction]) -> dict[str | None, set[Fraction]]:
    blocks: dict[str | None, set[Fraction]] = {}
    for tensor, value in found.items():
        blocks.setdefault(built_in(name).block(tensor), set()).add(value)
    return blocks


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("sd15", expand(["BASE", "IN00-IN11", "M00", "OUT00-OUT11"])),
        ("sd15", expand(["IN00-IN11", "M00", "OUT00-OUT11"])),
        ("sdxl", expand(["BASE", "IN00-IN08", "M00", "OUT00-OUT08"])),
        ("sdxl", expand(["BASE", "IN00-IN08", "M00", "OUT00-OUT08", "VAE"])),
    ],
)
def test_a_list_of_block_weights_goes_over_the_blocks_in_order(name: str, blocks: tuple[str, ...]) -> None:
    """26 and 25 numbers for SD1, 20 and 21 for SDXL; a block without a number is not reached."""
    numbers = tuple(Fraction(n, 100) for n in range(len(blocks)))
    found = by_block(name, on(name, ("mbw", Mbw(numbers))))
    assert found == {block: {n} for block, n in zip(blocks, numbers, strict=True)}


def test_a_list_of_block_weights_does_not_mind_blocks_that_a_file_lacks() -> None:
    unet = tuple(tensor for tensor in floats("sd15") if tensor.startswith(UNET))
    assert set(resolve(number(("mbw", Mbw((Fraction(1),) * 26))), unet, built_in("sd15"))) == set(unet)


def test_a_preset_stands_alone_or_behind_a_key() -> None:
    values = preset_values("GRAD_V")
    found = by_block("sd15", on("sd15", ("preset", Preset("GRAD_V"))))
    assert found == {block: {value} for block, value in values.items()}
    found = by_block("sd15", on("sd15", ("default", 5), ("IN", Preset("GRAD_V", Fraction(1, 5), Fraction(4, 5)))))
    assert found["IN03"] == {Fraction(1, 5) + Fraction(3, 5) * Fraction(3, 4)}
    assert found["OUT00"] == {5}


def test_a_gradient_goes_over_the_layers_from_the_embedding_to_the_head() -> None:
    """[0, 1/2, 1] over 4 layers is 0, 1/3, 2/3, 1; the embedding is at 0, the final norm and the head at 1."""
    names = ("model.embed_tokens.weight", *(f"model.layers.{n}.mlp.up_proj.weight" for n in range(4)))
    names += ("model.norm.weight", "lm_head.weight")
    found = resolve(number(("default", Gradient((Fraction(0), Fraction(1, 2), Fraction(1))))), names, built_in("llama"))
    assert list(found.values()) == [0, 0, Fraction(1, 3), Fraction(2, 3), 1, 1, 1]
    assert tuple(found) == names


def test_a_gradient_over_one_layer_is_its_end() -> None:
    names = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight")
    found = resolve(number(("default", Gradient((Fraction(3), Fraction(4))))), names, built_in("llama"))
    assert list(found.values()) == [3, 4]


def test_a_gradient_runs_over_all_layers_whatever_its_key_selects() -> None:
    found = on("sd15", ("OUT", Gradient((Fraction(0), Fraction(1)))))
    assert by_block("sd15", found)["OUT00"] == {Fraction(13, 24)}
    assert by_block("sd15", found)["OUT11"] == {Fraction(1)}
    assert set(by_block("sd15", on("sd15", ("default", Gradient((Fraction(0), Fraction(1))))))) == set(
        expand(["IN00-IN11", "M00", "OUT00-OUT11"])
    )


@given(st.lists(st.fractions(), min_size=1, max_size=6), st.integers(1, 9))
def test_a_gradient_meets_its_anchors(anchors: list[Fraction], steps: int) -> None:
    """With k * (anchors - 1) + 1 layers every k-th layer is an anchor, and between two it is linear."""
    layers = steps * (len(anchors) - 1) + 1
    names = tuple(f"h.{n}.weight" for n in range(layers))
    found = list(resolve(number(("h.*", Gradient(tuple(anchors)))), names, built_in("transformer")).values())
    assert found[::steps] == anchors
    for first, last, place in zip(anchors, anchors[1:], range(0, layers, steps), strict=False):
        assert all(found[place + k] == first + (last - first) * Fraction(k, steps) for k in range(steps))


def of(blocks: str, *parts: str) -> set[str]:
    return {tensor for tensor in picked("sd15", *blocks.split()) if any(part in tensor for part in parts)}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (
            elemental("OUT03 OUT04 OUT05", "attn2 attn1.to_out", HALF),
            of("OUT03 OUT04 OUT05", "attn2", "attn1.to_out"),
        ),
        (elemental("OUT05-OUT03", "attn2", HALF), of("OUT03 OUT04 OUT05", "attn2")),
        (elemental("OUT04", "attn", HALF, not_blocks=True), of("*", "attn") - of("OUT04", "")),
        (
            elemental("OUT05", "attn proj", HALF, not_elements=True),
            of("OUT05", "") - of("OUT05", "attn", "proj"),
        ),
        (elemental("", "attn2", HALF), of("*", "attn2")),
        (elemental("OUT05", "", HALF), of("OUT05", "")),
        (elemental("", "", HALF, not_blocks=True, not_elements=True), of("*", "")),
    ],
)
def test_elemental_rules_take_parts_of_names_within_blocks(rule: Elemental, expected: set[str]) -> None:
    assert on("sd15", ("elemental", rule)) == dict.fromkeys(expected, HALF)


def test_elemental_rules_override_block_weights_and_each_other() -> None:
    rules: list[tuple[str, Value | int | Fraction]] = [("mbw", Mbw((Fraction(1, 5),) * 26))]
    rules += [
        ("elemental", elemental("OUT06", "attn", HALF)),
        ("elemental", elemental("OUT06", "attn2.to_k", Fraction(4, 5))),
    ]
    found = on("sd15", *rules)
    block = f"{UNET}output_blocks.6.1.transformer_blocks.0"
    assert found[f"{block}.attn1.to_k.weight"] == HALF
    assert found[f"{block}.attn2.to_k.weight"] == Fraction(4, 5)
    assert found[f"{block}.norm1.weight"] == Fraction(1, 5)


# -- what is refused

SD15 = (
    "blocks: BASE, IN00-IN11, M00, OUT00-OUT11, VAE; "
    "groups: IN, OUT, unet, text_encoder, vae, scheduler, attn, mlp, norm"
)
DECLARE = (
    'declare a layout: `[layouts.NAME]` with `detect = ["layers.0.*"]` and '
    "`blocks = [['^layers\\.(\\d+)\\.', \"L{:02}\"], ['', \"BASE\"]]`"
)
NAMES_HELP = "globs and `re:` are for whole tensor names; `mergebuild inspect FILE --tensors` shows them"


@pytest.mark.parametrize(
    ("name", "rule", "code", "message", "help"),
    [
        (
            "sd15", ("IN12", 1), "selector-matches-nothing",
            "`IN12` matches nothing: no block, group or tensor of layout `sd15`",
            f"did you mean `IN11`?  {SD15}",
        ),
        (
            "sd15", ("in04", 1), "selector-matches-nothing",
            "`in04` matches nothing: no block, group or tensor of layout `sd15`",
            f"did you mean `IN04`?  {SD15}",
        ),
        (
            "sd15", ("text_encodr", 1), "selector-matches-nothing",
            "`text_encodr` matches nothing: no block, group or tensor of layout `sd15`",
            f"did you mean `text_encoder`?  {SD15}",
        ),
        (
            "sd15", ("ema", 1), "selector-matches-nothing",
            "`ema` matches nothing: the inputs have no tensor there", SD15,
        ),
        (
            "sd15", ("IN00-IN12", 1), "selector-matches-nothing",
            "`IN00-IN12` is no range of blocks: there is no `IN12`", f"did you mean `IN11`?  {SD15}",
        ),
        (
            "sd15", ("IN20-IN30", 1), "selector-matches-nothing",
            "`IN20-IN30` is no range of blocks: there is no `IN20` or `IN30`", f"did you mean `IN11`?  {SD15}",
        ),
        (
            "sd15", ("lora-norm", 1), "selector-matches-nothing",
            "`lora-norm` matches nothing: no block, group or tensor of layout `sd15`", f"did you mean `norm`?  {SD15}",
        ),
        ("sd15", ("*.attn3.*", 1), "selector-matches-nothing", "`*.attn3.*` matches no tensor", NAMES_HELP),
        (
            "sd15", ("OUT*", 1), "selector-matches-nothing", "`OUT*` matches no tensor",
            "globs are for tensor names; for blocks write `OUT00-OUT11`",
        ),
        ("sd15", (r"re:\.attn3\.", 1), "selector-matches-nothing", r"`re:\.attn3\.` matches no tensor", NAMES_HELP),
        (
            "sd15", ("re:(", 1), "bad-regex",
            "`re:(` is not a regular expression: missing ), unterminated subpattern at position 0",
            r"in single quotes TOML leaves backslashes alone: 're:\.attn[12]\.'",
        ),
        (
            "sd15", ("mbw", Mbw((Fraction(1),) * 24)), "mbw-length",
            "`mbw` has 24 numbers, and layout `sd15` takes 26 or 25",
            "26: BASE, IN00-IN11, M00, OUT00-OUT11; or 25: IN00-IN11, M00, OUT00-OUT11",
        ),
        (
            "llama", ("mbw", Mbw((Fraction(1),) * 26)), "mbw-length",
            "`mbw` has 26 numbers, and layout `llama` has no such list",
            "give numbers to blocks by name, or a gradient",
        ),
        (
            "llama", ("preset", Preset("GRAD_V")), "preset-not-for-layout",
            "preset `GRAD_V` is for the blocks of a UNet, and these tensors are `llama`",
            "a gradient runs over the layers of any model: `{ gradient = [0, 0.5, 1] }`",
        ),
        (
            "sd15", ("vae", Gradient((Fraction(0), Fraction(1)))), "selector-matches-nothing",
            "`vae` matches nothing: a gradient reaches none of the tensors that it selects",
            "it reaches blocks: IN00-IN11, M00, OUT00-OUT11",
        ),
        (
            "sd15", ("elemental", elemental("OUT03", "attn3", Fraction(1))), "selector-matches-nothing",
            "an elemental rule asks for `attn3`, which no tensor has in its name",
            "elements are parts of tensor names: `attn2`",
        ),
        (
            "sd15", ("elemental", elemental("OUT00", "attn2", Fraction(1))), "selector-matches-nothing",
            "an elemental rule matches nothing: no tensor in those blocks has those elements in its name", SD15,
        ),
        (
            None, ("IN04", 1), "unknown-layout",
            "`IN04` is no tensor; blocks and groups need a layout, and none is known for these tensors",
            f"{DECLARE}; names of tensors, globs and `re:` work without",
        ),
        (
            None, ("default", Gradient((Fraction(0), Fraction(1)))), "unknown-layout",
            "a gradient needs a layout, and none is known for these tensors", DECLARE,
        ),
        (
            None, ("mbw", Mbw((Fraction(1),) * 26)), "unknown-layout",
            "`mbw` needs a layout, and none is known for these tensors", DECLARE,
        ),
        (
            None, ("elemental", elemental("OUT03", "weight", Fraction(1))), "unknown-layout",
            "block `OUT03` needs a layout, and none is known for these tensors", DECLARE,
        ),
    ],
)  # fmt: skip
def test_a_key_that_is_no_use_is_refused(
    name: str | None, rule: tuple[str, Value | int], code: str, message: str, help: str
) -> None:
    (problem,) = refused(name, rule)
    assert (problem.code, problem.message, problem.help) == (code, message, help)
    assert problem.where is not None
    assert problem.where.note == f"alpha.{rule[0]} (key)"


def test_a_misspelt_preset_is_told_the_right_one() -> None:
    (problem,) = refused("sd15", ("preset", Preset("GRAD_VV")))
    assert (problem.code, problem.message) == ("unknown-preset", "`GRAD_VV` is no preset")
    assert problem.help.startswith("did you mean `GRAD_V`?  presets: GRAD_V, GRAD_A, ")


def test_an_overridden_key_is_told_by_what() -> None:
    (problem,) = refused("sd15", ("IN04", 1), ("attn", 2), ("IN00-IN05", 3), ("default", 0), ("unet", 4))[:1]
    assert problem.code == "selector-overridden"
    assert problem.message == "`IN04` has no effect: all of it is overridden by `unet` behind it"
    assert problem.help == "later keys win: put `IN04` behind it, or take it out"
    problems = refused("sd15", ("IN", 1), *((f"IN{n:02}", n) for n in range(12)))
    assert [problem.message for problem in problems] == [
        "`IN` has no effect: all of it is overridden by `IN00`, `IN01`, `IN02` and 9 more behind it"
    ]


def test_all_keys_that_are_no_use_are_told_at_once() -> None:
    problems = refused("sd15", ("IN12", 1), ("IN04", 1), ("IN", 1), ("nothing.*", 1), ("mbw", Mbw((Fraction(1),))))
    assert [problem.code for problem in problems] == [
        "selector-matches-nothing",
        "selector-matches-nothing",
        "mbw-length",
        "selector-overridden",
    ]


def test_the_help_for_a_model_with_numbered_layers_says_how_to_declare_more() -> None:
    names = tuple(f"h.{n}.weight" for n in range(3))
    with pytest.raises(RecipeError) as caught:
        resolve(number(("IN04", 1)), names, built_in("transformer"))
    assert caught.value.problems[0].help == (
        "blocks: L00-L02; groups: L, transformer, attn, mlp, norm; for other blocks " + DECLARE
    )


def test_merge_and_drop_refuse_what_selects_nothing() -> None:
    with pytest.raises(RecipeError) as caught:
        picked("llama", "attn", "IN04", "default", "L99")
    assert [(p.code, p.where.note) for p in caught.value.problems if p.where] == [
        ("selector-matches-nothing", "merge.IN04"),
        ("selector-matches-nothing", "merge.default"),
        ("selector-matches-nothing", "merge.L99"),
    ]


def test_a_declared_layout_gives_blocks_groups_lists_and_gradients() -> None:
    table = {
        "detect": ["first.*"],
        "blocks": [["^first", "B0"], ["^second", "B1"]],
        "groups": {"biases": "bias$"},
        "mbw": ["B0", "B1"],
    }
    layout = parse_layout(LayoutText("mine", table, AtPath()))
    numbers = number(("mbw", Mbw((Fraction(1), Fraction(2)))), ("biases", 3))
    assert resolve(numbers, PLAIN, layout) == {"first.weight": 1, "second.weight": 2, "second.bias": 3}
    gradient = number(("B", Gradient((Fraction(4), Fraction(6)))))
    assert resolve(gradient, PLAIN, layout) == {"first.weight": 4, "second.weight": 6, "second.bias": 6}
    assert block_id("B1") == block_id("B01")


def test_numbers_of_one_structure_have_their_values_in_the_same_places() -> None:
    selector = Selector(built_in("sd15"), floats("sd15"))

    def member(n: int) -> NumberPerTensor:
        rules: list[tuple[str, Value | int | Fraction]] = [
            ("default", n),
            ("OUT", Gradient((Fraction(0), Fraction(n)))),
        ]
        return number(*rules, ("attn", n + 1))

    one, other = member(1), member(2)
    assert structure(one) == structure(other) != structure(number(("default", 1)))
    places = selector.places(one)
    assert selector.places(other) is places
    for each in (one, other):
        values = selector.values(each, places)
        assert {name: values[index] for name, index in places.of.items()} == selector.resolve(each)
    assert len(places.values) == 2 + 12  # one for each block of OUT, and each that a rule has as a whole


def test_a_pattern_that_never_ends_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repetition in a repetition; for all keys of a model together, so that many slow ones are as one."""
    monkeypatch.delenv("MERGEBUILD_PORTABLE", raising=False)
    monkeypatch.setattr(patience, "LIMIT", 0.1)
    names = ("a" * 60, "b")
    with pytest.raises(RecipeError) as caught:
        select([SelectorText("re:(a|a)*$x", AtPath("merge.0"))], names, None)
    assert [problem.code for problem in caught.value.problems] == ["bad-regex"]
    text = LayoutText("mine", {"detect": ["b"], "blocks": [["(a|a)*$x", "B"]]}, AtPath("layouts.mine"))
    with pytest.raises(RecipeError) as caught:
        select([SelectorText("b", AtPath("merge.0"))], names, parse_layout(text))
    assert [problem.code for problem in caught.value.problems] == ["bad-regex"]


@pytest.mark.parametrize("text", ["L0-L999999999", "L0-L9999,M0-M1"])
def test_a_list_of_blocks_has_an_end(text: str) -> None:
    with pytest.raises(ValueError, match="more than 10000 blocks"):
        expand(text.split(","))


def test_what_has_thousands_of_digits_is_no_numbered_block() -> None:
    assert block_id("L" + "9" * 5000) == ("L" + "9" * 5000, -1)


@pytest.mark.parametrize("digits", ["9" * 19, "9" * 5000, "0" * 5000, "", "x", "²"])
def test_what_is_longer_than_the_number_of_any_layer_is_no_layer(digits: str) -> None:
    """Names come from strangers, and Python makes no number of more than 4,300 digits."""
    assert layer_number(digits) is None
    assert built_in("llama").block(f"model.layers.{digits}.mlp.up_proj.weight") in (None, "BASE")
    assert layer_number("9" * 18) == 10**18 - 1
    assert layer_number("007") == 7


@given(st.lists(st.tuples(st.integers(0, 10**30), st.integers(0, 3)), max_size=8))
def test_numbers_in_names_are_sorted_by_what_they_are(numbers: list[tuple[int, int]]) -> None:
    """Whatever zeros stand before them, and however long they are."""
    names = [f"layers.{'0' * zeros}{number}" for number, zeros in numbers]
    assert [int(name[7:]) for name in sorted(names, key=natural)] == sorted(number for number, _ in numbers)
    long, longer = "layers.8" + "9" * 5000, "layers.9" + "0" * 5000
    assert sorted([longer, *names, long], key=natural)[-2:] == [long, longer]
