"""Maps a pipeline of diffusers to one checkpoint with the original names, and back.

For Stable Diffusion 1, 2 and XL (base, refiner, and their inpainting variants, which differ only in shapes). All maps
are exact and use names and shapes alone. The number of levels, layers and transformer blocks follows from the names, so
small models of the same structure are mapped too. Each result says what it is made of; a tensor that is in no result is
reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal, NamedTuple

from mergebuild.naming import clip, unet, vae
from mergebuild.naming.renamed import Renamed, Shapes, State, StoredTensor

__all__ = [
    "DiffusersPart",
    "Kind",
    "kind_of",
    "kind_of_pipeline",
    "parts_of",
    "to_diffusers",
    "to_ldm",
]

Kind = Literal["sd1", "sd2", "sdxl"]

_UNET: Final = "model.diffusion_model."
_VAE: Final = "first_stage_model."
_SD1_TEXT: Final = "cond_stage_model.transformer."
_SD2_TEXT: Final = "cond_stage_model.model."
_XL_TEXT: Final = "conditioner.embedders.0.transformer."
_XL_TEXT_2: Final = "conditioner.embedders.1.model."
_REFINER_TEXT: Final = "conditioner.embedders.0.model."

_OPEN_TEXT: Final = (_SD2_TEXT, _XL_TEXT_2, _REFINER_TEXT)
_TEXT_ENCODERS: Final[Mapping[Kind, tuple[str, ...]]] = {
    "sd1": ("text_encoder",),
    "sd2": ("text_encoder",),
    "sdxl": ("text_encoder", "text_encoder_2"),
}
_SD2_WIDTH: Final = 1024
_SD1_WIDTH: Final = 768


class DiffusersPart(NamedTuple):
    """The tensor of diffusers that a tensor with an original name, or some rows of it, is."""

    component: str
    tensor: str
    """The tensor's name in the component."""
    rows: tuple[int, int] | None
    """The rows of the original tensor that it is; None: all of them."""
    transposed: bool


def to_ldm(components: Mapping[str, Shapes], kind: Kind | None = None) -> tuple[Mapping[str, Renamed], list[str]]:
    """Return a pipeline's tensors with original names, and the names that have no counterpart, as `unet/NAME`.

    Args:
        components: Shapes by name of `unet`, `vae`, `text_encoder`, `text_encoder_2`; each may be absent. Names that
            older versions of diffusers and transformers wrote are known too.
        kind: The kind of model, if the caller knows it; it decides where text encoders go. None: from the tensors.

    `position_ids` of an encoder that becomes OpenCLIP's are neither returned nor reported: they are just 0, 1, 2...
    """
    kind = kind or kind_of_pipeline(components)
    made: dict[str, Renamed] = {}
    for component in components:
        made |= _component_to_ldm(component, components, kind)
    return made, list(_left(components, made))


def _component_to_ldm(component: str, components: Mapping[str, Shapes], kind: Kind | None) -> Mapping[str, Renamed]:
    """Return the tensors of one component with original names; none if it has none there."""
    state = _state(components[component], component)
    if component == "unet":
        return _prefixed(_UNET, unet.to_ldm(state))
    if component == "vae":
        return _prefixed(_VAE, vae.to_ldm(state))
    if kind is not None and component in _TEXT_ENCODERS[kind]:
        return _text_to_ldm(_text_prefix(kind, component, alone=not components.get("text_encoder")), state)
    return {}


def _left(components: Mapping[str, Shapes], made: Mapping[str, Renamed]) -> Iterator[str]:
    """Yield the tensors of a pipeline from which nothing is made, except those without information."""
    used = {(cut.component, cut.tensor) for result in made.values() for cut in result.cuts}
    for component, tensors in components.items():
        for name in tensors:
            if (component, name) not in used and not _is_silent(name):
                yield f"{component}/{name}"


def to_diffusers(tensors: Shapes) -> tuple[Mapping[str, Mapping[str, Renamed]], list[str]]:
    """Return a checkpoint's tensors by component with diffusers' names, and the names that have no counterpart.

    The names are those that every version of diffusers and transformers reads. No counterpart have the noise schedule,
    `model_ema.*`, `position_ids`, `logit_scale`, and, in SD2's text encoder, the last layer and the projection: the
    model is conditioned on the layer before, and diffusers leaves out the rest.
    """
    made: dict[str, Mapping[str, Renamed]] = {}
    for prefix, component, convert in _PLACES:
        inside = {name: shape for name, shape in tensors.items() if name.startswith(prefix)}
        if found := convert(_state(inside, "", prefix)):
            made[component] = found
    used = {cut.tensor for component in made.values() for result in component.values() for cut in result.cuts}
    return made, [name for name in tensors if name not in used]


