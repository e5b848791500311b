"""Decides what must be done for each target, and why, without computing tensors.

Begin with `plan.py`, which says what a plan is, then `planner.py`, which makes one in three steps:

- `describe.py` makes a `Description` of each target: `tensors.py` gives every tensor its digest, `output_files.py` lays
  files out.
- `judge.py` makes a `Judgement`: it compares the description with the output, the store and the last build.
- `weigh.py` makes an `Action`: what is computed, copied or restored, given the actions before it. `actions.py` has
  these values.

`manifest.py`, `metadata.py` and `freshness.py` say what a target was made from; `built_keys.py` and `explanation.py`
say that of a single tensor, for the store and for people.

May import fold, sources, the recipe and the store; never the engine.
"""
