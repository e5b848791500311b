r"""Turns a declared layout, ours or a user's, from plain TOML values into a `Layout`, or reports all its mistakes.

    [layouts.NAME]
    detect = ["layers.*.attention.qkv.weight"]            # or a table of name -> shape, or an array of such tables
    blocks = [['^layers\.(\d+)\.', "L{:02}"], ['', "BASE"]]

Our own layouts use the same keys, so the files in `data/` show what a declaration can say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from mergebuild.errors import Place, Problem, RecipeError, did_you_mean
from mergebuild.layouts.blocks import expand
from mergebuild.layouts.layout import BlockRow, Layout, Marker, Shape
from mergebuild.recipe.model import LayoutText
from mergebuild.system.bounded_text import compiled

__all__ = ["KEYS", "RESERVED", "parse_layout"]

KEYS = (
    "title",
    "detect",
    "unless",
    "stack",
    "blocks",
    "order",
    "layers",
    "first",
    "last",
    "mbw",
    "components",
    "groups",
)
RESERVED = frozenset({"default", "mbw", "preset", "elemental"})
"""Keys of a number per tensor that can't be names of blocks or groups."""

_NAME = re.compile(r"[\w.]+")
_TEMPLATE = re.compile(r"([^{}]*)(?:\{(?::0[1-9])?\}([^{}]*))?")
_QUOTED = "in single quotes TOML leaves backslashes alone: '\\.(\\d+)\\.'"
_ROWS = "such as blocks = [['^layers\\.(\\d+)\\.', \"L{:02}\"], ['', \"BASE\"]]"
_Path = tuple[str | int, ...]


