"""The public names that a Python file of `[methods.NAME]` may import to define a method of the user's own.

    from mergebuild.kernels import Kernel, lerp

    def my_blend(call, chunks, start, state):
        a, b = chunks
        return lerp(a, b, call.number("alpha"))

    KERNELS = {"my_blend": Kernel(my_blend)}

`Kernel`, `Statistic`, `Grain` and `Call` say what a kernel is. Sums by `Sum`, `Gram`, `ColumnSums` and `vector_sums`,
order statistics by `Selection`, and random numbers by `bernoulli`, `normal` and `bits` do not depend on chunks, threads
or the processor. Raise `UndefinedError` if the method has no value. These names stay stable; names in other modules may
change.
"""

from mergebuild.methods.kernels.blend import lerp
from mergebuild.methods.kernels.kernel import Call, Grain, Kernel, Statistic
from mergebuild.methods.kernels.randomness import bernoulli, bits, normal
from mergebuild.methods.kernels.reduction import ColumnSums, Gram, vector_sums
from mergebuild.methods.kernels.reduction import RunningSum as Sum
from mergebuild.methods.kernels.selection import LargestCut as Cut
from mergebuild.methods.kernels.selection import Selection, magnitude_keys, ordered_keys
from mergebuild.methods.method import UndefinedError
from mergebuild.methods.shares import float32_of

__all__ = [
    "Call",
    "ColumnSums",
    "Cut",
    "Grain",
    "Gram",
    "Kernel",
    "Selection",
    "Statistic",
    "Sum",
    "UndefinedError",
    "bernoulli",
    "bits",
    "float32_of",
    "lerp",
    "magnitude_keys",
    "normal",
    "ordered_keys",
    "vector_sums",
]
