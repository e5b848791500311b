"""A plan says of single tensors whether they are computed, copied, held or shared, and from where."""

from __future__ import annotations

import pytest
from lab import Lab

from mergebuild.results.build import TargetResult, Verdict
from mergebuild.results.tensor_work import How

MIX = """
[targets.mix]
method = "weighted_sum"
a = "x"
b = "y"
alpha = {{ default = {v}, w = {w} }}
output = "mix.safetensors"
"""


@pytest.fixture
def pair(lab: Lab) -> Lab:
    """Two sources that differ in `v` and `w`, and share `same`."""
    lab.model("x", same=[1.0, 2.0], v=[1.0, 3.0], w=[1.0, 2.0, 3.0])
    lab.model("y", same=[1.0, 2.0], v=[2.0, 4.0], w=[4.0, 5.0, 6.0])
    return lab


def planned(lab: Lab, target: str, most: int | None = None) -> TargetResult:
    (found,) = [each for each in lab.project.plan(tensors=most).targets if each.target == target]
    return found


def work(lab: Lab, target: str = "mix") -> dict[str, tuple[str, ...]]:
    """Return how each tensor comes about, then from where."""
    found = planned(lab, target).tensors
    assert found is not None
    return {each.tensor: (str(each.how), *each.origins) for each in found}


def test_what_is_equal_in_all_inputs_is_copied_and_the_rest_computed(pair: Lab) -> None:
    pair.write(MIX.format(v=0.5, w=0.5))

    assert work(pair) == {
        "same": ("copied", "source x"),
        "v": ("computed", "source x", "source y"),
        "w": ("computed", "source x", "source y"),
    }


def test_rows_add_up_to_the_counts_of_the_target(pair: Lab) -> None:
    pair.write(MIX.format(v=0.5, w=0.5))

    found = planned(pair, "mix")
    assert found.tensors is not None
    assert sum(each.how is How.COMPUTED for each in found.tensors) == found.tensors_computed
    assert sum(each.how is not How.COMPUTED for each in found.tensors) == found.tensors_reused
    assert sum(each.bytes for each in found.tensors) == 4 * (2 + 2 + 3)


def test_what_the_last_build_made_and_is_wanted_still_is_held_by_its_output(pair: Lab) -> None:
    pair.write(MIX.format(v=0.5, w=0.5))
    pair.build()
    pair.write(MIX.format(v=0.5, w=0.25))

    assert work(pair) == {
        "same": ("copied", "source x"),
        "v": ("held", "mix.safetensors"),
        "w": ("computed", "source x", "source y"),
    }


def test_what_an_earlier_target_computes_is_shared_and_a_target_that_is_another_is_held_by_it(pair: Lab) -> None:
    again = MIX.format(v=0.5, w=0.25).replace("mix", "more")
    twin = MIX.format(v=0.5, w=0.5).replace("mix", "twin")
    pair.write(MIX.format(v=0.5, w=0.5) + again + twin)

    assert work(pair, "more")["v"] == ("shared", "target mix")
    assert work(pair, "more")["w"] == ("computed", "source x", "source y")
    assert work(pair, "twin") == dict.fromkeys(("same", "v", "w"), ("held", "target mix"))


def test_a_tensor_of_another_name_and_one_of_a_target_are_named(pair: Lab) -> None:
    pair.model("z", same=[1.0, 2.0], v=[1.0, 3.0], w=[0.0, 0.0, 1.0])
    pair.write(
        MIX.format(v=0.5, w=0.5)
        + """
        [targets.top]
        method = "add"
        a = "mix"
        b = "z"
        output = "top.safetensors"
        """
    )

    assert work(pair, "top")["w"] == ("computed", "target mix", "source z")


def test_what_is_restored_is_held_by_the_artifact_that_has_it(pair: Lab) -> None:
    """A path in the store is shown as it is, below the project."""
    pair.write('[project]\nlink = "hard"\n#sources' + MIX.format(v=0.5, w=0.5))
    pair.build()
    (pair / "mix.safetensors").unlink()

    found = planned(pair, "mix")
    assert found.verdict is Verdict.RESTORE
    ((how, where),) = set(work(pair).values())
    assert how == "held"
    assert where.startswith(".mergebuild/kept/")


def test_of_sources_never_hashed_it_is_what_the_forms_say(pair: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether two sources share a tensor is not known then; that one is rounded is."""
    monkeypatch.setattr("mergebuild.plan.describe.SMALL", 0)
    pair.write(MIX.format(v=0, w=0.5))

    assert work(pair) == {
        "same": ("copied", "source x"),
        "v": ("copied", "source x"),
        "w": ("computed", "source x", "source y"),
    }
    pair.write(MIX.format(v=0, w=0.5) + 'dtype = "float16"\n')
    assert work(pair)["v"] == ("computed", "source x")


def test_of_what_is_up_to_date_or_blocked_there_is_nothing_to_say(pair: Lab) -> None:
    pair.write(MIX.format(v=0.5, w=0.5))
    pair.build()
    assert planned(pair, "mix").tensors == ()

    pair.write(MIX.format(v=0.25, w=0.5))
    (pair / "mix.safetensors").write_bytes(b"mine")

    assert planned(pair, "mix").verdict is Verdict.BLOCKED
    assert planned(pair, "mix").tensors == ()


def test_only_so_many_are_told_as_are_asked_for(pair: Lab) -> None:
    pair.write(MIX.format(v=0.5, w=0.5))

    found = planned(pair, "mix", most=1).tensors
    assert found is not None
    assert len(found) == 1
    assert planned(pair, "mix", most=0).tensors is None
    assert "tensors" not in pair.project.plan().to_json()["targets"][0]  # type: ignore[index]
