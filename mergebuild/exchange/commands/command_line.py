r"""A text of shell commands taken apart, for the scripts that are known: words and options.

The text may be of a POSIX shell, of PowerShell or a batch file: a line goes on after `\\`, a backquote or `^`. A word
with a variable can't be known here, and is refused by the variable's name.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from mergebuild.exchange.draft import Draft, ModelName
from mergebuild.exchange.file_names import last_step
from mergebuild.exchange.merges.node import UnsayableError

__all__ = ["CommandLine", "commands_in", "model_of", "other_commands_in"]

_GOES_ON: Final = re.compile(r"(?:\\|\^|`)[ \t]*\r?\n")
_WORD: Final = re.compile(
    r"""(?P<end>\r?\n|;|&&?|\|\|?)|(?P<word>(?:"[^"\n]*"|'[^'\n]*'|\\ |[^\s;&|"'])+)|(?P<other>["'])"""
)
_VARIABLE: Final = re.compile(r"\$\{?\w+\}?|\$\([^)]*\)?|%\w+%|\$env:\w+")
_OPTION: Final = re.compile(r"--?[A-Za-z]")
_MODEL_SUFFIXES: Final = (".safetensors", ".ckpt")
_SHOWN: Final = 60
"""Signs of a command in a message."""


@dataclass(frozen=True)
class CommandLine:
    """The words behind the name of a script, as options and the rest."""

    script: str
    where: str
    words: tuple[str, ...]
    options: Mapping[str, list[str]] = field(default_factory=dict)
    """By name, without hyphens in front: the words behind an option. Hyphens within are `_`."""
    rest: tuple[str, ...] = ()
    """Words before the first option."""

    def has(self, name: str) -> bool:
        """Whether an option is there."""
        return name in self.options

    def one(self, *names: str, default: str | None = None) -> str:
        """Return the word behind an option that goes by these names.

        Raises:
            UnsayableError: it is not there, and has no default; or it is a variable.
        """
        found = next((self.options[name] for name in names if self.options.get(name)), None)
        if found is None:
            if default is None:
                raise UnsayableError(f"`{self.script}` without `--{names[-1]}`")
            return default
        return _known(found[0])

    def many(self, *names: str) -> list[str]:
        """Return the words behind an option; none where it is not there.

        Raises:
            UnsayableError: one is a variable.
        """
        return [_known(word) for name in names for word in self.options.get(name, [])]


def commands_in(text: str, where: str, scripts: Mapping[str, object]) -> Iterator[CommandLine]:
    """Yield the command lines of a text that run one of some scripts.

    Args:
        text: Of any length.
        where: The file.
        scripts: By the names of their files, or of the commands.
    """
    for line, words in _lines(_GOES_ON.sub(" \v", text)):
        place = next((at for at, word in enumerate(words) if last_step(word) in scripts), None)
        if place is not None:
            options, rest = _options(words[place + 1 :])
            yield CommandLine(last_step(words[place]), f"{where}:{line}", tuple(words[place + 1 :]), options, rest)


def other_commands_in(text: str, where: str, scripts: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """Yield where each command is that names a model file and runs none of some scripts, and how it begins."""
    for line, words in _lines(_GOES_ON.sub(" \v", text)):
        names_a_model = any(word.lower().endswith(_MODEL_SUFFIXES) for word in words)
        if names_a_model and not any(last_step(word) in scripts for word in words):
            yield f"{where}:{line}", " ".join(words)[:_SHOWN]


def model_of(draft: Draft, path: str) -> str:
    """Return the input that a path is: what an earlier command wrote there, or a source."""
    wanted = "/" + posixpath.normpath(path.replace("\\", "/")).lower().lstrip("/")
    for name, target in reversed(draft.targets.items()):
        output = target.keys.get("output")
        if isinstance(output, str) and wanted.endswith(f"/{output.lower()}"):
            return name
    return draft.source(ModelName(path))


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the words of each command, with the number of its first line. A vertical tab is a line that goes on."""
    line, begun, words, skips, last = 1, 1, list[str](), False, 0
    for found in _WORD.finditer(text):
        line += text.count("\v", last, found.start())
        last = found.end()
        if end := found["end"]:
            if words:
                yield begun, words
            words, skips = [], skips and "\n" not in end
            line += end.count("\n")
        elif (word := found["word"]) and not skips:
            skips = word.startswith("#") or (word.lower() == "rem" and not words)
            if not skips:
                begun = begun if words else line
                words.append(_bare(word))
    if words:
        yield begun, words


def _bare(word: str) -> str:
    """Return a word without its quotes."""
    return re.sub(r"\"([^\"\n]*)\"|'([^'\n]*)'", lambda found: found[1] or found[2] or "", word).replace("\\ ", " ")


def _options(words: list[str]) -> tuple[dict[str, list[str]], tuple[str, ...]]:
    options: dict[str, list[str]] = {}
    rest: list[str] = []
    current = rest
    for word in words:
        if _OPTION.match(word):
            name, equals, value = word.lstrip("-").partition("=")
            current = options[name.replace("-", "_")] = [value] if equals else []
        else:
            current.append(word)
    return options, tuple(rest)


def _known(word: str) -> str:
    if found := _VARIABLE.search(word):
        raise UnsayableError(f"`{found[0]}` is a variable of the shell: write its value in its place")
    return word
