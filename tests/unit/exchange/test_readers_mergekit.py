"""Each trap of mergekit's recipes, and the keys that it comes to."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import tomli

from mergebuild.errors import RecipeError
from mergebuild.exchange.draft import Draft
from mergebuild.exchange.importing import import_recipes
from mergebuild.exchange.readers import mergekit
from mergebuild.exchange.recipe_file import RecipeFile

PAIR = "merge_method: slerp\nbase_model: a\nmodels: [{model: a}, {model: b}]\n"
TIES = "merge_method: ties\nbase_model: base\nmodels:\n  - {model: a, parameters: {weight: 1}}\n"


TOKENS = """\
tokenizer:
  tokens:
    <x>: {source: b, force: true}
    <z>: {source: {kind: zero}}
    <y>: {source: {kind: model_token, model: a, token: <o>}}
    <w>: {source: {kind: model_token, model: a, token_id: 7}}
"""
BAKLLAMA = """\
layer_slices:
  - {model: a, start: 0, end: 4, scale: 0.5}
  - {model: b, start: 2, end: 6}
embedding_source: a
"""
EXPERTS = """\
base_model: base
gate_mode: MODE
experts:
  - {source_model: a, positive_prompts: [hi, 'yo']}
  - {source_model: b, positive_prompts: a tale, negative_prompts: hi, residual_scale: 0.5}
"""
CIRCLE = """\
{name: x, merge_method: passthrough, models: [{model: y}]}
---
{name: y, merge_method: passthrough, models: [{model: x}]}
"""


def draft_of(text: str, path: str = "recipe.yml") -> Draft:
    draft = Draft()
    file = RecipeFile(Path(path), text.encode())
    assert mergekit.recognizes(file)
    mergekit.read(file, draft)
    return draft


def keys_of(text: str) -> dict[str, Any]:
    *_, target = draft_of(text).targets.values()
    return dict(target.keys)


def number_of(parameters: str, key: str = "t") -> Any:
    return keys_of(f"{PAIR}parameters: {{{key}: {parameters}}}")[key]


# -- numbers


@pytest.mark.parametrize(
    ("setting", "number"),
    [
        ("0.30", Decimal("0.30")),
        ("1e-3", Decimal("0.001")),
        ("'0.5'", Decimal("0.5")),
        ("yes", 1),
        ("[0, 0.5, 1]", {"default": {"gradient": [0, Decimal("0.5"), 1]}, "head": 0}),
        ("[0.5, 0.2, 0.5]", {"gradient": [Decimal("0.5"), Decimal("0.2"), Decimal("0.5")]}),
        ("[0.3]", Decimal("0.3")),
        ("[0.3, 0.30]", Decimal("0.3")),
        ("{filter: mlp, value: 0.7}", {"*mlp*": Decimal("0.7")}),
        (
            "[{filter: self_attn, value: 0.3}, {filter: mlp, value: 0.7}, {value: 0.5}]",
            {"default": Decimal("0.5"), "*mlp*": Decimal("0.7"), "*self_attn*": Decimal("0.3")},
        ),
        ("[{value: 0.5}, {filter: mlp, value: 0.7}]", Decimal("0.5")),
        ("[{filter: ~, value: 0.5}]", Decimal("0.5")),
        ("[{filter: '*', value: 0.5}]", Decimal("0.5")),
        ("[{filter: '', value: 0.5}]", Decimal("0.5")),
        ("[{filter: mlp, value: 0.7}, {filter: mlp, value: 0.1}, {value: 0}]", {"default": 0, "*mlp*": Decimal("0.7")}),
        ("[{filter: 'a.*[0]', value: 1}, {value: 0}]", {"default": 0, r"re:a\.\*\[0\]": 1}),
        ("[{filter: norm, value: [0, 1]}, {value: 0}]",
         {"default": 0, "*norm*": {"gradient": [0, 1]}, "model.norm.weight": 0}),
        ("[{filter: mlp, value: [0, 1]}, {value: [1, 0]}]",
         {"default": {"gradient": [1, 0]}, "head": 1, "*mlp*": {"gradient": [0, 1]}}),
        ("[{filter: weight, value: [0, 1]}, {value: [1, 0]}]",
         {"default": {"gradient": [1, 0]}, "*weight*": {"gradient": [0, 1]}, "head": 0}),
        ("[{filter: lm_head, value: [0.25, 1]}, {value: 0}]", {"default": 0, "*lm_head*": Decimal("0.25")}),
    ],
)  # fmt: skip
def test_a_setting_is_a_number_per_tensor(setting: str, number: Any) -> None:
    found = number_of(setting)
    assert found == number
    assert list(found) == list(number) if isinstance(number, dict) else True


@pytest.mark.parametrize("setting", ["hello", "~", ".nan", "1e5000", "{filter: mlp}", "[1, {value: 2}]", "[[1]]"])
def test_what_is_no_number_is_refused(setting: str) -> None:
    with pytest.raises(RecipeError):
        number_of(setting)


def test_levels_are_laid_end_to_end_model_before_slice_before_recipe() -> None:
    """Where no filter of a level fits, the next level is asked, and at last the method's default."""
    text = f"""\
{TIES}
  - model: b
    parameters: {{weight: 1, density: [{{filter: mlp, value: 0.1}}]}}
parameters: {{density: [{{filter: q_proj, value: 0.2}}, {{filter: mlp, value: 0.9}}]}}
"""
    found = keys_of(text)
    assert found["weight"] == 1
    assert found["models"] == [
        {"model": "a", "density": {"default": 1, "*mlp*": Decimal("0.9"), "*q_proj*": Decimal("0.2")}},
        {"model": "b", "density": {"default": 1, "*q_proj*": Decimal("0.2"), "*mlp*": Decimal("0.1")}},
    ]


