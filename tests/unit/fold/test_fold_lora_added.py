"""LoRAs on models that are not quite what they were trained on: other rows, other widths, ties."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from lab import Lab
from model_files import same_bits, write_model
from torch import Tensor

from mergebuild.errors import MergeBuildError

PEFT = "base_model.model."
OTHER_HEADS = "names begin with `model.` in the one and with `odd.thing.` in the other"
EMBED, HEAD, Q = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.self_attn.q_proj.weight"


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def llama(lab: Lab, *, tied: bool = False) -> dict[str, Tensor]:
    """Write a small language model as the source `base`."""
    tensors = {EMBED: random(12, 6), Q: random(6, 6, seed=2), "model.layers.1.self_attn.q_proj.weight": random(6, 6)}
    if not tied:
        tensors[HEAD] = random(12, 6, seed=3)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 12, "hidden_size": 6}
    write_model(lab / "base" / "model.safetensors", tensors)
    (lab / "base" / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": tied}))
    lab.sources["base"] = "base/"
    return tensors


def adapter(lab: Lab, tensors: Mapping[str, Tensor], name: str = "lora", **config: Any) -> None:
    """Write a folder of PEFT as a source."""
    write_model(lab / name / "adapter_model.safetensors", {PEFT + key: each for key, each in tensors.items()})
    (lab / name / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 2} | config))
    lab.sources[name] = f"{name}/"


def low_rank(name: str, rows: int = 6, columns: int = 6, seed: int = 7) -> dict[str, Tensor]:
    module = name.removesuffix(".weight")
    return {
        f"{module}.lora_A.weight": random(2, columns, seed=seed),
        f"{module}.lora_B.weight": random(rows, 2, seed=seed + 1),
    }


def product(name: str, rows: int = 6, columns: int = 6, seed: int = 7) -> Tensor:
    down, up = low_rank(name, rows, columns, seed).values()
    return up.double() @ down.double()


def add(*more: str, loras: str = '["lora"]', strength: str = "1", output: str = "out/") -> str:
    lines = ["[targets.m]", 'method = "add_lora"', 'base = "base"', f"loras = {loras}", f"strength = {strength}"]
    return "\n".join([*lines, f'output = "{output}"', *more]) + "\n"


def built(lab: Lab, text: str) -> dict[str, Tensor]:
    lab.write(text)
    result = lab.build()
    assert result.exit_code == 0, [each.error for each in result.targets]
    return lab.read("out/model.safetensors" if (lab / "out").is_dir() else "out.safetensors")


def refusal(lab: Lab, text: str) -> MergeBuildError:
    lab.write(text)
    with pytest.raises(MergeBuildError) as caught:
        lab.build()
    return caught.value


def config_of(lab: Lab) -> dict[str, Any]:
    return dict(json.loads((lab / "out" / "config.json").read_text()))


# Whole tensors


@pytest.mark.parametrize("dtype", ["source", "float16"])
def test_a_tensor_that_was_trained_whole_takes_the_place_of_the_model_s_exactly(lab: Lab, dtype: str) -> None:
    """Its bytes, not what rounding leaves of base + (new - base)."""
    base = llama(lab)
    head = random(12, 6, seed=9) * 1000
    adapter(lab, {HEAD: head, **low_rank(Q)}, modules_to_save=["lm_head"])
    made = built(lab, add(f'dtype = "{dtype}"'))
    expected = head if dtype == "source" else head.half()
    assert same_bits(made[HEAD], expected)
    assert same_bits(made[EMBED], base[EMBED].to(made[EMBED].dtype))


def test_a_strength_goes_from_the_model_s_tensor_to_the_lora_s(lab: Lab) -> None:
    base = llama(lab)
    head = random(12, 6, seed=9)
    adapter(lab, {HEAD: head, **low_rank(Q)})
    made = built(lab, add(strength="0.25"))
    torch.testing.assert_close(made[HEAD], 0.75 * base[HEAD] + 0.25 * head)
    torch.testing.assert_close(made[Q].double(), base[Q].double() + 0.25 * product(Q), rtol=0, atol=1e-6)


def test_factors_beside_a_whole_tensor_are_added_to_it(lab: Lab) -> None:
    """As PEFT saves an embedding that was made larger and has factors too."""
    llama(lab)
    words = random(14, 6, seed=9)
    factors = {
        "model.embed_tokens.lora_embedding_A": random(2, 14, seed=4),
        "model.embed_tokens.lora_embedding_B": random(6, 2, seed=5),
    }
    adapter(lab, {"model.embed_tokens.base_layer.weight": words, HEAD: random(14, 6), **factors})
    made = built(lab, add())
    down, up = factors.values()
    torch.testing.assert_close(made[EMBED].double(), words.double() + (up.double() @ down.double()).T)
    assert same_bits(made[HEAD], random(14, 6))


# Other rows


@pytest.mark.parametrize("rows", [14, 9])
def test_a_vocabulary_of_other_rows_takes_the_place_of_the_model_s(lab: Lab, rows: int) -> None:
    llama(lab)
    words, head = random(rows, 6, seed=8), random(rows, 6, seed=9)
    adapter(lab, {EMBED: words, HEAD: head, **low_rank(Q)}, modules_to_save=["embed_tokens", "lm_head"])
    made = built(lab, add())
    assert same_bits(made[EMBED], words)
    assert same_bits(made[HEAD], head)
    assert config_of(lab)["vocab_size"] == rows


def test_at_strength_0_the_model_s_vocabulary_stays(lab: Lab) -> None:
    base = llama(lab)
    adapter(lab, {EMBED: random(14, 6), HEAD: random(14, 6), **low_rank(Q)})
    made = built(lab, add(strength='{ default = 0.5, "*embed*" = 0, "lm_head*" = 0 }'))
    assert same_bits(made[EMBED], base[EMBED])
    assert same_bits(made[HEAD], base[HEAD])
    torch.testing.assert_close(made[Q].double(), base[Q].double() + 0.5 * product(Q), rtol=0, atol=1e-6)


def test_a_family_has_the_vocabulary_that_its_members_ask_for(lab: Lab) -> None:
    """Members share what does not depend on their numbers."""
    base = llama(lab)
    adapter(lab, {HEAD: random(14, 6, seed=9), **low_rank(Q)})
    lab.write(
        '[targets."m"]\nmethod = "add_lora"\nbase = "base"\nloras = ["lora"]\nforeach.s = [0, 1]\n'
        'strength = { default = 0.5, "lm_head*" = "${s}" }\noutput = "out-${s}.safetensors"\n'
    )
    assert lab.build().exit_code == 0
    assert same_bits(lab.read("out-0.safetensors")[HEAD], base[HEAD])
    assert same_bits(lab.read("out-1.safetensors")[HEAD], random(14, 6, seed=9))


@pytest.mark.parametrize(
    ("strength", "loras"),
    [("0.5", '["lora"]'), ('{ default = 1, "lm_head*" = 2 }', '["lora"]'), ("1", '["lora", "lora"]')],
)
def test_anything_between_says_that_the_vocabulary_is_another(lab: Lab, strength: str, loras: str) -> None:
    llama(lab)
    adapter(lab, {HEAD: random(14, 6), **low_rank(Q)})
    error = refusal(lab, add(strength=strength, loras=loras))
    (problem,) = error.problems
    assert (error.exit_code, problem.code) == (9, "lora-rows")
    assert problem.message == "LoRA `lora` has 14 rows of `lm_head.weight`, and the model 12: its vocabulary is another"
    assert problem.rows == ("found   [14, 6]", "model   [12, 6]")
    assert problem.help == (
        "it can take the place of the model's, at strength 1 and as the only LoRA there, or be left at strength 0: "
        '`strength = { default = 0.5, "lm_head.weight" = 1 }`'
    )


# Ties


def test_a_trained_head_makes_an_untied_model(lab: Lab) -> None:
    base = llama(lab, tied=True)
    adapter(lab, {HEAD: random(12, 6, seed=9), **low_rank(Q)}, modules_to_save=["lm_head"])
    made = built(lab, add())
    assert same_bits(made[HEAD], random(12, 6, seed=9))
    assert same_bits(made[EMBED], base[EMBED])
    assert config_of(lab)["tie_word_embeddings"] is False


@pytest.mark.parametrize("keeps_ties", [False, True])
def test_an_embedding_that_was_trained_whole_leaves_the_head_of_a_tied_model(lab: Lab, keeps_ties: bool) -> None:
    """PEFT trains a copy of it, unless it is asked to keep ties."""
    base = llama(lab, tied=True)
    words = random(12, 6, seed=9)
    adapter(lab, {EMBED: words, **low_rank(Q)}, modules_to_save=["embed_tokens"], ensure_weight_tying=keeps_ties)
    made = built(lab, add())
    assert same_bits(made[EMBED], words)
    assert config_of(lab)["tie_word_embeddings"] is keeps_ties
    assert HEAD not in made if keeps_ties else same_bits(made[HEAD], base[EMBED])


def test_added_words_of_a_tied_model_are_tied_too(lab: Lab) -> None:
    """Of a head with as many rows nothing is known."""
    llama(lab, tied=True)
    adapter(lab, {EMBED: random(14, 6, seed=9), **low_rank(Q)}, modules_to_save=["embed_tokens"])
    made = built(lab, add())
    assert made[EMBED].shape == (14, 6)
    assert HEAD not in made
    assert (config_of(lab)["tie_word_embeddings"], config_of(lab)["vocab_size"]) == (True, 14)


def test_trained_words(lab: Lab) -> None:
    """At a strength between, rows go from the model's to the LoRA's."""
    base = llama(lab)
    rows = random(2, 6, seed=9)
    name = "model.embed_tokens.token_adapter.trainable_tokens_delta"
    adapter(lab, {name: rows, **low_rank(Q)}, trainable_token_indices=[3, 1])
    made = built(lab, add(strength="0.5"))
    expected = base[EMBED].clone()
    expected[3] = (expected[3] + rows[0]) / 2
    expected[1] = (expected[1] + rows[1]) / 2
    torch.testing.assert_close(made[EMBED], expected)


def test_a_lora_on_a_tied_head_is_added_to_the_tie_s_values(lab: Lab) -> None:
    """Another LoRA beside it, that is for the embedding, changes that alone."""
    base = llama(lab, tied=True)
    adapter(lab, low_rank(HEAD, rows=12))
    module = EMBED.removesuffix(".weight")
    down, up = random(2, 12, seed=4), random(6, 2, seed=5)
    adapter(lab, {f"{module}.lora_embedding_A": down, f"{module}.lora_embedding_B": up}, "words")
    made = built(lab, add(loras='["words", "lora"]'))
    head = base[EMBED].double() + product(HEAD, rows=12)
    torch.testing.assert_close(made[HEAD].double(), head, rtol=0, atol=1e-6)
    embedding = base[EMBED].double() + (up.double() @ down.double()).T
    torch.testing.assert_close(made[EMBED].double(), embedding, rtol=0, atol=1e-6)
    assert config_of(lab)["tie_word_embeddings"] is False


def test_a_tie_that_no_lora_names_is_kept(lab: Lab) -> None:
    llama(lab, tied=True)
    adapter(lab, low_rank(Q))
    assert HEAD not in built(lab, add())
    assert config_of(lab)["tie_word_embeddings"] is True


def test_a_head_that_takes_no_part_leaves_the_tie(lab: Lab) -> None:
    llama(lab, tied=True)
    adapter(lab, {**low_rank(HEAD, rows=12), **low_rank(Q)})
    assert HEAD not in built(lab, add('merge = ["L00"]'))


# What does not fit


@pytest.mark.parametrize(
    "keys",
    [("allow_unmatched = true",), ('merge = ["L01"]',), ('drop = ["*layers.0.*"]',)],
    ids=str,
)
def test_a_tensor_that_does_not_fit_can_be_left_out(lab: Lab, keys: tuple[str, ...]) -> None:
    base = llama(lab)
    other = "model.layers.1.self_attn.q_proj.weight"
    adapter(lab, {**low_rank(Q, columns=8), **low_rank(other)})
    made = built(lab, add(*keys, output="out.safetensors"))
    torch.testing.assert_close(made[other].double(), base[other].double() + product(other), rtol=0, atol=1e-6)
    assert Q not in made or same_bits(made[Q], base[Q])
    made = built(lab, add(strength='{ default = 1, "*layers.0.*" = 0 }', output="out.safetensors"))
    assert same_bits(made[Q], base[Q])


def test_what_is_let_go_is_said(lab: Lab) -> None:
    llama(lab)
    adapter(lab, {**low_rank(Q, columns=8), **low_rank("model.layers.1.self_attn.q_proj.weight")})
    lab.write(add("allow_unmatched = true"))
    (found,) = lab.build().targets
    (notice,) = found.notices
    name = f"{PEFT}model.layers.0.self_attn.q_proj.lora_A.weight"
    assert notice == f"2 tensors of LoRA `lora` have no place in the model and are left out, such as `{name}`"


def test_a_tensor_that_does_not_fit_is_refused_where_it_is_asked_for(lab: Lab) -> None:
    llama(lab)
    adapter(lab, {**low_rank(Q, columns=8), **low_rank("model.layers.1.self_attn.q_proj.weight")})
    error = refusal(lab, add())
    (problem,) = error.problems
    assert (error.exit_code, problem.code) == (4, "lora-shape")
    assert problem.message == (
        f"the LoRA's tensor `{PEFT}model.layers.0.self_attn.q_proj.lora_A.weight` does not fit the model's `{Q}`"
    )
    assert problem.rows == ("found   [2, 8]", "wanted  [r, 6]", "model   [6, 6]")
    assert problem.help == "`allow_unmatched = true` leaves it out, and so does a strength of 0 for this tensor"
    adapter(lab, {**low_rank(Q, columns=8), **low_rank("model.layers.1.self_attn.q_proj.weight", columns=8)})
    assert refusal(lab, add()).problems[0].help == (
        "the LoRA was made for another kind of model: take one of the kind that it was trained on"
    )


@pytest.mark.parametrize(
    ("names", "help_"),
    [
        (
            ["model.layers.2.self_attn.q_proj.weight", "model.layers.3.self_attn.q_proj.weight"],
            "the model has fewer layers: the LoRA was made for a deeper one",
        ),
        (
            [f"odd.thing.layers.{layer}.self_attn.q_proj.weight" for layer in range(2)],
            "they seem to be the model's under other names, which no rule knows: " + OTHER_HEADS,
        ),
        (["model.vision.q.weight", Q], "they are of parts that this model lacks"),
        (["unet.conv.weight"], "none of it is for this model: it was made for another one"),
    ],
    ids=["layers", "a prefix", "parts", "another model"],
)
def test_why_nothing_fits_is_told_where_names_tell(lab: Lab, names: list[str], help_: str) -> None:
    """That a LoRA is for another model is said only where nothing of it is for this one."""
    llama(lab)
    adapter(lab, {key: each for name in names for key, each in low_rank(name).items()})
    (problem,) = refusal(lab, add()).problems
    assert problem.code == "lora-unmatched"
    assert problem.help == f"{help_}; `allow_unmatched = true` leaves them out"


# First layers of other widths

IMG_IN, PROJ = "img_in.weight", "double_blocks.0.img_attn.proj.weight"


def flux(lab: Lab, channels: int) -> dict[str, Tensor]:
    tensors = {
        IMG_IN: random(8, channels),
        PROJ: random(8, 8, seed=2),
        "single_blocks.0.linear1.weight": random(56, 8, seed=3),
        "txt_in.weight": random(8, 5, seed=4),
    }
    lab.model("base", **tensors)
    return tensors


@pytest.mark.parametrize(("model", "lora"), [(12, 4), (4, 12), (4, 4)])
@pytest.mark.parametrize("family", ["lora", "loha", "lokr", "full"])
def test_a_first_layer_of_another_width_is_changed_in_the_channels_that_both_have(
    lab: Lab, model: int, lora: int, family: str
) -> None:
    base = flux(lab, model)
    tensors, wanted = first_layer(family, lora)
    up, down = random(8, 2, seed=5), random(2, 8, seed=6)
    tensors |= {"lora_unet_double_blocks_0_img_attn_proj.lora_up.weight": up}
    tensors |= {"lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": down}
    lab.model("lora", **tensors)
    made = built(lab, add('on_channels = "common"', output="out.safetensors"))
    both = min(model, lora)
    expected = base[IMG_IN].double()
    expected[:, :both] += wanted[:, :both]
    torch.testing.assert_close(made[IMG_IN].double(), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(made[PROJ].double(), base[PROJ].double() + up.double() @ down.double())
    if model != lora:
        (problem,) = refusal(lab, add(output="out.safetensors")).problems
        assert problem.help == (
            '`on_channels = "common"` adds it to the channels that both have; '
            "`allow_unmatched = true` leaves it out, and so does a strength of 0 for this tensor"
        )


def first_layer(family: str, channels: int) -> tuple[dict[str, Tensor], Tensor]:
    """Return the tensors of a module of a family for a first layer, and what they add."""
    one, two, three, four = random(8, 2), random(2, channels, seed=2), random(8, 2, seed=3), random(2, channels, seed=4)
    match family:
        case "lora":
            return {"lora_unet_img_in.lora_up.weight": one, "lora_unet_img_in.lora_down.weight": two}, (
                one @ two
            ).double()
        case "loha":
            names = ("w1_a", "w1_b", "w2_a", "w2_b")
            found = {
                f"lora_unet_img_in.hada_{name}": each for name, each in zip(names, (one, two, three, four), strict=True)
            }
            return found, (one.double() @ two.double()) * (three.double() @ four.double())
        case "lokr":
            outer, inner = random(2, 2), random(4, channels // 2, seed=2)
            return {"lora_unet_img_in.lokr_w1": outer, "lora_unet_img_in.lokr_w2": inner}, torch.kron(
                outer, inner
            ).double()
    whole = random(8, channels, seed=5)
    return {"lora_unet_img_in.diff": whole}, whole.double()


@pytest.mark.parametrize(("model", "lora"), [(9, 4), (4, 9)])
def test_a_first_convolution_of_another_width(lab: Lab, model: int, lora: int) -> None:
    """An inpainting model has the mask and the picture behind the channels of the others."""
    name = "model.diffusion_model.input_blocks.0.0.weight"
    base = {name: random(8, model, 3, 3), "model.diffusion_model.out.2.weight": random(4, 8, 3, 3)}
    lab.model("base", **base)
    up, down = random(8, 2, 1, 1, seed=4), random(2, lora, 3, 3, seed=5)
    tensors = {"lora_unet_conv_in.lora_up.weight": up, "lora_unet_conv_in.lora_down.weight": down}
    lab.model("lora", **tensors, **{"lora_unet_conv_out.diff": random(4, 8, 3, 3, seed=6)})
    made = built(lab, add('on_channels = "common"', output="out.safetensors"))
    both = min(model, lora)
    expected = base[name].double()
    expected[:, :both] += torch.einsum("or,rikl->oikl", up[:, :, 0, 0].double(), down.double())[:, :both]
    torch.testing.assert_close(made[name].double(), expected, rtol=0, atol=1e-5)
