"""`mergebuild import`: recipes of other tools as a mergefile."""

from __future__ import annotations

from pathlib import Path

import click

from mergebuild.cli.options import FileName, FileOrFolder, FolderName, subcommand
from mergebuild.cli.settings import Settings

__all__ = ["command"]

NOT_ALL = 11
"""The exit code where something could not be mapped."""


@subcommand("import")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=FileOrFolder())
@click.option("-o", "--output", metavar="FILE", type=FileName(), help="Write the mergefile there, if no file is.")
@click.option("--models", multiple=True, metavar="DIR", type=FolderName(), help="Look for models in DIR too.")
@click.option("--hash", "hash_all", is_flag=True, help="Look for models by hash among all files.")
def command(
    settings: Settings, files: tuple[str, ...], output: str | None, models: tuple[str, ...], hash_all: bool
) -> int:
    """Make a mergefile of recipes of other tools, and print it.

    A FILE is a recipe of mergekit, sd-mecha or Merge Board, a history of supermerger or MBW GUI, a workflow of ComfyUI
    (JSON, or a picture), a text with command lines of kohya's, sd-meh's or Chattiori's scripts, a model file that
    carries how it was made, or a folder of such files. Nothing is run, and nothing merged. What has no counterpart is a
    comment in the mergefile and a line on stderr; then the exit code is 11.
    """
    from mergebuild.exchange.importing import import_recipes
    from mergebuild.exchange.new_file import write_new

    root = Path(output).parent if output is not None else Path()
    made = import_recipes(
        [Path(file) for file in files], root, models=[Path(each) for each in models], hash_all=hash_all
    )
    if output is not None:
        write_new(Path(output), made.text, "mergefile")
    for told in () if settings.quiet else made.notices:
        settings.console.message(f"{told.where}: {told.message}")
    for lost in made.unmapped:
        settings.console.message(f"{lost.where}: not imported: {lost.message}")
    document = {
        "ok": not made.unmapped,
        "written": output if output is not None else made.text,
        "unmapped": [lost._asdict() for lost in made.unmapped],
    }
    said = [f"wrote {output}"] if not settings.quiet else []
    settings.console.answer(document, made.text.splitlines() if output is None else said)
    return NOT_ALL if made.unmapped else 0
