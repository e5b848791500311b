"""`mergebuild lock`: write mergefile.lock, with hashes of the sources and digests of the targets."""

from __future__ import annotations

import click

from mergebuild.cli.locate import from_here, open_project
from mergebuild.cli.options import reads_recipe, subcommand
from mergebuild.cli.settings import Settings

__all__ = ["command"]


@subcommand("lock")
@click.option("--check", is_flag=True, help="Write nothing; exit code 6 if it would be another file.")
@reads_recipe
def command(settings: Settings, check: bool) -> int:
    """Write mergefile.lock: the hashes of every source, and the digest of every target, built or not.

    SHA-256 and size of the sources, SHA-256 of the small files beside the weights of folders, digests of the targets.
    `mergebuild build --locked` refuses other sources, and fails on another result; what the lock lacks, it refuses too.
    """
    project = open_project(settings)
    with settings.console.listening() as emit:
        path = project.lock(check=check, emit=emit)
    said = f"{from_here(path)} is up to date" if check else f"wrote {from_here(path)}"
    settings.console.answer({"ok": True, "lock": str(path)}, [] if settings.quiet else [said])
    return 0
