"""The methods of LoRAs, from files to files: they make tensors that no input has, so the laws are tried here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from lab import Lab
from model_files import write_model
from tiny_models import full_checkpoint
from torch import Tensor

import mergebuild.build.passes as build_module
from mergebuild.engine.run import DEFAULT_CHUNK
from mergebuild.errors import MergeBuildError
from mergebuild.formats.header import read_header

Tensors = Mapping[str, Tensor]

WIDTH = 24


def random(*shape: int, seed: int = 1, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def llama(seed: int, *, base: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return a small language model, a fine-tune of `base`."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (40, WIDTH), "lm_head.weight": (40, WIDTH)}
    for layer in range(3):
        for name, rows in (("self_attn.q_proj", WIDTH), ("self_attn.v_proj", 12), ("mlp.up_proj", 60)):
            shapes[f"model.layers.{layer}.{name}.weight"] = (rows, WIDTH)
        shapes[f"model.layers.{layer}.input_layernorm.weight"] = (WIDTH,)
    found = {}
    for number, (name, shape) in enumerate(shapes.items()):
        weight = random(*shape, seed=1000 * base + number)
        found[name] = (weight if seed == base else weight + random(*shape, seed=1000 * seed + number, scale=0.1)).to(
            dtype
        )
    return found


def diffusion(seed: int) -> dict[str, Tensor]:
    """Return a few tensors of Stable Diffusion 1.5."""
    unet, text = "model.diffusion_model.", "cond_stage_model.transformer.text_model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{unet}input_blocks.0.0.weight": (8, 4, 3, 3),
        f"{unet}input_blocks.1.0.in_layers.2.weight": (8, 8, 3, 3),
        f"{unet}input_blocks.1.0.emb_layers.1.weight": (8, 16),
        f"{unet}input_blocks.1.1.proj_in.weight": (8, 8, 1, 1),
        f"{unet}input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (8, 12),
        f"{unet}middle_block.1.transformer_blocks.0.attn1.to_out.0.weight": (8, 8),
        f"{unet}middle_block.1.transformer_blocks.0.norm1.weight": (8,),
        f"{text}embeddings.token_embedding.weight": (20, 12),
        f"{text}encoder.layers.0.self_attn.q_proj.weight": (12, 12),
        f"{text}encoder.layers.0.mlp.fc1.weight": (24, 12),
        "first_stage_model.encoder.conv_in.weight": (8, 3, 3, 3),
    }
    return {name: random(*shape, seed=100 * seed + number) for number, (name, shape) in enumerate(shapes.items())}


def kohya(
    seed: int, *, rank: int = 3, alpha: float | None = 1.5, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Return a LoRA in kohya's names: linear, a convolution, and a difference."""
    modules = {"lora_unet_a": (10, 6), "lora_unet_conv": (8, 4, 3, 3), "lora_te_text": (5, 5)}
    found: dict[str, Tensor] = {}
    for number, (name, (rows, *row)) in enumerate(modules.items()):
        ones = [1 for _ in row[1:]]
        found[f"{name}.lora_up.weight"] = random(rows, rank, *ones, seed=10 * seed + number).to(dtype)
        found[f"{name}.lora_down.weight"] = random(rank, *row, seed=10 * seed + number + 5).to(dtype)
        if alpha is not None:
            found[f"{name}.alpha"] = torch.tensor(alpha)
    return found


def delta(lora: Tensors, module: str) -> Tensor:
    """Return what a LoRA adds for a module, in float64, flat behind its rows."""
    up, down = lora[f"{module}.lora_up.weight"], lora[f"{module}.lora_down.weight"]
    scale = float(lora[f"{module}.alpha"]) / len(down) if f"{module}.alpha" in lora else 1.0
    return scale * up.flatten(1).double() @ down.flatten(1).double()


def peft_delta(lora: Tensors, module: str) -> Tensor:
    name = f"base_model.model.{module}"
    return lora[f"{name}.lora_B.weight"].double() @ lora[f"{name}.lora_A.weight"].double()


def nearest(matrix: Tensor, rank: int) -> Tensor:
    left, sizes, right = torch.linalg.svd(matrix.double().flatten(1), full_matrices=False)
    return left[:, :rank] * sizes[:rank] @ right[:rank]


def extract(*keys: str, output: str = "x.safetensors", name: str = "x") -> str:
    return "\n".join(
        [
            f"[targets.{name}]",
            'method = "extract_lora"',
            'base = "base"',
            'a = "tuned"',
            f'output = "{output}"',
            *keys,
            "",
        ]
    )


def merge(*keys: str, loras: str = '["one", "two"]', output: str = "m.safetensors") -> str:
    return "\n".join(["[targets.m]", 'method = "merge_loras"', f"loras = {loras}", f'output = "{output}"', *keys, ""])


def resize(*keys: str) -> str:
    return "\n".join(["[targets.r]", 'method = "resize_lora"', 'a = "one"', 'output = "r.safetensors"', *keys, ""])


def models(lab: Lab, base: Tensors, tuned: Tensors) -> None:
    lab.model("base", **base)
    lab.model("tuned", **tuned)


def built(lab: Lab, text: str, output: str, **options: object) -> dict[str, Tensor]:
    lab.write(text)
    result = lab.build(**options)
    assert result.exit_code == 0, [each.error for each in result.targets]
    return lab.read(output)


def refusal(lab: Lab, text: str) -> MergeBuildError:
    lab.write(text)
    with pytest.raises(MergeBuildError) as caught:
        lab.build()
    return caught.value


# extract_lora


