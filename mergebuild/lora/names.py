"""Every name under which LoRA files know the modules of a model.

Trainers join the parts of a module's path with `_`, which can't be undone: `to_out_0` is `to_out.0`, `text_model` is
not `text.model`. So nothing is taken apart here. From the names of the model's tensors all names that any known tool
would give their modules are made, and a LoRA's module is looked up among them. What a model's own path is called is
always among them, so that adapters of architectures that nobody has heard of fit too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from mergebuild.lora import flux
from mergebuild.naming import parts_of

__all__ = ["Names", "Site", "module_names"]


class Site(NamedTuple):
    """Where what a LoRA makes for a module is added."""

    tensor: str
    rows: tuple[int, int] | None = None
    """To which rows of the model's tensor; None: all of them."""
    taken: tuple[int, int] | None = None
    """Which rows of what the LoRA makes; None: all of them."""
    transposed: bool = False
    """Whether the model's tensor is the transpose of the module's."""


class Names(NamedTuple):
    """The modules of a model by all their names: where the weight is, and the bias."""

    modules: Mapping[str, Mapping[str, tuple[Site, ...]]]
    """By name, then by `weight` or `bias`."""
    ambiguous: Mapping[str, tuple[str, str]]
    """Names that mean two tensors, such as `text_model.…` where there are two text encoders."""


_PEFT: Final = "base_model.model."
_UNETS: Final = ("model.diffusion_model.", "diffusion_model.")
_FLUX: Final = re.compile(
    r"(?:double|single)_blocks\.\d+\.|(?:img_in|txt_in|time_in|vector_in|guidance_in|final_layer)\."
)
_TEXTS: Final = (
    ("text_encoders.clip_l.transformer.", "text_encoder", ("te1",)),
    ("text_encoders.clip_g.transformer.", "text_encoder_2", ("te2",)),
)
_T5: Final = "text_encoders.t5xxl.transformer."
_PROCESSED: Final = re.compile(r"\.to_(q|k|v|out)(?:\.0)?$")


def module_names(model: Mapping[str, tuple[int, ...]]) -> Names:
    """Return the names of the modules of a model, given the shapes of its tensors by name."""
    table = _Table()
    for tensor in model:
        module, part = _split(tensor)
        table.add(_dotted(module, ""), part, (Site(tensor),))
    parts = parts_of(model)
    slots = _slots({part.component for found in parts.values() for part in found})
    for tensor, found in parts.items():
        for each in found:
            module, part = _split(each.tensor)
            place = Site(tensor, each.rows, transposed=each.transposed)
            table.add(_in_pipeline(each.component, module, slots), part, (place,))
    for tensor, shape in model.items():
        prefix = next((each for each in _UNETS if tensor.startswith(each)), "")
        path = tensor[len(prefix) :]
        is_flux = _FLUX.match(path) is not None
        if prefix or is_flux:
            module, part = _split(path)
            table.add(_original(module), part, (Site(tensor),))
        if is_flux and shape:
            _add_flux(table, tensor, path, shape[0])
    _add_texts(table, model)
    return Names(table.modules, table.ambiguous)


class _Table:
    def __init__(self) -> None:
        self.modules: dict[str, dict[str, tuple[Site, ...]]] = {}
        self.ambiguous: dict[str, tuple[str, str]] = {}

    def add(self, names: Iterator[str], part: str, places: tuple[Site, ...]) -> None:
        for name in names:
            known = self.modules.setdefault(name, {}).setdefault(part, places)
            if known[0].tensor != places[0].tensor:
                self.ambiguous[name] = (known[0].tensor, places[0].tensor)


def _split(tensor: str) -> tuple[str, str]:
    """Return a tensor's module, and whether it is its weight or its bias; what is neither is a module of its own."""
    module, _, last = tensor.rpartition(".")
    return (module, last) if module and last in {"weight", "bias"} else (tensor, "weight")


def _slots(components: set[str]) -> Mapping[str, tuple[str, ...]]:
    """Return the short names that kohya's trainers give to text encoders."""
    first = ("te1",) if "text_encoder_2" in components else ("te", "te1")
    return {"text_encoder": first, "text_encoder_2": ("te2",)}


def _dotted(module: str, component: str) -> Iterator[str]:
    """Yield the names that keep the dots, of a module of a pipeline's component or of a model by itself."""
    yield module
    yield _PEFT + module
    if component:
        yield f"{component}.{module}"
        yield f"{component}.{_PEFT}{module}"


def _joined(module: str, *slots: str) -> Iterator[str]:
    """Yield the names that are joined with `_`, for each of the trainer's names of the component."""
    joined = module.replace(".", "_")
    yield f"lycoris_{joined}"
    for slot in slots:
        yield f"lora_{slot}_{joined}"
        yield f"lycoris_{slot}_{joined}"


def _in_pipeline(component: str, module: str, slots: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield the names of a module that diffusers knows."""
    yield from _dotted(module, component)
    if component == "unet":
        yield from _joined(module, "unet")
        if _PROCESSED.search(module):  # the attention processors of early diffusers
            processed = _PROCESSED.sub(r".processor.to_\1", module)
            yield processed
            yield f"unet.{processed}"
    elif component in slots:
        yield from _joined(module, *slots[component])
        bare = module.removeprefix("text_model.")  # as of transformers 5
        if bare != module:
            yield from _dotted(bare, component)
            yield from _joined(bare, *slots[component])


def _original(module: str) -> Iterator[str]:
    """Yield the names of a module of a UNet or transformer in the naming of its authors."""
    for prefix in _UNETS:
        yield from _dotted(prefix + module, "")
    yield from _dotted(module, "")
    yield from _joined(module, "unet")


def _add_flux(table: _Table, tensor: str, path: str, rows: int) -> None:
    module, part = _split(path)
    by_name: dict[str, list[Site]] = {}
    for each in flux.parts_of(module, rows):
        by_name.setdefault(each.module, []).append(Site(tensor, each.rows, each.taken))
    for name, places in by_name.items():
        table.add(_dotted(name, "transformer"), part, tuple(places))
        table.add(_joined(name, "unet", "transformer"), part, tuple(places))


def _add_texts(table: _Table, model: Mapping[str, tuple[int, ...]]) -> None:
    """Add the text encoders of files that hold a transformer with its text encoders."""
    has_clip_g = any(name.startswith("text_encoders.clip_g.") for name in model)
    component, slots = ("text_encoder_3", ("te3",)) if has_clip_g else ("text_encoder_2", ("te2", "te3"))
    for prefix, name, short in (*_TEXTS, (_T5, component, slots)):
        for tensor in model:
            if tensor.startswith(prefix):
                module, part = _split(tensor[len(prefix) :])
                table.add(_in_pipeline(name, module, {name: short}), part, (Site(tensor),))
