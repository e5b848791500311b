"""The pass: source tensors in, every target that wants them out, in one reading and bounded memory."""

from mergebuild.engine.run import run_pass
from mergebuild.engine.work import Copy, Leaf, OutputFile, Pass, Place, Step, StepResult

__all__ = ["Copy", "Leaf", "OutputFile", "Pass", "Place", "Step", "StepResult", "run_pass"]
