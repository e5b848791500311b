"""Write the pages of the documentation that the program itself knows best: `methods.md`, `cli.md`, `names.md`.

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
from mergebuild.naming.rules import ConstantTensor, FamilyRules, Part, Row, data_of, families, general
from mergebuild.report.catalog import default_text, kind_text
from mergebuild.system.spans import KINDS, Kind

__all__ = ["PAGES", "cli_page", "main", "methods_page", "names_page"]

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
| 11 | `import` could not map all of a recipe; the format of `export` can't say all of a target |
| 70 | a bug in mergebuild, with a traceback |
| 75 | another process kept the store for longer than `--lock-timeout` |
| 130 | interrupted |
| 141 | whoever read the output went away |

## Completion

    eval "$(_MERGEBUILD_COMPLETE=bash_source mergebuild)"          # in ~/.bashrc
    eval "$(_MERGEBUILD_COMPLETE=zsh_source mergebuild)"           # in ~/.zshrc
    _MERGEBUILD_COMPLETE=fish_source mergebuild | source           # in ~/.config/fish/completions/mergebuild.fish

## Environment

| variable | meaning |
|---|---|
| `MERGEBUILD_MODELS` | more folders in which sources are looked for, separated as in `PATH` |
| `MERGEBUILD_NATIVE` | `0`: torch makes what compiled kernels would |
| `MERGEBUILD_STORE` | the store, in place of what the mergefile says |
| `MERGEBUILD_TRACE` | a file that gets a trace of the command: below |
| `NO_COLOR` | no colours and no bars |

## A trace

`MERGEBUILD_TRACE=trace.json mergebuild build` writes down what the command does when, whichever command it is. Open
the file at ui.perfetto.dev or chrome://tracing: a row a thread, a bar a *span*, with targets, tensors and bytes as its
arguments. The file is whole also when the command fails, is interrupted or killed; what had not ended is shown as
begun. A trace that was there is replaced, any other file is an error.

`build --profile` adds the same spans up. The seconds of a phase are without those of the phases inside it, so that they
add up to all of it; `other` is what is in no phase. What threads did is added up over all of them: *computing* is
arithmetic, with the reading of mapped files that goes with it and the copies that make room; *reading* is what is read
or hashed by itself; *waiting* is for a block of memory that is still being written, for torch, or for another process.

A span is called one of these:

"""


_NAMES_HEAD = """\
<!-- Written by docs/generate.py from mergebuild/naming/data. -->
# Names

How the programs of the field spell one parameter. Every source is opened into *canonical names*, in the last tables the
left column behind the prefix that each part is given; whatever is spelled otherwise is the same parameter, and a LoRA
may name a module in any of these ways. What a model's tensors are written as is how the first input spells them.

`{n}` is a number. The rest of a name, such as `.weight`, is the same on both sides. Several names in one cell
lie one after another in the one tensor on the other side: in equal parts, or in the proportions that are told.

"""

_HOWS = {
    "swapped": "the halves the other way round",
    "transposed": "transposed",
    "convolution": "a linear map for a 1x1 convolution",
    "linear": "a 1x1 convolution for a linear map",
    "queries": "queries first, as many as `{beside}` has columns",
    "groups": "by groups of heads: queries, a key, a value",
    "stack": "stacked along a further first dimension",
    "stack_in_turn": "stacked, transposed, the parts by turns",
    "long_stack": "one behind the other along the first dimension",
    "long_stack_transposed": "one behind the other, each transposed",
}
_THROUGH = {
    "unet": "In diffusers' names too, which count levels apart: `naming/unet.py`.",
    "vae": "In diffusers' names too, which count levels from the other end: `naming/vae.py`.",
}


