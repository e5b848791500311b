"""The verb that shows what a model is: tensors, dtypes, layout and components from headers, hashes from one reading.

`traits` tells what it is beyond its layout, `provenance` what its metadata say about how it was made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mergebuild.errors import Place, SourceError
from mergebuild.events import Emit, Hashing, silent
from mergebuild.formats import registry
from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.formats.header import TensorInfo
from mergebuild.formats.model import Model
from mergebuild.layouts import detect
from mergebuild.layouts.layout import Layout
from mergebuild.recipe.model import LayoutText
from mergebuild.results.looks import Inspection
from mergebuild.sources import hashes, provenance, traits
from mergebuild.sources.opening import read_model

__all__ = ["inspect", "inspect_model"]

_EMA = "model_ema."
_DIFFUSION = ("unet", "transformer")
_SIDECARS = (".vae.safetensors", ".vae.pt", ".vae.ckpt")


def inspect(
    path: Path,
    *,
    layouts: Mapping[str, LayoutText] | None = None,
    with_tensors: bool = False,
    shown: str | None = None,
    within: Sequence[Path] = (),
    emit: Emit = silent,
) -> Inspection:
    """Return what a model is; its files are read once from end to end.

    Args:
        path: A file or a folder.
        layouts: Layouts that the user declares; they are tried before ours.
        with_tensors: Whether to list every tensor.
        shown: The path for the answer; None: `path`.
        within: Further folders that links of a folder's small files may lead to.
        emit: Is told of the reading before it begins.

    Raises:
        SourceError: it is missing, unreadable or not a valid model file.
    """
    name = shown or str(path)
    model = read_model(path, shown=name, within=within)
    return inspect_model(model, name, layouts=layouts, with_tensors=with_tensors, emit=emit)


def inspect_model(
    model: Model,
    shown: str,
    *,
    layouts: Mapping[str, LayoutText] | None = None,
    with_tensors: bool = False,
    emit: Emit = silent,
) -> Inspection:
    """Return what a model is; its files are read once from end to end. The arguments are those of `inspect`.

    Raises:
        SourceError: a file can't be read.
    """
    tensors = model.tensors.values()
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    layout = detect(shapes, layouts or {})
    components = _components(tensors, layout)
    emit(Hashing(shown, model.size))
    try:
        found = _hashes(model)
        low_rank = traits.adapter(model)
        facts = dict(_facts(model, components, is_adapter=low_rank is not None))
    except OSError as error:
        message = f"`{shown}` can't be read: {(error.strerror or str(error)).lower()}"
        raise SourceError.one(
            "file-unreadable", message, where=Place(shown), help="check the disk and the path"
        ) from error
    return Inspection(
        path=shown,
        format=model.format,
        layout=layout.name if layout else None,
        tensors=len(model.tensors),
        bytes=model.size,
        dtypes=_dtypes(tensors),
        components=components,
        metadata=dict(sorted(model.metadata.items())),
        hashes=found,
        weights="" if low_rank else _weights(model.tensors),
        facts=facts,
        adapter=low_rank.to_json() if low_rank else None,
        origin=provenance.told(model.metadata),
        notices=model.notices,
        tensor_list=tuple((each.name, each.shown_dtype, each.shape, each.nbytes) for each in tensors)
        if with_tensors
        else (),
    )


def _hashes(model: Model) -> dict[str, str | None]:
    if model.home is not None:
        return hashes.of_files(model.home, model.own_files)
    return hashes.of_file(model.files[0], has_length=registry.begins_with_length(model))


def _dtypes(tensors: Iterable[TensorInfo]) -> dict[str, int]:
    return dict(Counter(tensor.shown_dtype for tensor in tensors).most_common())


def _weights(names: Iterable[str]) -> str:
    """Return `full` if there are EMA copies and other weights, `ema-only` if there is nothing else, else `pruned`.

    If the EMA values were stored in place of the weights, names don't show it.
    """
    with_ema = Counter(name.startswith(_EMA) for name in names)
    return ("full" if with_ema[False] else "ema-only") if with_ema[True] else "pruned"


def _components(tensors: Iterable[TensorInfo], layout: Layout | None) -> dict[str, dict[str, object]]:
    """Return the tensors, bytes and dtypes of each component; tensors of none are `other`."""
    found: dict[str, list[TensorInfo]] = {}
    for tensor in tensors:
        component = "ema" if tensor.name.startswith(_EMA) else layout.component(tensor.name) if layout else None
        found.setdefault(component or "other", []).append(tensor)
    return {
        component: {"tensors": len(members), "bytes": sum(each.nbytes for each in members), "dtypes": _dtypes(members)}
        for component, members in sorted(found.items(), key=lambda item: (item[0] == "other", item[0]))
    }


def _facts(model: Model, components: Mapping[str, object], *, is_adapter: bool) -> Iterator[tuple[str, str]]:
    """Yield other short facts, each with a name."""
    shapes = {name: info.shape for name, info in model.tensors.items()}
    yield "precision", _precision(model.tensors.values())
    alone = traits.vae_kind(shapes)
    if alone:
        yield "kind", f"a VAE, in {alone} names"
    if not is_adapter and not components.keys().isdisjoint(_DIFFUSION):
        yield from _diffusion_facts(model, shapes, has_vae="vae" in components)
    positions = dict.fromkeys(_position_ids(each) for each in traits.position_ids(model))
    yield from [("position ids", "; ".join(positions))] if positions else []


def _diffusion_facts(
    model: Model, shapes: Mapping[str, tuple[int, ...]], *, has_vae: bool
) -> Iterator[tuple[str, str]]:
    beside = [] if has_vae else _sidecars(model)
    yield "vae", "baked in" if has_vae else f"none in it, {' and '.join(beside)} beside it" if beside else "none"
    channels = traits.input_channels(shapes)
    if channels is not None:
        kind = traits.kind_of_inputs(channels)
        yield "input channels", f"{channels} ({kind})" if kind else str(channels)
    marks = traits.marks(shapes)
    if marks:
        yield "marks", ", ".join(marks)
    yield from _prediction(model, marks)


def _prediction(model: Model, marks: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield what a diffusion model predicts, if a mark or its metadata tell."""
    said = model.metadata.get("modelspec.prediction_type") or model.metadata.get("modelspec.predict_key")
    if "v_pred" in marks:
        yield "prediction", "v"
    elif said in ("v", "epsilon"):
        yield "prediction", f"{said} (says modelspec)"


