"""`mergebuild status`: the state of each target, in a line."""

from __future__ import annotations

import click

from mergebuild.cli.locate import open_project, shown_from_here, targets_from_here
from mergebuild.cli.options import reads_recipe, subcommand, targets_argument
from mergebuild.cli.settings import Settings
from mergebuild.errors import StatusError
from mergebuild.report.looks import status_lines
from mergebuild.results.looks import OutputState

__all__ = ["command"]


@subcommand("status")
@targets_argument
@click.option("--exit-code", is_flag=True, help="Exit with 8 unless all are up to date.")
@reads_recipe
def command(settings: Settings, targets: tuple[str, ...], exit_code: bool) -> int:
    """Show the state of each target in a line.

    States are up-to-date, stale, missing and changed-by-hand. Orphans are outputs that were built here and that no
    target makes now; `mergebuild clean --orphans` removes them.
    """
    status = open_project(settings).status(targets_from_here(settings, targets))
    lines = [] if settings.as_json else status_lines(status, shown=shown_from_here(settings))
    settings.console.answer(status.to_json(), lines)
    is_current = all(target.state is OutputState.UP_TO_DATE for target in status.targets)
    return StatusError.exit_code if exit_code and not is_current else 0
