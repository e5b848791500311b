"""Every name under which LoRA files know the modules of a model.

Trainers join the parts of a module's path with `_`, which can't be undone: `to_out_0` is `to_out.0`, `text_model` is
not `text.model`. So nothing is taken apart here. From the canonical names of the model's tensors all names that any
known tool would give their modules are made, in every spelling of the rules (`mergebuild.naming`) and under every
prefix, and a LoRA's module is looked up among them. What a model's own path is called is always among them, so that
adapters of architectures that nobody has heard of fit too.
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
    """Where what a LoRA makes for a module is added."""

    tensor: str
    rows: tuple[int, int] | None = None
    """To which rows of the model's tensor; None: all of them."""
    taken: tuple[int, int] | None = None
    """Which rows of what the LoRA makes; None: all of them."""
    total: int = 0
    """How many rows the LoRA makes, where not all of them are for this tensor."""
    transposed: bool = False
    """Whether the model's tensor is the transpose of the module's."""


class Names(NamedTuple):
    """The modules of a model by all their names: where the weight is, and the bias."""

    modules: Mapping[str, Mapping[str, tuple[Site, ...]]]
    """By name, then by `weight` or `bias`."""
    ambiguous: Mapping[str, tuple[str, str]]
    """Names that mean two tensors, such as `text_model.…` where there are two text encoders."""


_PEFT: Final = "base_model.model."
_UNKNOWN: Final = ("model.diffusion_model.", "diffusion_model.", "transformer.", "unet.")
"""What trainers put in front of the paths of a model that no rule is of."""
_JOINED_UNKNOWN: Final = ("unet", "transformer")
_PLAIN: Final = "transformers"
"""The rules of models that have the names of transformers, where no rule is of their architecture alone."""
_PROCESSED: Final = re.compile(r"\.to_(q|k|v|out)(?:\.0)?$")
_UNET: Final = "unet"


class StoredModule(NamedTuple):
    """How the file of a model spells it, which is known here by canonical names."""

    made: Mapping[str, Renamed]
    """What each of the model's tensors is made of."""
    shapes: Shapes
    """Of the tensors of the file, by their names."""


def module_names(
    model: Mapping[str, tuple[int, ...]], wanted: Collection[str], stored: StoredModule | None = None
) -> Names:
    """Return the names of the modules of a model.

    Args:
        model: The shapes of its tensors by name, in any spelling.
        wanted: The modules of a LoRA: names that begin as none of them does are left out.
        stored: How its file spells it, where that is another spelling.
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
    """Return the modules of a model by no other names than its own."""
    table = _NameTable("")
    for tensor in model:
        table.add_own(tensor)
    return Names(table.modules, table.ambiguous)


def _in_file(tensor: str, made: Renamed, shapes: Shapes) -> Iterator[tuple[str, Site]]:
    """Yield the tensors of a file that one is made of, and which of its rows each of them makes.

    Those of a stack, or by turns, have no name of a module.
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
    """Return which rows of a stored tensor a cut is, as a module counts them."""
    return cut.rows or (0, (shape[-1] if cut.transposed else shape[0]) if shape else 1)


def _sites(alias: Alias, made: Renamed, model: Mapping[str, tuple[int, ...]]) -> Iterator[Site]:
    """Yield where in the model's own tensors what has another name lies."""
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
    """Names as they are made; those that begin as no wanted one does are passed over."""

    def __init__(self, wanted: str) -> None:
        """Take the names that are asked for, each behind a line's end."""
        self.modules: dict[str, dict[str, tuple[Site, ...]]] = {}
        self.ambiguous: dict[str, tuple[str, str]] = {}
        self._wanted = wanted
        self._own: set[tuple[str, str]] = set()
        self._forms: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {}

    def add_own(self, tensor: str) -> None:
        """Add what the model itself calls a tensor: whatever else has that name, it is meant."""
        module, part = _split(tensor)
        for name in (module, _PEFT + module):
            self.modules.setdefault(name, {})[part] = (Site(tensor),)
            self._own.add((name, part))

    def add_stored(self, model: Mapping[str, tuple[int, ...]], stored: StoredModule) -> None:
        """Add what the file of a model calls its tensors, or several of them in one."""
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
        """Add a tensor in one of the spellings of its part."""
        module, part = _split(path)
        if of is not None and of.pipeline == _UNET and _PROCESSED.search(module):
            self._put(of, _PROCESSED.sub(r".processor.to_\1", module), part, sites)  # as early diffusers had it
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
    """Return what may stand in front of a module's path, where its dots are kept."""
    return _prefixes("", _UNKNOWN, "") if part is None else _prefixes(part.prefix, tuple(part.prefixes), part.pipeline)


def _joined_with(part: Part | None) -> tuple[str, ...]:
    """Return what may stand in front of a module's path that is joined with `_`."""
    slots = _JOINED_UNKNOWN if part is None else part.kohya
    both = (f"{tool}_{slot}_" for slot in slots for tool in ("lora", "lycoris"))
    return (*both, "lycoris_") if slots else ()


def _split(tensor: str) -> tuple[str, str]:
    """Return a tensor's module, and whether it is its weight or its bias; what is neither is a module of its own."""
    module, _, last = tensor.rpartition(".")
    return (module, last) if module and last in {"weight", "bias"} else (tensor, "weight")
