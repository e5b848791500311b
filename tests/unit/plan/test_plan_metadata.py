"""Full metadata say what a target is in the words of others, and are the same wherever and whenever it is built."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from lab import Lab

from mergebuild.formats.header import read_header
from mergebuild.formats.layout import encode_header

UNET = "model.diffusion_model."
IN = f"{UNET}input_blocks.0.0.weight"
SD15 = {
    IN: (8, 4, 1, 1),
    f"{UNET}input_blocks.1.1.proj_in.weight": (4, 4, 1, 1),
    f"{UNET}middle_block.0.in_layers.2.bias": (4,),
    f"{UNET}output_blocks.0.0.in_layers.2.bias": (4,),
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (4, 4),
}
SDXL = {f"{UNET}label_emb.0.0.weight": (4, 4), IN: (8, 4, 1, 1), "conditioner.embedders.1.x": (4,)}
SD2 = {"cond_stage_model.model.x": (4,), IN: (8, 4, 1, 1)}
FLUX = {"double_blocks.0.img_attn.qkv.weight": (4, 4), "single_blocks.0.linear1.weight": (4, 4)}
LEGACY = {"name": "/home/me/old.ckpt", "legacy_hash": "01234567", "sd_merge_recipe": None}


def model(
    lab: Lab,
    name: str,
    shapes: dict[str, tuple[int, ...]] | None = None,
    metadata: dict[str, str] | None = None,
    dtype: str = "float16",
) -> str:
    """Write a source of random bits that are finite numbers; return its SHA-256."""
    specs = SD15 if shapes is None else shapes
    raw, header = encode_header(((each, dtype, shape) for each, shape in specs.items()), metadata or {})
    size = sum(info.nbytes for info in header.tensors.values())
    data = bytes(byte & 0b00110011 for byte in hashlib.shake_128(name.encode()).digest(size))
    lab.sources[name] = f"{name}.safetensors"
    (lab / lab.sources[name]).write_bytes(raw + data)
    return hashlib.sha256(raw + data).hexdigest()


def built(lab: Lab, text: str, **options: object) -> dict[str, str]:
    """Build the target `mix`; return what it says of itself."""
    lab.write(f'[targets.mix]\n{text}\nmetadata = "full"\noutput = "mix.safetensors"\n')
    assert lab.verdicts("mix", **options)["mix"] in ("built", "restored")
    return dict(read_header(lab / "mix.safetensors").metadata)


def recipe(metadata: dict[str, str]) -> dict[str, object]:
    found = json.loads(metadata["sd_merge_recipe"])
    assert isinstance(found, dict)
    assert found["type"] == "mergebuild"
    return found


@pytest.mark.parametrize("alpha", ["0.25", "{ default = 0.125, IN00 = 0.5, M00 = 0.75 }", "0", "1"])
def test_what_we_say_of_ourselves_is_json_of_sorted_keys(lab: Lab, alpha: str) -> None:
    """It is put together by hand, as there may be thousands."""
    model(lab, "a")
    model(lab, "b")
    said = built(lab, f'method = "weighted_sum"\na = "a"\nb = "b"\nalpha = {alpha}')["mergebuild"]
    found = json.loads(said)
    assert said == json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert set(found) == {"artifact", "layout", "proportions"}
    assert ("IN00" in found["proportions"]) == ("IN00" in alpha)


# modelspec


def test_modelspec_names_title_architecture_and_parts(lab: Lab) -> None:
    model(lab, "a")
    model(lab, "b")
    metadata = built(lab, 'formula = "a/2 + b/2"')
    assert {key.removeprefix("modelspec."): value for key, value in metadata.items() if "modelspec" in key} == {
        "sai_model_spec": "1.0.1",
        "architecture": "stable-diffusion-v1",
        "implementation": "sgm",
        "title": "mix",
        "resolution": "512x512",
        "merged_from": "a, b",
    }
    assert metadata["format"] == "pt"


@pytest.mark.parametrize(
    ("shapes", "said", "architecture", "prediction"),
    [
        (SDXL, {}, "stable-diffusion-xl-v1-base", None),
        (SDXL | {"v_pred": (0,), "ztsnr": (0,)}, {}, "stable-diffusion-xl-v1-base", "v"),
        (SDXL, {"modelspec.predict_key": "epsilon"}, "stable-diffusion-xl-v1-base", "epsilon"),
        (SD15 | {IN: (8, 9, 1, 1)}, {}, "stable-diffusion-v1/inpaint", None),
        (SD15 | {IN: (8, 8, 1, 1)}, {}, "stable-diffusion-v1/edit", None),
        (SD2, {"modelspec.prediction_type": "v"}, "stable-diffusion-v2-768-v", "v"),
        (SD2, {"modelspec.prediction_type": "epsilon"}, "stable-diffusion-v2-512", "epsilon"),
        (SD2, {"modelspec.prediction_type": "x"}, None, None),
        (SD2, {}, None, None),
        (FLUX, {}, "flux-1-schnell", None),
        (FLUX | {"guidance_in.in_layer.weight": (4, 4)}, {}, "flux-1-dev", None),
        (FLUX | {"distilled_guidance_layer.in_proj.weight": (4, 4)}, {}, "chroma", None),
        ({"layers.0.weight": (4, 4), "layers.1.weight": (4, 4)}, {}, None, None),
    ],
)
def test_modelspec_tells_architectures_apart_or_says_nothing(
    lab: Lab,
    shapes: dict[str, tuple[int, ...]],
    said: dict[str, str],
    architecture: str | None,
    prediction: str | None,
) -> None:
    model(lab, "a", shapes, said)
    model(lab, "b", shapes, said)
    metadata = built(lab, 'formula = "a/2 + b/2"')
    assert metadata.get("modelspec.architecture") == architecture
    assert metadata.get("modelspec.prediction_type") == prediction
    assert ("modelspec.sai_model_spec" in metadata) == (architecture is not None)


def test_inputs_that_say_different_predictions_say_none(lab: Lab) -> None:
    model(lab, "a", SDXL, {"modelspec.prediction_type": "v"})
    model(lab, "b", SDXL, {"modelspec.prediction_type": "epsilon"})
    assert "modelspec.prediction_type" not in built(lab, 'formula = "a/2 + b/2"')


# AUTOMATIC1111's recipe


@pytest.mark.parametrize(
    ("text", "method", "models", "multiplier"),
    [
        ('method = "weighted_sum"\na = "a"\nb = "b"\nalpha = 0.3', "Weighted sum", "ab", 0.3),
        ('method = "weighted_sum"\na = "b"\nb = "a"\nalpha = 0.3', "Weighted sum", "ba", 0.3),
        ('formula = "0.7*a + 0.3*b"', "Weighted sum", "ab", 0.3),
        ('method = "add_difference"\na = "a"\nb = "b"\nc = "c"\nalpha = 0.4', "Add difference", "abc", 0.4),
        ('formula = "a + b - c"', "Add difference", "abc", 1),
        ('formula = "a - 0.5*b + 0.5*c"', "Add difference", "acb", 0.5),
        ('method = "add_difference"\na = "a"\nb = "b"\nc = "a"\nalpha = 0.4', "Weighted sum", "ab", 0.4),
    ],
)
def test_a_sum_or_a_difference_has_the_keys_of_automatic1111(
    lab: Lab, text: str, method: str, models: str, multiplier: float
) -> None:
    sha256 = {name: model(lab, name) for name in "abc"}
    found = recipe(built(lab, text))
    named = [found[f"{place}_model_hash"] for place in ("primary", "secondary", "tertiary")]
    assert named == [sha256[name] for name in models] + [None] * (3 - len(models))
    assert (found["interp_method"], found["multiplier"]) == (method, multiplier)
    assert found["save_as_half"] is True
    assert found["custom_name"] == "mix"
    assert (found["is_inpainting"], found["is_instruct_pix2pix"]) == (False, False)


@pytest.mark.parametrize(
    "text",
    [
        'formula = "a/2 + b/3"',
        'formula = "a/3 + b/3 + c/3"',
        'formula = "2*a + b - c"',
        'formula = "a"',
        'formula = "x*a + (1-x)*b"\nx = { default = 0.5, IN00 = 0.3 }',
        'formula = "a/2 + b/2"\nmerge = ["unet"]',
        'formula = "a/2 + b/2"\ndrop = ["text_encoder"]',
        'method = "slerp"\na = "a"\nb = "b"\nt = 0.3',
    ],
)
def test_what_its_merger_could_not_make_has_none_of_them(lab: Lab, text: str) -> None:
    for name in "abc":
        model(lab, name)
    assert "interp_method" not in recipe(built(lab, text))


def test_tensors_that_an_input_lacks_do_not_matter(lab: Lab) -> None:
    """The other tool keeps them too."""
    model(lab, "a", SD15 | {f"{UNET}out.2.bias": (4,)})
    model(lab, "b")
    assert recipe(built(lab, 'formula = "a/2 + b/2"'))["interp_method"] == "Weighted sum"


def test_it_says_float16_of_what_is_written(lab: Lab) -> None:
    model(lab, "a")
    model(lab, "b")
    assert recipe(built(lab, 'formula = "a/2 + b/2"\ndtype = "float32"'))["save_as_half"] is False
    other = lab / "other.safetensors"
    lab.project.build(["mix"], out=other, dtype="float16")
    assert json.loads(read_header(other).metadata["sd_merge_recipe"])["save_as_half"] is True


# Lineage


def test_the_inputs_own_recipes_and_ancestors_go_on(lab: Lab) -> None:
    own = {"type": "webui", "custom_name": "/home/me/x"}
    a = model(
        lab, "a", metadata={"sd_merge_recipe": json.dumps(own), "sd_merge_models": json.dumps({"ee" * 32: LEGACY})}
    )
    b = model(lab, "b", metadata={"sd_merge_models": json.dumps({a: LEGACY, "ff" * 32: {"name": "f"}})})
    assert json.loads(built(lab, 'formula = "a/2 + b/2"')["sd_merge_models"]) == {
        a: {"name": "a", "legacy_hash": "01234567", "sd_merge_recipe": {"type": "webui", "custom_name": "x"}},
        b: {"name": "b", "legacy_hash": None, "sd_merge_recipe": None},
        "ee" * 32: LEGACY | {"name": "old.ckpt"},
        "ff" * 32: {"name": "f", "legacy_hash": None, "sd_merge_recipe": None},
    }


def test_our_own_lineage_goes_on_through_files(lab: Lab, tmp_path: Path) -> None:
    a, b = model(lab, "a"), model(lab, "b")
    built(lab, 'formula = "a/2 + b/2"')
    first = (lab / "mix.safetensors").rename(lab / "first.safetensors")
    lab.sources["first"] = first.name
    models = json.loads(built(lab, 'formula = "first/2 + b/2"')["sd_merge_models"])
    mixed = models[hashlib.sha256(first.read_bytes()).hexdigest()]
    assert set(models) == {a, b, hashlib.sha256(first.read_bytes()).hexdigest()}
    assert mixed["sd_merge_recipe"]["interp_method"] == "Weighted sum"


@pytest.mark.parametrize(
    "metadata",
    [
        {"sd_merge_recipe": "{", "sd_merge_models": "[" * 10_000},
        {"sd_merge_recipe": "[]", "sd_merge_models": '{"x": NaN}'},
        {"sd_merge_recipe": '{"a": "\\ud800"}', "sd_merge_models": json.dumps({"ee" * 32: {"name": "\ud800"}})},
        {"modelspec.prediction_type": "v" * 1000, "modelspec.architecture": "x"},
        {"sd_merge_models": json.dumps({f"{number:064x}": {"name": "x" * 500} for number in range(3000)})},
        {"sd_merge_models": json.dumps({f"{number:064x}": {"name": "x" * 180} for number in range(9000)})},
    ],
    ids=range(6),
)
def test_hostile_metadata_break_no_build(lab: Lab, metadata: dict[str, str]) -> None:
    model(lab, "a", metadata=metadata)
    model(lab, "b", metadata=metadata)
    found = built(lab, 'formula = "a/2 + b/2"')
    assert len(found["sd_merge_models"]) < 3 << 20
    assert len(json.loads(found["sd_merge_models"])) >= 2


def test_full_metadata_are_the_same_anywhere(lab: Lab, tmp_path: Path) -> None:
    """No path, no time."""
    for name in "ab":
        model(lab, name)
    text = 'formula = "a/2 + b/2"'
    here = built(lab, text)
    assert str(tmp_path) not in str(here)
    there = Lab(tmp_path / "there")
    there.root.mkdir()
    for name in "ab":
        model(there, name)
    assert built(there, text) == here
    assert (lab / "mix.safetensors").read_bytes() == (there / "mix.safetensors").read_bytes()
