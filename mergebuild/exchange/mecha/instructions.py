"""The text of a recipe of sd-mecha as instructions that refer to earlier ones.

A line is a command and its arguments, apart by blanks. `&3` is the result of the fourth instruction; lines that begin
with `#` are comments, and don't count. Both forms are read: the one with a line `version 0.1.0`, and the one before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final, TypeAlias

from mergebuild.errors import Place, RecipeError
from mergebuild.exchange.decimals import number_of

__all__ = ["Argument", "Instruction", "bad_line", "instructions_of", "is_mecha"]

COMMANDS: Final = frozenset({"dict", "literal", "model", "merge", "parameter"})
_MOST: Final = 20_000
"""Instructions of a recipe."""
_DEEPEST: Final = 80
"""Instructions that need each other in a row, without conversions."""
_TOKEN: Final = re.compile(r'(?:[^ "\\]|\\.|"(?:[^"\\]|\\.)*")+')
_NAMED: Final = re.compile(r"(?P<key>[^\"= ]+)=(?P<value>.*)", re.DOTALL)
_WORDS: Final[Mapping[str, bool | None]] = {"null": None, "true": True, "false": False}


@dataclass(frozen=True, eq=False, slots=True)
class Instruction:
    """A line of a recipe."""

    line: int
    """Counted from 1."""
    command: str
    args: tuple[Argument, ...]
    named: Mapping[str, Argument]
    depth: int

    @property
    def method(self) -> str:
        """The method of a merge; "" of any other instruction."""
        return str(self.args[0]) if self.command == "merge" else ""


Argument: TypeAlias = "bool | Decimal | str | Instruction | None"


def bad_line(message: str, shown: str, line: int) -> RecipeError:
    """Return the error of a line that sd-mecha would not read either."""
    return RecipeError.one("bad-recipe", message, where=Place(shown, line), help="sd-mecha writes recipes itself")


def is_mecha(text: str) -> bool:
    """Whether a text is a recipe of sd-mecha, in either form."""
    lines = [line.strip() for line in text[:100_000].splitlines()[:200] if line.strip()]
    if lines and re.fullmatch(r"version \d+(\.\d+)*", lines[0]):
        lines = lines[1:]
    told = [line.partition(" ")[0] for line in lines if not line.startswith("#")]
    return bool(told) and set(told[:-1]) <= COMMANDS and told[0] in COMMANDS and not {"model", "merge"}.isdisjoint(told)


def instructions_of(text: str, shown: str) -> tuple[list[Instruction], bool]:
    """Return the instructions, and whether they are of the form with a version.

    Raises:
        RecipeError: a line can't be read, the version is not known, or there are too many instructions.
    """
    lines = text.splitlines()
    is_v1 = False
    found: list[Instruction] = []
    for number, line in enumerate(lines, 1):
        plain = line.strip()
        if plain.startswith("version ") and not found:
            if plain != "version 0.1.0":
                raise bad_line(f"the format `{plain[:40]}` is not known; `version 0.1.0` is", shown, number)
            is_v1 = True
        elif plain and not plain.startswith("#"):
            if len(found) >= _MOST:
                raise bad_line(f"the recipe has more than {_MOST:,} instructions", shown, number)
            found.append(_instruction(plain, number, found, shown))
    if not found:
        raise bad_line("the recipe has no instructions", shown, 1)
    return found, is_v1


def _instruction(line: str, number: int, before: Sequence[Instruction], shown: str) -> Instruction:
    try:
        command, *tokens = _tokens(line)
        if command not in COMMANDS:
            raise ValueError(f"`{command[:40]}` is no command")
        args: list[Argument] = []
        named: dict[str, Argument] = {}
        for token in tokens:
            pair = _NAMED.fullmatch(token)
            if pair:
                named[pair["key"]] = _value(pair["value"], before)
            else:
                args.append(_value(token, before))
        if command in ("merge", "model") and not (args and isinstance(args[0], str)):
            raise ValueError(f"a {command} begins with a name in quotes")
        return Instruction(number, command, tuple(args), named, _depth(command, [*args, *named.values()]))
    except ValueError as error:
        raise bad_line(str(error), shown, number) from None


def _depth(command: str, values: Sequence[Argument]) -> int:
    is_step = command == "merge" and not str(values[0]).startswith("convert_")
    depth = max((each.depth for each in values if isinstance(each, Instruction)), default=0) + is_step
    if depth > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} merges need each other")
    return depth


def _tokens(line: str) -> Iterator[str]:
    """Yield the parts of a line.

    Raises:
        ValueError: a quoted text does not end.
    """
    at = 0
    while at < len(line):
        if line[at] == " ":
            at += 1
            continue
        found = _TOKEN.match(line, at)
        if found is None or (found.end() < len(line) and line[found.end()] != " "):
            raise ValueError("a text in quotes does not end")
        yield found[0]
        at = found.end()


def _value(token: str, before: Sequence[Instruction]) -> Argument:
    """Return the value of an argument.

    Raises:
        ValueError: it has none.
    """
    if token.startswith("&"):
        at = int(token[1:]) if token[1:].isascii() and token[1:].isdigit() and len(token) < 10 else -1
        if not 0 <= at < len(before):
            raise ValueError(f"`{token[:20]}` refers to no earlier instruction")
        return before[at]
    if token.startswith('"') and token.endswith('"') and len(token) > 1:
        return re.sub(r"\\(.)", r"\1", token[1:-1])
    if token in _WORDS:
        return _WORDS[token]
    try:
        number = number_of(Decimal(token))
    except InvalidOperation:
        number = None
    if number is None:
        raise ValueError(f"`{token[:40]}` is no value")
    return number
