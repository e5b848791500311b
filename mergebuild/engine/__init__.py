"""The pass: source tensors in, every target that wants them out, in one reading and bounded memory."""

from mergebuild.engine.run import run_pass
from mergebuild.engine.work import Cluster, Copy, Leaf, OutputFile, Pass, Pending, Place, Step, StepResult

__all__ = ["Cluster", "Copy", "Leaf", "OutputFile", "Pass", "Pending", "Place", "Step", "StepResult", "run_pass"]
