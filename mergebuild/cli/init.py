"""`mergebuild init`: a first mergefile."""

from __future__ import annotations

from pathlib import Path

import click

from mergebuild.cli.options import FolderName, subcommand
from mergebuild.cli.settings import Settings

__all__ = ["command"]


@subcommand("init")
@click.argument("folder", required=False, default=".", metavar="[FOLDER]", type=FolderName())
def command(settings: Settings, folder: str) -> int:
    """Write a commented mergefile.toml for the models found in FOLDER and below it. Never overwrites one."""
    from mergebuild.project.init import init

    made = init(Path(folder), mergefile=Path(settings.mergefile) if settings.mergefile else None)
    document = {"ok": True, "mergefile": str(made.path), "sources": made.sources}
    found = f"{len(made.sources)} model{'' if len(made.sources) == 1 else 's'} found"
    settings.console.answer(document, [] if settings.quiet else [f"wrote {made.path}: {found}"])
    return 0
