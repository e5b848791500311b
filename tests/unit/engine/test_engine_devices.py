"""Laws of devices: the same bytes as the processor's, waits where they are needed, and no build that fails for one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from example_counts import examples
from fake_device import FakeDevice
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from kernel_cases import tensors
from model_files import as_bytes

from mergebuild.engine import choice as choosing
from mergebuild.engine import compute, devices, hands, looking
from mergebuild.engine import transfers as ways
from mergebuild.engine.bounds import DEVICE_MEMORY
from mergebuild.engine.choice import Choice, Rates, measured
from mergebuild.engine.devices import Stream
from mergebuild.engine.run import run_pass
from mergebuild.engine.schedule import Cluster
from mergebuild.engine.work import (
    KernelCall,
    Leaf,
    LeafScale,
    Location,
    OutputFile,
    OutputRange,
    Pass,
    Step,
    StepResult,
)
from mergebuild.errors import UsageError
from mergebuild.events import Event, Notice
from mergebuild.formats.header import Scaling
from mergebuild.methods.catalog import METHODS

pytestmark = pytest.mark.slow

FLOATS = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float64")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    """Have one, with buffers so small that rings come round often."""
    found = FakeDevice()
    monkeypatch.setattr(choosing, "devices", lambda: [found])
    monkeypatch.setattr(choosing, "device_named", lambda _: [found])
    monkeypatch.setattr(ways, "STAGED", 512)
    monkeypatch.setattr(hands, "DEVICE_CHUNK", 384)
    return found


class Bench:
    """Passes over tensors in one file, on the processor and on a device."""

    def __init__(
        self, folder: Path, *, dtype: str = "float16", count: int = 3000, inputs: int = 3, odd: int = 0
    ) -> None:
        self.folder = folder
        self.count = count
        values = tensors("random", (count,), inputs, 7)
        raw = [as_bytes(each.to(getattr(torch, dtype))) for each in values]
        (folder / "in").write_bytes(bytes(odd) + b"".join(raw))
        size = len(raw[0])
        self.leaves = {
            b"%d" % index: Leaf(b"%d" % index, dtype, count, Location(folder / "in", odd + index * size, size))
            for index in range(inputs)
        }

    def work(self, steps: Sequence[Step]) -> Pass:
        """Return a pass whose steps have a file each."""
        sizes = [step.count * getattr(torch, step.dtype).itemsize for step in steps]
        return Pass(
            outputs=[OutputFile(self.folder / f"out-{index}", b"", size) for index, size in enumerate(sizes)],
            leaves=self.leaves,
            steps={step.digest: replace(step, places=[OutputRange(n, 0)]) for n, step in enumerate(steps)},
        )

    def run(
        self, steps: Sequence[Step], device: str, *, threads: int = 1
    ) -> tuple[list[bytes], dict[bytes, StepResult], list[str]]:
        """Return what a pass writes, what it says of its steps, and what it tells people."""
        work = self.work(steps)
        events: list[Event] = []
        results = run_pass(work, threads=threads, emit=events.append, targets=("t",), chunk=512, device=device).steps
        data = [output.path.read_bytes() for output in work.outputs]
        for output in work.outputs:
            output.path.unlink()
        return data, dict(results), [event.text for event in events if isinstance(event, Notice)]


def mean(digest: bytes, dtype: str, count: int, *inputs: bytes) -> Step:
    return Step(digest, dtype, count, [(each, Fraction(1, len(inputs))) for each in inputs])


def operation(name: str, count: int, inputs: int, digest: bytes = b"s", **arguments: object) -> Step:
    given_ = {
        each.name: arguments.get(each.name, each.default)
        for each in METHODS[name].parameters
        if each.default is not None or each.name in arguments
    }
    read = tuple(b"%d" % index for index in range(inputs))
    made = KernelCall(METHODS[name], "block.weight", (count // 30, 30), given_, read)  # type: ignore[arg-type]
    return Step(digest, "float16", count, [(each, Fraction(1)) for each in read], operation=made)


# The same bytes


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("odd", [0, 3])
def test_a_device_gives_the_processors_bytes(tmp_path: Path, device: FakeDevice, dtype: str, odd: int) -> None:
    """Of all dtypes, in and out, wherever they lie; steps may read steps, which are rounded in between."""
    bench = Bench(tmp_path, dtype=dtype, odd=odd)
    steps = [mean(b"x", "float16", bench.count, b"0", b"1"), mean(b"y", dtype, bench.count, b"x", b"2")]
    here, there = bench.run(steps, "cpu"), bench.run(steps, "cuda")
    assert here == there
    assert {"in", "out"} <= set(device.notes)


@pytest.mark.parametrize("scaling", [Scaling(3000, 1, 3000), Scaling(50, 1, 50), Scaling(50, 7, 16)])
@pytest.mark.parametrize("scales", ["float32", "bfloat16"])
def test_a_device_multiplies_by_scales_as_the_processor_does(
    tmp_path: Path, device: FakeDevice, scaling: Scaling, scales: str
) -> None:
    """Chunks end in the middle of rows; a lone product is rounded once, others in float32 first."""
    bench = Bench(tmp_path, dtype="float8_e4m3fn")
    count = -(-bench.count // scaling.columns // scaling.block_rows) * -(-scaling.columns // scaling.block_columns)
    raw = as_bytes(tensors("random", (count,), 1, 5)[0].to(getattr(torch, scales)))
    (tmp_path / "scales").write_bytes(raw)
    scale = LeafScale(Leaf(b"", scales, count, Location(tmp_path / "scales", 0, len(raw))), scaling)
    bench.leaves = {digest: replace(leaf, scale=scale) for digest, leaf in bench.leaves.items()}
    steps = [
        mean(b"x", "float16", bench.count, b"0", b"1"),
        mean(b"y", "bfloat16", bench.count, b"2"),
        operation("slerp", 3000, 2, b"z", t=Fraction(1, 3)),
    ]
    assert bench.run(steps, "cpu") == bench.run(steps, "cuda")
    assert "in" in device.notes


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    "step",
    [
        operation("slerp", 3000, 2, t=Fraction(1, 3)),
        operation("ties", 3000, 3, weight=(Fraction(1), Fraction(1, 2)), density=(Fraction(1, 5),) * 2),
        operation("dare_ties", 3000, 3, weight=(Fraction(1),) * 2, density=(Fraction(1, 5),) * 2, seed=Fraction(4)),
        operation("model_stock", 3000, 3),
    ],
    ids=lambda step: step.operation.method.name,
)
def test_methods_give_the_processors_bytes(tmp_path: Path, device: FakeDevice, step: Step, threads: int) -> None:
    bench = Bench(tmp_path)
    assert bench.run([step], "cpu") == bench.run([step], "cuda", threads=threads)
    assert "in" in device.notes


@examples(30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, 4000),
    staged=st.sampled_from([8, 64, 512, 1 << 14]),
    chunk=st.sampled_from([2, 100, 384, 5000]),
    dtype=st.sampled_from(FLOATS),
)
def test_no_buffer_is_used_before_its_time(
    tmp_path: Path,
    device: FakeDevice,
    monkeypatch: pytest.MonkeyPatch,
    count: int,
    staged: int,
    chunk: int,
    dtype: str,
) -> None:
    """However often the rings come round: the device copies as late as it may."""
    monkeypatch.setattr(ways, "STAGED", staged)
    monkeypatch.setattr(hands, "DEVICE_CHUNK", chunk)
    count = min(count, 50 * chunk)
    bench = Bench(tmp_path, dtype=dtype, count=count)
    steps = [mean(b"x", "float32", count, b"0", b"1", b"2"), mean(b"y", "float16", count, b"0", b"2")]
    assert bench.run(steps, "cpu") == bench.run(steps, "cuda", threads=2)


def test_several_devices_share_a_pass(tmp_path: Path, device: FakeDevice, monkeypatch: pytest.MonkeyPatch) -> None:
    other = FakeDevice("cuda:1")
    monkeypatch.setattr(choosing, "device_named", lambda _: [device, other])
    bench = Bench(tmp_path, count=20_000, inputs=8)
    thirds = [[(b"%d" % index, Fraction(1, 3))] for index in range(8)]  # clusters of their own
    steps = [Step(b"s%d" % index, "float16", bench.count, terms) for index, terms in enumerate(thirds)]
    assert bench.run(steps, "cpu") == bench.run(steps, "cuda", threads=4)
    assert "in" in device.notes
    assert "in" in other.notes


def test_a_device_is_kept_busy_by_a_few_threads(
    tmp_path: Path, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others end, as each would take pinned memory of its own."""
    monkeypatch.setattr("mergebuild.engine.crew.PER_DEVICE", 2)
    made: list[int] = []
    pinned = device.pinned

    def counted(size: int) -> torch.Tensor:
        made.append(size)
        return pinned(size)

    monkeypatch.setattr(device, "pinned", counted)
    bench = Bench(tmp_path, inputs=8)
    steps = [Step(b"s%d" % index, "float16", bench.count, [(b"%d" % index, Fraction(1, 3))]) for index in range(8)]
    assert bench.run(steps, "cpu") == bench.run(steps, "cuda", threads=6)
    assert len(made) in (2 * ways.RING, 4 * ways.RING)


