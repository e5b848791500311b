"""The verbs: what a command, or a program that imports mergebuild, asks of a project.

Begin with `project.py`; each other module is one verb or one file that a project keeps. May import everything below.
Nothing is imported here: a build with nothing to do reads `stamp.py` alone.
"""
