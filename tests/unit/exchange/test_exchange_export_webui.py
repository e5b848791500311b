"""What a target of Stable Diffusion is as lines of Merge Board, as block weights, and as instructions of sd-mecha."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_files import write_model
from tiny_models import sd15, sdxl

from mergebuild.cli.export import _FORMATS
from mergebuild.errors import ExportError, RecipeError
from mergebuild.exchange.draft import Draft
from mergebuild.exchange.exporting import FORMATS, export
from mergebuild.exchange.readers import block_weights
from mergebuild.exchange.recipe_file import RecipeFile
from mergebuild.project.project import load

SUM = 'method = "weighted_sum"\na = "a"\nb = "b"\n'
FILE = 'output = "out/t.safetensors"\ndtype = "float16"\n'


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("webui")
    for number, name in enumerate("abc", 1):
        write_model(found / f"{name}.safetensors", sd15(number))
        write_model(found / f"x{name}.safetensors", sdxl(number))
    return found


def said(root: Path, format: str, lines: str, before: str = "") -> str:
    names = ("a", "b", "c", "xa", "xb")
    sources = "".join(f'{name} = "{name}.safetensors"\n' for name in names)
    (root / "mergefile.toml").write_text(f"[sources]\n{sources}{before}[targets.t]\n{lines}")
    return export(load(root / "mergefile.toml"), "t", format).text


def refused(root: Path, format: str, lines: str, before: str = "") -> list[str]:
    with pytest.raises(ExportError) as caught:
        said(root, format, lines, before)
    assert all(each.where and each.where.line for each in caught.value.problems)
    return [each.message for each in caught.value.problems]


# Merge Board


@pytest.mark.parametrize(
    ("ends", "flags"),
    [
        (FILE, "fp16, safetensors"),
        ('output = "out/t.ckpt"\ndtype = "float16"\n', "fp16"),
        ('output = "t.ckpt"\n', ""),
        ('output = "t.safetensors"\ndtype = "source"\n', "safetensors"),
    ],
)
def test_flags_of_merge_board(root: Path, ends: str, flags: str) -> None:
    flags = f", {flags}" if flags else ""
    assert (
        said(root, "merge-board", f"{SUM}alpha = 0.250\n{ends}") == f"t = a.safetensors + b.safetensors, 0.25{flags}\n"
    )


def test_a_result_of_merge_board_is_never_called_like_a_model(root: Path) -> None:
    text = said(root, "merge-board", f'{SUM}alpha = 0.5\noutput = "out/a.safetensors"\ndtype = "float16"\n')
    assert text.startswith("a-2 = a.safetensors + ")


def test_merge_board_cuts_names_and_takes_ten_lines(root: Path) -> None:
    odd = '[sources.odd]\npath = "a, b.safetensors"\n'
    lines = f'method = "weighted_sum"\na = "odd"\nb = "b"\nalpha = 1\n{FILE}'
    assert refused(root, "merge-board", lines, odd) == ["`a, b.safetensors` has a sign at which Merge Board cuts names"]
    steps = "".join(
        f'[targets.s{n}]\nmethod = "weighted_sum"\na = "{f"s{n - 1}" if n else "a"}"\nb = "b"\nalpha = 0.1\n'
        for n in range(10)
    )
    last = f'method = "weighted_sum"\na = "s9"\nb = "b"\nalpha = 0.1\n{FILE}'
    assert refused(root, "merge-board", last, steps) == ["`t` is made in 11 steps, and Merge Board takes 10 lines"]


@pytest.mark.parametrize(
    ("lines", "messages"),
    [
        (f'method = "slerp"\na = "a"\nb = "b"\nt = 1\n{FILE}',
         ["target `t` is made by `slerp`, and Merge Board has weighted_sum and add_difference"]),
        (f'{SUM}alpha = 1\noutput = "t.safetensors"\ndtype = "bfloat16"\n',
         ["target `t` is bfloat16, and Merge Board writes float16, or what the inputs are"]),
        (f"{SUM}alpha = 1\n", ["target `t` has no output, and a recipe's result has one"]),
        (f'{SUM}alpha = "${{1/3}}"\n{FILE}', ["`alpha` comes to a fraction without a finite decimal form"]),
        (f"{SUM}alpha = 0.{'1' * 80}\n{FILE}", ["`alpha` comes to a number of 82 digits"]),
    ],
)  # fmt: skip
def test_what_merge_board_can_not_say(root: Path, lines: str, messages: list[str]) -> None:
    assert refused(root, "merge-board", lines) == messages


def test_the_command_line_and_the_writers_know_the_same_formats() -> None:
    assert tuple(FORMATS) == _FORMATS


# Block weights


def test_block_weights_say_of_what_they_are(root: Path) -> None:
    text = said(root, "mbw", f"{SUM}alpha = {{ IN = 0.5, M00 = 1, BASE = 0.2, VAE = 0.3 }}\n{FILE}")
    assert text == (
        "# mode: Weight sum\n# model A: a.safetensors\n# model B: b.safetensors\n"
        "# save: fp16, safetensors\n# VAE: 0.3\n"
        + ",".join(["0.2", *["0.5"] * 12, "1", *["0"] * 12]) + "\n"
    )  # fmt: skip


def test_a_preset_is_its_name(root: Path) -> None:
    text = said(root, "mbw", f"{SUM}alpha = {{ preset = 'GRAD_V' }}\n{FILE}")
    assert text.endswith("# VAE: 0\nGRAD_V\n")


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (
            "{ default = 0.5, '*attn2*' = 0.3 }",
            "the tensors of block IN01 of `t` have several numbers, such as that of",
        ),
        ("{ preset = 'GRAD_V', from = 0.1, to = 0.9 }", "`alpha` comes to a fraction without a finite decimal form"),
    ],
)
def test_a_block_has_one_decimal(root: Path, number: str, message: str) -> None:
    assert refused(root, "mbw", f"{SUM}alpha = {number}\n{FILE}")[0].startswith(message)


def test_blocks_of_the_projects_own_are_no_list(root: Path) -> None:
    """`import` would not know them."""
    own = """[layouts.mine]
