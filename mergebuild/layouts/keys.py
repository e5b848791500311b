"""What one key selects: a block, a group, a component, a range of blocks, a tensor, a glob or a regular expression.

A key means the first of these that it names, so a block is preferred to a tensor of the same name. A key that selects
nothing is an error that lists what could be selected: selecting nothing silently is the costliest mistake in a merge.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from types import MappingProxyType

from mergebuild.errors import RecipeError, did_you_mean
from mergebuild.layouts.blocks import BlockId, block_id, drawn_together, in_order
from mergebuild.layouts.globs import Glob, SortedNames, is_glob
from mergebuild.layouts.layout import Layout
from mergebuild.layouts.patience import LIMIT, SHORTER, SIMPLER, Patience, UntriedError
from mergebuild.recipe.model import Elemental
from mergebuild.system.bounded_text import compiled

__all__ = ["BadSelectorError", "Keys", "Names", "Parts", "near", "no_parts"]

Names = tuple[str, ...]

_MOST_SUGGESTIONS = 40
"""Each suggestion takes time, and nobody reads more of them."""
_DECLARE = (
    'declare a layout: `[layouts.NAME]` with `detect = ["layers.0.*"]` and '
    "`blocks = [['^layers\\.(\\d+)\\.', \"L{:02}\"], ['', \"BASE\"]]`"
)


Parts = Callable[[], Mapping[str, re.Pattern[str]]]
"""Returns the parts of a model by their names, each as the pattern that finds the names of its tensors."""


def no_parts() -> Mapping[str, re.Pattern[str]]:
    """Return no parts."""
    return {}


class BadSelectorError(Exception):
    """A key selects nothing. Its place is not known here: the caller adds it, and makes a `Problem`."""

    def __init__(self, code: str, message: str, help: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.help = help


class Keys:
    """The keys for one set of tensors in one layout (None: the layout is unknown). Remembers what each key selects.

    A mergefile may have thousands of keys, so whatever they all need of names and blocks is computed once.
    """

    def __init__(
        self,
        layout: Layout | None,
        names: Names,
        patience: Patience | None = None,
        spellings: Mapping[str, Names] = MappingProxyType({}),
        parts: Parts = no_parts,
        shared: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> None:
        """Take the tensors.

        Args:
            layout: Defines blocks and groups.
            names: The names of the tensors.
            patience: The time that all `re:` and globs of a mergefile may take; None: a limit for these alone.
            spellings: Other names that a key may use, and the tensors that each of them is in.
            parts: Returns the parts of the model whose names keys may use besides those of the layout.
            shared: By tensor that is several stored tensors in a file, these stored tensors' names.
        """
        self._shared = shared
        present = frozenset(names)
        self._spellings = {other: tuple(found) for other, some in spellings.items() if (found := present & set(some))}
        self._parts = parts
        self.layout = layout
        self.names = names
        self._patience = patience or Patience()
        self.block_of: dict[str, str] = {}
        """The block of each tensor that is in one."""
        self._by_block: dict[str, list[str]] = {}
        if layout is not None:
            for name, block in _blocks(layout, names):
                self.block_of[name] = block
                self._by_block.setdefault(block, []).append(name)
        self.blocks: Names = in_order(self._by_block, layout.order) if layout else ()
        """The blocks that have a tensor, in the layout's order."""
        self._place = {name: place for place, name in enumerate(names)}
        self._found: dict[str, Names] = {}
        self._refused: dict[str, BadSelectorError] = {}
        self._suggested = 0

    def select(self, key: str) -> Names:
        """Return the tensors that a key selects, at least one, in the order of `names`.

        Raises:
            BadSelectorError: it selects none.
        """
        names = self._found.get(key)
        if names is None:
            names = self._found[key] = self._find_once(key)
        return names

    def _find_once(self, key: str) -> Names:
        """Return the tensors that a key selects; if it selects none, raise the error, the same one every time."""
        if (refused := self._refused.get(key)) is not None:
            raise refused.with_traceback(None)
        try:
            return self._find_in_time(key)
        except BadSelectorError as error:
            self._refused[key] = error
            raise

    def elemental(self, rule: Elemental) -> Names:
        """Return the tensors that an elemental rule selects, at least one.

        Raises:
            BadSelectorError: it selects none, or one of its blocks or elements does not exist.
        """
        in_blocks = self._in_named_blocks(rule)
        self._check_elements(rule)
        names = tuple(name for name in self.names if _applies(rule, name, in_blocks))
        if not names:
            message = "an elemental rule matches nothing: no tensor in those blocks has those elements in its name"
            raise BadSelectorError("selector-matches-nothing", message, self.what_there_is)
        return names

    def _in_named_blocks(self, rule: Elemental) -> set[str]:
        """Return the tensors in the blocks of an elemental rule; raise `BadSelectorError` if one does not exist."""
        found: set[str] = set()
        for token in rule.blocks:
            self.layout_for(f"block `{token}`")
            found.update(self.select(token))
        return found

    def _check_elements(self, rule: Elemental) -> None:
        """Raise `BadSelectorError` if an elemental rule has elements that are in no tensor's name."""
        absent = [element for element in rule.elements if not any(element in name for name in self.names)]
        if absent:
            listed = ", ".join(f"`{element}`" for element in absent)
            message = f"an elemental rule asks for {listed}, which no tensor has in its name"
            raise BadSelectorError("selector-matches-nothing", message, "elements are parts of tensor names: `attn2`")

    def layout_for(self, what: str) -> Layout:
        """Return the layout, which `what` needs.

        Raises:
            BadSelectorError: the layout is unknown.
        """
        if self.layout is None:
            message = f"{what} needs a layout, and none is known for these tensors"
            raise BadSelectorError("unknown-layout", message, _DECLARE)
        return self.layout

    @cached_property
    def what_there_is(self) -> str:
        """The blocks and groups that keys can name, for the help of an error."""
        layout = self.layout
        if layout is None:
            return _DECLARE
        families = Counter(family for family, number in map(block_id, self.blocks) if number >= 0)
        groups = [family for family, count in families.items() if count > 1]
        with suppress(TimeoutError):  # a key that names a component reports the error
            groups += [component for component, _ in layout.components if self._components.get(component)]
        groups += [name for name, part in self._parts().items() if any(map(part.search, self.names))]
        groups = list(dict.fromkeys(groups))
        groups += dict(layout.groups)
        there = f"blocks: {', '.join(drawn_together(self.blocks))}; groups: {', '.join(groups)}"
        return there if layout.stack is None else f"{there}; for other blocks {_DECLARE}"

    def _find_in_time(self, key: str) -> Names:
        code, mend = ("bad-regex", SIMPLER) if key.startswith("re:") or not is_glob(key) else ("bad-glob", SHORTER)
        try:
            return self._find(key)
        except TimeoutError:
            message = f"`{key}` is not found within {LIMIT:.0f} seconds"
            raise BadSelectorError(code, message, mend) from None
        except UntriedError:
            message = f"`{key}` is not looked for any longer, as another pattern takes more than {LIMIT:.0f} seconds"
            raise BadSelectorError(code, message, mend) from None

    def _find(self, key: str) -> Names:
        if key.startswith("re:"):
            pattern = _regex(key)
            return self._matching(key, lambda names: _searched(pattern, names, self._patience))
        names = self._called(key)
        if names is None and is_glob(key):
            names = self._like(key)
        if names is None:
            names = self._range(key)
        if names is None:
            raise self._unknown(key)
        if not names:
            message = f"`{key}` matches nothing: the inputs have no tensor there"
            raise BadSelectorError("selector-matches-nothing", message, self.what_there_is)
        return names

    def _called(self, key: str) -> Names | None:
        """Return the tensors of the block, group, tensor or part that is called exactly so; None if none is."""
        names = self._block(key) or self._group(key)
        if names is None and (key in self._place or key in self._spellings):
            names = (key,) if key in self._place else self._spelled(key, (key,))
        if names is None and (part := self._parts().get(key)) is not None:
            names = tuple(filter(part.search, self.names))
        return names

    def _like(self, key: str) -> Names:
        """Return the tensors that a glob matches."""
        glob = Glob(key)
        return self._matching(key, lambda among: self._globbed(glob, among))

    def _matching(self, key: str, find: Callable[[Names], Names]) -> Names:
        names = find(self.names)
        if self._spellings and (others := find(tuple(self._spellings))):
            names = self._in_order(
                [*names, *self._spelled(key, [each for each in others if not self._is_in(each, names)])]
            )
        if names:
            return names
        advice = "globs and `re:` are for whole tensor names; `mergebuild inspect FILE --tensors` shows them"
        blocks = find(self.blocks)
        if blocks:
            listed = ", ".join(f"`{entry}`" for entry in drawn_together(blocks))
            advice = f"globs are for tensor names; for blocks write {listed}"
        raise BadSelectorError("selector-matches-nothing", f"`{key}` matches no tensor", advice)

    def _is_in(self, other: str, names: Names) -> bool:
        """Whether all tensors that the name `other` stands for are among `names`."""
        return set(self._spellings[other]).issubset(names)

    def _spelled(self, key: str, others: Sequence[str]) -> Names:
        """Return the tensors that some other names stand for.

        Raises:
            BadSelectorError: the names are only some of the stored tensors of one parameter, which gets one number.
        """
        names = self._in_order(name for other in others for name in self._spellings[other])
        for name in names:
            missing = sorted(set(self._shared.get(name, ())) - {*others})
            if missing and any(other in self._shared[name] for other in others):
                own = next(other for other in others if other in self._shared[name])
                message = f"`{key}` selects `{own}`, which is one parameter with `{missing[0]}` here: `{name}`"
                advice = f"select all of it: {', '.join(f'`{each}`' for each in sorted(self._shared[name]))}"
                raise BadSelectorError("part-of-a-parameter", message, advice)
        return names

    def _in_order(self, names: Iterable[str]) -> Names:
        return tuple(sorted(set(names), key=self._place.__getitem__))

    def _globbed(self, glob: Glob, names: Names) -> Names:
        with self._patience.limit():
            return self._sorted_names.like(glob) if names is self.names else tuple(filter(glob.matches, names))

    @cached_property
    def _sorted_names(self) -> SortedNames:
        return SortedNames(self.names)

    @cached_property
    def _ids(self) -> Mapping[BlockId, str]:
        """The blocks that keys can name: those that the layout always has, and those found in these tensors."""
        if self.layout is None:
            return {}
        fixed = (block for block in self.layout.order if not block.endswith("*"))
        return {block_id(block): block for block in in_order({*fixed, *self.blocks}, self.layout.order)}

    @cached_property
    def _families(self) -> Mapping[str, set[str]]:
        """The blocks that have a number, by family."""
        found: dict[str, set[str]] = {}
        for (family, number), block in self._ids.items():
            if number >= 0:
                found.setdefault(family, set()).add(block)
        return found

    @cached_property
    def _components(self) -> Mapping[str | None, list[str]]:
        """The tensors of each component that has any."""
        found: dict[str | None, list[str]] = {}
        if self.layout is not None:
            with Patience().limit():
                for name in self.names:
                    found.setdefault(self.layout.component(name), []).append(name)
        return found

    def _block(self, key: str) -> Names | None:
        block = self._ids.get(block_id(key))
        return None if block is None else tuple(self._by_block.get(block, ()))

    def _group(self, key: str) -> Names | None:
        """Return the tensors of a group, a component or a family of blocks; None if `key` is none of these."""
        layout = self.layout
        if layout is None:
            return None
        pattern = dict(layout.groups).get(key)
        if pattern is not None:
            return _searched(pattern, self.names, Patience())
        if any(key == component for component, _ in layout.components):
            return tuple(self._components.get(key, ()))
        return self._in_blocks(self._families[key]) if key in self._families else None

    def _in_blocks(self, blocks: Iterable[str]) -> Names:
        found = (name for block in blocks for name in self._by_block.get(block, ()))
        return tuple(sorted(found, key=self._place.__getitem__))

    def _range(self, key: str) -> Names | None:
        """Return the tensors of a range of blocks, whose ends may be in either order; None if `key` is no range."""
        ids = self._ids
        first, dash, last = key.partition("-")
        if not dash or not ids:
            return None
        ends = {end: ids.get(block_id(end)) for end in (first, last)}
        unknown = [end for end, block in ends.items() if block is None]
        if not unknown:
            blocks = list(ids.values())
            low, high = sorted((blocks.index(ids[block_id(first)]), blocks.index(ids[block_id(last)])))
            return self._in_blocks(blocks[low : high + 1])
        if len(unknown) < len(ends) or all(block_id(end)[0] in self._families for end in unknown):
            raise self._without_ends(key, unknown)
        return None

    def _without_ends(self, key: str, unknown: Sequence[str]) -> BadSelectorError:
        """Return the error for a range of blocks with unknown ends."""
        listed = " or ".join(f"`{end}`" for end in unknown)
        message = f"`{key}` is no range of blocks: there is no {listed}"
        return BadSelectorError("selector-matches-nothing", message, self._near(unknown[0], self._ids.values()))

    def _unknown(self, key: str) -> BadSelectorError:
        if self.layout is None:
            message = f"`{key}` is no tensor; blocks and groups need a layout, and none is known for these tensors"
            advice = f"{_DECLARE}; names of tensors, globs and `re:` work without"
            return BadSelectorError("unknown-layout", message, advice)
        words = [*self.blocks, *dict(self.layout.groups), *dict(self.layout.components), *self._parts()]
        if "." in key:
            words += self.names
        message = f"`{key}` matches nothing: no block, group or tensor of layout `{self.layout.name}`"
        return BadSelectorError("selector-matches-nothing", message, self._near(key, words))

    def _near(self, key: str, words: Iterable[str]) -> str:
        """Return a suggestion for a key that names nothing, or what can be named."""
        self._suggested += 1
        if self._suggested > _MOST_SUGGESTIONS:
            return self.what_there_is
        return near(self._nearest(key), words, self.what_there_is)

    def _nearest(self, key: str) -> str:
        """Return the block of the same family with the nearest number; `key` itself if the family has none."""
        family, number = block_id(key)
        others = [block for block in self.blocks if number >= 0 and block_id(block)[0] == family]
        return min(others, key=lambda block: abs(block_id(block)[1] - number), default=key)


