"""Which files a folder has, and what lies in which: a function of names, shapes, dtypes and the donor."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from mergebuild.errors import MismatchError
from mergebuild.fold.compatible import Spec
from mergebuild.formats.folders import Folder
from mergebuild.formats.model import Model
from mergebuild.naming import to_diffusers
from mergebuild.plan.output_files import BesideWeights, PlannedFile, PlannedFiles, files_of

LAYOUTS = Path(__file__).parents[3] / "examples/sd15/layouts"
FACTS = {"format": "pt", "mergebuild": "{}"}
INDEX = "diffusion_pytorch_model.safetensors.index.json"


def specs_of(shapes: Mapping[str, tuple[int, ...]], dtype: str = "float16") -> dict[str, Spec]:
    return {
        name: Spec("int64", shape, False) if name.endswith("position_ids") else Spec(dtype, shape, True)
        for name, shape in shapes.items()
    }


def real(name: str) -> dict[str, Spec]:
    """Return the tensors of a real checkpoint."""
    tensors = json.loads((LAYOUTS / f"{name}.json").read_text())["tensors"]
    return specs_of({tensor: tuple(shape) for tensor, (_, shape) in tensors.items()})


def donor(home: Path, kind: str = "diffusers", **components: str) -> Folder:
    """Return a folder whose components have these files, each with a configuration."""
    models = {
        name: Model("safetensors", (home / name / file,), (0,), {}, {}, folder=home)
        for name, file in components.items()
    }
    sidecars = [f"{name}/config.json" if name else "config.json" for name in components]
    for each in sidecars:
        (home / each).parent.mkdir(parents=True, exist_ok=True)
        (home / each).write_text('{\n  "_diffusers_version": "0.30.0"\n}\n' if kind == "diffusers" else "{}")
    if kind == "diffusers":
        sidecars.append("model_index.json")
        (home / "model_index.json").write_text(json.dumps({name: ["diffusers", "X"] for name in components}))
    return Folder(kind, models, {}, tuple(sorted(sidecars)), (), ())


def packed(specs: Mapping[str, Spec], given: Folder | None, home: Path | None, most: int | None = None) -> PlannedFiles:
    return files_of(specs, FACTS, BesideWeights(given, home), most)


def stored(file: PlannedFile) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes that a file's header has."""
    raw = file.packing.encoded(file.packing.header({"format": "pt"}))
    about = json.loads(raw[8:])
    return {name: tuple(each["shape"]) for name, each in about.items() if name != "__metadata__"}


@pytest.mark.parametrize("layout", ["sd15", "sdxl"])
@pytest.mark.parametrize("most", [None, 300_000_000])
def test_a_real_checkpoint_is_written_as_a_pipeline(tmp_path: Path, layout: str, most: int | None) -> None:
    """Every tensor that diffusers knows is in the folder of its component, under its name and in its shape there."""
    specs = real(layout)
    made, left = to_diffusers({name: spec.shape for name, spec in specs.items()})
    names = {name: "model.safetensors" if name.startswith("text") else "diffusion_pytorch_model.bin" for name in made}
    files = packed(specs, donor(tmp_path, **names), tmp_path, most)
    by_path = {file.path: file for file in files.files}
    found: dict[str, dict[str, tuple[int, ...]]] = {component: {} for component in made}
    for path, file in by_path.items():
        if file.tensors:
            tensors = stored(file)
            component = path.partition("/")[0]
            assert found[component].keys().isdisjoint(tensors)
            found[component] |= tensors
            assert most is None or file.packing.header({}).file_size < most + 1_000_000
    expected = {name: {each: place.shape for each, place in some.items()} for name, some in made.items()}
    assert found == expected
    if most:
        where = json.loads(by_path[f"unet/{INDEX}"].content)["weight_map"]
        assert {name: f"unet/{file}" for name, file in where.items()} == {
            name: path for path, file in by_path.items() if path.startswith("unet/") and file.tensors
            for name in stored(file)
        }  # fmt: skip
    else:
        assert {path for path, file in by_path.items() if file.tensors} == {
            f"{name}/{'model' if name.startswith('text') else 'diffusion_pytorch_model'}.safetensors" for name in made
        }
    lost = [name for name in left if not name.endswith("position_ids")]
    assert len(files.notices) == (1 if lost else 0)
    assert files.files[-1].path == "model_index.json"


