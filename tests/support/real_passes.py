"""Small projects whose builds together have every kind of pass, for tests of passes as values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from lab import Lab
from model_folders import as_pipeline, checkpoint, pipeline, sharded
from tiny_models import llama, sd15

from mergebuild.build import passes
from mergebuild.engine.run import PassResult
from mergebuild.engine.work import Pass

__all__ = ["PROJECTS", "passed_through"]

Run = Callable[..., PassResult]
"""A function like `run_pass`."""


def _target(name: str, text: str, output: str = "") -> str:
    lines = text if "method =" in text else f'formula = "{text}"'
    return f'[targets.{name}]\n{lines}\noutput = "{output or f"{name}.safetensors"}"\n'


def _virtual(name: str, lines: str) -> str:
    return f"[targets.{name}]\n{lines}\n"


def _pair(lab: Lab) -> None:
    for number, name in enumerate(("x", "y")):
        lab.model(
            name,
            w=torch.arange(7.0) + number,
            v=torch.full((2, 3), 1.0 + number, dtype=torch.float64),
            same=[4.0, 5.0],
            i=torch.tensor([number]),
        )


CHAIN = (
    _target("a", "0.3*x + 0.7*y")
    + _virtual("half", 'formula = "a/2 + y/2"')
    + _target("b", 'method = "copy"\na = "half"\ndtype = "float16"')
)

PROGRAM = """
from mergebuild.kernels import Kernel, lerp


def blend(call, chunks, start, state):
    return lerp(*chunks, call.number("alpha"))


KERNELS = {"my_blend": Kernel(blend)}
"""


def _linear(lab: Lab, _patch: pytest.MonkeyPatch) -> None:
    _pair(lab)
    lab.write(CHAIN)


def _first_sight(lab: Lab, patch: pytest.MonkeyPatch) -> None:
    _pair(lab)
    patch.setattr("mergebuild.plan.describe.SMALL", -1)
    lab.write(CHAIN)


def _operations(lab: Lab, _patch: pytest.MonkeyPatch) -> None:
    _pair(lab)
    (lab / "mine.py").write_text(PROGRAM)
    lab.write(
        _virtual("round", 'method = "slerp"\na = "x"\nb = "y"\nt = 0.3')
        + _target("s", 'method = "slerp"\na = "round"\nb = "y"\nt = 0.25')
        + _target(
            "d", 'method = "dare_ties"\nbase = "x"\nmodels = ["x", "y"]\nweight = [0.5, 0.5]\ndensity = 0.5\nseed = 7'
        )
        + '[methods.my_blend]\nfile = "mine.py"\ninputs = ["a", "b"]\nformula = "a + alpha (b - a)"\n'
        + 'summary = "ours"\n[methods.my_blend.parameters]\nalpha = {}\n'
        + _target("m", 'method = "my_blend"\na = "x"\nb = "y"\nalpha = 0.3')
    )
    lab.project.trust()


def _surveys(lab: Lab, _patch: pytest.MonkeyPatch) -> None:
    """Surveys of single tensors and of layers, over virtual tensors that must be written to temporary files."""
    layer = "cond_stage_model.transformer.text_model.encoder.layers.0."
    for number, name in enumerate(("x", "y")):
        more = {f"{layer}mlp.fc1.bias": torch.arange(48.0) - number, f"{layer}mlp.fc2.weight": torch.ones(24, 48)}
        lab.model(name, **sd15(number), **more)
    lab.write(
        _virtual("round", 'method = "slerp"\na = "x"\nb = "y"\nt = 0.3')
        + _target("c", 'method = "cosine_a"\na = "round"\nb = "y"\nalpha = 0.2')
        + _target("r", 'method = "rebasin"\na = "x"\nb = "round"')
    )


def _loras(lab: Lab, _patch: pytest.MonkeyPatch) -> None:
    """A LoRA made of a virtual difference, then baked in."""
    for number, name in enumerate(("base", "tuned")):
        lab.model(name, **llama(number, dtype=torch.float32, layers=1))
    lab.write(
        _virtual("mix", 'method = "slerp"\na = "base"\nb = "tuned"\nt = 0.5')
        + _target("l", 'method = "extract_lora"\nbase = "base"\na = "mix"\nrank = 2')
        + _target("back", 'method = "add_lora"\nbase = "base"\nloras = ["l"]')
    )


def _rounded(lab: Lab, _patch: pytest.MonkeyPatch) -> None:
    """Inputs that are rounded first, read by combinations, statistics and surveys; float64 and an operation's too."""
    lab.model("wide", **{name: each.double() * 1.1 for name, each in sd15(2).items() if each.is_floating_point()})
    for number, name in enumerate(("x", "y")):
        lab.model(name, **sd15(number))
    half, eighth = '{ model = "x", dtype = "bfloat16" }', '{ model = "wide", dtype = "float8_e5m2" }'
    lab.write(
        _virtual("turned", f'method = "slerp"\na = {half}\nb = "y"\nt = 0.3')
        + _target("s", f'method = "slerp"\na = {eighth}\nb = {half}\nt = 0.3')
        + _target("l", f'method = "linear"\nmodels = ["y", {half}, {eighth}]\nweight = [0.2, 0.3, 0.4]')
        + _target("c", f'method = "cosine_a"\na = {half}\nb = {{ model = "turned", dtype = "float16" }}\nalpha = 0.2')
        + _target("k", 'method = "copy"\na = { model = "turned", dtype = "float16" }\ndtype = "source"')
    )


def _folders(lab: Lab, _patch: pytest.MonkeyPatch) -> None:
    """Shards of transformers; and a pipeline of diffusers, in which matrices are stored transposed."""
    for number, name in enumerate(("one", "two")):
        sharded(lab / name, llama(number, layers=1))
        pipeline(lab / f"p{name}", as_pipeline(sd15(number)))
        lab.sources |= {name: name, f"p{name}": f"p{name}"}
    lab.write(_target("f", "one/2 + two/2", "out/") + _target("p", "0.3*pone + 0.7*ptwo", "pipe/"))


def _checkpoints(lab: Lab, _patch: pytest.MonkeyPatch) -> None:
    """Tensors in several pieces, and an output with other bytes between tensors."""
    for number, name in enumerate(("one", "two")):
        tensors = {"w": torch.arange(12.0).view(3, 4).t() + number, "v": torch.arange(5.0)[::1], "i": torch.tensor(1)}
        checkpoint(lab / f"{name}.ckpt", tensors)
        lab.sources[name] = f"{name}.ckpt"
    lab.write(_target("k", "one/2 + two/2", "k.ckpt") + _target("copied", "one"))


PROJECTS: Mapping[str, Callable[[Lab, pytest.MonkeyPatch], None]] = {
    "linear": _linear,
    "first sight": _first_sight,
    "operations": _operations,
    "surveys": _surveys,
    "loras": _loras,
    "rounded": _rounded,
    "folders": _folders,
    "checkpoints": _checkpoints,
}
"""By kind of pass, the function that writes the project."""


@contextmanager
def passed_through(patch: pytest.MonkeyPatch, run: Callable[[Run, Pass, dict[str, Any]], PassResult]) -> Iterator[None]:
    """Let builds call `run(real, work, options)` for each pass within the context; `real` is the true `run_pass`."""
    real = passes.run_pass
    with patch.context() as patched:
        patched.setattr(passes, "run_pass", lambda work, **options: run(real, work, options))
        yield
