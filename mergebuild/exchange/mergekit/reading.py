"""What all parts of a reading share: the draft, the file, and how mistakes and unknown keys are told.

mergekit passes over keys that it does not know. Here each is told of, as its author meant something by it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Final

from mergebuild.errors import RecipeError
from mergebuild.exchange.draft import Draft
from mergebuild.exchange.yaml_text import YamlMap, YamlValue

__all__ = ["KitReading", "KitTable"]

_TRUE: Final = frozenset({"true", "yes", "on", "1", "t", "y"})
_FALSE: Final = frozenset({"false", "no", "off", "0", "f", "n"})
_MOST_EXPONENT: Final = 900


@dataclass
class KitReading:
    """One recipe file that is read into a draft."""

    draft: Draft
    shown: str
    """The file, for messages."""
    merges: dict[str, str] = field(default_factory=dict)
    """Targets by the names of the file's documents: a reference to such a name is no model."""
    target: str | None = None
    """The target that is being read: comments belong to it."""

    def wrong(self, where: str, message: str) -> RecipeError:
        """Return the error of a recipe that mergekit would refuse too; `message`: of the place, or of what it names."""
        place = f"`{where}`{': ' if message.startswith('`') else ' '}" if where else ""
        return RecipeError.one("bad-recipe", f"`{self.shown}`: {place}{message}")

    def leave_out(self, where: str, message: str) -> None:
        """Tell what could not be mapped."""
        self.draft.leave_out(f"{self.shown}: {where}", message, target=self._own)

    def say(self, where: str, message: str) -> None:
        """Tell what people should know, although it was mapped."""
        self.draft.say(f"{self.shown}: {where}", message, target=self._own)

    @property
    def _own(self) -> str | None:
        return self.target if self.target in self.draft.targets else None

    def table(self, value: YamlValue, where: str) -> KitTable:
        """Return a mapping.

        Raises:
            RecipeError: the value is none.
        """
        if not isinstance(value, dict):
            raise self.wrong(where, f"is {_kind(value)}, expected a mapping")
        return KitTable(self, value, where)

    def tables(self, value: YamlValue, where: str) -> list[KitTable]:
        """Return a list of mappings.

        Raises:
            RecipeError: the value is none.
        """
        if not isinstance(value, list):
            raise self.wrong(where, f"is {_kind(value)}, expected a list")
        return [self.table(each, f"{where}[{index}]") for index, each in enumerate(value)]

    def number(self, value: YamlValue, where: str) -> Decimal | int:
        """Return a scalar as a number, as pydantic would: `1e-3` is one, and `true` is 1.

        Raises:
            RecipeError: it is none, or one that no mergefile has.
        """
        if isinstance(value, bool):
            return int(value)
        try:
            found = value if isinstance(value, (int, Decimal)) else Decimal(str(value).strip())
        except InvalidOperation:
            raise self.wrong(where, f"is {_kind(value)}, expected a number") from None
        exact = Decimal(found)
        if not exact.is_finite() or not -_MOST_EXPONENT < exact.adjusted() < _MOST_EXPONENT:
            raise self.wrong(where, "is a number that no tensor can be multiplied by")
        return found

    def integer(self, value: YamlValue, where: str, most: int) -> int:
        """Return a scalar as a whole number from 0 to `most`.

        Raises:
            RecipeError: it is none.
        """
        found = self.number(value, where)
        if found != int(found) or not 0 <= found <= most:
            raise self.wrong(where, f"is {_kind(value)}, expected a whole number up to {most}")
        return int(found)

    def flag(self, value: YamlValue, where: str) -> bool:
        """Return a scalar as a flag.

        Raises:
            RecipeError: it is none.
        """
        word = str(value).strip().lower() if value is not None else ""
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        if isinstance(value, Decimal) and value in (0, 1):
            return value == 1
        raise self.wrong(where, f"is {_kind(value)}, expected true or false")

    def text(self, value: YamlValue, where: str) -> str:
        """Return a text; a number that YAML made of one is that text again.

        Raises:
            RecipeError: it is none.
        """
        if isinstance(value, (str, int, Decimal)) and not isinstance(value, bool):
            return str(value)
        raise self.wrong(where, f"is {_kind(value)}, expected text")


@dataclass(frozen=True)
class KitTable:
    """A mapping of the recipe, and where it is."""

    reading: KitReading
    values: YamlMap
    where: str

    def at(self, key: str) -> str:
        """Return where a key is."""
        return f"{self.where}.{key}" if self.where else key

    def get(self, key: str) -> YamlValue:
        """Return the value of a key; None: it is absent, or null."""
        return self.values.get(key)

    def text(self, key: str) -> str | None:
        """Return a text; None: the key is absent, or null."""
        value = self.values.get(key)
        return None if value is None else self.reading.text(value, self.at(key))

    def table(self, key: str) -> KitTable | None:
        """Return a mapping; None: the key is absent, or null."""
        value = self.values.get(key)
        return None if value is None else self.reading.table(value, self.at(key))

    def tables(self, key: str) -> list[KitTable]:
        """Return a list of mappings; empty: the key is absent, or null."""
        value = self.values.get(key)
        return [] if value is None else self.reading.tables(value, self.at(key))

    def only(self, known: Collection[str]) -> None:
        """Tell of keys that are not among those known, which mergekit passes over."""
        for key in self.values:
            if key not in known:
                self.reading.say(self.at(key), f"`{self.at(key)}` is ignored by mergekit too")


def _kind(value: YamlValue) -> str:
    match value:
        case None:
            return "empty"
        case bool():
            return "true or false"
        case int() | Decimal():
            return "a number"
        case str():
            return f"`{value[:60]}`"
        case list():
            return "a list"
        case Mapping():
            return "a mapping"
