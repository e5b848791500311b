"""Does what a plan says: restores what exists whole, computes the rest in passes of the engine, publishes each file.

Begin with `builder.py`. `pass_work.py` turns files into the work of one pass, `first_sight.py` does so for sources that
are hashed while they are merged, `failures.py` has the texts of what can go wrong. May import everything below `plan`.
"""
