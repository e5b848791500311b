"""What a target is in the words of mergekit, and what of it mergekit has no words for."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_folders import sharded
from tiny_models import llama

from mergebuild.errors import ExportError
from mergebuild.exchange.exporting import export
from mergebuild.project.project import load

SOURCES = '[sources]\nbase = "hf/base/"\nchat = "hf/chat/"\nmath = "hf/math/"\nlora = "lora/"\n'
ENDS = 'output = "out/t/"\ndtype = "bfloat16"\n'
OUT = "dtype: float32\nout_dtype: bfloat16\n"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("mergekit")
    for number, name in enumerate(("base", "chat", "math")):
        sharded(found / "hf" / name, llama(number))
    return found


def said(root: Path, lines: str, before: str = "", ends: str = ENDS) -> str:
    (root / "mergefile.toml").write_text(f"{SOURCES}{before}[targets.t]\n{lines}\n{ends}")
    return export(load(root / "mergefile.toml"), "t", "mergekit").text


def refused(root: Path, lines: str, before: str = "", ends: str = ENDS) -> list[str]:
    with pytest.raises(ExportError) as caught:
        said(root, lines, before, ends)
    assert caught.value.exit_code == 11
    assert all(each.where and each.where.line for each in caught.value.problems)
    return [each.message for each in caught.value.problems]


def test_numbers_stand_beside_models_and_flags_below(root: Path) -> None:
    assert said(
        root, 'method = "ties"\nbase = "base"\nmodels = ["chat", "math"]\nweight = [0.30, -1]\ndensity = 0.7'
    ) == (
        "merge_method: ties\nbase_model: ./hf/base\nmodels:\n"
        "  - model: ./hf/chat\n    parameters:\n      weight: 0.3\n      density: 0.7\n"
        "  - model: ./hf/math\n    parameters:\n      weight: -1\n      density: 0.7\n"
        "parameters:\n  normalize: true\n  rescale: false\n" + OUT
    )


@pytest.mark.parametrize(
    ("number", "lines"),
    [
        ("0.5", ["t: 0.5"]),
        ("{ default = { gradient = [0.2, 1] }, head = 0.2 }", ["t: [0.2, 1]"]),
        ("{ default = { gradient = [0.2, 1, 0.2] } }", ["t: [0.2, 1, 0.2]"]),
        (
            "{ default = { gradient = [0, 1] } }",
            ["t:", "- filter: lm_head.weight", "value: 1", "- filter: model.embed_tokens.weight", "value: 0",
             "- filter: model.norm.weight", "value: 1", "- filter: layers.", "value: [0, 1]"],
        ),
        ("{ default = 0.5, mlp = 0.3, attn = 0.4 }",
         ["t:", "- filter: self_attn", "value: 0.4", "- filter: mlp", "value: 0.3", "- value: 0.5"]),
        ('{ default = 0.5, "*q_proj*" = 0.3, L01-L02 = 0.4 }',
         ["t:", "- filter: layers.1.", "value: 0.4", "- filter: layers.2.", "value: 0.4", "- filter: q_proj",
          "value: 0.3", "- value: 0.5"]),
        ('{ default = 0.5, "re:layers.3.*[kq]_proj" = 0.1 }',
         ["t:", "- filter: model.layers.3.self_attn.k_proj.weight", "value: 0.1",
          "- filter: model.layers.3.self_attn.q_proj.weight", "value: 0.1", "- value: 0.5"]),
    ],
)  # fmt: skip
def test_the_last_key_is_the_first_filter(root: Path, number: str, lines: list[str]) -> None:
    text = said(root, f'method = "slerp"\na = "base"\nb = "chat"\nt = {number}')
    found = text.split("parameters:\n")[1].removesuffix(OUT)
    assert [line.strip() for line in found.splitlines()] == lines


def test_a_step_is_a_document_and_a_lora_stands_behind_its_model(root: Path) -> None:
    step = '[targets."s 1"]\nmethod = "linear"\nmodels = ["base+lora", "chat"]\nweight = 1\n'
    assert said(root, 'method = "slerp"\na = "s 1"\nb = "math"\nt = 0.5', step) == (
        'name: s-1\nmerge_method: linear\nmodels:\n  - model: "./hf/base+./lora"\n    parameters:\n      weight: 1\n'
        "  - model: ./hf/chat\n    parameters:\n      weight: 1\nparameters:\n  normalize: true\ndtype: float32\n---\n"
        "merge_method: slerp\nbase_model: s-1\nmodels:\n  - model: s-1\n  - model: ./hf/math\n"
        "parameters:\n  t: 0.5\n" + OUT
    )


def test_a_repository_names_a_folder_that_is_not_there(root: Path) -> None:
    other = '[sources.far]\npath = "far/"\nurl = "https://huggingface.co/org/Far-7B"\n'
    assert "  - model: org/Far-7B\n" in said(root, 'method = "copy"\na = "far"', other)


@pytest.mark.parametrize(
    ("dtype", "lines"),
    [("float32", "dtype: float32\n"), ("float16", "dtype: float32\nout_dtype: float16\n"), ("source", "")],
)
def test_it_computes_in_float32_and_rounds_once(root: Path, dtype: str, lines: str) -> None:
    text = said(root, 'method = "copy"\na = "base"', ends=f'output = "o/"\ndtype = "{dtype}"\n')
    assert text == f"merge_method: passthrough\nmodels:\n  - model: ./hf/base\n{lines}"


@pytest.mark.parametrize(
    ("lines", "messages"),
    [
        ('formula = "base + chat"', ["target `t` is made by `formula`, for which export to mergekit has no word"]),
        ('method = "slerp"\na = "base"\nb = "chat"\nt = 0\nmagnitude = "lerp"',
         ["`magnitude` of target `t` is lerp, and mergekit has raw"]),
        ('method = "dare_ties"\nbase = "base"\nmodels = ["chat"]\nweight = 1\nseed = 7',
         ["`rescale` of target `t` is 1/p, and mergekit has none or l1",
          "`seed` of target `t` is 7, and mergekit has 0"]),
        ('method = "model_stock"\nbase = "base"\nmodels = ["chat", "math"]',
         ["`compat` of target `t` is none, and mergekit has mergekit"]),
        ('method = "linear"\nmodels = ["chat", "chat"]\nweight = 1',
         ["`t` has `chat` twice, which mergekit refuses"]),
        ('method = "slerp"\na = "base"\nb = "chat"\nt = { mlp = 0.5 }',
         ["`t` of target `t` leaves out tensors, and mergekit merges all"]),
        ('method = "linear"\nmodels = ["base", "chat"]\nweight = { mlp = 1 }',
         ["`weight` of target `t` leaves out tensors, and mergekit merges all"]),
        ('method = "copy"\na = "base"\ndrop = ["mlp"]\nmerge = ["attn"]',
         ["target `t` has `merge`, for which export to mergekit has no word",
          "target `t` has `drop`, for which export to mergekit has no word"]),
        ('method = "copy"\na = { model = "base", dtype = "float16" }',
         ["`base as float16` is rounded before it is used, for which export to mergekit has no word"]),
    ],
)  # fmt: skip
def test_what_it_has_no_words_for(root: Path, lines: str, messages: list[str]) -> None:
    assert refused(root, lines) == messages


def test_other_dtypes_files_and_targets_without_an_output(root: Path) -> None:
    copy = 'method = "copy"\na = "base"'
    eight = 'output = "o/"\ndtype = "float8_e4m3fn"\n'
    assert refused(root, copy, ends=eight) == [
        "target `t` is float8_e4m3fn, and mergekit has float32, float16, bfloat16"
    ]
    assert refused(root, copy, ends="") == ["target `t` has no output, and a recipe's result has one"]
    file = '[sources.one]\npath = "one.safetensors"\n'
    assert refused(root, 'method = "copy"\na = "one"', file) == ["source `one` is a file, and mergekit reads folders"]
    sign = '[sources.plus]\npath = "a+b/"\n'
    assert refused(root, 'method = "copy"\na = "plus"', sign) == [
        "`a+b` has a sign that is another's in mergekit's references"
    ]


def test_layers_of_a_stack_end_before_the_second_number(root: Path) -> None:
    slices = """slices = [
      { a = "base", layers = "L00-L01" },
      { method = "scale", a = "chat", layers = "L01-L03", alpha = { default = 1, "*.o_proj.*" = 0 } },
      { a = "math", layers = "none" },
    ]"""
    assert said(root, f'method = "copy"\n{slices}') == (
        "merge_method: passthrough\nslices:\n"
        "  - sources:\n      - model: ./hf/base\n        layer_range: [0, 2]\n"
        "  - sources:\n      - model: ./hf/chat\n        layer_range: [1, 4]\n"
        "    parameters:\n      scale:\n        - filter: .o_proj.\n          value: 0\n        - value: 1\n"
        "  - sources:\n      - model: ./hf/math\n        layer_range: [0, 0]\n" + OUT
    )


def test_a_slice_has_the_base_among_its_sources(root: Path) -> None:
    inputs = 'base = { model = "base", layers = "L00" }, models = [{ model = "chat", layers = "L01", weight = 0.5 }]'
    assert said(root, f'method = "task_arithmetic"\nslices = [{{ {inputs} }}]') == (
        "merge_method: task_arithmetic\nslices:\n"
        "  - sources:\n      - model: ./hf/base\n        layer_range: [0, 1]\n"
        "      - model: ./hf/chat\n        layer_range: [1, 2]\n        parameters:\n          weight: 0.5\n"
        "    base_model: ./hf/base\n    parameters:\n      normalize: false\n" + OUT
    )


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        ('{ a = "base", layers = "L00" }, { method = "slerp", a = "base", b = "chat", layers = "L01", t = 0.5 }',
         "slices of `t` are made by passthrough, slerp, and mergekit has one method"),
        ('{ method = "scale", a = "base", layers = "L00-L03", alpha = { L01 = 0.5, default = 1 } }',
         "keys of `alpha` of `t.slices[0]` in a slice must be numbers by parts of names"),
    ],
)  # fmt: skip
def test_what_slices_can_not_say(root: Path, slices: str, message: str) -> None:
    assert refused(root, f'method = "copy"\nslices = [{slices}]')[0].startswith(message)
