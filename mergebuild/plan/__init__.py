"""Decides, without computing, what must be done to each target, and says why.

Begin with `plan.py`, which says what a plan is, then `planner.py`, which makes one. `tensors.py` gives every tensor its
digest, `output_files.py` lays files out, `manifest.py`, `metadata.py` and `freshness.py` say what a target was made of,
`built_keys.py` and `explanation.py` what a tensor of it was made of, for the store and for people.
May import what knows targets, sources and the store; never the engine.
"""
