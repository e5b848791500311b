"""`mergebuild clean`: remove what was built."""

from __future__ import annotations

import click

from mergebuild.cli.opening import open_project, shown_from_here, targets_from_here
from mergebuild.cli.options import Settings, lock_timeout_option, reads_recipe, subcommand, targets_argument
from mergebuild.report.answers import clean_lines

__all__ = ["command"]


@subcommand("clean")
@targets_argument
@click.option("--orphans", is_flag=True, help="Remove outputs built here that no target makes now.")
@lock_timeout_option
@reads_recipe
def command(settings: Settings, targets: tuple[str, ...], orphans: bool, lock_timeout: float | None) -> int:
    """Remove outputs and artifacts that were built here, of all targets or of some.

    Never a source, and never a file that was changed by hand.
    """
    asked = targets_from_here(settings, targets)
    cleaned = open_project(settings).clean(asked, orphans=orphans, lock_timeout=lock_timeout)
    settings.console.answer(cleaned.to_json(), clean_lines(cleaned, shown=shown_from_here(settings)))
    return 0
