"""Try an installed mergebuild: the example of this repository has the same bytes, whatever makes it.

    python .ci/try_wheel.py [NAME...]

NAME: what `MERGEBUILD_NATIVE` may be; without any, all instruction sets that the processor has, and torch (`0`). The
Python that runs this is the one that mergebuild is installed for. Fails if there are no compiled kernels.
"""

# ruff: noqa: INP001, T201 -- a script, no package

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
PROGRAM = (sys.executable, "-m", "mergebuild")


def built(native: str, folder: Path) -> str:
    """Build the example in a folder of its own and return what its outputs hash to, all together."""
    shutil.copytree(CLONE / "examples/digits", folder / "examples/digits", ignore=shutil.ignore_patterns("out"))
    shutil.copy(CLONE / "mergefile.toml", folder)
    environment = os.environ | {"MERGEBUILD_NATIVE": native}
    subprocess.run([*PROGRAM, "--quiet", "build"], cwd=folder, env=environment, check=True)
    asked = [*PROGRAM, "build", "--json"]
    found = json.loads(subprocess.run(asked, cwd=folder, env=environment, check=True, capture_output=True).stdout)
    outputs = sorted(target["output"] for target in found["targets"] if target["output"])
    assert outputs
    return hashlib.sha256(b"".join((folder / output).read_bytes() for output in outputs)).hexdigest()


def main(names: list[str]) -> None:
    """Build once for each name, and compare."""
    with tempfile.TemporaryDirectory() as scratch:
        code = "import mergebuild.native as native; print(*native.variants())"
        said = subprocess.run(
            [sys.executable, "-c", code], cwd=scratch, check=True, capture_output=True, text=True
        ).stdout
        assert said.split(), "there are no compiled kernels"
        digests = {}
        for name in names or [*said.split(), "0"]:
            digests[name] = built(name, Path(scratch, name))
            print(f"{name:8}{digests[name]}")
    assert len(set(digests.values())) == 1, "not the same bytes"


if __name__ == "__main__":
    main(sys.argv[1:])
