"""Every field of the recipe is in the digest, or is left out for a reason that is written down."""

from __future__ import annotations

import dataclasses
import inspect

import pytest
import torch
from lab import Lab

from mergebuild.plan.manifest import changes, decode, encode
from mergebuild.recipe import model

IN = "in: "
"""Changes what is made, and so the digest; the rest of the text says through what."""
OUT = "left out: "

ACCOUNT: dict[str, dict[str, str]] = {
    "Constant": {"number": IN + "the coefficients"},
    "Gradient": {"anchors": IN + "the coefficients"},
    "Preset": {
        "name": IN + "the coefficients",
        "low": IN + "the coefficients",
        "high": IN + "the coefficients",
    },
    "Mbw": {"numbers": IN + "the coefficients"},
    "Elemental": {
        "blocks": IN + "the coefficients",
        "not_blocks": IN + "the coefficients",
        "elements": IN + "the coefficients",
        "not_elements": IN + "the coefficients",
        "number": IN + "the coefficients",
    },
    "Rule": {
        "key": IN + "the coefficients",
        "value": IN + "the coefficients",
        "where": OUT + "a place in a file is for messages",
    },
    "NumberPerTensor": {"rules": IN + "the coefficients"},
    "SelectorText": {
        "text": IN + "which tensors are merged or written",
        "where": OUT + "a place in a file is for messages",
    },
    "Input": {
        "role": IN + "its position says which coefficient it has",
        "ref": OUT + "a name; what it names is in by its content",
        "where": OUT + "a place in a file is for messages",
    },
    "Source": {
        "name": OUT + "a name",
        "path": OUT + "a path; the content is in",
        "folder": OUT + "a path; the content is in",
        "sha256": OUT + "a pin is held against the content, which is in",
        "autov2": OUT + "as `sha256`",
        "autov3": OUT + "as `sha256`",
        "url": OUT + "only printed when the file is missing",
        "where": OUT + "a place in a file is for messages",
    },
    "LayoutText": {
        "name": OUT + "a name; what it does to numbers is in the coefficients",
        "table": IN + "the coefficients",
        "where": OUT + "a place in a file is for messages",
    },
    "Target": {
        "name": OUT + "a name",
        "method": IN + "the coefficients",
        "inputs": IN + "the content of each",
        "numbers": IN + "the coefficients",
        "flags": IN + "the coefficients",
        "words": IN + "the operation",
        "formula": IN + "the coefficients",
        "output": OUT + "a path",
        "output_path": OUT + "a path",
        "dtype": IN + "each tensor's dtype",
        "merge": IN + "the coefficients",
        "drop": IN + "the tensor set",
        "missing": OUT + "decides between an error and the same result",
        "ema": IN + "the tensor set, or which tensors are read",
        "nonfinite": OUT + "decides between an error and the same result; the store counts what is not finite",
        "metadata": OUT + "in the header only, whose checksum is compared beside the digest",
        "cache": OUT + "whether something is kept, not what it is",
        "where": OUT + "a place in a file is for messages",
        "components": IN + "which tensors are read, and each one's dtype",
        "architectures": OUT + "decides between an error and the same result",
        "on_channels": IN + "the combinations of the tensors that differ in their input channels",
        "config": OUT + "what stands beside the tensors; each such file is compared by its bytes",
        "tokenizer": IN + "the rows of embeddings and heads, and what stands beside the tensors",
        "chat_template": OUT + "what stands beside the tensors; each such file is compared by its bytes",
        "max_shard_size": OUT + "which tensors share a file; each file is compared by its header",
        "rules": IN + "how the tensors that they select are made",
        "slices": IN + "which tensors there are, and which of the inputs' they are made of",
        "row": IN + "the operation: of a user's own method, the text of its program",
        "kin": OUT + "which other targets have all but numbers, name and output in common with it",
    },
    "Component": {
        "name": IN + "which tensors it is about",
        "input": IN + "the content of what it names",
        "dtype": IN + "each tensor's dtype",
    },
    "TensorRule": {
        "tensors": IN + "which tensors it makes",
        "target": IN + "how it makes them",
    },
    "LayerRange": {
        "first": IN + "which tensors are read",
        "count": IN + "the tensor set",
        "where": OUT + "a place in a file is for messages",
    },
    "Slice": {
        "target": IN + "how its layers are made",
        "layers": IN + "which tensors are read",
        "part": IN + "which tensors are read",
        "own": OUT + "decides between an error and the same result",
    },
    "ProjectOptions": {
        "name": OUT + "a name",
        "default": OUT + "what is built, not how",
        "link": OUT + "how the store keeps what was built",
        "history_bytes": OUT + "how much the store keeps",
        "store": OUT + "a path",
    },
}


