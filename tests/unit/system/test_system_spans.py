"""What a process is busy with is told as spans that lie inside each other, and costs next to nothing untold."""

from __future__ import annotations

import ast
import threading
from pathlib import Path

import pytest

import mergebuild
from mergebuild.system.profile import Profile
from mergebuild.system.spans import KINDS, Kind, TimeSpan, Track, listening, span, tell_of_the_end

PACKAGE = Path(mergebuild.__file__).parent


class Heard:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.spans: list[tuple[str, TimeSpan]] = []
        self.ends = 0

    def ended(self, track: Track, ended: TimeSpan) -> None:
        self.spans.append((track.name, ended))

    def process_ends(self) -> None:
        self.ends += 1

    @property
    def names(self) -> list[str]:
        return [each.name for _, each in self.spans]


def test_a_span_is_told_when_it_ends_with_its_facts() -> None:
    heard = Heard()

    with listening(heard), span("hash", source="opk", bytes=3):
        pass

    ((thread, found),) = heard.spans
    assert thread == threading.current_thread().name
    assert (found.name, found.kind) == ("hash", Kind.PHASE)
    assert found.facts == {"source": "opk", "bytes": 3}


def test_what_lies_inside_is_told_first_and_counted_in_what_it_lies_in() -> None:
    heard = Heard()

    with listening(heard), span("plan"), span("hash"), span("checksum"):
        pass

    assert heard.names == ["checksum", "hash", "plan"]
    inner, middle, outer = (each for _, each in heard.spans)
    assert (middle.inside, middle.phases) == (inner.took, 0)
    assert (outer.inside, outer.phases) == (middle.took, middle.took)


def test_a_span_that_an_error_ends_says_so() -> None:
    heard = Heard()

    with listening(heard), pytest.raises(ValueError, match="x"), span("pass"):
        raise ValueError("x")

    ((_, found),) = heard.spans
    assert found.facts == {"error": "ValueError"}


def test_without_a_listener_there_is_no_span() -> None:
    """All calls give one and the same context, which does nothing."""
    assert span("pass", targets=3) is span("plan")
    with span("pass"):
        pass


def test_a_span_that_an_interrupt_cut_off_is_no_part_of_what_follows() -> None:
    heard = Heard()

    with listening(heard):
        with span("plan"):
            span("hash").__enter__()  # and its block was never reached
        with span("judge"):
            pass

    assert heard.names == ["plan", "judge"]
    assert heard.spans[-1][1].inside == 0


def test_threads_of_one_name_after_each_other_have_one_row() -> None:
    heard: list[int] = []

    class Rows:
        def ended(self, track: Track, _ended: TimeSpan) -> None:
            heard.append(track.number)

        def process_ends(self) -> None:
            """Nothing."""

    def work() -> None:
        with span("make"):
            pass

    with listening(Rows()):
        for _ in range(2):
            thread = threading.Thread(target=work, name="worker")
            thread.start()
            thread.join()
        work()

    assert heard[0] == heard[1] != heard[2]


def test_who_listens_hears_of_the_end_of_the_process() -> None:
    heard = Heard()

    with listening(heard):
        tell_of_the_end()
    tell_of_the_end()

    assert heard.ends == 1


def test_all_spans_of_the_program_are_in_the_table_and_the_other_way_round() -> None:
    used = {
        node.args[0].value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "span" and node.args
        if isinstance(node.args[0], ast.Constant)
    }

    assert used == KINDS.keys()


# Profiles


def test_phases_and_the_rest_add_up_to_the_total() -> None:
    with Profile() as profile, span("plan"), span("hash"), span("checksum"):
        pass

    found = profile.seconds()
    assert list(found.phases) == ["plan", "hash", "other"]
    assert sum(found.phases.values()) == pytest.approx(found.total)
    assert found.threads.keys() == {"computing", "reading", "writing", "waiting"}
    assert 0 < found.threads["reading"] < found.phases["hash"]


def test_a_second_of_a_thread_counts_once_and_of_its_phases_none() -> None:
    """A write inside of what is made is writing alone; phases are those of the thread that asks."""

    def work() -> None:
        with span("pass"), span("make"), span("write"):
            pass

    with Profile() as profile:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()

    found = profile.seconds()
    assert list(found.phases) == ["other"]
    assert found.threads["computing"] > 0
    assert found.threads["computing"] + found.threads["writing"] < found.total
