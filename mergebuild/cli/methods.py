"""`mergebuild methods`: the catalog."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from mergebuild.cli.completion import own_methods
from mergebuild.cli.locate import open_methods
from mergebuild.cli.options import TextType, subcommand
from mergebuild.cli.settings import Settings
from mergebuild.errors import UsageError, did_you_mean
from mergebuild.methods.catalog import METHODS, Method
from mergebuild.report.catalog import method_document, method_lines, methods_lines

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["command"]


class _MethodName(TextType):
    name = "method"

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002 -- click's signature
        incomplete: str,
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        known = [*METHODS.values(), *own_methods(ctx.ensure_object(Settings)).values()]
        return [CompletionItem(each.name, help=each.summary) for each in known if each.name.startswith(incomplete)]


@subcommand("methods")
@click.argument("name", required=False, metavar="[NAME]", type=_MethodName())
def command(settings: Settings, name: str | None) -> int:
    """Show the merge methods; with NAME one of them: formula, parameters, citation.

    In a project, its own methods follow those of the catalog.
    """
    if name is None:
        known = [*METHODS.values(), *_own(settings).values()]
        document = {"methods": [method_document(method) for method in known]}
        settings.console.answer(document, methods_lines(known))
        return 0
    method = _method(settings, name)
    settings.console.answer(method_document(method), method_lines(method))
    return 0


def _method(settings: Settings, name: str) -> Method:
    """Return a method by its name, or by its name in another tool; raise UsageError if there is none."""
    if name in METHODS:
        return METHODS[name]
    for method in METHODS.values():
        if name.casefold() in (alias.casefold() for alias in method.aliases):
            return method
    own = _own(settings)
    if name in own:
        return own[name]
    mend = did_you_mean(name, [*METHODS, *own], otherwise="`mergebuild methods` shows all")
    raise UsageError.one("unknown-method", f"there is no method `{name}`", help=mend)


def _own(settings: Settings) -> Mapping[str, Method]:
    """Return the methods that the mergefile declares.

    If it can't be read, that is an error when the command line names it; otherwise there are none.
    """
    if settings.mergefile is not None:
        return open_methods(settings)
    return own_methods(settings)
