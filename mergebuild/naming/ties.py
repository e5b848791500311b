"""Ties: names that are one parameter, such as the embedding and the head of a tied model.

The rows are in `data/ties.toml`. Evidence of a tie, strongest first: both names have the same place in a pickle; the
configuration, or its architecture's default; one of the two names is missing in the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from mergebuild.naming.renamed import Renamed
from mergebuild.naming.rules import data_of
from mergebuild.naming.templates import TEXTS

__all__ = ["Ties", "says_tied", "tied"]

_WORD = "tie_word_embeddings"


class Ties(NamedTuple):
    """A file's parameters after tied names have been joined."""

    made: Mapping[str, Renamed]
    """What each parameter is made of."""
    twice: Mapping[str, str]
    """Stored tensors whose parameter another tensor holds already: stored name -> that parameter."""
    tied: Mapping[str, str]
    """Canonical names that are no parameter of their own: name -> the parameter whose values it has."""
    copies: Mapping[str, Renamed]
    """For the names in `tied` that the file holds nevertheless: what they are made of."""


@dataclass(frozen=True, slots=True)
class _Tie:
    name: str
    of: tuple[str, ...]
    words: bool
    near: tuple[str, ...]
    instead: tuple[str, ...]


def tied(made: Mapping[str, Renamed], facts: Mapping[str, object] | None, same_place: Mapping[str, str] | None) -> Ties:
    """Return the parameters of a file, with tied names joined.

    Args:
        made: What each canonical name is made of.
        facts: `config.json`, parsed; None if there is none.
        same_place: Names of tensors with the same place as an earlier one -> the earlier name.
    """
    return _Tying(made, says_tied(facts), same_place or {}).result()


def says_tied(facts: Mapping[str, object] | None) -> bool | None:
    """Return whether a configuration ties the head to the embedding.

    None if it does not say it, or contradicts itself.
    """
    tables = _tables_of(facts or {})
    said = {word for each in tables if isinstance(word := each.get(_WORD), bool)}
    if said:
        return said.pop() if len(said) == 1 else None
    types = [each.get("model_type") for each in tables]
    usual = (_usual().get(each) for each in types if isinstance(each, str))
    return next((each for each in usual if each is not None), None)


def _tables_of(facts: Mapping[str, object]) -> list[Mapping[str, object]]:
    """Return the configurations of the language model, the innermost first, then the whole one."""
    found = [facts]
    for name in TEXTS:
        inner = facts.get(name)
        if isinstance(inner, Mapping):
            found = [*_tables_of(inner), *found]
    return found


class _Tying:
    """The work of `tied`."""

    def __init__(self, made: Mapping[str, Renamed], words: bool | None, same_place: Mapping[str, str]) -> None:
        self._made = dict(made)
        self._words = words
        self._same_place = same_place
        self._ending_in = _ending_in(made)
        self._twice: dict[str, str] = {}
        self._tied: dict[str, str] = {}
        self._copies: dict[str, Renamed] = {}

    def result(self) -> Ties:
        for tie in _ties():
            for prefix in self._prefixes(tie):
                self._tie(tie, prefix)
        if self._same_place:
            self._tie_by_place()
        return Ties(self._made, self._twice, self._tied, self._copies)

    def _prefixes(self, tie: _Tie) -> Sequence[str]:
        """Return the prefixes that a tie's names have in the file."""
        found = (
            name[: len(name) - len(each)] for each in (*tie.of, tie.name) for name in self._ending_in.get(each, ())
        )
        return tuple(dict.fromkeys(found))

    def _tie(self, tie: _Tie, prefix: str) -> None:
        name = prefix + tie.name
        of = next((prefix + each for each in tie.of if prefix + each in self._made), "")
        if not of:
            if tie.instead and name in self._made and self._has(prefix, tie.instead):
                of = prefix + tie.of[0]
                self._made = {of if each == name else each: renamed for each, renamed in self._made.items()}
                self._ending_in = _ending_in(self._made)
                self._tied[name] = of
        elif name not in self._made:
            if (self._words is not False or not tie.words) and self._has(prefix, tie.near):
                self._tied[name] = of
        elif self._is_one(name, of, always=not tie.words):
            self._join(name, of)

    def _has(self, prefix: str, beginnings: tuple[str, ...]) -> bool:
        wanted = tuple(prefix + each for each in beginnings)
        return not wanted or any(name.startswith(wanted) for name in self._made)

    def _is_one(self, name: str, of: str, *, always: bool) -> bool:
        one, other = self._made[name], self._made[of]
        if one.shape != other.shape:
            return False
        return always or self._words is True or self._place(one) == self._place(other) != ""

    def _place(self, renamed: Renamed) -> str:
        """Return the first name of the stored tensor that a parameter is; empty if it is not a whole stored tensor."""
        if len(renamed.cuts) != 1 or any(renamed.cuts[0][2:]):
            return ""
        return self._same_place.get(renamed.cuts[0].tensor, renamed.cuts[0].tensor)

    def _join(self, name: str, of: str) -> None:
        copy = self._copies[name] = self._made.pop(name)
        self._twice |= {cut.tensor: of for cut in copy.cuts}
        self._tied[name] = of

    def _tie_by_place(self) -> None:
        """Join all other names that have the same place: with one that names are tied to, or with the first."""
        first: dict[tuple[str, tuple[int, ...]], str] = {}
        owners = set(self._tied.values())
        for name in sorted(self._made, key=lambda name: name not in owners):
            renamed = self._made[name]
            if place := self._place(renamed):
                known = first.setdefault((place, renamed.shape), name)
                if known != name:
                    self._join(name, known)
        self._tied = {name: self._tied.get(of, of) for name, of in self._tied.items()}


def _ending_in(names: Iterable[str]) -> Mapping[str, Sequence[str]]:
    """Return the names by the longest end known to ties: the whole name, or the rest after a dot."""
    found: dict[str, list[str]] = {}
    for name in (each for each in names if each.endswith(_ends())):
        end = next((each for each in _ends() if name == each or name.endswith(f".{each}")), None)
        if end is not None:
            found.setdefault(end, []).append(name)
    return found


@cache
def _ends() -> tuple[str, ...]:
    found = {each for tie in _ties() for each in (*tie.of, tie.name)}
    return tuple(sorted(found, key=lambda end: (-len(end), end)))


@cache
def _ties() -> tuple[_Tie, ...]:
    return tuple(_rows())


def _rows() -> Iterator[_Tie]:
    for row in data_of("ties")["ties"]:
        near, instead = tuple(row.get("near", ())), tuple(row.get("instead", ()))
        yield _Tie(row["name"], tuple(row["of"]), row.get("words", False), near, instead)


@cache
def _usual() -> Mapping[str, bool]:
    """Return by model type the default: whether models are tied if the configuration does not say it."""
    defaults = data_of("ties")["defaults"]
    return dict.fromkeys(defaults["tied"], True) | dict.fromkeys(defaults["untied"], False)