# What is not finite, and errors


def test_what_is_not_finite_is_counted_alike(tmp_path: Path, device: FakeDevice) -> None:
    bench = Bench(tmp_path, dtype="float32")
    data = bytearray((tmp_path / "in").read_bytes())
    bad = torch.tensor([float("nan"), float("inf"), 1e30])
    data[400:412] = as_bytes(bad)
    (tmp_path / "in").write_bytes(data)
    steps = [mean(b"x", "float16", bench.count, b"0", b"1"), operation("slerp", bench.count, 2, t=Fraction(1, 2))]
    here, there = bench.run(steps, "cpu"), bench.run(steps, "cuda")
    assert here == there
    assert (there[1][b"x"].nonfinite, there[1][b"x"].overflowed) == (3, 1)
    assert device.notes


class Full(FakeDevice):
    """A device on which nothing fits."""

    def stream(self) -> Stream:
        raise torch.OutOfMemoryError


def test_short_of_memory_chunks_are_smaller(
    tmp_path: Path, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one line that says so, however many threads find it."""
    monkeypatch.setattr(hands, "LEAST_DEVICE_CHUNK", 96)
    floats = ways.Staged.floats

    def little(self: ways.Staged, count: int) -> torch.Tensor:
        if count > 96:
            raise torch.OutOfMemoryError
        return floats(self, count)

    monkeypatch.setattr(ways.Staged, "floats", little)
    bench = Bench(tmp_path)
    steps = [mean(b"x", "float16", bench.count, b"0", b"1")]
    data, results, told = bench.run(steps, "cuda")
    assert (data, results, []) == bench.run(steps, "cpu")
    assert told == ["cuda:0 is short of memory: smaller chunks"]
    assert device.notes.count("freed") == 2
    assert "out" in device.notes


def test_what_does_not_fit_is_the_processors(
    tmp_path: Path, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hands, "LEAST_DEVICE_CHUNK", 384)
    full = Full()
    monkeypatch.setattr(choosing, "device_named", lambda _: [full])
    bench = Bench(tmp_path)
    steps = [mean(b"x", "float16", bench.count, b"0", b"1"), mean(b"y", "float16", bench.count, b"2")]
    data, results, told = bench.run(steps, "cuda", threads=2)
    assert (data, results, []) == bench.run(steps, "cpu")
    assert told == ["cuda:0 has too little free memory; the processor computes what it can't"]
    assert not device.notes


def test_one_tensor_that_does_not_fit_leaves_the_others_their_chunks(
    tmp_path: Path, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hands, "LEAST_DEVICE_CHUNK", 96)
    run = compute.Worker.run
    sizes: list[int] = []

    def picky(self: compute.Worker, cluster: Cluster) -> dict[bytes, StepResult]:
        if self._transfers.place.type != "cpu":
            sizes.append(self._chunk)
            if cluster.steps[0].digest == b"x":
                raise torch.OutOfMemoryError
        return run(self, cluster)

    monkeypatch.setattr(compute.Worker, "run", picky)
    bench = Bench(tmp_path)
    steps = [Step(b"x", "float16", bench.count, [(b"0", Fraction(1, 3))])]
    steps.append(Step(b"y", "float16", bench.count, [(b"1", Fraction(1, 3))]))
    data, results, told = bench.run(steps, "cuda")
    assert (data, results, []) == bench.run(steps, "cpu")
    assert sizes == [384, 192, 96, 384]
    assert len(told) == 2


def test_a_device_that_fails_does_not_fail_the_build(
    tmp_path: Path, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In mid-cluster too: what it sent is written again, with the same bytes."""
    bring = ways.Staged.bring
    left = [5]

    def failing(
        self: ways.Staged, data: ways.Bytes, dtype: torch.dtype, room: torch.Tensor, *, to_odd: bool
    ) -> torch.Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("CUDA error: unspecified launch failure\nand much advice")
        return bring(self, data, dtype, room)

    monkeypatch.setattr(ways.Staged, "bring", failing)
    bench = Bench(tmp_path)
    steps = [mean(b"x", "float16", bench.count, b"0", b"1")]
    data, results, told = bench.run(steps, "cuda")
    assert (data, results, []) == bench.run(steps, "cpu")
    assert told == ["cuda:0 failed, the processor goes on: CUDA error: unspecified launch failure"]


def test_a_device_that_can_not_be_begun_with_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_name: str) -> Sequence[FakeDevice]:
        raise RuntimeError("CUDA driver version is insufficient for CUDA runtime version")

    monkeypatch.setattr(choosing, "device_named", broken)
    bench = Bench(tmp_path)
    steps = [mean(b"x", "float16", bench.count, b"0", b"1")]
    data, results, told = bench.run(steps, "cuda")
    assert (data, results, []) == bench.run(steps, "cpu")
    assert len(told) == 1
    assert "driver version is insufficient" in told[0]


