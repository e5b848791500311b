"""The workflow form of ComfyUI's graphs, and what strangers may put into graphs of either form."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import tomli
import torch
from comfy_patches import UNET
from comfy_projects import imported
from example_counts import examples
from hypothesis import given
from hypothesis import strategies as st
from model_files import read_model, write_model
from parts_of_models import flux, under, weights, whole
from tiny_models import sdxl

from mergebuild.errors import RecipeError
from mergebuild.exchange.comfy.blocks import prefixes_of
from mergebuild.exchange.importing import import_recipes
from mergebuild.project.project import load

Json = dict[str, Any]


class Editor:
    """Draws a workflow: nodes, and links between them."""

    def __init__(self) -> None:
        self.nodes: list[Json] = []
        self.links: list[list[object]] = []

    def node(self, kind: str, values: object = (), mode: int = 0, widgets: tuple[str, ...] = (), **links: Any) -> int:
        """Add a node and return its id; a link is an id, a slot and a type."""
        number = len(self.nodes) + 1
        slots: list[Json] = []
        for name, link in links.items():
            slot: Json = {"name": name, "type": link[2] if link else "MODEL", "link": None}
            if link:
                self.links.append([len(self.links) + 1, link[0], link[1], number, len(slots), link[2]])
                slot["link"] = len(self.links)
            if name in widgets:
                slot["widget"] = {"name": name}
            slots.append(slot)
        made = list(values) if isinstance(values, tuple) else values
        self.nodes.append({"id": number, "type": kind, "mode": mode, "inputs": slots, "widgets_values": made})
        return number

    @property
    def workflow(self) -> Json:
        return {"version": 0.4, "nodes": self.nodes, "links": self.links}


def merged(editor: Editor, first: tuple[object, ...], second: tuple[object, ...], **more: Any) -> int:
    """Merge and save two models; return the save node's id."""
    merge = editor.node("ModelMergeSimple", (0.7,), model1=first, model2=second, **more)
    return editor.node("ModelSave", ("mix",), model=(merge, 0, "MODEL"))


def loaders(editor: Editor) -> list[tuple[object, ...]]:
    return [(editor.node("UNETLoader", (f"{name}.safetensors", "default")), 0, "MODEL") for name in "ab"]


def mix(tmp_path: Path, graph: object) -> Json:
    made = imported(tmp_path, graph)
    assert made.unmapped == ()
    found: Json = tomli.loads(made.text)["targets"]
    return found


PLAIN = {"method": "weighted_sum", "a": "a", "b": "b", "alpha": 0.3, "output": "mix_00001_.safetensors"}


def test_values_of_widgets_are_named_by_their_place(tmp_path: Path) -> None:
    editor = Editor()
    merged(editor, *loaders(editor))
    assert mix(tmp_path, editor.workflow) == {"mix": PLAIN}


def test_reroutes_getters_and_setters_are_followed(tmp_path: Path) -> None:
    editor = Editor()
    first, second = loaders(editor)
    reroute = (editor.node("Reroute", (), x=(editor.node("Reroute", (), x=first), 0, "*")), 0, "*")
    editor.node("SetNode", ("second",), MODEL=second)
    merged(editor, reroute, (editor.node("GetNode", ("second",)), 0, "MODEL"))
    assert mix(tmp_path, editor.workflow) == {"mix": PLAIN}


def test_a_primitive_gives_its_value(tmp_path: Path) -> None:
    editor = Editor()
    first, second = loaders(editor)
    number = (editor.node("PrimitiveNode", (0.25, "fixed")), 0, "FLOAT")
    merged(editor, first, second, ratio=number, widgets=("ratio",))
    assert mix(tmp_path, editor.workflow)["mix"]["alpha"] == 0.75


def test_a_primitive_that_the_server_has_gives_its_value(tmp_path: Path) -> None:
    editor = Editor()
    first, second = loaders(editor)
    merged(editor, first, second, ratio=(editor.node("PrimitiveFloat", (0.25,)), 0, "FLOAT"), widgets=("ratio",))
    assert mix(tmp_path, editor.workflow)["mix"]["alpha"] == 0.75


