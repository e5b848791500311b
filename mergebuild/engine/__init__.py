"""The pass: source tensors in, every target that wants them out, in one reading and bounded memory."""

from mergebuild.engine.run import (
    DEFAULT_CHUNK,
    PassResult,
    check_device,
    check_program,
    needs_memory,
    run_pass,
    warm_up,
)
from mergebuild.engine.work import (
    Cluster,
    Copy,
    Leaf,
    Operation,
    OutputFile,
    Pass,
    Pending,
    Place,
    Step,
    StepResult,
    Survey,
    Surveyed,
)

__all__ = [
    "DEFAULT_CHUNK",
    "Cluster",
    "Copy",
    "Leaf",
    "Operation",
    "OutputFile",
    "Pass",
    "PassResult",
    "Pending",
    "Place",
    "Step",
    "StepResult",
    "Survey",
    "Surveyed",
    "check_device",
    "check_program",
    "needs_memory",
    "run_pass",
    "warm_up",
]
