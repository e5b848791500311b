"""Reads YAML of strangers as mergekit would: mappings, lists and scalars, and nothing that a tag could construct.

The text is taken as a stream of events, so that nothing recurses: nesting, the number of values and what aliases stand
for are counted while it is read. Scalars mean what PyYAML's safe loader makes of them (YAML 1.1: `off` is false, `1e-3`
without a point is a text), but decimals keep their digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from typing import Final, NamedTuple, Union

import yaml

from mergebuild.errors import Place, RecipeError

__all__ = ["YamlMap", "YamlValue", "documents"]

_MOST_VALUES: Final = 200_000
"""Values of a text, those that aliases stand for counted each time."""
_MOST_ITEMS: Final = 2_000
"""Items of a list, and keys of a mapping: of models, slices or filters nobody has as many."""
_MOST_DOCUMENTS: Final = 500
_DEEPEST: Final = 50
_CORE: Final = "tag:yaml.org,2002:"
_PLAIN: Final = frozenset({"null", "bool", "int", "float", "str", "timestamp", "value", "merge"})
_MERGE: Final = f"{_CORE}merge"

YamlValue = Union[None, bool, int, Decimal, str, "list[YamlValue]", "YamlMap"]
YamlMap = dict[str, YamlValue]


class _Open(NamedTuple):
    """A list or mapping whose end has not come yet."""

    value: list[YamlValue] | YamlMap
    anchor: str | None
    keys: list[str | None]
    """Of a mapping: the key that waits for its value, if there is one; None: of a `<<`."""
    began: int
    """How many values there were before it."""


def documents(text: str, shown: str) -> list[YamlValue]:
    """Return the documents of a text; an empty one is None.

    Args:
        text: The text.
        shown: What to call it in errors.

    Raises:
        RecipeError: it is no YAML, has a tag that would construct something, or is too much.
    """
    try:
        return list(_Documents(shown).read(text))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        message = f"`{shown}` is no valid YAML: {error.problem or error.context or 'it ends too soon'}"
        mend = "YAML is indented by blanks, never by tabs" if "\n\t" in f"\n{text}" else ""
        raise RecipeError.one("bad-yaml", message, where=Place(shown, line), help=mend) from error
    except yaml.YAMLError as error:  # a sign that YAML does not have
        raise RecipeError.one("bad-yaml", f"`{shown}` is no valid YAML: {str(error).splitlines()[0]}") from error


class _Documents:
    """One reading of a text."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._values = 0
        self._stack: list[_Open] = []
        self._anchors: dict[str, tuple[YamlValue, int]] = {}
        self._resolver = yaml.SafeLoader("")

    def read(self, text: str) -> Iterator[YamlValue]:
        """Yield the documents."""
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        done: list[YamlValue] = [None]
        begun = 0
        for event in yaml.parse(text, Loader=loader):
            match event:
                case yaml.DocumentStartEvent():
                    begun += 1
                    if begun > _MOST_DOCUMENTS:
                        raise self._refused(event, f"it has more than {_MOST_DOCUMENTS} documents")
                    done, self._anchors = [None], {}
                case yaml.DocumentEndEvent():
                    yield done[0]
                case yaml.NodeEvent() | yaml.CollectionEndEvent():
                    self._take(event, done)

    def _take(self, event: yaml.Event, done: list[YamlValue]) -> None:
        match event:
            case yaml.CollectionStartEvent():
                self._begin(event)
            case yaml.CollectionEndEvent():
                closed = self._stack.pop()
                if len(closed.value) > _MOST_ITEMS:
                    raise self._refused(event, f"a list or mapping of it has more than {_MOST_ITEMS:,} items")
                self._add(closed.value, closed.anchor, self._values - closed.began, done)
            case yaml.AliasEvent():
                self._alias(event, done)
            case yaml.ScalarEvent():
                self._count(1, event)
                if self._wants_key():
                    self._key(event)
                else:
                    self._add(self._scalar(event), event.anchor, 1, done)

    def _begin(self, event: yaml.CollectionStartEvent) -> None:
        self._count(1, event)
        if len(self._stack) >= _DEEPEST:
            raise self._refused(event, f"it nests more than {_DEEPEST} deep")
        if event.tag not in (None, "!", f"{_CORE}seq", f"{_CORE}map"):
            raise self._refused(event, f"it has the tag `{event.tag}`, and only plain values are read")
        if self._wants_key():
            raise self._refused(event, "a key is no text")
        value: list[YamlValue] | YamlMap = [] if isinstance(event, yaml.SequenceStartEvent) else {}
        self._stack.append(_Open(value, event.anchor, [], self._values - 1))

    def _alias(self, event: yaml.AliasEvent, done: list[YamlValue]) -> None:
        if event.anchor not in self._anchors:
            raise self._refused(event, f"`*{event.anchor}` stands for nothing that came before")
        value, size = self._anchors[event.anchor]
        self._count(size, event)
        if self._wants_key():
            raise self._refused(event, "a key is an alias")
        self._add(value, None, size, done)

    def _wants_key(self) -> bool:
        return bool(self._stack) and isinstance(self._stack[-1].value, dict) and not self._stack[-1].keys

    def _key(self, event: yaml.ScalarEvent) -> None:
        tag = self._tag(event)
        self._stack[-1].keys.append(None if tag == _MERGE else event.value)

    def _add(self, value: YamlValue, anchor: str | None, size: int, done: list[YamlValue]) -> None:
        """Put a whole value where it belongs: in the list or mapping that is open, else it is the document."""
        if anchor is not None:
            self._anchors[anchor] = (value, size)
        if not self._stack:
            done[0] = value
            return
        into = self._stack[-1]
        if isinstance(into.value, list):
            into.value.append(value)
            return
        key = into.keys.pop()
        if key is None:
            self._merge(into.value, value)
        else:
            into.value[key] = value

    def _merge(self, into: YamlMap, value: YamlValue) -> None:
        """Take what `<<` names into a mapping; what the mapping itself says, before or after, wins."""
        for each in value if isinstance(value, list) else [value]:
            if not isinstance(each, dict):
                raise RecipeError.one("bad-yaml", f"`{self._shown}` is no valid YAML: `<<` is of a value, no mapping")
            self._count(len(each), None)
            for key, inner in each.items():
                into.setdefault(key, inner)

    def _scalar(self, event: yaml.ScalarEvent) -> YamlValue:
        text: str = event.value
        match self._tag(event).removeprefix(_CORE):
            case "null":
                return None
            case "bool":
                return text.lower() in ("yes", "true", "on")
            case "int":
                return self._integer(event)
            case "float":
                return self._decimal(text)
        return text

    def _tag(self, event: yaml.ScalarEvent) -> str:
        """Return the tag of a scalar: the one that it is given, else the one that its text has in YAML 1.1."""
        if event.tag not in (None, "!"):
            if event.tag.removeprefix(_CORE) not in _PLAIN:
                raise self._refused(event, f"it has the tag `{event.tag}`, and only plain values are read")
            return str(event.tag)
        return str(self._resolver.resolve(yaml.ScalarNode, event.value, event.implicit))  # type: ignore[no-untyped-call]

    def _integer(self, event: yaml.ScalarEvent) -> YamlValue:
        try:
            return int(self._resolver.construct_yaml_int(yaml.ScalarNode(f"{_CORE}int", event.value)))
        except ValueError:
            raise self._refused(event, "it has a number that none is, or of thousands of digits") from None

    def _decimal(self, text: str) -> YamlValue:
        """Return a decimal with the digits that it has; `.inf` and `.nan` stay texts, as no number here is either."""
        plain = text.replace("_", "")
        try:
            if ":" in plain:  # sexagesimal
                return Decimal(repr(self._resolver.construct_yaml_float(yaml.ScalarNode(f"{_CORE}float", text))))
            return Decimal(plain)
        except (InvalidOperation, ValueError, OverflowError):
            return text

    def _count(self, more: int, event: yaml.Event | None) -> None:
        self._values += more
        if self._values > _MOST_VALUES:
            raise self._refused(event, f"it has more than {_MOST_VALUES:,} values, those that aliases repeat included")

    def _refused(self, event: yaml.Event | None, why: str) -> RecipeError:
        mark = event.start_mark if event is not None else None
        line = mark.line + 1 if mark is not None else 0
        message = f"`{self._shown}` can't be read: {why}"
        return RecipeError.one("bad-yaml", message, where=Place(self._shown, line))
