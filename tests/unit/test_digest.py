"""Laws of identity: what a digest must see, and what it must not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lab import Lab

from mergebuild.digest import ArtifactDigests, artifact_digest, checksum, source_tensor_digest

SHAPE = st.lists(st.integers(0, 99), max_size=3).map(tuple)
TENSOR = st.tuples(
    st.text("a[]: 1,", max_size=5), st.sampled_from(["float16", "float32"]), SHAPE, st.binary(min_size=16, max_size=16)
)


@given(
    st.lists(TENSOR, max_size=3, unique_by=lambda each: each[0]),
    st.lists(TENSOR, max_size=3, unique_by=lambda each: each[0]),
)
def test_an_artifact_is_a_set_of_tensors(
    one: list[tuple[str, str, tuple[int, ...], bytes]], other: list[tuple[str, str, tuple[int, ...], bytes]]
) -> None:
    """Order does not matter; every name, dtype, shape and digest does."""
    assert artifact_digest(one) == artifact_digest(reversed(one))
    assert (artifact_digest(one) == artifact_digest(other)) == (sorted(one) == sorted(other))


@given(SHAPE, SHAPE)
def test_a_source_tensor_is_dtype_shape_and_bytes(one: tuple[int, ...], other: tuple[int, ...]) -> None:
    bytes_ = checksum(b"1234")
    assert (source_tensor_digest("float32", one, bytes_) == source_tensor_digest("float32", other, bytes_)) == (
        one == other
    )
    assert source_tensor_digest("float32", one, bytes_) != source_tensor_digest("int32", one, bytes_)
    assert source_tensor_digest("float32", one, bytes_) != source_tensor_digest("float32", one, checksum(b"1235"))


@given(st.dictionaries(st.text(max_size=3), st.tuples(st.integers(0, 9), st.binary(min_size=16, max_size=16))))
def test_an_artifact_is_its_tensors_in_any_order(drawn: dict[str, tuple[int, bytes]]) -> None:
    tensors = [(name, "float16", (count,), digest) for name, (count, digest) in drawn.items()]
    shape = ArtifactDigests([each[:3] for each in reversed(tensors)])
    assert shape.of([each[3] for each in reversed(tensors)]) == artifact_digest(tensors)


# Of whole targets

MIX = '[targets.{t}]\nmethod = "weighted_sum"\na = "{a}"\nb = "{b}"\nalpha = {alpha}\noutput = "{out}"\n{extra}\n'


def artifact(lab: Lab) -> str:
    (found,) = lab.build().targets
    assert found.artifact
    return found.artifact


def base(lab: Lab, **changes: str) -> str:
    """Build one mix and return its artifact digest."""
    facts = {"t": "mix", "a": "one", "b": "two", "alpha": "0.3", "out": "out/mix.safetensors", "extra": ""} | changes
    lab.model("one", w=[1.0, 2.0], v=[3.0], i=torch.tensor([1]))
    lab.model("two", w=[5.0, 7.0], v=[4.0], i=torch.tensor([2]))
    lab.write(MIX.format(**facts))
    return artifact(lab)


def test_names_paths_order_and_comments_are_in_no_digest(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same proportions of the same content are the same artifact, whatever it is called and wherever it lies."""
    found = base(lab)
    other = Lab(tmp_path_factory.mktemp("other"))
    other.model("zwei", file="deep/b.safetensors", i=torch.tensor([2]), v=[4.0], w=[5.0, 7.0])
    other.model("eins", file="deep/a.safetensors", v=[3.0], w=[1.0, 2.0], i=torch.tensor([1]))
    text = '# a comment\n[targets.other]\noutput = "x/y.safetensors"\nalpha = 3e-1\n'
    text += 'b = "zwei"\na = "eins"\nmethod = "weighted_sum"\n'
    other.write(text)
    assert artifact(other) == found
    assert (other / "x/y.safetensors").read_bytes() == (lab / "out/mix.safetensors").read_bytes()


CHANGES: dict[str, Callable[[Lab], str]] = {
    "alpha": lambda lab: base(lab, alpha="0.31"),
    "alpha of one tensor": lambda lab: base(lab, alpha="{ default = 0.3, v = 0.4 }"),
    "order of the inputs": lambda lab: base(lab, a="two", b="one"),
    "dtype": lambda lab: base(lab, extra='dtype = "float16"'),
    "a tensor dropped": lambda lab: base(lab, extra='drop = ["v"]'),
    "a tensor not merged": lambda lab: base(lab, extra='merge = ["w"]'),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_what_is_made_is_in_the_digest(lab: Lab, change: str) -> None:
    assert base(lab) != CHANGES[change](lab)


@pytest.mark.parametrize(
    "tensors",
    [
        {"w": [1.0, 2.5], "v": [3.0], "i": torch.tensor([1])},
        {"w": [1.0, 2.0], "v": [3.0], "i": torch.tensor([3])},
        {"w": [1.0, 2.0], "v": [3.0], "i": torch.tensor([1], dtype=torch.int32)},
        {"w": torch.tensor([1.0, 2.0], dtype=torch.float64), "v": [3.0], "i": torch.tensor([1])},
        {"w": [1.0, 2.0], "i": torch.tensor([1])},
        {"w": [1.0, 2.0], "v": [3.0], "u": [3.0], "i": torch.tensor([1])},
    ],
)
def test_every_change_of_an_input_is_in_the_digest(lab: Lab, tensors: dict[str, torch.Tensor]) -> None:
    found = base(lab)
    lab.settle()
    lab.model("one", **tensors)
    assert artifact(lab) != found


def test_the_same_bytes_in_another_file_are_the_same_source(lab: Lab) -> None:
    """A source is its content: a copy in place of it changes nothing but is read again."""
    found = base(lab)
    lab.settle()
    data = (lab / "one.safetensors").read_bytes()
    (lab / "one.safetensors").unlink()
    (lab / "one.safetensors").write_bytes(data)
    assert artifact(lab) == found
    assert lab.verdicts() == {"mix": "up-to-date"}
