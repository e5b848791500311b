"""The rules of names: the signs of an architecture, its parts, and how each part's modules are spelled.

A file `data/FAMILY.toml` describes one architecture; `data/README.md` explains its keys. The keys before the first
table decide whether a file is of this family, so the rest is read only for the one family that it is.

In a name, rules replace numbers by `{n}`: the *template* of `blocks.7.norm1.weight` is `blocks.{n}.norm1.weight`. A
model with thousands of tensors has about a hundred templates.

Every build reads rules, so they are named tuples: ten dataclasses would take six milliseconds to define.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

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

_DATA: Final = Path(__file__).with_name("data")

NUMBER: Final = re.compile(r"(?<![^.])[0-9]{1,9}(?![^.])")
"""A number that is a whole word between dots."""
_SLOT: Final = "{n}"
_FIRST_TABLE: Final = re.compile(r"^\[", re.MULTILINE)
_GENERAL: Final = "general"
_NO_FAMILIES: Final = frozenset({_GENERAL, "ties", "memory"})


class Pattern(NamedTuple):
    """A module's name, or the beginning of names, in a rule. Its numbers are arbitrary (`{n}`) or given."""

    text: str
    template: str
    """The text with `{n}` for every number."""
    fixed: tuple[tuple[int, str], ...]
    """The given numbers, each with its index among all numbers."""
    free: tuple[int, ...]
    """The indexes of the arbitrary numbers."""
    parts: int
    """How many words it has, between dots."""

    def fits(self, numbers: list[str]) -> bool:
        """Return whether a name with this template and these numbers has the given ones."""
        return all(numbers[place] == number for place, number in self.fixed)

    def filled(self, numbers: list[str]) -> str:
        """Return the text with these numbers in place of its `{n}`, in order."""
        return self.text.replace(_SLOT, "{}").format(*numbers) if numbers else self.text


@cache
def pattern(text: str) -> Pattern:
    """Return the pattern of a text in a rule."""
    bare = text.removesuffix(".")
    words = bare.split(".")
    numbers = [word for word in words if word == _SLOT or NUMBER.fullmatch(word)]
    fixed = tuple((place, number) for place, number in enumerate(numbers) if number != _SLOT)
    free = tuple(place for place, number in enumerate(numbers) if number == _SLOT)
    return Pattern(text, NUMBER.sub(_SLOT, text), fixed, free, len(words) if bare else 0)


class Row(NamedTuple):
    """A module under its canonical name and under that of a spelling.

    One of both sides may be several modules, in order.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    shares: tuple[int, ...] = ()
    """The proportions of the rows of the several modules; empty: equally many, or however many each has."""
    how: str = ""
    """What differs besides the name. `swapped`: its halves are exchanged; `transposed`; `convolution`: ours is a 1x1
    convolution and theirs a linear map; `linear`: the reverse; or how several are in one tensor (`fusing.py`)."""
    at: int = 0
    """For `swapped`: applies only if the weight has this many times as many rows as columns; 0: always."""
    beside: str = ""
    """A module of the spelling whose weight's shape says how several are in one tensor; empty: none."""
    whole: bool = False
    """Whether these are complete names of tensors, not beginnings."""

    def is_swapped(self, weight: tuple[int, ...]) -> bool:
        """Return whether the halves are exchanged in a module whose weight has this shape."""
        return self.how == "swapped" and (not self.at or (len(weight) > 1 and weight[0] == self.at * weight[1]))

    def back(self) -> Row:
        """Return the row with canonical names and the spelling's names exchanged."""
        how = {"convolution": "linear", "linear": "convolution"}.get(self.how, self.how)
        return Row(self.theirs, self.ours, self.shares, how, self.at, self.beside, self.whole)


class Spelling(NamedTuple):
    """How a program spells the modules of a part."""

    name: str
    source: str
    """The program or file from which the names were taken."""
    rows: tuple[Row, ...]
    lora: bool = False
    """Whether only LoRAs use it."""
    signs: tuple[Sign, ...] = ()
    """Tensors of which a file with this spelling has at least one; empty: not required."""
    unless: tuple[Sign, ...] = ()
    """Tensors of which a file with this spelling has none."""
    model_types: frozenset[str] = frozenset()
    """The `model_type`s of models with this spelling. If there is a configuration, it decides."""


class Part(NamedTuple):
    """A part of a model, such as its text encoder."""

    name: str
    prefix: str
    """The beginning of its canonical names."""
    prefixes: Mapping[str, str]
    """Other beginnings of its names in files, and who writes them."""
    begins: tuple[str, ...]
    """Beginnings of its names without a prefix; not used if its canonical prefix is empty."""
    outside: tuple[str, ...]
    """Beginnings of names that are not in it although they have its prefix."""
    single: bool
    """Whether a prefix is recognized only in files that have no other prefix of the part."""
    spellings: tuple[Spelling, ...]
    through: str
    """The function that spells its modules, if that depends on how many there are."""
    pipeline: str
    """Its folder in pipelines of diffusers."""
    kohya: tuple[str, ...]
    """Words that kohya's trainers put between `lora_` and the path."""
    called: tuple[str, ...] = ()
    """Other names that people use for it."""
    kind: str = ""
    """The family of files that hold it alone, such as `clip`; empty if there are none."""
    width: int = 0
    """The width of its token embeddings, if other parts of its kind have another width; 0: not given."""
    inside: tuple[str, ...] = ()
    """Beginnings of canonical names inside it; others are not in it. Empty: any."""
    spare: tuple[str, ...] = ()
    """Beginnings of names of tensors that some programs leave out."""
    marks: tuple[str, ...] = ()
    """Beginnings of names that it has and others of its kind in the family don't have."""
    written: str = ""
    """The prefix it gets in a file to which it is added; empty: the canonical one."""


