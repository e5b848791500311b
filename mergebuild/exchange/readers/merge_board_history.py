"""The history of Merge Board: a row a merge, in a table of tabs. Rows are linked by the names of their results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mergebuild.exchange.draft import Draft, ModelName, Value
from mergebuild.exchange.figures import figure, of_slider, sigmoid_of
from mergebuild.exchange.merges.chain import Chain, Merge
from mergebuild.exchange.recipe_file import RecipeFile
from mergebuild.exchange.tab_table import header_of, rows_of

__all__ = ["model_in", "read", "recognizes"]

_METHODS: Final = {
    "weighted sum": ("weighted_sum", "AB"),
    "add difference": ("add_difference", "ABC"),
    "no interpolation": ("copy", "A"),
}


def recognizes(file: RecipeFile) -> bool:
    """Whether a text has the columns of that history."""
    return {"model_O", "multiplier"} <= set(header_of(file))


def read(file: RecipeFile, draft: Draft) -> None:
    """Add a target for each row.

    Raises:
        RecipeError: there are more rows than people make.
    """
    chain = Chain(draft)
    hashes: dict[int, str] = {}
    for line, row in rows_of(file):
        merge = _merge(f"{file.path}:{line}", row, draft, chain, hashes)
        if merge is not None:
            hashes[len(chain.merges)] = row.get("model_O_sha256", "").lower()
        chain.add(merge)
    chain.write(last_is_default=False)


def model_in(row: Mapping[str, str], letter: str, *, comment: str | None = None) -> ModelName:
    """Return the model of a letter, with its hashes."""
    short, sha256 = row.get(f"model_{letter}_hash", "").lower(), row.get(f"model_{letter}_sha256", "").lower()
    return ModelName(
        row.get(f"model_{letter}", ""),
        sha256=sha256 if _is_hash(sha256, 64) else None,
        autov2=short if _is_hash(short, 10) and not _is_hash(sha256, 64) else None,
        autov1=short if _is_hash(short, 8) else None,
        comment=comment,
    )


def _is_hash(text: str, length: int) -> bool:
    return len(text) == length and set(text) <= set("0123456789abcdef")


def _merge(where: str, row: Mapping[str, str], draft: Draft, chain: Chain, hashes: Mapping[int, str]) -> Merge | None:
    word = row.get("interpolation_method", "").lower().replace("_", " ")
    if word not in _METHODS:
        draft.leave_out(where, f"interpolation method `{row.get('interpolation_method', '')[:60]}` is not known")
        return None
    method, letters = _METHODS[word]
    if method == "add_difference" and not row.get("model_C"):
        method, letters = "weighted_sum", "AB"  # what that tool makes of it
        draft.say(where, "an add difference without a third model, of which Merge Board makes a weighted sum")
    if not all(row.get(f"model_{letter}") for letter in letters):
        draft.leave_out(where, "a model is missing")
        return None
    keys: dict[str, Value] = {"method": method}
    notes: dict[str, str] = {}
    if method != "copy":
        try:
            keys["alpha"] = of_slider(row.get("multiplier", ""))
        except ValueError as error:
            draft.leave_out(where, f"multiplier {row.get('multiplier', '')[:60]!r}: {error}")
            return None
        notes = _notes(row["multiplier"])
    return Merge(
        where=where,
        name=row.get("model_O") or f"row-{where.rpartition(':')[2]}",
        inputs=[_input(row, letter, draft, chain, hashes) for letter in letters],
        keys=keys,
        notes=notes,
        suffix=".ckpt" if row.get("checkpoint_format") == "ckpt" else ".safetensors",
        dtype="float16" if row.get("save_as_float16") == "True" else None,
        comments=[f"merged on {row['datetime']}"] if row.get("datetime") else [],
    )


def _notes(multiplier: str) -> dict[str, str]:
    number, short = figure(multiplier), of_slider(multiplier)
    sigmoid = sigmoid_of(short)
    if sigmoid is not None:
        return {"alpha": f"sigmoid of {sigmoid}?"}
    return {"alpha": multiplier} if number != short else {}


def _input(row: Mapping[str, str], letter: str, draft: Draft, chain: Chain, hashes: Mapping[int, str]) -> int | str:
    """Return the last row whose result a model is, unless their hashes differ; else its source."""
    model = model_in(row, letter)
    earlier = chain.latest(model.text)
    if earlier is None or (model.sha256 and hashes.get(earlier) and model.sha256 != hashes[earlier]):
        return draft.source(model)
    return earlier