def parts_of(tensors: Shapes) -> Mapping[str, tuple[DiffusersPart, ...]]:
    """Return the tensors of diffusers that each tensor of a checkpoint is, in the order of its rows.

    Unknown names are absent.

    `model.diffusion_model.input_blocks.4.1.proj_in.weight` is `down_blocks.1.attentions.0.proj_in.weight` of `unet`; an
    `in_proj_weight` of OpenCLIP is three tensors.
    """
    found: dict[str, list[DiffusersPart]] = {}
    for component, made in to_diffusers(tensors)[0].items():
        for name, result in made.items():
            (cut,) = result.cuts
            found.setdefault(cut.tensor, []).append(DiffusersPart(component, name, cut.rows, cut.transposed))
    return {name: tuple(sorted(parts, key=lambda part: part.rows or (0, 0))) for name, parts in found.items()}


def kind_of(tensors: Shapes) -> Kind | None:
    """Return which kind a checkpoint with original names is; None if neither UNet nor text encoder tell."""
    if any(name.startswith((_XL_TEXT, _XL_TEXT_2, _REFINER_TEXT)) for name in tensors):
        return "sdxl"
    if any(name.startswith(_SD2_TEXT) for name in tensors):
        return "sd2"
    if any(name.startswith(_SD1_TEXT) for name in tensors):
        return "sd1"
    inside = {name: shape for name, shape in tensors.items() if name.startswith(_UNET)}
    return _kind_of_unet(inside, f"{_UNET}label_emb.0.0.weight")


def kind_of_pipeline(components: Mapping[str, Shapes]) -> Kind | None:
    """Return which kind a pipeline of diffusers is; None if neither UNet nor text encoder tell.

    For a text encoder alone, the kind follows from its width, which is right only for models of real size.
    """
    if components.get("text_encoder_2"):
        return "sdxl"
    if kind := _kind_of_unet(components.get("unet", {}), "add_embedding.linear_1.weight"):
        return kind
    state = clip.in_text_model(_state(components.get("text_encoder", {}), ""))
    embedding = state.get("text_model.embeddings.token_embedding.weight")
    widths: Mapping[int, Kind] = {_SD1_WIDTH: "sd1", _SD2_WIDTH: "sd2"}
    return widths.get(embedding.shape[-1]) if embedding and embedding.shape else None


def _kind_of_unet(tensors: Shapes, label: str) -> Kind | None:
    """Return the kind of a UNet: only SDXL has the embedding of sizes, and SD1's `proj_in` is a convolution."""
    if label in tensors:
        return "sdxl"
    way_in = next((shape for name, shape in tensors.items() if name.endswith("proj_in.weight")), None)
    if way_in is None:
        return None
    return "sd2" if len(way_in) == 2 else "sd1"


def _text_prefix(kind: Kind, component: str, *, alone: bool) -> str:
    """Return the prefix of a text encoder in the checkpoint.

    The refiner has only the second of SDXL's encoders (`alone`).
    """
    if kind != "sdxl":
        return _SD1_TEXT if kind == "sd1" else _SD2_TEXT
    if component == "text_encoder":
        return _XL_TEXT
    return _REFINER_TEXT if alone else _XL_TEXT_2


def _text_to_ldm(prefix: str, state: State) -> Mapping[str, Renamed]:
    state = clip.in_text_model(state)
    return _prefixed(prefix, clip.to_open(state) if prefix in _OPEN_TEXT else clip.only_text(state))


def _text_from_ldm(state: State) -> Mapping[str, Renamed]:
    made = clip.only_text(clip.in_text_model(state))
    return {name: result for name, result in made.items() if name != clip.POSITION_IDS}


def _penultimate_from_ldm(state: State) -> Mapping[str, Renamed]:
    """Leave out the last layer of a complete encoder. One without its projection has lost that layer already."""
    if clip.PROJECTION in state:
        last = max(0, *map(clip.layer, state))
        state = {name: each for name, each in state.items() if name != clip.PROJECTION and clip.layer(name) < last}
    return clip.to_transformers(state)


_PLACES: Final[tuple[tuple[str, str, Callable[[State], Mapping[str, Renamed]]], ...]] = (
    (_UNET, "unet", unet.to_diffusers),
    (_VAE, "vae", vae.to_diffusers),
    (_SD1_TEXT, "text_encoder", _text_from_ldm),
    (_SD2_TEXT, "text_encoder", _penultimate_from_ldm),
    (_XL_TEXT, "text_encoder", _text_from_ldm),
    (_XL_TEXT_2, "text_encoder_2", clip.to_transformers),
    (_REFINER_TEXT, "text_encoder_2", clip.to_transformers),
)


def _state(tensors: Shapes, component: str, prefix: str = "") -> State:
    return {name.removeprefix(prefix): StoredTensor(component, name, shape) for name, shape in tensors.items()}


def _prefixed(prefix: str, made: Mapping[str, Renamed]) -> Mapping[str, Renamed]:
    return {prefix + name: result for name, result in made.items()}


def _is_silent(name: str) -> bool:
    return name.endswith("embeddings.position_ids")
