"""A build says where its time went when that is asked for, also one that is refused."""

from __future__ import annotations

import pytest
from lab import Lab

from mergebuild.errors import MergeBuildError


@pytest.fixture
def copied(lab: Lab) -> Lab:
    lab.model("x", w=[1.0, 2.0, 3.0])
    lab.write('[targets.t]\nmethod = "copy"\na = "x"\noutput = "t.safetensors"\n')
    return lab


def test_a_result_has_a_profile_when_it_is_asked_for(copied: Lab) -> None:
    assert copied.project.build(["t"]).profile is None

    found = copied.project.build(["t"], profile=True).profile

    assert found is not None
    assert {"plan", "other"} <= found.phases.keys()
    assert sum(found.phases.values()) == pytest.approx(found.total)


def test_what_is_refused_says_where_the_time_went(copied: Lab) -> None:
    (copied.root / "x.safetensors").unlink()

    with pytest.raises(MergeBuildError) as caught:
        copied.project.build(["t"], profile=True)

    assert caught.value.result is not None
    assert caught.value.result.profile is not None
