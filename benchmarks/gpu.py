"""`python -m benchmarks.gpu`: do GPU and processor write the same bytes, how fast is each, and how busy is the bus?

It runs from a checkout that is not installed, with any Python that has torch and the packages of `pyproject.toml`.
Outputs go to `--work`, best a folder in memory: it measures the transfer to the device and back, not a disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.arms import SOURCES, Project, remove
from benchmarks.cases import BLEND, DIFFERENCE, target
from benchmarks.lab import REPOSITORY, Lab
from benchmarks.process import ProcessFailedError, parse_counters

__all__ = ["CASES", "equal_files", "every_exact_method", "main"]

SWEEP = "".join(target(f"mix{number}", "weighted_sum", a="a", b="b", alpha=number / 10) for number in range(10))
CASES: Mapping[str, tuple[int, str]] = {
    "weighted_sum": (2, BLEND),
    "add_difference": (3, DIFFERENCE),
    "sweep of 10": (2, SWEEP),
    "ties": (3, target("ties", "ties", base="a", models=["b", "c"], weight=0.5, density=0.2)),
    "slerp": (2, target("slerp", "slerp", a="a", b="b", t=0.3)),
    "extract_lora": (2, target("lora", "extract_lora", base="a", tuned="b", rank=32)),
}
"""By name, the number of models, and the targets."""

_INTERVAL = 0.05
"""Seconds between two samples of a process's memory."""

