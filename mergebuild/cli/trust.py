"""`mergebuild trust`: the user's word for what a mergefile must not do on its own."""

from __future__ import annotations

from mergebuild.cli.opening import open_project
from mergebuild.cli.options import Settings, reads_recipe, subcommand

__all__ = ["command"]


@subcommand("trust")
@reads_recipe
def command(settings: Settings) -> int:
    """Let this project write outside its folder, into the folders that its outputs name now.

    The word is kept outside the project, and holds until the mergefile names other folders.
    """
    folders = open_project(settings).trust()
    lines = [f"trusted: {folder}" for folder in folders] or [
        "nothing to trust: all outputs are in the project's folder"
    ]
    settings.console.answer({"ok": True, "trusted": list(folders)}, lines)
    return 0
