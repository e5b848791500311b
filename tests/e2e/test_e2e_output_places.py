"""Where outputs may not lie, and where it is as well to know that they do."""

from __future__ import annotations

import pytest
from project_space import Space

GOOD = """
[sources]
one = "one.safetensors"
two = "two.safetensors"

[targets.good]
formula = "0.5*one + 0.5*two"
output = "out/good.safetensors"
"""


def test_outputs_that_differ_in_the_case_of_letters_are_told_of(pair: Space) -> None:
    """Where a disk does not tell them apart, they are one file."""
    pair.write(GOOD + '[targets.also]\nformula = "one"\noutput = "Out/Good.safetensors"\n')

    notes = {each["target"]: each["notes"] for each in pair.plan().document["targets"]}

    assert notes["good"] == [
        "on a disk that ignores the case of letters its output is that of `also`, `Out/Good.safetensors`"
    ]
    assert notes["also"] == [
        "on a disk that ignores the case of letters its output is that of `good`, `out/good.safetensors`"
    ]
    assert "ignores the case of letters" in pair.run("plan").out
    assert "ignores the case of letters" in pair.run("build").out


@pytest.mark.parametrize(
    "path", ["mergefile.lock/", "mergefile.lock/x.safetensors", ".git/x.safetensors", ".mergebuild/"]
)
def test_nothing_is_written_where_the_project_has_its_own_files(pair: Space, path: str) -> None:
    pair.write(GOOD)
    assert pair.refused("build", "good", "-o", path, code=2).errors == ["bad-output"]
    pair.edit("out/good.safetensors", path)
    assert pair.refused("build", code=3).errors == ["bad-output"]


def test_an_output_folder_holds_no_file_of_the_recipe(pair: Space) -> None:
    pair.write("[vars]\nm = 1\n", "styles/loras.toml")
    pair.write('[project]\ninclude = ["styles/loras.toml"]\n' + GOOD.replace("out/good.safetensors", "styles/"))
    assert pair.refused("build", code=3).errors == ["bad-output"]
