"""`python -m mergebuild` is the same program as `mergebuild`.

Python puts the folder that one stands in before all others that it imports from. That folder may be a stranger's
project, whose `click.py` nobody has trusted: it is taken out before anything is imported.
"""

import os
import sys

try:
    if sys.path[:1] in ([""], [os.getcwd()]):  # noqa: PTH109 -- to import pathlib is what must not be done here
        del sys.path[0]
except OSError:  # the folder is gone, and so is whatever was in it
    del sys.path[0]

from mergebuild.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
