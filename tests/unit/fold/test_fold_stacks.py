"""Stacks: layers of a target that come from slices of its inputs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

import pytest
import torch
from disks import Disk
from lab import Lab
from model_files import write_model
from torch import Tensor

from mergebuild.errors import Problem
from mergebuild.results.build import BuildResult, TargetResult

LAYER = ("self_attn.q_proj.weight", "self_attn.o_proj.weight", "mlp.down_proj.weight", "input_layernorm.weight")
DEPTH = 6

State = Mapping[str, Tensor]


def model(seed: int, *, depth: int = DEPTH, tied: bool = False, front: str = "model.") -> dict[str, Tensor]:
    """Return a language model with small integers as weights, all of them different."""
    numbers = torch.Generator().manual_seed(seed)

    def drawn(*shape: int) -> Tensor:
        return torch.randint(-9999, 9999, shape, generator=numbers).float()

    found = {f"{front}embed_tokens.weight": drawn(8, 4), f"{front}norm.weight": drawn(4)}
    found |= {} if tied else {"lm_head.weight": drawn(8, 4)}
    for layer in range(depth):
        found |= {f"{front}layers.{layer}.{name}": drawn(4, 4) if "proj" in name else drawn(4) for name in LAYER}
    return found


def layer(state: State, number: int, stack: str = "model.layers.") -> dict[str, Tensor]:
    """Return the tensors of a layer, by their names there."""
    front = f"{stack}{number}."
    return {name.removeprefix(front): tensor for name, tensor in state.items() if name.startswith(front)}


def stacked(first: State, last: State, *layers: tuple[State, int]) -> dict[str, Tensor]:
    """Return a stack of layers with the embedding of the first model, and norm and head of the last."""
    found = {"model.embed_tokens.weight": first["model.embed_tokens.weight"]}
    found |= {name: last[name] for name in ("model.norm.weight", "lm_head.weight") if name in last}
    for at, (state, number) in enumerate(layers):
        found |= {f"model.layers.{at}.{name}": tensor for name, tensor in layer(state, number).items()}
    return found


def same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


@pytest.fixture
def two(lab: Lab) -> Lab:
    """A project with two models of six layers."""
    lab.model("base", **model(1))
    lab.model("chat", **model(2))
    return lab


def made(lab: Lab, text: str, name: str = "t") -> dict[str, Tensor]:
    """Build a target from the lines of its table, and return its tensors."""
    built(lab, text, name)
    return lab.read(f"out/{name}.safetensors")


def built(lab: Lab, text: str, name: str = "t") -> TargetResult:
    lab.write(f'[targets.{name}]\noutput = "out/{name}.safetensors"\n{text}')
    return only(lab.build(name))


def refused(lab: Lab, text: str) -> Problem:
    """Return why a target with these lines in its table is not built."""
    lab.write(f'[targets.t]\n{text}\noutput = "t.safetensors"\n')
    (found,) = lab.project.plan().targets
    assert found.error is not None
    return found.error


def only(result: BuildResult) -> TargetResult:
    (found,) = result.targets
    assert result.ok, found.error
    return found


# What comes from where


def test_layers_are_numbered_over_the_slices(two: Lab) -> None:
    """The embedding is the first slice's, norm and head are the last one's."""
    base, chat = model(1), model(2)
    found = made(
        two, 'method = "copy"\nslices = [{ a = "base", layers = "L00-L02" }, { a = "chat", layers = "L02-L04" }]'
    )
    same(found, stacked(base, chat, *((base, at) for at in range(3)), *((chat, at) for at in range(2, 5))))


def test_slices_without_layers_give_only_what_is_beside_them(two: Lab) -> None:
    base, chat = model(1), model(2)
    slices = '{ a = "chat", layers = "none" }, { a = "base", layers = "L01" }, { a = "chat", layers = "none" }'
    found = made(two, f'method = "copy"\nslices = [{slices}]')
    same(found, stacked(chat, chat, (base, 1)))


def test_a_slice_has_its_own_method_and_numbers(two: Lab) -> None:
    base, chat = model(1), model(2)
    text = """
        method = "copy"
        a = "base"
        [[targets.t.slices]]
        layers = "L00-L01"
        [[targets.t.slices]]
        method = "scale"
        a = "chat"
        layers = "L01-L02"
        alpha = { default = 1, "*.o_proj.*" = 0, "*.down_proj.*" = 0.5 }
    """
    expected = stacked(base, chat, (base, 0), (base, 1), (chat, 1), (chat, 2))
    for name in expected:
        if name.startswith(("model.layers.2.", "model.layers.3.")):
            expected[name] = expected[name] * (0 if "o_proj" in name else 0.5 if "down_proj" in name else 1)
    same(made(two, text), expected)


def test_inputs_of_a_slice_may_have_other_layers(two: Lab) -> None:
    base, chat = model(1), model(2)
    found = made(
        two,
        'method = "weighted_sum"\nalpha = 0.5\nslices = [{ a = { model = "base", layers = "L00-L01" },'
        ' b = { model = "chat", layers = "L04-L05" } }]',
    )
    for name in LAYER:
        for at in range(2):
            mine, theirs = layer(base, at)[name], layer(chat, at + 4)[name]
            assert torch.equal(found[f"model.layers.{at}.{name}"], mine + (theirs - mine) * 0.5)


def test_a_formula_is_over_the_same_layers_of_all_its_inputs(two: Lab) -> None:
    base, chat = model(1), model(2)
    found = made(two, 'formula = "base - chat"\nslices = [{ layers = "L03" }]')
    for name in LAYER:
        assert torch.equal(found[f"model.layers.0.{name}"], layer(base, 3)[name] - layer(chat, 3)[name])


# The laws


@pytest.mark.parametrize(
    "making",
    [
        'method = "copy"\na = "base"',
        'method = "slerp"\na = "base"\nb = "chat"\nt = { default = 0.25, L02-L04 = 0.5 }',
        'method = "dare_ties"\nbase = "base"\nmodels = ["chat"]\nweight = 0.5\ndensity = 0.5\nseed = 3',
        'method = "rotate"\na = "base"\nb = "chat"\nalpha = 0.5',
    ],
)
@pytest.mark.parametrize("slices", ["L00-L05", "L00-L02 L03-L05", "none L00 L01-L05 none"])
def test_slices_that_restate_the_model_are_that_model(two: Lab, making: str, slices: str) -> None:
    plain = built(two, making)
    listed = ", ".join(f'{{ layers = "{each}" }}' for each in slices.split())
    found = built(two, f"{making}\nslices = [{listed}]")
    assert found.artifact == plain.artifact
    assert found.tensors_computed == 0


# Computing once


RANDOM = 'method = "dare_ties"\nbase = "base"\nmodels = ["chat"]\nweight = 0.5\ndensity = 0.5\nseed = 3'


def test_a_layer_that_is_used_twice_is_computed_once(two: Lab) -> None:
    """Random numbers are drawn by the first input's name of a tensor, whose layer it is."""
    found = built(two, f'{RANDOM}\nslices = [{{ layers = "L00-L03" }}, {{ layers = "L02-L05" }}]')
    assert (found.tensors_computed, found.tensors_reused) == (6 * len(LAYER) + 3, 2 * len(LAYER))
    tensors = two.read("out/t.safetensors")
    for name in LAYER:
        assert torch.equal(tensors[f"model.layers.2.{name}"], tensors[f"model.layers.4.{name}"])


