"""Write the pages of the documentation that the program itself knows best: `methods.md` and `cli.md`.

    python docs/generate.py            write them
    python docs/generate.py --check    exit with 1 if one is not what it should be

A test runs the check, so a page can't drift from the catalog or from `--help`.
"""

# ruff: noqa: INP001 -- a script, no package

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click

from mergebuild.cli.program import COMMANDS, PROGRAM_NAME, program
from mergebuild.methods.catalog import METHODS, Method
from mergebuild.report.catalog import default_text, kind_text

__all__ = ["PAGES", "cli_page", "main", "methods_page"]

_METHODS_HEAD = """\
<!-- Written by docs/generate.py from mergebuild/methods/tables. -->
# Methods

What a target's `method` may be. Inputs and parameters are keys of the target:

```toml
[targets.mix]
method = "weighted_sum"
a = "opk"
b = "merong"
alpha = 0.5
output = "out/mix.safetensors"
```

A *number* may be one for the whole model or a table with a number for each part of it; a parameter that is given *for
each model* is a list, or one value for all, or stands beside a model: `{ model = "opk", weight = 0.5 }`. A whole number
or a word is one for the whole target.

Linear methods (the first ones, up to `replace`) fold: chains of them are one exact combination of sources. Of every
other method the inputs are computed in float32, unrounded where a target without an output stands between, and the
result is rounded once. Random methods need a `seed`; what an element gets follows from the seed, the tensor's name and
the element's index alone. The result is the same on every machine, except where a method is called approximate.

Where a method differs from the tool that it comes from is said below, and listed with the tests that show it in
[deviations](deviations.md).

"""

_CLI_HEAD = """\
<!-- Written by docs/generate.py from the program's own --help. -->
# Command line

Results go to stdout, progress and messages to stderr. With `--json` stdout holds exactly one JSON document. Options
of the section *Everywhere* may stand before the command or behind it.

## Exit codes

| code | meaning |
|---|---|
| 0 | done, or up to date |
| 1 | a target failed; an output changed by hand is among the reasons |
| 2 | wrong usage, unknown target, no such device |
| 3 | the mergefile is wrong, alone or against its inputs |
| 4 | a source is missing, unreadable, unsafe, or differs from its pin or the lock |
| 5 | corruption was found |
| 6 | `verify --rebuild` or `build --locked` gives another result, or `lock --check` another lock |
| 7 | no space is left |
| 8 | `status --exit-code`: not all targets are up to date |
| 9 | inputs do not fit together |
| 10 | `mergebuild trust` is needed first |
| 70 | a bug in mergebuild, with a traceback |
| 75 | another process kept the store for longer than `--lock-timeout` |
| 130 | interrupted |
| 141 | whoever read the output went away |

## Completion

    eval "$(_MERGEBUILD_COMPLETE=bash_source mergebuild)"          # in ~/.bashrc
    eval "$(_MERGEBUILD_COMPLETE=zsh_source mergebuild)"           # in ~/.zshrc
    _MERGEBUILD_COMPLETE=fish_source mergebuild | source           # in ~/.config/fish/completions/mergebuild.fish

"""


def methods_page() -> str:
    """Return the page of the methods."""
    sections = "\n".join("\n".join(_method_section(method)) for method in METHODS.values())
    return f"{_METHODS_HEAD}{_overview()}\n{sections}"


def _overview() -> str:
    rows = [f"| [`{each.name}`](#{each.name}) | {_code(each.inputs)} | {each.summary} |" for each in METHODS.values()]
    return "\n".join(["| method | inputs | |", "|---|---|---|", *rows]) + "\n"


def _method_section(method: Method) -> Iterator[str]:
    yield f"## {method.name}\n"
    yield f"{method.summary}\n"
    yield f"    {method.formula}\n"
    if method.parameters:
        yield "| parameter | | default | |\n|---|---|---|---|"
        for each in method.parameters:
            default = f"`{text}`" if (text := default_text(each)) else "must be given"
            yield f"| `{each.name}` | {kind_text(each)} | {default} | {each.summary} |"
        yield ""
    optional = f"; {_code(method.optional)} may be left out" if method.optional else ""
    yield f"- Inputs: {_code(method.inputs)}{optional}."
    yield f"- Reads: {method.makes.reads}."
    if not method.exact:
        yield "- Approximate: the same bytes only on one kind of processor and libraries."
    if method.aliases:
        yield f"- Also called: {', '.join(method.aliases)}."
    if method.differs:
        yield f"- Differences: {method.differs}"
    yield f"- From: {method.cite}.\n"


def _code(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def cli_page() -> str:
    """Return the page of the commands: the help of each, as the program prints it."""
    context = click.Context(program, info_name=PROGRAM_NAME, terminal_width=100, help_option_names=["-h", "--help"])
    parts = [f"## {PROGRAM_NAME}\n\n{_block(program.get_help(context))}"]
    for name in COMMANDS:
        command = program.get_command(context, name)
        assert command is not None
        text = command.get_help(click.Context(command, info_name=name, parent=context, terminal_width=100))
        # what every command has is shown once, above
        parts.append(f"## {PROGRAM_NAME} {name}\n\n{_block(text.partition('Everywhere:')[0].rstrip())}")
    return _CLI_HEAD + "\n".join(parts)


def _block(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines()) + "\n"


PAGES: Mapping[str, Callable[[], str]] = {"methods.md": methods_page, "cli.md": cli_page}


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` compare them; return the exit code."""
    folder = Path(__file__).parent
    stale = [name for name, page in PAGES.items() if not _is_current(folder / name, page())]
    if arguments == ["--check"]:
        sys.stderr.writelines(f"docs/{name} is not current: run `python docs/generate.py`\n" for name in stale)
        return 1 if stale else 0
    for name in stale:
        (folder / name).write_text(PAGES[name](), encoding="utf-8", newline="\n")
    return 0


def _is_current(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
