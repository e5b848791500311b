"""What ComfyUI makes of a graph, by its own mechanism and in float64: patches in lists on copies of models.

A model is its tensors and, for each, a list of patches. A merging node adds the second model's tensor, with that one's
own list, as a patch to a copy of the first, and says by how much what came before is scaled. Nothing is computed until
a model is saved. The program under test has no such lists, it composes functions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["TEXT", "UNET", "VAE", "Patching", "lora_file", "saved"]

UNET = "model.diffusion_model."
TEXT = "cond_stage_model."
VAE = "first_stage_model."

Tensors = Mapping[str, Tensor]


@dataclass
class Patching:
    """A model or a text encoder as it flows through a graph."""

    tensors: dict[str, Tensor]
    patches: dict[str, list[tuple[float, object, float]]] = field(default_factory=dict)

    def copy(self) -> Patching:
        return Patching(self.tensors, {name: list(patches) for name, patches in self.patches.items()})

    def key_patches(self) -> dict[str, list[object]]:
        return {name: [tensor, *self.patches.get(name, [])] for name, tensor in self.tensors.items()}

    def add(self, patches: Mapping[str, object], by: float = 1.0, keep: float = 1.0) -> None:
        for name, patch in patches.items():
            if name in self.tensors:
                self.patches.setdefault(name, []).append((by, patch, keep))

    def weights(self) -> dict[str, Tensor]:
        return {name: _patched(tensor, self.patches.get(name, [])) for name, tensor in self.tensors.items()}


def _patched(weight: Tensor, patches: list[tuple[float, object, float]]) -> Tensor:
    made = weight.to(torch.float64).clone()
    for by, patch, keep in patches:
        made *= keep
        made += by * (_patched(patch[0], patch[1:]) if isinstance(patch, list) else patch)
    return made


def lora_file(modules: Mapping[str, str], tensors: Tensors, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return a LoRA's file, and the difference that it makes to each tensor at strength 1.

    Args:
        modules: The module's name in the LoRA, by the name of the tensor that it changes.
        tensors: The model.
        seed: Of its values.
    """
    generator = torch.Generator().manual_seed(seed)
    file: dict[str, Tensor] = {}
    differences: dict[str, Tensor] = {}
    for name, module in modules.items():
        out, row = tensors[name].shape
        up = (torch.randn(out, 2, generator=generator) * 0.1).to(torch.float16)
        down = (torch.randn(2, row, generator=generator) * 0.1).to(torch.float16)
        file |= {
            f"{module}.lora_up.weight": up,
            f"{module}.lora_down.weight": down,
            f"{module}.alpha": torch.tensor(1.0),
        }
        differences[name] = 0.5 * up.double() @ down.double()
    return file, differences


def saved(
    graph: Mapping[str, dict[str, object]], save: str, checkpoints: Mapping[str, Tensors], loras: Mapping[str, Tensors]
) -> dict[str, Tensor]:
    """Return what a node saves, in float64.

    Args:
        graph: In the API form.
        save: The node's id.
        checkpoints: By file name.
        loras: By file name: the differences that each makes.
    """
    run = _Run(graph, checkpoints, loras)
    parts = [
        run.output(graph[save]["inputs"][name]) for name in ("model", "clip", "vae") if name in graph[save]["inputs"]
    ]  # type: ignore[index,operator]
    return {name: tensor for part in parts for name, tensor in part.weights().items()}


class _Run:
    def __init__(
        self, graph: Mapping[str, dict[str, object]], checkpoints: Mapping[str, Tensors], loras: Mapping[str, Tensors]
    ) -> None:
        self.graph, self.checkpoints, self.loras = graph, checkpoints, loras

    def output(self, link: list[object]) -> Patching:
        node, slot = self.graph[str(link[0])], int(str(link[1]))
        inputs: dict[str, object] = node["inputs"]  # type: ignore[assignment]
        kind = str(node["class_type"])
        if kind == "CheckpointLoaderSimple":
            prefix = (UNET, TEXT, VAE)[slot]
            return Patching(
                {name: t for name, t in self.checkpoints[inputs["ckpt_name"]].items() if name.startswith(prefix)}
            )  # type: ignore[index]
        if kind.startswith("LoraLoader"):
            role = ("model", "clip")[slot]
            made = self.output(inputs[role]).copy()  # type: ignore[arg-type]
            made.add(self.loras[inputs["lora_name"]], float(inputs[f"strength_{role}"]))  # type: ignore[index,arg-type]
            return made
        return self._merged(kind, inputs)

    def _merged(self, kind: str, inputs: dict[str, object]) -> Patching:
        role = "model" if kind.startswith("Model") else "clip"
        made, other = (self.output(inputs[f"{role}{n}"]) for n in (1, 2))  # type: ignore[arg-type]
        made = made.copy()
        numbers = {name: float(value) for name, value in inputs.items() if name not in {f"{role}1", f"{role}2"}}  # type: ignore[arg-type]
        by: Callable[[str], tuple[float, float]]
        if kind.endswith("Add"):
            by = lambda _: (1.0, 1.0)  # noqa: E731
        elif kind.endswith("Subtract"):
            by = lambda _: (-numbers["multiplier"], numbers["multiplier"])  # noqa: E731
        else:
            by = lambda name: (1.0 - _ratio(numbers, name), _ratio(numbers, name))  # noqa: E731
        for name, patch in other.key_patches().items():
            if not name.endswith(".position_ids"):
                made.add({name: patch}, *by(name.removeprefix(UNET)))
        return made


def _ratio(numbers: Mapping[str, float], name: str) -> float:
    best, length = next(iter(numbers.values())), 0
    for prefix, number in numbers.items():
        if name.startswith(prefix) and length < len(prefix):
            best, length = number, len(prefix)
    return best
