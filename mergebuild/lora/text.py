"""Deltas as text: what a tensor's digest says of them, and what the kernel reads."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from mergebuild.formats import Model
from mergebuild.lora.adapter import Fact
from mergebuild.lora.match import Delta
from mergebuild.lora.roles import Factor

__all__ = ["ADAPTER_METADATA", "adapter_config", "read", "written"]

ADAPTER_METADATA = "lora_adapter_metadata"
"""What diffusers calls an adapter's configuration in a file's metadata."""
_MOST = 1 << 24
"""Characters of a configuration in a file's metadata."""


def adapter_config(model: Model) -> Mapping[str, object] | None:
    """Return an adapter's configuration: of a folder of PEFT, or what diffusers writes into a file's metadata."""
    if model.format == "peft":
        return model.facts
    text = model.metadata.get(ADAPTER_METADATA, "")
    try:
        found = json.loads(text) if len(text) <= _MOST else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def written(deltas: Iterable[Delta], shapes: Mapping[str, Sequence[int]]) -> str:
    """Return deltas as text, without the names of their tensors: these stand in the order of the deltas' factors."""
    return json.dumps(
        [
            {
                "family": delta.family,
                "factors": [[factor.role, list(shapes[factor.tensor])] for factor in delta.factors],
                "rows": delta.rows,
                "facts": {name: _shown(value) for name, value in delta.facts},
            }
            for delta in deltas
        ],
        separators=(",", ":"),
    )


def read(text: str) -> list[tuple[Delta, list[tuple[int, ...]]]]:
    """Return the deltas that `written` wrote, with the shapes of their factors; tensors have no names."""
    return [
        (
            Delta(
                each["family"],
                tuple(Factor(role, "") for role, _ in each["factors"]),
                None if each["rows"] is None else (each["rows"][0], each["rows"][1]),
                tuple((name, _value(value)) for name, value in each["facts"].items()),
            ),
            [tuple(shape) for _, shape in each["factors"]],
        )
        for each in json.loads(text)
    ]


def _shown(value: Fact) -> object:
    return {"fraction": str(value)} if isinstance(value, Fraction) else value


def _value(value: object) -> Fact:
    if isinstance(value, dict):
        return Fraction(value["fraction"])
    assert isinstance(value, str | bool | int)
    return value
