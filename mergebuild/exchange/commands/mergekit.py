"""Command lines of mergekit: `mergekit-legacy` and `mergekit-extract-lora`. Other commands run a recipe file."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple

from mergebuild.exchange.commands.command_line import CommandLine
from mergebuild.exchange.draft import Draft, Value
from mergebuild.exchange.file_names import last_step
from mergebuild.exchange.mergekit.merges import read_merge
from mergebuild.exchange.mergekit.old_forms import LEGACY_OPTIONS, of_legacy
from mergebuild.exchange.mergekit.reading import KitReading
from mergebuild.exchange.mergekit.references import reference
from mergebuild.exchange.merges.node import UnsayableError
from mergebuild.system.bounded_text import compiled

__all__ = ["SCRIPTS"]

_LEGACY_FLAGS: Final = frozenset({
    "--normalize", "--no-normalize", "--naive-count", "--no-naive-count", "--bf16", "--no-bf16", "--int8-mask",
    "--no-int8-mask", "--print-yaml", "--no-print-yaml",
})  # fmt: skip
_EXTRACT_OPTIONS: Final = {
    "--model": "--model", "--base-model": "--base-model", "--out-path": "--out-path", "--max-rank": "--max-rank",
    "--rank": "--max-rank", "--exclude-regex": "--exclude-regex", "-e": "--exclude-regex",
    "--include-regex": "--include-regex", "-i": "--include-regex", "--sv-epsilon": "--sv-epsilon",
    "--save-module": "--save-module",
}  # fmt: skip
_EXTRACT_FLAGS: Final = frozenset({
    "--distribute-scale", "--no-distribute-scale", "--embed-lora", "--no-embed-lora", "--skip-undecomposable",
    "--no-skip-undecomposable",
})  # fmt: skip
_RUNNERS: Final = ("mergekit-yaml", "mergekit-multimerge", "mergekit-mega", "mergekit-moe", "bakllama")


class _Words(NamedTuple):
    """The words of a command, which may name an option several times."""

    options: Mapping[str, list[str]]
    flags: Sequence[str]
    rest: list[str]

    def last(self, name: str) -> str | None:
        """Return the last value of an option; None: it is not there."""
        return self.options[name][-1] if name in self.options else None


def _legacy(line: CommandLine, draft: Draft) -> None:
    words = _apart(line, draft, {name: name for name in LEGACY_OPTIONS}, _LEGACY_FLAGS)
    if not words.rest:
        raise UnsayableError("`mergekit-legacy` without a folder to write")
    reading = KitReading(draft, line.where)
    target = draft.target(_last_step(words.rest[0]), {})
    read_merge(reading, of_legacy(reading, words.options, words.flags), target, is_file=True)


def _extract(line: CommandLine, draft: Draft) -> None:
    words = _apart(line, draft, _EXTRACT_OPTIONS, _EXTRACT_FLAGS)
    models = [words.last("--model"), words.last("--base-model"), words.last("--out-path")]
    model, base, out = [given or place for given, place in zip(models, [*words.rest, None, None, None], strict=False)]
    if model is None or base is None or out is None:
        raise UnsayableError("`mergekit-extract-lora` without a model, its base and a folder to write")
    reading = KitReading(draft, line.where)
    rank = reading.integer(words.last("--max-rank") or "128", "--max-rank", 1 << 20)
    keys: dict[str, Value] = {
        "method": "extract_lora",
        "base": reference(reading, base, "--base-model").name,
        "a": reference(reading, model, "--model").name,
        "rank": rank,
    }
    for option, key in (("--exclude-regex", "drop"), ("--include-regex", "merge")):
        if patterns := words.options.get(option):
            keys[key] = [f"re:{_regex(pattern)}" for pattern in patterns]
    name = draft.target(_last_step(out), keys, output=f"{_last_step(out)}/")
    _tell_unsayable(line, draft, words, name)


def _regex(pattern: str) -> str:
    """Return a regular expression.

    Raises:
        UnsayableError: it is none.
    """
    try:
        compiled(pattern)
    except re.error as error:
        raise UnsayableError(f"`{pattern}` is no regular expression: {error}") from error
    return pattern


def _tell_unsayable(line: CommandLine, draft: Draft, words: _Words, target: str) -> None:
    epsilon = words.last("--sv-epsilon")
    if epsilon is not None and epsilon.strip("0.") != "":
        draft.leave_out(line.where, f"`--sv-epsilon {epsilon}`: `energy` is a share of squares", target=target)
    for module in words.options.get("--save-module", ()):
        draft.leave_out(line.where, f"`--save-module {module}`: no module is kept whole", target=target)
    if "--embed-lora" in words.flags:
        draft.leave_out(line.where, "`--embed-lora`: embeddings are in no LoRA", target=target)


def _runs_a_file(line: CommandLine, _draft: Draft) -> None:
    file = next((word for word in line.words if not word.startswith("-")), "its recipe")
    raise UnsayableError(f"`{line.script}` runs a recipe: import `{file}` itself")


def _apart(line: CommandLine, draft: Draft, options: Mapping[str, str], flags: Collection[str]) -> _Words:
    """Return the words of a command line; options that say nothing of what is made are told.

    Raises:
        UnsayableError: an option has no value.
    """
    found: dict[str, list[str]] = {}
    given: list[str] = []
    rest: list[str] = []
    words = list(line.words)
    while words:
        name, equals, value = words.pop(0).partition("=")
        if name in options:
            if not equals and not words:
                raise UnsayableError(f"`{line.script}` with `{name}` and nothing behind it")
            found.setdefault(options[name], []).append(value if equals else words.pop(0))
        elif name in flags:
            given.append(name)
        elif name.startswith("-") and name != "-":
            draft.say(line.where, f"`{name}` is about how mergekit runs")
        else:
            rest.append(f"{name}{equals}{value}")
    return _Words(found, given, rest)


def _last_step(path: str) -> str:
    return last_step(path) or "merge"


SCRIPTS: Final[Mapping[str, Callable[[CommandLine, Draft], None]]] = {
    "mergekit-legacy": _legacy,
    "mergekit-extract-lora": _extract,
    **dict.fromkeys(_RUNNERS, _runs_a_file),
}
"""By the names of the commands."""
