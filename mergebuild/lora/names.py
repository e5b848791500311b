"""All names that the modules of a model may have in LoRA files.

Trainers join a module's path with `_`, which can't be undone: `to_out_0` is `to_out.0`, but `text_model` is not
`text.model`. So names are not taken apart. From the canonical names of a model's tensors all names that any known tool
would give to their modules are made, in every spelling of the rules (`mergebuild.naming`) and with every prefix, and
the LoRA's names are looked up among them. The model's own paths are always included, so adapters of unknown
architectures work too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from itertools import chain
from typing import Final, NamedTuple

from mergebuild.naming.aliases import Alias, aliases
from mergebuild.naming.canonical import canonical
from mergebuild.naming.renamed import Renamed, RowsOf, Shapes
from mergebuild.naming.rules import Part

__all__ = ["Names", "Site", "StoredModule", "module_names", "own_names"]


class Site(NamedTuple):
    """Where the delta of a module is added."""

    tensor: str
    rows: tuple[int, int] | None = None
    """The rows of the model's tensor to which it is added; None: all of them."""
    taken: tuple[int, int] | None = None
    """The rows of the delta that are added; None: all of them."""
    total: int = 0
    """How many rows the delta has, if not all of them are for this tensor."""
    transposed: bool = False
    """Whether the model's tensor is the transpose of the module's."""


class Names(NamedTuple):
    """The modules of a model by all their names."""

    modules: Mapping[str, Mapping[str, tuple[Site, ...]]]
    """By name, then by `weight` or `bias`: where it is."""
    ambiguous: Mapping[str, tuple[str, str]]
    """Names that mean two tensors, such as `text_model.…` if there are two text encoders."""


_PEFT: Final = "base_model.model."
_UNKNOWN: Final = ("model.diffusion_model.", "diffusion_model.", "transformer.", "unet.")
"""Prefixes that trainers use for models that no rule covers."""
_JOINED_UNKNOWN: Final = ("unet", "transformer")
_PLAIN: Final = "transformers"
"""The rules for models with the names of transformers, if no rule is for their architecture alone."""
_PROCESSED: Final = re.compile(r"\.to_(q|k|v|out)(?:\.0)?$")
_UNET: Final = "unet"


class StoredModule(NamedTuple):
    """How the file of a model spells it; here the model has canonical names."""

    made: Mapping[str, Renamed]
    """What each of the model's tensors is made of."""
    shapes: Shapes
    """Shapes of the file's tensors by stored name."""


def module_names(
    model: Mapping[str, tuple[int, ...]], wanted: Collection[str], stored: StoredModule | None = None
) -> Names:
    """Return the names of a model's modules.

    Args:
        model: Shapes of its tensors by name, in any spelling.
        wanted: The modules of a LoRA: names with other prefixes than all of these are left out.
        stored: How the model's file spells it, if that differs.
    """
    table = _NameTable("\n" + "\n".join(wanted))
    found = canonical(model)
    for tensor in model:
        table.add_own(tensor)
    if stored is not None:
        table.add_stored(model, stored)
    shapes = {name: renamed.shape for name, renamed in found.made.items()}
    by_name: dict[tuple[str, str], list[Alias]] = {}
    known = aliases(shapes, found.family)
    for alias in known if found.family else chain(known, aliases(shapes, _PLAIN)):
        part = alias.part.name if alias.part is not None else ""
        by_name.setdefault((part, alias.path), []).append(alias)
    for (_, path), meant in by_name.items():
        sites = [site for alias in meant for site in _sites(alias, found.made[alias.tensor], model)]
        if sites:
            table.add(meant[0].part, path, tuple(dict.fromkeys(sites)))
    return Names(table.modules, table.ambiguous)


def own_names(model: Mapping[str, tuple[int, ...]]) -> Names:
    """Return the modules of a model by their own names only."""
    table = _NameTable("")
    for tensor in model:
        table.add_own(tensor)
    return Names(table.modules, table.ambiguous)


def _in_file(tensor: str, made: Renamed, shapes: Shapes) -> Iterator[tuple[str, Site]]:
    """Yield the stored tensors that a tensor is made of, and where the rows of each go.

    Tensors in a stack, or with alternating elements, have no name as a module, and are left out.
    """
    at = 0
    for cut in made.cuts:
        rows = _rows_of(cut, shapes[cut.tensor])
        begin, end = at, at + rows[1] - rows[0]
        at = end
        if cut.at is None and cut.columns is None and not (cut.transposed and len(made.cuts) > 1):
            total = _rows_of(cut._replace(rows=None), shapes[cut.tensor])[1]
            is_all = rows == (0, total)
            span = (begin, end) if len(made.cuts) > 1 else None
            yield cut.tensor, Site(tensor, span, None if is_all else rows, 0 if is_all else total, cut.transposed)


