"""Parts of a model that come from elsewhere, that are repaired, or that only one of the inputs has."""

from __future__ import annotations

import json

import pytest
import torch
from lab import Lab
from model_files import read_model, write_model
from model_folders import as_pipeline, pipeline, stored_in_pipeline
from tiny_models import full_checkpoint

from mergebuild.errors import MismatchError, RecipeError

UNET = "model.diffusion_model."
VAE = "first_stage_model."
CONV_IN = f"{UNET}input_blocks.0.0.weight"
IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"


@pytest.fixture
def pair(lab: Lab) -> Lab:
    """Two checkpoints of Stable Diffusion 1.5, `one` and `two`."""
    for seed, name in enumerate(("one", "two")):
        lab.model(name, **full_checkpoint("sd15", seed, torch.float32))
    return lab


def test_a_vae_alone_takes_the_place_of_the_models(pair: Lab) -> None:
    """Under whichever names; the rest is merged as ever."""
    other = full_checkpoint("sd15", 7, torch.float32)
    vae = {name.removeprefix(VAE): each for name, each in other.items() if name.startswith(VAE)}
    pair.sources["kl"] = "kl.safetensors"
    write_model(pair / "kl.safetensors", vae)
    pair.sources["kl2"] = "kl2.safetensors"
    write_model(pair / "kl2.safetensors", as_pipeline(other)["vae"])
    text = """
        [targets.{name}]
        method = "weighted_sum"
        a = "one"
        b = "two"
        alpha = 0.5
        components.vae = "{vae}"
        output = "out/{name}.safetensors"
    """
    pair.write(text.format(name="x", vae="kl") + text.format(name="x2", vae="kl2"))
    assert pair.build("x", "x2").ok
    for name in ("x", "x2"):
        found = pair.read(f"out/{name}.safetensors")
        assert all(torch.equal(found[each], other[each]) for each in found if each.startswith(VAE))
        one, two = pair.read("one.safetensors"), pair.read("two.safetensors")
        assert torch.allclose(found[CONV_IN], (one[CONV_IN] + two[CONV_IN]) / 2)
    assert pair.verdicts() == {"x": "up-to-date", "x2": "up-to-date"}


def test_a_model_without_a_vae_gets_one(pair: Lab) -> None:
    """Others leave it without."""
    bare = {name: each for name, each in pair.read("one.safetensors").items() if not name.startswith(VAE)}
    pair.model("bare", **bare)
    pair.write(
        """
        [targets.whole]
        formula = "bare"
        components.vae = { model = "two", dtype = "float16" }
        output = "out/whole.safetensors"
        """
    )
    assert pair.build("whole").ok
    found, two = pair.read("out/whole.safetensors"), pair.read("two.safetensors")
    assert found.keys() == two.keys()
    assert all(torch.equal(found[name], two[name].half()) for name in two if name.startswith(VAE))
    assert found[CONV_IN].dtype == torch.float32


@pytest.mark.parametrize(
    ("component", "file", "code"),
    [
        ("vaee", "one", "unknown-component"),
        ("vae", "junk", "component-unknown"),
        ("text_encoder", "vae", "component-missing"),
        ("vae", "novae", "component-missing"),
        ("vae", "wide", "shape-mismatch"),
    ],
)
def test_what_is_no_such_component_is_refused(pair: Lab, component: str, file: str, code: str) -> None:
    """Before anything is read or written."""
    one = pair.read("one.safetensors")
    vae = {name.removeprefix(VAE): each for name, each in one.items() if name.startswith(VAE)}
    pair.model("vae", **vae)
    pair.model("junk", **vae, **{"encoder.odd.weight": [1.0]})
    pair.model("novae", **{name: each for name, each in one.items() if not name.startswith(VAE)})
    pair.model("wide", **vae | {"encoder.conv_in.weight": torch.zeros(2, 2, 3, 3)})
    pair.write(f'[targets.t]\nformula = "one"\ncomponents.{component} = "{file}"\noutput = "out/t.safetensors"\n')
    with pytest.raises((MismatchError, RecipeError)) as refused:
        pair.build("t")
    assert refused.value.problems[0].code == code
    assert not (pair / "out").exists()


@pytest.mark.parametrize(
    "ids", [torch.arange(77)[None].half(), torch.arange(77)[None] - (torch.arange(77)[None] == 5).long()]
)
def test_position_ids_are_repaired(pair: Lab, ids: torch.Tensor) -> None:
    """Stored as halves, or with a number that averaging made smaller: tokens would be dropped."""
    pair.model("broken", **pair.read("one.safetensors") | {IDS: ids})
    pair.write(
        """
        [targets.mix]
        method = "weighted_sum"
        a = "broken"
        b = "two"
        alpha = 0.5
        output = "out/mix.safetensors"
        """
    )
    (result,) = pair.build("mix").targets
    assert torch.equal(pair.read("out/mix.safetensors")[IDS], torch.arange(77)[None])
    assert any("0 to 76" in note for note in result.notices)
    assert pair.verdicts() == {"mix": "up-to-date"}