class FamilyRules(NamedTuple):
    """The rules of an architecture."""

    name: str
    title: str
    parts: tuple[Part, ...]
    generic: bool
    """Whether it is no architecture, but general rules for files of unknown ones."""


class Sign(NamedTuple):
    """A tensor that identifies a family: its name contains `text`, at the beginning or after a dot."""

    text: str
    template: str
    """The text with `{n}` for every number."""
    at_start: bool
    """Whether the name must begin with it."""
    at_end: bool
    """Whether the name must end with it."""
    dims: int | None = None
    shape: tuple[int | None, ...] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether templates are enough to find it."""
        return self.text == self.template and self.dims is None and self.shape is None

    def is_in(self, lines: str) -> bool:
        """Return whether one of some templates has it.

        `lines`: the templates, one per line, with a line break before the first.
        """
        end = "\n" if self.at_end else ""
        return f"\n{self.template}{end}" in lines or (not self.at_start and f".{self.template}{end}" in lines)

    def in_name(self) -> re.Pattern[str]:
        """Return the regular expression that finds it in names."""
        inner = re.escape(self.text).replace(re.escape(_SLOT), "[0-9]+")
        return re.compile(("^" if self.at_start else r"(?:^|\.)") + inner + ("$" if self.at_end else ""))


class Signs(NamedTuple):
    """The signs of a family: all signs of one entry of `any_of`, and none of `unless`."""

    family: str
    any_of: tuple[tuple[Sign, ...], ...]
    unless: tuple[Sign, ...]
    model_types: frozenset[str]
    """Its `model_type`s in configurations, which are trusted."""


class ConstantTensor(NamedTuple):
    """A buffer, identified by the end of its name, and by its shape if that is given."""

    end: str
    shape: tuple[int | None, ...] | None

    def fits(self, name: str, shape: tuple[int, ...]) -> bool:
        """Return whether a tensor is this one."""
        if not name.endswith(self.end) or name.removesuffix(self.end)[-1:] not in {"", "."}:
            return False
        return self.shape is None or is_of_shape(shape, self.shape)


class Latents(NamedTuple):
    """The latents that one kind of autoencoder makes of images."""

    title: str
    """The model's name, for people."""
    families: frozenset[str]
    """The families whose models have such an autoencoder."""
    channels: int
    scaling_factor: float | None
    """The factor in configurations of diffusers."""
    modelspec: tuple[str, ...]
    """Beginnings of `modelspec.architecture`."""


class General(NamedTuple):
    """Rules for every family."""

    wrappers: tuple[str, ...]
    """Words that training puts before or inside names."""
    in_front: tuple[str, ...]
    """The same, recognized at the beginning only."""
    copies: tuple[str, ...]
    """Beginnings of the names of copies, which are left unchanged."""
    outdated: tuple[tuple[str, str], ...]
    """Beginnings of stored names that no program writes any more, with the canonical beginning of each."""
    schedule: frozenset[str]
    """Buffers of the noise schedule: constants."""
    constants: tuple[ConstantTensor, ...]
    """Other buffers that follow from an architecture alone."""
    constant_ends: tuple[str, ...]
    """The ends of their names."""
    first_layers: tuple[str, ...]
    """Modules whose input is an image or its latents."""
    no_first_layers: tuple[str, ...]
    """Words in names of modules with such a name that have another input."""
    latents: tuple[Latents, ...]


@cache
def general() -> General:
    """Return the rules for every family."""
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
        tuple(map(_latents, table["latents"])),
    )


def _latents(row: Mapping[str, Any]) -> Latents:
    """Return one kind of latents from its row."""
    return Latents(
        row["title"],
        frozenset(row["families"]),
        row["channels"],
        row.get("scaling_factor"),
        tuple(row.get("modelspec", ())),
    )


@cache
def signs_of() -> tuple[Signs, ...]:
    """Return the signs of all families, in the order in which families are tried."""
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
    """Yield all families, by name. It reads every file, so it is for tests and tables."""
    for path in sorted(_DATA.glob("*.toml")):
        if path.stem not in _NO_FAMILIES:
            yield family(path.stem)


@cache
def family(name: str) -> FamilyRules:
    """Return the rules of a family, including the parts that it uses of other families."""
    table = data_of(name)
    own = tuple(_part(name, part, each) for part, each in table.get("parts", {}).items())
    written = table.get("written", {})
    others = tuple(
        part._replace(written=written.get(part.name, ""))
        for other in table.get("uses", ())
        for part in family(other).parts
    )
    return FamilyRules(name, table["title"], (*own, *others), table.get("generic", False))


@cache
def data_of(name: str) -> Mapping[str, Any]:
    """Return the content of a file of rules."""
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
    turned = (each._replace(rows=tuple(row.back() for row in each.rows)) for each in back)
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
    """Return a spelling by its name in a file, or as `FILE/NAME`."""
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
