"""The labels of a classifier: its configuration must name as many as its head has rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from mergebuild.configuration.parts import Config
from mergebuild.configuration.text import Path

__all__ = ["Labelled", "is_of_labels", "labelled"]

_HEAD: Final = re.compile(r"(?:score|classifier|classifier\.out_proj|classification_head\.out_proj)\.weight")
_BIAS: Final = re.compile(_HEAD.pattern.replace("weight", "bias"))
_CLASSIFIER: Final = re.compile(r".*For(?:Sequence|Token|Image|Audio|Video)Classification")
_USUAL: Final = 2
"""How many labels a classifier has whose configuration names none."""
_NAMES, _NUMBERS, _COUNT = "id2label", "label2id", "num_labels"


class Labelled(NamedTuple):
    """What is done about labels: changes to the configuration, and a notice."""

    changes: Mapping[Path, object]
    notice: str = ""


def is_of_labels(name: str) -> bool:
    """Return whether a tensor has a row, or a number, for each label."""
    return _HEAD.fullmatch(name) is not None or _BIAS.fullmatch(name) is not None


def labelled(config: Config, written: Mapping[str, tuple[int, ...]], first: Config) -> Labelled:
    """Return what is done about the labels of a configuration, given the shapes of the tensors that are written.

    If `first`, the first input's own configuration, names as many labels as the written head has rows, these are used.
    """
    rows = next((shape[0] for name, shape in written.items() if _HEAD.fullmatch(name) and shape), None)
    said = _said(config)
    if rows is None or said is None or said == rows:
        return Labelled({})
    names, notice = _names(first, rows, said)
    numbers = {str(name): int(str(number)) for number, name in names.items() if str(number).isdecimal()}
    changes: dict[Path, object] = {(_NAMES,): dict(names), (_NUMBERS,): numbers}
    if _COUNT in config:
        changes[(_COUNT,)] = rows
    return Labelled(changes, notice)


def _names(first: Config, rows: int, said: int) -> tuple[Mapping[str, object], str]:
    """Return the names of the labels by number: those of the first input, or made up, with a notice about that."""
    names = first.get(_NAMES) if _said(first) == rows else None
    if isinstance(names, Mapping):
        return names, ""
    made_up = {str(number): f"LABEL_{number}" for number in range(rows)}
    notice = f"the head has {rows} labels and the configuration names {said}: they are called `LABEL_0` and so on"
    return made_up, notice


def _said(config: Config) -> int | None:
    """Return how many labels a configuration says; None if it is not a classifier's."""
    for key in (_NAMES, _COUNT):
        found = config.get(key)
        if isinstance(found, Mapping):
            return len(found)
        if isinstance(found, int) and not isinstance(found, bool):
            return found
    classes = config.get("architectures")
    named = classes if isinstance(classes, list) else []
    return _USUAL if any(isinstance(each, str) and _CLASSIFIER.fullmatch(each) for each in named) else None