def _precision(tensors: Iterable[TensorInfo]) -> str:
    """Return the dtype of the floats, or the percentage of bytes for each dtype."""
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        if DTYPES_BY_WORD[tensor.dtype].is_float:
            sizes[tensor.shown_dtype] += tensor.nbytes
    if len(sizes) < 2:
        return next(iter(sizes), "no floats")
    whole = sizes.total() or 1
    return "mixed: " + ", ".join(f"{dtype} {_percent(size / whole)}" for dtype, size in sizes.most_common())


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %" if 0.01 <= part <= 0.99 else "< 1 %" if part < 0.01 else "> 99 %"


def _sidecars(model: Model) -> list[str]:
    """Return the VAE files beside it that a web UI would load because of their names."""
    if model.folder is not None:
        return []
    path = model.files[0]
    return [f"{path.stem}{suffix}" for suffix in _SIDECARS if path.with_name(f"{path.stem}{suffix}").is_file()]


def _position_ids(found: traits.PositionIds) -> str:
    if not found.wrong:
        stored = "" if found.dtype == "int64" else f", stored as {found.dtype}"
        return f"0 to {found.length - 1}{stored}"
    position, value = found.wrong[0]
    return f"broken: {len(found.wrong)} of {found.length} are wrong, at {position} stands {value:g} ({found.dtype})"
