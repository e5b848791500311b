"""The tokens of prompts, by a tokenizer. Splitting a text is the `tokenizers` library's, which is an extra."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, Final

from mergebuild.errors import Place, SourceError, UsageError
from mergebuild.sources.sources import Sources
from mergebuild.system.bounded_text import read_text

__all__ = ["encoded"]

_CONFIG: Final = "tokenizer_config.json"


def encoded(sources: Sources, owner: str, content: bytes, prompts: Iterable[str]) -> list[list[int]]:
    """Return the numbers of each prompt's tokens, with the one that begins a text in front, if there is one.

    Args:
        sources: the sources.
        owner: the source whose tokenizer it is.
        content: its `tokenizer.json`.
        prompts: the texts.

    Raises:
        SourceError: the library can't use the tokenizer.
        UsageError: the library is not installed.
    """
    tokenizer, beginning = _tokenizer(content, sources.file(owner).shown), _beginning(_said(sources, owner))
    return [tokenizer.encode(beginning + prompt, add_special_tokens=False).ids for prompt in prompts]


def _tokenizer(content: bytes, shown: str) -> Any:
    """Return the library's tokenizer, which neither pads nor cuts."""
    try:
        library = import_module("tokenizers")
    except ImportError:
        message = "gates are made of prompts, and the `tokenizers` library, which splits them, is not installed"
        raise UsageError.one("no-tokenizers", message, help="`pip install 'mergebuild[tokenizers]'`") from None
    try:
        found = library.Tokenizer.from_str(content.decode())
    except Exception as error:  # noqa: BLE001 -- the library raises plain ones
        message = f"the tokenizer of `{shown}` can't be used: {error}"
        raise SourceError.one("bad-tokenizer", message, where=Place(shown), help="save it again") from None
    found.no_padding()
    found.no_truncation()
    return found


def _said(sources: Sources, owner: str) -> Mapping[str, Any]:
    """Return the configuration of a source's tokenizer; empty if it has none."""
    path = sources.file(owner).model.sidecars.get(_CONFIG)
    if path is None:
        return {}
    try:
        found = json.loads(read_text(path))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _beginning(said: Mapping[str, Any]) -> str:
    """Return the token that begins a text; empty if none is said."""
    token = said.get("bos_token")
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""
