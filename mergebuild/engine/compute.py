"""All that computes with torch, and torch itself, loaded without its warnings and set up once: the door to it.

`torch_import.compute_module` is the only one that comes through it. `hands.py` is what a thread computes with,
`worker.py` computes clusters chunk by chunk, `leaves.py` brings what they read, `looking.py` finds out what must be
known of whole tensors first.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

from mergebuild.engine.findings import Findings
from mergebuild.system import platform

warnings.filterwarnings("ignore", "Failed to initialize NumPy")  # in whichever thread it is noticed
with warnings.catch_warnings():
    # NumPy is not needed, and its absence not worth a warning; that mapped files cannot be written is what we want.
    warnings.simplefilter("ignore")
    import torch

    from mergebuild.engine.choice import Choice, Rates, chosen
    from mergebuild.engine.devices import device_named
    from mergebuild.engine.hands import Hands
    from mergebuild.engine.makers import kernel_of, memory_for
    from mergebuild.engine.worker import Worker

    # What torch looks up when it first converts values it looks up here, where a failure is known to be torch's own.
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
    """Return what gives back how fast this machine is; measured, and kept, when that is not known."""

    def rates(key: bytes, measure: Callable[[], Rates]) -> Rates:
        known = findings.get(key)
        if known is None:
            findings.put(key, known := tuple(measure()))
        return Rates(*known)

    return rates
