"""Opens the file or folder at a path as a model. The format is told by the content, not by the name.

The tensors of a diffusers pipeline get the names of a single file, so that both merge with each other, and blocks and
groups mean the same in both: each tensor is described as made of tensors that the pipeline stores.

Code for formats other than safetensors, or for other names, is imported when needed: most sources are single files with
the names of single files.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mergebuild.errors import Place, SourceError
from mergebuild.formats import registry, scales
from mergebuild.formats.dtypes import DTYPES_BY_WORD
from mergebuild.formats.foreign import LOOKED_AT
from mergebuild.formats.gathering import is_run, run_of
from mergebuild.formats.header import Piece, Scale, TensorInfo
from mergebuild.formats.model import ADAPTERS, Model, SecondCopy
from mergebuild.formats.quantized import with_scales
from mergebuild.formats.reading import UNQUANTIZED, beginning, quoted
from mergebuild.formats.scales import ScaledPart
from mergebuild.lora import adapter_config, is_lora, is_of_peft, lacks_scale
from mergebuild.naming.canonical import canonical
from mergebuild.naming.renamed import Renamed, RowsOf, Shapes
from mergebuild.naming.spelling import AS_IS, spelling_of

if TYPE_CHECKING:
    from mergebuild.formats.folders import Folder
    from mergebuild.naming.parts import PlacedPart
    from mergebuild.naming.rules import Part

__all__ = ["KeepsNames", "never", "read_model", "renamed_model", "standalone", "twice_named"]

_NAMED: Final = ("unet", "vae", "text_encoder", "text_encoder_2")
"""Components of a pipeline that a single file has too."""


KeepsNames = Callable[[Shapes, Shapes], bool]
"""Whether a file's tensors keep their stored names; called with their shapes by stored and by canonical names."""


def never(_stored: Shapes, _canonical: Shapes) -> bool:
    """Return False: no file keeps its stored names."""
    return False


def read_model(
    path: Path, *, shown: str | None = None, within: Sequence[Path] = (), keeps_names: KeepsNames = never
) -> Model:
    """Read the header of a model, and other files that describe it; no tensor is read.

    Args:
        path: A file or a folder.
        shown: What to call it in errors; the path itself by default.
        within: Further folders that links of a folder's small files may lead to, such as the project's.
        keeps_names: Whether its tensors keep their names: those of a layout that the user declares.

    Raises:
        SourceError: it is missing, can't be read, or breaks a rule of its format.
    """
    name = str(path) if shown is None else shown
    if path.is_dir():
        return _read_folder(path, name, within, keeps_names)
    _refuse_parts(path, name)
    found = with_scales(_file(path, name), name)
    if path.name in ADAPTERS or is_lora(found.tensors):
        found = _with_meaning(found, path, name, within)
    if found.format == "peft" or is_lora(found.tensors):
        return found
    return _canonical(found, name, keeps_names)


def _read_folder(path: Path, name: str, within: Sequence[Path], keeps_names: KeepsNames) -> Model:
    from mergebuild.formats.folders import read_folder

    folder = read_folder(path, shown=name, read_file=_file, within=within)
    beside = tuple(path / each for each in folder.sidecars)
    if folder.kind == "diffusers":
        model = _pipeline(folder, name, keeps_names)
    else:
        model = replace(folder.components[""], notices=folder.notices)
    if folder.kind == "sharded":
        model = _canonical(model, name, keeps_names, folder.config)
    return replace(model, folder=path, beside=beside, contents=folder)


def _refuse_parts(path: Path, shown: str) -> None:
    """Refuse a file that is one of several, each of which holds a part of the tensors.

    Raises:
        SourceError: it is one.
    """
    from mergebuild.formats.ranks import may_be_one, ranks

    if not may_be_one(path.name):
        return
    try:
        parts = ranks(os.listdir(path.parent))  # noqa: PTH208 -- names alone
    except OSError:
        return
    if parts is not None and path.name in parts.names:
        message = f"{quoted(shown)} is one of {len(parts.names)} files {parts.sentence}"
        raise SourceError.one("parts-of-tensors", message, where=Place(shown), help=parts.help, rows=parts.rows)


def _with_meaning(model: Model, path: Path, shown: str, within: Sequence[Path]) -> Model:
    """Return a PEFT adapter that was named as a file, with the content of its configuration file.

    Raises:
        SourceError: there is no such file, and the scale of its factors is not in the adapter itself.
    """
    said = adapter_config(model)
    if said is not None or (path.name not in ADAPTERS and not is_of_peft(model.tensors)):
        return model
    from mergebuild.formats.folders import with_configuration

    found = with_configuration(model, path, shown=shown, within=within)
    if found is None and lacks_scale(model.tensors):
        raise _adapter_config_missing(shown)
    return found or model


