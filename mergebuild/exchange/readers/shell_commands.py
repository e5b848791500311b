"""Command lines of merging scripts, as guides and batch files have them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final

from mergebuild.errors import Place, RecipeError
from mergebuild.exchange.commands import chattiori, kohya, meh, mergekit
from mergebuild.exchange.commands.command_line import CommandLine, commands_in, other_commands_in
from mergebuild.exchange.draft import Draft
from mergebuild.exchange.merges.chain import MOST_MERGES
from mergebuild.exchange.merges.node import UnsayableError
from mergebuild.exchange.recipe_file import RecipeFile

__all__ = ["read", "recognizes"]


def _merge_models(line: CommandLine, draft: Draft) -> None:
    """Take `merge_models.py`, of which kohya's has `--models` and sd-meh's one option a model."""
    (kohya.SCRIPTS["merge_models.py"] if line.has("models") else meh.merge)(line, draft)


_SCRIPTS: Final[Mapping[str, Callable[[CommandLine, Draft], None]]] = {
    **kohya.SCRIPTS,
    **mergekit.SCRIPTS,
    "merge_models.py": _merge_models,
    "merge_meh": meh.merge,
    "merge_meh.py": meh.merge,
    "merge.py": chattiori.merge,
}
_SIGN: Final = re.compile(rf"(?:^|[\s\\/\"'])(?:{'|'.join(map(re.escape, _SCRIPTS))})[\"']?\s")
_MOST_SIGNS: Final = 1_000_000


def recognizes(file: RecipeFile) -> bool:
    """Whether a text runs one of the scripts."""
    return _SIGN.search(file.text[:_MOST_SIGNS]) is not None


def read(file: RecipeFile, draft: Draft) -> None:
    """Add what each command makes.

    Raises:
        RecipeError: there are more commands than people write, or none is a merge.
    """
    if len(file.text) > _MOST_SIGNS:
        place = Place(str(file.path))
        raise RecipeError.one("bad-recipe", f"it has more than {_MOST_SIGNS:,} signs", where=place, help="cut the file")
    count = 0
    for line in commands_in(file.text, str(file.path), _SCRIPTS):
        count += 1
        if count > MOST_MERGES:
            raise RecipeError.one("bad-recipe", "too many commands", where=Place(line.where), help="cut the file")
        try:
            _SCRIPTS[line.script](line, draft)
        except UnsayableError as error:
            draft.leave_out(line.where, str(error))
    if not count:
        place = Place(str(file.path))
        raise RecipeError.one("bad-recipe", "no command of a merging script", where=place, help="see its first lines")
    for where, begins in islice(other_commands_in(file.text, str(file.path), _SCRIPTS), MOST_MERGES):
        draft.say(where, f"`{begins}` names a model and runs no script that is known: it is passed over")
