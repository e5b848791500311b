"""A run of bayesian-merger: a JSON object a line, a score and the weights that had it; the best is the recipe.

Models and method are in the run's `.hydra/config.yaml`, beside that file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

from mergebuild.errors import Place, RecipeError
from mergebuild.exchange.draft import Draft, ModelName
from mergebuild.exchange.figures import figure, of_slider
from mergebuild.exchange.json_texts import json_of, table_of, words_of
from mergebuild.exchange.merges.meh import MehMerge, MehWeights
from mergebuild.exchange.merges.node import UnsayableError
from mergebuild.exchange.recipe_file import MOST_BYTES, RecipeFile
from mergebuild.exchange.yaml_text import documents

__all__ = ["read", "recognizes"]

_CONFIG: Final = ".hydra/config.yaml"
_BLOCKS: Final = 25
_FIRST: Final = re.compile(r'\s*\{[^\n]*"target"\s*:[^\n]*"params"\s*:|\s*\{[^\n]*"params"\s*:[^\n]*"target"\s*:')


def recognizes(file: RecipeFile) -> bool:
    """Whether the first line is an object with a score and parameters."""
    return _FIRST.match(file.text[:20_000]) is not None


def read(file: RecipeFile, draft: Draft) -> None:
    """Add the target with the best score.

    Raises:
        RecipeError: no line has a score, or the configuration is not there.
    """
    config = _config(file)
    scored = list(_scored(file))
    if not scored:
        raise _broken(file, "no line has a score")
    score, params = max(scored, key=lambda each: each[0])
    try:
        weights = {greek: _weights(params, greek) for greek in ("alpha", "beta")}
        merge = MehMerge(
            where=str(file.path),
            name=f"{file.stem}-best",
            method=words_of(config.get("merge_mode")),
            inputs=[draft.source(ModelName(name)) if name else "" for name in _models(config)],
            alpha=weights["alpha"],
            beta=weights["beta"],
            output=f"{file.stem}-best.safetensors",
            dtype="float16" if str(config.get("best_precision")) == "16" else None,
            comments=[f"the best of {len(scored)}: score {score}"],
        )
        draft.default.append(merge.add(draft))
    except UnsayableError as error:
        raise _broken(file, str(error)) from None


def _models(config: Mapping[str, object]) -> list[str]:
    return [words_of(config.get(f"model_{letter}")) for letter in "abc"]


def _config(file: RecipeFile) -> Mapping[str, object]:
    """Return the configuration of the run."""
    path = file.path.parent / _CONFIG
    try:
        with path.open("rb") as stream:
            text = stream.read(MOST_BYTES).decode()
    except (OSError, UnicodeDecodeError):
        raise _broken(file, f"`{_CONFIG}` is not beside it, which names models and method") from None
    found = documents(text, path.as_posix())
    return found[0] if found and isinstance(found[0], dict) else {}


def _scored(file: RecipeFile) -> Iterator[tuple[Decimal, Mapping[str, object]]]:
    """Yield the scores with their parameters, of which a group that shares a number is taken apart."""
    for line in file.text.splitlines():
        try:
            said = table_of(json_of(line)) if line.strip() else {}
            score = figure(said.get("target"))
        except ValueError:
            continue
        params = table_of(said.get("params"))
        yield score, {name: number for names, number in params.items() for name in names.split("-")}


def _weights(params: Mapping[str, object], greek: str) -> MehWeights:
    names = [f"base_{greek}", *(f"block_{number}_{greek}" for number in range(_BLOCKS))]
    given = [params.get(name) for name in names]
    if greek == "beta" and not any(each is not None for each in given):
        return Decimal(0)
    try:
        return [of_slider(each) for each in given]
    except ValueError:
        lost = next(name for name, each in zip(names, given, strict=True) if not isinstance(each, (int, Decimal)))
        raise UnsayableError(
            f"parameter `{lost}` has no number: {json.dumps(params.get(lost), default=str)[:40]}"
        ) from None


def _broken(file: RecipeFile, message: str) -> RecipeError:
    mend = "give the run's JSON file, where the run left it"
    return RecipeError.one("bad-recipe", message, where=Place(str(file.path)), help=mend)
