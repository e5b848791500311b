"""The compiled forms of methods: for each method, which kernel of `mergebuild.native` makes it, with which numbers.

Each of these methods also has a torch kernel in `methods/kernels`, which is the reference. Both give the same bits for
every input, and their statistics of the same name have the same values, so one form can use what the other found.

Begin with `method.py` (what a compiled form is) and `rows.py` (a short family). `catalog.py` has all forms by name. May
import `mergebuild.native` and the modules of `mergebuild.methods` that have arithmetic for both forms; no torch and no
numpy, so that a build of these methods alone starts without them.
"""
