"""Stacks of layers as folders: tensors, configuration, and what each command says of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from model_files import read_model
from model_folders import CONFIG, SIDECARS, sharded
from project_space import Space
from tiny_models import llama

MERGEFILE = """
[sources]
base = "base/"
chat = "chat/"

[targets.stack]
method = "copy"
output = "out/stack/"
max_shard_size = "20KB"
[[targets.stack.slices]]
a = "base"
layers = "L00-L02"
[[targets.stack.slices]]
method = "scale"
a = "chat"
layers = "L01-L03"
alpha = { default = 1, "*.o_proj.*" = 0 }

[targets.cross]
method = "slerp"
t = 0.3
output = "out/cross/"
slices = [
  { a = { model = "base", layers = "L00-L01" }, b = { model = "chat", layers = "L02-L03" } },
  { a = "base", b = "chat", layers = "L01-L03", t = { gradient = [0, 0.5, 1] } },
]
"""
KINDS = ["sliding_attention", "full_attention"] * 2


def with_kinds(kinds: list[str]) -> dict[str, Any]:
    """Return the small files of a model of four layers of these kinds."""
    more = {"num_hidden_layers": 4, "layer_types": kinds, "mlp_only_layers": [0]}
    return {**SIDECARS, "config.json": {**CONFIG, **more}}


@pytest.fixture
def models(space: Space) -> Space:
    """A project with two models, whose layers are of other kinds."""
    sharded(space / "base", llama(1), beside=with_kinds(KINDS))
    sharded(space / "chat", llama(2), beside=with_kinds(KINDS[::-1]))
    space.write(MERGEFILE)
    space.settle()
    return space


def config(space: Space, folder: str = "out/stack") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((space / folder / "config.json").read_text())
    return found


def tensors(space: Space, folder: str = "out/stack") -> dict[str, torch.Tensor]:
    """Return the tensors of all files of weights of a folder."""
    return {name: each for path in (space / folder).glob("*.safetensors") for name, each in read_model(path).items()}


def test_a_stack_has_the_tensors_of_its_slices_and_a_configuration_that_agrees(models: Space) -> None:
    models.build()
    found, states = tensors(models), [llama(1)] * 3 + [llama(2)] * 3
    assert len(found) == 3 + 6 * 8
    for layer, state in enumerate(states):
        own = f"model.layers.{layer if layer < 3 else layer - 2}."
        for name in (name for name in state if name.startswith(own)):
            wanted = state[name] * 0 if layer >= 3 and "o_proj" in name else state[name]
            assert torch.equal(found[name.replace(own, f"model.layers.{layer}.")], wanted), name
    assert torch.equal(found["model.embed_tokens.weight"], states[0]["model.embed_tokens.weight"])
    assert torch.equal(found["lm_head.weight"], states[-1]["lm_head.weight"])
    said = config(models)
    assert said["num_hidden_layers"] == 6
    assert said["layer_types"] == [*KINDS[:3], *KINDS[::-1][1:]]
    assert said["mlp_only_layers"] == [0]
    assert (models / "out/stack/tokenizer.json").read_bytes() == (models / "base/tokenizer.json").read_bytes()


def test_what_is_built_is_up_to_date_and_a_border_that_moves_computes_nothing(models: Space) -> None:
    models.build()
    assert models.build().verdicts == {"stack": "up-to-date", "cross": "up-to-date"}
    models.edit('layers = "L00-L02"', 'layers = "L00-L01"')
    models.edit('layers = "L01-L03"\nalpha', 'layers = "L02-L03"\nalpha')
    assert models.plan("stack")["stack"]["verdict"] == "build"
    assert "slices[1].a.layers L01-L03 -> L02-L03" in models.reasons("stack")
    assert models.build("stack")["stack"]["tensors_computed"] == 0
    assert config(models)["num_hidden_layers"] == 4


def test_slices_that_restate_a_merge_are_it(models: Space) -> None:
    models.write(
        MERGEFILE
        + '[targets.plain]\nmethod = "slerp"\na = "base"\nb = "chat"\nt = 0.25\noutput = "out/plain/"\n'
        + '[targets.whole]\nmethod = "slerp"\na = "base"\nb = "chat"\nt = 0.25\noutput = "out/whole/"\n'
        + 'slices = [{ layers = "L00-L01" }, { layers = "L02-L03" }]\n'
    )
    built = models.build("plain", "whole")
    assert built["plain"]["artifact"] == built["whole"]["artifact"]
    assert [built[name]["tensors_computed"] for name in ("plain", "whole")] == [35, 0]
    assert config(models, "out/plain") == config(models, "out/whole")


def test_each_command_says_where_tensors_come_from(models: Space) -> None:
    models.build()
    lineage = models.json("lineage", "stack")
    assert lineage["by_block"]["L02"] == {"base": "1"}
    assert lineage["by_block"]["L03"] == lineage["by_block"]["head"] == {"chat": "1"}
    text = models.run("lineage", "stack").out
    assert "copy of L00-L02 of base; scale of L01-L03 of chat" in text
    why = models.run("why", "cross", "--tensor", "model.layers.3.mlp.up_proj.weight").out
    assert "source base: model.layers.2.mlp.up_proj.weight" in why
    assert "source chat: model.layers.2.mlp.up_proj.weight" in why
    assert models.run("verify", "stack", "--rebuild").code == 0


def test_what_can_not_be_said_of_layers_is_refused(models: Space) -> None:
    """Before any work: a client would load such a folder, and compute something else."""
    small = {**CONFIG, "num_hidden_layers": 4, "decoder_sparse_step": 2}
    (models / "base/config.json").write_text(json.dumps(small))
    models.settle()
    outcome = models.run("build", "stack", "--json", code=9)
    assert outcome.json["targets"][0]["error"]["code"] == "configuration-differs"
    assert "`decoder_sparse_step` is 2" in outcome.json["targets"][0]["error"]["message"]
    assert not (models / "out").exists()


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        ('layers = "L00-L02"', 'layers = "L00-L04"', "no-such-layers"),
        ('"*.o_proj.*" = 0', "L02 = 0", "selector-matches-nothing"),
        ('a = "base"\nlayers', 'a = "base"\npart = "encoder"\nlayers', "unknown-part"),
    ],
)
def test_slices_are_held_against_the_headers(models: Space, before: str, after: str, code: str) -> None:
    models.edit(before, after)
    assert models.run("build", "stack", "--json", code=3).json["targets"][0]["error"]["code"] == code
