"""Layouts: which tensor is in which block and component of an architecture, and which number reaches each tensor.

Begin with `layout.py` (what a layout is) and `selector.py` (from a number's keys to one number per tensor). Layouts are
data: ours are `data/*.toml`, and users declare more in `[layouts.NAME]`, with the same keys (`declare.py`).
`detection.py` finds the layout of a file by its header, and `keys.py` finds the tensors that one key selects.

May import the recipe and what is below it; not `sources`, which is in the same import layer.
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