def test_a_list_of_a_model_is_over_the_layers_and_no_list_of_models() -> None:
    found = keys_of("merge_method: linear\nmodels:\n  - {model: a, parameters: {weight: [0, 1]}}\n"
                    "  - {model: b, parameters: {weight: 1}}\n")  # fmt: skip
    assert found["models"][0] == {"model": "a", "weight": {"default": {"gradient": [0, 1]}, "head": 0}}


def test_numbers_that_are_alike_stand_once_and_plain_ones_in_a_list() -> None:
    models = "".join(f"  - {{model: {name}, parameters: {{weight: {w}, density: 0.5}}}}\n" for name, w in ("a1", "b2"))
    found = keys_of(f"merge_method: ties\nbase_model: base\nmodels:\n{models}")
    assert (found["weight"], found["density"], found["models"]) == ([1, 2], Decimal("0.5"), ["a", "b"])


def test_a_weight_that_is_missing_is_refused_and_a_density_is_the_default() -> None:
    assert "density" not in keys_of(TIES)
    with pytest.raises(RecipeError, match="no `weight`"):
        keys_of("merge_method: ties\nbase_model: base\nmodels: [{model: a}]\n")


# -- methods

_MODELS = "base_model: base\nmodels: [{model: a, parameters: {weight: 1}}, {model: b, parameters: {weight: 2}}]\n"


