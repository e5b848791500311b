"""What one key selects: a block, a group, a component, a range of blocks, a tensor, a glob, a regular expression.

A key means the first of these that it names, so a block wins over a tensor of the same name. What selects nothing is
refused with what there is, because a silent empty selection is the costliest mistake in a merge.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from fnmatch import translate

from mergebuild.errors import RecipeError, did_you_mean
from mergebuild.layouts.blocks import BlockId, block_id, drawn_together, in_order
from mergebuild.layouts.layout import Layout
from mergebuild.portable import time_limit
from mergebuild.recipe.model import Elemental

__all__ = ["BadSelectorError", "Keys", "Names", "near"]

Names = tuple[str, ...]

_PATIENCE = 5.0
"""Seconds for all keys to be looked for among the tensors of a model. That takes milliseconds, but a regular expression
with a repetition in a repetition may take for ever."""
_SIMPLER = "no repetition inside of a repetition, such as `(a*)*`; simpler than patterns are globs"
_WILD = re.compile(r"[*?\[]")
_DECLARE = (
    'declare a layout: `[layouts.NAME]` with `detect = ["layers.0.*"]` and '
    "`blocks = [['^layers\\.(\\d+)\\.', \"L{:02}\"], ['', \"BASE\"]]`"
)


class BadSelectorError(Exception):
    """A key that selects nothing. Whoever has the key knows the place, and makes a `Problem` of it."""

    def __init__(self, code: str, message: str, help: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.help = help


class Keys:
    """The keys of one set of tensors in one layout (None: no layout is known). Remembers what each key selects."""

    def __init__(self, layout: Layout | None, names: Names) -> None:
        self.layout = layout
        self.names = names
        self.block_of: dict[str, str] = {}
        """The block of each tensor that is in one."""
        self._by_block: dict[str, list[str]] = {}
        if layout is not None:
            for name, block in _blocks(layout, names):
                self.block_of[name] = block
                self._by_block.setdefault(block, []).append(name)
        self.blocks: Names = in_order(self._by_block, layout.order) if layout else ()
        """The blocks that have a tensor, in the layout's order."""
        self._known = frozenset(names)
        self._found: dict[str, Names] = {}
        self._patience = _PATIENCE

    def select(self, key: str) -> Names:
        """Return the tensors that a key selects, at least one, in the order of `names`.

        Raises:
            BadSelectorError: there is none.
        """
        names = self._found.get(key)
        if names is None:
            began = time.perf_counter()
            try:
                with time_limit(max(self._patience, 0.001)):
                    names = self._find(key)
            except TimeoutError:
                message = f"`{key}` is not found within {_PATIENCE:.0f} seconds"
                raise BadSelectorError("bad-regex", message, _SIMPLER) from None
            finally:
                self._patience -= time.perf_counter() - began
            self._found[key] = names
        return names

    def elemental(self, rule: Elemental) -> Names:
        """Return the tensors of an elemental rule, at least one.

        Raises:
            BadSelectorError: there is none, or a block or an element of the rule is nowhere.
        """
        in_blocks: set[str] = set()
        for token in rule.blocks:
            self.layout_for(f"block `{token}`")
            in_blocks.update(self.select(token))
        absent = [element for element in rule.elements if not any(element in name for name in self.names)]
        if absent:
            listed = ", ".join(f"`{element}`" for element in absent)
            message = f"an elemental rule asks for {listed}, which no tensor has in its name"
            raise BadSelectorError("selector-matches-nothing", message, "elements are parts of tensor names: `attn2`")
        names = tuple(name for name in self.names if _applies(rule, name, in_blocks))
        if not names:
            message = "an elemental rule matches nothing: no tensor in those blocks has those elements in its name"
            raise BadSelectorError("selector-matches-nothing", message, self.what_there_is())
        return names

    def layout_for(self, what: str) -> Layout:
        """Return the layout, which `what` needs.

        Raises:
            BadSelectorError: none is known.
        """
        if self.layout is None:
            message = f"{what} needs a layout, and none is known for these tensors"
            raise BadSelectorError("unknown-layout", message, _DECLARE)
        return self.layout

    def what_there_is(self) -> str:
        """Return the blocks and groups that keys can name, for the help of an error."""
        layout = self.layout
        if layout is None:
            return _DECLARE
        families = [family for family, number in map(block_id, self.blocks) if number >= 0]
        groups = [family for family in dict.fromkeys(families) if families.count(family) > 1]
        groups += [component for component, _ in layout.components if self._component(component)]
        groups += dict(layout.groups)
        there = f"blocks: {', '.join(drawn_together(self.blocks))}; groups: {', '.join(groups)}"
        return there if layout.stack is None else f"{there}; for other blocks {_DECLARE}"

    def _find(self, key: str) -> Names:
        if key.startswith("re:"):
            return self._matching(key, _regex(key).search)
        names = self._block(key) or self._group(key)
        if names is None and key in self._known:
            names = (key,)
        if names is None and _WILD.search(key):
            names = self._matching(key, re.compile(translate(key)).match)
        if names is None:
            names = self._range(key)
        if names is None:
            raise self._unknown(key)
        if not names:
            message = f"`{key}` matches nothing: the inputs have no tensor there"
            raise BadSelectorError("selector-matches-nothing", message, self.what_there_is())
        return names

    def _matching(self, key: str, matches: Callable[[str], object]) -> Names:
        names = tuple(name for name in self.names if matches(name))
        if names:
            return names
        advice = "globs and `re:` are for whole tensor names; `mergebuild inspect FILE --tensors` shows them"
        blocks = [block for block in self.blocks if matches(block)]
        if blocks:
            listed = ", ".join(f"`{entry}`" for entry in drawn_together(blocks))
            advice = f"globs are for tensor names; for blocks write {listed}"
        raise BadSelectorError("selector-matches-nothing", f"`{key}` matches no tensor", advice)

    def _ids(self) -> Mapping[BlockId, str]:
        """Return the blocks that can be named: those that the layout always has, and those found here."""
        if self.layout is None:
            return {}
        fixed = (block for block in self.layout.order if not block.endswith("*"))
        return {block_id(block): block for block in in_order({*fixed, *self.blocks}, self.layout.order)}

    def _block(self, key: str) -> Names | None:
        block = self._ids().get(block_id(key))
        return None if block is None else tuple(self._by_block.get(block, ()))

    def _group(self, key: str) -> Names | None:
        """Return the tensors of a group, a component or a family of blocks; None where `key` is none of these."""
        layout = self.layout
        if layout is None:
            return None
        pattern = dict(layout.groups).get(key)
        if pattern is not None:
            return tuple(name for name in self.names if pattern.search(name))
        if any(key == component for component, _ in layout.components):
            return self._component(key)
        family = {block for (name, number), block in self._ids().items() if name == key and number >= 0}
        return self._in_blocks(family) if family else None

    def _component(self, component: str) -> Names:
        layout = self.layout
        return tuple(name for name in self.names if layout and layout.component(name) == component)

    def _in_blocks(self, blocks: set[str]) -> Names:
        return tuple(name for name in self.names if self.block_of.get(name) in blocks)

    def _range(self, key: str) -> Names | None:
        """Return the tensors from one block to another, in either order; None where `key` is no range."""
        ids = self._ids()
        first, dash, last = key.partition("-")
        if not dash or not ids:
            return None
        ends = {end: ids.get(block_id(end)) for end in (first, last)}
        unknown = [end for end, block in ends.items() if block is None]
        families = {family for family, number in ids if number >= 0}
        if not unknown:
            blocks = list(ids.values())
            low, high = sorted((blocks.index(ids[block_id(first)]), blocks.index(ids[block_id(last)])))
            return self._in_blocks(set(blocks[low : high + 1]))
        if len(unknown) < len(ends) or all(block_id(end)[0] in families for end in unknown):
            listed = " or ".join(f"`{end}`" for end in unknown)
            message = f"`{key}` is no range of blocks: there is no {listed}"
            advice = near(self._nearest(unknown[0]), ids.values(), self.what_there_is())
            raise BadSelectorError("selector-matches-nothing", message, advice)
        return None

    def _unknown(self, key: str) -> BadSelectorError:
        if self.layout is None:
            message = f"`{key}` is no tensor; blocks and groups need a layout, and none is known for these tensors"
            advice = f"{_DECLARE}; names of tensors, globs and `re:` work without"
            return BadSelectorError("unknown-layout", message, advice)
        words = [*self.blocks, *dict(self.layout.groups), *dict(self.layout.components)]
        if "." in key:
            words += self.names
        message = f"`{key}` matches nothing: no block, group or tensor of layout `{self.layout.name}`"
        return BadSelectorError(
            "selector-matches-nothing", message, near(self._nearest(key), words, self.what_there_is())
        )

    def _nearest(self, key: str) -> str:
        """Return the block of the same family whose number is nearest; `key` itself where it has none."""
        family, number = block_id(key)
        others = [block for block in self.blocks if number >= 0 and block_id(block)[0] == family]
        return min(others, key=lambda block: abs(block_id(block)[1] - number), default=key)


