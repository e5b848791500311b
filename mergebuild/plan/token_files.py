"""The files beside a target's weights that are about its tokens: those of its tokenizer, and its chat template."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from mergebuild.configuration.parts import config_of
from mergebuild.configuration.tokenizer_files import (
    TEMPLATE,
    TOKENIZER_CONFIG,
    WrittenTokens,
    chat_template,
    tokenizer_files,
)
from mergebuild.configuration.tokenizer_json import TokenizerJson
from mergebuild.digest import checksum, tagged
from mergebuild.errors import Place, RecipeError, SourceError
from mergebuild.fold.folder import Folding
from mergebuild.fold.vocabularies import ReadFile, Vocabularies
from mergebuild.recipe import Recipe
from mergebuild.recipe.model import Target
from mergebuild.sources.sources import Sources

__all__ = ["TokenFiles", "lines_of_tokens", "token_files"]

Made = TypeVar("Made")

_SPECIAL: Final = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
"""The members of a configuration that are numbers of tokens."""


class TokenFiles(NamedTuple):
    """The files of a tokenizer, and the small files of sources that they follow from."""

    files: Mapping[str, bytes]
    owner: str
    """The source whose tokenizer it is, perhaps with other tokens or another template."""
    own: Mapping[str, bytes]
    """Of files of this source that are written, perhaps changed: the checksums of their bytes there."""
    read: tuple[ReadFile, ...]
    notices: tuple[str, ...] = ()
    """What users should know about them, one sentence each."""


def token_files(
    recipe: Recipe, sources: Sources, vocabularies: Vocabularies, target: Target, donor: str
) -> TokenFiles | None:
    """Return the files of a target's tokenizer and chat template; None if those of its donor are copied as they are.

    `donor`: the source whose small files go beside the weights; empty if there is none.

    Raises:
        SourceError: a file of a tokenizer can't be used.
        RecipeError: a model whose chat template is named has none.
    """
    name, said = vocabularies.speaking(target.name), _said(recipe, target)
    if name in sources and said is None:
        return None
    tokens, owner, read = None, donor, list[ReadFile]()
    if name not in sources:
        found = vocabularies.of(name)
        owner, read = found.owner, [*found.read]
        tokens = WrittenTokens(found.content, found.tokenizer, vocabularies.of(owner).tokenizer)
    folder = _SmallFiles(sources, owner)
    template = said and (said.text or _template_in(_SmallFiles(sources, said.source), target, read))
    files = folder.usable(lambda: tokenizer_files(folder.names, folder.read, tokens, template))
    own = {each: checksum(folder.read(each)) for each in files if each in folder.names}
    told = _special_ones(sources, vocabularies, donor, tokens.now) if tokens is not None and donor else ()
    return TokenFiles(files, owner, own, tuple(read), tuple(told))


def _special_ones(sources: Sources, vocabularies: Vocabularies, donor: str, now: TokenizerJson) -> Iterator[str]:
    """Yield a sentence for each number of a special token in a configuration that is another token now."""
    config = config_of(sources.file(donor).model.facts, "text")
    try:
        was = vocabularies.of(donor).tokens
    except SourceError:  # it has no tokenizer that its configuration could mean
        return
    tokens = tuple(now.ids)
    for key in _SPECIAL:
        said = config.get(key)
        for number in said if isinstance(said, list) else [said]:
            if isinstance(number, int) and 0 <= number < len(was) and tokens[number : number + 1] != (was[number],):
                new = f"`{tokens[number][:40]}`" if number < len(tokens) else "no token"
                yield (
                    f"the configuration is that of `{donor}`, whose `{key}` {number} is `{was[number][:40]}` there and"
                    f" {new} in the tokenizer that is written; `config` names another"
                )


def lines_of_tokens(recipe: Recipe, folding: Folding, name: str) -> dict[str, str]:
    """Return a line for each `tokenizer.json` that the tokens of a target, or a virtual one below it, follow from."""
    lines: dict[str, str] = {}
    for each in recipe.below(name):
        text = recipe.target(each).tokenizer
        if text is not None and (each == name or folding.is_virtual(each)):
            read = folding.vocabularies.said(text).read
            lines |= {f"input {file.source}: {file.path}": tagged(file.checksum) for file in read}
    return lines


class _SaidTemplate(NamedTuple):
    """A chat template that a mergefile says: the source that has it, or its text."""

    source: str
    text: str


def _said(recipe: Recipe, target: Target) -> _SaidTemplate | None:
    """Return the chat template that a target says, or the target whose tokenizer it has; None: the tokenizer's own."""
    is_said = False
    while True:
        template = target.chat_template
        if template is not None and template.input is None:
            return _SaidTemplate("", template.text)
        is_said = is_said or template is not None
        ref = template.input.ref if template is not None and template.input else _speaking_for(target)
        if ref in recipe.sources:
            return _SaidTemplate(ref, "") if is_said else None
        target = recipe.target(ref)


def _speaking_for(target: Target) -> str:
    """Return the source or target whose tokenizer a target has, perhaps with other tokens."""
    named = target.tokenizer.input if target.tokenizer else target.config
    return (named or target.inputs[0]).ref


def _template_in(folder: _SmallFiles, target: Target, read: list[ReadFile]) -> object:
    """Return the chat template of a source, and add the files that it is in to those that were read.

    Raises:
        RecipeError: there is none.
    """
    found = folder.usable(lambda: chat_template(folder.names, folder.read))
    if found is None:
        raise RecipeError.one(
            "no-chat-template",
            f"`chat_template` of target `{target.name}`: `{folder.source}` has none",
            where=target.where.place("chat_template"),
            help="name a model that has one, or a file that ends in `.jinja`",
        )
    name = TEMPLATE if TEMPLATE in folder.names else TOKENIZER_CONFIG
    read.append(ReadFile(folder.source, name, checksum(folder.read(name))))
    return found


class _SmallFiles:
    """The small files of a source."""

    def __init__(self, sources: Sources, source: str) -> None:
        self.source = source
        self.names: Mapping[str, Path] = sources.file(source).model.sidecars if source else {}
        """By the name of each, its path."""
        self._shown = sources.file(source).shown.rstrip("/") if source else ""

    def read(self, name: str) -> bytes:
        """Return the content of one."""
        return self.names[name].read_bytes()

    def usable(self, made: Callable[[], Made]) -> Made:
        """Return what is made of its files.

        Raises:
            SourceError: one of them can't be used.
        """
        try:
            return made()
        except (ValueError, RecursionError, OSError) as error:
            raise SourceError.one(
                "bad-tokenizer",
                f"the files of the tokenizer in `{self._shown}` can't be used: {error}",
                where=Place(self._shown),
                help="save the tokenizer once as transformers does",
            ) from None