def test_a_bypassed_node_hands_on_the_input_of_the_type(tmp_path: Path) -> None:
    editor = Editor()
    first, second = loaders(editor)
    clip = (editor.node("CLIPLoader", ("clip.safetensors", "sd")), 0, "CLIP")
    lora = editor.node("LoraLoader", ("ink.safetensors", 1, 1), mode=4, clip=clip, model=second)
    merged(editor, first, (lora, 0, "MODEL"))
    assert mix(tmp_path, editor.workflow) == {"mix": PLAIN}


def test_a_muted_node_leaves_a_gap_that_is_told(tmp_path: Path) -> None:
    editor = Editor()
    first, second = loaders(editor)
    lora = editor.node("LoraLoaderModelOnly", ("ink.safetensors", 1), mode=2, model=second)
    merged(editor, first, (lora, 0, "MODEL"))
    with pytest.raises(RecipeError, match="has nothing at its input `model2`"):
        imported(tmp_path, editor.workflow)


def test_a_muted_save_node_saves_nothing(tmp_path: Path) -> None:
    editor = Editor()
    first, second = loaders(editor)
    merged(editor, first, second)
    editor.node("ModelSave", ("other",), mode=2, model=first)
    assert list(mix(tmp_path, editor.workflow)) == ["mix"]


def sub_graph(uuid: str, inner: Editor) -> Json:
    """Return the definition of a sub-graph with two models, a ratio and an output."""
    links = [
        {"id": 101, "origin_id": -10, "origin_slot": 0, "target_id": 1, "target_slot": 0, "type": "MODEL"},
        {"id": 102, "origin_id": -10, "origin_slot": 1, "target_id": 1, "target_slot": 1, "type": "MODEL"},
        {"id": 103, "origin_id": -10, "origin_slot": 2, "target_id": 1, "target_slot": 2, "type": "FLOAT"},
        {"id": 104, "origin_id": 1, "origin_slot": 0, "target_id": -20, "target_slot": 0, "type": "MODEL"},
    ]
    inner.node("ModelMergeSimple", (0.7,), model1=None, model2=None, ratio=None, widgets=("ratio",))
    for slot, link in zip(inner.nodes[0]["inputs"], (101, 102, 103), strict=True):
        slot["link"] = link
    inputs = [{"name": name} for name in ("one", "two", "share")]
    return {"id": uuid, "nodes": inner.nodes, "links": links, "inputs": inputs, "outputs": [{"name": "mixed"}]}


@pytest.mark.parametrize(("values", "alpha"), [((0.6,), 0.4), ((), 0.3)])
def test_a_sub_graph_takes_the_place_of_its_node(tmp_path: Path, values: tuple[float, ...], alpha: float) -> None:
    """Its own widget's value counts; where it has none, that of the node inside."""
    editor = Editor()
    first, second = loaders(editor)
    used = editor.node("uuid-1", values, one=first, two=second, share=None, widgets=("share",))
    editor.node("ModelSave", ("mix",), model=(used, 0, "MODEL"))
    graph = editor.workflow | {"definitions": {"subgraphs": [sub_graph("uuid-1", Editor())]}}
    assert mix(tmp_path, graph) == {"mix": PLAIN | {"alpha": alpha}}


def test_sub_graphs_that_hold_themselves_are_refused(tmp_path: Path) -> None:
    inner = {"id": "u", "nodes": [{"id": n, "type": "u"} for n in range(9)], "links": [], "inputs": []}
    editor = Editor()
    editor.node("u")
    with pytest.raises(RecipeError, match="more than 20,000 nodes with its sub-graphs, or these are more than 16 deep"):
        imported(tmp_path, editor.workflow | {"definitions": {"subgraphs": [inner]}})