@pytest.mark.parametrize(
    ("method", "parameters", "keys"),
    [
        ("ties", "{}", {"weight": [1, 2]}),
        ("ties", "{normalize: off, rescale: on}", {"weight": [1, 2], "normalize": False, "rescale": "l1"}),
        ("ties", "{consensus_method: count}", {"weight": [1, 2], "vote": "count"}),
        ("dare_ties", "{}", {"weight": [1, 2], "rescale": "l1", "seed": 0}),
        ("dare_linear", "{rescale: false}", {"weight": [1, 2], "rescale": "none", "seed": 0}),
        ("della", "{epsilon: 0.2}", {"weight": [1, 2], "epsilon": Decimal("0.2"), "compat": "mergekit", "seed": 0}),
        ("della_linear", "{}", {"weight": [1, 2], "compat": "mergekit", "seed": 0}),
        ("breadcrumbs", "{gamma: 0.02}", {"weight": [1, 2], "gamma": Decimal("0.02")}),
        ("breadcrumbs_ties", "{lambda: 2}", {"weight": [1, 2], "lambda": 2}),
        ("task_arithmetic", "{normalize: true}", {"weight": [1, 2], "normalize": True}),
        ("sce", "{select_topk: 0.1}", {"select_topk": Decimal("0.1"), "compat": "mergekit"}),
        ("model_stock", "{filter_wise: true}", {"per": "row", "compat": "mergekit"}),
        ("ram", "{}", {}),
        ("ramplus_tl", "{r: 0.2, alpha: 0.3}", {"r": Decimal("0.2"), "alpha": Decimal("0.3")}),
        ("nuslerp", "{}", {"weight": [1, 2]}),
        ("nuslerp", "{nuslerp_flatten: false}", {"weight": [1, 2], "per": "row"}),
        ("nuslerp", "{nuslerp_flatten: false, nuslerp_row_wise: true}", {"weight": [1, 2], "per": "column"}),
        ("multislerp", "{normalize_weights: false}", {"weight": [1, 2], "normalize": False, "linear_fallback": True}),
    ],
)
def test_a_method_on_a_base(method: str, parameters: str, keys: dict[str, Any]) -> None:
    found = keys_of(f"merge_method: {method}\n{_MODELS}parameters: {parameters}\n")
    expected = {"method": method, "base": "base", "models": ["a", "b"], **keys, "output": "recipe/"}
    assert found == expected


@pytest.mark.parametrize("method", ["slerp", "nearswap", "arcee_fusion"])
def test_of_two_models_the_base_is_the_first_whatever_the_order(method: str) -> None:
    text = f"merge_method: {method}\nbase_model: a\nmodels: [{{model: b}}, {{model: a}}]\nparameters: {{t: 0.1}}\n"
    found = keys_of(text)
    assert (found["a"], found["b"]) == ("a", "b")


def test_a_base_that_is_not_listed_is_one_more_model_at_the_end() -> None:
    text = "base_model: base\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\n"
    assert keys_of(f"merge_method: linear\n{text}")["models"] == ["a", "b", "base"]
    assert keys_of(f"merge_method: karcher\n{text}")["models"] == ["a", "b", "base"]
    assert keys_of(f"merge_method: linear\n{text}")["config"] == "base"
    assert keys_of("merge_method: slerp\nbase_model: a\nmodels: [{model: b}]\nparameters: {t: 1}\n")["a"] == "a"


