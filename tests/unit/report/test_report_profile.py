"""Where the time of a build went, for people."""

from __future__ import annotations

from mergebuild.report.profile import profile_lines
from mergebuild.system.profile import Seconds


def test_phases_add_up_and_threads_stand_below() -> None:
    threads = {"computing": 9.5, "reading": 0.25, "writing": 1.0, "waiting": 0.0}

    assert profile_lines(Seconds(8.0, {"plan": 1.0, "pass": 6.0, "other": 1.0}, threads)) == [
        "where the time went:",
        "  plan        1.000 s   12 %",
        "  pass        6.000 s   75 %",
        "  other       1.000 s   12 %",
        "  in all      8.000 s",
        "in all threads:",
        "  computing      9.500 s",
        "  reading        0.250 s",
        "  writing        1.000 s",
        "  waiting        0.000 s",
    ]


def test_what_took_no_time_has_no_shares() -> None:
    assert profile_lines(Seconds(0.0, {"other": 0.0}, {}))[1:3] == ["  other       0.000 s", "  in all      0.000 s"]
