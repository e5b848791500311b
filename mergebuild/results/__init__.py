"""The answers of the verbs, as plain frozen values: `report` prints them, and `--json` shows their `to_json`.

`build.py` has those of `build` and `plan`, `looks.py` those of all other commands; `quantities.py` writes bytes,
seconds and counts as text. May import errors and what is beside them; this file imports nothing, as a build with
nothing to do starts with `build.py` alone.
"""
