"""`mergebuild plan`: what a build would do, and why."""

from __future__ import annotations

from mergebuild.cli.locate import open_project, shown_from_here, targets_from_here
from mergebuild.cli.options import reads_recipe, subcommand, targets_argument
from mergebuild.cli.settings import Settings
from mergebuild.report.builds import plan_lines

__all__ = ["command", "show_plan"]

MOST_TENSORS = 200
"""What is said of each target with one `-v`: a model of many experts has fifty thousand."""


@subcommand("plan")
@targets_argument
@reads_recipe
def command(settings: Settings, targets: tuple[str, ...]) -> int:
    """Show what a build would do, and why.

    For each target: the verdict, the reasons, the tensors to compute and to reuse, the bytes to read and to write;
    then the space needed and free. What a build would refuse is blocked, and the exit code is the build's. Nothing is
    changed. With -v, also what becomes of single tensors, and from where: of each target the first 200; with -vv, and
    in JSON with -v, all of them.
    """
    return show_plan(settings, targets)


def show_plan(
    settings: Settings, targets: tuple[str, ...], device: str = "auto", *, force: bool = False, locked: bool = False
) -> int:
    """Make the plan and print it."""
    named = targets_from_here(settings, targets)
    most = _most_tensors(settings)
    plan = open_project(settings).plan(named, device=device, force=force, locked=locked, tensors=most)
    lines = [] if settings.as_json else plan_lines(plan, verbose=settings.verbose > 0, shown=shown_from_here(settings))
    document = plan.to_json() if settings.as_json else {}
    settings.console.answer(document, lines, problems=plan.problems)
    return plan.exit_code


def _most_tensors(settings: Settings) -> int | None:
    """Return of how many tensors of each target something is to be said; None: of all."""
    if not settings.verbose:
        return 0
    return MOST_TENSORS if settings.verbose == 1 and not settings.as_json else None
