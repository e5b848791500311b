"""`mergebuild gc`: remove artifacts that no target needs."""

from __future__ import annotations

import click

from mergebuild.cli.locate import duration, open_project, shown_from_here, size
from mergebuild.cli.options import dry_run_option, lock_timeout_option, reads_recipe, subcommand
from mergebuild.cli.settings import Settings
from mergebuild.report.looks import clean_lines

__all__ = ["command"]


@subcommand("gc")
@click.option("--max-size", metavar="SIZE", help="Keep no more history than this (20GB, 512MiB, 0).")
@click.option("--older-than", metavar="AGE", help="Free history that was superseded longer ago than this (30d, 12h).")
@dry_run_option
@lock_timeout_option
@reads_recipe
def command(
    settings: Settings, max_size: str | None, older_than: str | None, dry_run: bool, lock_timeout: float | None
) -> int:
    """Free what no current target needs and the history's budget does not hold. Outputs stay."""
    limit = None if max_size is None else size("--max-size", max_size)
    age = None if older_than is None else duration("--older-than", older_than)
    freed = open_project(settings).gc(max_size=limit, older_than=age, dry_run=dry_run, lock_timeout=lock_timeout)
    settings.console.answer(freed.to_json(), clean_lines(freed, shown=shown_from_here(settings)))
    return 0
