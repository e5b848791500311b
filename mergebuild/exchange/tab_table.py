"""Tables of other tools' histories: a header, and rows whose fields tabs separate."""

from __future__ import annotations

import csv
from typing import Final

from mergebuild.errors import Place, RecipeError
from mergebuild.exchange.merges.chain import MOST_MERGES
from mergebuild.exchange.recipe_file import RecipeFile

__all__ = ["header_of", "rows_of"]

_MOST_HEADER: Final = 2000


def header_of(file: RecipeFile) -> list[str]:
    """Return the fields of the first line of a file; none where tabs don't separate them."""
    first = file.text[:_MOST_HEADER].lstrip("\r\n").split("\n", 1)[0].strip("\r")
    return [each.strip().strip('"') for each in first.split("\t")] if "\t" in first else []


def rows_of(file: RecipeFile) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a file by the names of their columns, with the numbers of their lines.

    Raises:
        RecipeError: there are more than people make, or they can't be told apart.
    """
    names = header_of(file)
    found: list[tuple[int, dict[str, str]]] = []
    reader = csv.reader(file.text.lstrip("\r\n").splitlines(), delimiter="\t")
    try:
        for number, row in enumerate(reader, 1):
            if number > 1 and any(each.strip() for each in row):
                found.append((number, {name: each.strip() for name, each in zip(names, row, strict=False)}))
            if len(found) > MOST_MERGES:
                message = f"`{file.path.name}` has more than {MOST_MERGES:,} rows"
                raise RecipeError.one("bad-recipe", message, where=Place(str(file.path)), help="cut it")
    except csv.Error as error:
        message = f"`{file.path.name}` is no table of fields between tabs: {error}"
        raise RecipeError.one("bad-recipe", message, where=Place(str(file.path)), help="see its last rows") from None
    return found
