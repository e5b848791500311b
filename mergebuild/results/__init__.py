"""What the verbs answer, as plain values: `build.py` of a build, `looks.py` of the commands that only look."""
