"""Whether the head of a language model is tied to its embedding, by the configuration and by the tensors."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Final, NamedTuple

from mergebuild.configuration.parts import Config, config_of, path_of
from mergebuild.configuration.text import Path
from mergebuild.configuration.vocabulary import head_of, is_embedding

__all__ = ["TIE", "Heads", "agreed", "said"]

TIE: Final = "tie_word_embeddings"
_WITH_A_HEAD: Final = re.compile(r".*(?:ForCausalLM|LMHeadModel|ForConditionalGeneration|ForMaskedLM)")


class Heads(NamedTuple):
    """What is known of a model's head besides its configuration."""

    written: Mapping[str, bytes]
    """Digests of the written tensors by name; equal digests mean equal values."""
    donor: Collection[str]
    """Names of the tensors of the model whose configuration is written."""
    first: Collection[str]
    """Names of the tensors of the first input."""
    first_config: Config
    """The first input's own configuration; empty if it has none."""
    equal: bool
    """Whether the head that the donor or the first input has is known to equal its embedding."""
    others: Collection[str] = ()
    """Names of the tensors of all inputs."""


class Agreed(NamedTuple):
    """What is done about a tie: changes to the configuration, a notice, and a contradiction."""

    changes: Mapping[Path, object]
    notice: str = ""
    contradiction: str = ""


def said(config: Config) -> bool | None:
    """Return whether a configuration ties head and embedding, explicitly or by its architecture's default.

    None: unknown.
    """
    text = config_of(config, "text")
    for each in (config, text):
        if isinstance(each.get(TIE), bool):
            return bool(each[TIE])
    usual = (_usual().get(str(each.get("model_type"))) for each in (config, text))
    return next((each for each in usual if each is not None), None)


def agreed(config: Config, heads: Heads) -> Agreed:
    """Return what is done about the tie, so that clients neither overwrite a head nor fill it with random values.

    If the written head has its own values, the model must not be tied: clients would overwrite it with the embedding.
    If no head is written, the model must be tied: clients would fill it with random values.
    """
    if (head := head_of(heads.written)) is not None:
        return Agreed(_changed(config, value=False) if _has_own_values(head, heads) else {})
    tied = said(config)
    had = head_of(heads.donor) or head_of(heads.first)
    if tied or not any(map(is_embedding, heads.written)) or not _has_a_head(config, otherwise=had is not None):
        return Agreed({})
    if said(heads.first_config) or (had is not None and heads.equal):
        return Agreed(_changed(config, value=True))
    return _without_head(heads, had, tied)


def _has_own_values(head: str, heads: Heads) -> bool:
    """Return whether a written head differs from all embeddings that are written."""
    embeddings = [digest for name, digest in heads.written.items() if is_embedding(name)]
    return bool(embeddings) and heads.written[head] not in embeddings


def _without_head(heads: Heads, had: str | None, tied: bool | None) -> Agreed:
    """Return a contradiction or notice for a model whose head is neither written nor tied.

    `had`: the name of the head in the donor, or else in the first input.
    """
    if had is not None:
        sentence = f"the head `{had}` is not written, and `{TIE}` does not say that it is the embedding"
        return Agreed({}, contradiction=f"{sentence}: clients would draw a random one")
    if tied is False and (left := head_of(heads.others)) is not None:
        sentence = f"`{TIE}` is false, and no head is written, which an input has: `{left}`"
        return Agreed({}, contradiction=f"{sentence}: clients would draw a random one")
    if tied is False:
        return Agreed({}, notice=f"`{TIE}` is false, and no input has a head: clients draw a random one")
    return Agreed({})


def _changed(config: Config, *, value: bool) -> Mapping[Path, object]:
    """Return the changes: to the whole configuration, and to its text part if that says or means otherwise."""
    found: dict[Path, object] = {} if config.get(TIE) is value else {(TIE,): value}
    inner, text = path_of(config, "text"), config_of(config, "text")
    meant = text.get(TIE, _usual().get(str(text.get("model_type")), value))
    if inner and meant is not value:
        found[(*inner, TIE)] = value
    return found


def _has_a_head(config: Config, *, otherwise: bool) -> bool:
    """Return whether the configuration's class has a head that scores tokens; `otherwise` if it names no class."""
    classes = config.get("architectures")
    if not isinstance(classes, list) or not classes:
        return otherwise
    return any(isinstance(each, str) and _WITH_A_HEAD.fullmatch(each) for each in classes)


@cache
def _usual() -> Mapping[str, bool]:
    """Return the default of each architecture: whether the head is tied if a configuration does not say it."""
    import tomllib  # most builds have no use for it

    found = tomllib.loads((pathlib.Path(__file__).with_name("data") / "ties.toml").read_text("utf-8"))
    return dict.fromkeys(found["tied"].split(), True) | dict.fromkeys(found["untied"].split(), False)