@pytest.mark.usefixtures("everywhere")
def test_a_difference_of_low_rank_is_found_again(lab: Lab) -> None:
    """To the precision of float32, as the factors are."""
    base = llama(0)
    module = "model.layers.1.mlp.up_proj"
    change = random(60, 3, scale=0.1).double() @ random(3, WIDTH, seed=2).double()
    models(lab, base, {**base, f"{module}.weight": (base[f"{module}.weight"].double() + change).float()})
    lora = built(lab, extract("rank = 3"), "x.safetensors")
    difference = lab.read("tuned.safetensors")[f"{module}.weight"] - base[f"{module}.weight"]
    torch.testing.assert_close(peft_delta(lora, module), difference.double(), rtol=0, atol=1e-6)
    untouched = peft_delta(lora, "model.layers.0.mlp.up_proj")
    assert not untouched.any()


@pytest.mark.parametrize("rank", [1, 4, 1000])
def test_it_is_the_nearest_of_its_rank(lab: Lab, rank: int) -> None:
    base, tuned = llama(0), llama(1)
    models(lab, base, tuned)
    lora = built(lab, extract(f"rank = {rank}"), "x.safetensors")
    modules = [name.removesuffix(".weight") for name in base if "layers" in name and "norm" not in name]
    assert len(lora) == 2 * (len(modules) + 1)  # and the head
    for module in modules:
        difference = tuned[f"{module}.weight"] - base[f"{module}.weight"]
        torch.testing.assert_close(peft_delta(lora, module), nearest(difference, rank), rtol=0, atol=2e-6)
        most = min(rank, *difference.shape)
        assert lora[f"base_model.model.{module}.lora_A.weight"].shape == (most, difference.shape[1])
        assert lora[f"base_model.model.{module}.lora_B.weight"].shape == (difference.shape[0], most)


def test_image_models_get_kohyas_names_and_alphas(lab: Lab) -> None:
    base, tuned = diffusion(1), diffusion(2)
    models(lab, base, tuned)
    lora = built(lab, extract("rank = 4", "conv_rank = 6", 'dtype = "float16"'), "x.safetensors")
    text = "lora_te_text_model_encoder_layers_0"
    shapes = {
        "lora_unet_down_blocks_0_resnets_0_conv1": ((8, 6, 1, 1), (6, 8, 3, 3)),
        "lora_unet_down_blocks_0_resnets_0_time_emb_proj": ((8, 4), (4, 16)),
        "lora_unet_down_blocks_0_attentions_0_proj_in": ((8, 4, 1, 1), (4, 8, 1, 1)),
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": ((8, 4), (4, 12)),
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0": ((8, 4), (4, 8)),
        f"{text}_self_attn_q_proj": ((12, 4), (4, 12)),
        f"{text}_mlp_fc1": ((24, 4), (4, 12)),
    }
    for module, (up, down) in shapes.items():
        assert (lora[f"{module}.lora_up.weight"].shape, lora[f"{module}.lora_down.weight"].shape) == (up, down)
        assert lora[f"{module}.alpha"].item() == down[0]
        assert lora[f"{module}.alpha"].dtype == torch.float32
        assert lora[f"{module}.lora_up.weight"].dtype == torch.float16
    assert len(lora) == 3 * len(shapes)
    name = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
    found = delta(lora, "lora_unet_down_blocks_0_resnets_0_conv1")
    torch.testing.assert_close(found, nearest(tuned[name] - base[name], 6), rtol=0, atol=2e-2)


@pytest.mark.parametrize(("conv_rank", "shown"), [(0, "4"), (6, "Dynamic")])
def test_full_metadata_say_what_kohyas_trainers_say(lab: Lab, conv_rank: int, shown: str) -> None:
    models(lab, diffusion(1), diffusion(2))
    built(lab, extract("rank = 4", f"conv_rank = {conv_rank}", 'metadata = "full"'), "x.safetensors")
    found = read_header(lab / "x.safetensors").metadata
    facts = {name: found[name] for name in found if name.startswith("ss_")}
    assert facts == {"ss_network_module": "networks.lora", "ss_network_dim": shown, "ss_network_alpha": shown}


def test_convolutions_are_left_out_unless_they_get_a_rank(lab: Lab) -> None:
    models(lab, diffusion(1), diffusion(2))
    assert not any("conv1" in name for name in built(lab, extract("rank = 4"), "x.safetensors"))


def test_a_number_per_part_of_the_model(lab: Lab) -> None:
    models(lab, diffusion(1), diffusion(2))
    lora = built(lab, extract("rank = { default = 5, text_encoder = 0, M00 = 2 }"), "x.safetensors")
    assert not any(name.startswith("lora_te") for name in lora)
    ranks = {name: len(each) for name, each in lora.items() if name.endswith("lora_down.weight")}
    assert set(ranks.values()) == {2, 5}
    assert [name for name, rank in ranks.items() if rank == 2] == [
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0.lora_down.weight"
    ]


def test_merge_and_drop_say_what_is_extracted(lab: Lab) -> None:
    models(lab, diffusion(1), diffusion(2))
    lora = built(lab, extract("rank = 2", 'merge = ["unet"]', 'drop = ["re:attn2"]'), "x.safetensors")
    assert len(lora) == 9
    assert not any("attn2" in name or name.startswith("lora_te") for name in lora)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_full_rank_gives_the_tuned_model_back(lab: Lab, dtype: str) -> None:
    """All of it that a LoRA can hold."""
    base, tuned = diffusion(1), diffusion(2)
    models(lab, base, tuned)
    back = '[targets.back]\nmethod = "add_lora"\nbase = "base"\nloras = ["x"]\noutput = "back.safetensors"\n'
    made = built(lab, extract("rank = 100", "conv_rank = 100", f'dtype = "{dtype}"') + back, "back.safetensors")
    outside = {"0.0.weight", "norm1.weight", "token_embedding.weight", "conv_in.weight"}
    for name, tensor in made.items():
        expected = base[name] if any(name.endswith(each) for each in outside) else tuned[name]
        torch.testing.assert_close(tensor, expected, rtol=0, atol=3e-6 if dtype == "float32" else 2e-2)


