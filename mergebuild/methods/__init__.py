"""The merge methods: what each is called, takes and does, and the arithmetic that makes a tensor of its inputs.

Begin with `method.py` (a row of the catalog: inputs, parameters, formula) and `making.py` (the kinds of methods, and
what each must answer to the fold, the plan and the engine). `tables/` has the rows, and `catalog.py` all of them by
name.

- `kernels/` is the arithmetic in torch, and imports it; nothing else in this room does.
- `compiled/` says which methods have a compiled form, and calls `mergebuild.native`.
- `scopes/` says which tensors a method must see together.
- Every other module has numbers that the torch form and the compiled form of a method both need.

May import LoRAs, formats, names, keys and digests; never a recipe, a source or the engine.
"""