def _blocks(layout: Layout, names: Names) -> list[tuple[str, str]]:
    """Return the names that are in a block, each with its block.

    Raises:
        RecipeError: the layout's patterns take too long.
    """
    try:
        with Patience().limit():
            return [(name, block) for name in names if (block := layout.block(name)) is not None]
    except TimeoutError:
        message = f"the blocks of layout `{layout.name}` are not found within {LIMIT:.0f} seconds"
        raise RecipeError.one("bad-regex", message, help=SIMPLER) from None


def _searched(pattern: re.Pattern[str], names: Names, patience: Patience) -> Names:
    """Return the names in which a pattern is found; raises as `Patience.limit` does if that takes too long."""
    with patience.limit():
        return tuple(name for name in names if pattern.search(name))


def _applies(rule: Elemental, name: str, in_blocks: set[str]) -> bool:
    in_place = not rule.blocks or (name in in_blocks) is not rule.not_blocks
    return in_place and (not rule.elements or any(part in name for part in rule.elements) is not rule.not_elements)


def _regex(key: str) -> re.Pattern[str]:
    try:
        return compiled(key.removeprefix("re:"))
    except re.error as error:
        advice = "in single quotes TOML leaves backslashes alone: 're:\\.attn[12]\\.'"
        raise BadSelectorError("bad-regex", f"`{key}` is not a regular expression: {error}", advice) from None


def near(found: str, words: Iterable[str], otherwise: str) -> str:
    """Return a suggestion of the nearest of `words`, preferring a word that differs only in case; else `otherwise`."""
    known = list(words)
    same = next((word for word in known if word.casefold() == found.casefold()), found)
    return did_you_mean(same, known, otherwise=otherwise)
