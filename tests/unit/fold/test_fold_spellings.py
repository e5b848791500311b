"""What merges are parameters, whatever files call them."""

from __future__ import annotations

import json

import pytest
import torch
from lab import Lab
from model_files import write_model
from torch import Tensor

from mergebuild.errors import RecipeError, SourceError, UsageError

EMBED, HEAD, Q = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.self_attn.q_proj.weight"
SHAPES = {
    "self_attn.q_proj": (8, 8),
    "self_attn.k_proj": (4, 8),
    "self_attn.v_proj": (4, 8),
    "self_attn.o_proj": (8, 8),
    "mlp.gate_proj": (12, 8),
    "mlp.up_proj": (12, 8),
    "mlp.down_proj": (8, 12),
}
FLUX = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
MIX = """
[targets.{name}]
method = "{method}"
a = "{a}"
b = "{b}"
{numbers}
output = "out/{name}.safetensors"
"""


def llama(seed: int, *, head: bool = False) -> dict[str, Tensor]:
    """Return a small model in the names of transformers."""
    noise = torch.Generator().manual_seed(seed)
    found = {EMBED: torch.randn(16, 8, generator=noise), "model.norm.weight": torch.randn(8, generator=noise)}
    for layer in range(2):
        for module, shape in SHAPES.items():
            found[f"model.layers.{layer}.{module}.weight"] = torch.randn(shape, generator=noise)
        found[f"model.layers.{layer}.input_layernorm.weight"] = torch.randn(8, generator=noise)
    if head:
        found[HEAD] = torch.randn(16, 8, generator=noise)
    return found


