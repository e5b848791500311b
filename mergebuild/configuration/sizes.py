"""What a configuration says of tensors' shapes, for known architectures: `data/sizes.toml`.

Some members are just sizes (the number of tokens, the inner width of layers) and can follow from the tensors. Others
also decide what weights mean (how many heads share a matrix), which no shape tells: if these don't fit, the
configuration is another model's.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from mergebuild.configuration.parts import Config, config_of, model_type, part_of, path_of
from mergebuild.configuration.text import Path

__all__ = ["Sized", "is_implied", "sized"]

Shapes = Mapping[str, tuple[int, ...]]
_Row = tuple[tuple[int, ...], tuple[str, ...]]
_NUMBER: Final = "{n}"
_VOCAB: Final = "vocab_size"
NOTHING: Final[Mapping[Path, object]] = MappingProxyType({})
_DEEPEST: Final = 4
"""How many levels deep members may be defined by other members."""
_LISTED: Final = 4


@dataclass(frozen=True)
class SizeForm:
    """The rows of one architecture in `data/sizes.toml`."""

    rows: Mapping[str, tuple[str, ...]]
    """The dimensions of tensors by the end of their names, with `{n}` for numbers."""
    usual: Mapping[str, str]
    follows: frozenset[str]
    widths: frozenset[str]
    _known: dict[str, tuple[str, ...] | None] = field(default_factory=dict)
    """A cache by the whole name, with `{n}` for numbers."""

    def row(self, name: str) -> tuple[str, ...] | None:
        """Return the dimensions of a tensor, as expressions over members; None if no row covers it."""
        words = [_NUMBER if word.isdecimal() else word for word in name.split(".")]
        template = ".".join(words)
        if template not in self._known:
            ends = (".".join(words[begin:]) for begin in range(len(words)))
            self._known[template] = next((self.rows[end] for end in ends if end in self.rows), None)
        return self._known[template]


class Sized(NamedTuple):
    """What is done about sizes: changes to the configuration, notices, and contradictions."""

    changes: Mapping[Path, object]
    notices: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()


def is_implied(config: Config, name: str) -> bool:
    """Return whether a model of the configuration's architecture is known to have this tensor."""
    form = _form_of(config)
    return form is not None and part_of(name) == "text" and form.row(name) is not None


def sized(config: Config, written: Shapes, donor: Shapes, decided: Mapping[Path, object] = NOTHING) -> Sized:
    """Return what is done about sizes.

    Args:
        config: The configuration.
        written: Shapes of the tensors that are written.
        donor: Shapes of the tensors of the model whose configuration it is. If it does not fit these either, the model
            itself
            is faulty, and no recipe can fix that.
        decided: Members for which other values are already decided.
    """
    form = _form_of(config)
    if form is None:
        return Sized({})
    path, text = path_of(config, "text"), dict(config_of(config, "text"))
    rows, own = _rows(form, written), _rows(form, donor)
    found = _sizes(form, text, own, form.follows | form.widths)
    if any(_wrong(form, {**text, **found}, own)):
        found = _sizes(form, text, own, form.follows)
    odd = dict(_wrong(form, {**text, **found}, own))
    text |= {keys[-1]: value for keys, value in decided.items() if keys[:-1] == path}
    found |= _sizes(form, {**text, **found}, rows, form.follows)
    text |= found
    wrong = dict(_wrong(form, text, rows))
    known = [name for name in wrong if name in odd and donor[name] == written[name]]
    changes: dict[Path, object] = {
        (*path, key): size for key, size in found.items() if size != config_of(config, "text").get(key)
    }
    whole = config.get(_VOCAB)
    if (*path, _VOCAB) in changes and path and whole == config_of(config, "text").get(_VOCAB):
        changes[(_VOCAB,)] = found[_VOCAB]  # it was at both places
    return Sized(
        changes, _listed([wrong[name] for name in known]), _listed([wrong[name] for name in wrong if name not in known])
    )


def _rows(form: SizeForm, shapes: Shapes) -> dict[str, _Row]:
    """Return, for the tensors that rows cover, their shapes and their dimensions as expressions."""
    return {
        name: (shape, sizes)
        for name, shape in shapes.items()
        if part_of(name) == "text" and (sizes := form.row(name)) is not None and len(sizes) == len(shape)
    }


def _sizes(
    form: SizeForm, text: Mapping[str, object], rows: Mapping[str, _Row], follows: frozenset[str]
) -> dict[str, int]:
    """Return new values of the members in `follows`; the first tensor that has another size decides."""
    found: dict[str, int] = {}
    for shape, sizes in rows.values():
        for size, wanted in zip(shape, sizes, strict=True):
            if wanted in follows and wanted not in found and _value(wanted, text, form) is not None:
                found[wanted] = size
    return {key: size for key, size in found.items() if size != _value(key, text, form)}


def _wrong(form: SizeForm, text: Mapping[str, object], rows: Mapping[str, _Row]) -> Iterator[tuple[str, str]]:
    """Yield the tensors that a configuration contradicts, each with a sentence about it."""
    for name, (shape, sizes) in rows.items():
        expected = [_value(size, text, form) for size in sizes]
        if any(wanted not in (None, size) for wanted, size in zip(expected, shape, strict=True)):
            yield name, f"`{name}` is {list(shape)}, and the configuration says {_shown(expected)}"


def _listed(sentences: list[str]) -> tuple[str, ...]:
    more = len(sentences) - _LISTED
    return (*sentences[:_LISTED], f"and {more} more") if more > 0 else tuple(sentences)


def _form_of(config: Config) -> SizeForm | None:
    name = model_type(config, "text")
    return _forms().get(name) if name else None


def _value(size: str, config: Mapping[str, object], form: SizeForm, depth: int = 0) -> int | None:
    """Return the value of an expression of sums and products of members; None if a member is absent."""
    if depth > _DEEPEST or not size:
        return None
    total = 0
    for term in size.split("+"):
        product = 1
        for factor in term.split("*"):
            above, _, below = factor.partition("/")
            value, divisor = _member(above, config, form, depth), _member(below or "1", config, form, depth)
            if value is None or not divisor:
                return None
            product *= value // divisor
        total += product
    return total


def _member(word: str, config: Mapping[str, object], form: SizeForm, depth: int) -> int | None:
    if word.isdecimal():
        return int(word)
    value = config.get(word)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return _value(form.usual[word], config, form, depth + 1) if value is None and word in form.usual else None


def _shown(expected: list[int | None]) -> str:
    return f"[{', '.join('?' if each is None else str(each) for each in expected)}]"


@cache
def _forms() -> Mapping[str, SizeForm]:
    """Return the rows of each architecture."""
    text = (pathlib.Path(__file__).with_name("data") / "sizes.toml").read_text("utf-8")
    import tomllib  # most builds have no use for it

    return dict(_read(tomllib.loads(text)))


def _read(tables: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, SizeForm]]:
    for table in tables.values():
        form = SizeForm(
            {name: tuple(sizes) for name, sizes in table["rows"].items()},
            table.get("usual", {}),
            frozenset(table["follows"]),
            frozenset(table.get("widths", ())),
        )
        yield from ((name, form) for name in table["types"].split())
