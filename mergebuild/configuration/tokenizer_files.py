"""The files of a tokenizer beside `tokenizer.json`, so that all of them say the same of its tokens and its template.

Each is the model's own, changed only where it would contradict: added tokens are also listed in `tokenizer_config.json`
and `added_tokens.json`, and a chat template is in two places, of which older and newer clients read one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from mergebuild.configuration.tokenizer_json import TokenizerJson
from mergebuild.configuration.tokenizers import ADDED

__all__ = ["TEMPLATE", "TOKENIZER_CONFIG", "WrittenTokens", "chat_template", "is_of_tokenizer", "tokenizer_files"]

TOKENIZER_CONFIG: Final = "tokenizer_config.json"
TEMPLATE: Final = "chat_template.jinja"
_TOKENIZER: Final = "tokenizer.json"
_KEY: Final = "chat_template"
_OF_TEMPLATES: Final = re.compile(r"chat_template\.(?:jinja|json)|additional_chat_templates/.*")
_OF_TOKENIZERS: Final = re.compile(
    r"tokenizer(?:_config)?\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(?:json|txt|bpe)|merges\.txt"
    r"|(?:tokenizer|spiece|sentencepiece\.bpe|spm|source|target)\.(?:model|spm)|tekken\.json|.*\.tiktoken"
    r"|tokenizer\.model\..*"
)
_SLOW: Final = re.compile(r"vocab\.(?:json|txt|bpe)|merges\.txt")
"""Files with the tokens and merges of a tokenizer, without those that are added."""

Read = Callable[[str], bytes]


class WrittenTokens(NamedTuple):
    """A tokenizer that is written: its `tokenizer.json`, its tokens, and those of the model whose files go along."""

    content: bytes
    now: TokenizerJson
    was: TokenizerJson

    @property
    def is_cut(self) -> bool:
        """Whether it lacks tokens of the model's."""
        return not self.was.ids.keys() <= self.now.ids.keys()


def is_of_tokenizer(name: str) -> bool:
    """Return whether a small file of a folder is a tokenizer's, or has chat templates."""
    return bool(_OF_TOKENIZERS.fullmatch(name) or _OF_TEMPLATES.fullmatch(name))


def chat_template(names: Iterable[str], read: Read) -> object:
    """Return the chat template of a folder with these small files; None if it has none.

    It is text, or a list of templates with names.

    Raises:
        ValueError: a file is no JSON object.
    """
    if TEMPLATE in names:
        return read(TEMPLATE).decode()
    found = _object(read(TOKENIZER_CONFIG)).get(_KEY) if TOKENIZER_CONFIG in names else None
    return found if isinstance(found, str | list) and found else None


def tokenizer_files(
    names: Iterable[str], read: Read, tokens: WrittenTokens | None, template: object = None
) -> dict[str, bytes]:
    """Return the files of a tokenizer by name.

    Args:
        names: The small files of the model's folder.
        read: Returns the content of one.
        tokens: The tokenizer that is written; None: the model's own, unread.
        template: A chat template, as `chat_template` returns it; None: that of the model.

    Raises:
        ValueError: a file is no JSON object.
    """
    is_cut = tokens is not None and tokens.is_cut
    found = {name: read(name) for name in names if _is_kept(name, is_cut=is_cut, has_template=template is not None)}
    if tokens is not None:
        found[_TOKENIZER] = tokens.content
        if ADDED in found:
            found[ADDED] = _with_numbers(found[ADDED], tokens)
    if TOKENIZER_CONFIG in found:
        found[TOKENIZER_CONFIG] = _configured(found[TOKENIZER_CONFIG], tokens, template)
    text = _text_of(template)
    return found | {TEMPLATE: text.encode()} if text is not None else found


def _with_numbers(raw: bytes, tokens: WrittenTokens) -> bytes:
    """Return `added_tokens.json` with all added tokens."""
    listed, now = _object(raw), tokens.now
    new = {token: now.ids[token] for token in now.added if token not in tokens.was.added}
    every = {token: number for token, number in (listed | new).items() if token in now.ids}
    return raw if every == listed else _encoded(every)


def _is_kept(name: str, *, is_cut: bool, has_template: bool) -> bool:
    """Whether a file of the model's tokenizer is written too."""
    if _OF_TEMPLATES.fullmatch(name):
        return not has_template
    return is_of_tokenizer(name) and not (is_cut and _SLOW.fullmatch(name))


def _configured(raw: bytes, tokens: WrittenTokens | None, template: object) -> bytes:
    """Return `tokenizer_config.json` with all added tokens, and with the template."""
    config = dict(_object(raw))
    listed = config.get("added_tokens_decoder")
    if isinstance(listed, Mapping) and tokens is not None and tokens.was.added != tokens.now.added:
        config["added_tokens_decoder"] = dict(_listed(listed, tokens.now))
    if template is not None:
        config[_KEY] = template
    return raw if config == _object(raw) else _encoded(config)


def _listed(listed: Mapping[str, Any], now: TokenizerJson) -> Iterator[tuple[str, Any]]:
    """Yield the entries of `added_tokens_decoder`: those that were there, and others for tokens that are new."""
    known = {number: each for number, each in listed.items() if _content(each) in now.ids}
    yield from known.items()
    for token, how in now.added.items():
        if (number := str(now.ids[token])) not in known:
            yield number, {"content": token, **how.flags}


def _content(entry: object) -> object:
    return entry.get("content") if isinstance(entry, Mapping) else None


def _text_of(template: object) -> str | None:
    """Return the text of a template; of several with names, of the one that is the default."""
    if isinstance(template, list):
        named = {each.get("name"): each.get("template") for each in template if isinstance(each, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _object(raw: bytes) -> dict[str, Any]:
    found = json.loads(raw.decode())
    if not isinstance(found, dict):
        message = "no JSON object"
        raise ValueError(message)  # noqa: TRY004 -- as for text that is no JSON
    return found


def _encoded(found: Mapping[str, Any]) -> bytes:
    return (json.dumps(found, ensure_ascii=False, indent=2) + "\n").encode()
