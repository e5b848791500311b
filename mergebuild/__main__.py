"""`python -m mergebuild` runs the same program as `mergebuild`.

Python puts the current folder first on its import path. That folder may be an untrusted project with a `click.py` of
its own, so it is removed from the path before anything else is imported.
"""

import os
import sys

try:
    if sys.path[:1] in ([""], [os.getcwd()]):  # noqa: PTH109 -- pathlib must not be imported yet
        del sys.path[0]
except OSError:  # the current folder was deleted: nothing can be imported from it
    del sys.path[0]

from mergebuild.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
