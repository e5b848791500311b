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
    assert "ignores the case of letters" in pair.run("build").err


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


@pytest.mark.parametrize("output", [f"o/{'d' * 256}/", f"{'é' * 122}.safetensors", f"{'d' * 256}/x.safetensors"])
def test_a_name_that_no_disk_takes_is_a_mistake_of_the_text(pair: Space, output: str) -> None:
    """Found on the disk, it would fail every verb over all the other targets too."""
    pair.write(f'{GOOD}[targets.long]\nformula = "one"\noutput = "{output}"\n')
    for command in (("plan",), ("build", "-k"), ("status",), ("clean", "-n"), ("gc", "-n")):
        assert pair.refused(*command, code=3).errors == ["bad-output"]
    pair.write(GOOD)
    assert pair.refused("build", "good", "-o", output, code=2).errors == ["bad-output"]
    assert "disks take at most 255" in pair.run("build", "good", "-o", output, code=2).err


def test_the_longest_name_that_disks_take_is_built(pair: Space) -> None:
    pair.write(GOOD + f'[targets.long]\nformula = "one"\noutput = "{"d" * 255}/{"e" * 243}.safetensors"\n')
    assert pair.build().verdicts == {"good": "built", "long": "built"}
    assert pair.plan().verdicts == {"good": "up-to-date", "long": "up-to-date"}


def test_a_path_that_no_system_takes_is_a_mistake_of_the_text(pair: Space) -> None:
    pair.write(f'{GOOD}[targets.long]\nformula = "one"\noutput = "{"d/" * 2000}x.safetensors"\n')
    assert pair.refused("plan", code=3).errors == ["bad-output"]
    assert "at most 3,840 are taken" in pair.run("plan", code=3).err


def test_an_output_that_differs_from_a_source_in_the_case_of_letters_is_told_of(pair: Space) -> None:
    pair.write(GOOD.replace("out/good", "ONE"))
    assert pair.plan()["good"]["notes"] == [
        "on a disk that ignores the case of letters its output is the source `one`, `one.safetensors`"
    ]


def test_outputs_that_differ_in_how_unicode_composes_them_are_told_of(pair: Space) -> None:
    one, other = "out/é.safetensors", "out/e\N{COMBINING ACUTE ACCENT}.safetensors"
    pair.write(GOOD.replace("out/good.safetensors", one) + f'[targets.also]\nformula = "one"\noutput = "{other}"\n')
    found = pair.plan()
    same = "on a disk that ignores how letters are composed its output is that of"
    assert found["good"]["notes"] == [f"{same} `also`, `{other}`"]
    assert found["also"]["notes"] == [f"{same} `good`, `{one}`"]
