"""`mergebuild lock`: write down what was read and built."""

from __future__ import annotations

from mergebuild.cli.opening import from_here, open_project
from mergebuild.cli.options import Settings, reads_recipe, subcommand

__all__ = ["command"]


@subcommand("lock")
@reads_recipe
def command(settings: Settings) -> int:
    """Write mergefile.lock: SHA-256 and size of every source, and the digest of every built target.

    `mergebuild build --locked` refuses other sources, and fails on another result.
    """
    project = open_project(settings)
    with settings.console.listening() as emit:
        path = project.lock(emit=emit)
    settings.console.answer({"ok": True, "lock": str(path)}, [] if settings.quiet else [f"wrote {from_here(path)}"])
    return 0
