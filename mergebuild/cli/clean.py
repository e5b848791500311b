"""`mergebuild clean`: remove what was built."""

from __future__ import annotations

import click

from mergebuild.cli.locate import open_project, shown_from_here, targets_from_here
from mergebuild.cli.options import dry_run_option, lock_timeout_option, reads_recipe, subcommand, targets_argument
from mergebuild.cli.settings import Settings
from mergebuild.errors import UsageError
from mergebuild.report.looks import clean_lines
from mergebuild.results.looks import CleanResult
from mergebuild.results.quantities import count_text, size_text

__all__ = ["command"]


@subcommand("clean")
@targets_argument
@click.option("--orphans", is_flag=True, help="Remove outputs built here that no target makes now.")
@dry_run_option
@click.option("-y", "--yes", is_flag=True, help="Remove what all targets made, without a question.")
@lock_timeout_option
@reads_recipe
def command(
    settings: Settings, targets: tuple[str, ...], orphans: bool, dry_run: bool, yes: bool, lock_timeout: float | None
) -> int:
    """Remove outputs and artifacts that were built here: of some targets, or of all that the mergefile names.

    For all of them it asks first; where there is no terminal, it wants --yes. What stays: sources, files that were
    changed by hand, members of families that no list names (clean them by name), the history (mergebuild gc frees it),
    and orphans, unless --orphans asks for them.
    """
    project = open_project(settings)
    asked = targets_from_here(settings, targets)

    def clean(*, dry_run: bool, **more: CleanResult) -> CleanResult:
        return project.clean(asked, orphans=orphans, dry_run=dry_run, lock_timeout=lock_timeout, **more)

    agreed: dict[str, CleanResult] = {}
    if not (targets or orphans or dry_run or yes):
        if not settings.console.can_ask():
            raise UsageError.one(
                "clean-all",
                "this would remove what all targets made, and there is no terminal to ask on",
                help="say `--yes`, name targets, or look with `-n`",
            )
        foreseen = clean(dry_run=True)
        if not _is_wanted(settings, foreseen):
            settings.console.answer(CleanResult(()).to_json(), ["nothing was removed"])
            return 0
        agreed["foreseen"] = foreseen  # only these are removed: a build may have added files since they were shown
    cleaned = clean(dry_run=dry_run, **agreed)
    settings.console.answer(cleaned.to_json(), clean_lines(cleaned, shown=shown_from_here(settings)))
    return 0


def _is_wanted(settings: Settings, foreseen: CleanResult) -> bool:
    """Show which files would be removed, and return whether the user agrees. Without files, don't ask: yes."""
    if not foreseen.removed:
        return True
    for line in clean_lines(foreseen, shown=shown_from_here(settings)):
        settings.console.message(line)
    files, size = count_text(len(foreseen.removed), "file"), size_text(foreseen.bytes_freed)
    return settings.console.asked(f"remove {files}, {size}?")
