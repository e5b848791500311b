"""Everything that computes with torch, and torch itself, imported without its warnings and set up once.

Only `torch_import.compute_module` imports this module. `hands.py` is what a thread computes with, `worker.py` computes
clusters chunk by chunk, `leaves.py` reads their inputs, `looking.py` computes statistics and surveys.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

from mergebuild.engine.findings import Findings
from mergebuild.system import platform

warnings.filterwarnings("ignore", "Failed to initialize NumPy")  # in any thread
with warnings.catch_warnings():
    # NumPy isn't needed, so its absence needs no warning; and mapped files are meant to be read-only.
    warnings.simplefilter("ignore")
    import torch

    from mergebuild.engine.choice import Choice, Rates, chosen
    from mergebuild.engine.devices import device_named
    from mergebuild.engine.hands import Hands
    from mergebuild.engine.makers import kernel_of, memory_for
    from mergebuild.engine.worker import Worker

    # The first conversion makes torch load what it needs; here it is clear that a failure is torch's own.
    torch.empty(1).copy_(torch.frombuffer(bytes(2), dtype=torch.float16))
torch.set_num_threads(1)
platform.keep_freed_memory()

__all__ = [
    "Choice",
    "Findings",
    "Hands",
    "Rates",
    "Worker",
    "chosen",
    "device_named",
    "kernel_of",
    "memory_for",
    "rates_in",
]


def rates_in(findings: Findings) -> Callable[[bytes, Callable[[], Rates]], Rates]:
    """Return a function that returns the speed of this machine, from a finding or by measuring."""

    def rates(key: bytes, measure: Callable[[], Rates]) -> Rates:
        known = findings.get(key)
        if known is None:
            findings.put(key, known := tuple(measure()))
        return Rates(*known)

    return rates
