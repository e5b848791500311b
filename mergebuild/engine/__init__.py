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
    KernelCall,
    Leaf,
    OutputFile,
    OutputRange,
    Pass,
    Pending,
    Step,
    StepResult,
    SurveyedLeaves,
    SurveyJob,
)

__all__ = [
    "DEFAULT_CHUNK",
    "Cluster",
    "Copy",
    "KernelCall",
    "Leaf",
    "OutputFile",
    "OutputRange",
    "Pass",
    "PassResult",
    "Pending",
    "Step",
    "StepResult",
    "SurveyJob",
    "SurveyedLeaves",
    "check_device",
    "check_program",
    "needs_memory",
    "run_pass",
    "warm_up",
]
