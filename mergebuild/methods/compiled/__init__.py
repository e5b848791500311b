"""Methods as compiled kernels make them: which kernel of `native`, with which numbers. No torch, no numpy.

A method here has a torch kernel in `methods/kernels` too, which is the reference: the two give the same bits for every
input, and statistics of the same name have the same values, so that it does not matter which of them took one.
"""