KL, XL = 0.18215, 0.13025


def vae_folder(lab: Lab, name: str, tensors: dict[str, torch.Tensor], facts: dict[str, object]) -> None:
    """Write a VAE as diffusers does, with its configuration."""
    (lab / name).mkdir(parents=True, exist_ok=True)
    write_model(lab / name / "diffusion_pytorch_model.safetensors", as_pipeline(tensors)["vae"])
    (lab / name / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"} | facts))
    lab.sources[name] = f"{name}/"


@pytest.mark.parametrize(
    "how", ['components.vae = "{}"\n', 'b = "{}"\nmethod = "weighted_sum"\nalpha = 0.5\nmerge = ["vae"]\n']
)
def test_a_vae_of_another_family_is_refused_by_what_it_is(lab: Lab, how: str) -> None:
    """Stable Diffusion 1's and XL's have the same tensors and shapes, and other latents."""
    xl, old = full_checkpoint("sdxl", 1, torch.float32), full_checkpoint("sd15", 2, torch.float32)
    lab.model("xl", **xl)
    lab.model("old", **old)
    vae_folder(lab, "kl", old, {})
    vae_folder(lab, "kl2", old, {"scaling_factor": KL})
    vae_folder(lab, "fix", old, {"scaling_factor": XL})
    lab.model("alone", **{name: each for name, each in old.items() if name.startswith(VAE)})
    method = "" if "method" in how else 'method = "copy"\n'
    text = f'[targets.t]\na = "xl"\n{method}{how}output = "out/t.safetensors"\n'
    for name in ("old", "kl", "kl2"):
        lab.write(text.format(name))
        with pytest.raises(MismatchError) as refused:
            lab.build()
        (problem,) = refused.value.problems
        if name == "old" and "method" in how:
            assert problem.code == "layout-mismatch"
        else:
            assert problem.code == "architectures-differ"
            assert problem.message.startswith(f"the VAE of `{name}` is one of Stable Diffusion 1 and 2, and `t` is ")
        assert refused.value.exit_code == 9
        lab.write(text.format(name) + 'architectures = "allow"\n')
        assert lab.build().ok, name
    for name in ("fix", "alone"):
        lab.write(text.format(name))
        assert lab.build().ok, name


def test_a_vae_that_is_not_taken_is_not_compared(lab: Lab) -> None:
    """Its number is 0, or `merge` leaves it out."""
    one, two = (full_checkpoint("sd15", seed, torch.float32) for seed in (1, 2))
    lab.model("one", **one)
    vae_folder(lab, "fix", two, {"scaling_factor": XL})
    text = '[targets.t]\nmethod = "linear"\nmodels = ["one", "fix"]\nweight = [1, {}]\noutput = "t.safetensors"\n'
    lab.write(text.format("0.5"))
    with pytest.raises(MismatchError):
        lab.build()
    lab.write(text.format("0"))
    assert lab.build().ok


def test_narrow_inputs_take_part_in_the_channels_that_they_have(pair: Lab) -> None:
    """An inpainting model keeps the channels of the mask; without `on_channels` the shapes do not fit."""
    one, two = pair.read("one.safetensors"), pair.read("two.safetensors")
    wide = torch.cat([one[CONV_IN] + 1, torch.randn(len(one[CONV_IN]), 5, 3, 3)], 1)
    pair.model("inpaint", **one | {CONV_IN: wide})
    text = """
        [targets.mix]
        method = "{method}"
        a = "inpaint"
        b = "two"
        {more}
        on_channels = "{channels}"
        output = "out/mix.safetensors"
    """
    pair.write(text.format(method="weighted_sum", more="alpha = 0.25", channels="error"))
    with pytest.raises(MismatchError) as refused:
        pair.build("mix")
    assert "on_channels" in (refused.value.problems[0].help or "")
    pair.write(text.format(method="weighted_sum", more="alpha = 0.25", channels="common"))
    assert pair.build("mix").ok
    found = pair.read("out/mix.safetensors")[CONV_IN]
    assert torch.equal(found[:, 4:], wide[:, 4:])
    assert torch.allclose(found[:, :4], 0.75 * wide[:, :4] + 0.25 * two[CONV_IN])
    pair.write(text.format(method="add_difference", more='c = "one"\nalpha = 1', channels="common"))
    assert pair.build("mix").ok
    found = pair.read("out/mix.safetensors")[CONV_IN]
    assert torch.equal(found[:, 4:], wide[:, 4:])
    assert torch.allclose(found[:, :4], wide[:, :4] + two[CONV_IN] - one[CONV_IN], atol=1e-6)


CHANNELS = """
    [targets.mix]
    {body}
    on_channels = "{channels}"
    output = "out/mix.safetensors"
"""
SUM = 'method = "weighted_sum"\na = "{}"\nb = "{}"\nalpha = 0.25'


def first_layers(lab: Lab, name: str, wide: tuple[int, ...], channels: int, dtypes: tuple[torch.dtype, ...]) -> None:
    """Write a model with more channels and two with fewer, whose other tensor is alike."""
    narrow = (wide[0], channels, *wide[2:])
    for model, shape, dtype in zip(("wide", "narrow", "other"), (wide, narrow, narrow), dtypes, strict=True):
        lab.model(model, **{name: torch.randn(shape).to(dtype), "blocks.0.w": torch.randn(64).to(dtype)})


FULL, HALF = torch.float32, torch.float16
FIRST_LAYERS = [
    ("model.diffusion_model.input_blocks.0.0.weight", (8, 9, 3, 3), 4),
    ("img_in.weight", (6, 24), 4),
    ("x_embedder.proj.weight", (6, 5, 2, 2), 3),
    ("patch_embedding.weight", (6, 7, 1, 2, 2), 3),
]


@pytest.mark.parametrize(("name", "wide", "channels"), FIRST_LAYERS, ids=[each[0] for each in FIRST_LAYERS])
@pytest.mark.parametrize("dtypes", [(FULL, FULL, FULL), (HALF, FULL, HALF), (FULL, torch.bfloat16, HALF)], ids=str)
def test_any_first_layer_in_any_order_of_inputs_and_dtypes(
    lab: Lab, name: str, wide: tuple[int, ...], channels: int, dtypes: tuple[torch.dtype, ...]
) -> None:
    """The result has the first input's channels: those of its own are left as they are, the common ones are merged."""
    first_layers(lab, name, wide, channels, dtypes)
    many, few, more = (lab.read(f"{each}.safetensors")[name].double() for each in ("wide", "narrow", "other"))
    expected = {
        SUM.format("wide", "narrow"): torch.cat([0.75 * many[:, :channels] + 0.25 * few, many[:, channels:]], 1),
        SUM.format("narrow", "wide"): 0.75 * few + 0.25 * many[:, :channels],
        'formula = "wide + narrow - other"': torch.cat([many[:, :channels] + few - more, many[:, channels:]], 1),
        'method = "max"\na = "wide"\nb = "narrow"': torch.cat(
            [torch.maximum(many[:, :channels], few), many[:, channels:]], 1
        ),
        'method = "max"\na = "narrow"\nb = "wide"': torch.maximum(few, many[:, :channels]),
    }
    for body, values in expected.items():
        lab.write(CHANNELS.format(body=body, channels="common") + 'dtype = "float32"\n')
        (result,) = lab.build().targets
        found = lab.read("out/mix.safetensors")[name]
        assert torch.allclose(found.double(), values, atol=1e-5), body
        if values.shape == many.shape:
            assert torch.equal(found[:, channels:], many[:, channels:].float()), body
        assert result.notices == ()
        lab.write(CHANNELS.format(body=body, channels="error"))
        with pytest.raises(MismatchError) as refused:
            lab.build()
        help_ = refused.value.problems[0].help or ""
        assert f'`on_channels = "common"` merges the first {channels} channels, which `wide` has too' in help_, body
        assert help_.endswith(f"the result has the {values.shape[1]} of the first input, `{body_first(body)}`")


def body_first(body: str) -> str:
    return "narrow" if 'a = "narrow"' in body else "wide"


def test_virtual_targets_have_channels_too(lab: Lab) -> None:
    """In either place; the first one's own channels are those that it comes to."""
    name = "img_in.weight"
    first_layers(lab, name, (6, 24), 4, (FULL, FULL, FULL))
    lab.model("wider", **{name: torch.randn(6, 24), "blocks.0.w": torch.randn(64)})
    virtual = '[targets.v]\nmethod = "weighted_sum"\na = "{}"\nb = "{}"\nalpha = 0.5\n'
    wide, wider, few, more = (
        lab.read(f"{each}.safetensors")[name].double() for each in ("wide", "wider", "narrow", "other")
    )
    lab.write(virtual.format("wide", "wider") + CHANNELS.format(body=SUM.format("v", "narrow"), channels="common"))
    assert lab.build().ok
    both = (wide + wider) / 2
    expected = torch.cat([0.75 * both[:, :4] + 0.25 * few, both[:, 4:]], 1)
    assert torch.allclose(lab.read("out/mix.safetensors")[name].double(), expected, atol=1e-6)
    lab.write(virtual.format("narrow", "other") + CHANNELS.format(body=SUM.format("wide", "v"), channels="common"))
    assert lab.build().ok
    expected = torch.cat([0.75 * wide[:, :4] + 0.25 * (few + more) / 2, wide[:, 4:]], 1)
    assert torch.allclose(lab.read("out/mix.safetensors")[name].double(), expected, atol=1e-6)


def test_no_help_is_given_that_the_mergefile_has_already(lab: Lab) -> None:
    """A file that a target makes has no channels yet; and other layers are no first ones."""
    first_layers(lab, "img_in.weight", (6, 24), 4, (FULL, FULL, FULL))
    made = '[targets.f]\nmethod = "weighted_sum"\na = "narrow"\nb = "other"\nalpha = 0.5\noutput = "f.safetensors"\n'
    lab.write(made + CHANNELS.format(body=SUM.format("wide", "f"), channels="common"))
    with pytest.raises(MismatchError) as refused:
        lab.build()
    help_ = refused.value.problems[0].help or ""
    assert "`wide` has 24 input channels and `f` 4" in help_
    assert "on_channels" not in help_
    lab.model("odd", **{"img_in.weight": torch.randn(6, 24), "blocks.0.w": torch.randn(65)})
    for channels in ("error", "common"):
        lab.write(CHANNELS.format(body=SUM.format("narrow", "odd"), channels=channels))
        with pytest.raises(MismatchError) as refused:
            lab.build()
        assert "on_channels" not in (refused.value.problems[0].help or "")


def test_marks_that_disagree_are_told(pair: Lab) -> None:
    """A mix of a model that predicts noise with one that predicts v is noise."""
    pair.model("v", **pair.read("one.safetensors") | {"v_pred": torch.empty(0)})
    pair.write(
        """
        [targets.mix]
        method = "weighted_sum"
        a = "v"
        b = "two"
        alpha = 0.5
        output = "out/mix.safetensors"
        """
    )
    (result,) = pair.build("mix").targets
    assert any("v_pred" in note for note in result.notices)
    assert pair.read("out/mix.safetensors")["v_pred"].shape == (0,)


@pytest.mark.parametrize("layout", ["sd15", "sdxl"])
def test_a_pipeline_and_a_file_merge_either_way(lab: Lab, layout: str) -> None:
    """The same tensors, whether a folder is read or a file, and whether one is written or the other."""
    one, two = full_checkpoint(layout, 1, torch.float32), full_checkpoint(layout, 2, torch.float32)
    kept = stored_in_pipeline(one)
    lab.model("file", **{name: two[name] for name in kept})
    pipeline(lab / "pipe", as_pipeline(one))
    lab.sources["pipe"] = "pipe/"
    text = """
        [targets.{name}]
        method = "weighted_sum"
        a = "{a}"
        b = "{b}"
        alpha = {alpha}
        output = "out/{name}{end}"
    """
    forward, backward = {"a": "pipe", "b": "file", "alpha": 0.25}, {"a": "file", "b": "pipe", "alpha": 0.75}
    lab.write(
        text.format(name="one", end=".safetensors", **forward)
        + text.format(name="two", end=".safetensors", **backward)
        + text.format(name="three", end="/", **forward)
        + text.format(name="four", end="/", **backward)
    )
    results = {each.target: each for each in lab.build().targets}
    assert len({each.artifact for each in results.values()}) == 1
    expected = {name: one[name] + 0.25 * (two[name] - one[name]) for name in kept}
    for name in ("one", "two"):
        found = lab.read(f"out/{name}.safetensors")
        assert found.keys() == kept
        assert all(torch.allclose(found[each], expected[each], atol=1e-6) for each in kept)
    whole = lab.read("out/one.safetensors")
    for name in ("three", "four"):
        for component, tensors in as_pipeline(whole).items():
            (path,) = (lab / f"out/{name}/{component}").glob("*.safetensors")
            found = read_model(path)
            assert found.keys() == tensors.keys()
            assert all(torch.equal(found[each], tensors[each]) for each in found)
        assert json.loads((lab / f"out/{name}/model_index.json").read_text())["unet"] == ["diffusers", "Model"]
        assert (lab / f"out/{name}/scheduler/scheduler_config.json").exists()
    assert set(lab.verdicts().values()) == {"up-to-date"}
