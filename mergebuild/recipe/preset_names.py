"""The names of the presets, so that a misspelt one is found before a layout is loaded. `layouts` has the curves."""

from __future__ import annotations

__all__ = ["PRESET_NAMES"]

_STEPS = {"2": "HALF", "3": "ONE_THIRD", "4": "ONE_FOURTH"}

PRESET_NAMES: frozenset[str] = frozenset(
    [
        *"GRAD_V GRAD_A FLAT_25 FLAT_75 ALL_A ALL_B WRAP08 WRAP12 WRAP14 WRAP16 MID12_50 OUT07 OUT12 OUT12_5".split(),
        *"RING08_SOFT RING08_5 RING10_5 RING10_3 SMOOTHSTEP R_SMOOTHSTEP REVERSE_SMOOTHSTEP".split(),
        *"REVERSE-SMOOTHSTEP COSINE REVERSE_COSINE FAKE_CUBIC_HERMITE TRUE_CUBIC_HERMITE".split(),
        *"FAKE_REVERSE_CUBIC_HERMITE TRUE_REVERSE_CUBIC_HERMITE".split(),
        *(
            name
            for step, part in _STEPS.items()
            for smooth in ("SMOOTHSTEP", "R_SMOOTHSTEP")
            for name in (f"{smooth}*{step}", f"{smooth}/{step}", f"{step}{smooth}", f"{part}_{smooth}")
        ),
    ]
)
"""Names of supermerger and of sd-meh."""
