"""Command lines of merging scripts: how a shell cuts them, and what kohya's scripts make."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

import pytest
import tiny_models
import tomli
import torch
from model_files import read_model, write_model
from recipe_lab import RecipeLab, sd15_block
from torch import Tensor

from mergebuild.errors import RecipeError
from mergebuild.exchange.commands.command_line import commands_in
from mergebuild.exchange.draft import Draft
from mergebuild.exchange.merges.lora_blocks import BLOCKS_OF_LORA, module_table
from mergebuild.exchange.readers import shell_commands
from mergebuild.exchange.recipe_file import RecipeFile
from mergebuild.exchange.written import text_of

# the small model has no downsampling, so that all of its blocks are of one level
MODULES = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k": "input_blocks.1.1",
    "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k": "middle_block.1",
    "lora_unet_up_blocks_0_attentions_5_transformer_blocks_0_attn2_to_k": "output_blocks.5.1",
}
PLACES = {"down_blocks_0_attentions_0": "IN01", "mid_block": "M00", "up_blocks_1_attentions_2": "OUT05"}
ATTENTION = "transformer_blocks.0.attn2.to_k.weight"


def drafted(text: str) -> tuple[Mapping[str, Mapping[str, object]], Draft]:
    file = RecipeFile(Path("merge.sh"), text.encode())
    assert shell_commands.recognizes(file)
    draft = Draft()
    shell_commands.read(file, draft)
    return tomli.loads(text_of(draft), parse_float=Decimal).get("targets", {}), draft


def lost(draft: Draft) -> list[str]:
    return [each.message for each in draft.unmapped]


def write_lora(path: Path, seed: int) -> dict[str, Tensor]:
    """Write a LoRA of kohya's names with rank 2 and alpha 1, and return what it adds by the tensors' names."""
    generator = torch.Generator().manual_seed(seed)
    tensors, added = dict[str, Tensor](), dict[str, Tensor]()
    places = {module: f"{tiny_models.UNET}{place}.{ATTENTION}" for module, place in MODULES.items()}
    places["lora_te_text_model_encoder_layers_0_self_attn_q_proj"] = (
        f"{tiny_models.TEXT}encoder.layers.0.self_attn.q_proj.weight"
    )
    for module, name in places.items():
        rows, columns = (24, 24) if module.startswith("lora_te") else (16, 24)
        up, down = torch.randn(rows, 2, generator=generator), torch.randn(2, columns, generator=generator)
        tensors |= {
            f"{module}.lora_up.weight": up,
            f"{module}.lora_down.weight": down,
            f"{module}.alpha": torch.tensor(1.0),
        }
        added[name] = up.double() @ down.double() / 2
    write_model(path, tensors)
    return added


@pytest.mark.parametrize("count", [None, 17, 26])
def test_loras_are_baked_with_their_ratios_and_block_weights(tmp_path: Path, count: int | None) -> None:
    lab = RecipeLab(tmp_path)
    lab.model("m", 1)
    one, two = write_lora(tmp_path / "a.safetensors", 1), write_lora(tmp_path / "b.safetensors", 2)
    weights = {block: 0.5 + 0.01 * place for place, block in enumerate(BLOCKS_OF_LORA.get(count or 0, ()))}
    lists = f"--lbws '{[round(each, 2) for each in weights.values()]}' '{[1] * (count or 0)}'" if count else ""
    lab.take(
        "accelerate launch networks/merge_lora.py --sd_model m.safetensors --save_to out.safetensors \\\n"
        f"  --models a.safetensors b.safetensors --ratios 0.8 0.4 {lists} --save_precision float\n",
        "merge.sh",
    )
    outputs = lab.build()

    def formula(name: str, of: Mapping[str, Tensor]) -> Tensor:
        zero = torch.zeros(())
        share = weights.get(sd15_block(name), 1.0) if count else 1.0
        return of["m"] + 0.8 * share * one.get(name, zero) + 0.4 * two.get(name, zero)

    lab.assert_made(outputs["out"], formula, tolerance=1e-5)


def test_lists_of_12_and_20_are_of_sdxl() -> None:
    for count, block in ((12, "OUT05"), (20, "OUT08")):
        text = (
            f"sdxl_merge_lora.py --sd_model m --models a --ratios 0.5 --save_to o.safetensors --lbws '{[1] * count}'\n"
        )
        targets, _ = drafted(text)
        loras = targets["o"]["loras"]
        assert isinstance(loras, list)
        strength = loras[0]["strength"]
        assert (len(strength), strength["default"], strength[block]) == (count + 1, 0, Decimal("0.5"))


def test_loras_alone_are_another_sum_there_and_that_is_told() -> None:
    text = "python networks/merge_lora.py --models a.safetensors b.safetensors --ratios 0.8 0.4 --save_to c.safetensors"
    targets, draft = drafted(text)
    assert targets["c"]["method"] == "merge_loras"
    assert [message[:10] for message in lost(draft)] == ["the script"]
    _, draft = drafted(text + " --concat --shuffle")
    assert [message[:6] for message in lost(draft)] == ["with `", "`--shu"]


@pytest.mark.parametrize("count", [17, 26])
def test_loras_are_put_together_with_block_weights(tmp_path: Path, count: int) -> None:
    """Each module of what comes out is the weighted sum of what the LoRAs do."""
    lab = RecipeLab(tmp_path)
    for seed, name in enumerate("ab", 1):
        write_lora(tmp_path / f"{name}.safetensors", seed)
        stored = read_model(tmp_path / f"{name}.safetensors")
        real = {
            key.replace("up_blocks_0_attentions_5", "up_blocks_1_attentions_2"): each for key, each in stored.items()
        }
        write_model(tmp_path / f"{name}.safetensors", real)
    weights = {block: round(0.5 + 0.01 * place, 2) for place, block in enumerate(BLOCKS_OF_LORA[count])}
    lab.take(
        "svd_merge_lora.py --models a.safetensors b.safetensors --ratios 0.8 0.4 --new_rank 64 --save_to c.safetensors "
        f"--lbws '{list(weights.values())}' '{[1] * count}'\n",
        "merge.sh",
    )
    outputs = lab.build()
    one, two, made = (products(path) for path in (tmp_path / "a.safetensors", tmp_path / "b.safetensors", outputs["c"]))
    assert len(made) == 4
    for module, product in made.items():
        block = next((block for part, block in PLACES.items() if part in module), "BASE")
        wanted = 0.8 * weights[block] * one[module] + 0.4 * two[module]
        assert torch.allclose(product, wanted, atol=1e-4), module


def products(path: Path) -> dict[str, Tensor]:
    """Return what each module of a LoRA adds."""
    found = read_model(path)
    modules = [name.removesuffix(".alpha") for name in found if name.endswith(".alpha")]
    factors = {
        each: (found[f"{each}.lora_up.weight"].double(), found[f"{each}.lora_down.weight"].double()) for each in modules
    }
    return {each: float(found[f"{each}.alpha"]) / len(down) * up @ down for each, (up, down) in factors.items()}


def test_a_command_takes_what_the_one_before_it_wrote() -> None:
    targets, draft = drafted(
        "svd_merge_lora.py --models a b --ratios 1 1 --save_to out/c.safetensors\n"
        "merge_lora.py --sd_model m --models /data/out/c.safetensors --ratios 1 --save_to o.safetensors\n"
    )
    assert targets["o"]["loras"] == ["c"]
    assert list(draft.sources) == ["a", "b", "m"]


def test_blocks_of_loras_are_modules_in_the_names_of_kohya() -> None:
    names = [key for key in module_table(Decimal(1), [Decimal(1)] * 26) if key != "default"]
    assert {"lora_unet_down_blocks_1_attentions_0_*", "lora_unet_down_blocks_0_downsamplers_*"} <= set(names)
    assert {"lora_unet_up_blocks_3_attentions_2_*", "lora_unet_up_blocks_0_upsamplers_*", "lora_te*"} <= set(names)
    assert "lora_unet_output_blocks_5_*" in module_table(Decimal(1), [Decimal(1)] * 12)


def test_other_scripts_of_kohya() -> None:
    targets, draft = drafted(
        "resize_lora.py --model a --save_to r.safetensors --new_rank 8 --dynamic_method sv_fro --dynamic_param 0.9\n"
        "extract_lora_from_models.py --model_org b --model_tuned t --save_to e.safetensors --dim 8 --conv_dim 4\n"
        "svd_merge_lora.py --models a b --ratios 1 0.5 --save_to s.safetensors --new_rank 16 --save_precision bf16\n"
        "merge_models.py --models x y z --unet_only --output u.safetensors\n"
        "merge_models.py --models x y --ratios 0.2 0.9 --saving_precision fp16 --output v.safetensors\n"
        "flux_merge_lora.py --flux_model f --clip_l c --models a --ratios 1 --save_to g --clip_l_save_to h\n"
    )
    assert lost(draft) == []
    assert targets["r"]["energy"] == Decimal("0.81")
    assert (targets["e"]["conv_rank"], targets["e"]["clamp_quantile"]) == (4, Decimal("0.99"))
    assert (targets["s"]["rank"], targets["s"]["dtype"]) == (16, "bfloat16")
    assert (targets["u"]["weight"], targets["u"]["merge"], targets["u"]["dtype"]) == (1, "unet", "float32")
    assert (targets["v"]["weight"], targets["v"]["normalize"]) == ([Decimal("0.2"), Decimal("0.9")], False)
    assert (targets["g"]["base"], targets["h"]["base"]) == ("f", "c")


@pytest.mark.parametrize("word", ["$BASE", "${BASE}/m", "%BASE%", "$env:BASE", "$(pwd)/m"])
def test_a_variable_of_the_shell_is_refused_by_its_name(word: str) -> None:
    _, draft = drafted(f"merge_models.py --models {word} --output u.safetensors\n")
    assert "is a variable of the shell" in lost(draft)[0]


def test_options_that_are_not_known_are_told() -> None:
    _, draft = drafted("merge_models.py --models a b --output u.safetensors --frobnicate 3\n")
    assert lost(draft) == ["option `--frobnicate` of `merge_models.py`"]


@pytest.mark.parametrize(
    "text",
    [
        "merge_models.py --models a b --ratios 1 --output u\n",
        "merge_models.py --models a b --ratios x y --output u\n",
        "merge_models.py --output u\n",
        "merge_lora.py --sd_model m --models a --ratios 1 --save_to o --lbws [1,2,3]\n",
        "merge_lora.py --sd_model m --models a --ratios 1 --save_to o --lbws {\n",
        "resize_lora.py --save_to o\n",
    ],
)
def test_a_command_that_would_fail_is_told(text: str) -> None:
    targets, draft = drafted(text)
    assert targets == {}
    assert len(lost(draft)) == 1


def test_lines_go_on_in_each_shell_and_comments_are_none() -> None:
    text = "# x.py a\nrem x.py b\nx.py --a 1 \\\n  --b 2\nx.py --a 1 ^\r\n --b 2\r\n"
    text += "x.py `\n--a=1 --b '2'; x.py --a 3 # x\n"
    found = list(commands_in(text, "f", {"x.py": 1}))
    assert [line.options for line in found] == [{"a": ["1"], "b": ["2"]}] * 3 + [{"a": ["3"]}]
    assert [line.where for line in found] == ["f:3", "f:5", "f:7", "f:8"]


def test_words_in_quotes_keep_blanks_and_backslashes() -> None:
    (line,) = commands_in('python dir\\x.py --a "b c\\d.ckpt" e\\ f', "f", {"x.py": 1})
    assert line.options == {"a": ["b c\\d.ckpt", "e f"]}


def test_a_text_without_a_command_is_no_recipe() -> None:
    assert not shell_commands.recognizes(RecipeFile(Path("x"), b"see merge_lora.pyx"))
    with pytest.raises(RecipeError):
        shell_commands.read(RecipeFile(Path("x"), b"# merge_lora.py x"), Draft())


@pytest.mark.parametrize(
    ("line", "is_told"),
    [
        ("own-merge a.safetensors b.safetensors --alpha 0.3", True),
        ("python tools/mine.py --in 'A B.CKPT'", True),
        ("cd models && echo done", False),
        ("# own-merge a.safetensors", False),
        ("REM own-merge a.safetensors", False),
    ],
)
def test_a_command_that_names_a_model_is_never_passed_over_in_silence(line: str, is_told: bool) -> None:
    merge = "python merge_models.py -a a.safetensors -b b.safetensors -m weighted_sum -ba 0.3 -o c.safetensors"
    for text, number in ((f"{line}\n{merge}\n", 1), (f"{merge}\n{line}\n", 2)):
        targets, draft = drafted(text)
        assert list(targets) == ["c"]
        told = [each for each in draft.notices if "no script that is known" in each.message]
        assert [each.where.rpartition(":")[2] for each in told] == [str(number)] * is_told
