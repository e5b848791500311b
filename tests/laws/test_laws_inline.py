"""Inputs that are made where they are named are what the targets are that spell them out."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from example_counts import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from lab import Lab
from model_files import write_model
from tiny_models import llama
from torch import Tensor

MODELS = ("a", "b", "c")
LORAS = ("style", "ink")
DTYPES = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
METHODS = {
    "weighted_sum": "a = {}\nb = {}\nalpha = 0.3",
    "slerp": "a = {}\nb = {}\nt = 0.3",
    "ties": "base = {}\nmodels = [{}]\nweight = 1\ndensity = 0.5",
    "linear": "models = [{}, {}]\nweight = [0.4, 0.6]",
    "copy": "a = {}",
}
"""One that folds, some with statistics, and one that copies."""


def lora_of(tensors: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return a LoRA in PEFT's names on some matrices of a model; with the seed 1 a DoRA."""
    generator, found = torch.Generator().manual_seed(seed), dict[str, Tensor]()
    matrices = [name for name, each in tensors.items() if each.dim() == 2 and "proj" in name]
    for name in matrices[seed % 2 :: 2]:
        rows, columns = tensors[name].shape
        module = name.removesuffix(".weight")
        found[f"base_model.model.{module}.lora_A.weight"] = torch.randn(2, columns, generator=generator) / 8
        found[f"base_model.model.{module}.lora_B.weight"] = torch.randn(rows, 2, generator=generator) / 8
        if seed == 1:
            found[f"base_model.model.{module}.lora_magnitude_vector"] = torch.rand(rows, generator=generator)
    return found


def filled(root: Path) -> Lab:
    """Return a project with models in several dtypes, and LoRAs."""
    lab = Lab(root)
    for seed, (name, dtype) in enumerate(zip(MODELS, (torch.float32, torch.bfloat16, torch.float64), strict=True)):
        write_model(root / f"{name}.safetensors", {key: each.to(dtype) for key, each in llama(seed).items()})
        lab.sources[name] = f"{name}.safetensors"
    for seed, name in enumerate(LORAS):
        write_model(root / name / "adapter_model.safetensors", lora_of(llama(0), seed))
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "use_dora": seed == 1}
        (root / name / "adapter_config.json").write_text(json.dumps(config))
        lab.sources[name] = f"{name}/"
    return lab


@dataclass(frozen=True)
class Drawn:
    """An input: a model, LoRAs, and the dtype to which it is rounded."""

    model: str
    loras: tuple[str, ...]
    dtype: str
    lora_dtype: str = ""
    """The dtype to which the LoRAs are rounded."""

    def inline(self, *, joined: bool) -> str:
        """Return it as it is written where it is named; `joined`: by `+` where that is enough."""
        if joined and not self.lora_dtype:
            name = "+".join((self.model, *self.loras))
            return f'{{ model = "{name}", dtype = "{self.dtype}" }}' if self.dtype else f'"{name}"'
        keys = [f'model = "{self.model}"']
        rounded = (f'{{ lora = "{lora}", dtype = "{self.lora_dtype}" }}' for lora in self.loras)
        keys += [f"loras = [{', '.join(rounded)}]" if self.lora_dtype else f"loras = {list(self.loras)}"] * bool(
            self.loras
        )
        keys += [f'dtype = "{self.dtype}"'] if self.dtype else []
        return f"{{ {', '.join(keys)} }}"

    def spelled(self, name: str) -> str:
        """Return the target that it is: without an output, or the file that it would be rounded to."""
        end = f'dtype = "{self.dtype}"\noutput = "{name}.safetensors"\n' if self.dtype else ""
        if not self.loras:
            return f'[targets.{name}]\nmethod = "copy"\na = "{self.model}"\n{end}'
        if not self.lora_dtype:
            return f'[targets.{name}]\nmethod = "add_lora"\nbase = "{self.model}"\nloras = {list(self.loras)}\n{end}'
        rounded = "".join(
            f'[targets.{name}-{lora}]\nmethod = "copy"\na = "{lora}"\ndtype = "{self.lora_dtype}"\n'
            f'output = "{name}-{lora}/"\n'
            for lora in self.loras
        )
        loras = [f"{name}-{lora}" for lora in self.loras]
        return f'{rounded}[targets.{name}]\nmethod = "add_lora"\nbase = "{self.model}"\nloras = {loras}\n{end}'


INPUTS = st.builds(
    Drawn,
    st.sampled_from(MODELS),
    st.lists(st.sampled_from(LORAS), max_size=2, unique=True).map(tuple),
    st.sampled_from(("", *DTYPES)),
    st.sampled_from(("", "float16", "bfloat16")),
)


def _made(root: Path, text: str) -> tuple[str | None, bytes]:
    """Build a project's target `t`; return its artifact, and the bytes of its file."""
    lab = filled(root)
    lab.write(text)
    (artifact,) = (each.artifact for each in lab.build("t").targets if each.target == "t")
    return artifact, (root / "t.safetensors").read_bytes()


@examples(40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_inline_input_is_the_target_that_spells_it_out(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Two projects: in one the inputs are targets, in the other they are written inline. Digests and bytes are equal.

    An input that is rounded is a file of that dtype in the other project, so the very values of that are read.
    """
    root = tmp_path_factory.mktemp("law")
    method = data.draw(st.sampled_from(sorted(METHODS)), "method")
    drawn = [data.draw(INPUTS, "input") for _ in range(METHODS[method].count("{}"))]
    dtype = data.draw(st.sampled_from(["source", *DTYPES[:3]]), "dtype")
    joined = data.draw(st.booleans(), "joined")
    end = f'dtype = "{dtype}"\noutput = "t.safetensors"\n'
    names = [f'"in{number}"' for number in range(len(drawn))]
    texts = {
        "spelled": "".join(each.spelled(f"in{number}") for number, each in enumerate(drawn))
        + f'[targets.t]\nmethod = "{method}"\n{METHODS[method].format(*names)}\n{end}',
        "inline": f'[targets.t]\nmethod = "{method}"\n'
        + METHODS[method].format(*(each.inline(joined=joined) for each in drawn))
        + f"\n{end}",
    }
    made = [_made(root / kind, text) for kind, text in texts.items()]
    assert made[0] == made[1]
    assert made[0][0] is not None