def test_memory_is_limited_before_any_is_taken(
    tmp_path: Path, device: FakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[list[int]] = []
    stream = device.stream

    def begun() -> Stream:
        limits.append(list(device.limited))
        return stream()

    monkeypatch.setattr(device, "stream", begun)
    bench = Bench(tmp_path)
    bench.run([mean(b"x", "float16", bench.count, b"0", b"1")], "cuda")
    assert device.limited == [DEVICE_MEMORY]
    assert limits == [[DEVICE_MEMORY]] * 3


# Choosing

FAST = Rates(processor=1e9, device=1e11, host=1e10, bus=5e10)


def chosen_for(steps: Sequence[Step], rates: Rates = FAST, threads: int = 2) -> Choice:
    return compute.chosen("auto", steps, threads, lambda _key, _measure: rates)


def test_auto_sends_a_device_what_it_does_sooner(device: FakeDevice) -> None:
    """Of enough work; what is not the same bytes everywhere stays."""
    many = 1_000_000_000
    ties = operation("ties", many, 3)
    svd = operation("rotate", many, 2, digest=b"d")
    found = chosen_for([ties, svd])
    assert found.devices == [device]
    assert found.is_for_device(Cluster([], [ties]))
    assert not found.is_for_device(Cluster([], [svd]))
    assert not found.is_for_device(Cluster([], [ties, svd]))
    assert not chosen_for([operation("ties", 1_000_000, 3)]).devices
    assert not chosen_for([svd]).devices


def test_auto_leaves_alone_what_goes_at_the_speed_of_memory(device: FakeDevice) -> None:
    """Even beside what is sent."""
    many = 1_000_000_000
    blend = mean(b"x", "float16", many, b"0", b"1")
    assert not chosen_for([blend]).devices
    quick = FAST._replace(processor=5e9)
    found = chosen_for([blend, operation("ties", many, 3)], quick, threads=16)
    assert not found.is_for_device(Cluster([], [blend]))


def test_auto_without_devices_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "devices", list)

    def never(_key: bytes, _measure: object) -> Rates:
        raise AssertionError

    assert not compute.chosen("auto", [operation("ties", 1 << 30, 3)], 2, never).devices


