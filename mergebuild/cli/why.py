"""`mergebuild why`: what differs from a target's last build."""

from __future__ import annotations

import click

from mergebuild.cli.locate import open_project, targets_from_here
from mergebuild.cli.options import reads_recipe, subcommand, target_argument
from mergebuild.cli.settings import Settings
from mergebuild.report.looks import tensor_lines, why_lines

__all__ = ["command"]


@subcommand("why")
@target_argument
@click.option("--tensor", metavar="NAME", help="Show what this tensor follows from, beside what it was built from.")
@reads_recipe
def command(settings: Settings, target: str, tensor: str | None) -> int:
    """Show what differs from a target's last build, one reason per line; or what blocks it.

    With --tensor, show every line that the tensor's digest is made of, those that differ with a mark.
    """
    (asked,) = targets_from_here(settings, (target,))
    project = open_project(settings)
    if tensor is None:
        why = project.why(asked)
    else:
        with settings.console.listening() as emit:  # reads sources that were not hashed yet, which may take long
            why = project.why(asked, tensor=tensor, emit=emit)
    settings.console.answer(why.to_json(), tensor_lines(why.tensor) if why.tensor else why_lines(why))
    settings.console.problems(why.problems)
    return 0
