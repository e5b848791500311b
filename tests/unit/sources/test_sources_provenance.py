"""What files say of their making is told, whichever tool wrote it; what is hostile in it does no harm."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.sources.provenance import merge_models, merge_recipe, parsed, told

A, B, C = "aa" * 32, "bb" * 32, "cc" * 32
MODELS = json.dumps(
    {
        A: {"name": "anime/opk.safetensors", "legacy_hash": "01234567", "sd_merge_recipe": None},
        B: {"name": "C:\\models\\merong.ckpt", "legacy_hash": None, "sd_merge_recipe": {"type": "webui"}},
    }
)
WEBUI = {
    "type": "webui", "primary_model_hash": A, "secondary_model_hash": B, "tertiary_model_hash": None,
    "interp_method": "Weighted sum", "multiplier": 0.3, "save_as_half": True, "custom_name": "x", "config_source": 0,
    "bake_in_vae": "None", "discard_weights": "", "is_inpainting": False, "is_instruct_pix2pix": False,
}  # fmt: skip


def recipe(**fields: object) -> dict[str, str]:
    return {"sd_merge_recipe": json.dumps(fields)}


# What is told


@pytest.mark.parametrize(
    ("metadata", "sentences"),
    [
        (
            recipe(**WEBUI),
            [
                ("made by AUTOMATIC1111: Weighted sum of aaaaaaaaaa and bbbbbbbbbb, multiplier 0.3, "
                 "saved as float16, named x"),
            ],
        ),
        (
            recipe(**WEBUI) | {"sd_merge_models": MODELS},
            [
                ("made by AUTOMATIC1111: Weighted sum of opk (aaaaaaaaaa) and merong (bbbbbbbbbb), multiplier 0.3, "
                "saved as float16, named x"),
                "2 models behind it: opk (aaaaaaaaaa) and merong (bbbbbbbbbb)",
            ],
        ),
        (
            recipe(
                type="sd-webui-supermerger", weights_alpha="0.5,1,0", weights_beta="0", weights_alpha_orig="",
                weights_beta_orig="", model_a=A, model_b=B, model_c=False, base_alpha=0.5, base_beta=0.25,
                mode="Weight sum", mbw=True, elemental_merge="", calcmode="cosineA", Off=[],
            ),
            [("made by supermerger: Weight sum of aaaaaaaaaa and bbbbbbbbbb, alpha by block 0.5,1,0, beta by block 0, "
             "calculated cosineA")],
        ),
        (
            recipe(
                type="sd-webui-model-mixer", blocks="", mbw=[True], weights_alpha=["0.5"], alpha=[0.5],
                model_a="opk.safetensors [aaaa]", model_b="merong", mode=["Sum"], calcmode=["Normal"], adjust="0,1",
                recipe="((opk) * (1 - alpha_0) + merong * alpha_0)(0.5)",
            ),
            [("made by model-mixer: ((opk) * (1 - alpha_0) + merong * alpha_0)(0.5), "
             "of opk.safetensors [aaaa] and merong, by block, adjust 0,1")],
        ),
        (
            recipe(
                type="merge-models-chattiori", primary_model_hash=A, secondary_model_hash=B, tertiary_model_hash=C,
                merge_method="Sum Twice", block_weights=False, alpha_info="0.3", beta_info="0.5", calculation=None,
                fp="fp16", output_name="o", bake_in_vae=False, pruned=True,
            ),
            [("made by Chattiori's merger: Sum Twice of aaaaaaaaaa, bbbbbbbbbb and cccccccccc, alpha 0.3, beta 0.5, "
             "saved as fp16, pruned")],
        ),
        (
            recipe(type="mergebuild", target="mix", sources={}, recipe={
                "mix": {"method": "weighted_sum", "inputs": ["a", "b"], "numbers": {"alpha": "3/10"}}}),
            ["made by mergebuild: target mix: weighted_sum of a and b, alpha 3/10"],
        ),
        (recipe(type="violet", primary_model_hash=A), ["made by violet: aaaaaaaaaa, type, primary_model_hash"]),
        ({"sd_merge_recipe": "{oops"}, ["`sd_merge_recipe` is there, and can't be read"]),
        (
            {"mergebuild": '{"artifact":"xxh3-128:00","layout":1,"proportions":{"xxh3-128:01":"3/10"}}'},
            ["an artifact of mergebuild: xxh3-128:00, 3/10 xxh3-128:01"],
        ),
        (
            {"mecha_recipe": 'version 0.1.0\nmodel "C:\\m\\opk.safetensors" model_config="sd1-ldm"\n'
             'model "/m/merong.ckpt"\nmerge "weighted_sum" &0 &1 alpha=0.5\n'},
            ["made by sd-mecha: weighted_sum of opk and merong, recipe version 0.1.0"],
        ),
        (
            {"prompt": json.dumps({
                "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "xl\\opk.safetensors"}},
                "2": {"class_type": "ModelMergeSimple", "inputs": {"ratio": 0.3, "model1": ["1", 0]}},
                "3": {"class_type": "CheckpointSave", "inputs": {"filename_prefix": "x"}}}), "workflow": "{}"},
            ["made by ComfyUI: ModelMergeSimple (ratio 0.3) of opk, 3 nodes"],
        ),
        (
            {"workflow": json.dumps({"nodes": [{"type": "ModelMergeBlocks"}, {"type": "Note"}]})},
            ["made by ComfyUI: ModelMergeBlocks, 2 nodes"],
        ),
        (
            {"contact_fusion": '{"a": "opk", "b": "merong", "rank": 8}'},
            ["made by rimo: contact fusion of opk and merong, rank 8"],
        ),
        (
            {"ss_network_module": "networks.lora", "ss_network_dim": "32", "ss_network_alpha": "16.0",
             "ss_sd_model_name": "/models/base.safetensors", "ss_steps": "2000", "ss_clip_skip": "None"},
            ["trained with sd-scripts: networks.lora, dim 32, alpha 16.0, on base, steps 2000"],
        ),
        (
            {"modelspec.sai_model_spec": "1.0.0", "modelspec.title": "Mix", "modelspec.predict_key": "v",
             "modelspec.architecture": "stable-diffusion-xl-v1-base", "modelspec.merged_from": "a, b"},
            ["described by modelspec: Mix, stable-diffusion-xl-v1-base, prediction v, merged from a, b"],
        ),
        ({"format": "pt"}, []),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else None,
)  # fmt: skip
def test_what_tools_leave_is_told(metadata: dict[str, str], sentences: list[str]) -> None:
    assert list(told(metadata)) == sentences


def test_a_full_recipe_is_told_beside_its_artifact() -> None:
    metadata = {
        "mergebuild": '{"artifact":"xxh3-128:00","layout":1,"proportions":{"IN00":{}}}',
        "sd_merge_recipe": '{"type":"mergebuild","target":"t","recipe":{"t":{"formula":"a/2 + b/2","numbers":{}}}}',
    }
    assert list(told(metadata)) == [
        "made by mergebuild: target t: a/2 + b/2",
        "an artifact of mergebuild: xxh3-128:00, proportions by block",
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
KEYS = st.sampled_from(
    "type primary_model_hash interp_method multiplier model_a recipe target mbw weights_alpha nodes class_type inputs "
    "a b rank proportions artifact name sd_merge_recipe legacy_hash".split()
)
KINDS = st.sampled_from(
    ["webui", "mergebuild", "sd-webui-supermerger", "sd-webui-model-mixer", "merge-models-chattiori", "x"]
)
FIELDS = st.sampled_from(
    "sd_merge_recipe sd_merge_models mergebuild mecha_recipe prompt workflow contact_fusion ss_steps ss_sd_model_name "
    "modelspec.title modelspec.architecture".split()
)
STRANGE = st.dictionaries(KEYS, JSON | st.dictionaries(KEYS, JSON, max_size=3), max_size=6)


@given(
    st.dictionaries(
        FIELDS,
        st.text(max_size=50)
        | st.builds(json.dumps, JSON)
        | st.builds(lambda kind, rest: json.dumps(rest | {"type": kind}), KINDS, STRANGE),
    )
)
def test_no_metadata_stop_it(metadata: dict[str, str]) -> None:
    for sentence in told(metadata):
        assert "\n" not in sentence
        assert len(sentence) < 1500
    json.dumps([merge_recipe(metadata), merge_models(metadata)], allow_nan=False, ensure_ascii=False).encode()


# What is taken over


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "NaN", '{"a": Infinity}', '{"a": 1e999}', "[" * 100_000, "[" * 40 + "]" * 40, '{"a":' * 100_000,
        '"' + "x" * (3 << 20) + '"', "9" * 10_000,
    ],
    ids=lambda text: f"{text[:12]!r} {len(text)}",
)  # fmt: skip
def test_what_is_not_sound_is_nothing(text: str) -> None:
    assert parsed(text) is None


def test_what_is_taken_over_can_be_written() -> None:
    assert parsed('{"a\\ud800": ["\\udfff", 1.5, true, null]}') == {"a\ufffd": ["\ufffd", 1.5, True, None]}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("/home/me/x.safetensors", "x.safetensors"),
        ("C:\\models\\x.ckpt", "x.ckpt"),
        ("~/x.ckpt", "x.ckpt"),
        ("\\\\server\\share\\x", "x"),
        ("file:///home/me/x", "x"),
        ("/home/me/", "me"),
        ("/", ""),
        ("anime/x.ckpt", "anime/x.ckpt"),
        ("a / b", "a / b"),
    ],
)
def test_absolute_paths_are_cut_down(text: str, name: str) -> None:
    assert parsed(json.dumps({"name": [text]})) == {"name": [name]}


def test_only_what_web_uis_write_of_a_model_is_taken_over() -> None:
    found = merge_models(
        {
            "sd_merge_models": json.dumps(
                {
                    A.upper(): {
                        "name": "x",
                        "legacy_hash": "01234567",
                        "sd_merge_recipe": {"type": "webui"},
                        "more": 1,
                    },
                    B: {"name": 3, "legacy_hash": "no", "sd_merge_recipe": "text"},
                    C: {"name": "y" * 500, "sd_merge_recipe": {"long": "z" * (1 << 17)}},
                    "d": {"name": "no hash"},
                    "ee" * 32: "no entry",
                }
            )
        }
    )
    assert found == {
        A: {"name": "x", "legacy_hash": "01234567", "sd_merge_recipe": {"type": "webui"}},
        B: {"name": None, "legacy_hash": None, "sd_merge_recipe": None},
        C: {"name": "y" * 200, "legacy_hash": None, "sd_merge_recipe": None},
    }


@pytest.mark.parametrize("metadata", [{}, {"sd_merge_models": "[]"}, {"sd_merge_models": "null"}])
def test_no_models_are_none(metadata: Mapping[str, str]) -> None:
    assert merge_models(metadata) == {}
    assert merge_recipe(metadata) is None


def test_a_recipe_beyond_reason_is_none() -> None:
    assert merge_recipe(recipe(type="webui", custom_name="x" * (1 << 17))) is None
    assert merge_recipe(recipe(type="webui")) == {"type": "webui"}
