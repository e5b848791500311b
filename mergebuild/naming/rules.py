"""The rules of names: an architecture's signs, its parts, and how each part's modules are spelled.

A file `data/FAMILY.toml` holds an architecture; `data/README.md` tells its keys. Which family a file is of is told by
the keys that stand before the first table, so that the rest is read of the family that it is alone.

A name that a rule matches has its numbers replaced by `{n}`: the *template* of `blocks.7.norm1.weight` is
`blocks.{n}.norm1.weight`. A model of thousands of tensors has some hundred templates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

__all__ = [
    "NUMBER",
    "ConstantTensor",
    "FamilyRules",
    "General",
    "Part",
    "Pattern",
    "Row",
    "Sign",
    "Signs",
    "Spelling",
    "data_of",
    "families",
    "family",
    "general",
    "is_of_shape",
    "pattern",
    "signs_of",
]

_DATA: Final = Path(str(files("mergebuild.naming"))) / "data"

NUMBER: Final = re.compile(r"(?<![^.])[0-9]{1,9}(?![^.])")
"""A number that stands alone between dots."""
_SLOT: Final = "{n}"
_FIRST_TABLE: Final = re.compile(r"^\[", re.MULTILINE)
_GENERAL: Final = "general"
_NO_FAMILIES: Final = frozenset({_GENERAL, "ties", "memory"})


@dataclass(frozen=True, slots=True)
class Pattern:
    """A module's name, or the beginning of names: numbers are any (`{n}`) or those that it says."""

    text: str
    template: str
    """With `{n}` for every number."""
    fixed: tuple[tuple[int, str], ...]
    """The places of the numbers that it says, among all numbers, and the numbers."""
    free: tuple[int, ...]
    """The places of those that may be any."""
    parts: int
    """The words between dots."""

    def fits(self, numbers: list[str]) -> bool:
        """Return whether the numbers of a name with this template are those that the pattern says."""
        return all(numbers[place] == number for place, number in self.fixed)

    def filled(self, numbers: list[str]) -> str:
        """Return the name with these for its `{n}`, in their order."""
        return self.text.replace(_SLOT, "{}").format(*numbers) if numbers else self.text


@cache
def pattern(text: str) -> Pattern:
    """Return what a rule says of a name."""
    bare = text.removesuffix(".")
    words = bare.split(".")
    numbers = [word for word in words if word == _SLOT or NUMBER.fullmatch(word)]
    fixed = tuple((place, number) for place, number in enumerate(numbers) if number != _SLOT)
    free = tuple(place for place, number in enumerate(numbers) if number == _SLOT)
    return Pattern(text, NUMBER.sub(_SLOT, text), fixed, free, len(words) if bare else 0)


@dataclass(frozen=True, slots=True)
class Row:
    """A module under the canonical names, and under those of a spelling. One of the two may be several, in order."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    shares: tuple[int, ...] = ()
    """How many rows each of the several has, in proportion; empty: equally many, or what there is of each."""
    how: str = ""
    """What differs beside the name: `swapped`, its halves are the other way round; `transposed`; `convolution`, ours is
    a 1x1 convolution and theirs a linear map, `linear` the reverse; or how several lie in one (`fusing.py`)."""
    at: int = 0
    """For `swapped`: only where the weight has so many times as many rows as columns; 0: always."""
    beside: str = ""
    """A module of the spelling whose weight's shape says how several lie in one; empty: none does."""
    whole: bool = False
    """Whether the names are those of tensors, behind which nothing may stand."""

    def is_swapped(self, weight: tuple[int, ...]) -> bool:
        """Return whether the halves are the other way round in a module whose weight has this shape."""
        return self.how == "swapped" and (not self.at or (len(weight) > 1 and weight[0] == self.at * weight[1]))

    def back(self) -> Row:
        """Return the same, with the spelling's names for the canonical ones."""
        how = {"convolution": "linear", "linear": "convolution"}.get(self.how, self.how)
        return Row(self.theirs, self.ours, self.shares, how, self.at, self.beside, self.whole)


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a program writes the modules of a part."""

    name: str
    source: str
    """The program or file that it was taken from."""
    rows: tuple[Row, ...]
    lora: bool = False
    """Whether only LoRAs are written so."""
    signs: tuple[Sign, ...] = ()
    """Tensors of which a file must have one to be spelled so; empty: it need not have any."""
    unless: tuple[Sign, ...] = ()
    """Tensors of which a file that is spelled so has none."""
    model_types: frozenset[str] = frozenset()
    """What configurations call the models that are spelled so; where there is a configuration it decides."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a model, such as its text encoder."""

    name: str
    prefix: str
    """What its canonical names begin with."""
    prefixes: Mapping[str, str]
    """What else they begin with in files, and in whose."""
    begins: tuple[str, ...]
    """What names without any prefix begin with; not asked for where the canonical ones have none."""
    outside: tuple[str, ...]
    """What names begin with that are no part of it, though they have its prefix."""
    single: bool
    """Whether a prefix is known only in files that have no other prefix of the part."""
    spellings: tuple[Spelling, ...]
    through: str
    """The function that spells its modules, where that depends on how many there are."""
    pipeline: str
    """The folder of diffusers' pipelines that it is in."""
    kohya: tuple[str, ...]
    """What kohya's trainers put between `lora_` and the path."""
    called: tuple[str, ...] = ()
    """What else people call it."""
    kind: str = ""
    """The family that files of it alone are of, such as `clip`; empty where there are none."""
    width: int = 0
    """How wide its tokens' embeddings are, where other parts of its kind have another width; 0: not said."""
    inside: tuple[str, ...] = ()
    """What canonical names in it begin with, where others are none of it; empty: any may be."""
    spare: tuple[str, ...] = ()
    """What names of tensors begin with that some programs leave out."""
    marks: tuple[str, ...] = ()
    """What names begin with that it has, and others of its kind in the family do not."""
    written: str = ""
    """What its names begin with where a file gets it that has none; empty: as the canonical ones."""