def _blocks(layout: Layout, names: Names) -> list[tuple[str, str]]:
    """Return the names that are in a block, with it.

    Raises:
        RecipeError: the layout's patterns take for ever.
    """
    try:
        with time_limit(_PATIENCE):
            return [(name, block) for name in names if (block := layout.block(name)) is not None]
    except TimeoutError:
        message = f"the blocks of layout `{layout.name}` are not found within {_PATIENCE:.0f} seconds"
        raise RecipeError.one("bad-regex", message, help=_SIMPLER) from None


def _applies(rule: Elemental, name: str, in_blocks: set[str]) -> bool:
    in_place = not rule.blocks or (name in in_blocks) is not rule.not_blocks
    return in_place and (not rule.elements or any(part in name for part in rule.elements) is not rule.not_elements)


def _regex(key: str) -> re.Pattern[str]:
    try:
        return re.compile(key.removeprefix("re:"))
    except (re.error, OverflowError, RecursionError) as error:
        advice = "in single quotes TOML leaves backslashes alone: 're:\\.attn[12]\\.'"
        raise BadSelectorError("bad-regex", f"`{key}` is not a regular expression: {error}", advice) from None


def near(found: str, words: Iterable[str], otherwise: str) -> str:
    """Return `did you mean` the nearest of `words`, one that differs in case only before all others."""
    known = list(words)
    same = next((word for word in known if word.casefold() == found.casefold()), found)
    return did_you_mean(same, known, otherwise=otherwise)
