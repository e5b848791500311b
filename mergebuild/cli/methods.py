"""`mergebuild methods`: the catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from mergebuild.cli.options import Settings, TextType, subcommand
from mergebuild.errors import UsageError, did_you_mean
from mergebuild.methods.catalog import LATER, METHODS, Method
from mergebuild.report.catalog import method_document, method_lines, methods_lines

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["command"]


class _MethodName(TextType):
    name = "method"

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 -- click's signature
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [
            CompletionItem(name, help=each.summary) for name, each in METHODS.items() if name.startswith(incomplete)
        ]


@subcommand("methods")
@click.argument("name", required=False, metavar="[NAME]", type=_MethodName())
def command(settings: Settings, name: str | None) -> int:
    """Show the merge methods; with NAME one of them: formula, parameters, citation."""
    if name is None:
        document = {"methods": [method_document(method) for method in METHODS.values()]}
        settings.console.answer(document, methods_lines(METHODS.values()))
        return 0
    method = _method(name)
    settings.console.answer(method_document(method), method_lines(method))
    return 0


def _method(name: str) -> Method:
    """Return a method by its name or by what other tools call it."""
    if name in METHODS:
        return METHODS[name]
    for method in METHODS.values():
        if name.casefold() in (alias.casefold() for alias in method.aliases):
            return method
    if name in LATER:
        raise UsageError.one(
            "not-in-this-version",
            f"method `{name}` is not in this version",
            help="`mergebuild methods` shows those that are",
        )
    mend = did_you_mean(name, METHODS, otherwise="`mergebuild methods` shows all")
    raise UsageError.one("unknown-method", f"there is no method `{name}`", help=mend)
