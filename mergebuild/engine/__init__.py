"""The pass: source tensors in, every target that wants them out, in one reading and bounded memory."""

from mergebuild.engine.run import DEFAULT_CHUNK, PassResult, run_pass, warm_up
from mergebuild.engine.work import Cluster, Copy, Leaf, OutputFile, Pass, Pending, Place, Step, StepResult

__all__ = [
    "DEFAULT_CHUNK",
    "Cluster",
    "Copy",
    "Leaf",
    "OutputFile",
    "Pass",
    "PassResult",
    "Pending",
    "Place",
    "Step",
    "StepResult",
    "run_pass",
    "warm_up",
]