class _LayoutTable:
    """Reads one table and collects problems. A value that has a problem is replaced by a harmless one."""

    def __init__(self, text: LayoutText) -> None:
        self.text = text
        self.problems: list[Problem] = []
        self._made: list[re.Pattern[str]] = []
        self._literal: list[str] = []
        self._open: list[str] = []

    def layout(self) -> Layout:
        """Return the layout that the table declares; it is valid only if `problems` is empty."""
        self._check_keys()
        table = self.text.table
        rows = self._rows()
        return Layout(
            name=self.text.name,
            title=self._title(),
            rows=rows,
            detect=self._detect(),
            unless=self._unless(),
            stack=self._stack(),
            components=self._patterns("components"),
            groups=self._patterns("groups"),
            mbw=self._mbw(),
            order=self._blocks(table["order"], "order") if "order" in table else (*self._literal, *self._open),
            layer_order=self._blocks(table["layers"], "layers") if "layers" in table else None,
            first=self._blocks(table.get("first", ()), "first"),
            last=self._blocks(table.get("last", ()), "last"),
        )

    def _check_keys(self) -> None:
        for key in self.text.table:
            if key not in KEYS:
                advice = did_you_mean(key, KEYS, otherwise=f"keys of a layout: {', '.join(KEYS)}")
                self._problem("unknown-key", f"`{key}` is no key of a layout", (key,), advice, key=True)

    def _problem(self, code: str, message: str, path: _Path, help: str, *, key: bool = False) -> None:
        where: Place = self.text.where.place(*path, key=key)
        self.problems.append(Problem(code, message, where, help))

    def _wrong(self, path: _Path, message: str, help: str) -> None:
        self._problem("invalid-layout", f"layout `{self.text.name}`: {message}", path, help)

    def _title(self) -> str:
        title = self.text.table.get("title", self.text.name)
        if not isinstance(title, str):
            self._wrong(("title",), "`title` is not text", 'such as title = "My model"')
            return self.text.name
        return title

    def _stack(self) -> str | None:
        stack = self.text.table.get("stack")
        if stack is None:
            return None
        if not isinstance(stack, str) or f"{stack}*" not in self._open:
            families = ", ".join(f"`{entry[:-1]}`" for entry in self._open)
            self._wrong(("stack",), f"`stack` is {stack!r}, not a family of numbered blocks", f"families: {families}")
            return None
        return stack

    def _strings(self, value: object, path: _Path) -> tuple[str, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(one, str) for one in value):
            self._wrong(path, f"`{_dotted(path)}` is not an array of texts", 'such as ["one", "two"]')
            return ()
        return tuple(value)

    def _regex(self, value: object, path: _Path) -> re.Pattern[str] | None:
        if not isinstance(value, str):
            self._wrong(path, f"`{_dotted(path)}` is not a regular expression in quotes", _QUOTED)
            return None
        try:
            return compiled(value)
        except re.error as error:
            message = f"`{value}` is not a regular expression: {error}"
            self._wrong(path, message, _QUOTED)
            return None

    def _rows(self) -> tuple[BlockRow, ...]:
        value = self.text.table.get("blocks")
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            found = "has no `blocks`" if value is None else "`blocks` is not an array of rows"
            self._wrong(("blocks",) if value is not None else (), found, _ROWS)
            return ()
        rows = [self._row(index, entry) for index, entry in enumerate(value)]
        return tuple(row for row in rows if row is not None)

    def _row(self, index: int, entry: object) -> BlockRow | None:
        path = ("blocks", index)
        if not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) != 2:
            self._wrong(path, f"row {index + 1} of `blocks` is not a regular expression and a block", _ROWS)
            return None
        pattern, filled = self._regex(entry[0], (*path, 0)), self._template(entry[1], (*path, 1))
        if pattern is None or filled is None:
            return None
        if filled and not pattern.groups:
            message = f"`{entry[1]}` needs a number, and `{entry[0]}` has no group that finds one"
            self._wrong(path, message, "put the number in parentheses: '\\.(\\d+)\\.'")
            return None
        return BlockRow(pattern, str(entry[1]), filled)

    def _template(self, value: object, path: _Path) -> bool | None:
        """Return whether `value` is a template and not the name of a block; None, and add a problem, if neither."""
        found = _TEMPLATE.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            message = f"{value!r} is not the name of a block"
            self._wrong(path, message, "a name such as `BASE`, or with one number to fill in: `L{}`, `L{:02}`")
            return None
        before, behind = found[1], found[2]
        plain = before + (behind or "")
        if (plain and not _NAME.fullmatch(plain)) or (not plain and behind is None) or value in RESERVED:
            message = f"{value!r} cannot be the name of a block"
            self._wrong(path, message, "names have letters, digits, `_` and `.`, and are not `default` and the like")
            return None
        self._note(before, behind)
        return behind is not None

    def _note(self, before: str, behind: str | None) -> None:
        """Record a block that a row makes.

        `behind`: what follows the number in its name, None if there is no number.
        """
        number = "" if behind is None else r"\d+"
        self._made.append(re.compile(re.escape(before) + number + re.escape(behind or "")))
        if behind is None:
            self._literal += [before] if before not in self._literal else []
        elif not behind:
            self._open += [f"{before}*"] if f"{before}*" not in self._open else []

    def _blocks(self, value: object, *path: str | int) -> tuple[str, ...]:
        """Return a list of blocks with its ranges expanded. Add a problem for each block that no row can give."""
        try:
            blocks = expand(self._strings(value, path))
        except ValueError as error:
            self._wrong(path, str(error), "a range runs upwards within one family")
            return ()
        for block in blocks:
            made = block in self._open or any(pattern.fullmatch(block) for pattern in self._made)
            if not made and self._made:
                known = f"blocks of this layout: {', '.join((*self._literal, *self._open))}"
                advice = did_you_mean(block, self._literal, otherwise=known)
                self._wrong(path, f"`{block}` in `{_dotted(path)}` is a block that no row makes", advice)
        return blocks

    def _mbw(self) -> tuple[tuple[str, ...], ...]:
        value = self.text.table.get("mbw")
        if value is None:
            return ()
        several = isinstance(value, Sequence) and bool(value) and not any(isinstance(entry, str) for entry in value)
        if not several:
            lists: tuple[tuple[str, ...], ...] = (self._blocks(value, "mbw"),)
        else:
            assert isinstance(value, Sequence)
            lists = tuple(self._blocks(one, "mbw", index) for index, one in enumerate(value))
        if any(entry.endswith("*") for blocks in lists for entry in blocks):
            self._wrong(("mbw",), "`mbw` needs every block by name: a list of numbers has a length", "such as L00-L31")
        return lists

    def _patterns(self, key: str) -> tuple[tuple[str, re.Pattern[str]], ...]:
        value = self.text.table.get(key, {})
        if not isinstance(value, Mapping):
            message = f"`{key}` is not a table of names and regular expressions"
            self._wrong((key,), message, f"such as [layouts.NAME.{key}]")
            return ()
        found: list[tuple[str, re.Pattern[str]]] = []
        for name, regex in value.items():
            if self._is_name(name, key) and (pattern := self._regex(regex, (key, name))) is not None:
                found.append((name, pattern))
        return tuple(found)

    def _is_name(self, name: str, key: str) -> bool:
        """Return whether a text can be a name in the table `key`. Add a problem if it can't."""
        if _NAME.fullmatch(name) and name not in RESERVED:
            return True
        advice = "names have letters, digits, `_` and `.`, and are not `default` and the like"
        self._wrong((key, name), f"`{name}` cannot be a name in `{key}`", advice)
        return False

    def _detect(self) -> tuple[tuple[Marker, ...], ...]:
        value = self.text.table.get("detect")
        advice = "tensors that tell this architecture: names or globs in an array, or a table of name = shape"
        if not value:
            path = ("detect",) if "detect" in self.text.table else ()
            self._wrong(path, "has no `detect`, so no model would ever have it", advice)
            return ()
        if isinstance(value, Mapping):
            return (self._markers(value, ("detect",)),)
        if isinstance(value, Sequence) and not isinstance(value, str):
            if all(isinstance(entry, str) for entry in value):
                return (tuple(Marker(self._name(name, ("detect", place))) for place, name in enumerate(value)),)
            if all(isinstance(entry, Mapping) and entry for entry in value):
                return tuple(self._markers(entry, ("detect", index)) for index, entry in enumerate(value))
        self._wrong(("detect",), "`detect` is no array of names, table of shapes or array of such tables", advice)
        return ()

    def _markers(self, table: Mapping[str, object], path: _Path) -> tuple[Marker, ...]:
        return tuple(
            Marker(self._name(name, (*path, name)), self._shape(shape, (*path, name))) for name, shape in table.items()
        )

    def _unless(self) -> tuple[str, ...]:
        names = self._strings(self.text.table.get("unless", ()), ("unless",))
        return tuple(self._name(name, ("unless", place)) for place, name in enumerate(names))

    def _name(self, name: str, path: _Path) -> str:
        """Return the name or glob of a tensor that identifies an architecture.

        Add a problem if it is a regular expression.
        """
        if name.startswith("re:"):
            message = f"`{name}` in `{path[0]}` is a regular expression, expected the name of a tensor, or a glob"
            self._wrong(path, message, "such as `layers.*.attention.qkv.weight`, where `*` is any text")
        return name

    def _shape(self, value: object, path: _Path) -> Shape | None:
        if value == "*":
            return None
        if isinstance(value, Sequence) and not isinstance(value, str):
            lengths = tuple(None if length == "*" else length for length in value)
            if all(length is None or (type(length) is int and length >= 0) for length in lengths):
                return lengths
        self._wrong(path, f"{value!r} is not a shape", 'such as [320, 4, 3, 3], [320, "*"], or "*" for any')
        return None


def _dotted(path: Iterable[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def parse_layout(text: LayoutText) -> Layout:
    """Return the layout that a `[layouts.NAME]` table declares.

    Raises:
        RecipeError: with all problems of the table.
    """
    declaration = _LayoutTable(text)
    layout = declaration.layout()
    if declaration.problems:
        raise RecipeError(declaration.problems)
    return layout
