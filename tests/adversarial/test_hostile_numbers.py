"""Numbers of thousands of digits, wherever a stranger may write one: in names, selectors, patterns, JSON, options.

Python makes no number of more than 4,300 digits out of a text, and says so in words about itself. Such a number is
that of no layer, block or size; nobody is to meet that limit, least of all as a traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from project_space import Outcome, Space

DIGITS = "9" * 5000
LAYERS = ("0", "1", "2", DIGITS)
LLAMA = ["model.embed_tokens.weight"] + [
    f"model.layers.{n}.{part}.weight" for n in LAYERS for part in ("self_attn.q_proj", "mlp.up_proj")
]
SD = [
    "model.diffusion_model.input_blocks.0.0.weight",
    f"cond_stage_model.transformer.text_model.encoder.layers.{DIGITS}.self_attn.q_proj.weight",
    f"first_stage_model.encoder.down.{DIGITS}.block.0.conv1.weight",
    *(f"model.diffusion_model.input_blocks.{n}.1.transformer_blocks.0.attn1.to_q.weight" for n in LAYERS),
]
LORA = [
    f"lora_unet_down_blocks_{DIGITS}_attentions_0_transformer_blocks_0_attn1_to_q.lora_up.weight",
    f"lora_unet_double_blocks_{DIGITS}_img_attn_qkv.lora_down.weight",
    f"base_model.model.model.layers.{DIGITS}.self_attn.q_proj.lora_A.weight",
]
TEXT = """
[sources]
one = "one.safetensors"
two = "two.safetensors"
[targets.mix]
method = "weighted_sum"
a = "one"
b = "two"
"""


@pytest.fixture
def space(tmp_path: Path, environment: Mapping[str, str]) -> Space:
    return Space(tmp_path / "project", environment)


def models(space: Space, names: list[str]) -> None:
    for number, name in enumerate(("one", "two")):
        space.model(f"{name}.safetensors", {each: torch.full((2, 2), float(number)) for each in names})


def run(space: Space, *arguments: str, code: int | None = 0) -> Outcome:
    """Run, and see that nothing of Python's limit shows."""
    outcome = space.run(*arguments, code=code)
    assert outcome.code != 70
    for word in ("Exceeds", "int_max_str_digits", "Traceback"):
        assert word not in outcome.out + outcome.err
    return outcome


@pytest.mark.parametrize("names", [LLAMA, SD], ids=["llama", "sd"])
@pytest.mark.parametrize("output", ["out/mix.safetensors", "out/mix.ckpt", "out/mix/"])
@pytest.mark.parametrize("alpha", ["0.5", "{ default = 0.5, L = 0.25 }", "{ gradient = [0, 1] }"])
def test_a_model_with_such_a_layer_is_merged(space: Space, names: list[str], output: str, alpha: str) -> None:
    models(space, names)
    text = f'{TEXT}alpha = {alpha}\noutput = "{output}"\n'
    space.write(text if names is LLAMA or "L =" not in alpha else text.replace("L =", "IN ="))
    for verb in ("plan", "build", "status", "why mix", "lineage mix", "verify", "graph"):
        run(space, *verb.split())
    if output.endswith(".safetensors"):
        assert set(space.read(output)) == set(names)


@pytest.mark.parametrize("names", [LLAMA, SD, LORA], ids=["llama", "sd", "lora"])
@pytest.mark.parametrize("option", ["--json", "--tensors", "-v"])
def test_a_model_with_such_a_layer_is_inspected(space: Space, names: list[str], option: str) -> None:
    models(space, names)
    run(space, "inspect", "one.safetensors", option)


@pytest.mark.parametrize(
    "selector", ["L9", "L00-L9", "L9-L9", "IN9", "9", "9-9", "a{9}", "re:a{9}", "re:a{0,9}", "re:(a)\\9", "re:9x"]
)
@pytest.mark.parametrize("key", ["merge = ['{}']", "drop = ['{}']", "alpha = {{ default = 0.5, '{}' = 0.3 }}"])
def test_a_selector_with_such_a_number_selects_nothing(space: Space, selector: str, key: str) -> None:
    models(space, LLAMA)
    alpha = "" if key.startswith("alpha") else "alpha = 0.5\n"
    space.write(f'{TEXT}{alpha}{key.format(selector.replace("9", DIGITS))}\noutput = "out/mix.safetensors"\n')
    assert len(run(space, "plan", code=3).err) < 20_000


@pytest.mark.parametrize("selector", [f"model.layers.{DIGITS}.*", f"re:{DIGITS}", f"*{DIGITS}*", LLAMA[-1]])
def test_a_name_with_such_a_number_is_selected(space: Space, selector: str) -> None:
    models(space, LLAMA)
    space.write(f'{TEXT}alpha = 0.5\ndrop = "{selector}"\noutput = "out/mix.safetensors"\n')
    run(space, "build")
    assert len(space.read("out/mix.safetensors")) == len(LLAMA) - (1 if selector == LLAMA[-1] else 2)


