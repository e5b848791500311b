"""Inputs that are rounded first: as if a file of that dtype were read, without one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from both_ways import both_ways
from lab import Lab
from real_passes import PROJECTS
from torch import Tensor

from mergebuild import native
from mergebuild.plan import describe

LARGE = [1.0, 500.0, -1e6, 3.0]
ROWS = "w, as an input that is rounded to float8_e4m3fn first: 2 values overflow float8_e4m3fn"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path)
    lab.model("chat", w=[0.1, 0.2, 0.3, 1 / 3])
    lab.model("other", w=[1.0, 2.0, 3.0, 4.0])
    lab.model("large", w=LARGE)
    return lab


def mix(name: str, dtype: str, model: str = "chat", more: str = "") -> str:
    return (
        f'[targets.{name}]\nmethod = "weighted_sum"\na = {{ model = "{model}", dtype = "{dtype}" }}\nb = "other"\n'
        f'alpha = 0.5\ndtype = "float32"\noutput = "{name}.safetensors"\n{more}'
    )


@pytest.mark.parametrize("variant", ["", native.variant])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float32"])
def test_the_values_are_those_of_the_dtype(lab: Lab, monkeypatch: pytest.MonkeyPatch, dtype: str, variant: str) -> None:
    """Rounded once before the method, and not after it; by torch and by compiled kernels."""
    monkeypatch.setattr(native, "variant", variant)
    lab.write(mix("m", dtype))
    lab.build("m")
    chat, other = (lab.read(f"{name}.safetensors")["w"] for name in ("chat", "other"))
    first: Tensor = chat.to(getattr(torch, dtype)).float()
    assert lab.read("m.safetensors")["w"].tolist() == (first + 0.5 * (other - first)).tolist()
    assert (first.tolist() == chat.tolist()) == (dtype == "float32")


def test_torch_and_compiled_kernels_make_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For statistics, surveys and combinations, of float64 inputs too, which are rounded once."""
    _, told = both_ways(tmp_path, monkeypatch, PROJECTS["rounded"])
    assert {verdict for verdict, *_ in told.values()} == {"built"}


def test_sources_that_were_never_seen_are_hashed_first(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pass that hashes them merges only sources, and a rounded input is none."""
    monkeypatch.setattr(describe, "SMALL", 0)
    lab.write(mix("m", "float16"))
    assert lab.verdicts("m") == {"m": "built"}


def test_what_a_file_of_that_dtype_has_is_read_there(lab: Lab) -> None:
    """The digest is that of the file's tensor, so nothing is computed for the one after the other."""
    file = '[targets.half]\nmethod = "copy"\na = "chat"\ndtype = "float16"\noutput = "half.safetensors"\n'
    of_file = mix("n", "float16").replace('{ model = "chat", dtype = "float16" }', '"half"')
    lab.write(file + of_file + mix("m", "float16"))
    (made,) = lab.build("m").targets
    built = {each.target: each for each in lab.build("n", "half").targets}
    assert (str(built["n"].verdict), built["n"].artifact) == ("restored", made.artifact)


@pytest.mark.parametrize("variant", ["", native.variant])
@pytest.mark.parametrize("method", ["weighted_sum", "max", "cosine_a"])
def test_values_that_overflow_are_an_error(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, method: str, variant: str
) -> None:
    """float8_e4m3fn has no infinity: nothing that is made of the input shows that it was too large.

    A survey reads it from a file that an earlier pass writes.
    """
    monkeypatch.setattr(native, "variant", variant)
    lab.model("large", w=LARGE, u=[1.0, -2.0], v=[1.0, -1.0], x=[3.0, 4.0])
    lab.model("other", w=[1.0, 2.0, 3.0, 4.0], u=[3.0, 1.0], v=[2.0, -1.0], x=[3.0, 2.0])
    text = mix("m", "float8_e4m3fn", "large").replace("weighted_sum", method)
    lab.write(text if method != "max" else text.replace("alpha = 0.5\n", ""))
    (made,) = lab.build("m").targets
    assert made.error is not None
    assert (made.error.code, made.error.rows) == ("nonfinite", (ROWS,))
    assert not (lab / "m.safetensors").exists()


@pytest.mark.parametrize("variant", ["", native.variant])
def test_factors_of_a_lora_that_overflow_are_an_error(lab: Lab, monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    """They are taken whole, so an earlier pass writes them, and the pass that reads them makes none."""
    monkeypatch.setattr(native, "variant", variant)
    base, module = "model.layers.0.self_attn.q_proj", "base_model.model.model.layers.0.self_attn.q_proj"
    lab.model("model", **{f"{base}.weight": torch.ones(4, 4)})
    factors = {f"{module}.lora_A.weight": torch.full((2, 4), 1e6), f"{module}.lora_B.weight": torch.ones(4, 2)}
    lab.model("lora", file="lora/adapter_model.safetensors", **factors)
    (lab / "lora" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    lab.write(
        '[targets.m]\nmethod = "add_lora"\nbase = "model"\nloras = [{ lora = "lora", dtype = "float8_e4m3fn" }]\n'
        'output = "m.safetensors"\n'
    )
    (made,) = lab.build("m").targets
    assert made.error is not None
    assert made.error.code == "nonfinite"
    assert "8 values overflow float8_e4m3fn" in made.error.rows[0]


def test_values_that_overflow_may_be_allowed_for_a_target_alone(lab: Lab) -> None:
    """What one target made of them, or left where they are stored, serves no target that does not allow them."""
    allowed = mix("m", "float8_e4m3fn", "large", 'nonfinite = "allow"\n')
    kept = (
        '[targets.k]\nmethod = "copy"\na = "large"\ndtype = "float8_e4m3fn"\noutput = "k.safetensors"\n'
        'nonfinite = "allow"\n'
    )
    lab.write(allowed + kept + mix("n", "float8_e4m3fn", "large"))
    assert lab.verdicts("m", "k") == {"m": "built", "k": "built"}
    assert lab.values("m.safetensors") == [1.0, 225.0, -222.5, 3.5]
    (made,) = lab.build("n").targets
    assert made.error is not None
    assert made.error.rows == (ROWS,)


def test_a_change_of_the_dtype_is_told(lab: Lab) -> None:
    lab.write(mix("m", "float16"))
    lab.build("m")
    lab.write(mix("m", "bfloat16"))
    assert lab.project.why("m").changes[0].text == "a chat as float16 -> chat as bfloat16"


def test_a_long_chain_of_roundings_is_refused(lab: Lab) -> None:
    """It would be one pass; the depth of the program's stack is not reached."""
    steps = "".join(
        f'[targets.m{n + 1}]\nmethod = "weighted_sum"\na = {{ model = "m{n}", dtype = "float16" }}\nb = "other"\n'
        "alpha = 0.5\n"
        for n in range(200)
    )
    lab.write(f'[targets.m0]\nmethod = "copy"\na = "chat"\n{steps}' + mix("m", "float16", "m200"))
    (planned,) = lab.project.plan(["m"]).targets
    assert planned.error is not None
    assert planned.error.code == "too-deep"
