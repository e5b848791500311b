"""Graphs of ComfyUI: what is imported builds what ComfyUI makes; the rest is told, and nothing crashes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from comfy_projects import Workbench, imported
from example_counts import examples
from hypothesis import given
from hypothesis import strategies as st

Graph = dict[str, dict[str, Any]]


def node(kind: str, **inputs: object) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def merge_nodes(ratio: float, clip: float) -> Graph:
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name="photo.safetensors"),
        "2": node("CheckpointLoaderSimple", ckpt_name="anime.safetensors"),
        "3": node("ModelMergeSimple", model1=["1", 0], model2=["2", 0], ratio=ratio),
        "4": node("CLIPMergeSimple", clip1=["1", 1], clip2=["2", 1], ratio=clip),
        "save": node("CheckpointSave", model=["3", 0], clip=["4", 0], vae=["1", 2], filename_prefix="mine/mix"),
    }


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    return Workbench(tmp_path)


EXAMPLE = {
    "1": node("CheckpointLoaderSimple", ckpt_name="xl/photoA.safetensors"),
    "2": node("CheckpointLoaderSimple", ckpt_name="xl/animeB.safetensors"),
    "3": node(
        "LoraLoader",
        model=["2", 0],
        clip=["2", 1],
        lora_name="inkC.safetensors",
        strength_model=0.6,
        strength_clip=0.4,
    ),
    "4": node("ModelMergeSimple", model1=["1", 0], model2=["3", 0], ratio=0.7),
    "5": node("CLIPMergeSimple", clip1=["1", 1], clip2=["3", 1], ratio=1.0),
    "6": node("CheckpointSave", model=["4", 0], clip=["5", 0], vae=["2", 2], filename_prefix="mine/mixD"),
}


def test_a_graph_is_a_mergefile(tmp_path: Path) -> None:
    made = imported(tmp_path, EXAMPLE)
    assert not made.unmapped
    assert made.text == (
        """[sources]
photoA = "xl/photoA.safetensors"
animeB = "xl/animeB.safetensors"
inkC = "inkC.safetensors"

[targets.animeB-inkC]
# node 3 (LoraLoader)
method = "add_lora"
base = "animeB"
loras = ["inkC"]
strength = { unet = 0.6, text_encoder = 0.4 }

