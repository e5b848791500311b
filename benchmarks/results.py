"""Results of a run: medians and figures, as JSON and as tables, and what got worse since another run.

The JSON document:

    {"version": 1, "made": ISO time, "machine": {...}, "options": {...},
     "cases": {CASE: {"title": str,
                      "arms": {ARM: {"median": MEASURES, "runs": [MEASURES + {"extra": {...}}]}},
                      "figures": [{"label", "median", "rounds": [float], "at_most", "at_least", "holds"}]}},
     "failed": {CASE: str}}

MEASURES are `seconds`, `cpu_seconds`, and in bytes `anonymous`, `resident`, `read` and `written`, as in
`process.Sample`; `failed` has the error texts of the cases that failed. A missing bound is null; if a figure has none,
`holds` is null too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarks.cases import OURS, Case, Figure, NotRunError, Round

__all__ = ["Change", "compare", "markdown", "missed", "summary", "table"]

MEASURES = ("seconds", "cpu_seconds", "anonymous", "resident", "read", "written")
_COMPARED = ("seconds", "anonymous", "read", "written")
_SLACK = {"seconds": 0.02, "anonymous": 8 << 20, "read": 1 << 20, "written": 1 << 20}
"""Differences up to these are ignored, even if they are a large share."""

Change = tuple[str, str, float, float, bool]
"""Case, measure or figure, its median before and after, and whether that is a regression."""


def summary(case: Case, rounds: Sequence[Round]) -> dict[str, Any]:
    """Return a case's part of the JSON document."""
    names = dict.fromkeys(name for each in rounds for name in each)
    arms = {}
    for name in names:
        runs = [asdict(each[name]) for each in rounds if name in each]
        arms[name] = {"median": {key: median(run[key] for run in runs) for key in MEASURES}, "runs": runs}
    figures = [_figure(figure, rounds) for figure in case.figures]
    return {"title": case.title, "arms": arms, "figures": [each for each in figures if each["rounds"]]}


def _figure(figure: Figure, rounds: Sequence[Round]) -> dict[str, Any]:
    values = []
    for each in rounds:
        try:
            values.append(figure.of(each))
        except NotRunError:
            continue
    middle = median(values) if values else None
    bounded = middle is not None and (figure.at_most is not None or figure.at_least is not None)
    return {
        "label": figure.label,
        "median": middle,
        "rounds": values,
        "at_most": figure.at_most,
        "at_least": figure.at_least,
        "holds": figure.holds(middle) if bounded and middle is not None else None,
    }


def compare(before: Mapping[str, Any], after: Mapping[str, Any], tolerance: float = 0.1) -> list[Change]:
    """Return the changes between two documents, for the cases and arms that both have.

    A change is a regression if it is worse by more than the tolerance, and worse than the worst run before. Times and
    bytes are compared for our own arms, where less is better; figures are compared in the direction of their bound.
    """
    changes: list[Change] = []
    for name, case in after["cases"].items():
        old = before["cases"].get(name)
        if old is None:
            continue
        for arm in (arm for arm in case["arms"] if arm.startswith(OURS) and arm in old["arms"]):
            for key in _COMPARED:
                was = [run[key] for run in old["arms"][arm]["runs"]]
                now = case["arms"][arm]["median"][key]
                changes.append((name, f"{arm}: {key}", median(was), now, _is_worse(was, now, tolerance, _SLACK[key])))
        known = {figure["label"]: figure for figure in old["figures"]}
        for figure in (figure for figure in case["figures"] if figure["label"] in known):
            was, now, sign = known[figure["label"]]["rounds"], figure["median"], -1 if figure["at_least"] else 1
            worse = _is_worse([sign * value for value in was], sign * now, tolerance, 0.0)
            changes.append((name, figure["label"], median(was), now, worse))
    return changes


def _is_worse(was: Sequence[float], now: float, tolerance: float, slack: float) -> bool:
    """Return whether a value exceeds the median of earlier ones by more than tolerance and slack, and all of them."""
    usual = median(was)
    return now > usual + max(tolerance * abs(usual), slack) and now > max(was)


def table(document: Mapping[str, Any]) -> str:
    """Return the results as text for people: every arm's medians, and below them the figures."""
    lines: list[str] = []
    for name, case in document["cases"].items():
        lines += ["", f"{name}: {case['title']}"]
        rows = [("", "n", "seconds", "cpu", "anonymous", "resident", "read", "written")]
        for arm, found in case["arms"].items():
            middle = found["median"]
            sizes = (_size(middle[key]) for key in ("anonymous", "resident", "read", "written"))
            times = f"{middle['seconds']:.3f}", f"{middle['cpu_seconds']:.3f}"
            rows.append((arm, str(len(found["runs"])), *times, *sizes))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for first, *rest in rows:
            lines.append("  ".join(["", f"{first:{widths[0]}}", *map(str.rjust, rest, widths[1:])]))
        lines += [f"    {each['label']}: {_number(each)}{_verdict(each)}" for each in case["figures"]]
    return "\n".join(lines[1:])


def markdown(document: Mapping[str, Any]) -> str:
    """Return the results as tables for `docs/figures`: one with a row per figure, one with a row per arm."""
    lines = ["| case | figure | median | bound | |", "|---|---|---|---|---|"]
    for case in document["cases"].values():
        title = case["title"]
        for each in case["figures"]:
            held = {True: "holds", False: "**missed**", None: ""}[each["holds"]]
            lines.append(f"| {title} | {each['label']} | {_number(each)} | {_bound(each)} | {held} |")
            title = ""
    lines += [
        "",
        "| case | process | seconds | anonymous | resident | read | written |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for case in document["cases"].values():
        title = case["title"]
        for arm, found in case["arms"].items():
            middle = found["median"]
            sizes = [_size(middle[key]) for key in ("anonymous", "resident", "read", "written")]
            lines.append(f"| {title} | {arm} | {middle['seconds']:.2f} | {' | '.join(sizes)} |")
            title = ""
    return "\n".join(lines)


def missed(document: Mapping[str, Any]) -> bool:
    """Return whether any figure misses its bound."""
    return any(figure["holds"] is False for case in document["cases"].values() for figure in case["figures"])


def _number(figure: Mapping[str, Any]) -> str:
    return _size(figure["median"]) if figure["label"].endswith(", bytes") else f"{figure['median']:.3g}"


def _bound(figure: Mapping[str, Any]) -> str:
    bounds = (("at least", figure["at_least"]), ("at most", figure["at_most"]))
    return ", ".join(f"{word} {_number({**figure, 'median': value})}" for word, value in bounds if value is not None)


def _verdict(figure: Mapping[str, Any]) -> str:
    return "" if figure["holds"] is None else f"  ({'holds' if figure['holds'] else 'MISSED'}: {_bound(figure)})"


def _size(count: float) -> str:
    """Return bytes as people read them, in powers of ten."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
