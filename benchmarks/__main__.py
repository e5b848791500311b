"""`python -m benchmarks`: run cases, show results, or compare two of them."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.arms import remove
from benchmarks.cases import CASES, Case, Round
from benchmarks.lab import PEERS, Lab
from benchmarks.process import ProcessFailedError
from benchmarks.results import compare, markdown, missed, summary, table

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    The code is 1 for a case that failed, for a regression, and with `--check` for a missed bound.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    verbs: Mapping[str, Callable[[Sequence[str]], int]] = {"compare": _compare, "show": _show}
    return verbs[words[0]](words[1:]) if words and words[0] in verbs else _run(words)


def _run(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure mergebuild beside cp, dd, ninja, sd-mecha and mergekit, in turn, as whole processes.",
        epilog="`compare A.json B.json` shows what changed from A to B; `show A.json [--markdown]` what A holds.",
    )
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--case", action="append", choices=CASES, metavar="NAME", help="only this one; repeatable")
    parser.add_argument("--runs", type=_count, default=5, metavar="N", help="rounds of every case (default 5)")
    parser.add_argument("--peer-runs", type=int, metavar="N", help="rounds in which sd-mecha and mergekit run (all)")
    parser.add_argument("--work", type=Path, help="folder to work in, kept; else a temporary one. All cases: 75 GB")
    parser.add_argument("--python", default=sys.executable, help="the Python that runs mergebuild, with its packages")
    parser.add_argument("--shrink", type=_count, default=1, metavar="N", help="divide every dimension, for trying out")
    parser.add_argument("--json", type=Path, default=Path("benchmarks.json"), help="where results go")
    parser.add_argument("--markdown", action="store_true", help="print tables as in docs/figures")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a figure misses its bound")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(f"{case.name:20}  {case.title}" for case in CASES.values()))
        return 0
    if options.peer_runs is None:
        options.peer_runs = options.runs
    with tempfile.TemporaryDirectory(prefix="mergebuild-benchmarks-") as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        python = str(Path(options.python).absolute()) if os.sep in options.python else options.python
        document = _measure(options, Lab(work, python, options.shrink))
    print((markdown if options.markdown else table)(document))
    return 1 if document["failed"] or (options.check and missed(document)) else 0


def _measure(options: argparse.Namespace, lab: Lab) -> dict[str, Any]:
    document: dict[str, Any] = {
        "version": 1,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(lab),
        "options": {"runs": options.runs, "peer_runs": options.peer_runs, "shrink": options.shrink},
        "cases": {},
        "failed": {},
    }
    lab.compile()
    with lab.closing:
        for name in options.case or CASES:
            try:
                rounds = _rounds(CASES[name], lab, options.runs, options.peer_runs)
                document["cases"] |= {name: summary(CASES[name], rounds)} if rounds else {}
            except ProcessFailedError as error:
                document["failed"][name] = str(error)
                _say(f"{name}: failed\n{error}")
            # Written after every case, so that a run of hours that is interrupted leaves its results so far.
            options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return document


def _rounds(case: Case, lab: Lab, runs: int, peer_runs: int) -> list[Round]:
    """Run a case's arms in turn, and return a result per round; none if this machine can't run the case."""
    folder = lab.work / "cases" / case.name
    remove([folder])
    folder.mkdir(parents=True)
    _say(f"{case.name}: making ready")
    arms = case.arms(lab, folder)
    rounds = []
    for number in range(runs if arms else 0):
        found = Round()
        for arm in arms:
            if not arm.is_peer or number < peer_runs:
                found[arm.name] = arm.run(number, folder / "log")
                _say(f"{case.name} {number + 1}/{runs}  {arm.name}: {found[arm.name].seconds:.3f} s")
        rounds.append(found)
    if not arms:
        _say(f"{case.name}: left out, this machine can't run it")
    remove([folder])
    return rounds


def _machine(lab: Lab) -> dict[str, object]:
    """Return facts about the machine that results depend on; none of them identifies it."""
    processors = [
        line for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if "model name" in line
    ]
    return {
        "processor": processors[0].partition(":")[2].strip() if processors else platform.machine(),
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "file_system": _file_system(lab.work),
        "peers": PEERS,
    }


def _file_system(path: Path) -> str:
    """Return the type of the file system that a path is on."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    return max((len(at), kind) for _, at, kind, *_ in mounts if path.is_relative_to(at))[1]


def _compare(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.1, help="worse by this share is a regression (0.1)")
    options = parser.parse_args(arguments)
    changes = compare(_load(options.before), _load(options.after), options.tolerance)
    for case, label, was, now, worse in changes:
        share = f"{now / was - 1:+7.1%}" if was else "       "
        print(f"{case:20}  {label:50}  {was:14,.3f}  {now:14,.3f}  {share}{'  REGRESSION' if worse else ''}")
    return 1 if any(worse for *_, worse in changes) else 0


def _show(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks show")
    parser.add_argument("results", type=Path)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    print((markdown if options.markdown else table)(_load(options.results)))
    return 0


def _load(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if document.get("version") != 1:
        raise SystemExit(f"{path} is of another version")
    return document


def _count(word: str) -> int:
    number = int(word)
    if number < 1:
        raise ValueError(word)
    return number


def _say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
