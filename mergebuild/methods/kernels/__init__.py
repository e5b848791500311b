"""The arithmetic of the methods in torch, on chunks of tensors. Only this folder and `engine/` import torch.

Begin with `kernel.py`, which says what a kernel is. A module has the kernels of one family of methods in `KERNELS`, by
the methods' names. Shared parts, which give the same bits on every machine: sums in `reduction.py`, the r largest in
`selection.py`, random numbers in `randomness.py`, roots, angles and logarithms in `roots.py`, `angles.py`,
`elementary.py`.
"""