def test_layers_that_are_copied_share_blocks_where_the_file_system_can(two: Lab, disk: Disk) -> None:
    """Six times the same layer, of a source on that disk, takes less than one."""
    state = {
        each: torch.rand(512, 512) if "down_proj" in each else tensor for each, tensor in model(1, depth=1).items()
    }
    two.sources["large"] = str(write_model(disk.folder / "large.safetensors", state))
    free, output = room(disk), disk.folder / "t.safetensors"
    slices = ", ".join(['{ layers = "L00" }'] * 6)
    two.write(f'[targets.t]\noutput = "{output}"\nmethod = "copy"\na = "large"\nslices = [{slices}]\n')
    two.project.trust()
    assert only(two.build()).tensors_computed == 0
    assert output.stat().st_size > 6 << 20
    assert not disk.shares or free - room(disk) < 1 << 20
    found = two.read(str(output))
    assert all(torch.equal(found[f"model.layers.{at}.{LAYER[2]}"], layer(state, 0)[LAYER[2]]) for at in range(6))


def room(disk: Disk) -> int:
    """Return the bytes that are free on a disk, after all is written."""
    os.sync()
    found = os.statvfs(disk.folder)
    return found.f_bfree * found.f_frsize


def test_a_border_that_moves_computes_nothing_that_is_there(two: Lab) -> None:
    text = RANDOM + '\nslices = [{{ layers = "L00-L0{}" }}, {{ layers = "L0{}-L05" }}]'
    built(two, text.format(3, 2))
    assert built(two, text.format(2, 1)).tensors_computed == 0
    assert built(two, text.format(4, 3)).tensors_computed == 0


