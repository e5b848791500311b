"""The benchmarks are no part of the installed package: their folder is the repository's."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
