"""The group of commands: a table of names, so that only the command that is called gets imported."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from keyword import iskeyword
from typing import TYPE_CHECKING

import click

from mergebuild.cli.options import SectionedHelp, everywhere
from mergebuild.cli.settings import Settings
from mergebuild.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["COMMANDS", "PROGRAM_NAME", "module_of", "program"]

PROGRAM_NAME = "mergebuild"

COMMANDS = {
    "build": "Make targets up to date.",
    "plan": "Show what a build would do, and why.",
    "status": "Show the state of each target in a line.",
    "why": "Show what differs from a target's last build.",
    "lineage": "Show what a target is made of, down to sources.",
    "export": "Show a target as a recipe of another tool.",
    "list": "List sources, targets and layouts.",
    "methods": "Show the merge methods, or one of them.",
    "graph": "Show how targets depend on each other.",
    "inspect": "Show what a model file is.",
    "verify": "Read what was built again, and compare.",
    "gc": "Free what no target needs any more.",
    "clean": "Remove outputs and artifacts.",
    "lock": "Write mergefile.lock: what was read and built.",
    "trust": "Let this project write outside its folder, or run code.",
    "init": "Write a mergefile for the models of a folder.",
    "import": "Make a mergefile of recipes of other tools.",
}
"""Names with one-line summaries. Each is the function `command` in a module of its own: `module_of`."""


def module_of(name: str) -> str:
    """Return the module of a command: that of its name in `mergebuild.cli`, with a `_` behind a word of Python's."""
    return f"mergebuild.cli.{name}_" if iskeyword(name) else f"mergebuild.cli.{name}"


class LazyGroup(SectionedHelp, click.Group):
    """A group that imports a command when it is called, and lists commands from the table."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's signature
        """Return the names in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command."""
        if cmd_name not in COMMANDS:
            return None
        command = import_module(module_of(cmd_name)).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first argument names.

        Raises:
            UsageError: There is no such command; the help suggests the nearest name.
        """
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            found = did_you_mean(name, COMMANDS, otherwise="`mergebuild --help` shows all commands")
            raise UsageError.one("unknown-command", f"there is no command `{name}`", help=found)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the table of commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names from the table, options as click does."""
        return [*_completed(incomplete), *click.Command.shell_complete(self, ctx, incomplete)]


def _completed(incomplete: str) -> Iterator[CompletionItem]:
    from click.shell_completion import CompletionItem

    for name, text in COMMANDS.items():
        if name.startswith(incomplete):
            yield CompletionItem(name, help=text)


@click.group(
    PROGRAM_NAME,
    cls=LazyGroup,
    invoke_without_command=True,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@everywhere
@click.pass_context
def program(context: click.Context) -> None:
    """Build merged models from a mergefile, again only where something changed."""
    if context.invoked_subcommand is None:
        console = context.ensure_object(Settings).console
        if not console.as_json:
            console.message(context.get_help() + "\n")
        raise UsageError.one("no-command", "no command is given", help="`mergebuild build` builds what is out of date")
