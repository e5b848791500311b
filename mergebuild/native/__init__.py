"""Compiled kernels: loops in C that give the same bits as the torch kernels, faster and without torch.

Begin with `kernels.h`, which says what a kernel gets and gives. Each is written once, in an `.inc` file, and compiled
for several instruction sets (`variant_*.c`); importing this module chooses the best one that the processor has.
`module.c` is the Python extension; `calls.py`, `sums.py` and `ranks.py` wrap it with types. A package installed without
a C compiler has no compiled kernels, and torch is used.

`MERGEBUILD_NATIVE` in the environment, read at import, chooses: `0` none, else an instruction set (`avx512`, `avx2`,
`neon`, `plain`). Only time depends on it. Imports nothing else of mergebuild.
"""

from __future__ import annotations

import os

from mergebuild.native import calls
from mergebuild.native.calls import (
    DTYPES,
    MOST_INPUTS,
    UNUSABLE,
    BlockScales,
    Chunk,
    Destination,
    Hash,
    Plain,
    Prepared,
    Seen,
    apply,
    count_active,
    count_nonfinite,
    new_lock,
    packed,
    packed_doubles,
)
from mergebuild.native.ranks import Histogram, Ranking, Region, arranged, find, keep_by_rank, tally
from mergebuild.native.sums import (
    ROWS_TOGETHER,
    ColumnProducts,
    GramMatrix,
    MagnitudeSum,
    MatrixProduct,
    arcs_of_columns,
    cosines_of_columns,
    make_rows,
)

__all__ = [
    "DTYPES",
    "MOST_INPUTS",
    "ROWS_TOGETHER",
    "BlockScales",
    "Chunk",
    "ColumnProducts",
    "Destination",
    "GramMatrix",
    "Hash",
    "Histogram",
    "MagnitudeSum",
    "MatrixProduct",
    "Plain",
    "Prepared",
    "Ranking",
    "Region",
    "Seen",
    "apply",
    "arcs_of_columns",
    "arranged",
    "choose",
    "cosines_of_columns",
    "count_active",
    "count_nonfinite",
    "find",
    "keep_by_rank",
    "make_rows",
    "new_lock",
    "packed",
    "packed_doubles",
    "reason",
    "tally",
    "variant",
    "variants",
]


def variants() -> list[str]:
    """Return the instruction sets that this processor can run kernels with, best first; none without the extension."""
    return [] if UNUSABLE else calls.compiled.variants()


def choose(name: str) -> None:
    """Run kernels with an instruction set from now on.

    Raises:
        ValueError: This processor has none of that name.
    """
    global variant  # noqa: PLW0603 -- the extension's choice, remembered here
    calls.compiled.choose(name)
    variant = name


variant = ""
"""The instruction set that kernels run with; empty if there are no compiled kernels, or they were not wanted."""


reason = ""
"""Why compiled kernels are missing, or don't use the best instruction set; empty if they use the best."""


def _begin() -> None:
    global reason  # noqa: PLW0603 -- set once, here
    wanted, there = os.environ.get("MERGEBUILD_NATIVE", ""), variants()
    is_known = wanted in ("", "0", *there)
    reason = UNUSABLE or (
        wanted and f"MERGEBUILD_NATIVE={wanted}" + ("" if is_known else ", which this processor lacks")
    )
    if there and wanted != "0":
        choose(wanted if wanted in there else there[0])


_begin()