def test_reroutes_in_a_circle_are_refused(tmp_path: Path) -> None:
    editor = Editor()
    first, _ = loaders(editor)
    editor.node("Reroute", (), x=(4, 0, "*"))
    editor.node("Reroute", (), x=(3, 0, "*"))
    merged(editor, first, (4, 0, "MODEL"))
    with pytest.raises(RecipeError, match="its reroutes go in a circle"):
        imported(tmp_path, editor.workflow)


def api(kind: str, **inputs: object) -> Json:
    return {"class_type": kind, "inputs": inputs}


GRAPH = {
    "1": api("UNETLoader", unet_name="a.safetensors", weight_dtype="default"),
    "2": api("UNETLoader", unet_name="b.safetensors", weight_dtype="default"),
    "3": api("ModelMergeSimple", model1=["1", 0], model2=["2", 0], ratio=0.7),
    "4": api("ModelSave", model=["3", 0], filename_prefix="mix"),
}


def with_node(key: str, node: Json) -> Json:
    return GRAPH | {key: node}


@pytest.mark.parametrize("chunk", [b"tEXt", b"iTXt"])
def test_a_picture_has_the_graph_that_drew_it(tmp_path: Path, chunk: bytes) -> None:
    """The API form is taken: it is what ran."""
    graph = {key: node for key, node in GRAPH.items() if key != "4"} | {"5": api("KSampler", model=["3", 0], seed=1)}
    data = b"\x89PNG\r\n\x1a\n"
    for keyword, text in ((b"workflow", "{}"), (b"prompt", json.dumps(graph))):
        body = keyword + b"\0" + (b"\0\0\0\0" if chunk == b"iTXt" else b"") + text.encode()
        data += struct.pack(">I", len(body)) + chunk + body + struct.pack(">I", zlib.crc32(chunk + body))
    (tmp_path / "picture.png").write_bytes(data)
    made = import_recipes([tmp_path / "picture.png"], tmp_path)
    assert tomli.loads(made.text)["targets"] == {"picture": PLAIN | {"output": "picture.safetensors"}}
    assert "it draws with this one" in made.notices[0].message