def test_rates_are_measured_and_kept(device: FakeDevice) -> None:
    """With what else was found out about this machine."""
    findings = compute.Findings({})
    rates = compute.rates_in(findings)(b"key", lambda: measured(device))
    assert min(rates) > 0
    assert Rates(*json.loads(findings.learnt[b"key"])) == rates

    def never() -> Rates:
        raise AssertionError

    later = compute.Findings(findings.learnt)
    assert compute.rates_in(later)(b"key", never) == rates
    assert not later.learnt


def test_cpu_is_the_processor(device: FakeDevice, tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.run([mean(b"x", "float16", bench.count, b"0", b"1")], "cpu")
    assert not device.notes


# Names


def test_a_device_that_is_not_there_says_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "devices", lambda: [FakeDevice("cuda:0"), FakeDevice("cuda:1")])
    assert [each.name for each in devices.device_named("cuda")] == ["cuda:0", "cuda:1"]
    assert [each.name for each in devices.device_named("cuda:1")] == ["cuda:1"]
    with pytest.raises(UsageError, match="no device `cuda:2` here, only `cuda:0`, `cuda:1`"):
        devices.device_named("cuda:2")
    monkeypatch.setattr(devices, "devices", list)
    with pytest.raises(UsageError, match="no device `cuda` here: "):
        devices.device_named("cuda")


def test_states_are_moved_with_their_tensors_only() -> None:
    place = torch.device("meta")
    plain = (1.0, {"a": [2, (3,)]}, Mean(4, None))
    assert looking.moved_to(place, plain) is plain
    moved = looking.moved_to(place, {"a": (1, torch.ones(2)), "b": Mean(3, torch.ones(1))})
    assert moved["a"][1].device == moved["b"].values.device == place
    assert (moved["a"][0], moved["b"].count) == (1, 3)


@dataclass(frozen=True)
class Mean:
    """A state."""

    count: int
    values: torch.Tensor | None
