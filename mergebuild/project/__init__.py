"""The verbs: what a command, or a program that imports mergebuild, asks of a project.

Begin with `project.py`: it has `load` and `Project`, whose methods are the verbs. What a verb does is in a module of
its kind: `looking.py` (`plan`, `status`, `why`, `lineage`), `building.py`, `verify.py`, `lock.py`, `clearing.py` (`gc`,
`clean`), `init.py`, `inspect.py`, `trust.py`. They work with a `Session` (`session.py`): sources, store and planner of
one recipe.

- `gate.py` refuses what a build must not do, before any work; `trust.py` knows what the user allows.
- `stamp.py` answers a build with nothing to do without reading the mergefile; `stamping.py` writes what it needs.
- `sweep.py`, `ownership.py` and `source_places.py` decide which files may be removed.

May import everything below it. Nothing is imported in this file: a build with nothing to do needs only `stamp.py`.
"""
