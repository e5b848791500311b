"""`mergebuild verify`: read artifacts and outputs again, and compare them with what was written."""

from __future__ import annotations

import click

from mergebuild.cli.locate import open_project, shown_from_here, targets_from_here
from mergebuild.cli.options import reads_recipe, subcommand, targets_argument
from mergebuild.cli.settings import Settings
from mergebuild.report.looks import verify_lines

__all__ = ["command"]


@subcommand("verify")
@targets_argument
@click.option("--rebuild", is_flag=True, help="Build again beside them, and compare the bytes.")
@reads_recipe
def command(settings: Settings, targets: tuple[str, ...], rebuild: bool) -> int:
    """Read artifacts and outputs again, and compare them with what was written.

    Exits with 5 when something is damaged, with 6 when a rebuild gives other bytes.
    """
    project = open_project(settings)
    with settings.console.listening() as emit:
        verified = project.verify(targets_from_here(settings, targets), rebuild=rebuild, emit=emit)
    lines = verify_lines(verified, verbose=settings.verbose > 0, shown=shown_from_here(settings))
    settings.console.answer(verified.to_json(), [] if settings.quiet else lines)
    settings.console.problems(verified.problems)
    return verified.exit_code
