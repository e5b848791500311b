"""`mergebuild why`: what differs from a target's last build."""

from __future__ import annotations

from mergebuild.cli.locate import open_project, targets_from_here
from mergebuild.cli.options import reads_recipe, subcommand, target_argument
from mergebuild.cli.settings import Settings
from mergebuild.report.looks import why_lines

__all__ = ["command"]


@subcommand("why")
@target_argument
@reads_recipe
def command(settings: Settings, target: str) -> int:
    """Show what differs from a target's last build, a line a reason; or what blocks it."""
    (asked,) = targets_from_here(settings, (target,))
    why = open_project(settings).why(asked)
    settings.console.answer(why.to_json(), why_lines(why))
    settings.console.problems(why.problems)
    return 0