detect = ["model.diffusion_model.input_blocks.0.*"]
blocks = [['input_blocks\\.(\\d+)', "IN{:02}"], ['', "BASE"]]
"""
    messages = refused(root, "mecha", f"{SUM}alpha = {{ default = 0.5, IN00 = 0.3 }}\n{FILE}", own)
    assert "`t` has blocks of the project's own layout `mine`" in messages


def read(text: str) -> Draft:
    draft = Draft()
    file = RecipeFile(Path("list.txt"), text.encode())
    assert block_weights.recognizes(file)
    block_weights.read(file, draft)
    return draft


HEAD = "# mode: Weight sum\n# model A: a.safetensors\n# model B: b.safetensors\n"


def test_without_a_word_the_vae_has_the_number_of_base() -> None:
    (target,) = read(f"{HEAD}{','.join(['0.3'] * 26)}").targets.values()
    assert str(target.keys["alpha"]).count("Decimal('0.3')") == 27
    assert (target.keys["method"], target.keys["output"]) == ("weighted_sum", "list.safetensors")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD, "there are 0 lists of block weights, expected one"),
        (f"{HEAD}0.1,0.2", "there are 2 numbers, expected 26, or 20 for SDXL"),
        (f"{HEAD}0.1,x", "`0.1,x`, or its VAE: it is no number"),
        (f"{HEAD}GRAD_X", "`GRAD_X` is neither a list of numbers nor a preset that is known"),
        ("# mode: Triple sum\n1,2", "there is no mode `Triple sum`: it is Weight sum or Add difference"),
        ("# mode: Weight sum\n# model A: a\n1,2", "there is no comment that names model B"),
    ],
)
def test_a_broken_list_is_refused(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read(text)
    assert [each.message for each in caught.value.problems] == [message]


def test_a_bare_list_is_no_recipe() -> None:
    assert not block_weights.recognizes(RecipeFile(Path("list.txt"), b"0.1,0.2"))


# sd-mecha


def test_an_added_difference_is_taken_apart_and_nothing_follows_the_last_line(root: Path) -> None:
    text = said(root, "mecha", f'method = "add_difference"\na = "a"\nb = "b"\nc = "c"\nalpha = 1\n{FILE}')
    assert text == "\n".join([
        "version 0.1.0",
        'model "a.safetensors" model_config="sd1-ldm" merge_space="weight"',
        'model "b.safetensors" model_config="sd1-ldm" merge_space="weight"',
        'model "c.safetensors" model_config="sd1-ldm" merge_space="weight"',
        'merge "subtract" &1 &2',
        "dict key=1.0",
        'literal &4 model_config="singleton-mecha" merge_space="param"',
        'merge "convert_singleton" &5',
        'merge "add_difference" &0 &3 &6',
    ])  # fmt: skip


def test_blocks_and_a_dtype_of_sd_mecha(root: Path) -> None:
    number = "{ default = 0.5, M00 = 1, '*time_embed*' = 0.25, '*label_emb*' = 0.25, BASE = 0.25, VAE = 0 }"
    lines = (
        f'method = "weighted_sum"\na = "xa"\nb = "xb"\nalpha = {number}\noutput = "t.safetensors"\ndtype = "bfloat16"\n'
    )
    blocks = ["BASE=0.25", *(f"IN{n:02}=0.5" if n in (0, 4) else f"IN{n:02}=0.0" for n in range(9)), "M00=1.0"]
    blocks += [*(f"OUT{n:02}=0.5" if n in (0, 8) else f"OUT{n:02}=0.0" for n in range(9)), "VAE=0.0"]
    text = said(root, "mecha", lines)
    assert f"dict {' '.join(blocks)}\n" in text
    assert 'literal &2 model_config="sdxl-supermerger_blocks" merge_space="param"\n' in text
    assert 'merge "convert_sdxl_blocks_to_sgm" &3\nmerge "weighted_sum" &0 &1 &4\ndict key=null\n' in text
    assert text.endswith('merge "cast" &5 &8 &11')


@pytest.mark.parametrize(
    ("lines", "messages"),
    [
        (f'method = "slerp"\na = "a"\nb = "b"\nt = 0.5\n{FILE}',
         ["`magnitude` of target `t` is raw, and sd-mecha has lerp"]),
        (f'formula = "a + b"\n{FILE}',
         ["target `t` is made by `formula`, for which export to sd-mecha has no word"]),
        (f'method = "linear"\nmodels = ["a", "b"]\nweight = [1, 2]\n{FILE}',
         ["the weights of `t` differ, and sd-mecha averages models with equal ones"]),
        (f'method = "geometric"\na = "a"\nb = "b"\nalpha = {{ IN = 0.5 }}\n{FILE}',
         ["`alpha` of `t` does not reach `"]),
        (f"{SUM}alpha = {{ default = 0.5, VAE = 0 }}\n{FILE}",
         ["the tensors of what sd-mecha calls BASE have several numbers, such as that of"]),
        (f'method = "add_difference"\na = "a"\nb = "b"\nc = "a"\nalpha = 1\n{FILE}',
         ["`t` adds a difference to what it is from, a weighted sum in sd-mecha"]),
    ],
)  # fmt: skip
def test_what_sd_mecha_can_not_say(root: Path, lines: str, messages: list[str]) -> None:
    found = refused(root, "mecha", lines)
    assert len(found) == len(messages)
    assert all(map(str.startswith, found, messages))


def test_what_sd_mecha_counts_to_base_is_told(root: Path) -> None:
    with pytest.raises(ExportError) as caught:
        said(root, "mecha", f"{SUM}alpha = {{ default = 0.5, VAE = 0 }}\n{FILE}")
    (problem,) = caught.value.problems
    assert problem.help == "sd-mecha's BASE is the text encoders, time and label embeddings, and of SD 1.5 the VAE"
