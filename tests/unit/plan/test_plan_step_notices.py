"""What a chain of merges leaves out is told, whether its steps are files or virtual."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st
from planning import Bench, Declared

NAMES = ("u", "v", "w", "x", "y", "z")
SOURCES = {
    f"m{number}": {name: Declared(f"{name} of m{number}", (64,)) for name in NAMES if name != NAMES[number]}
    for number in range(5)
}
"""Models of which each lacks another tensor."""


def chain(inputs: list[str], outputs: list[bool]) -> str:
    """Return a chain of weighted sums, whose last step is a file; `outputs`: whether each of the others is one."""
    before, text = "m0", ""
    for number, (name, written) in enumerate(zip(inputs, [*outputs, True], strict=True)):
        where = f'output = "s{number}.safetensors"\n' if written else ""
        text += f'[targets.s{number}]\nmethod = "weighted_sum"\na = "{before}"\nb = "{name}"\nalpha = 0.5\n{where}'
        before = f"s{number}"
    return text


def told(text: str) -> dict[str, set[str]]:
    """Return the notices of each file."""
    files = [part.partition("]")[0] for part in text.split("[targets.")[1:] if "output" in part]
    with TemporaryDirectory() as folder:
        return {name: set(each.notes) for name, each in Bench(Path(folder), SOURCES).planned(text, *files).items()}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(sorted(SOURCES)[1:]), min_size=1, max_size=4), st.data())
def test_a_chain_tells_the_same_with_any_of_its_steps_virtual(inputs: list[str], data: st.DataObject) -> None:
    steps = len(inputs) - 1
    outputs = data.draw(st.lists(st.booleans(), min_size=steps, max_size=steps))
    apart = told(chain(inputs, [True] * steps))
    found = told(chain(inputs, outputs))
    whole = {sentence for notes in found.values() for sentence in notes}
    names = {f"`{name}`: " for name in apart}
    assert {next((each.removeprefix(name) for name in names if each.startswith(name)), each) for each in whole} == {
        sentence for notes in apart.values() for sentence in notes
    }


def test_a_step_that_is_read_twice_tells_once() -> None:
    text = chain(["m1", "m0"], [False]).replace('b = "m0"', 'b = "s0"')
    with TemporaryDirectory() as folder:
        notes = Bench(Path(folder), SOURCES).planned(text, "s1")["s1"].notes
    lacking = [each for each in notes if "`m1` lacks" in each]
    assert len(lacking) == len(set(lacking)) == 2
    assert all(each.startswith("`s0`: ") for each in lacking)


def test_a_step_that_is_a_file_tells_its_own() -> None:
    found = told(chain(["m1", "m2"], [True]))
    assert not any("`s0`:" in each for each in found["s1"])
