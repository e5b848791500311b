"""A merge as a user of sd-mecha would write it. It runs in sd-mecha's own environment, as a process of its own.

    python merge_with_sd_mecha.py best weighted_sum OUT MODEL MODEL --alpha 0.3

Several `--alpha` make several merges, in one process, to OUT with a number before its suffix: a sweep.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import sd_mecha
import torch

__all__: list[str] = []

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    # Buffers that hold whole inputs, every core, arithmetic in the files' own dtype, and no checks.
    "best": {
        "threads": os.cpu_count(),
        "total_buffer_size": 1 << 31,
        "merge_dtype": torch.float16,
        "omit_non_finite_inputs": False,
        "check_finite_output": False,
        "check_extra_keys": False,
        "validate_mm_contract": False,
    },
}


def recipe(method: str, models: list[Any], alpha: float) -> Any:
    """Return the recipe of sd-mecha for a method."""
    match method, models:
        case "weighted_sum", [a, b]:
            return sd_mecha.weighted_sum(a, b, alpha=alpha)
        case "add_difference", [a, b, c]:
            return sd_mecha.add_difference(a, b, c, alpha=alpha)
        case "chain", [a, b, c]:
            half = sd_mecha.weighted_sum(sd_mecha.add_difference(a, b, c, alpha=0.6), b, alpha=0.5)
            return sd_mecha.weighted_sum(half, a, alpha=alpha)
        case _:
            raise SystemExit(f"no {method} of {len(models)} models")


def main() -> None:
    """Run the merges of the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("settings", choices=SETTINGS)
    parser.add_argument("method")
    parser.add_argument("output", type=Path)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--alpha", type=float, action="append", required=True)
    options = parser.parse_args()
    models = [sd_mecha.model(model) for model in options.models]
    for number, alpha in enumerate(options.alpha):
        output = options.output.with_stem(f"{options.output.stem}{number}") if number else options.output
        sd_mecha.merge(recipe(options.method, models, alpha), output=output, **SETTINGS[options.settings])


if __name__ == "__main__":
    main()
