"""`mergebuild export`: a target as a recipe of another tool."""

from __future__ import annotations

from pathlib import Path

import click

from mergebuild.cli.locate import open_project, targets_from_here
from mergebuild.cli.options import FileName, reads_recipe, subcommand, target_argument
from mergebuild.cli.settings import Settings

__all__ = ["command"]

_FORMATS = ("mergekit", "mecha", "merge-board", "mbw")


@subcommand("export")
@target_argument
@click.option("--as", "format", required=True, type=click.Choice(_FORMATS), help="The recipe's kind.")
@click.option("-o", "out", metavar="FILE", type=FileName(), help="Write it to FILE, where no file is yet.")
@reads_recipe
def command(settings: Settings, target: str, format: str, out: str | None) -> int:
    """Show a target, and what it is made of, as a recipe of another tool.

    The recipe is exact: `mergebuild import` makes the same artifact of it. What the format can't say is an error (exit
    code 11) that names all of it, and nothing is written.
    """
    from mergebuild.exchange.exporting import export

    (asked,) = targets_from_here(settings, (target,))
    with settings.console.listening() as emit:
        made = export(open_project(settings), asked, format, out=Path(out) if out else None, emit=emit)
    if made.written:
        settings.console.answer(made.to_json(), [] if settings.quiet else [f"wrote {made.written}"])
    else:
        settings.console.answer_exactly(made.to_json(), made.text)
    return 0