def test_a_base_that_is_listed_takes_part_once() -> None:
    found = keys_of(f"{TIES}  - {{model: base, parameters: {{weight: 9}}}}\n")
    assert (found["models"], found["weight"]) == (["a"], 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "merge_method: slerp\nmodels: [{model: a}, {model: b}]\nparameters: {t: 1}\n",
            ": `base_model`: `slerp` needs a base",
        ),
        (PAIR, ": `parameters` has no `t`"),
        (f"{PAIR}slices: [{{sources: []}}]\n", "exactly one"),
        ("merge_method: linear\n", "neither"),
        (PAIR.replace("{model: b}", "{model: b}, {model: c}") + "parameters: {t: 1}\n", "one model besides"),
        (PAIR.replace("{model: b}", "{model: b}, {model: b}") + "parameters: {t: 1}\n", "twice"),
        (f"merge_method: model_stock\n{_MODELS}".replace(", {model: b, parameters: {weight: 2}}", ""), "at least 2"),
        (f"merge_method: nuslerp\n{_MODELS}".replace("base_model: base", "base_model: a"), "exactly 2 models"),
        ("merge_method: passthrough\nbase_model: a\nmodels: [{model: b}]\n", "passthrough"),
        ("merge_method: linear\nmodels: [a, b]\n", "expected a mapping"),
        ("merge_method: linear\nmodels: {a: 1}\n", "expected a list"),
        ("merge_method: linear\nmodels: [{model: a+b+c}]\n", "more than one LoRA"),
        ("merge_method: linear\nmodels: [{model: a@b@c}]\n", "names no model"),
        ("merge_method: linear\nmodels: [{}]\n", "expected text"),
        (f"{PAIR}tokenizer_source: base\ntokenizer: {{}}\nparameters: {{t: 1}}\n", "both there"),
        ("merge_method: ties\nbase_model: b\nmodels: [{model: a, parameters: 1}]\n", "expected a mapping"),
        ("merge_method: karcher\nmodels: [{model: a}]\nparameters: {max_iter: 1.5}\n", "whole number"),
    ],
)
def test_what_mergekit_refuses_is_refused(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        draft_of(text)


@pytest.mark.parametrize(
    ("method", "weights", "more", "is_mapped"),
    [
        ("linear", "0.5 -0.5", "", False),
        ("linear", "0.5 -0.5", "normalize: false", True),
        ("linear", "0.5 -0.2", "", True),
        ("task_arithmetic", "0.5 -0.2", "normalize: true", False),
        ("task_arithmetic", "0.5 -0.2", "", True),
    ],
)
def test_weights_that_nothing_can_be_divided_by_are_told(method: str, weights: str, more: str, is_mapped: bool) -> None:
    models = ", ".join(f"{{model: m{w}, parameters: {{weight: {w}}}}}" for w in weights.split())
    base = "base_model: base\n" if method != "linear" else ""
    draft = draft_of(f"merge_method: {method}\n{base}models: [{models}]\nparameters: {{{more}}}\n")
    assert (bool(draft.targets), bool(draft.unmapped)) == (is_mapped, not is_mapped)


def test_a_method_that_is_not_there_is_told_and_its_models_stay() -> None:
    draft = draft_of("merge_method: own_thing\nmodels: [{model: org/a}]\n")
    assert (list(draft.sources), list(draft.targets)) == (["a"], [])
    assert [lost.message for lost in draft.unmapped] == ["`recipe` is made by `own_thing`, an unknown method"]


def test_what_mergekit_passes_over_is_told_and_all_is_mapped() -> None:
    text = f"""\
{TIES}
  - {{model: b, layer_range: [0, 32], parameters: {{weight: 1, t: 0.5}}}}
embed_slerp: true
int8_mask: true
normalize: true
parameters: {{int8_mask: true, t: 1}}
"""
    draft = draft_of(text)
    assert not draft.unmapped
    assert sorted(said.where.partition(": ")[2] for said in draft.notices) == [
        "embed_slerp", "int8_mask", "models[1].layer_range", "models[1].parameters.t", "normalize",
        "parameters.int8_mask", "parameters.t",
    ]  # fmt: skip


# -- models


@pytest.mark.parametrize(
    ("model", "name", "path", "url"),
    [
        ("org/Model-7B.v1", "Model-7B.v1", "Model-7B.v1/", "https://huggingface.co/org/Model-7B.v1"),
        ("./models/mine", "mine", "./models/mine/", None),
        ("/data/mine", "mine", "/data/mine/", None),
        ("a/b/c", "c", "a/b/c/", None),
        ("{model: {path: org/x, revision: v2}}", "x", "x/", "https://huggingface.co/org/x"),
        ("org/x@v2", "x", "x/", "https://huggingface.co/org/x"),
    ],
)
def test_a_reference_is_a_source(model: str, name: str, path: str, url: str | None) -> None:
    (source,) = draft_of(f"merge_method: passthrough\nmodels: [{{model: {model}}}]\n").sources.values()
    assert (source.name, source.path, source.model.url) == (name, path, url)
    assert source.model.comment == ("revision v2" if "v2" in model else None)


def test_a_model_with_a_lora_is_one_virtual_target_for_all_that_name_it() -> None:
    text = "merge_method: passthrough\nmodels: [{model: org/a+me/style@main}]\n"
    draft = draft_of(f"{text}name: x\n---\n{text}name: y\n")
    assert [target.keys for target in draft.targets.values()] == [
        {"method": "add_lora", "base": "a", "loras": ["style"], "strength": 1},
        {"method": "copy", "a": "a+style", "output": "x/"},
        {"method": "copy", "a": "a+style", "output": "y/"},
    ]


@pytest.mark.parametrize(
    ("text", "dtype"),
    [
        ("dtype: bfloat16", "bfloat16"),
        ("dtype: torch.float16", "float16"),
        ("dtype: float32\nout_dtype: bfloat16", "bfloat16"),
        ("tokenizer_source: base\nbase_model: a", None),
    ],
)
def test_the_output_has_the_dtype_of_out_dtype_else_dtype(text: str, dtype: str | None) -> None:
    text = f"merge_method: linear\nmodels: [{{model: a, parameters: {{weight: 1}}}}]\n{text}\n"
    assert keys_of(text).get("dtype") == dtype


def test_a_dtype_that_no_output_has_is_told() -> None:
    draft = draft_of("merge_method: passthrough\nmodels: [{model: a}]\ndtype: int64\n")
    assert [lost.message for lost in draft.unmapped] == ["`dtype` `int64`, a dtype that outputs do not have here"]


# -- stacks


def stacked(*ranges: str, more: str = "", source: str = "") -> str:
    slices = "".join(f"  - sources: [{{model: {each}{source}}}]\n" for each in ranges)
    return f"merge_method: passthrough\nslices:\n{slices}{more}"


def test_slices_are_layers_with_the_last_one() -> None:
    found = keys_of(stacked("a, layer_range: [0, 24]", "b, layer_range: [8, 9]", "b, layer_range: [32, 32]"))
    assert found["slices"] == [
        {"a": "a", "layers": "L00-L23"},
        {"a": "b", "layers": "L08"},
        {"a": "b", "layers": "none"},
    ]
    assert found["method"] == "copy"


def test_a_slice_in_the_middle_without_layers_gives_nothing() -> None:
    draft = draft_of(stacked("a, layer_range: [0, 2]", "b, layer_range: [1, 1]", "c, layer_range: [2, 2]"))
    assert draft.targets["recipe"].keys["slices"] == [{"a": "a", "layers": "L00-L01"}, {"a": "c", "layers": "none"}]
    assert [said.where for said in draft.notices] == ["recipe.yml: slices[1]"]
    with pytest.raises(RecipeError, match="have no layers"):
        draft_of(stacked("a, layer_range: [2, 2]"))


def test_each_slice_has_its_own_numbers_and_the_last_one_the_head() -> None:
    text = """\
merge_method: slerp
base_model: a
parameters: {t: [0, 1]}
slices:
  - sources: [{model: b, layer_range: [0, 4]}, {model: a, layer_range: [2, 6]}]
    parameters: {t: 0.5}
  - sources: [{model: a, layer_range: [4, 8]}, {model: b, layer_range: [4, 8]}]
  - sources: [{model: a, layer_range: [6, 8]}, {model: b, layer_range: [6, 8]}]
"""
    gradient = {"gradient": [0, 1]}
    assert keys_of(text)["slices"] == [
        {"a": {"model": "a", "layers": "L02-L05"}, "b": {"model": "b", "layers": "L00-L03"}, "t": Decimal("0.5")},
        {"a": "a", "b": "b", "layers": "L04-L07", "t": gradient},
        {"a": "a", "b": "b", "layers": "L06-L07", "t": {"default": gradient, "head": 0}},
    ]


def test_one_slice_of_all_layers_is_no_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many layers a model has its configuration says, wherever the model is found; without it a merge means all."""
    monkeypatch.delenv("MERGEBUILD_MODELS", raising=False)
    (tmp_path / "r.yml").write_text(stacked("org/m, layer_range: [0, 4]"))

    def is_stack() -> bool:
        made = import_recipes([tmp_path / "r.yml"], tmp_path, models=[tmp_path / "models"])
        return "slices" in tomli.loads(made.text)["targets"]["r"]

    assert is_stack()
    (tmp_path / "models/m").mkdir(parents=True)
    (tmp_path / "models/m/config.json").write_text(json.dumps({"num_hidden_layers": 4}))
    assert not is_stack()
    (tmp_path / "models/m/config.json").write_text(json.dumps({"text_config": {"num_hidden_layers": 5}}))
    assert is_stack()
    pair = stacked("m, layer_range: [0, 4]}, {model: n, layer_range: [0, 4]", more="parameters: {weight: 1}\n")
    assert "slices" not in keys_of(pair.replace("passthrough", "linear"))
    assert "slices" in keys_of(stacked("a, layer_range: [1, 4]"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (stacked("a, layer_range: [4, 2]"), "runs backwards"),
        (stacked("a, layer_range: [0]"), "no pair"),
        (stacked("a, layer_range: [0, 0.5]"), "whole number"),
        (stacked("a"), "no pair"),
        (stacked("a, layer_range: [0, 2]}, {model: b, layer_range: [0, 3]"), "not equally many"),
        ("merge_method: ties\nbase_model: c\nslices:\n  - sources: [{model: a, layer_range: [1, 2]}]\n", "not among"),
    ],
)
def test_slices_that_mergekit_refuses_are_refused(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        draft_of(text)


def test_modules_that_are_merged_alike_are_the_model() -> None:
    module = "{models: [{model: a}], parameters: {scale: 2}}"
    found = keys_of(
        f"merge_method: passthrough\nmodules: {{vision: {module}, text: {module}}}\nparameters: {{scale: 3}}"
    )
    assert found == {"method": "scale", "a": "a", "alpha": 2, "output": "recipe/"}
    draft = draft_of(f"merge_method: passthrough\nmodules: {{vision: {module}, text: {{models: [{{model: b}}]}}}}\n")
    assert "each in its own way" in draft.unmapped[0].message


# -- tokenizers


@pytest.mark.parametrize(
    ("text", "tokenizer"),
    [
        ("tokenizer_source: union", {"union": True}),
        ("tokenizer_source: base", "a"),
        ("tokenizer_source: b", "b"),
        ("tokenizer: {}", {"union": True}),
        ("tokenizer: {source: base, pad_to_multiple_of: 64}", {"model": "a", "pad_to_multiple_of": 64}),
        (
            TOKENS,
            {
                "union": True,
                "tokens": {
                    "<x>": {"model": "b", "force": True},
                    "<z>": {"zero": True},
                    "<y>": {"model": "a", "token": "<o>"},
                    "<w>": {"model": "a", "id": 7},
                },
            },
        ),
        ("tokenizer: {tokens: {<x>: {}}}", {"union": True, "tokens": {"<x>": {"force": False}}}),
    ],
)
def test_a_tokenizer_is_a_models_or_the_union(text: str, tokenizer: Any) -> None:
    assert keys_of(f"{PAIR}parameters: {{t: 1}}\n{text}\n")["tokenizer"] == tokenizer


def test_a_chat_template_is_told() -> None:
    draft = draft_of(f"{PAIR}parameters: {{t: 1}}\nchat_template: auto\n")
    assert "`chat_template`" in draft.unmapped[0].message


# -- several documents

_STEP = "merge_method: linear\nmodels: [{model: org/a, parameters: {weight: 1}}]\ndtype: float16\n"


def test_steps_that_others_merge_are_virtual() -> None:
    last = "merge_method: passthrough\nmodels: [{model: one+org/l}]\n"
    draft = draft_of(f"{last}---\n{_STEP}name: one\n---\n{_STEP}name: two\n")
    assert {name: target.keys.get("output") for name, target in draft.targets.items()} == {
        "one+l": None,
        "recipe": "recipe/",
        "one": None,
        "two": "two/",
    }
    assert draft.targets["one+l"].keys["base"] == "one"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{_STEP}name: x\n---\n{_STEP}name: x\n", "two documents are called `x`"),
        (f"{_STEP}---\n{_STEP}", "two documents have no `name`"),
        (CIRCLE, "in a circle"),
        (f"{_STEP}name: x\ntokenizer_source: x\n", "in a circle"),
    ],
)
def test_documents_that_do_not_fit_together_are_refused(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        draft_of(text)


def test_what_is_made_of_a_document_that_can_not_be_said_is_told_too() -> None:
    draft = draft_of(
        "name: x\nmerge_method: odd\nmodels: [{model: a}]\n---\nmerge_method: passthrough\nmodels: [{model: x}]\n"
    )
    assert not draft.targets
    assert [lost.message for lost in draft.unmapped] == [
        "`x` is made by `odd`, an unknown method",
        "`recipe`, which is made of what could not be imported",
    ]


# -- other forms


def test_bakllama_is_a_stack() -> None:
    draft = draft_of(BAKLLAMA)
    assert draft.targets["recipe"].keys["slices"] == [
        {"method": "scale", "a": "a", "layers": "L00-L03", "alpha": {"default": 1, "*down_proj*": Decimal("0.5")}},
        {"method": "copy", "a": "b", "layers": "L02-L05"},
    ]
    assert len(draft.notices) == 1


def test_experts_are_a_mixture() -> None:
    common = {"method": "moe", "base": "base", "experts_per_token": 2, "output": "recipe/"}
    assert keys_of(EXPERTS.replace("MODE", "random")) == {
        **common,
        "models": ["a", "b-scaled"],
        "gate": "random",
        "seed": 0,
    }
    cheap = [
        {"model": "a", "prompts": ["hi", "yo"]},
        {"model": "b-scaled", "prompts": ["a tale"], "negative_prompts": ["hi"]},
    ]
    assert keys_of(EXPERTS.replace("MODE", "cheap_embed")) == {**common, "models": cheap, "gate": "prompts"}
    draft = draft_of(EXPERTS.replace("MODE", "hidden"))
    assert list(draft.targets) == ["b-scaled"]
    assert "need the model to run" in draft.unmapped[0].message


@pytest.mark.parametrize("text", ["", "hello", "a: 1", "- merge_method: x", "x: {merge_method: y}", "{"])
def test_other_texts_are_no_recipes_of_mergekit(text: str) -> None:
    assert not mergekit.recognizes(RecipeFile(Path("r.yml"), text.encode()))


def test_a_broken_recipe_is_recognized_so_that_its_mistake_is_told() -> None:
    file = RecipeFile(Path("r.yml"), b"merge_method: x\nmodels: [\n")
    assert mergekit.recognizes(file)
    with pytest.raises(RecipeError, match="no valid YAML"):
        mergekit.read(file, Draft())


def test_every_method_is_written_as_a_mergefile_that_loads(tmp_path: Path) -> None:
    from mergebuild.exchange.mergekit.methods import METHODS, Shape

    for name, row in METHODS.items():
        count = (
            1 if row.shape is Shape.ONE else row.models[1] or max(row.models[0], 1 if row.shape is Shape.PAIR else 2)
        )
        models = "".join(f"  - {{model: m{n}, parameters: {{weight: [0.1, 0.2]}}}}\n" for n in range(count))
        base = "" if row.shape is Shape.ONE else "base_model: base\n"
        text = f"merge_method: {name}\n{base}models:\n{models}parameters: {{t: [0, 1], weight: 1}}\ndtype: bfloat16\n"
        (tmp_path / f"{name}.yml").write_text(text)
    made = import_recipes([tmp_path], tmp_path)
    assert not made.unmapped
    assert len(tomli.loads(made.text)["targets"]) == len(METHODS)


@pytest.mark.parametrize("mode", ["random", "cheap_embed"])
def test_a_mixture_is_written_as_a_mergefile_that_loads(mode: str, tmp_path: Path) -> None:
    (tmp_path / "r.yml").write_text(EXPERTS.replace("MODE", mode))
    made = import_recipes([tmp_path], tmp_path)
    assert not made.unmapped
    assert [*tomli.loads(made.text)["targets"]] == ["b-scaled", "r"]


CARD = """\
---
base_model: [org/a]
tags: [mergekit, merge]
---
# My merge

The following configuration was used, with = and + and 0.5:

```yaml
merge_method: passthrough
models:
  - model: org/a
dtype: float16
```

```python
merge_method: no recipe
```
"""


def test_the_card_of_a_model_has_its_recipe() -> None:
    found = draft_of(CARD, "README.md")
    assert {name: target.keys for name, target in found.targets.items()} == {
        "merge": {"method": "copy", "a": "a", "output": "merge/", "dtype": "float16"}
    }
    windows = draft_of(CARD.replace("\n", "\r\n"), "README.md")
    assert windows.targets["merge"].keys == found.targets["merge"].keys


@pytest.mark.parametrize("text", ["```yaml\nmerge_method: x\n", "```yaml\n" * 100_000, "merge_method ``` x"])
def test_markdown_without_a_whole_block_is_no_card(text: str) -> None:
    assert mergekit.recognizes(RecipeFile(Path("README.md"), text.encode())) is ("\nmerge_method" in text)