def test_only_what_lies_the_other_way_round_is_turned(tmp_path: Path) -> None:
    """A projection of OpenCLIP, and no other matrix."""
    specs = real("sdxl")
    components = dict.fromkeys(("unet", "vae", "text_encoder", "text_encoder_2"), "model.safetensors")
    files = packed(specs, donor(tmp_path, **components), tmp_path)
    turned = set().union(*(file.packing.turned for file in files.files))
    assert turned == {"conditioner.embedders.1.model.text_projection"}


def test_a_component_that_is_not_written_is_in_no_index(tmp_path: Path) -> None:
    specs = {name: spec for name, spec in real("sd15").items() if not name.startswith("first_stage_model.")}
    given = donor(tmp_path, unet="diffusion_pytorch_model.safetensors", vae="diffusion_pytorch_model.safetensors")
    index = json.loads(packed(specs, given, tmp_path).files[-1].content)
    assert index == {"unet": ["diffusers", "X"], "vae": [None, None]}


def test_names_of_an_unknown_pipeline_go_back_to_their_components(tmp_path: Path) -> None:
    specs = specs_of({"transformer.a.weight": (2, 2), "image_encoder.b": (2,), "other.c": (2,)})
    given = donor(tmp_path, transformer="diffusion_pytorch_model.safetensors", image_encoder="model.fp16.safetensors")
    files = packed(specs, given, tmp_path)
    held = {file.path: stored(file) for file in files.files if file.tensors}
    assert held == {
        "transformer/diffusion_pytorch_model.safetensors": {"a.weight": (2, 2)},
        "image_encoder/model.safetensors": {"b": (2,)},
    }
    assert files.notices == ("1 tensors have no place in a pipeline of diffusers, such as `other.c`",)


def test_a_pipeline_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MismatchError) as caught:
        packed(specs_of({"model.norm.weight": (2,)}), donor(tmp_path, unet="model.safetensors"), tmp_path)
    assert caught.value.problems[0].code == "no-pipeline"


def test_each_components_configuration_has_its_own_dtype(tmp_path: Path) -> None:
    home = tmp_path
    given = donor(home, transformer="diffusion_pytorch_model.safetensors", text_encoder="model.safetensors")
    for name in ("transformer", "text_encoder"):
        (home / name / "config.json").write_text('{"torch_dtype": "float16"}')
    specs = specs_of({"transformer.a": (2, 2)}, "bfloat16") | specs_of({"text_encoder.b": (2,)}, "float32")
    texts = {file.path: file.content for file in packed(specs, given, home).files}
    assert json.loads(texts["transformer/config.json"]) == {"torch_dtype": "bfloat16"}
    assert json.loads(texts["text_encoder/config.json"]) == {"torch_dtype": "float32"}


def test_without_a_donor_there_are_weights_and_what_metadata_say() -> None:
    specs = specs_of({"model.layers.0.a": (4, 4), "model.layers.1.a": (4, 4), "model.norm": (4,)})
    assert [file.path for file in packed(specs, None, None).files] == ["model.safetensors", "mergebuild.json"]
    files = files_of(specs, {"format": "pt"}, BesideWeights(), 40)
    assert [file.path for file in files.files] == [
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
    ]  # fmt: skip
    assert [sorted(file.tensors) for file in files.files[:2]] == [
        ["model.layers.0.a", "model.norm"], ["model.layers.1.a"],
    ] or [sorted(file.tensors) for file in files.files[:2]] == [
        ["model.layers.0.a"], ["model.layers.1.a", "model.norm"],
    ]  # fmt: skip
