"""A result of auto-MBW, `NAME.recipe.txt`: `modelA=` and its kin, then 27 block weights.

Its console names them IN00-IN11, M00, OUT, OUT00-OUT11, TIME_EMBED; some versions had two of them in the other order.
There is no weight for text encoder and VAE: they stay those of A.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from mergebuild.errors import Place, RecipeError
from mergebuild.exchange.draft import Draft, ModelName, Value
from mergebuild.exchange.figures import figure, of_slider
from mergebuild.exchange.file_names import without_suffix
from mergebuild.exchange.recipe_file import RecipeFile

__all__ = ["read", "recognizes"]

_FIRST: Final = re.compile(r"\s*modelA\s*=")
_PAIR: Final = re.compile(r"(?P<key>[A-Za-z_]\w{0,40})\s*=(?P<value>.*)")
_COUNT: Final = 27
_MOST_SIGNS: Final = 100_000
_ORDER: Final = (
    "27 weights were taken for IN00-IN11, M00, OUT, OUT00-OUT11, TIME_EMBED: some versions had another order"
)


def recognizes(file: RecipeFile) -> bool:
    """Whether a text begins with `modelA=`."""
    return _FIRST.match(file.text[:200]) is not None


def read(file: RecipeFile, draft: Draft) -> None:
    """Add the target.

    Raises:
        RecipeError: models or weights are missing.
    """
    if len(file.text) > _MOST_SIGNS:
        raise _broken(file, f"it has more than {_MOST_SIGNS:,} signs")
    said: dict[str, str] = {}
    numbers: list[Decimal] = []
    for line in file.text.splitlines():
        found = _PAIR.fullmatch(line.strip())
        if found and not found["key"].startswith("weights"):
            said[found["key"]] = found["value"].strip()
        else:
            numbers += _numbers(file, found["value"] if found else line)
    if len(numbers) != _COUNT or not said.get("modelA") or not said.get("modelB"):
        raise _broken(file, f"{len(numbers)} block weights, where {_COUNT} are expected, or no models")
    _add(file, said, numbers, draft)


def _add(file: RecipeFile, said: dict[str, str], numbers: list[Decimal], draft: Draft) -> None:
    ends, time_embed, out = [*numbers[:13], *numbers[14:26]], numbers[26], numbers[13]
    alpha: dict[str, Value] = {"mbw": list(ends)}
    if time_embed != ends[0]:
        alpha["*time_embed*"] = time_embed
    if out != ends[-1]:
        alpha["*diffusion_model.out.*"] = out
    name = said.get("modelO") or file.stem.removesuffix(".recipe")
    keys: dict[str, Value] = {"method": "weighted_sum"}
    keys |= {"a": draft.source(ModelName(said["modelA"])), "b": draft.source(ModelName(said["modelB"])), "alpha": alpha}
    plain, dtype = without_suffix(name), "float16" if "16" in said.get("output_mode", "") else None
    target = draft.target(plain, keys, output=f"{plain}.safetensors", dtype=dtype)
    draft.say(str(file.path), _ORDER, target=target)


def _numbers(file: RecipeFile, line: str) -> list[Decimal]:
    try:
        return [of_slider(figure(each)) for each in re.split(r"[,\s]+", line) if each.strip("[]")]
    except ValueError:
        raise _broken(file, f"`{line[:60]}` is no list of numbers") from None


def _broken(file: RecipeFile, message: str) -> RecipeError:
    return RecipeError.one("bad-recipe", message, where=Place(str(file.path)), help="see what auto-MBW wrote")
