"""Does what a plan says: restores what exists whole, computes the rest in passes of the engine, publishes each file.

Begin with `builder.py`, which has the order; `context.py` has what the other parts share.

- `waves.py` divides files into waves, `pass_work.py` turns a wave into the work of one pass, and `passes.py` runs and
  publishes it.
- `first_sight.py` does so for sources that are hashed while they are merged.
- `restoring.py` restores whole artifacts; `places.py` and `folders.py` publish files and folders.
- `outcomes.py` has the results; `failures.py` the texts of what can go wrong; `temporaries.py` the temporary files.

May import the engine, the plan and everything below it; never a project or the command line.
"""
