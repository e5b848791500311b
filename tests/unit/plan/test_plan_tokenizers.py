"""Where rows of embeddings are merged, tokenizers that give their numbers to other tokens are told of."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from lab import Lab

EMBED, LAYER = "model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight"
MIX = """
[targets.m]
method = "weighted_sum"
a = "a"
b = "b"
alpha = 0.5
output = "m.safetensors"
"""
BEGIN = "the tokenizers of `a` and `b` differ, and rows of embeddings are merged by number: "


def put(lab: Lab, name: str, vocab: Mapping[str, int], file: str = "tokenizer.json", count: int = 1) -> None:
    rows = {each: [[1.0, 2.0]] * count for each in (EMBED, LAYER, "lm_head.weight")}
    lab.model(name, file=f"{name}/model.safetensors", **rows)  # type: ignore[arg-type]  # rows of numbers
    lab.sources[name] = f"{name}/"
    (lab / name / "config.json").write_text('{"model_type": "llama"}')
    content = {"model": {"type": "BPE", "vocab": vocab}} if file == "tokenizer.json" else vocab
    (lab / name / file).write_text(json.dumps(content))


def notices(lab: Lab) -> tuple[str, ...]:
    (plan,) = lab.project.plan().targets
    return plan.notices


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"x": 0, "y": 1}, ""),
        ({"y": 0, "x": 1}, "2 numbers are other tokens, such as 0 is `x` in `a` and `y` in `b`"),
        ({"x": 0, "y": 1, "z": 2}, "1 are tokens of `b` alone"),
        (
            {"x": 0, "\x1b[31m": 1, "z": 2},
            "1 numbers are other tokens, such as 1 is `y` in `a` and `\\u001b[31m` in `b`; 1 are tokens of `b` alone",
        ),
    ],
)
def test_what_differs_is_counted_with_an_example(lab: Lab, other: Mapping[str, int], told: str) -> None:
    put(lab, "a", {"x": 0, "y": 1})
    put(lab, "b", other)
    lab.write(MIX)
    assert notices(lab) == ((BEGIN + told,) if told else ())


@pytest.mark.parametrize("change", [("0.5", f'{{ default = 0.5, "{EMBED}" = 0, "lm_head.weight" = 0 }}'), ("0.5", "0")])
def test_rows_of_one_input_alone_are_compared_with_nobodys(lab: Lab, change: tuple[str, str]) -> None:
    put(lab, "a", {"x": 0, "y": 1})
    put(lab, "b", {"y": 0, "x": 1})
    lab.write(MIX.replace(*change))
    assert notices(lab) == ()


def test_the_tokenizer_that_is_written_is_compared_with_that_of_the_rows(lab: Lab) -> None:
    put(lab, "a", {"x": 0, "y": 1})
    put(lab, "b", {"y": 0, "x": 1})
    lab.write('[targets.m]\nmethod = "copy"\na = "a"\nconfig = "b"\noutput = "m/"\n')
    (notice,) = notices(lab)
    assert notice == (
        "the tokenizer that is written is that of `b`: 2 numbers are other tokens than in `a`, whose rows are written,"
        " such as 0 is `y` there and `x` in `a`"
    )


def test_rows_in_the_order_of_a_virtual_targets_tokens_are_not_those_of_an_input(lab: Lab) -> None:
    """Also where the tokenizer that is written is an input's own: its rows were put into another order."""
    put(lab, "a", {"x": 0, "y": 1}, count=2)
    put(lab, "b", {"y": 0, "x": 1}, count=2)
    inner = MIX.replace("[targets.m]", "[targets.v]").replace('output = "m.safetensors"', 'tokenizer = "b"')
    copy = '[targets.m]\nmethod = "copy"\na = "v"\noutput = "m/"\n'
    lab.write(f'{inner}\n{copy}config = "a"\n')
    (notice,) = notices(lab)
    assert notice == (
        "the tokenizer that is written is that of `a`: 2 numbers are other tokens than in `v`, whose rows are written,"
        " such as 0 is `x` there and `y` in `v`"
    )
    for same in ("", 'config = "b"\n'):
        lab.write(f"{inner}\n{copy}{same}")
        assert notices(lab) == ()


def test_files_of_one_kind_are_compared(lab: Lab) -> None:
    put(lab, "a", {"x": 0, "y": 1})
    put(lab, "b", {"y": 0, "x": 1}, "vocab.json")
    lab.write(MIX)
    assert notices(lab) == ()
    (lab / "a/vocab.json").write_text('{"x": 0, "y": 1}')
    assert notices(lab)[0].startswith(BEGIN)


def test_rows_of_a_stack_are_compared_although_none_are_merged(lab: Lab) -> None:
    """The first slice gives the embedding, and the last one the head."""
    put(lab, "a", {"x": 0, "y": 1})
    put(lab, "b", {"y": 0, "x": 1})
    slices = 'slices = [{{ a = "a", layers = "L00" }}, {{ a = "{}", layers = "L00" }}]'
    text = f'[targets.m]\nmethod = "copy"\noutput = "m.safetensors"\n{slices}'
    lab.write(text.format("a"))
    assert notices(lab) == ()
    lab.write(text.format("b"))
    (notice,) = notices(lab)
    assert notice.startswith(BEGIN)