def _rows_of(cut: RowsOf, shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the rows of a stored tensor that a cut is, counted as a module's rows."""
    return cut.rows or (0, (shape[-1] if cut.transposed else shape[0]) if shape else 1)


def _sites(alias: Alias, made: Renamed, model: Mapping[str, tuple[int, ...]]) -> Iterator[Site]:
    """Yield the places in the model's own tensors of which the tensor with another name is made."""
    rows = made.shape[0] if made.shape else 1
    begin, end = alias.rows or (0, rows)
    first, last = alias.taken or (0, end - begin)
    total, at = alias.total or last, 0
    for cut in made.cuts:
        stored = model[cut.tensor]
        whole = (stored[-1] if cut.transposed else stored[0]) if stored else 1
        own = cut.rows or (0, whole)
        low, high = max(begin, at), min(end, at + own[1] - own[0])
        here = (own[0] + low - at, own[0] + high - at)
        taken = (first + low - begin, first + high - begin)
        at += own[1] - own[0]
        is_part = here != (0, whole)
        if low < high and cut.at is None and cut.columns is None and not (is_part and cut.transposed):
            is_all = taken == (0, total)
            yield Site(
                cut.tensor,
                here if is_part else None,
                None if is_all else taken,
                0 if is_all else total,
                alias.transposed is not cut.transposed,
            )


class _NameTable:
    """The table of names that are made; names with prefixes that no wanted name has are left out."""

    def __init__(self, wanted: str) -> None:
        """Take the wanted names, each after a line break."""
        self.modules: dict[str, dict[str, tuple[Site, ...]]] = {}
        self.ambiguous: dict[str, tuple[str, str]] = {}
        self._wanted = wanted
        self._own: set[tuple[str, str]] = set()
        self._forms: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}

    def add_own(self, tensor: str) -> None:
        """Add the model's own name for a tensor; it takes precedence over all others."""
        module, part = _split(tensor)
        for name in (module, _PEFT + module):
            self.modules.setdefault(name, {})[part] = (Site(tensor),)
            self._own.add((name, part))

    def add_stored(self, model: Mapping[str, tuple[int, ...]], stored: StoredModule) -> None:
        """Add the stored names of a model's tensors, or of tensors that hold several of them."""
        sites: dict[str, list[Site]] = {}
        for tensor, made in stored.made.items():
            for name, site in _in_file(tensor, made, stored.shapes) if tensor in model else ():
                sites.setdefault(name, []).append(site)
        for name, found in sites.items():
            module, part = _split(name)
            for each in (module, _PEFT + module):
                if (each, part) not in self._own:
                    self.modules.setdefault(each, {})[part] = tuple(found)
                    self._own.add((each, part))

    def add(self, of: Part | None, path: str, sites: tuple[Site, ...]) -> None:
        """Add a tensor under its name in one spelling of its part."""
        module, part = _split(path)
        if of is not None and of.pipeline == _UNET and _PROCESSED.search(module):
            self._put(of, _PROCESSED.sub(r".processor.to_\1", module), part, sites)  # early diffusers' name
        self._put(of, module, part, sites)

    def _put(self, of: Part | None, module: str, part: str, sites: tuple[Site, ...]) -> None:
        key = of.name if of is not None else ""
        if key not in self._forms:
            self._forms[key] = (self._asked(_in_front(of)), self._asked(_joined_with(of)))
        dotted, joined = self._forms[key]
        for prefix in dotted:
            self._name(prefix + module, part, sites)
        if joined:
            flat = module.replace(".", "_")
            for prefix in joined:
                self._name(prefix + flat, part, sites)

    def _asked(self, prefixes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(prefix for prefix in prefixes if f"\n{prefix}" in self._wanted)

    def _name(self, name: str, part: str, sites: tuple[Site, ...]) -> None:
        if (name, part) in self._own:
            return
        known = self.modules.setdefault(name, {}).setdefault(part, sites)
        if known != sites and {site.tensor for site in known} != {site.tensor for site in sites}:
            self.ambiguous[name] = (known[0].tensor, sites[0].tensor)


@cache
def _prefixes(prefix: str, prefixes: tuple[str, ...], pipeline: str) -> tuple[str, ...]:
    plain = dict.fromkeys(("", prefix, *prefixes, f"{pipeline}." if pipeline else ""))
    inside = (f"{pipeline}.{_PEFT}",) if pipeline else ()
    return (*plain, *(_PEFT + each for each in plain), *inside)


def _in_front(part: Part | None) -> tuple[str, ...]:
    """Return the possible prefixes of a module's path with dots."""
    return _prefixes("", _UNKNOWN, "") if part is None else _prefixes(part.prefix, tuple(part.prefixes), part.pipeline)


def _joined_with(part: Part | None) -> tuple[str, ...]:
    """Return the possible prefixes of a module's path that is joined with `_`."""
    slots = _JOINED_UNKNOWN if part is None else part.kohya
    both = (f"{tool}_{slot}_" for slot in slots for tool in ("lora", "lycoris"))
    return (*both, "lycoris_") if slots else ()


def _split(tensor: str) -> tuple[str, str]:
    """Return a tensor's module, and `weight` or `bias`.

    Any other tensor counts as the weight of a module of its own name.
    """
    module, _, last = tensor.rpartition(".")
    return (module, last) if module and last in {"weight", "bias"} else (tensor, "weight")