def test_a_saved_model_has_the_graph_that_made_it(tmp_path: Path) -> None:
    write_model(tmp_path / "mixed.safetensors", sdxl(1), {"prompt": json.dumps(GRAPH), "workflow": "{}"})
    made = import_recipes([tmp_path / "mixed.safetensors"], tmp_path)
    assert tomli.loads(made.text)["targets"] == {"mix": PLAIN}


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (
            api("MysteryMerge", model1=["1", 0], amount=3),
            "what node 3 (MysteryMerge) makes is not known here (amount = 3)",
        ),
        (
            api("ModelMergeSimple", model1=["1", 0], model2=["9", 0], ratio=1),
            "a link leads to node 9, which is not there",
        ),
        (api("ModelMergeSimple", model1=["1", 0], ratio=1), "has nothing at its input `model2`"),
        (api("ModelMergeSimple", model1=["1", 0], model2=["2", 0], ratio="half"), "has no number as `ratio`"),
        (api("ModelMergeSimple", model1=["1", 0], model2=["2", 0], ratio=True), "has no number as `ratio`"),
        (api("ModelMergeSimple", model1=["1", 0], model2=["v", 0], ratio=1), "has a vae at its input `model2`"),
        (api("ModelMergeSimple", model1=["1", 0], model2=["2", 7], ratio=1), "makes is not known here"),
        (api("ModelMergeBlocks", model1=["1", 0], model2=["2", 0]), "node 3 (ModelMergeBlocks) has no numbers"),
        (api("UNETLoader", unet_name=""), "has no text as `unet_name`"),
        (api("LoraLoaderModelOnly", model=["1", 0], lora_name={"x": 1}, strength_model=1), "no text as `lora_name`"),
    ],
)
def test_what_is_not_known_is_told_with_its_node(tmp_path: Path, node: Json, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        imported(tmp_path, with_node("3", node) | {"v": api("VAELoader", vae_name="v.safetensors")})
    assert said in str(caught.value)


def test_one_save_that_is_not_known_hides_no_other(tmp_path: Path) -> None:
    graph = GRAPH | {
        "5": api("Mystery", model=["1", 0]),
        "6": api("ModelSave", model=["5", 0], filename_prefix="other"),
    }
    made = imported(tmp_path, graph)
    assert list(tomli.loads(made.text)["targets"]) == ["mix"]
    assert len(made.unmapped) == 1


def test_a_text_encoder_that_is_not_known_is_left_out_alone(tmp_path: Path) -> None:
    save = api("CheckpointSave", model=["3", 0], clip=["5", 0], vae=["6", 0], filename_prefix="mix")
    graph = GRAPH | {"4": save, "5": api("Mystery"), "6": api("VAELoader", vae_name="v.safetensors")}
    made = imported(tmp_path, graph)
    assert tomli.loads(made.text)["targets"]["mix"]["components"] == {"vae": "v"}
    assert "its text encoder" in made.unmapped[0].message


def test_separate_text_encoders_are_told_by_their_names(tmp_path: Path) -> None:
    clip = api("DualCLIPLoader", clip_name1="t5xxl_fp16.safetensors", clip_name2="clip_l.safetensors", type="flux")
    save = api("CheckpointSave", model=["3", 0], clip=["5", 0], vae=["6", 0], filename_prefix="mix")
    made = imported(tmp_path, GRAPH | {"4": save, "5": clip, "6": api("VAELoader", vae_name="v.safetensors")})
    wanted = {"t5": "t5xxl_fp16", "clip_l": "clip_l", "vae": "v"}
    assert tomli.loads(made.text)["targets"]["mix"]["components"] == wanted


def test_the_difference_of_two_models_is_saved_as_a_lora(tmp_path: Path) -> None:
    difference = api("ModelMergeSubtract", model1=["1", 0], model2=["2", 0], multiplier=1.0)
    save = api("LoraSave", model_diff=["3", 0], rank=16, lora_type="standard", bias_diff=False, filename_prefix="l/x")
    assert mix(tmp_path, GRAPH | {"3": difference, "4": save}) == {
        "x": {
            "method": "extract_lora",
            "base": "b",
            "a": "a",
            "rank": 16,
            "conv_rank": 16,
            "clamp_quantile": 0.99,
            "output": "l/x_00001_.safetensors",
        }
    }


def test_a_lora_of_anything_else_is_told(tmp_path: Path) -> None:
    save = api("LoraSave", model_diff=["3", 0], rank=16, lora_type="standard", bias_diff=False, filename_prefix="x")
    with pytest.raises(RecipeError, match="it saves no low rank of a difference of two models"):
        imported(tmp_path, with_node("4", save))


def test_a_vae_alone_is_a_copy_of_it(tmp_path: Path) -> None:
    save = api("VAESave", vae=["1", 2], filename_prefix="v")
    found = mix(tmp_path, {"1": api("CheckpointLoaderSimple", ckpt_name="a.safetensors"), "4": save})
    assert found == {
        "v": {
            "method": "copy",
            "a": "a",
            "drop": ["unet", "text_encoder"],
            "output": "v_00001_.safetensors",
            "dtype": "float16",
        }
    }


def test_rounding_before_a_merge_and_marks_are_told(tmp_path: Path) -> None:
    loader = api("UNETLoader", unet_name="a.safetensors", weight_dtype="fp8_e4m3fn")
    sampling = api("ModelSamplingDiscrete", model=["2", 0], sampling="v_prediction", zsnr=True)
    graph = with_node("1", loader) | {"7": sampling}
    graph["3"] = api("ModelMergeSimple", model1=["1", 0], model2=["7", 0], ratio=0.7)
    said = " ".join(each.message for each in imported(tmp_path, graph).unmapped)
    assert "fp8_e4m3fn" in said
    assert "saved as a mark" in said


def test_a_circle_is_refused(tmp_path: Path) -> None:
    node = api("ModelMergeSimple", model1=["1", 0], model2=["3", 0], ratio=0.5)
    with pytest.raises(RecipeError, match="goes in a circle through node 3"):
        imported(tmp_path, with_node("3", node))


def test_a_deep_chain_is_told_and_a_wide_one_read(tmp_path: Path) -> None:
    def chain(length: int) -> Json:
        links = [["1", 0], *([f"m{n}", 0] for n in range(length))]
        merges = {f"m{n}": api("ModelMergeSimple", model1=links[n], model2=["2", 0], ratio=0.5) for n in range(length)}
        return GRAPH | merges | {"4": api("ModelSave", model=links[-1], filename_prefix="mix")}

    assert len(mix(tmp_path, chain(50))) == 50
    with pytest.raises(RecipeError, match="more than 60 merges or 100 LoRAs in a row"):
        imported(tmp_path, chain(5_000))


def test_each_way_doubles_without_work_doubling(tmp_path: Path) -> None:
    """A node that takes its predecessor twice: 2**50 ways through the graph, and fifty targets."""
    merges = {f"m{n}": api("ModelMergeAdd", model1=[f"m{n - 1}", 0], model2=[f"m{n - 1}", 0]) for n in range(1, 50)}
    graph = GRAPH | {"m0": GRAPH["1"]} | merges | {"4": api("ModelSave", model=["m49", 0], filename_prefix="mix")}
    assert len(mix(tmp_path, graph)) == 49


def test_too_many_nodes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="has 20,004 nodes"):
        imported(tmp_path, GRAPH | {f"n{n}": api("Note") for n in range(20_000)})