def _adapter_config_missing(shown: str) -> SourceError:
    return SourceError.one(
        "adapter-config-missing",
        f"{quoted(shown)} is an adapter of PEFT without an `adapter_config.json` beside it, which says its alpha",
        where=Place(shown),
        help="download that file too, or write one if you know what it says: "
        '`{"peft_type": "LORA", "r": 16, "lora_alpha": 16}`',
    )


def _canonical(model: Model, shown: str, keeps_names: KeepsNames, config: Mapping[str, object] | None = None) -> Model:
    """Return a model with its tensors by canonical name.

    Raises:
        SourceError: two tensors are one parameter, and differ in shape or dtype.
    """
    shapes = {name: info.shape for name, info in model.tensors.items()}
    same_place = _same_place(model)
    found = canonical(shapes, config, same_place)
    if keeps_names(shapes, {name: each.shape for name, each in found.made.items()}):
        return model
    spelling = spelling_of({**found.made, **found.copies}, shapes)
    if found.made.keys() == shapes.keys() and spelling is AS_IS:  # every name is canonical
        return replace(model, tied=found.tied)
    tensors = renamed_model({"": model}, found.made, model.format).tensors
    twice = ((stored, parameter) for stored, parameter in found.twice.items() if stored not in same_place)
    twins = tuple(SecondCopy(parameter, model.tensors[stored]) for stored, parameter in twice)
    for twin in twins:
        own = tensors[twin.parameter]
        if (own.stored, own.shape) != (twin.info.stored, twin.info.shape):
            raise twice_named(shown, found.made[twin.parameter].cuts[0].tensor, twin.info.name)
    return replace(model, tensors=tensors, spelling=spelling, tied=found.tied, twins=twins, copies=tuple(found.copies))


def twice_named(shown: str, first: str, second: str) -> SourceError:
    """Return the error of a file that holds a parameter under two names, with different values."""
    return SourceError.one(
        "twice-named",
        f"`{shown}` holds one parameter under two names, and not with the same values",
        where=Place(shown),
        rows=(first, second),
        help="take out the one that is not meant; which of them a client loads differs from client to client",
    )


def _same_place(model: Model) -> Mapping[str, str]:
    """Return the tensors that share an earlier one's bytes in the file, each with that one: pickles store ties so."""
    places: dict[tuple[object, ...], str] = {}
    found: dict[str, str] = {}
    for name, info in model.tensors.items():
        place = (info.file, info.begin, info.end, info.pieces, info.dtype, info.shape, info.scale)
        first = places.setdefault(place, name) if info.nbytes else name
        if first != name:
            found[name] = first
    return found


def _file(path: Path, shown: str) -> Model:
    """Read one file of weights of any format; its suffix doesn't matter."""
    return registry.recognized(beginning(path, LOOKED_AT)).read(path, shown)


def _pipeline(folder: Folder, shown: str, keeps_names: KeepsNames) -> Model:
    """Return the components of a pipeline as one model with the names of single files; other tensors are left out.

    A pipeline that isn't Stable Diffusion 1, 2 or XL becomes a file whose names begin with the component.
    """
    from mergebuild.naming import to_ldm

    components = {name: model for name, model in folder.components.items() if name in _NAMED}
    shapes = {
        component: {name: info.shape for name, info in model.tensors.items()} for component, model in components.items()
    }
    made, left = to_ldm(shapes) if "unet" in components else ({}, [])
    if not made:
        return _side_by_side(folder, shown, keeps_names)
    others = sorted(folder.components.keys() - components.keys())
    notices = [*folder.notices, *(f"the component `{name}` is not merged" for name in others)]
    if left:
        notices.append(f"{len(left)} tensors have no place in a single file and are left out, such as `{left[0]}`")
    return replace(renamed_model(components, made, "diffusers"), notices=tuple(notices), facts=folder.config)


def _side_by_side(folder: Folder, shown: str, keeps_names: KeepsNames) -> Model:
    """Return the components of a pipeline as one model; each name begins with that of its component."""
    from mergebuild.naming import Renamed, RowsOf

    made = {
        f"{component}.{name}": Renamed(info.shape, (RowsOf(component, name),))
        for component, model in folder.components.items()
        for name, info in model.tensors.items()
    }
    model = _canonical(renamed_model(folder.components, made, "diffusers"), shown, keeps_names)
    return replace(model, notices=folder.notices, facts=folder.config)


