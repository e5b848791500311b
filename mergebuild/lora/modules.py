"""Which modules of a model a LoRA is extracted for, and their names in the new file.

The names are those that most programs load. For image models they are kohya's: `lora_unet_` or `lora_te_`, then the
path joined with `_`, for SD1 and SD2 in diffusers' spelling, for later ones in their authors'. For all other models
they are PEFT's: `base_model.model.`, then the path. In image models a module is a matrix or convolution in a numbered
block, or in a text encoder's layer; in others it is any matrix or convolution but embeddings. Norms, biases and other
tensors are not part of a LoRA.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from mergebuild.naming import DiffusersPart, kind_of, parts_of
from mergebuild.naming.aliases import part_of
from mergebuild.naming.canonical import canonical

__all__ = ["PEFT", "Module", "Style", "extractable", "is_adapter", "is_embedding", "names_of"]

Style = Literal["kohya", "peft"]

PEFT: Final = "base_model.model."
_PIPELINES: Final = ("unet", "transformer")
"""Parts that only image models have."""
_UNETS: Final = ("model.diffusion_model.", "diffusion_model.")
_NUMBERED: Final = re.compile(r"(?:blocks?|layers?)\.\d+\.")
_BARE: Final = re.compile(r"(?:double|single|joint)_blocks\.\d+\.")
_IN_UNET: Final = re.compile(r"\.(?:attentions|resnets|downsamplers|upsamplers)\.\d+\.")
_IN_TEXT: Final = ".encoder.layers."
_OTHERS: Final = ("first_stage_model.", "vae.", "model_ema.", "cond_stage_model.", "conditioner.", "text_encoders.")
"""Parts of image models without modules, except those named by diffusers."""
_EMBEDDINGS: Final = re.compile(
    r"(?:.*[._])?(?:\w*embeddings?|embed_(?:tokens|positions|in)|wte|wpe|relative_attention_bias|shared)"
)


class Module(NamedTuple):
    """A module of a model."""

    name: str
    """Its name in a LoRA's file."""
    style: Style
    tensor: str
    """The model's tensor that has its weight."""
    rows: tuple[int, int] | None
    """Which rows of that tensor are the weight; None: all of them."""
    shape: tuple[int, ...]
    """The shape of the weight."""

    @property
    def has_kernel(self) -> bool:
        """Whether it is a convolution with a kernel of more than one point."""
        return any(size > 1 for size in self.shape[2:])


def extractable(
    model: Mapping[str, tuple[int, ...]],
    spelled: Collection[str] = (),
    called: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Module, ...]:
    """Return the modules that a LoRA can be extracted for.

    Args:
        model: Shapes of its tensors by name.
        spelled: Their stored names, which may show an image model if the canonical names don't.
        called: Names of tensors in memory for PEFT, if they differ.
    """
    return tuple(_modules(model, spelled, called))


def is_embedding(module: str) -> bool:
    """Whether a module is a table of embeddings, by its name."""
    return _EMBEDDINGS.fullmatch(module) is not None


def names_of(module: str, style: Style) -> Mapping[str, str]:
    """Return the names of a module's tensors by role: `up`, `down`, and `alpha` if there is one."""
    if style == "peft":
        return {"up": f"{module}.lora_B.weight", "down": f"{module}.lora_A.weight"}
    return {"up": f"{module}.lora_up.weight", "down": f"{module}.lora_down.weight", "alpha": f"{module}.alpha"}


def is_adapter(names: Mapping[str, object]) -> bool:
    """Whether tensors are those of an adapter saved by PEFT."""
    return any(".lora_A." in name or name.endswith(".lora_embedding_A") for name in names) and all(
        name.startswith(PEFT) for name in names
    )


def _modules(
    model: Mapping[str, tuple[int, ...]], spelled: Collection[str], called: Mapping[str, str]
) -> Iterator[Module]:
    parts, kind = parts_of(model), kind_of(model)
    known = canonical(model)
    names = {made.cuts[0].tensor: name for name, made in known.made.items() if len(made.cuts) == 1}
    of_image = any(_is_of_image(known.family, name) for name in known.made)
    is_image = kind is not None or of_image or any(map(_is_in_transformer, (*model, *spelled)))
    for tensor, shape in model.items():
        if len(shape) < 2 or 0 in shape:
            continue
        path = tensor.removesuffix(".weight")
        if tensor in parts:
            for part in parts[tensor]:
                name = _in_pipeline(part, path, kind or "")
                if name is not None:
                    rows = shape[0] if part.rows is None else part.rows[1] - part.rows[0]
                    yield Module(name, "kohya", tensor, part.rows, (rows, *shape[1:]))
        elif is_image:
            name = _in_image_model(known.family, names.get(tensor, tensor)) if path != tensor else None
            if name is not None:
                yield Module(name, "kohya", tensor, None, shape)
        elif path != tensor and not _EMBEDDINGS.fullmatch(path):
            name = called.get(tensor, tensor).removesuffix(".weight")
            yield Module(PEFT + name, "peft", tensor, None, shape)


def _is_of_image(family: str, name: str) -> bool:
    part = part_of(family, name)
    return part is not None and part.pipeline in _PIPELINES


def _is_in_transformer(name: str) -> bool:
    return name.startswith(_UNETS) or _BARE.match(name) is not None


def _in_pipeline(part: DiffusersPart, path: str, kind: str) -> str | None:
    """Return the name of a module that diffusers knows; None if it is none. `path`: its path in the model."""
    module = part.tensor.removesuffix(".weight")
    if module == part.tensor or part.transposed:
        return None
    if part.component == "unet":
        if not _IN_UNET.search(f".{module}"):
            return None
        return _joined("unet", _without(path, _UNETS) if kind == "sdxl" else module)
    if part.component.startswith("text_encoder") and _IN_TEXT in module:
        first = "te1" if kind == "sdxl" else "te"
        return _joined("te2" if part.component == "text_encoder_2" else first, module)
    return None


def _in_image_model(family: str, name: str) -> str | None:
    """Return the name of a module of an image model that diffusers does not know; None if it is none."""
    part = part_of(family, name)
    if part is not None and not part.kohya:
        return None
    prefixes = (part.prefix,) if part is not None else _UNETS
    path = _without(name.removesuffix(".weight"), prefixes)
    if not _NUMBERED.search(path) or _EMBEDDINGS.fullmatch(path) or (part is None and path.startswith(_OTHERS)):
        return None
    return _joined(part.kohya[0] if part is not None else "unet", path)


def _joined(word: str, path: str) -> str:
    return f"lora_{word}_{path.replace('.', '_')}"


def _without(path: str, prefixes: tuple[str, ...]) -> str:
    return next((path[len(prefix) :] for prefix in prefixes if path.startswith(prefix)), path)