[targets.mixD]
# node 6 (CheckpointSave)
method = "weighted_sum"
a = "photoA"
b = "animeB-inkC"
alpha = { unet = 0.3, text_encoder = 0 }
components = { vae = "animeB" }
output = "mine/mixD_00001_.safetensors"
dtype = "float16"  # ComfyUI saves what it computes with, usually this
"""
    )


@pytest.mark.parametrize(("ratio", "clip"), [(0.7, 1.0), (0.30000000000000004, 0.25), (1.0, 0.0), (-0.2, 1.3)])
def test_a_ratio_is_the_first_models_share(bench: Workbench, ratio: float, clip: float) -> None:
    made = bench.check(merge_nodes(ratio, clip))
    assert "0.7000000000000" not in made.text


def test_the_vae_of_the_other_checkpoint_is_a_component(bench: Workbench) -> None:
    graph = merge_nodes(0.5, 0.5)
    graph["save"]["inputs"]["vae"] = ["2", 2]
    made = bench.check(graph)
    assert 'vae = "anime"' in made.text


def test_a_model_alone_is_saved_without_the_rest(bench: Workbench) -> None:
    graph = merge_nodes(0.25, 1.0)
    graph["save"] = node("ModelSave", model=["3", 0], filename_prefix="part")
    bench.check(graph)


def test_a_text_encoder_alone_is_saved_without_the_rest(bench: Workbench) -> None:
    graph = merge_nodes(0.25, 0.4)
    graph["save"] = node("CLIPSave", clip=["4", 0], filename_prefix="part")
    bench.check(graph)


def test_a_text_encoder_may_come_from_another_model_than_the_first(bench: Workbench) -> None:
    graph = merge_nodes(0.25, 1.0)
    graph["save"]["inputs"]["clip"] = ["2", 1]
    made = bench.check(graph)
    assert made.text.count("[targets.") == 1


def test_loras_before_a_merge_are_scaled_with_the_model_that_they_patch(bench: Workbench) -> None:
    graph = merge_nodes(0.25, 0.4)
    for number, (model, lora) in enumerate([("1", "ink"), ("2", "pose")], 5):
        links = {"model": [model, 0], "clip": [model, 1]}
        graph[str(number)] = node(
            "LoraLoader", **links, lora_name=f"{lora}.safetensors", strength_model=0.8, strength_clip=-0.3
        )
    graph["3"]["inputs"] |= {"model1": ["5", 0], "model2": ["6", 0]}
    graph["4"]["inputs"] |= {"clip1": ["5", 1], "clip2": ["6", 1]}
    bench.check(graph)


def test_loras_in_a_row_are_one_target(bench: Workbench) -> None:
    graph = merge_nodes(0.25, 0.4)
    graph["5"] = node(
        "LoraLoader", model=["3", 0], clip=["4", 0], lora_name="ink.safetensors", strength_model=1, strength_clip=0.5
    )
    graph["6"] = node("LoraLoaderModelOnly", model=["5", 0], lora_name="pose.safetensors", strength_model=0.75)
    graph["save"]["inputs"] |= {"model": ["6", 0], "clip": ["5", 1]}
    made = bench.check(graph)
    assert made.text.count('method = "add_lora"') == 1


@pytest.mark.parametrize("multiplier", [1.0, 0.6])
def test_a_sum_with_a_difference_adds_a_difference(bench: Workbench, multiplier: float) -> None:
    graph = merge_nodes(1.0, 1.0)
    graph["5"] = node("CheckpointLoaderSimple", ckpt_name="base.safetensors")
    graph["6"] = node("ModelMergeSubtract", model1=["2", 0], model2=["5", 0], multiplier=multiplier)
    graph["7"] = node("CLIPMergeSubtract", clip1=["2", 1], clip2=["5", 1], multiplier=0.5)
    graph["3"] = node("ModelMergeAdd", model1=["1", 0], model2=["6", 0])
    graph["4"] = node("CLIPMergeAdd", clip1=["1", 1], clip2=["7", 0])
    made = bench.check(graph)
    assert made.text.count("add_difference") == made.text.count("[targets.") == 1


@pytest.mark.parametrize("multiplier", [1.0, 0.6])
def test_sums_and_differences_by_themselves(bench: Workbench, multiplier: float) -> None:
    graph = merge_nodes(0.5, 0.5)
    graph["3"] = node("ModelMergeSubtract", model1=["1", 0], model2=["2", 0], multiplier=multiplier)
    graph["4"] = node("CLIPMergeAdd", clip1=["1", 1], clip2=["2", 1])
    bench.check(graph)
    graph["3"], graph["4"] = (
        node("ModelMergeAdd", model1=["1", 0], model2=["2", 0]),
        node("CLIPMergeSubtract", clip1=["1", 1], clip2=["2", 1], multiplier=multiplier),
    )
    bench.check(graph)


def block_numbers(kind: str, draw: st.DataObject) -> dict[str, float]:
    from mergebuild.exchange.comfy.blocks import prefixes_of

    numbers = st.sampled_from([0.0, 0.25, 0.5, 1.0])
    return {name: draw.draw(numbers) for name in prefixes_of(kind)}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ModelMergeSD1", "ModelMergeSD2", "ModelMergeBlocks"])
@examples(3)
@given(data=st.data())
def test_each_tensor_gets_the_number_of_its_prefix(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject
) -> None:
    bench = Workbench(tmp_path_factory.mktemp("blocks"))
    graph = merge_nodes(1.0, 1.0)
    graph["3"] = node(kind, model1=["1", 0], model2=["2", 0], **block_numbers(kind, data))
    bench.check(graph)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Graphs in which every link leads to a node of the right kind, and what merges is saved."""
    graph: Graph = {
        str(n): node("CheckpointLoaderSimple", ckpt_name=f"{name}.safetensors")
        for n, name in enumerate(("photo", "anime", "base"))
    }
    links = {role: [[str(n), slot] for n in range(3)] for slot, role in enumerate(("model", "clip", "vae"))}
    numbers = st.sampled_from([0.0, 0.25, 0.7, 1.0, -0.5, 0.30000000000000004])

    def one(role: str) -> list[object]:
        return draw(st.sampled_from(links[role]))

    for n in range(3, 3 + draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["lora", "model", "clip", "both", "both", "blocks"]))
        if kind == "lora":
            lora = draw(st.sampled_from(["ink.safetensors", "pose.safetensors"]))
            strengths = {"strength_model": draw(numbers), "strength_clip": draw(numbers)}
            graph[str(n)] = node("LoraLoader", model=one("model"), clip=one("clip"), lora_name=lora, **strengths)
            links["model"].append([str(n), 0])
            links["clip"].append([str(n), 1])
        elif kind == "blocks":
            numbers_of = {part: draw(numbers) for part in ("input", "middle", "out")}
            graph[str(n)] = node("ModelMergeBlocks", model1=one("model"), model2=one("model"), **numbers_of)
            links["model"].append([str(n), 0])
        for role in ("model", "clip") if kind == "both" else (kind,) if kind in ("model", "clip") else ():
            how = draw(st.sampled_from(["Simple", "Simple", "Add", "Subtract"]))
            given_number = {"Simple": {"ratio": draw(numbers)}, "Subtract": {"multiplier": draw(numbers)}, "Add": {}}[
                how
            ]
            pair = {f"{role}1": one(role), f"{role}2": one(role)}
            name = f"{n}{role[0]}"
            graph[name] = node(f"{'Model' if role == 'model' else 'CLIP'}Merge{how}", **pair, **given_number)
            links[role].append([name, 0])
    ends = {"model": links["model"][-1], "clip": links["clip"][-1], "vae": one("vae")}
    graph["save"] = node("CheckpointSave", **ends, filename_prefix="out/mix")
    return graph


@pytest.mark.slow
@examples(25)
@given(graph=graphs())
def test_any_graph_of_merges_and_loras_builds_what_its_patches_make(
    tmp_path_factory: pytest.TempPathFactory, graph: Graph
) -> None:
    """Composing functions is the same as patching copies, however parts and their ways through a graph are mixed."""
    Workbench(tmp_path_factory.mktemp("graph")).check(graph)