@pytest.mark.parametrize(
    "row", ['["layers.([0-9]+)", "L{}"]', '["a{9}", "L"]', '["layers.(.*?)[.]", "L{:02}"]'],
    ids=["digits", "count", "any"],
)  # fmt: skip
def test_a_layout_that_would_count_such_layers_is_refused_or_leaves_them_out(space: Space, row: str) -> None:
    models(space, LLAMA)
    layout = f'[layouts.mine]\ndetect = ["model.embed_tokens.weight"]\nblocks = [{row.replace("9}", DIGITS + "}")}]\n'
    space.write(f'{TEXT}alpha = {{ default = 0.5, L = 0.25 }}\noutput = "out/mix.safetensors"\n{layout}')
    run(space, "plan", code=3 if "a{" in row else 0)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--set", f"mix.alpha={DIGITS}"), ("--set", f"mix.alpha.L{DIGITS}=0.3"), ("--set", f"mix.drop.{DIGITS}=mlp"),
        ("--set", f"mix.drop.{'0' * 5000}1=mlp"), ("--set", f"mix.{DIGITS}=1"), ("--vars", "vars.json"),
        ("--vars", "vars.toml"), ("--device", f"cuda:{DIGITS}"), (f"mix@x={DIGITS}",),
    ],
)  # fmt: skip
def test_such_a_number_on_the_command_line_is_refused(space: Space, arguments: tuple[str, ...]) -> None:
    models(space, LLAMA)
    space.write(f'{TEXT}alpha = 0.5\ndrop = ["{LLAMA[0]}"]\noutput = "out/mix.safetensors"\n')
    space.write(f'{{"m": {DIGITS}}}', "vars.json")
    space.write(f"m = {DIGITS}", "vars.toml")
    assert run(space, "build", *arguments, code=None).code in (2, 3)


@pytest.mark.parametrize("option", ["--max-size", "--older-than"])
def test_such_an_amount_is_refused(space: Space, option: str) -> None:
    models(space, LLAMA)
    space.write(f'{TEXT}alpha = 0.5\noutput = "out/mix.safetensors"\n')
    unit = "GB" if option == "--max-size" else "d"
    assert "is no" in run(space, "gc", "-n", option, f"{DIGITS}{unit}", code=2).err


@pytest.mark.parametrize("digits", [DIGITS, "9" * 400], ids=["5000", "400"])
@pytest.mark.parametrize("key", ["r", "lora_alpha", "rank_pattern", "alpha_pattern"])
def test_such_a_number_in_an_adapters_configuration_is_told(space: Space, digits: str, key: str) -> None:
    """One of 400 digits is a number to Python, and too large to be a float."""
    value = f'{{"q_proj": {digits}}}' if key.endswith("pattern") else digits
    given = {"peft_type": '"LORA"', "r": "2", "lora_alpha": "1", "use_rslora": "true"} | {key: value}
    adapted(space, "{" + ", ".join(f'"{name}": {each}' for name, each in given.items()) + "}")
    run(space, "inspect", "lora", code=4 if digits == DIGITS else 0)
    is_asked = digits == DIGITS or key.endswith("alpha") or key == "alpha_pattern"  # a rank is told by the tensors
    run(space, "plan", code=4 if is_asked else 0)
    run(space, "build", code=4 if is_asked else 0)


@pytest.mark.parametrize("digits", ["9" * 200, "99999999999"])
def test_a_pattern_with_such_a_count_in_an_adapters_configuration_is_told(space: Space, digits: str) -> None:
    adapted(space, f'{{"peft_type": "LORA", "r": 2, "lora_alpha": 1, "alpha_pattern": {{"q{{{digits}}}": 2}}}}')
    run(space, "inspect", "lora")
    assert "which is none" in run(space, "build", code=4).err


def adapted(space: Space, config: str) -> None:
    """Write a model, an adapter with a configuration, and a target that adds it."""
    models(space, LLAMA)
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    space.model("lora/adapter_model.safetensors", {f"{layer}.lora_{w}.weight": torch.ones(2, 2) for w in "AB"})
    space.write(config, "lora/adapter_config.json")
    space.write(
        '[sources]\none = "one.safetensors"\nlora = "lora"\n[targets.mix]\nmethod = "add_lora"\nbase = "one"\n'
        'loras = ["lora"]\noutput = "out/mix.safetensors"\n'
    )


def test_such_a_number_in_a_header_is_told(space: Space) -> None:
    header = f'{{"x":{{"dtype":"F32","shape":[{DIGITS}],"data_offsets":[0,0]}}}}'.encode()
    (space / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "has a number of thousands of digits" in run(space, "inspect", "x.safetensors", code=4).err


def test_a_number_beyond_all_floats_is_in_no_key_of_a_tool_that_has_floats(space: Space) -> None:
    models(space, LLAMA)
    space.write(f'{TEXT}alpha = 1e400\nmetadata = "full"\noutput = "out/mix.safetensors"\n')
    run(space, "plan")
