"""Finds the layout of a set of tensors by which tensors it has and lacks; headers are enough.

The user's layouts are tried first, in the order of their declaration; then ours, from the most specific to the most
general. The data file of a layout is read when that layout is first tried.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mergebuild.errors import Place, RecipeError
from mergebuild.layouts.blocks import block_id, drawn_together
from mergebuild.layouts.declare import parse_layout
from mergebuild.layouts.globs import Glob, is_glob
from mergebuild.layouts.layout import Layout, Marker
from mergebuild.layouts.patience import LIMIT, SHORTER, SIMPLER, Patience
from mergebuild.recipe.model import LayoutText

__all__ = ["BUILT_IN", "ListedLayout", "built_in", "declared_for", "detect", "list_layouts", "user_layout"]

BUILT_IN = ("sd15", "sd2", "sdxl", "sd3", "flux", "llama", "transformer")
"""Our layouts, in the order in which they are listed."""

_ASKED = ("sdxl", "sd2", "sd15", "flux", "sd3", "llama", "transformer")
_DATA = Path(__file__).with_name("data")


class ListedLayout(NamedTuple):
    """A layout as shown to people, its blocks with ranges; `L*` if the model decides how many there are."""

    name: str
    title: str
    blocks: tuple[str, ...]


class _DataFile:
    """The place of our own layouts in messages."""

    def __init__(self, path: Path) -> None:
        self._place = Place(path.name)

    def place(self, *_path: str | int, key: bool = False) -> Place:  # noqa: ARG002 -- what `Where` asks for
        """Return the place of the whole file: only its author would need the line."""
        return self._place


@cache
def built_in(name: str) -> Layout:
    """Return our layout with this name.

    Raises:
        KeyError: we have none with this name.
    """
    if name not in BUILT_IN:
        raise KeyError(name)
    import tomli

    path = _DATA / f"{name}.toml"
    return parse_layout(LayoutText(name, tomli.loads(path.read_text(encoding="utf-8")), _DataFile(path)))


_parsed: dict[int, tuple[LayoutText, Layout]] = {}
_PARSED_AT_MOST = 64


def user_layout(text: LayoutText) -> Layout:
    """Return the layout that `text` declares; for the same object `text` always the same layout.

    Raises:
        RecipeError: with all problems of the declaration.
    """
    known = _parsed.get(id(text))
    if known is not None:  # the entry keeps its text alive, so no other object has this id
        return known[1]
    layout = parse_layout(text)
    if len(_parsed) >= _PARSED_AT_MOST:
        _parsed.clear()
    _parsed[id(text)] = (text, layout)
    return layout


class _NamesOfFile:
    """Tensor names, sorted, so that a glob is compared only with names that have its beginning."""

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        self.shapes = shapes
        self._sorted = sorted(shapes)

    def _like(self, text: str) -> Iterator[str]:
        if not is_glob(text):
            if text in self.shapes:
                yield text
            return
        glob = Glob(text)
        for index in range(bisect_left(self._sorted, glob.beginning), len(self._sorted)):
            name = self._sorted[index]
            if not name.startswith(glob.beginning):
                return
            if glob.matches(name):
                yield name

    def has(self, marker: Marker) -> bool:
        """Whether a tensor with this name (or glob) and shape exists."""
        return any(marker.shape is None or _fits(self.shapes[name], marker.shape) for name in self._like(marker.name))


def _fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(want in (None, have) for have, want in zip(shape, wanted, strict=True))


def _is_stack(layout: Layout, names: Mapping[str, Sequence[int]]) -> bool:
    """Whether the numbers of the layout's stack run from 0 without a gap, at least to 1."""
    ids = (block_id(block) for name in names if (block := layout.block(name)) is not None)
    numbers = {number for family, number in ids if family == layout.stack}
    return len(numbers) >= 2 and max(numbers) == len(numbers) - 1


def _has_signs(layout: Layout, names: _NamesOfFile) -> bool:
    return any(all(names.has(marker) for marker in markers) for markers in layout.detect) and not any(
        names.has(Marker(glob)) for glob in layout.unless
    )


def _has_signs_in_time(layout: Layout, names: _NamesOfFile, text: LayoutText, patience: Patience) -> bool:
    """Whether the names have the signs of a user's layout.

    Raises:
        RecipeError: its globs take too long.
    """
    try:
        with patience.limit():
            return _has_signs(layout, names)
    except TimeoutError:
        message = f"the signs of layout `{layout.name}` are not found within {LIMIT:.0f} seconds"
        raise RecipeError.one("bad-glob", message, where=text.where.place("detect"), help=SHORTER) from None


def _is_whole(layout: Layout, names: _NamesOfFile) -> bool:
    return layout.stack is None or _is_stack(layout, names.shapes)


def _try(text: LayoutText, layout: Layout, names: Iterable[str]) -> None:
    """Search a user's patterns in all names once, with a time limit, so that later searches need none.

    Raises:
        RecipeError: a pattern takes too long.
    """
    patience = Patience()
    searches: list[tuple[str, Callable[[str], object]]] = [("blocks", layout.block)]
    searches += [(part, pattern.search) for part, pattern in layout.components + layout.groups]
    for what, search in searches:
        try:
            with patience.limit():
                for name in names:
                    search(name)
        except TimeoutError:
            message = f"the {what} of layout `{layout.name}` are not found within {LIMIT:.0f} seconds"
            raise RecipeError.one("bad-regex", message, where=text.where.place(), help=SIMPLER) from None


def detect(names_to_shapes: Mapping[str, Sequence[int]], user: Mapping[str, LayoutText]) -> Layout | None:
    """Return the layout of tensors given as name -> shape; None if none of `user` and none of ours fits.

    Raises:
        RecipeError: a layout of `user` is invalid, or the patterns of its signs take too long to match these names.
    """
    names = _NamesOfFile(names_to_shapes)
    if (found := _of_user(names, user)) is not None:
        return found
    ours = (built_in(name) for name in _ASKED)
    return next((layout for layout in ours if _has_signs(layout, names) and _is_whole(layout, names)), None)


def declared_for(
    stored: Mapping[str, Sequence[int]], canonical: Mapping[str, Sequence[int]], user: Mapping[str, LayoutText]
) -> bool:
    """Return whether one of the user's layouts fits a file's stored names, and none fits its canonical names.

    Raises:
        RecipeError: as `detect`.
    """
    return bool(user) and (
        _of_user(_NamesOfFile(canonical), user) is None and _of_user(_NamesOfFile(stored), user) is not None
    )


def _of_user(names: _NamesOfFile, user: Mapping[str, LayoutText]) -> Layout | None:
    patience = Patience()
    for text in user.values():
        layout = user_layout(text)
        if _has_signs_in_time(layout, names, text, patience):
            _try(text, layout, names.shapes)
            if _is_whole(layout, names):
                return layout
    return None


def list_layouts(user: Mapping[str, LayoutText]) -> list[ListedLayout]:
    """Return all layouts, the user's first; one of ours that the user redefines is left out.

    Raises:
        RecipeError: a layout of `user` is invalid.
    """
    layouts = [user_layout(text) for text in user.values()]
    layouts += [built_in(name) for name in BUILT_IN if name not in user]
    return [ListedLayout(layout.name, layout.title, drawn_together(layout.order)) for layout in layouts]