# Selectors


def test_selectors_mean_layers_of_the_output(two: Lab) -> None:
    """A key of the target may be for one slice alone."""
    found = made(
        two,
        'method = "scale"\na = "base"\nalpha = { default = 1, L03 = 0, head = 2 }\n'
        'slices = [{ layers = "L04-L05" }, { layers = "L02-L03" }]',
    )
    base = model(1)
    assert not found["model.layers.3.mlp.down_proj.weight"].any()
    assert torch.equal(found["model.layers.2.mlp.down_proj.weight"], layer(base, 2)["mlp.down_proj.weight"])
    assert torch.equal(found["lm_head.weight"], base["lm_head.weight"] * 2)


@pytest.mark.parametrize(
    ("keys", "slices", "named"),
    [
        ("L04 = 0", '{ layers = "L00-L01" }, { layers = "L02-L03" }', "`L04` matches nothing"),
        ("L00 = 1", '{ layers = "L00-L01", alpha = { L02 = 0 } }, { layers = "L02-L03" }', "`L02` matches nothing"),
        ("L02 = 0, L00-L03 = 1", '{ layers = "L00-L01" }, { layers = "L02-L03" }', "`L02` has no effect"),
    ],
)
def test_a_key_that_selects_nothing_is_a_mistake(two: Lab, keys: str, slices: str, named: str) -> None:
    problem = refused(two, f'method = "scale"\na = "base"\nalpha = {{ {keys} }}\nslices = [{slices}]')
    assert problem.code in ("selector-matches-nothing", "selector-overridden", "unknown-selector")
    assert named in problem.message


