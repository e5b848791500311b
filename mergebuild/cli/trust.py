"""`mergebuild trust`: the user's permission to write outside the project's folder, and to run its own methods."""

from __future__ import annotations

from mergebuild.cli.locate import open_project
from mergebuild.cli.options import reads_recipe, subcommand
from mergebuild.cli.settings import Settings

__all__ = ["command"]


@subcommand("trust")
@reads_recipe
def command(settings: Settings) -> int:
    """Let this project write outside its folder, into the folders that its outputs name now, and run its own methods.

    The permission is kept outside the project. It holds until the mergefile names other folders; for a method, until
    its file or its table changes.
    """
    trusted = open_project(settings).trust()
    lines = [f"trusted: {folder}" for folder in trusted.folders]
    lines += [f"trusted to run: {file}" for file in trusted.files]
    nothing = "nothing to trust: all outputs are in the project's folder, and it has no methods of its own"
    settings.console.answer(trusted.to_json(), lines or [nothing])
    return 0
