"""The history of supermerger, `mergehistory.csv`: a row a merge.

Its header names other columns than the rows have, so columns are known by their places. Rows of old versions end early.
Fields are quoted by hand there, without doubled quotes, and by a CSV writer later: both are read. Models are known by
the first 10 digits of their SHA-256; the name that the tool gives to a result holds the beginnings of their names.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from mergebuild.errors import Place, RecipeError
from mergebuild.exchange.draft import Draft, ModelName
from mergebuild.exchange.figures import figure, of_slider
from mergebuild.exchange.merges.chain import MOST_MERGES
from mergebuild.exchange.merges.node import UnsayableError
from mergebuild.exchange.merges.supermerger import Supermerge, Weights, weights_of_text
from mergebuild.exchange.recipe_file import RecipeFile

__all__ = ["fields_of", "read", "recognizes"]

_HEADER: Final = re.compile(r'\s*"?ID"?,\s*"?time"?,\s*"?name"?,\s*"?weights alpha')
_ID: Final = re.compile(r"\s*\d{1,9}\s*")
_HASH: Final = re.compile(r"[0-9a-fA-F]{10}")
_MOST_SIGNS: Final = 200
_SHARE: Final = r" ?x ?-?[\d.]+"
_NAMES: Final = (
    re.compile(
        r"\(?\s*(?P<a>.+?) ?x ?\(1-alpha(?:-beta)?\) ?\+ ?(?P<b>.+?) ?x ?alpha\)?"
        r"(?:(?: ?x ?\(1-beta\))? ?\+ ?(?P<c>.+?) ?x ?beta)?(?: ?\(.*)?"
    ),
    re.compile(r"(?P<a>.+?) \+ \((?P<b>.+?) - +(?P<c>.+?)\) ?x ?(?:alpha|[\d.]+).*"),
    re.compile(rf"\((?P<a>.+?){_SHARE} ?\+ ?(?P<b>.+?){_SHARE}\){_SHARE} \+ (?P<c>.+?){_SHARE}.*"),
    re.compile(rf"(?P<a>.+?){_SHARE} \+ (?P<b>.+?){_SHARE}(?: \+ (?P<c>.+?){_SHARE})?(?:_.*)?"),
)
"""Names of results: of models with block weights, of differences, of two sums, and of sums."""
_IGNORED: Final = frozenset({"overwrite", "save model", "safetensors", "Reset CLIP ids", "copy config", ""})
_DTYPES: Final = {"fp16": "float16", "bf16": "bfloat16"}


def recognizes(file: RecipeFile) -> bool:
    """Whether a text begins with the header of that history."""
    return _HEADER.match(file.text[:500]) is not None


def read(file: RecipeFile, draft: Draft) -> None:
    """Add a target for each row.

    Raises:
        RecipeError: there are more rows than people make.
    """
    rows = fields_of(file.text)[1:]
    if len(rows) > MOST_MERGES:
        message = f"`{file.path.name}` has {len(rows):,} rows"
        raise RecipeError.one("bad-recipe", message, where=Place(str(file.path)), help=f"cut it to {MOST_MERGES} rows")
    for row in rows:
        where = f"{file.path}: row {row[0].strip()[:20]}"
        if not _ID.fullmatch(row[0]) or len(row) < 11:
            draft.leave_out(where, "a row that does not begin with a number, or ends before the mode")
            continue
        try:
            _merge(where, [*row, *[""] * (23 - len(row))], draft).add(draft)
        except UnsayableError as error:
            draft.leave_out(where, str(error))


def fields_of(text: str) -> list[list[str]]:
    """Return the rows of a text, up to one beyond those that are imported."""
    rows: list[list[str]] = [[]]
    fields = _QuotedFields(text)
    while fields.place < len(text) and len(rows) <= MOST_MERGES + 2:
        rows[-1].append(fields.next())
        if text[fields.place : fields.place + 1] != ",":
            rows.append([])
        fields.place += 1
    return [row for row in rows if any(each.strip() for each in row)]


_END: Final = re.compile(r'"[^\S\n]*(?=,|\n|\Z)')
_PLAIN_END: Final = re.compile(r",|\n|\Z")


@dataclass
class _QuotedFields:
    """A text, and where its next field begins. A quoted field ends at a quote that a comma or a line break follows."""

    text: str
    place: int = 0
    _no_end_from: int = sys.maxsize
    """From here on no quote ends a field, so that none is looked for again."""

    def next(self) -> str:
        """Return the next field, and stop at the sign behind it."""
        if self.text[self.place] == '"' and (end := self._quoted_end()) is not None:
            field = self.text[self.place + 1 : end].replace('""', '"')
            self.place = end + 1
            self._to_end()
            return field
        begin = self.place
        self._to_end()
        return self.text[begin : self.place].rstrip("\r")

    def _to_end(self) -> None:
        found = _PLAIN_END.search(self.text, self.place)
        self.place = found.start() if found else len(self.text)

    def _quoted_end(self) -> int | None:
        """Return where the quote that ends a quoted field is; None: there is none."""
        at = self.place + 1
        while at < self._no_end_from:
            found = _END.search(self.text, at)
            if found is None:
                self._no_end_from = at
                return None
            if not self._is_doubled(found.start()):
                return found.start()
            at = found.start() + 1
        return None

    def _is_doubled(self, end: int) -> bool:
        """Whether the quote at `end` is the second of a pair."""
        first = end
        while first - 1 > self.place and self.text[first - 1] == '"':
            first -= 1
        return (end - first) % 2 == 1


def _merge(where: str, row: Sequence[str], draft: Draft) -> Supermerge:
    """Return the merge of a row; raise `UnsayableError` where it is none here."""
    settings = _items(row[13])
    merge = Supermerge(
        where=where,
        name=(row[12].strip() or row[2].strip())[:_MOST_SIGNS] or f"merge-{row[0].strip()}",
        inputs=[],
        mode=row[10],
        alpha=_weights(row, 3, 8),
        beta=_weights(row, 4, 9),
        calcmode=row[16].strip() or "normal",
        elemental=row[15],
        limits=row[20].strip() or "Off",
        limited=[*_items(row[21]), *_items(row[22])],
        gamma=_number(row[19] or "0.3", "option"),
        adjust=row[18],
        comments=[f"row {row[0].strip()}, {row[1].strip()}"],
    )
    if merge.calcmode != "extract":
        merge.gamma = Decimal("0.3")
    merge.output = merge.name + (".safetensors" if "safetensors" in settings or not settings else ".ckpt")
    merge.dtype = next((_DTYPES[each] for each in settings if each in _DTYPES), None)
    merge.inputs = _models(row, draft)
    for each in settings:
        if each in ("prune", "pruned"):
            merge.comments.append("the tool pruned it; EMA copies are dropped anyway")
        elif each not in _IGNORED | _DTYPES.keys():
            draft.leave_out(where, f"save setting `{each[:60]}`")
    return merge


def _weights(row: Sequence[str], text: int, slider: int) -> Weights:
    if row[11].strip() != "True":
        return _number(row[slider] or "0", "alpha or beta")
    weights = weights_of_text(row[text])
    return Decimal(0) if weights == "" and text == 4 else weights


def _number(text: str, what: str) -> Decimal:
    try:
        return of_slider(figure(text))
    except ValueError as error:
        raise UnsayableError(f"{what} is {text[:40]!r}: {error}") from None


def _models(row: Sequence[str], draft: Draft) -> list[str]:
    """Return the sources of A, B and C, known by their hashes, and by what a result's name tells of their names."""
    hashes = [row[column].strip().lower() for column in (5, 6, 7)]
    for digest in hashes:
        if digest and not _HASH.fullmatch(digest):
            raise UnsayableError(f"{digest[:40]!r} is no hash of a file: a result that was never saved")
    names = _names(row[2])
    known = {each.model.autov2: each.name for each in draft.sources.values() if each.model.autov2}
    found: list[str] = []
    for digest, letter in zip(hashes, "abc", strict=True):
        if digest and digest not in known:
            name = names.get(letter, "")
            comment = "the beginning of its name, as the result's name has it" if name else None
            known[digest] = draft.source(ModelName(name, autov2=digest, comment=comment))
        found.append(known[digest] if digest else "")
    return found


def _names(result: str) -> dict[str, str]:
    """Return the beginnings of the names of A, B, C in the name that the tool gives to a result."""
    for pattern in _NAMES:
        found = pattern.fullmatch(result.strip()[:_MOST_SIGNS])
        if found:
            return {letter: name.strip() for letter, name in found.groupdict().items() if name}
    return {}


def _items(text: str) -> list[str]:
    """Return the words of a list as Python prints it, or separated by commas."""
    try:
        said = ast.literal_eval(text.strip()) if text.strip().startswith("[") and len(text) < 10_000 else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        said = None
    words = said if isinstance(said, list) else text.strip("[] ").split(",")
    return [plain for each in words if isinstance(each, str) and (plain := each.strip().strip("'\""))]
