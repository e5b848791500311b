"""Which layout a set of tensors has, told by the tensors that must and must not be there. Headers suffice.

The user's layouts are asked first, in the order declared; then ours, from those with the surest signs to the most
general. A layout's data file is read when it is asked for the first time.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
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
"""Our layouts, as they are listed."""

_ASKED = ("sdxl", "sd2", "sd15", "flux", "sd3", "llama", "transformer")
_DATA = Path(str(files("mergebuild.layouts"))) / "data"


class ListedLayout(NamedTuple):
    """A layout for people: its blocks with ranges drawn together, `L*` where their count is the model's."""

    name: str
    title: str
    blocks: tuple[str, ...]


class _DataFile:
    """Where our own layouts stand."""

    def __init__(self, path: Path) -> None:
        self._place = Place(path.name)

    def place(self, *_path: str | int, key: bool = False) -> Place:  # noqa: ARG002 -- what `Where` asks for
        """Return the file; which line, only its author wants to know."""
        return self._place


@cache
def built_in(name: str) -> Layout:
    """Return our layout of that name.

    Raises:
        KeyError: there is none.
    """
    if name not in BUILT_IN:
        raise KeyError(name)
    import tomli

    path = _DATA / f"{name}.toml"
    return parse_layout(LayoutText(name, tomli.loads(path.read_text(encoding="utf-8")), _DataFile(path)))


_parsed: dict[int, tuple[LayoutText, Layout]] = {}
_PARSED_AT_MOST = 64


def user_layout(text: LayoutText) -> Layout:
    """Return the layout that `text` declares; the same object each time for the same `text`.

    Raises:
        RecipeError: with everything that is wrong with it.
    """
    known = _parsed.get(id(text))
    if known is not None:  # the entry keeps its text alive, so the id is still its own
        return known[1]
    layout = parse_layout(text)
    if len(_parsed) >= _PARSED_AT_MOST:
        _parsed.clear()
    _parsed[id(text)] = (text, layout)
    return layout


class _NamesOfFile:
    """Tensor names, sorted, so that a glob is looked for only among names that begin as it does."""

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
        """Return whether there is a tensor of that name (or glob) and shape."""
        return any(marker.shape is None or _fits(self.shapes[name], marker.shape) for name in self._like(marker.name))


def _fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(want in (None, have) for have, want in zip(shape, wanted, strict=True))


def _is_stack(layout: Layout, names: Mapping[str, Sequence[int]]) -> bool:
    """Return whether the numbers of the layout's stack run from 0 without a gap, at least to 1."""
    ids = (block_id(block) for name in names if (block := layout.block(name)) is not None)
    numbers = {number for family, number in ids if family == layout.stack}
    return len(numbers) >= 2 and max(numbers) == len(numbers) - 1


def _has_signs(layout: Layout, names: _NamesOfFile) -> bool:
    return any(all(names.has(marker) for marker in markers) for markers in layout.detect) and not any(
        names.has(Marker(glob)) for glob in layout.unless
    )


def _has_signs_in_time(layout: Layout, names: _NamesOfFile, text: LayoutText, patience: Patience) -> bool:
    """Return whether a stranger's layout has its signs in names.

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
    """Look for a stranger's patterns in names once, in time: then whoever does it again needs no limit.

    Raises:
        RecipeError: one takes too long.
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
    """Return the layout of tensors given as name -> shape, or None where none of `user` and ours is it.

    Raises:
        RecipeError: a layout of `user` is not sound, or takes too long to look for its signs in these names.
    """
    names = _NamesOfFile(names_to_shapes)
    if (found := _of_user(names, user)) is not None:
        return found
    ours = (built_in(name) for name in _ASKED)
    return next((layout for layout in ours if _has_signs(layout, names) and _is_whole(layout, names)), None)


def declared_for(
    stored: Mapping[str, Sequence[int]], canonical: Mapping[str, Sequence[int]], user: Mapping[str, LayoutText]
) -> bool:
    """Return whether the user declared a layout for the names in a file, and it is not one for the canonical ones.

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
    """Return the layouts that there are, the user's first; one of ours that they redefine is left out.

    Raises:
        RecipeError: a layout of `user` is not sound.
    """
    layouts = [user_layout(text) for text in user.values()]
    layouts += [built_in(name) for name in BUILT_IN if name not in user]
    return [ListedLayout(layout.name, layout.title, drawn_together(layout.order)) for layout in layouts]
