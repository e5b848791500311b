"""Rows of tokens are gathered with the same bits for any chunk, any number of threads, and by any way."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from both_ways import both_ways
from example_counts import examples
from fake_device import FakeDevice
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab
from token_models import EMBED, HEAD, TokenModel, aligned, united

from mergebuild.build import options
from mergebuild.engine import choice, compute, hands, transfers

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
TARGETS = """
[targets.virtual]
method = "weighted_sum"
a = "a"
b = "a2"
alpha = 0.25
[targets.u]
method = "{method}"
models = ["virtual", "b"]
weight = [0.75, 0.5]
output = "u/"
[targets.u.tokenizer]
union = true
pad_to_multiple_of = 16
tokens = {{ "a" = {{ force = true }}, "<z>" = {{ zero = true }} }}
"""


@st.composite
def drawn(draw: st.DrawFn) -> tuple[TokenModel, TokenModel, TokenModel]:
    letters = st.lists(st.sampled_from("abcdefghijkl"), unique=True, min_size=1, max_size=9)
    dtype, width, tied = draw(st.sampled_from(DTYPES)), draw(st.sampled_from([1, 3, 8])), draw(st.booleans())
    one, two = draw(letters), draw(letters)
    return (
        TokenModel(one, ["<s>"], seed=1, dtype=dtype, width=width, tied=tied),
        TokenModel(one, ["<s>"], seed=2, dtype=dtype, width=width, tied=tied),
        TokenModel(two, ["<t>"], seed=3, dtype=dtype, width=width, tied=tied),
    )


def fill(lab: Lab, patch: pytest.MonkeyPatch, given_models: tuple[TokenModel, ...], method: str, chunk: int) -> None:
    patch.setattr(options, "BuilderOptions", partial(options.BuilderOptions, chunk=chunk))
    for name, model in zip(("a", "a2", "b"), given_models, strict=True):
        model.write(_folder(lab / name))
        lab.sources[name] = f"{name}/"
    lab.write(TARGETS.format(method=method))


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


@examples(8)
@given(drawn(), st.sampled_from(["linear", "nuslerp"]))
def test_chunks_and_ways_change_no_bit(given_models: tuple[TokenModel, ...], method: str) -> None:
    answers = []
    for chunk in (7, 1 << 19):
        with TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
            answers.append(both_ways(Path(root), patch, partial(_fill, given_models, method, chunk)))
    assert answers[0] == answers[1]


def _fill(given_models: tuple[TokenModel, ...], method: str, chunk: int, lab: Lab, patch: pytest.MonkeyPatch) -> None:
    fill(lab, patch, given_models, method, chunk)


@examples(15)
@given(drawn())
def test_rows_are_those_of_the_rules(given_models: tuple[TokenModel, ...]) -> None:
    """Also of a virtual target, whose rows are of a combination."""
    a, a2, b = given_models
    if b.tokens == a.tokens:
        b.tokens = [*b.tokens, "m"]
    with TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        lab = Lab(Path(root))
        fill(lab, patch, given_models, "linear", 24)
        (result,) = (each for each in lab.build().targets if each.target == "u")
        assert result.error is None
        found = lab.read("u/model.safetensors")
    tokens = united([a, b], ["<z>", "a"])
    names = (EMBED,) if a.tied else (EMBED, HEAD)
    wishes = {"a": (None, None, False, True), "<z>": (None, None, True, False)}
    for name in names:
        parts = []
        for at in range(2):
            rows = aligned([a, b], tokens, name, at, wishes)
            other = aligned([a2, b], tokens, name, at, wishes)
            parts.append(0.75 * rows + 0.25 * other)
        expected = (0.75 * parts[0] + 0.5 * parts[1]) / 1.25
        count = -len(tokens) % 16
        mean = (0.75 * parts[0].mean(0) + 0.5 * parts[1].mean(0)) / 1.25
        whole = torch.cat([expected, mean.expand(count, -1)])
        tolerance = {torch.bfloat16: 1e-2, torch.float16: 2e-3}.get(a.dtype, 1e-5)
        torch.testing.assert_close(found[name].double(), whole, rtol=tolerance, atol=tolerance)


def test_a_device_gives_the_processors_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows come to it through its buffers, some at a time, while a chunk is made there."""
    monkeypatch.setattr(hands, "DEVICE_CHUNK", 64)
    monkeypatch.setattr(transfers, "STAGED", 512)
    for module in (choice, compute):
        monkeypatch.setattr(module, "device_named", lambda _name: [FakeDevice()])
    given_models = (
        TokenModel([*"abcdefgh"], ["<s>"], seed=1, dtype=torch.bfloat16),
        TokenModel([*"abcdefgh"], ["<s>"], seed=2, dtype=torch.bfloat16),
        TokenModel([*"hgcbafxyz"], ["<t>"], seed=3, dtype=torch.bfloat16),
    )
    found = []
    for device in ("cpu", "cuda"):
        lab = Lab(_folder(tmp_path / device))
        fill(lab, monkeypatch, given_models, "nuslerp", 64)
        assert not [each.error for each in lab.build("u", device=device).targets if each.error]
        found.append((lab / "u/model.safetensors").read_bytes())
    assert found[0] == found[1]
