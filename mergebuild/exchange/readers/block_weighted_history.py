"""The history of MBW GUI, the first extension for block weights: a row a merge, in a table of tabs.

The UNet is merged by 25 weights, all else by `base_alpha`, the VAE too. A second list of weights is a mode in which
blocks are `w1 A + w2 B`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from mergebuild.exchange.draft import Draft, Value
from mergebuild.exchange.figures import of_slider
from mergebuild.exchange.merges.blocks import list_of_text, number_table
from mergebuild.exchange.merges.chain import Chain, Merge
from mergebuild.exchange.readers.merge_board_history import model_in
from mergebuild.exchange.recipe_file import RecipeFile
from mergebuild.exchange.tab_table import header_of, rows_of

__all__ = ["read", "recognizes"]

_WEIGHTS = 25
_UNRECORDED = "this history records neither the format nor the dtype of the file"


def recognizes(file: RecipeFile) -> bool:
    """Whether a text has the columns of that history."""
    return {"model_O", "weight_values"} <= set(header_of(file))


def read(file: RecipeFile, draft: Draft) -> None:
    """Add a target for each row.

    Raises:
        RecipeError: there are more rows than people make.
    """
    chain = Chain(draft)
    for line, row in rows_of(file):
        where = f"{file.path}:{line}"
        try:
            chain.add(_merge(where, row, draft, chain))
        except ValueError as error:
            draft.leave_out(where, str(error))
            chain.add(None)
    draft.say(str(file.path), _UNRECORDED)
    chain.write(last_is_default=False)


def _merge(where: str, row: Mapping[str, str], draft: Draft, chain: Chain) -> Merge:
    """Return the merge of a row; raise `ValueError` where it says none."""
    if not row.get("model_A") or not row.get("model_B"):
        raise ValueError("a model is missing")
    base = of_slider(row.get("base_alpha", ""))
    first = _weights(row.get("weight_values", ""))
    second = _weights(row["weight_values2"]) if row.get("weight_values2") else None
    comments = [f"merged on {row['datetime']}"] if row.get("datetime") else []
    if row.get("weight_name"):
        comments.append(f"weights: {row['weight_name']}")
    return Merge(
        where=where,
        name=row.get("model_O") or f"row-{where.rpartition(':')[2]}",
        inputs=[_input(row, letter, draft, chain) for letter in "AB"],
        keys=_summed(base, first) if second is None else _each(base, first, second),
        roles=("a", "b") if second is None else ("models",),
        suffix=".ckpt" if row.get("model_O", "").lower().endswith(".ckpt") else ".safetensors",
        comments=comments,
    )


def _weights(text: str) -> list[Decimal]:
    found = list_of_text(text)
    if len(found) != _WEIGHTS:
        raise ValueError(f"{len(found)} block weights, where {_WEIGHTS} are expected")
    return [of_slider(each) for each in found]


def _summed(base: Decimal, weights: Sequence[Decimal]) -> dict[str, Value]:
    return {"method": "weighted_sum", "alpha": number_table([base, *weights], vae=base or None)}


def _each(base: Decimal, first: Sequence[Decimal], second: Sequence[Decimal]) -> dict[str, Value]:
    weights: list[Value] = [number_table([1 - base, *first], vae=1 - base), number_table([base, *second], vae=base)]
    return {"method": "linear", "weight": weights, "normalize": False}


def _input(row: Mapping[str, str], letter: str, draft: Draft, chain: Chain) -> int | str:
    model = model_in(row, letter)
    earlier = chain.latest(model.text)
    return draft.source(model) if earlier is None else earlier
