"""Which tensor is in which block and component of which architecture, and the number that reaches each tensor.

Layouts are data (`data/*.toml`, and `[layouts.NAME]` of a mergefile, in the same keys). `detect` finds the layout of
a file from its header; a `Selector` turns the keys of a number per tensor into one number a tensor.
"""

from mergebuild.layouts.declare import parse_layout
from mergebuild.layouts.detection import (
    BUILT_IN,
    ListedLayout,
    built_in,
    declared_for,
    detect,
    list_layouts,
    user_layout,
)
from mergebuild.layouts.keys import Parts, no_parts
from mergebuild.layouts.layout import Layout
from mergebuild.layouts.patience import Patience
from mergebuild.layouts.presets import PRESETS, preset_numbers
from mergebuild.layouts.selector import Places, Selector, resolve, select, selector_for, structure

__all__ = [
    "BUILT_IN",
    "PRESETS",
    "Layout",
    "ListedLayout",
    "Parts",
    "Patience",
    "Places",
    "Selector",
    "built_in",
    "declared_for",
    "detect",
    "list_layouts",
    "no_parts",
    "parse_layout",
    "preset_numbers",
    "resolve",
    "select",
    "selector_for",
    "structure",
    "user_layout",
]