def test_kohyas_form(lab: Lab) -> None:
    """Singular values stay with `up`, and both factors are clamped at a quantile of all their values."""
    base, tuned = diffusion(1), diffusion(2)
    models(lab, base, tuned)
    lora = built(lab, extract("rank = 4", "clamp_quantile = 0.99"), "x.safetensors")
    name = "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"
    left, sizes, right = torch.linalg.svd((tuned[name] - base[name]).double(), full_matrices=False)
    up, down = left[:, :4] * sizes[:4], right[:4]
    high = torch.quantile(torch.cat([up.flatten(), down.flatten()]), 0.99)
    module = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    signs = torch.sign(down[torch.arange(4), down.abs().argmax(1)])  # of which either may be had
    torch.testing.assert_close(
        lora[f"{module}.lora_down.weight"].double(), (down * signs[:, None]).clamp(-high, high), rtol=0, atol=2e-6
    )
    torch.testing.assert_close(
        lora[f"{module}.lora_up.weight"].double(), (up * signs).clamp(-high, high), rtol=0, atol=2e-5
    )


def test_factors_beyond_the_share_that_is_enough_are_zeros(lab: Lab) -> None:
    base, tuned = llama(0), llama(1)
    models(lab, base, tuned)
    lora = built(lab, extract("rank = 10", "energy = 0.5"), "x.safetensors")
    module = "model.layers.2.self_attn.q_proj"
    difference = (tuned[f"{module}.weight"] - base[f"{module}.weight"]).double()
    sizes = torch.linalg.svdvals(difference).square()
    enough = int((sizes.cumsum(0) < 0.5 * sizes.sum()).sum()) + 1
    assert enough < 10
    down = lora[f"base_model.model.{module}.lora_A.weight"]
    assert down.shape[0] == 10
    assert [bool(row.any()) for row in down] == [True] * enough + [False] * (10 - enough)
    torch.testing.assert_close(peft_delta(lora, module), nearest(difference, enough), rtol=0, atol=2e-6)


@pytest.mark.usefixtures("everywhere")
def test_a_randomized_decomposition_is_close_and_follows_from_its_seed(lab: Lab) -> None:
    base, tuned = llama(0), llama(1)
    models(lab, base, tuned)
    more = "".join(
        extract("rank = 4", 'svd = "randomized"', f"seed = {seed}", output=f"{name}.safetensors", name=name)
        for name, seed in (("s1", 1), ("again", 1), ("s2", 2))
    )
    first = built(lab, more, "s1.safetensors")
    assert all(torch.equal(each, lab.read("again.safetensors")[name]) for name, each in first.items())
    assert not all(torch.equal(each, lab.read("s2.safetensors")[name]) for name, each in first.items())
    module = "model.layers.0.mlp.up_proj"
    difference = (tuned[f"{module}.weight"] - base[f"{module}.weight"]).double()
    best = float((difference - nearest(difference, 4)).norm())
    assert float((difference - peft_delta(first, module)).norm()) < 1.02 * best


def test_heads_of_openclip_are_modules_of_their_own(lab: Lab) -> None:
    """Query, key and value are rows of one tensor in SDXL, and modules of a LoRA."""
    base, tuned = full_checkpoint("sdxl", 1, torch.float32), full_checkpoint("sdxl", 2, torch.float32)
    models(lab, base, tuned)
    back = '[targets.back]\nmethod = "add_lora"\nbase = "base"\nloras = ["x"]\noutput = "back.safetensors"\n'
    made = built(lab, extract("rank = 1000", "conv_rank = 1000") + back, "back.safetensors")
    lora = lab.read("x.safetensors")
    name = "conditioner.embedders.1.model.transformer.resblocks.3.attn.in_proj_weight"
    rows = len(base[name]) // 3
    for number, part in enumerate("qkv"):
        module = f"lora_te2_text_model_encoder_layers_3_self_attn_{part}_proj"
        difference = (tuned[name] - base[name])[number * rows : (number + 1) * rows]
        torch.testing.assert_close(delta(lora, module), difference.double(), rtol=0, atol=1e-5)
    assert "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q.lora_up.weight" in lora
    assert "lora_te1_text_model_encoder_layers_0_self_attn_q_proj.lora_up.weight" in lora
    torch.testing.assert_close(made[name], tuned[name], rtol=0, atol=1e-5)


def test_virtual_models_fold_into_the_difference(lab: Lab) -> None:
    """`tuned - base` of a mix is a combination of sources: the base's share in the mix cancels out."""
    base, tuned = llama(0), llama(1)
    models(lab, base, tuned)
    lab.model("other", **llama(2))
    text = (
        '[targets.mix]\nmethod = "add_difference"\na = "base"\nb = "tuned"\nc = "other"\nalpha = 0.5\n'
        '[targets.x]\nmethod = "extract_lora"\nbase = "base"\na = "mix"\nrank = 2\noutput = "x.safetensors"\n'
    )
    lora = built(lab, text, "x.safetensors")
    module = "model.layers.1.self_attn.v_proj"
    difference = 0.5 * (tuned[f"{module}.weight"] - lab.read("other.safetensors")[f"{module}.weight"])
    torch.testing.assert_close(peft_delta(lora, module), nearest(difference, 2), rtol=0, atol=2e-6)