def test_a_graph_that_merges_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="it merges no models that are known here"):
        imported(tmp_path, {"1": GRAPH["1"], "2": api("KSampler", model=["1", 0])})


def test_paths_of_strangers_stay_below_the_mergefile(tmp_path: Path) -> None:
    save = api("ModelSave", model=["3", 0], filename_prefix="../../etc/../mix\n[evil]")
    made = imported(tmp_path, with_node("4", save))
    output = next(iter(tomli.loads(made.text)["targets"].values()))["output"]
    assert ".." not in output.split("/")
    assert list(tomli.loads(made.text)) == ["sources", "targets"]


@pytest.mark.parametrize(("is_there", "word"), [(True, "transformer"), (False, "unet")])
def test_what_the_main_part_is_called_follows_from_the_model(tmp_path: Path, is_there: bool, word: str) -> None:
    if is_there:
        write_model(tmp_path / "a.safetensors", weights(whole("flux"), 1))
    loads = {n: api("CheckpointLoaderSimple", ckpt_name=f"{name}.safetensors") for n, name in (("1", "a"), ("2", "b"))}
    found = mix(tmp_path, GRAPH | loads)["mix"]
    assert found["alpha"] == {word: 0.3}


@pytest.mark.parametrize("loader", ["UNETLoader", "CheckpointLoaderSimple"])
@pytest.mark.parametrize("is_bare", [True, False])
def test_each_prefix_of_flux_gets_its_number_in_files_of_either_kind(
    tmp_path: Path, loader: str, is_bare: bool
) -> None:
    """Files of the model alone have `model.diffusion_model.` before their names, or not."""
    models = [weights(flux() if is_bare else under(UNET, flux()), seed) for seed in (1, 2)]
    if loader != "UNETLoader":
        models = [weights(whole("flux"), seed) for seed in (1, 2)]
    for name, model in zip("ab", models, strict=True):
        write_model(tmp_path / f"{name}.safetensors", model)
    numbers = {prefix: (at % 9) / 8 for at, prefix in enumerate(prefixes_of("ModelMergeFlux1"))}
    word = "unet_name" if loader == "UNETLoader" else "ckpt_name"
    loads = {n: api(loader, **{word: f"{name}.safetensors"}) for n, name in (("1", "a"), ("2", "b"))}
    graph = GRAPH | loads | {"3": api("ModelMergeFlux1", model1=["1", 0], model2=["2", 0], **numbers)}
    (tmp_path / "mergefile.toml").write_text(imported(tmp_path, graph).text)
    load(tmp_path / "mergefile.toml").build(())
    found = read_model(tmp_path / "mix_00001_.safetensors")
    assert len(found) == len(flux())
    for name, tensor in found.items():
        (ratio,) = [number for prefix, number in numbers.items() if name.removeprefix(UNET).startswith(prefix)]
        wanted = ratio * models[0][name].double() + (1 - ratio) * models[1][name].double()
        assert torch.allclose(tensor.double(), wanted, rtol=1e-3), name


ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 30) | st.floats() | st.text(max_size=5) | st.just(["1", 0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
KINDS = st.sampled_from(
    "UNETLoader CheckpointLoaderSimple LoraLoader ModelMergeSimple ModelMergeSDXL ModelMergeFlux1 ModelMergeBlocks "
    "CLIPMergeAdd ModelMergeSubtract CheckpointSave ModelSave CLIPSave VAESave LoraSave Reroute Mystery".split()
)
NAMES = st.sampled_from(
    "model model1 model2 clip clip1 clip2 vae ratio input out. strength_model lora_name ckpt_name unet_name rank "
    "filename_prefix multiplier model_diff".split()
)
LINKS = st.tuples(st.sampled_from("123456"), st.integers(-1, 3)).map(list)
INPUTS = st.dictionaries(NAMES, ANY | LINKS | st.sampled_from(["x.safetensors", 0.5]), max_size=6)


@examples(150)
@given(
    nodes=st.dictionaries(
        st.sampled_from("123456"), st.builds(lambda kind, inputs: api(kind, **inputs), KINDS, INPUTS), min_size=1
    )
)
def test_any_graph_is_imported_or_told(tmp_path_factory: pytest.TempPathFactory, nodes: Json) -> None:
    """What is written loads, which `import_recipes` checks; and nothing crashes."""
    try:
        imported(tmp_path_factory.mktemp("any"), nodes)
    except RecipeError:
        return


SLOTS = st.lists(
    st.fixed_dictionaries({}, optional={"name": NAMES | ANY, "type": ANY, "link": st.integers(0, 6), "widget": ANY}),
    max_size=3,
)
NODES = st.fixed_dictionaries(
    {},
    optional={
        "id": st.integers(1, 6) | ANY,
        "type": KINDS | st.sampled_from(["PrimitiveNode", "GetNode", "SetNode", "sub"]) | ANY,
        "mode": st.sampled_from([0, 2, 4]),
        "inputs": SLOTS | ANY,
        "widgets_values": ANY | st.just(["x", 0.5, 1]),
    },
)
ENDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
WIRES = st.lists(
    st.tuples(*[st.integers(-20, 6)] * 5, st.just("MODEL")).map(list)
    | st.fixed_dictionaries(
        {},
        optional={name: st.integers(-20, 6) for name in ("id", "origin_id", "origin_slot", "target_id", "target_slot")},
    )
    | ANY,
    max_size=8,
)


@examples(150)
@given(nodes=st.lists(NODES | ANY, max_size=6), links=WIRES, inner=st.lists(NODES, max_size=3), inner_links=WIRES)
def test_any_workflow_is_imported_or_told(
    tmp_path_factory: pytest.TempPathFactory, nodes: object, links: object, inner: object, inner_links: object
) -> None:
    definition = {"id": "sub", "nodes": inner, "links": inner_links, "inputs": [{"name": "model"}, 3]}
    graph = {"nodes": nodes, "links": links, "definitions": {"subgraphs": [definition, 7]}}
    try:
        imported(tmp_path_factory.mktemp("any"), graph)
    except RecipeError:
        return