def test_gradients_run_over_the_layers_of_a_slice(two: Lab) -> None:
    found = made(
        two,
        'method = "scale"\na = "base"\nalpha = { gradient = [1, 3] }\n'
        'slices = [{ layers = "L00-L02" }, { layers = "L03-L04" }]',
    )
    base = model(1)
    for at, factor in enumerate((1, 2, 3, 1, 3)):
        mine = layer(base, at)["mlp.down_proj.weight"]
        assert torch.equal(found[f"model.layers.{at}.mlp.down_proj.weight"], mine * factor)
    assert torch.equal(found["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
    assert torch.equal(found["lm_head.weight"], base["lm_head.weight"] * 3)


def test_merge_and_drop_are_of_the_output(two: Lab) -> None:
    found = made(
        two,
        'method = "weighted_sum"\na = "base"\nb = "chat"\nalpha = 1\nmerge = ["L03"]\ndrop = ["head"]\n'
        'slices = [{ layers = "L00-L01" }, { layers = "L00-L01" }]',
    )
    base, chat = model(1), model(2)
    expected = stacked(base, base, (base, 0), (base, 1), (base, 0), (chat, 1))
    del expected["model.norm.weight"], expected["lm_head.weight"]
    same(found, expected)


# Ties


def test_the_head_of_a_tied_model_is_its_embedding_whoever_gives_the_stacks(lab: Lab) -> None:
    """A stack of one tied model is tied; of two it has the head of the last, which is that one's embedding."""
    one, other = model(1, tied=True), model(2, tied=True)
    lab.model("base", **one)
    lab.model("chat", **other)
    slices = '{{ a = "base", layers = "L00" }}, {{ a = "{}", layers = "L01" }}'
    alone = made(lab, f'method = "copy"\nslices = [{slices.format("base")}]')
    same(alone, stacked(one, one, (one, 0), (one, 1)))
    both = made(lab, f'method = "copy"\nslices = [{slices.format("chat")}]')
    same(both, stacked(one, {**other, "lm_head.weight": other["model.embed_tokens.weight"]}, (one, 0), (other, 1)))


@pytest.mark.parametrize("first", ["base", "chat"])
def test_a_tied_model_with_an_untied_one(lab: Lab, first: str) -> None:
    states = {"base": model(1, tied=True), "chat": model(2)}
    for name, state in states.items():
        lab.model(name, **state)
    last = "chat" if first == "base" else "base"
    found = made(
        lab, f'method = "copy"\nslices = [{{ a = "{first}", layers = "L00" }}, {{ a = "{last}", layers = "L01" }}]'
    )
    heads = {name: state.get("lm_head.weight", state["model.embed_tokens.weight"]) for name, state in states.items()}
    assert torch.equal(found["lm_head.weight"], heads[last])
    assert torch.equal(found["model.embed_tokens.weight"], states[first]["model.embed_tokens.weight"])


def test_a_tied_model_with_an_untied_one_is_merged_in_a_slice(lab: Lab) -> None:
    """Its head is its embedding, also where the slice has layers under other numbers."""
    one, other = model(1), model(2, tied=True)
    lab.model("base", **one)
    lab.model("chat", **other)
    slices = '{ a = { model = "base", layers = "L01" }, b = { model = "chat", layers = "L03" } }'
    found = made(lab, f'method = "weighted_sum"\nalpha = 0.5\nslices = [{slices}]')
    assert torch.equal(found["lm_head.weight"], (one["lm_head.weight"] + other["model.embed_tokens.weight"]) / 2)


def test_layers_of_one_model_have_shares_of_its_norm_and_head_each(lab: Lab) -> None:
    """They are of several namings, which are one where there are no layers."""
    first, one, other = model(1), model(2, tied=True), model(3, tied=True)
    for name, state in {"base": first, "one": one, "other": other}.items():
        lab.model(name, **state)
    three = [{"model": name, "layers": f"L0{at}"} for name, at in (("one", 3), ("other", 0), ("one", 0))]
    models = ", ".join(f'{{ model = "{each["model"]}", layers = "{each["layers"]}" }}' for each in three)
    text = f"""
        slices = [{{ a = "base", layers = "L00" }}, {{ method = "linear", models = [{models}],
                    weight = [0.25, 0.25, 0.25], normalize = false }}]
        method = "copy"
    """
    found = made(lab, text)
    for own, name in (("embed_tokens", "lm_head"), ("norm", "model.norm")):
        expected = one[f"model.{own}.weight"] * 0.5 + other[f"model.{own}.weight"] * 0.25
        assert torch.equal(found[f"{name}.weight"], expected), name


def test_the_head_of_a_tied_slice_has_the_number_of_its_embedding(lab: Lab) -> None:
    first, last = model(1, tied=True), model(2, tied=True)
    lab.model("base", **first)
    lab.model("chat", **last)
    text = """
        method = "copy"
        [[targets.t.slices]]
        a = "base"
        layers = "L00"
        [[targets.t.slices]]
        method = "scale"
        a = "chat"
        layers = "L00"
        alpha = { default = 1, embed = 0.5, head = 0.25 }
    """
    found = made(lab, text)
    assert torch.equal(found["lm_head.weight"], last["model.embed_tokens.weight"] * 0.5)
    assert torch.equal(found["model.norm.weight"], last["model.norm.weight"] * 0.25)
    assert torch.equal(found["model.embed_tokens.weight"], first["model.embed_tokens.weight"])


def test_what_is_beside_the_layers_of_a_stack_of_a_model_with_itself_is_whole(two: Lab) -> None:
    base = model(1)
    two.write("""
        [targets.inner]
        method = "linear"
        weight = [0.25, 0.5]
        normalize = false
        slices = [{ models = [{ model = "base", layers = "L00" }, { model = "base", layers = "L01" }] }]
        [targets.t]
        method = "copy"
        output = "out/t.safetensors"
        slices = [{ a = "chat", layers = "L00" }, { a = "inner", layers = "none" }]
    """)
    assert two.build("t").ok
    assert torch.equal(two.read("out/t.safetensors")["model.norm.weight"], base["model.norm.weight"] * 0.75)


# Parts


ENCODER, DECODER = "model.encoder.", "model.decoder."


def both_halves(seed: int) -> dict[str, Tensor]:
    """Return a model with an encoder and a decoder."""
    found = {"model.shared.weight": torch.full((8, 4), float(seed))}
    for at, half in enumerate((ENCODER, DECODER)):
        part = model(seed * 10 + at, front=half)
        found |= {name: tensor for name, tensor in part.items() if name.startswith(half) and "embed" not in name}
    return found | {"lm_head.weight": torch.full((8, 4), float(-seed))}


@pytest.mark.parametrize("encoder", ["encoder", "model.encoder", "model.encoder.layers"])
def test_each_of_two_stacks_has_its_slices(lab: Lab, encoder: str) -> None:
    one, other = both_halves(1), both_halves(2)
    lab.model("base", **one)
    lab.model("chat", **other)
    found = made(
        lab,
        f"""
        method = "copy"
        slices = [
            {{ part = "{encoder}", a = "base", layers = "L01" }},
            {{ part = "{encoder}", a = "chat", layers = "L02" }},
            {{ part = "decoder", a = "chat", layers = "L00" }},
            {{ part = "decoder", a = "base", layers = "L05" }},
        ]
        """,
    )
    expected = {name: one[name] for name in ("model.shared.weight", "lm_head.weight", f"{DECODER}norm.weight")}
    expected |= {f"{ENCODER}norm.weight": other[f"{ENCODER}norm.weight"]}
    for stack, layers in ((ENCODER, ((one, 1), (other, 2))), (DECODER, ((other, 0), (one, 5)))):
        for at, (state, number) in enumerate(layers):
            some = layer(state, number, f"{stack}layers.")
            expected |= {f"{stack}layers.{at}.{name}": tensor for name, tensor in some.items()}
    same(found, expected)


def test_a_part_without_slices_is_the_first_slices(lab: Lab) -> None:
    one, other = both_halves(1), both_halves(2)
    lab.model("base", **one)
    lab.model("chat", **other)
    text = (
        'method = "copy"\npart = "encoder"\nslices = [{ a = "base", layers = "L01" }, { a = "chat", layers = "L02" }]'
    )
    found = made(lab, text)
    assert all(torch.equal(found[name], one[name]) for name in one if ENCODER not in name)
    assert torch.equal(found[f"{ENCODER}norm.weight"], other[f"{ENCODER}norm.weight"])


def test_what_follows_an_encoder_alone_is_the_last_slices(lab: Lab) -> None:
    """As BERT has it: no words before `encoder`, and a pooler behind its layers."""
    states = []
    for seed, name in enumerate(("base", "chat"), 1):
        part = {name: each for name, each in model(seed, front="encoder.").items() if "layers" in name}
        states.append({**part, "embeddings.word_embeddings.weight": torch.full((8, 4), float(seed)),
                       "pooler.dense.weight": torch.full((4, 4), float(seed))})  # fmt: skip
        lab.model(name, **states[-1])
    found = made(lab, 'method = "copy"\nslices = [{ a = "base", layers = "L00" }, { a = "chat", layers = "L01" }]')
    assert torch.equal(found["embeddings.word_embeddings.weight"], states[0]["embeddings.word_embeddings.weight"])
    assert torch.equal(found["pooler.dense.weight"], states[1]["pooler.dense.weight"])


def test_of_two_stacks_heads_follow_the_decoder_in_whichever_order(lab: Lab) -> None:
    one, other = both_halves(1), both_halves(2)
    lab.model("base", **one)
    lab.model("chat", **other)
    found = made(
        lab,
        'method = "copy"\nslices = [{ part = "decoder", a = "base", layers = "L00" },'
        ' { part = "encoder", a = "chat", layers = "L00" }]',
    )
    assert torch.equal(found["lm_head.weight"], one["lm_head.weight"])
    assert torch.equal(found[f"{ENCODER}norm.weight"], other[f"{ENCODER}norm.weight"])


@pytest.mark.parametrize(
    ("part", "named"), [("", "has several stacks of layers"), ('part = "encodr"\n', "did you mean|it has"),
                        ('part = "model"\n', "no part of `base` that has one stack")],
)  # fmt: skip
def test_a_part_must_be_one_stack(lab: Lab, part: str, named: str) -> None:
    lab.model("base", **both_halves(1))
    problem = refused(lab, f'method = "copy"\na = "base"\n{part}slices = [{{ layers = "L00" }}]')
    assert problem.code == "unknown-part"
    assert re.search(named, f"{problem.message} {problem.help}")


# Mistakes


def test_layers_that_a_model_does_not_have_are_named(two: Lab) -> None:
    problem = refused(two, 'method = "copy"\nslices = [{ a = "base", layers = "L04-L06" }]')
    assert (problem.code, str(problem.where)) == ("no-such-layers", "mergefile.toml:6:34")
    assert problem.message == "`t.slices[0]` takes L04-L06 of `base`, which has L00 to L05"


def test_inputs_of_other_widths_are_refused(two: Lab) -> None:
    wide = {name: torch.cat([tensor, tensor], dim=-1) for name, tensor in model(2).items()}
    two.model("chat", **wide)
    text = 'method = "weighted_sum"\na = "base"\nb = "chat"\nalpha = 0.5\nslices = [{ layers = "L00" }]'
    assert refused(two, text).code == "shape-mismatch"


# Stacks below other targets


def test_a_stack_may_be_the_input_of_others(two: Lab) -> None:
    """As a virtual target, which folds, and as the input of another stack."""
    base, chat = model(1), model(2)
    two.write("""
        [targets.inner]
        method = "copy"
        slices = [{ a = "base", layers = "L00-L03" }, { a = "chat", layers = "L02-L05" }]
        [targets.outer]
        method = "copy"
        a = "inner"
        slices = [{ layers = "L03-L05" }, { layers = "L03" }]
        output = "out/outer.safetensors"
        [targets.mix]
        method = "weighted_sum"
        a = "inner"
        b = "inner"
        alpha = 0.5
        output = "out/mix.safetensors"
    """)
    assert two.build().ok
    same(two.read("out/outer.safetensors"), stacked(base, chat, (base, 3), (chat, 2), (chat, 3), (base, 3)))
    layers = [*((base, at) for at in range(4)), *((chat, at) for at in range(2, 6))]
    same(two.read("out/mix.safetensors"), stacked(base, chat, *layers))


def shown(lab: Lab, name: str) -> Sequence[str]:
    return lab.project.lineage(name).tree


def test_lineage_names_the_layers_of_each_slice(two: Lab) -> None:
    two.write("""
        [targets.t]
        method = "copy"
        slices = [{ a = "base", layers = "L00-L01" }, { a = "chat", layers = "none" }]
    """)
    assert shown(two, "t")[0] == "t (virtual): copy of L00-L01 of base; copy of none of chat"


# Files in other spellings


def fused(state: State) -> dict[str, Tensor]:
    """Return a model as Phi-3's files have it: queries, keys and values in one tensor."""
    found = {name: tensor for name, tensor in state.items() if "q_proj" not in name}
    for name in (name for name in state if "q_proj" in name):
        parts = [state[name] + each for each in range(3)]
        found[name.replace("q_proj", "qkv_proj")] = torch.cat(parts)
    return found


@pytest.fixture
def phi(lab: Lab) -> Lab:
    """A project with a model that has fused tensors, and one that has the same parameters apart."""
    lab.model("base", **fused(model(1)))
    apart = model(2)
    for name in [name for name in apart if "q_proj" in name]:
        apart |= {name.replace("q_proj", f"{each}_proj"): apart[name] + at for at, each in enumerate("qkv")}
    lab.model("chat", **apart)
    return lab


@pytest.mark.parametrize("making", ['method = "copy"', 'method = "scale"\nalpha = 2'])
def test_a_stack_is_written_as_its_first_input_writes_layers(phi: Lab, making: str) -> None:
    """Also where it has more layers, or layers of another model, which has these parameters apart."""
    base, chat = fused(model(1)), fused(model(2))
    slices = '{ a = "base", layers = "L00-L05" }, { a = "chat", layers = "L03-L05" }'
    factor = 2 if "scale" in making else 1
    expected = stacked(base, chat, *((base, at) for at in range(6)), *((chat, at) for at in range(3, 6)))
    same(made(phi, f"{making}\nslices = [{slices}]"), {name: tensor * factor for name, tensor in expected.items()})


@pytest.mark.parametrize("slices", ["L00-L05", "L00-L02 L03-L05"])
@pytest.mark.parametrize("inputs", ['a = "base"\nb = "chat"', 'a = "base"\nb = "base"', 'a = "chat"\nb = "base"'])
def test_methods_that_need_whole_tensors_have_them_in_stacks(phi: Lab, inputs: str, slices: str) -> None:
    making = f'method = "slerp"\n{inputs}\nt = 0.5'
    plain = built(phi, making)
    listed = ", ".join(f'{{ layers = "{each}" }}' for each in slices.split())
    assert built(phi, f"{making}\nslices = [{listed}]").artifact == plain.artifact


def test_a_layer_of_fused_tensors_is_computed_once(phi: Lab) -> None:
    making = 'method = "slerp"\na = "base"\nb = "chat"\nt = 0.5'
    once = built(phi, f'{making}\nslices = [{{ layers = "L00-L03" }}]')
    twice = built(phi, f'{making}\nslices = [{{ layers = "L00-L03" }}, {{ layers = "L02-L05" }}]')
    assert once.tensors_computed == 4 * len(LAYER) + 3
    assert twice.tensors_computed == 2 * len(LAYER)
    assert twice.tensors_reused == 6 * len(LAYER) + 3


@pytest.mark.parametrize("method", ['method = "slerp"\nt = 0.5\na = "base"\nb = "chat"', RANDOM])
def test_a_layer_of_fused_tensors_is_made_alike_wherever_it_is(phi: Lab, method: str) -> None:
    """Random numbers are drawn by the stored name in the first input."""
    found = made(phi, f'{method}\nslices = [{{ layers = "L00-L03" }}, {{ layers = "L02-L05" }}]')
    for name in layer(found, 2):
        assert torch.equal(found[f"model.layers.2.{name}"], found[f"model.layers.4.{name}"])


# LoRAs, and methods of one's own


def test_loras_are_added_to_the_layers_of_their_models(two: Lab) -> None:
    base = model(1)
    up, down = torch.arange(8.0).reshape(4, 2), torch.arange(8.0).reshape(2, 4)
    module = "model.layers.4.mlp.down_proj"
    two.model("style", **{f"{module}.lora_up.weight": up, f"{module}.lora_down.weight": down})
    text = 'method = "add_lora"\nbase = "base"\nloras = ["style"]\nstrength = { default = 1, L03 = 2 }\n'
    found = made(two, text + 'slices = [{ layers = "L03-L05" }, { layers = "L04" }]')
    expected = stacked(base, base, *((base, at) for at in (3, 4, 5, 4)))
    for at, factor in ((1, 1), (3, 2)):
        name = f"model.layers.{at}.mlp.down_proj.weight"
        expected[name] = expected[name] + factor * up @ down
    same(found, expected)


def test_a_method_of_ones_own_is_told_the_name_in_the_first_input(two: Lab) -> None:
    """So a layer that is used twice is computed once, too."""
    (two / "mine.py").write_text(
        "from mergebuild.kernels import Kernel\n"
        "def make(call, chunks, start, state):\n"
        "    return chunks[0] * 0 + float(call.tensor.split('.')[2] if 'layers' in call.tensor else 99)\n"
        "KERNELS = {'mine': Kernel(make)}\n"
    )
    two.write("""
        [methods.mine]
        file = "mine.py"
        inputs = ["a"]
        [targets.t]
        method = "mine"
        a = "base"
        slices = [{ layers = "L04-L05" }, { layers = "L04" }]
        output = "out/t.safetensors"
    """)
    two.project.trust()
    assert only(two.build()).tensors_computed == 2 * len(LAYER) + 3
    found = two.read("out/t.safetensors")
    assert [float(found[f"model.layers.{at}.input_layernorm.weight"][0]) for at in range(3)] == [4, 5, 4]
