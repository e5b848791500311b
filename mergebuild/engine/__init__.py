"""The pass: reads source tensors once and writes all targets that are made of them, in limited memory.

Begin with `work.py`: it has the values that a pass is given (`Leaf`, `Step`, `Copy`). `schedule.py` cuts a pass into
jobs; `run.py` runs it with a `Crew` of threads (`crew.py`).

- `compiled.py` computes clusters with compiled kernels; `worker.py`, `makers.py` and `looking.py` do so with torch, on
  devices too (`choice.py`, `devices.py`, `transfers.py`, `hands.py`).
- `first_sight.py` and `unseen.py` handle tensors that are hashed in the same pass.
- `mappings.py` and `prefetch.py` read files; `outputs.py` and `copying.py` write them.

May import methods, formats and the system; it knows no target and no plan. torch is imported by modules that compute,
once something must be computed. Nothing is imported in this file, so that code which only asks for the bounds of memory
(`bounds.py`) loads little.
"""
