"""The pass: source tensors in, every target that wants them out, in one reading and bounded memory.

Begin with `work.py`, which says what a pass is given, then `schedule.py`, which cuts it into jobs, and `run.py`, which
does them. torch is imported by the modules that compute, once something must be computed. May import methods, formats
and the system; it knows no target and no plan. Nothing is imported here, so that what only asks for the bounds of
memory (`bounds.py`) loads nothing else.
"""
