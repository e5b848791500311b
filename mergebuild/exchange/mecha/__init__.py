"""Recipes of sd-mecha: their instructions (`instructions`), the numbers in them, and what they merge as targets.

The library writes primitives: adding a difference is a subtraction and an addition, and so is TIES. `merges` finds the
methods of ours again that were taken apart so; what it finds no method for is a virtual target for each step.
"""
