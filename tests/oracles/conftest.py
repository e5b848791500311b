"""Tests against other tools: they need `mergekit` and `sd-mecha`, which only these tests may import."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))  # the driver of kernels, and the cases