APPROXIMATE = frozenset({"extract_lora"})
"""Cases whose bytes may differ between devices."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and compare; return 1 if bytes differ that must be equal, 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cuda:0", metavar="DEVICE", help="what is compared with the processor")
    parser.add_argument("--work", type=Path, help="folder to work in, kept; else a temporary one. 60 GB")
    parser.add_argument("--shrink", type=int, default=1, metavar="N", help="divide every dimension of the models")
    parser.add_argument("--equality-shrink", type=int, default=2, metavar="N", help="so for the test of every method")
    parser.add_argument("--case", action="append", choices=[*CASES, "equality"], help="only this one; repeatable")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), help="where results go")
    options = parser.parse_args(arguments)
    machine = _machine(options.device)
    if machine is None:
        return 2
    print(json.dumps(machine), flush=True)
    with tempfile.TemporaryDirectory(prefix="mergebuild-gpu-") as temporary:
        work = (options.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        rows = [
            _case(Lab(work, shrink=options.shrink), name, options.device, machine["bus"])
            for name in CASES
            if name in (options.case or CASES)
        ]
        equal = {}
        if "equality" in (options.case or ["equality"]):
            equal = _equality(Lab(work, shrink=options.equality_shrink), options.device)
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "cases": rows,
        "exact": equal,
    }
    options.json.write_text(json.dumps(result, indent=2), encoding="utf-8")
    print("\n".join(_table(rows, equal)))
    return 1 if any(row["same"] is False for row in rows) or False in equal.values() else 0


def _machine(name: str) -> dict[str, Any] | None:
    """Return facts about the machine, with its rates per second; None, with a message, if there is no such device."""
    import torch

    from mergebuild.engine.choice import measured
    from mergebuild.engine.devices import device_named
    from mergebuild.errors import UsageError

    try:
        device = device_named(name)[0]
    except UsageError as error:
        print(error, file=sys.stderr)
        return None
    kind = torch.cuda.get_device_name(device.place)
    facts = {"gpu": kind, "torch": torch.__version__, "processors": os.cpu_count(), "host": platform.machine()}
    return facts | measured(device)._asdict()


def _case(lab: Lab, name: str, device: str, bus: float) -> dict[str, object]:
    """Build a case on the processor and on the device, and return the comparison.

    `bus`: the bytes per second that the device takes from pinned memory.
    """
    count, text = CASES[name]
    models = lab.models("sdxl", count)
    folders = [lab.work / f"{name.replace(' ', '-')}-{each.replace(':', '')}" for each in ("cpu", device)]
    here, _ = _built(Project(lab, folders[0], models, text), "cpu")
    there, anonymous = _built(Project(lab, folders[1], models, text), device)
    size = sum(model.stat().st_size for model in models)
    same = equal_files(*folders)
    remove(folders)
    row: dict[str, object] = {
        "case": name,
        "processor_seconds": here,
        "device_seconds": there,
        "times": here / there,
        "in_bytes_per_second": size / there,
        "of_the_bus": size / there / bus,
        "anonymous": anonymous,
        "same": None if name in APPROXIMATE else all(same.values()),
    }
    print(json.dumps(row), flush=True)
    return row


def _built(project: Project, device: str) -> tuple[float, int]:
    """Build a project's targets without a store, with its inputs in the page cache.

    It needs less of the operating system than `process.measure`, as sandboxes with a GPU often lack some of that.

    Returns:
        The seconds of the merge itself, and the peak of memory that no file backs (0 if the system does not report it).
    """
    remove([project.folder])
    project.write()
    project.lab.warm(project.models)
    command = project.command("build", "--device", device)
    peak = 0
    with subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        status = Path(f"/proc/{process.pid}/status")
        with ThreadPoolExecutor(1) as reader:
            said = reader.submit(process.communicate)
            while not said.done():
                with suppress(OSError):
                    peak = max(peak, parse_counters(status.read_text(encoding="utf-8")).get("RssAnon", 0))
                time.sleep(_INTERVAL)
            out, err = said.result()
    if process.returncode:
        message = f"{' '.join(command)}\nended with {process.returncode}\n{err[-4000:]}"
        raise ProcessFailedError(message)
    print(err.strip(), file=sys.stderr)
    return sum(each["seconds"] for each in json.loads(out)["targets"]), peak


def every_exact_method() -> Iterator[tuple[str, str]]:
    """Yield the name of each exact method of the catalog with a target that uses it; LoRA methods are left out."""
    from mergebuild.methods.catalog import METHODS

    for name, method in METHODS.items():
        if not method.exact or method.makes.makes_lora or "loras" in method.inputs:
            continue
        left = iter(SOURCES)
        keys: dict[str, object] = {each: next(left) for each in method.inputs if each != "models"}
        if "models" in method.inputs:
            keys["models"] = [
                next(left) for _ in range(max(2 if method.most_models is None else 1, method.least_models))
            ]
        for each in method.parameters:
            if each.default is None:
                number = 1 if each.kind == "integer" else 0.3
                keys[each.name] = each.choices[0] if each.choices else max(number, each.low or number)
        yield name, target(name, name, **keys)


def _equality(lab: Lab, device: str) -> dict[str, bool]:
    """Return for each exact method whether processor and device write the same bytes."""
    targets = dict(every_exact_method())
    if lab.shrink > 1:
        del targets["adjust"]  # it refuses shrunk models, whose latent colors are unknown
    models = lab.models("sd15", 4)
    folders = [lab.work / f"equality-{each.replace(':', '')}" for each in ("cpu", device)]
    for folder, each in zip(folders, ("cpu", device), strict=True):
        _built(Project(lab, folder, models, "\n".join(targets.values())), each)
    found = equal_files(*folders)
    remove(folders)
    return {name: found.get(f"{name}.safetensors", False) for name in targets}


def equal_files(one: Path, other: Path) -> dict[str, bool]:
    """Return, for each safetensors file in either of two folders, whether it has the same bytes in both."""
    names = {path.name for folder in (one, other) for path in folder.glob("*.safetensors")}
    return {name: _equal(one / name, other / name) for name in sorted(names)}


def _equal(one: Path, other: Path) -> bool:
    if not (one.exists() and other.exists()) or one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while piece := first.read(1 << 24):
            if piece != second.read(1 << 24):
                return False
    return True


def _table(rows: Sequence[Mapping[str, object]], equal: Mapping[str, bool]) -> Iterator[str]:
    yield f"{'case':16}{'processor':>11}{'device':>9}{'times':>7}{'GB/s in':>9}{'of the bus':>12}  same bytes"
    for row in rows:
        same = {True: "yes", False: "NO", None: "-"}[row["same"]]  # type: ignore[index]
        yield (
            f"{row['case']:16}{row['processor_seconds']:>9.2f} s{row['device_seconds']:>7.2f} s{row['times']:>7.1f}"
            f"{row['in_bytes_per_second'] / 1e9:>9.1f}{row['of_the_bus']:>12.0%}  {same}"  # type: ignore[operator]
        )
    if equal:
        wrong = [name for name, same in equal.items() if not same]
        yield f"{len(equal) - len(wrong)} of {len(equal)} exact methods have the same bytes" + (
            f"; not: {', '.join(wrong)}" if wrong else ""
        )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ProcessFailedError as error:
        sys.exit(str(error))