def bare(model: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a model as a base class saves it."""
    return {name.removeprefix("model."): each for name, each in model.items()}


def fused(model: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a model as Phi-3 has it."""
    found = {name: each for name, each in model.items() if name.split(".")[-2] not in {"k_proj", "v_proj", "up_proj"}}
    for layer in range(2):
        at = f"model.layers.{layer}."
        del found[f"{at}self_attn.q_proj.weight"], found[f"{at}mlp.gate_proj.weight"]
        parts = [model[f"{at}self_attn.{part}_proj.weight"] for part in "qkv"]
        found[f"{at}self_attn.qkv_proj.weight"] = torch.cat(parts)
        found[f"{at}mlp.gate_up_proj.weight"] = torch.cat(
            [model[f"{at}mlp.{part}_proj.weight"] for part in ("gate", "up")]
        )
    return found


def half(one: dict[str, Tensor], two: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the mean of two models, with the names of the first."""
    return {name: each + (two[name] - each) / 2 for name, each in one.items()}


def close(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are the same but for rounding."""
    return torch.allclose(one, other, atol=1e-6)


def recipe(lab: Lab, a: str = "a", b: str = "b", *, method: str = "weighted_sum", numbers: str = "alpha = 0.5") -> None:
    """Write a mergefile with one target, `m`."""
    lab.write(MIX.format(name="m", a=a, b=b, method=method, numbers=numbers))


def same(lab: Lab, wanted: dict[str, Tensor], file: str = "out/m.safetensors") -> bool:
    """Return whether an output has these tensors."""
    found = lab.read(file)
    return found.keys() == wanted.keys() and all(close(found[name], wanted[name]) for name in wanted)


def artifact(lab: Lab) -> str | None:
    """Build, and return the artifact's digest."""
    (built,) = lab.build("m").targets
    assert built.verdict != "failed"
    return built.artifact


@pytest.mark.parametrize("spelled", [bare, fused])
@pytest.mark.parametrize("first", [True, False])
def test_another_spelling_is_the_same_artifact(lab: Lab, spelled: object, first: bool) -> None:
    """It is written as the first input has it; a respelling writes a file and computes nothing."""
    assert callable(spelled)
    one, two = llama(1), llama(2)
    lab.model("a", **one)
    lab.model("b", **two)
    recipe(lab)
    plain = artifact(lab)
    write_model(lab / ("a.safetensors" if first else "b.safetensors"), spelled(one if first else two))
    (built,) = lab.build("m").targets
    assert (built.artifact, built.tensors_computed) == (plain, 0)
    assert same(lab, spelled(half(one, two)) if first else half(one, two))
    assert lab.verdicts() == {"m": "up-to-date"}


def test_parts_of_a_fused_tensor_have_numbers_of_their_own(lab: Lab) -> None:
    one, two = llama(1), llama(2)
    lab.model("a", **fused(one))
    lab.model("b", **two)
    recipe(lab, numbers='alpha = { default = 0.5, "*.q_proj.*" = 0 }')
    assert lab.build("m").ok
    wanted = half(one, two) | {name: each for name, each in one.items() if ".q_proj." in name}
    assert same(lab, fused(wanted))


@pytest.mark.parametrize("key", ["*.qkv_proj.*", "layers.0.self_attn.qkv_proj.weight", "re:qkv", "attn"])
def test_selectors_take_either_spelling(lab: Lab, key: str) -> None:
    one, two = llama(1), llama(2)
    lab.model("a", **bare(fused(one)))
    lab.model("b", **two)
    recipe(lab, numbers=f"alpha = {{ default = 0.5, '{key}' = 0 }}")
    assert lab.build("m").ok
    found, wanted = lab.read("out/m.safetensors"), bare(fused(one))
    assert torch.equal(found["layers.0.self_attn.qkv_proj.weight"], wanted["layers.0.self_attn.qkv_proj.weight"])


def test_fused_tensors_are_written_in_checkpoints_and_shards(lab: Lab) -> None:
    one, two = llama(1), llama(2)
    lab.model("a", **fused(one))
    lab.model("b", **two)
    text = MIX.format(name="m", a="a", b="b", method="weighted_sum", numbers="alpha = 0.5")
    lab.write(
        text.replace("m.safetensors", "m.ckpt")
        + text.replace("targets.m", "targets.n")
        .replace("m.safetensors", "n/")
        .replace("0.5", "0.5\nmax_shard_size = '1kB'")
    )
    assert lab.build().ok
    wanted = fused(half(one, two))
    found = torch.load(lab / "out/m.ckpt", weights_only=True)["state_dict"]
    assert found.keys() == wanted.keys()
    assert all(close(found[name], wanted[name]) for name in wanted)
    where = json.loads((lab / "out/n/model.safetensors.index.json").read_text())["weight_map"]
    assert where.keys() == wanted.keys()
    shards = {name: lab.read(f"out/n/{shard}")[name] for name, shard in where.items()}
    assert all(close(shards[name], wanted[name]) for name in wanted)
    assert lab.verdicts() == {"m": "up-to-date", "n": "up-to-date"}


def test_what_is_left_of_a_fused_tensor_has_names_of_its_own(lab: Lab) -> None:
    one, two = llama(1), llama(2)
    lab.model("a", **fused(one))
    lab.model("b", **two)
    recipe(lab, numbers='alpha = 0.5\ndrop = ["*.k_proj.*"]')
    assert lab.build("m").ok
    found = lab.read("out/m.safetensors")
    assert close(found[Q], half(one, two)[Q])
    assert not any("qkv_proj" in name or "k_proj" in name for name in found)


@pytest.mark.parametrize("method", ["weighted_sum", "dare_linear"])
def test_a_tie_is_one_parameter(lab: Lab, method: str) -> None:
    """A file that holds the head as well has it written as well; masks are one."""
    one, two = llama(1), llama(2)
    folder(lab, "a", one | {HEAD: one[EMBED]}, tied=True)
    folder(lab, "b", two, tied=True)
    extra = "alpha = 0.5"
    if method == "dare_linear":
        text = (
            '[targets.m]\nmethod = "dare_linear"\nbase = "a"\nmodels = ["b"]\nweight = [1]\ndensity = 0.5\nseed = 1\n'
        )
        lab.write(text + 'output = "out/m.safetensors"\n')
    else:
        recipe(lab, numbers=extra)
    (built,) = lab.build("m").targets
    assert built.tensors_computed == len(one)
    found = lab.read("out/m.safetensors")
    assert torch.equal(found[HEAD], found[EMBED])
    folder(lab, "a", one, tied=True)
    (again,) = lab.build("m").targets
    assert (again.artifact, again.tensors_computed) == (built.artifact, 0)
    assert HEAD not in lab.read("out/m.safetensors")


@pytest.mark.parametrize("first", ["tied", "untied"])
def test_a_tied_model_with_an_untied_one_is_untied(lab: Lab, first: str) -> None:
    """Also by way of virtual targets."""
    one, two = llama(1), llama(2, head=True)
    folder(lab, "tied", one, tied=True)
    folder(lab, "untied", two, tied=False)
    second = "untied" if first == "tied" else "tied"
    lab.write(
        f'[targets.v]\nmethod = "scale"\na = "{first}"\nalpha = 1\n'
        + MIX.format(name="m", a="v", b=second, method="weighted_sum", numbers="alpha = 0.5")
        + MIX.format(name="n", a=first, b=second, method="weighted_sum", numbers="alpha = { default = 0, L00 = 1 }")
    )
    assert lab.build().ok
    wanted = half(one | {HEAD: one[EMBED]}, two)
    assert same(lab, wanted)


def test_a_head_that_takes_no_part_leaves_the_tie(lab: Lab) -> None:
    one, two = llama(1), llama(2, head=True)
    folder(lab, "a", one, tied=True)
    folder(lab, "b", two, tied=False)
    recipe(lab, numbers='alpha = 0.5\nmerge = ["L00"]')
    assert lab.build("m").ok
    assert HEAD not in lab.read("out/m.safetensors")


def test_a_tie_that_stays_is_the_head_of_what_is_folded_too(lab: Lab) -> None:
    """As it is by way of the file: the embedding that was merged, not the head of a model that took no part in it."""
    one, two, three = llama(1), llama(2, head=True), llama(3, head=True)
    for name, state in {"a": one, "b": two, "c": three}.items():
        folder(lab, name, state, tied=name == "a")
    lab.write(
        '[targets.v]\nmethod = "weighted_sum"\na = "a"\nb = "b"\nalpha = { embed = 0.5 }\n'
        + MIX.format(name="m", a="v", b="c", method="weighted_sum", numbers="alpha = { default = 0, head = 1 }")
        + MIX.format(name="n", a="c", b="v", method="weighted_sum", numbers="alpha = { default = 0, head = 1 }")
    )
    assert lab.build().ok
    assert torch.equal(lab.read("out/m.safetensors")[HEAD], three[HEAD])
    assert close(lab.read("out/n.safetensors")[HEAD], half(one, two)[EMBED])


def test_a_first_input_without_a_head_gets_none_of_others(lab: Lab) -> None:
    """Whether these are tied or not: what it lacks is named, and nothing of it is asked for."""
    one, two, three = llama(1), llama(2), llama(3, head=True)
    folder(lab, "a", one, tied=False)
    folder(lab, "b", two, tied=True)
    folder(lab, "c", three, tied=False)
    lab.write('[targets.m]\nformula = "0*a + 0.5*b + 0.5*c"\noutput = "out/m.safetensors"\n')
    (built,) = lab.build("m").targets
    assert any(HEAD in each for each in built.notices)
    assert same(lab, half(two, three))


def test_who_drops_the_head_of_a_tied_model_drops_its_name_alone(lab: Lab) -> None:
    one = llama(1)
    folder(lab, "a", one | {HEAD: one[EMBED]}, tied=True)
    folder(lab, "b", llama(2, head=True), tied=False)
    recipe(lab, numbers=f'alpha = 0.5\ndrop = ["{HEAD}"]')
    assert lab.build().ok
    found = lab.read("out/m.safetensors")
    assert EMBED in found
    assert HEAD not in found
    folder(lab, "b", llama(2), tied=True)
    recipe(lab, "b", "a", numbers=f'alpha = 0.5\ndrop = ["{HEAD}"]')
    assert lab.build().ok
    assert lab.read("out/m.safetensors").keys() == one.keys()


def test_a_parameter_under_two_names_must_be_one(lab: Lab) -> None:
    """Their bytes tell; what differs is named."""
    one, two = llama(1), llama(2)
    lab.model("a", **one, **bare({EMBED: one[EMBED]}))
    lab.model("b", **two)
    recipe(lab)
    assert lab.build("m").ok
    assert same(lab, half(one, two))
    write_model(lab / "a.safetensors", one | bare({EMBED: two[EMBED]}))
    with pytest.raises(SourceError) as caught:
        lab.build("m")
    (problem,) = caught.value.problems
    assert (problem.code, problem.rows) == ("twice-named", (EMBED, "embed_tokens.weight"))


def test_a_layout_of_the_users_keeps_its_names(lab: Lab) -> None:
    """They declared it for just these."""
    one, two = bare(llama(1)), bare(llama(2))
    lab.model("a", **one)
    lab.model("b", **two)
    lab.write(
        '[layouts.mine]\ndetect = ["layers.*"]\n'
        "blocks = [['^layers\\.(\\d+)\\.', 'L{:02}'], ['', 'REST']]\n#sources\n"
        + MIX.format(name="m", a="a", b="b", method="weighted_sum", numbers="alpha = { default = 0.5, REST = 0 }")
    )
    assert lab.build("m").ok
    wanted = half(one, two)
    assert same(lab, {name: each if name.startswith("layers") else one[name] for name, each in wanted.items()})


def folder(lab: Lab, name: str, tensors: dict[str, Tensor], *, tied: bool) -> None:
    """Write a source that is a folder of transformers."""
    lab.sources[name] = f"{name}/"
    (lab / name).mkdir(exist_ok=True)
    write_model(lab / name / "model.safetensors", tensors)
    config = {
        "model_type": "llama",
        "tie_word_embeddings": tied,
        "num_hidden_layers": 2,
        "vocab_size": 16,
        "hidden_size": 8,
    }
    (lab / name / "config.json").write_text(json.dumps(config))


def by_turns(model: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a model as InternLM2 has it: two heads of queries, then one of keys and of values, for each group."""
    found = {
        name.replace("self_attn.o_proj", "attention.wo").replace("embed_tokens", "tok_embeddings"): each
        for name, each in model.items()
        if name.split(".")[-2] not in {"q_proj", "k_proj", "v_proj"}
    }
    for layer in range(2):
        q, k, v = (model[f"model.layers.{layer}.self_attn.{part}_proj.weight"] for part in "qkv")
        groups = [torch.cat([q[4 * g : 4 * g + 4], k[2 * g : 2 * g + 2], v[2 * g : 2 * g + 2]]) for g in range(2)]
        found[f"model.layers.{layer}.attention.wqkv.weight"] = torch.cat(groups)
    return found


@pytest.mark.parametrize("first", ["turns", "split"])
@pytest.mark.parametrize("second", ["turns", "split"])
def test_heads_that_lie_by_turns_are_merged(lab: Lab, first: str, second: str) -> None:
    """They are written as the first input has them."""
    one, two = llama(1), llama(2)
    config = {"model_type": "internlm2", "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 8}
    for name, model in (("a", one), ("b", two)):
        spelled = by_turns(model) if (first if name == "a" else second) == "turns" else model
        lab.sources[name] = f"{name}/"
        (lab / name).mkdir()
        write_model(lab / name / "model.safetensors", spelled)
        (lab / name / "config.json").write_text(json.dumps(config))
    recipe(lab, numbers="alpha = 0.5")
    assert lab.build("m").ok
    wanted = half(one, two)
    assert same(lab, by_turns(wanted) if first == "turns" else wanted)
    assert lab.verdicts() == {"m": "up-to-date"}


def test_a_file_whose_elements_lie_in_another_order_is_no_other_file(lab: Lab) -> None:
    """Diffusers has the halves of Flux's last modulation the other way round; both files are one artifact."""
    at = torch.arange(16.0).reshape(8, 2)
    both = torch.arange(14.0).reshape(14, 1)
    authors = {"single_blocks.0.linear1.weight": both, "final_layer.adaLN_modulation.1.weight": at}
    names = [
        f"single_transformer_blocks.0.{part}.weight" for part in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    ]
    parts = dict(zip(names, both.split([2, 2, 2, 8]), strict=True))
    theirs = parts | {"norm_out.linear.weight": torch.cat([at[4:], at[:4]])}
    lab.model("a", **theirs)
    lab.model("b", **authors)
    mix = MIX.format(name="x", a="a", b="b", method="weighted_sum", numbers="alpha = 0.5")
    lab.write(
        mix
        + mix.replace("targets.x", "targets.y")
        .replace("x.safetensors", "y.safetensors")
        .replace('a = "a"\nb = "b"', 'a = "b"\nb = "a"')
    )
    one, other = lab.build("x").targets + lab.build("y").targets
    assert one.artifact == other.artifact
    assert same(lab, theirs, "out/x.safetensors")
    assert same(lab, authors, "out/y.safetensors")
    assert lab.verdicts() == {"x": "up-to-date", "y": "up-to-date"}


def test_why_takes_either_spelling(lab: Lab) -> None:
    """What is several parameters is said to be."""
    lab.model("a", **bare(fused(llama(1))))
    lab.model("b", **llama(2))
    recipe(lab)
    assert lab.build("m").ok
    found = [lab.project.why("m", tensor=name).tensor for name in ("norm.weight", "model.norm.weight")]
    assert found[0] == found[1] is not None
    with pytest.raises(UsageError) as caught:
        lab.project.why("m", tensor="layers.0.mlp.gate_up_proj.weight")
    (problem,) = caught.value.problems
    at = "model.layers.0.mlp."
    assert (problem.code, problem.rows) == ("several-parameters", (f"{at}gate_proj.weight", f"{at}up_proj.weight"))


@pytest.mark.parametrize("names", [("cls.predictions.bias", "cls.predictions.decoder.bias"), ("a.one", "a.other")])
@pytest.mark.parametrize("end", ["ckpt", "safetensors"])
def test_what_a_pickle_stores_once_for_two_names_has_both_again(lab: Lab, names: tuple[str, str], end: str) -> None:
    """Whoever loads it may ask for each."""
    value, rest = torch.arange(4.0), {"b.weight": torch.ones(3)}
    torch.save({"state_dict": rest | dict.fromkeys(names, value)}, lab / "a.ckpt")
    torch.save({"state_dict": rest | dict.fromkeys(names, value + 2)}, lab / "b.ckpt")
    lab.sources = {"a": "a.ckpt", "b": "b.ckpt"}
    lab.write(
        MIX.format(name="m", a="a", b="b", method="weighted_sum", numbers="alpha = 0.5").replace("safetensors", end)
    )
    (built,) = lab.build("m").targets
    assert built.tensors_computed == 1
    path = lab / f"out/m.{end}"
    found = torch.load(path, weights_only=True)["state_dict"] if end == "ckpt" else lab.read(f"out/m.{end}")
    assert found.keys() == rest.keys() | set(names)
    assert torch.equal(found[names[0]], value + 1)
    assert torch.equal(found[names[1]], value + 1)


def projection(seed: int) -> dict[str, Tensor]:
    """Return a text encoder in OpenCLIP's names beside what tells that it is one of SDXL."""
    noise, large = torch.Generator().manual_seed(seed), "conditioner.embedders.1.model."
    shapes = {"model.diffusion_model.label_emb.0.0.weight": (4, 4), f"{large}text_projection": (4, 6)}
    return {name: torch.randn(shape, generator=noise) for name, shape in shapes.items()}


def turned(model: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return it in the names of transformers, where the projection is transposed."""
    large, theirs = "conditioner.embedders.1.model.text_projection", "text_encoders.clip_g.transformer.text_projection"
    return {name: each for name, each in model.items() if name != large} | {f"{theirs}.weight": model[large].t()}


@pytest.mark.parametrize("cache", ["true", "false"])
def test_a_tensor_that_lies_otherwise_is_read_as_what_it_is(lab: Lab, cache: str) -> None:
    """By who reads the file, and by the same target in another spelling: nothing is computed again."""
    one, two = projection(1), projection(2)
    lab.model("a", **{name: each.contiguous() for name, each in turned(one).items()})
    lab.model("b", **two)
    mixed = MIX.format(name="m", a="a", b="b", method="weighted_sum", numbers=f"alpha = 0.5\ncache = {cache}")
    lab.write(mixed + MIX.format(name="n", a="m", b="b", method="weighted_sum", numbers="alpha = 0.5"))
    assert lab.build("m").ok
    (_, built) = lab.build("m", "n").targets
    assert built.verdict == "built"
    assert same(lab, turned(half(half(one, two), two)), "out/n.safetensors")
    assert same(lab, turned(half(one, two)))
    lab.model("a", **one)
    found = lab.build("m", "n").targets
    assert [(each.verdict, each.tensors_computed) for each in found] == [("built", 0)] * 2
    assert same(lab, half(one, two))
    assert same(lab, half(half(one, two), two), "out/n.safetensors")
    lab.model("a", **{name: each.contiguous() for name, each in turned(one).items()})
    assert [each.tensors_computed for each in lab.build("m", "n").targets] == [0, 0]
    assert same(lab, turned(half(one, two)))


@pytest.mark.parametrize("text", ["alpha = { default = 0.5, '*.to_q.*' = 0 }", "alpha = 0.5\ndrop = ['*.proj_mlp.*']"])
def test_some_rows_of_a_parameter_can_not_be_selected(lab: Lab, text: str) -> None:
    """Flux's authors have queries, keys and values in one tensor: it is one parameter, however a file has it."""
    both = torch.arange(14.0).reshape(14, 1)
    names = [f"single_transformer_blocks.0.{part}.weight" for part in FLUX]
    for name in "ab":
        lab.model(name, **dict(zip(names, both.split([2, 2, 2, 8]), strict=True)))
    recipe(lab, numbers=text)
    with pytest.raises(RecipeError) as caught:
        lab.build("m")
    assert caught.value.problems[0].code == "part-of-a-parameter"
    recipe(lab, numbers="alpha = { default = 0.5, '*.to_[qkv].*' = 0, 'single_transformer_blocks.0.*' = 0.25 }")
    with pytest.raises(RecipeError):
        lab.build("m")
    recipe(lab, numbers="alpha = { default = 0.5, 'single_transformer_blocks.0.*' = 0.25 }")
    assert lab.build("m").ok


def test_a_second_name_that_one_input_alone_knows(lab: Lab) -> None:
    """`KeyError`, exit 70: the other inputs have the parameter, under its first name."""
    value, rest = torch.arange(4.0), {"b.weight": torch.ones(3)}
    torch.save({"state_dict": rest | {"a.one": value, "a.other": value}}, lab / "a.ckpt")
    lab.model("b", **rest, **{"a.one": value + 2})
    lab.sources = {"a": "a.ckpt", "b": "b.safetensors"}
    recipe(lab)
    assert lab.build("m").ok
    found = lab.read("out/m.safetensors")
    assert found.keys() == rest.keys() | {"a.one", "a.other"}
    assert torch.equal(found["a.one"], value + 1)
    assert torch.equal(found["a.other"], value + 1)
