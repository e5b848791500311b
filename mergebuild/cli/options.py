"""Options and arguments that several commands share.

Options of `everywhere` may be given before or after the command's name; both write into one `Settings`, which click
passes from the group to the command.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mergebuild.cli.settings import Settings
from mergebuild.errors import UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = [
    "FileName",
    "FileOrFolder",
    "FolderName",
    "OutputName",
    "SectionedHelp",
    "SourceOrFile",
    "TargetName",
    "TextType",
    "dry_run_option",
    "everywhere",
    "lock_timeout_option",
    "reads_recipe",
    "settings_of",
    "subcommand",
    "target_argument",
    "targets_argument",
]

if TYPE_CHECKING:
    TextType = click.ParamType[str]
else:  # generic only since click 8.4
    TextType = click.ParamType

Decorated = TypeVar("Decorated", bound=Callable[..., Any] | click.Command)


class FileName(TextType):
    """The path of a file; it need not exist."""

    name = "file"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse a folder."""
        if os.path.isdir(value):
            self.fail(f"`{value}` is a folder, expected a file", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        """Let the shell complete files."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]


class FileOrFolder(FileName):
    """The path of a file, or of a folder of such files; it need not exist."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ARG002
        """Take any path."""
        return value


class OutputName(FileName):
    """The path of a file, or of a folder if it ends with `/`; it need not exist."""

    name = "output"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse a folder whose path does not end with `/`."""
        return value if value.endswith(("/", os.sep)) else super().convert(value, param, ctx)


class FolderName(TextType):
    """The path of a folder; it need not exist."""

    name = "folder"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse a file."""
        if os.path.isfile(value):
            self.fail(f"`{value}` is a file, expected a folder", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        """Let the shell complete folders."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="dir")]


settings_of = click.make_pass_decorator(Settings, ensure=True)


class EverywhereOption(click.Option):
    """An option that every command has; help shows these in a section of their own."""


class VersionOption(EverywhereOption):
    """`--version`: it ends the run before other options are read, and shows more if `-v` is given too."""

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]
    ) -> tuple[Any, list[str]]:
        """Show the version and end the run, if the option is given."""
        is_asked = bool(opts.get(self.name or ""))
        if is_asked and not ctx.resilient_parsing:
            settings = ctx.ensure_object(Settings)
            _show_version(settings, is_verbose=bool(settings.verbose or opts.get("verbose")))
            ctx.exit()
        return super().handle_parse_result(ctx, opts, args)


class SectionedHelp(click.Command):
    """A command whose help shows its own options apart from those of every command."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Return the option `--help`. click's own looks for translations of its text in every run, which takes time."""
        if self._own_help is None:
            self._own_help = click.Option(
                self.get_help_option_names(ctx) or ["--help"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_show_help,
                help="Show this message and exit.",
            )
        return self._own_help

    _own_help: click.Option | None = None

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in two sections."""
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                # `--help` is click's own
                is_shared = isinstance(parameter, EverywhereOption) or "--help" in parameter.opts
                (shared if is_shared else own).append(record)
        for title, records in (("Options", own), ("Everywhere", shared)):
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)


def _show_help(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(context.get_help(), color=context.color)
        context.exit()


Store = Callable[[Settings, Any], None]


def _storing(store: Store) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Return a callback that stores an option's value, if it was given.

    An option that is left out after the command's name keeps the value given before it.
    """

    def callback(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        settings = context.ensure_object(Settings)
        if value not in (None, False, 0, ()):
            store(settings, value)

    return callback


def _change_folder(_settings: Settings, folders: tuple[str, ...]) -> None:
    for folder in folders:
        try:
            os.chdir(folder)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise UsageError.one("no-such-folder", f"cannot change to folder `{folder}`: {reason}") from error


def _set_mergefile(settings: Settings, path: str) -> None:
    settings.mergefile = path


def _set_quiet(settings: Settings, _value: bool) -> None:
    settings.quiet = True


def _add_verbose(settings: Settings, count: int) -> None:
    settings.verbose += count


def _set_json(settings: Settings, _value: bool) -> None:
    settings.as_json = True


def _set_no_color(settings: Settings, _value: bool) -> None:
    settings.color = False


def _show_version(settings: Settings, *, is_verbose: bool) -> None:
    from mergebuild import __version__

    document: dict[str, object] = {"version": __version__}
    lines = [f"mergebuild {__version__}"]
    if is_verbose:
        document["kernels"], line = _kernels()
        lines.append(line)
    settings.console.answer(document, lines)


def _kernels() -> tuple[dict[str, object], str]:
    """Return whether the compiled kernels are used, and why not: for JSON, and as a line."""
    from mergebuild import native

    kernels = f"compiled, {native.variant}" if native.variant else "torch"
    document: dict[str, object] = {
        "compiled": bool(native.variant),
        "instructions": native.variant or None,
        "reason": native.reason or None,
    }
    return document, f"kernels: {kernels} ({native.reason})" if native.reason else f"kernels: {kernels}"


def _shared(*names: str, store: Store, **attributes: Any) -> Callable[[Decorated], Decorated]:
    return click.option(*names, cls=EverywhereOption, callback=_storing(store), expose_value=False, **attributes)


_EVERYWHERE: tuple[Callable[[Any], Any], ...] = (
    _shared(
        "-C",
        "--directory",
        metavar="DIR",
        multiple=True,
        is_eager=True,
        store=_change_folder,
        type=FolderName(),
        help="Change to this folder first.",
    ),
    _shared(
        "-f",
        "--file",
        metavar="FILE",
        store=_set_mergefile,
        type=FileName(),
        help="The mergefile; else mergefile.toml here, or in the nearest folder above.",
    ),
    _shared("-q", "--quiet", is_flag=True, store=_set_quiet, help="Say nothing but answers, warnings and errors."),
    _shared("-v", "--verbose", count=True, store=_add_verbose, help="Say more."),
    _shared("--json", is_flag=True, store=_set_json, help="Answer with one JSON document."),
    _shared("--no-color", is_flag=True, store=_set_no_color, help="No colours and no bars."),
    click.option(
        "--version",
        cls=VersionOption,
        is_flag=True,
        is_eager=True,
        expose_value=False,
        help="Show the version and exit; with -v, also which kernels merge.",
    ),
)


def everywhere(command: Decorated) -> Decorated:
    """Add the options that every command has."""
    for option in reversed(_EVERYWHERE):
        command = option(command)
    return command


def subcommand(name: str) -> Callable[[Callable[..., int]], click.Command]:
    """Return a decorator that makes a command of a function of settings and options, which returns an exit code."""

    def decorate(function: Callable[..., int]) -> click.Command:
        return click.command(name, cls=SectionedHelp)(everywhere(settings_of(function)))

    return decorate


def _add_overrides(settings: Settings, overrides: tuple[str, ...]) -> None:
    for override in overrides:
        if "=" not in override:
            raise UsageError.one(
                "wrong-override",
                f"`--set {override}` has no `=`",
                help="write `--set m=0.4` or `--set orange.alpha=0.4`",
            )
    settings.overrides += overrides


def _add_variables(settings: Settings, files: tuple[str, ...]) -> None:
    from mergebuild.cli.locate import read_variables

    for file in files:
        settings.variables = {**settings.variables, **read_variables(file)}


def reads_recipe(function: Decorated) -> Decorated:
    """Add `--set` and `--vars`, for commands that read the recipe."""
    function = click.option(
        "--vars",
        metavar="FILE",
        multiple=True,
        expose_value=False,
        callback=_storing(_add_variables),
        type=FileName(),
        help="Set variables from a TOML or JSON file, or from standard input (`-`).",
    )(function)
    return click.option(
        "--set",
        metavar="KEY=VALUE",
        multiple=True,
        expose_value=False,
        callback=_storing(_add_overrides),
        help="Set a variable (m=0.4), or a key of a target (orange.alpha.IN04=0.4).",
    )(function)


class TargetName(TextType):
    """A target, a member or slice of a family, or an output's path. Completion reads only the mergefile's text."""

    name = "target"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        """Complete names of targets."""
        from mergebuild.cli.completion import target_names

        return _starting(target_names(ctx.ensure_object(Settings), incomplete), incomplete)


class SourceOrFile(TextType):
    """A file, or the name of a source or target."""

    name = "file"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        """Complete names of sources and targets; add files if no name fits, or nothing is typed yet."""
        from click.shell_completion import CompletionItem

        from mergebuild.cli.completion import source_names, target_names

        settings = ctx.ensure_object(Settings)
        names = _starting((*source_names(settings), *target_names(settings, incomplete)), incomplete)
        return names if incomplete and names else [*names, CompletionItem(incomplete, type="file")]


def _starting(names: tuple[str, ...], incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


targets_argument = click.argument("targets", nargs=-1, metavar="[TARGET]...", type=TargetName())
target_argument = click.argument("target", metavar="TARGET", type=TargetName())
dry_run_option = click.option("-n", "--dry-run", is_flag=True, help="Change nothing; show what would be done.")


def _seconds(_context: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    if value is None:
        return None
    from mergebuild.cli.locate import timeout

    return timeout(parameter.opts[0], value)


lock_timeout_option = click.option(
    "--lock-timeout",
    metavar="TIME",
    callback=_seconds,
    help="Wait no longer than this (30, 5m) for another process that uses the store.",
)