@pytest.mark.parametrize("output", ["", 'output = "mix.safetensors"\n'])
def test_what_a_method_makes_is_extracted_from_too(lab: Lab, output: str) -> None:
    """Of a virtual target the unrounded values, else those of the file that is built first."""
    base, tuned = llama(0), llama(1)
    models(lab, base, tuned)
    text = (
        f'[targets.mix]\nmethod = "slerp"\na = "base"\nb = "tuned"\nt = 0.5\n{output}'
        '[targets.x]\nmethod = "extract_lora"\nbase = "base"\na = "mix"\nrank = 100\noutput = "x.safetensors"\n'
        '[targets.check]\nmethod = "slerp"\na = "base"\nb = "tuned"\nt = 0.5\noutput = "check.safetensors"\n'
    )
    lora = built(lab, text, "x.safetensors")
    module = "model.layers.0.self_attn.q_proj"
    expected = lab.read("check.safetensors")[f"{module}.weight"].double() - base[f"{module}.weight"].double()
    torch.testing.assert_close(peft_delta(lora, module), expected, rtol=0, atol=2e-6)
    assert not [path for path in lab.root.rglob("*.mergebuild-*") if path.is_file()]


def test_a_lora_that_a_virtual_target_makes_is_copied_as_one_of_a_file(lab: Lab) -> None:
    models(lab, llama(0), llama(1))
    text = extract("rank = 2").replace('output = "x.safetensors"\n', "") + (
        extract("rank = 2", name="file")
        + '[targets.twice]\nmethod = "scale"\na = "x"\nalpha = 2\noutput = "twice.safetensors"\n'
    )
    twice = built(lab, text, "twice.safetensors")
    once = lab.read("x.safetensors")
    assert twice.keys() == once.keys()
    assert all(torch.equal(each, once[name] * (2 if "lora_B" in name else 1)) for name, each in twice.items())