def test_every_field_of_the_recipe_has_a_decision() -> None:
    """A new field, or a new class, must be put into the digest or be left out for a reason."""
    found = {
        name: {field.name for field in dataclasses.fields(each)}
        for name, each in vars(model).items()
        if inspect.isclass(each) and each.__module__ == model.__name__ and dataclasses.is_dataclass(each)
    }
    assert {name: set(fields) for name, fields in ACCOUNT.items()} == found
    for fields in ACCOUNT.values():
        for decision in fields.values():
            reason = decision.removeprefix(IN).removeprefix(OUT)
            assert decision != reason
            assert reason


MIX = '[targets.t]\nmethod = "{method}"\na = "{a}"\nb = "{b}"\nalpha = {alpha}\noutput = "{output}"\n{more}'
BASE = {"method": "weighted_sum", "a": "x", "b": "y", "alpha": "0.25", "output": "t.safetensors", "more": ""}
GRADIENT = "{{ default = {{ gradient = [0, {}] }} }}"


def facts_of(lab: Lab, changed: dict[str, str], head: str = "") -> tuple[str, list[tuple[str, str]]]:
    """Build a target, changed or not, and return its artifact and its manifest."""
    names = {f"model.diffusion_model.input_blocks.{index}.0.w": torch.tensor([1.0 + index]) for index in range(12)}
    rest = {"cond_stage_model.w": torch.tensor([1.0]), "model_ema.diffusion_modelinput_blocks10w": torch.tensor([9.0])}
    lab.model("x", **names, **rest)
    lab.model("y", **{name: value * 3 for name, value in (names | rest).items()})
    lab.write(head + "#sources\n" + MIX.format(**(BASE | changed)))
    (found,) = lab.build().targets
    assert found.artifact, found.error
    (record,) = records(lab)
    return found.artifact, list(record.items())


def records(lab: Lab) -> list[dict[str, str]]:
    """Return the manifests that the store holds."""
    with lab.project._sessions.open(lambda _event: None) as session:
        found = [session.store.ledger.record(each.target) for each in session.store.ledger.records()]
        return [decode(record.manifest) for record in found if record]


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"alpha": "0.5"}, "alpha"),
        ({"alpha": '{ default = 0.25, "*input_blocks.1.*" = 0.5 }'}, "alpha[*input_blocks.1.*]"),
        ({"a": "y", "b": "x"}, "a"),
        ({"method": "replace"}, "method"),
        ({"more": 'dtype = "float16"\n'}, "dtype"),
        ({"more": 'drop = ["cond_stage_model*"]\n'}, "drop"),
        ({"more": 'merge = ["cond_stage_model*"]\n'}, "merge"),
        ({"more": 'ema = "keep"\n'}, "ema"),
        ({"more": 'ema = "use"\n'}, "ema"),
    ],
)
def test_what_is_in_changes_the_digest_and_shows_in_the_manifest(lab: Lab, changed: dict[str, str], line: str) -> None:
    """A change of bytes without a line would be a build without a reason."""
    artifact, before = facts_of(lab, {})
    other, after = facts_of(lab, changed)
    assert artifact != other
    assert line in {change.what for change in changes(dict(before), dict(after))}


@pytest.mark.parametrize(
    ("changed", "head"),
    [
        ({"more": 'missing = "error"\n'}, ""),
        ({"more": 'nonfinite = "allow"\n'}, ""),
        ({"more": 'metadata = "none"\n'}, ""),
        ({"output": "u.safetensors"}, ""),
        ({}, '[project]\nname = "other"\nlink = "copy"\nhistory = "1MB"\n'),
    ],
)
def test_what_is_left_out_changes_no_digest(lab: Lab, changed: dict[str, str], head: str) -> None:
    assert facts_of(lab, {})[0] == facts_of(lab, changed, head)[0]


def test_changes_are_told_line_by_line() -> None:
    before = {"alpha": "0.3", "beta": "1", "input x": "1", "input y": "2"}
    after = {"alpha": "0.4", "gamma": "2", "input x": "3", "input z": "4"}
    assert [change.text for change in changes(before, after)] == [
        "alpha 0.3 -> 0.4",
        "beta 1 -> (none)",
        "input x: contents changed",
        "input y: is gone",
        "gamma (none) -> 2",
        "input z: is new",
    ]
    assert changes(after, after) == []


def test_a_manifest_is_read_back() -> None:
    lines = {"alpha": "0.3", "ü": "„x“\n"}
    assert decode(encode(lines)) == lines