def names_page() -> str:
    """Return the page of the names."""
    rules = general()
    words = [
        f"- Taken off before all else: {_code(rules.wrappers)} anywhere, {_code(rules.in_front)} in front.",
        f"- Copies, left as they are: names that begin with {_code(rules.copies)}.",
        f"- Constants, never merged: {_code(tuple(sorted(rules.schedule)))}.",
        f"- Constants by how their names end, of floats too: {', '.join(map(_constant, rules.constants))}.",
    ]
    told: dict[tuple[Row, ...], str] = {}
    sections = "\n".join("\n".join(_family_section(family, told)) for family in families())
    return _NAMES_HEAD + "\n".join(words) + f"\n\n{sections}\n{_ties()}"


def _constant(each: ConstantTensor) -> str:
    if each.shape is None:
        return f"`{each.end}`"
    return f"`{each.end}` [{', '.join('n' if size is None else str(size) for size in each.shape)}]"


def _ties() -> str:
    ties = (
        f"| `{tie['name']}` | {'<br>'.join(f'`{name}`' for name in tie['of'])} |" for tie in data_of("ties")["ties"]
    )
    head = "## Ties\n\nNames of one parameter, under one prefix; the first that a file has, where it is tied.\n"
    return "\n".join((head, "| name | is |\n|---|---|", *ties)) + "\n"


def _family_section(family: FamilyRules, told: dict[tuple[Row, ...], str]) -> Iterator[str]:
    yield f"## {family.title}\n"
    yield "| part | canonical prefix | other prefixes | LoRAs, joined with `_` |\n|---|---|---|---|"
    for part in family.parts:
        others = "<br>".join(f"`{prefix}` ({source})" for prefix, source in part.prefixes.items())
        begun = "none, where names begin as its own do" if part.begins else ""
        joined = ", ".join(f"`lora_{slot}_`" for slot in part.kohya)
        prefix = f"`{part.prefix}`" if part.prefix else "none"
        name = ", ".join(dict.fromkeys((part.name, *part.called)))
        yield f"| {name} | {prefix} | {'<br>'.join(filter(None, (others, begun)))} | {joined} |"
    yield ""
    for part in family.parts:
        yield from _part_section(family, part, told)


def _part_section(family: FamilyRules, part: Part, told: dict[tuple[Row, ...], str]) -> Iterator[str]:
    if part.through:
        yield f"The part `{part.name}`: {_THROUGH[part.through]}\n"
    for spelling in part.spellings:
        title = f"{part.name}: {spelling.name.replace('_', ' ')}"
        if spelling.rows in told:
            yield f"- {title}: as in *{told[spelling.rows]}*.\n"
            continue
        told[spelling.rows] = f"{family.title}, {title}"
        use = "LoRAs alone; " if spelling.lora else ""
        yield f"### {title}\n\nFrom: {use}{spelling.source}.\n"
        yield "| canonical | there | |\n|---|---|---|"
        yield from (f"| {_cell(row.ours)} | {_cell(row.theirs)} | {_how(row)} |" for row in spelling.rows)
        yield ""


def _cell(names: tuple[str, ...]) -> str:
    return "<br>".join(f"`{name}`" if name else "the rest" for name in names)


def _how(row: Row) -> str:
    shares = ":".join(map(str, row.shares))
    how = _HOWS[row.how].format(beside=row.beside) if row.how else ""
    at = f", where it has {row.at} times as many rows as columns" if row.at else ""
    return "; ".join(filter(None, (shares, how + at)))


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
    return f"{_CLI_HEAD}{_spans()}\n" + "\n".join(parts)


def _spans() -> str:
    """Return the names of the spans, by kind."""
    rows = ((kind, [f"`{name}`" for name, each in KINDS.items() if each is kind]) for kind in Kind)
    return (
        "\n".join(("| kind | spans |", "|---|---|", *(f"| {kind} | {', '.join(names)} |" for kind, names in rows)))
        + "\n"
    )


def _block(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines()) + "\n"


PAGES: Mapping[str, Callable[[], str]] = {
    "methods.md": methods_page,
    "cli.md": cli_page,
    "names.md": names_page,
}


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