def test_the_bits_follow_from_neither_threads_nor_chunks(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    models(lab, diffusion(1), diffusion(2))
    lab.model("one", **kohya(1))
    lab.model("two", **kohya(2))
    keys = ("rank = 3", "conv_rank = 2", "energy = 0.9")
    text = extract(*keys) + extract(*keys, 'svd = "randomized"', name="y", output="y.safetensors")
    lab.write(text + merge("rank = 2") + resize("rank = 2"))
    real = build_module.run_pass
    found: set[bytes] = set()
    for threads, chunk in ((1, DEFAULT_CHUNK), (2, 64), (3, 7)):
        shutil.rmtree(lab / ".mergebuild", ignore_errors=True)
        outputs = [lab / f"{name}.safetensors" for name in "xymr"]
        for output in outputs:
            output.unlink(missing_ok=True)
        monkeypatch.setattr(build_module, "run_pass", partial(_chunked, real, size=chunk))
        assert lab.build(threads=threads).exit_code == 0
        found.add(b"".join(output.read_bytes() for output in outputs))
    assert len(found) == 1


def _chunked(real: Callable[..., Any], *args: Any, size: int, **kwargs: Any) -> Any:
    return real(*args, **(kwargs | {"chunk": size}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_and_its_source_named(lab: Lab, value: float) -> None:
    base, tuned = llama(0), llama(1)
    tuned["model.layers.1.mlp.up_proj.weight"][3, 2] = value
    models(lab, base, tuned)
    lab.write(extract("rank = 2"))
    (found,) = lab.build().targets
    assert found.error is not None
    assert found.error.code == "nonfinite"
    assert "`tuned`" in "".join(found.error.rows)
    assert not (lab / "x.safetensors").exists()
    lora = built(lab, extract("rank = 2", 'nonfinite = "allow"'), "x.safetensors")
    assert lora["base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"].isnan().all()
    assert lora["base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"].isfinite().all()


def test_a_change_of_one_layer_costs_that_layer(lab: Lab) -> None:
    base, tuned = llama(0), llama(1)
    models(lab, base, tuned)
    before = built(lab, extract("rank = 2"), "x.safetensors")
    lab.settle()
    lab.model("tuned", **{**tuned, "model.layers.1.mlp.up_proj.weight": 2 * tuned["model.layers.1.mlp.up_proj.weight"]})
    (found,) = lab.build().targets
    assert (found.tensors_computed, found.tensors_reused) == (2, len(before) - 2)


def test_models_of_different_kinds_do_not_fit(lab: Lab) -> None:
    models(lab, llama(0), diffusion(1))
    assert refusal(lab, extract("rank = 2")).exit_code == 9
    other = {name: each if "up_proj" not in name else random(8, WIDTH) for name, each in llama(1).items()}
    models(lab, llama(0), other)
    assert refusal(lab, extract("rank = 2")).problems[0].code == "shape-mismatch"


def test_a_layer_that_one_of_them_lacks_is_left_out(lab: Lab) -> None:
    tuned = llama(1)
    del tuned["model.layers.2.mlp.up_proj.weight"]
    models(lab, llama(0), tuned)
    lab.write(extract("rank = 2"))
    (found,) = lab.build().targets
    sentence = "1 tensor that `tuned` lacks is left out: some of block L02, 5.8 kB (18 % of `base`), "
    behind, lacking = found.notices
    assert lacking == sentence + "`model.layers.2.mlp.up_proj.weight`"
    assert (
        "are in no module of the LoRA and are left out: 4 parameters, the largest `model.embed_tokens.weight`" in behind
    )
    assert not any("layers.2.mlp" in name for name in lab.read("x.safetensors"))
    assert refusal(lab, extract("rank = 2", 'missing = "error"')).exit_code == 9


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        (("rank = 2.5",), "not-whole"),
        (("rank = { gradient = [2, 5] }",), "not-whole"),
        (("rank = -1",), "out-of-range"),
        (("rank = 0",), "nothing-left"),
        (("rank = { norm = 3 }",), "nothing-left"),
        (("rank = 2", "energy = 1.5"), "out-of-range"),
        (("rank = 2", 'svd = "quick"'), "bad-value"),
        (("rank = 2", "seed = -1"), "wrong-type"),
        ((), "missing-key"),
        (("rank = 2", '[[targets.x.rules]]\ntensors = ["attn"]\nrank = 1'), "bad-rule"),
        (("rank = 2", '[targets.x.components]\nhead = "base"'), "bad-rule"),
    ],
    ids=str,
)
def test_what_no_lora_can_be_made_with_is_said(lab: Lab, keys: tuple[str, ...], code: str) -> None:
    models(lab, llama(0), llama(1))
    error = refusal(lab, extract(*keys))
    assert (error.exit_code, [each.code for each in error.problems]) == (3, [code])
    assert error.problems[0].help


def test_a_rule_can_not_make_a_lora(lab: Lab) -> None:
    models(lab, llama(0), llama(1))
    text = (
        '[targets.x]\nmethod = "copy"\na = "base"\noutput = "x.safetensors"\n'
        '[[targets.x.rules]]\ntensors = ["attn"]\nmethod = "extract_lora"\nbase = "base"\na = "tuned"\nrank = 2\n'
    )
    assert refusal(lab, text).problems[0].code == "bad-rule"


# Adapters of PEFT


def test_a_folder_is_an_adapter_of_peft(lab: Lab) -> None:
    base, tuned = llama(0), llama(1)
    write_model(lab / "base" / "model.safetensors", base)
    (lab / "base" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (lab / "base" / "tokenizer.json").write_text("{}")
    lab.sources["base"] = "base/"
    lab.model("tuned", **tuned)
    lab.write(extract("rank = { default = 4, L01 = 2 }", output="x/"))
    assert lab.build().exit_code == 0
    assert sorted(path.name for path in (lab / "x").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "mergebuild.json",
    ]  # fmt: skip
    config = json.loads((lab / "x" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"], config["r"], config["lora_alpha"]) == ("LORA", "CAUSAL_LM", 4, 4)
    second = {f"model.layers.1.{name}": 2 for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj")}
    assert config["rank_pattern"] == config["alpha_pattern"] == second
    assert set(second) < set(config["target_modules"])
    assert "lm_head" in config["target_modules"]
    assert "model.embed_tokens" not in config["target_modules"]


def test_an_adapter_that_is_made_is_added_as_any_other(lab: Lab) -> None:
    """From its folder, and from the target in the same build."""
    base, tuned = llama(0), llama(1)
    models(lab, base, tuned)
    add = '[targets.{0}]\nmethod = "add_lora"\nbase = "base"\nloras = ["{1}"]\noutput = "{0}.safetensors"\n'
    made = built(lab, extract("rank = 100", output="x/") + add.format("back", "x"), "back.safetensors")
    lab.sources["folder"] = "x/"
    again = built(lab, add.format("again", "folder"), "again.safetensors")
    for name, tensor in made.items():
        assert torch.equal(tensor, again[name])
        if "layers" in name and "norm" not in name:
            torch.testing.assert_close(tensor, tuned[name], rtol=0, atol=2e-6)


def test_only_adapters_of_peft_are_folders(lab: Lab) -> None:
    models(lab, diffusion(1), diffusion(2))
    assert refusal(lab, extract("rank = 2", output="x/")).problems[0].code == "bad-output"


# merge_loras


def loras(lab: Lab, one: Tensors, two: Tensors) -> None:
    lab.model("one", **one)
    lab.model("two", **two)


@pytest.mark.usefixtures("everywhere")
def test_loras_put_together_are_the_sum_of_what_they_do(lab: Lab) -> None:
    one, two = kohya(1), kohya(2, rank=5, alpha=2.0)
    loras(lab, one, two)
    made = built(lab, merge("strength = [0.5, -2]"), "m.safetensors")
    assert made.keys() == one.keys()
    for module in ("lora_unet_a", "lora_unet_conv", "lora_te_text"):
        assert len(made[f"{module}.lora_down.weight"]) == 8
        torch.testing.assert_close(
            delta(made, module), 0.5 * delta(one, module) - 2 * delta(two, module), rtol=0, atol=1e-5
        )


def test_equal_scales_are_put_together_byte_for_byte(lab: Lab) -> None:
    """Nothing is rounded, and the alpha is that of the longer rank."""
    one, two = kohya(1, rank=4, alpha=2.0, dtype=torch.float16), kohya(2, rank=2, alpha=1.0, dtype=torch.float16)
    loras(lab, one, two)
    made = built(lab, merge(), "m.safetensors")
    for module in ("lora_unet_a", "lora_unet_conv"):
        for end, dim in (("lora_up", 1), ("lora_down", 0)):
            name = f"{module}.{end}.weight"
            assert torch.equal(made[name], torch.cat([one[name], two[name]], dim))
        assert made[f"{module}.alpha"].item() == 3.0


def test_a_strength_per_module_and_per_lora(lab: Lab) -> None:
    one, two = kohya(1), kohya(2)
    loras(lab, one, two)
    text = merge(loras='[{ lora = "one", strength = { default = 1, "*conv*" = 0 } }, { lora = "two", strength = 3 }]')
    made = built(lab, text, "m.safetensors")
    both = delta(one, "lora_unet_a") + 3 * delta(two, "lora_unet_a")
    torch.testing.assert_close(delta(made, "lora_unet_a"), both, rtol=0, atol=1e-5)
    torch.testing.assert_close(delta(made, "lora_unet_conv"), 3 * delta(two, "lora_unet_conv"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("rank", ["", "rank = 2"])
def test_strengths_of_0_leave_nothing(lab: Lab, rank: str) -> None:
    loras(lab, kohya(1), kohya(2))
    made = built(lab, merge("strength = 0", rank), "m.safetensors")
    assert not any(delta(made, module).any() for module in ("lora_unet_a", "lora_unet_conv", "lora_te_text"))


def test_a_lora_alone_at_strength_1_is_itself(lab: Lab) -> None:
    one = kohya(1, dtype=torch.bfloat16)
    lab.model("one", **one)
    made = built(lab, merge(loras='["one"]') + resize(), "m.safetensors")
    for found in (made, lab.read("r.safetensors")):
        assert found.keys() == one.keys()
        assert all(torch.equal(found[name], each) for name, each in one.items())


@pytest.mark.usefixtures("everywhere")
def test_a_sum_is_cut_to_a_rank(lab: Lab) -> None:
    one, two = kohya(1), kohya(2)
    loras(lab, one, two)
    made = built(lab, merge("rank = 2"), "m.safetensors")
    for module in ("lora_unet_a", "lora_unet_conv"):
        assert len(made[f"{module}.lora_down.weight"]) == made[f"{module}.alpha"].item() == 2
        expected = nearest(delta(one, module) + delta(two, module), 2)
        torch.testing.assert_close(delta(made, module), expected, rtol=0, atol=1e-5)


def test_modules_of_any_of_them_are_in_the_result(lab: Lab) -> None:
    one, two = kohya(1), kohya(2)
    only = {name: each for name, each in two.items() if "conv" not in name}
    loras(lab, only, one)
    made = built(lab, merge(), "m.safetensors")
    torch.testing.assert_close(delta(made, "lora_unet_conv"), delta(one, "lora_unet_conv"), rtol=0, atol=1e-6)
    loras(lab, one, only)
    assert refusal(lab, merge('missing = "error"')).exit_code == 9


def test_differences_and_norms_are_added_up(lab: Lab) -> None:
    one, two = kohya(1), kohya(2)
    for lora, seed in ((one, 5), (two, 6)):
        lora["lora_unet_norm.w_norm"] = random(6, seed=seed)
        lora["lora_unet_bias.diff_b"] = random(4, seed=seed)
    loras(lab, one, two)
    made = built(lab, merge("strength = [2, 0.5]"), "m.safetensors")
    for name in ("lora_unet_norm.w_norm", "lora_unet_bias.diff_b"):
        torch.testing.assert_close(made[name], 2 * one[name] + 0.5 * two[name])


def test_a_tucker_core_becomes_a_pair(lab: Lab) -> None:
    one = {
        "lora_unet_c.lora_up.weight": random(6, 2, 1, 1),
        "lora_unet_c.lora_mid.weight": random(2, 2, 3, 3, seed=2),
        "lora_unet_c.lora_down.weight": random(2, 5, 1, 1, seed=3),
        "lora_unet_c.alpha": torch.tensor(4.0),
    }
    loras(lab, one, one)
    made = built(lab, merge(), "m.safetensors")
    assert "lora_unet_c.lora_mid.weight" not in made
    up, mid, down = (one[f"lora_unet_c.lora_{each}.weight"].double() for each in ("up", "mid", "down"))
    expected = 4 * torch.einsum("nmkl,in,mj->ijkl", mid, up[:, :, 0, 0], down[:, :, 0, 0])
    torch.testing.assert_close(delta(made, "lora_unet_c").view(6, 5, 3, 3), expected, rtol=0, atol=1e-5)


def test_adapters_keep_what_their_configuration_says(lab: Lab) -> None:
    """Scales of PEFT stand in its configuration; the merged adapter has one of its own, by which it does the same."""
    modules = [f"model.layers.{layer}.self_attn.q_proj" for layer in range(2)]
    for name, rank, alpha, rslora in (("one", 2, 6, False), ("two", 4, 4, True)):
        tensors = {}
        for number, module in enumerate(modules):
            tensors[f"base_model.model.{module}.lora_A.weight"] = random(rank, WIDTH, seed=10 * rank + number)
            tensors[f"base_model.model.{module}.lora_B.weight"] = random(WIDTH, rank, seed=10 * rank + number + 5)
        write_model(lab / name / "adapter_model.safetensors", tensors)
        config = {
            "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "use_rslora": rslora, "task_type": "CAUSAL_LM",
            "base_model_name_or_path": "org/model" if name == "one" else "/home/me/model",
            "target_modules": ["q_proj"],
        }  # fmt: skip
        (lab / name / "adapter_config.json").write_text(json.dumps(config))
        lab.sources[name] = f"{name}/"
    lab.write(merge("strength = [1, 0.5]", output="m/"))
    assert lab.build().exit_code == 0
    made = lab.read("m/adapter_model.safetensors")
    one, two = (lab.read(f"{name}/adapter_model.safetensors") for name in ("one", "two"))
    for module in modules:
        expected = 3 * peft_delta(one, module) + 0.5 * 2 * peft_delta(two, module)
        torch.testing.assert_close(peft_delta(made, module), expected, rtol=0, atol=2e-5)
    config = json.loads((lab / "m" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"], config["task_type"]) == (6, 6, False, "CAUSAL_LM")
    assert config["base_model_name_or_path"] == "org/model"
    assert config["target_modules"] == modules
    lab.write(merge(loras='["two"]', output="m/"))
    assert lab.build().exit_code == 0
    assert json.loads((lab / "m" / "adapter_config.json").read_text())["base_model_name_or_path"] is None


@pytest.mark.parametrize(
    ("two", "code"),
    [
        ({"unet.a.lora_A.weight": (2, 6), "unet.a.lora_B.weight": (10, 2)}, "lora-naming"),
        ({"lora_unet_a.lora_up.weight": (9, 2), "lora_unet_a.lora_down.weight": (2, 6)}, "shape-mismatch"),
        ({"lora_unet_a.lora_up.weight": (10, 2)}, "lora-incomplete"),
        ({f"lora_unet_a.hada_w{n}": (4, 4) for n in ("1_a", "1_b", "2_a", "2_b")}, "lora-no-product"),
        ({"lora_unet_a.lokr_w1": (2, 2), "lora_unet_a.lokr_w2": (5, 3)}, "lora-no-product"),
        (
            {
                "lora_unet_a.lora_up.weight": (10, 2),
                "lora_unet_a.lora_down.weight": (2, 6),
                "lora_unet_a.dora_scale": (10, 1),
            },
            "lora-no-product",
        ),
    ],
    ids=["naming", "shape", "incomplete", "loha", "lokr", "dora"],
)  # fmt: skip
def test_loras_that_can_not_be_put_together(lab: Lab, two: Mapping[str, tuple[int, ...]], code: str) -> None:
    loras(lab, kohya(1), {name: random(*shape) for name, shape in two.items()})
    (problem,) = refusal(lab, merge()).problems
    assert problem.code == code
    assert problem.help


def test_whole_tensors_can_not_be_added_up(lab: Lab) -> None:
    lora = {
        "base_model.model.head.weight": random(3, 4),
        "base_model.model.x.lora_A.weight": random(2, 4),
        "base_model.model.x.lora_B.weight": random(5, 2),
    }
    for name in ("one", "two"):
        some = {key: each for key, each in lora.items() if name == "one" or "lora" in key}
        write_model(lab / f"{name}.safetensors", some, {"lora_adapter_metadata": '{"r": 2, "lora_alpha": 2}'})
        lab.sources[name] = f"{name}.safetensors"
    assert refusal(lab, merge()).problems[0].code == "lora-replaces"
    made = built(lab, resize("rank = 1"), "r.safetensors")
    assert torch.equal(made["base_model.model.head.weight"], lora["base_model.model.head.weight"])


def test_a_lora_that_is_no_file_is_exact(lab: Lab) -> None:
    """Between LoRAs of float16 and what is made of them nothing is rounded."""
    one, two = kohya(1, dtype=torch.float16), kohya(2, dtype=torch.float16)
    loras(lab, one, two)
    text = merge("strength = [0.3, 0.7]").replace('output = "m.safetensors"\n', "")
    made = built(
        lab, text + resize("rank = 2").replace('a = "one"', 'a = "m"') + 'dtype = "float32"\n', "r.safetensors"
    )
    whole = 0.3 * delta(one, "lora_unet_a") + 0.7 * delta(two, "lora_unet_a")
    torch.testing.assert_close(delta(made, "lora_unet_a"), nearest(whole, 2), rtol=0, atol=1e-6)


def test_chains_of_loras_that_are_no_files(lab: Lab) -> None:
    """Each stands between others for the time, and nothing of it is left."""
    base, tuned = diffusion(1), diffusion(2)
    models(lab, base, tuned)
    text = extract("rank = 100", "conv_rank = 100").replace('output = "x.safetensors"\n', "") + (
        '[targets.m]\nmethod = "merge_loras"\nloras = ["x", "x"]\nstrength = 0.5\n'
        '[targets.r]\nmethod = "resize_lora"\na = "m"\nrank = 100\n'
        '[targets.back]\nmethod = "add_lora"\nbase = "base"\nloras = ["r"]\noutput = "back.safetensors"\n'
    )
    made = built(lab, text, "back.safetensors")
    name = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
    torch.testing.assert_close(made[name], tuned[name], rtol=0, atol=1e-5)
    assert not [path for path in lab.root.rglob("*.mergebuild-*") if path.is_file()]


def test_a_virtual_lora_is_added_as_any_other(lab: Lab) -> None:
    base, tuned = diffusion(1), diffusion(2)
    models(lab, base, tuned)
    text = extract("rank = 100", "conv_rank = 100").replace('output = "x.safetensors"\n', "") + (
        '[targets.back]\nmethod = "add_lora"\nbase = "base"\nloras = ["x"]\noutput = "back.safetensors"\n'
    )
    made = built(lab, text, "back.safetensors")
    name = "model.diffusion_model.input_blocks.1.1.proj_in.weight"
    torch.testing.assert_close(made[name], tuned[name], rtol=0, atol=2e-6)


def test_chains_of_loras_are_built_in_their_order(lab: Lab) -> None:
    one, two = kohya(1), kohya(2)
    loras(lab, one, two)
    text = merge() + '[targets.r]\nmethod = "resize_lora"\na = "m"\nrank = 1\noutput = "r.safetensors"\n'
    made = built(lab, text, "r.safetensors")
    whole = delta(one, "lora_unet_a") + delta(two, "lora_unet_a")
    torch.testing.assert_close(delta(made, "lora_unet_a"), nearest(whole, 1), rtol=0, atol=1e-5)


# resize_lora


@pytest.mark.parametrize("rank", [1, 2, 3, 50])
def test_a_smaller_rank_comes_nearest(lab: Lab, rank: int) -> None:
    """A larger one than a module has is that of the module."""
    one = kohya(1)
    lab.model("one", **one)
    made = built(lab, resize(f"rank = {rank}"), "r.safetensors")
    assert made.keys() == one.keys()
    for module in ("lora_unet_a", "lora_unet_conv", "lora_te_text"):
        assert len(made[f"{module}.lora_down.weight"]) == min(rank, 3)
        torch.testing.assert_close(delta(made, module), nearest(delta(one, module), rank), rtol=0, atol=1e-5)


def test_as_much_as_a_share_of_the_squares_needs(lab: Lab) -> None:
    one = kohya(1)
    lab.model("one", **one)
    made = built(lab, resize("energy = 0.6"), "r.safetensors")
    sizes = torch.linalg.svdvals(delta(one, "lora_unet_a")).square()
    enough = int((sizes.cumsum(0) < 0.6 * sizes.sum()).sum()) + 1
    down = made["lora_unet_a.lora_down.weight"]
    assert down.shape == one["lora_unet_a.lora_down.weight"].shape
    assert sum(bool(row.any()) for row in down) == enough < 3


def test_a_nan_in_a_lora_is_refused(lab: Lab) -> None:
    one = kohya(1)
    one["lora_unet_a.lora_up.weight"][0, 0] = float("nan")
    lab.model("one", **one)
    lab.write(resize("rank = 2"))
    (found,) = lab.build().targets
    assert found.error is not None
    assert found.error.code == "nonfinite"


# add_lora


ADD = '[targets.x]\nmethod = "add_lora"\nbase = "base"\nloras = ["one", "two"]\noutput = "x.safetensors"\n'


def baked(
    lab: Lab, *, seed: int = 1, dtype: torch.dtype = torch.float32
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Write two LoRAs for a model; return the model, and what both add to it."""
    base = diffusion(seed)
    unet, text = "model.diffusion_model.", "cond_stage_model.transformer.text_model."
    places = {
        "lora_unet_down_blocks_0_resnets_0_conv1": f"{unet}input_blocks.1.0.in_layers.2.weight",
        "lora_te_text_model_encoder_layers_0_mlp_fc1": f"{text}encoder.layers.0.mlp.fc1.weight",
    }
    added = {name: torch.zeros_like(each, dtype=torch.float64) for name, each in base.items()}
    for name, number in (("one", 3), ("two", 7)):
        lora: dict[str, Tensor] = {}
        for module, tensor in places.items():
            rows, *row = base[tensor].shape
            lora[f"{module}.lora_up.weight"] = random(rows, 2, *(1 for _ in row[1:]), seed=number).to(dtype)
            lora[f"{module}.lora_down.weight"] = random(2, *row, seed=number + 1).to(dtype)
            lora[f"{module}.alpha"] = torch.tensor(3.0)
            added[tensor] += delta(lora, module).view(base[tensor].shape)
        lab.model(name, **lora)
    lab.model("base", **base)
    return base, added


@pytest.mark.usefixtures("everywhere")
def test_what_loras_add_is_added_and_nothing_else(lab: Lab) -> None:
    base, added = baked(lab, dtype=torch.float16)
    made = built(lab, ADD, "x.safetensors")
    assert sum(bool(each.any()) for each in added.values()) == 2
    for name, tensor in made.items():
        torch.testing.assert_close(tensor.double(), base[name].double() + added[name], rtol=1e-6, atol=1e-6)
        if not added[name].any():
            assert torch.equal(tensor, base[name])


def test_a_strength_of_0_is_the_base_byte_for_byte(lab: Lab) -> None:
    base, _ = baked(lab)
    made = built(lab, ADD + "strength = 0\n", "x.safetensors")
    assert all(torch.equal(made[name], each) for name, each in base.items())


def test_strengths_per_part_and_per_lora(lab: Lab) -> None:
    base, _ = baked(lab)
    text = ADD.replace('["one", "two"]', '[{ lora = "one", strength = { default = 2, text_encoder = 0 } }, "one"]')
    made = built(lab, text + "strength = -1\n", "x.safetensors")
    lora = lab.read("one.safetensors")
    unet = "model.diffusion_model.input_blocks.1.0.in_layers.2.weight"
    change = delta(lora, "lora_unet_down_blocks_0_resnets_0_conv1").view(base[unet].shape)
    torch.testing.assert_close(made[unet].double(), base[unet].double() + (2 - 1) * change, rtol=1e-6, atol=1e-6)


def test_neither_threads_nor_chunks_matter_to_what_is_added(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    baked(lab)
    lab.write(ADD)
    real = build_module.run_pass
    found: set[bytes] = set()
    for threads, chunk in ((1, DEFAULT_CHUNK), (2, 64), (3, 7)):
        shutil.rmtree(lab / ".mergebuild", ignore_errors=True)
        (lab / "x.safetensors").unlink(missing_ok=True)
        monkeypatch.setattr(build_module, "run_pass", partial(_chunked, real, size=chunk))
        assert lab.build(threads=threads).exit_code == 0
        found.add((lab / "x.safetensors").read_bytes())
    assert len(found) == 1


@pytest.mark.usefixtures("everywhere")
def test_a_nan_in_what_is_added_is_refused(lab: Lab) -> None:
    baked(lab)
    lora = lab.read("two.safetensors")
    bad = next(name for name in lora if name.endswith("lora_up.weight"))
    lora[bad].view(-1)[0] = float("nan")
    lab.model("two", **lora)
    lab.write(ADD)
    (found,) = lab.build().targets
    assert found.error is not None
    assert found.error.code == "nonfinite"
    assert f"(1 in `{bad}` of `two`)" in found.error.rows[0]  # the LoRA's tensor, where the row begins with the model's
    assert not (lab / "x.safetensors").exists()


def test_what_finds_no_place_is_an_error_unless_it_may_go(lab: Lab) -> None:
    base, _ = baked(lab)
    lab.model("two", **kohya(1))
    error = refusal(lab, ADD)
    assert (error.exit_code, error.problems[0].code) == (9, "lora-unmatched")
    made = built(lab, ADD + "allow_unmatched = true\n", "x.safetensors")
    assert made.keys() == base.keys()