@dataclass(frozen=True, slots=True)
class FamilyRules:
    """An architecture."""

    name: str
    title: str
    parts: tuple[Part, ...]
    generic: bool
    """Whether it is no architecture, but what is left for files of none that is known."""


@dataclass(frozen=True, slots=True)
class Sign:
    """A tensor by which a family is known: its name contains this, from the beginning or from behind a dot."""

    text: str
    template: str
    """With `{n}` for every number."""
    at_start: bool
    """Whether the name begins so."""
    at_end: bool
    """Whether it ends so."""
    dims: int | None = None
    shape: tuple[int | None, ...] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether templates tell it."""
        return self.text == self.template and self.dims is None and self.shape is None

    def is_in(self, lines: str) -> bool:
        """Return whether one of some templates has it, each in a line of its own, with an end in front of the first."""
        end = "\n" if self.at_end else ""
        return f"\n{self.template}{end}" in lines or (not self.at_start and f".{self.template}{end}" in lines)

    def in_name(self) -> re.Pattern[str]:
        """Return the pattern of it in names."""
        inner = re.escape(self.text).replace(re.escape(_SLOT), "[0-9]+")
        return re.compile(("^" if self.at_start else r"(?:^|\.)") + inner + ("$" if self.at_end else ""))


@dataclass(frozen=True, slots=True)
class Signs:
    """The signs of a family: all of one of `any_of`, and none of `unless`."""

    family: str
    any_of: tuple[tuple[Sign, ...], ...]
    unless: tuple[Sign, ...]
    model_types: frozenset[str]
    """What configurations call it: one that says so is believed."""


@dataclass(frozen=True, slots=True)
class ConstantTensor:
    """A buffer by the end of its name, in some shape or in any."""

    end: str
    shape: tuple[int | None, ...] | None

    def fits(self, name: str, shape: tuple[int, ...]) -> bool:
        """Return whether a tensor is it."""
        if not name.endswith(self.end) or name.removesuffix(self.end)[-1:] not in {"", "."}:
            return False
        return self.shape is None or is_of_shape(shape, self.shape)


@dataclass(frozen=True, slots=True)
class Latents:
    """What autoencoders of one kind turn pictures into."""

    title: str
    """Whose they are, for people."""
    families: frozenset[str]
    """The families whose models have such autoencoders."""
    channels: int
    scaling_factor: float | None
    """What a configuration of diffusers says."""
    modelspec: tuple[str, ...]
    """What `modelspec.architecture` begins with."""


@dataclass(frozen=True, slots=True)
class General:
    """What holds for every family."""

    wrappers: tuple[str, ...]
    """What training puts before or between names."""
    in_front: tuple[str, ...]
    """The same, known in front only."""
    copies: tuple[str, ...]
    """What names of copies begin with, which are left as they are."""
    outdated: tuple[tuple[str, str], ...]
    """What names in files begin with that no program writes any more, and what canonical ones begin with then."""
    schedule: frozenset[str]
    """Buffers of the noise schedule: constants."""
    constants: tuple[ConstantTensor, ...]
    """Other buffers that follow from an architecture alone."""
    constant_ends: tuple[str, ...]
    """How their names end."""
    first_layers: tuple[str, ...]
    """Modules that take an image or its latents."""
    no_first_layers: tuple[str, ...]
    """What stands in front of a module of that name that takes none."""
    latents: tuple[Latents, ...]


@cache
def general() -> General:
    """Return what holds for every family."""
    table = _tables((_DATA / f"{_GENERAL}.toml").read_text(encoding="utf-8"))
    return General(
        tuple(table["wrappers"]),
        tuple(table["in_front"]),
        tuple(table["copies"]),
        tuple((old, new) for old, new in table["outdated"]),
        frozenset(table["schedule"]),
        tuple(ConstantTensor(each["end"], _shape(each)) for each in table["constants"]),
        tuple(each["end"] for each in table["constants"]),
        tuple(table["first_layers"]),
        tuple(table["no_first_layers"]),
        tuple(
            Latents(
                each["title"],
                frozenset(each["families"]),
                each["channels"],
                each.get("scaling_factor"),
                tuple(each.get("modelspec", ())),
            )
            for each in table["latents"]
        ),
    )


@cache
def signs_of() -> tuple[Signs, ...]:
    """Return the signs of all families, in the order in which they are asked."""
    found: list[tuple[int, str, Signs]] = []
    for path in _DATA.glob("*.toml"):
        head = _head(path)
        if head.get("signs"):
            signs = Signs(
                path.stem,
                tuple(tuple(map(_sign, each if isinstance(each, list) else [each])) for each in head["signs"]),
                tuple(map(_sign, head.get("unless", ()))),
                frozenset(head.get("model_types", ())),
            )
            found.append((head.get("rank", 1), path.stem, signs))
    return tuple(signs for _, _, signs in sorted(found, key=lambda each: each[:2]))


def families() -> Iterator[FamilyRules]:
    """Yield all families, by name; for tests and tables, as it reads every file."""
    for path in sorted(_DATA.glob("*.toml")):
        if path.stem not in _NO_FAMILIES:
            yield family(path.stem)


@cache
def family(name: str) -> FamilyRules:
    """Return a family with its parts and those that it has of others."""
    table = data_of(name)
    own = tuple(_part(name, part, each) for part, each in table.get("parts", {}).items())
    written = table.get("written", {})
    others = tuple(
        replace(part, written=written.get(part.name, ""))
        for other in table.get("uses", ())
        for part in family(other).parts
    )
    return FamilyRules(name, table["title"], (*own, *others), table.get("generic", False))


@cache
def data_of(name: str) -> Mapping[str, Any]:
    """Return what a file of rules says."""
    return _tables((_DATA / f"{name}.toml").read_text(encoding="utf-8"))


def _head(path: Path) -> Mapping[str, Any]:
    """Return the keys before the first table."""
    text = path.read_text(encoding="utf-8")
    first = _FIRST_TABLE.search(text)
    return _tables(text[: first.start()] if first else text)


def _tables(text: str) -> Mapping[str, Any]:
    import tomli

    return tomli.loads(text)


def _part(of: str, name: str, table: Mapping[str, Any]) -> Part:
    spelled = [_spelling(of, each) for each in table.get("spellings", ())]
    back = [_spelling(of, each) for each in table.get("spellings_back", ())]
    turned = (replace(each, rows=tuple(row.back() for row in each.rows)) for each in back)
    kind = table.get("kind", "")
    alone = table if not kind or kind == of else next(iter(data_of(kind)["parts"].values()))
    return Part(
        name,
        table["prefix"],
        table.get("prefixes", {}),
        tuple(table.get("begins", ())),
        tuple(table.get("outside", ())),
        table.get("single", False),
        (*spelled, *turned),
        table.get("through", ""),
        table.get("pipeline", ""),
        tuple(table.get("kohya", ())),
        tuple(table.get("called", ())),
        kind,
        table.get("width", 0),
        tuple(table.get("inside", alone.get("inside", ()))),
        tuple(alone.get("spare", ())),
        tuple(table.get("marks", ())),
    )


@cache
def _spelling(of: str, reference: str) -> Spelling:
    """Return a spelling by its name in a file, or by `FILE/NAME`."""
    file, _, name = reference.rpartition("/")
    table = data_of(file or of)["spellings"][name]
    return Spelling(
        name,
        table["source"],
        tuple(map(_row, table["rows"])),
        table.get("lora", False),
        tuple(map(_sign, table.get("signs", ()))),
        tuple(map(_sign, table.get("unless", ()))),
        frozenset(table.get("model_types", ())),
    )


def _row(cells: list[Any]) -> Row:
    ours, theirs, *more = cells
    said = more[0] if more else {}
    return Row(
        _several(ours),
        _several(theirs),
        tuple(said.get("shares", ())),
        said.get("how", ""),
        said.get("at", 0),
        said.get("beside", ""),
        said.get("whole", False),
    )


def _several(cell: str | list[str]) -> tuple[str, ...]:
    return (cell,) if isinstance(cell, str) else tuple(cell)


def _sign(cell: str | Mapping[str, Any]) -> Sign:
    said: Mapping[str, Any] = {"name": cell} if isinstance(cell, str) else cell
    text = said["name"].removeprefix("^").removesuffix("$")
    at_start, at_end = said["name"].startswith("^"), said["name"].endswith("$")
    return Sign(text, NUMBER.sub(_SLOT, text), at_start, at_end, said.get("dims"), _shape(said))


def _shape(said: Mapping[str, Any]) -> tuple[int | None, ...] | None:
    return tuple(None if size == "*" else size for size in said["shape"]) if "shape" in said else None


def is_of_shape(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Return whether a shape is the wanted one, in which None is any size."""
    return len(shape) == len(wanted) and all(want in (None, have) for have, want in zip(shape, wanted, strict=True))