def standalone(model: Model, of: str, wanted: Sequence[Part], there: Shapes) -> tuple[Model, PlacedPart] | None:
    """Return the tensors of a file that are parts of a model, under that model's names, and how they were found.

    None if the file needs no other names: it is a model of that kind itself, or has none of the parts.

    Args:
        model: The file.
        of: The name of the model's family in the naming rules.
        wanted: The parts.
        there: The tensors of the model.
    """
    from mergebuild.naming.parts import place

    placed = place({name: info.shape for name, info in model.tensors.items()}, of, wanted, there)
    if placed.is_same and not placed.left and not placed.doubtful:
        return None
    return renamed_model({"": model}, placed.made, model.format), placed


def renamed_model(components: Mapping[str, Model], made: Mapping[str, Renamed], format_: str) -> Model:
    """Return several models as one, with tensors that are made of theirs.

    Args:
        components: The models, by their names in `made`.
        made: The tensors, and what each is made of.
        format_: The format of the result.
    """
    models = list(components.values())
    first = dict(zip(components, accumulate((len(model.files) for model in models), initial=0), strict=False))
    tensors = {name: _put_together(name, renamed, components, first) for name, renamed in made.items()}
    return Model(
        format_,
        tuple(path for model in models for path in model.files),
        tuple(size for model in models for size in model.sizes),
        tensors,
        models[0].metadata if len(models) == 1 else {},
        tuple(path for model in models for path in model.documents),
    )


def _put_together(name: str, renamed: Renamed, components: Mapping[str, Model], first: Mapping[str, int]) -> TensorInfo:
    """Return a tensor that is made of cuts; contiguous if it is in the file."""
    infos = [components[cut.component].tensors[cut.tensor] for cut in renamed.cuts]
    both = list(zip(renamed.cuts, infos, strict=True))
    dtype = infos[0].dtype
    scale = _scale_of(name, both, first) if any(info.scale for info in infos) else None
    if any(info.dtype != dtype or (info.scale and not scale) for info in infos):
        raise _mixed_dtypes(name, infos)
    pieces = [piece for cut, info in both for piece in _pieces(cut, info, first[cut.component])]
    size = DTYPES_BY_WORD[dtype].size
    if len(pieces) == 1 and is_run(pieces[0].shape, pieces[0].strides):
        begin = pieces[0].begin
        end = begin + prod(pieces[0].shape) * size
        return TensorInfo(name, dtype, renamed.shape, begin, end, pieces[0].file, scale=scale)
    return TensorInfo(name, dtype, renamed.shape, 0, prod(renamed.shape) * size, pieces[0].file, tuple(pieces), scale)


def _mixed_dtypes(name: str, infos: Sequence[TensorInfo]) -> SourceError:
    return SourceError.one(
        "mixed-dtypes",
        f"`{name}` is made of tensors of different dtypes: {', '.join(info.stored for info in infos)}",
        rows=tuple(f"{info.stored}  {info.name}" for info in infos),
        help="save the model in one dtype",
    )


def _scale_of(name: str, cuts: Sequence[tuple[RowsOf, TensorInfo]], first: Mapping[str, int]) -> Scale | None:
    """Return the scales of a tensor that is made of cuts, some of which have scales; None if these differ in kind.

    Raises:
        SourceError: they are of one kind, and can't be cut so.
    """
    parts = [
        ScaledPart(info, first[cut.component], cut.at, cut.rows, cut.columns, cut.transposed) for cut, info in cuts
    ]
    found = scales.put_together(parts)
    info = cuts[0][1]
    if found is None and len({each.stored for _, each in cuts}) == 1:
        message = f"`{info.name}` is read as part of `{name}`, and its scales can't be cut so ({info.stored})"
        raise SourceError.one("quantized-weights", message, help=UNQUANTIZED)
    return found


def _pieces(cut: RowsOf, info: TensorInfo, first: int) -> list[Piece]:
    """Return where the elements of a cut are."""
    from mergebuild.naming import view_of

    lying = info.pieces or (Piece(info.file, info.begin, info.shape, run_of(info.shape)),)
    if (cut.rows, cut.at, cut.columns, cut.transposed) == (None, None, None, False):
        return [piece._replace(file=first + piece.file) for piece in lying]
    (piece,) = lying  # no naming cuts a tensor that is itself made of several pieces
    view = view_of(cut, piece.shape, piece.strides)
    begin = piece.begin + view.begin * DTYPES_BY_WORD[info.dtype].size
    return [Piece(first + piece.file, begin, view.shape, view.strides)]
