"""Names that are one parameter: the embedding and the head of a tied model, and a parameter that is stored twice.

The rows are in `data/ties.toml`. What speaks for a tie, the strongest first: that both names lie in one place of a
pickle; the configuration's word, or what is usual where it has none; that a file lacks one of the two.
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
    """A file's parameters once names of one are one."""

    made: Mapping[str, Renamed]
    """What each parameter is made of."""
    twice: Mapping[str, str]
    """By stored name, the parameter that it is, which another tensor holds already."""
    tied: Mapping[str, str]
    """By canonical name, the parameter whose values it has: of names that are no parameter of their own."""
    copies: Mapping[str, Renamed]
    """What those of `tied` are made of that the file holds all the same."""


@dataclass(frozen=True, slots=True)
class _Tie:
    name: str
    of: tuple[str, ...]
    words: bool
    near: tuple[str, ...]
    instead: tuple[str, ...]


def tied(made: Mapping[str, Renamed], facts: Mapping[str, object] | None, same_place: Mapping[str, str] | None) -> Ties:
    """Return the parameters of a file, those that are one under one name.

    Args:
        made: what each canonical name is made of.
        facts: `config.json`, parsed; None where there is none.
        same_place: names of tensors that lie in one place with an earlier one, and that one's.
    """
    return _Tying(made, says_tied(facts), same_place or {}).result()


def says_tied(facts: Mapping[str, object] | None) -> bool | None:
    """Return whether a configuration says that the head is the embedding; None where it does not, or says both."""
    tables = _tables_of(facts or {})
    said = {word for each in tables if isinstance(word := each.get(_WORD), bool)}
    if said:
        return said.pop() if len(said) == 1 else None
    types = [each.get("model_type") for each in tables]
    usual = (_usual().get(each) for each in types if isinstance(each, str))
    return next((each for each in usual if each is not None), None)


def _tables_of(facts: Mapping[str, object]) -> list[Mapping[str, object]]:
    """Return the configurations of the language model, the innermost first, and of the whole."""
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
        """Return what stands in front of the names of a tie in the file, where it has some of them."""
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
        """Return the first name of the tensor that a parameter is; empty where it is no tensor by itself."""
        if len(renamed.cuts) != 1 or any(renamed.cuts[0][2:]):
            return ""
        return self._same_place.get(renamed.cuts[0].tensor, renamed.cuts[0].tensor)

    def _join(self, name: str, of: str) -> None:
        copy = self._copies[name] = self._made.pop(name)
        self._twice |= {cut.tensor: of for cut in copy.cuts}
        self._tied[name] = of

    def _tie_by_place(self) -> None:
        """Join what else lies in one place."""
        first: dict[tuple[str, tuple[int, ...]], str] = {}
        for name, renamed in list(self._made.items()):
            if place := self._place(renamed):
                known = first.setdefault((place, renamed.shape), name)
                if known != name:
                    self._join(name, known)


def _ending_in(names: Iterable[str]) -> Mapping[str, Sequence[str]]:
    """Return the names by the longest end that ties know, which is the whole name or behind a dot."""
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
    """Return by model type whether models are tied whose configuration does not say it."""
    defaults = data_of("ties")["defaults"]
    return dict.fromkeys(defaults["tied"], True) | dict.fromkeys(defaults["untied"], False)
