"""What should be known of a target and stops nothing is told before the work, once, and stands in its result."""

from __future__ import annotations

from lab import Lab

from mergebuild.events import Notice, PassBegun
from mergebuild.project.stamp import Stamp

SENTENCE = "1 tensor that `q` lacks stays the first input's: 4 B (33 % of `p`), `only`"


def family(lab: Lab) -> None:
    lab.model("p", a=[1.0], b=[1.0], only=[5.0])
    lab.model("q", a=[3.0], b=[3.0])
    lab.write(
        """
        [targets.t]
        method = "weighted_sum"
        a = "p"
        b = "q"
        alpha = "${alpha}"
        foreach.alpha = [0.25, 0.5]
        output = "t-${alpha}.safetensors"
        """
    )


def told(lab: Lab) -> list[str]:
    return [event.text for event in lab.events if isinstance(event, Notice)]


def test_what_many_targets_share_is_told_once_and_before_the_work(lab: Lab) -> None:
    family(lab)
    result = lab.build()
    assert [each.notices for each in result.targets] == [(SENTENCE,)] * 2
    assert told(lab) == [f"`t@alpha=0.25` and 1 more: {SENTENCE}"]
    kinds = [type(event) for event in lab.events]
    assert kinds.index(Notice) < kinds.index(PassBegun)


def test_json_has_the_notices_of_build_and_plan_and_of_plan_as_notes_too(lab: Lab) -> None:
    family(lab)
    planned = lab.project.plan().to_json()["targets"]
    assert isinstance(planned, list)
    assert [(each["notices"], each["notes"]) for each in planned] == [([SENTENCE], [SENTENCE])] * 2
    built = lab.build().to_json()["targets"]
    assert isinstance(built, list)
    assert [each["notices"] for each in built] == [[SENTENCE]] * 2


def test_what_is_up_to_date_is_told_of_no_more_and_stands_in_its_result(lab: Lab) -> None:
    family(lab)
    lab.build()
    lab.events.clear()
    assert [each.notices for each in lab.build().targets] == [(SENTENCE,)] * 2
    assert told(lab) == []
    assert [each.notices for each in lab.project.plan().targets] == [(SENTENCE,)] * 2
    stamp = Stamp(lab / "mergefile.toml", (), None, ())
    lab.settle()
    lab.build()
    answer = stamp.answer()
    assert answer is not None
    assert [each.notices for each in answer.targets] == [(SENTENCE,)] * 2
