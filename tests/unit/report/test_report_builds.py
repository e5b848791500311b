"""What `build` and `plan` say of a project."""

from __future__ import annotations

from mergebuild.errors import Problem
from mergebuild.report.builds import build_lines, plan_lines
from mergebuild.results.build import BuildResult, MemoryBounds, PlanResult, TargetResult, Verdict
from mergebuild.results.tensor_work import How, TensorWork

BUILT = TargetResult(
    "orange",
    Verdict.BUILT,
    "out/orange.safetensors",
    "xxh3-128:" + "0" * 32,
    1.9,
    1130,
    1,
    4_265_251_788,
    2_132_625_894,
)
CURRENT = TargetResult("mix@alpha=0.1", Verdict.UP_TO_DATE, "out/mix-0.1.safetensors")


def result(*targets: TargetResult, ok: bool = True) -> BuildResult:
    return BuildResult(ok, 0.04, 4_265_251_788, 2_132_625_894, targets)


def test_a_build_with_nothing_to_do_is_one_line() -> None:
    assert build_lines(result(*[CURRENT] * 14)) == ["nothing to do: 14 targets are up to date (0.04 s)"]
    assert build_lines(result(CURRENT)) == ["nothing to do: 1 target is up to date (0.04 s)"]
    assert len(build_lines(result())) == 1


def test_a_built_target_is_a_line_with_what_it_cost() -> None:
    assert build_lines(result(BUILT)) == [
        "built  out/orange.safetensors  1130 computed, 1 reused  2.1 GB  1.9 s",
    ]


def test_several_targets_end_in_a_summary_and_those_up_to_date_only_count() -> None:
    virtual = TargetResult("base", Verdict.RESTORED, tensors_reused=3)
    lines = build_lines(result(BUILT, CURRENT, virtual))
    assert lines == [
        "built     out/orange.safetensors  1130 computed, 1 reused  2.1 GB  1.9 s",
        "restored  base (in the store)     0 computed, 3 reused     0 B     0.00 s",
        "1 built, 1 up to date, 1 restored; read 4.3 GB, wrote 2.1 GB in 0.04 s",
    ]


def test_verbose_shows_what_is_up_to_date_and_the_artifacts() -> None:
    lines = build_lines(result(BUILT, CURRENT), verbose=True)
    assert lines[1] == f"  {BUILT.artifact}"
    assert lines[2].split() == ["up-to-date", "out/mix-0.1.safetensors"]


def test_outputs_are_shown_relative_to_where_the_user_stands() -> None:
    assert "../out/orange.safetensors" in build_lines(result(BUILT), shown=lambda path: f"../{path}")[0]


def test_a_plan_gives_verdict_counts_bytes_reasons_and_space() -> None:
    target = TargetResult(
        "orange",
        Verdict.BUILD,
        "out/o.safetensors",
        tensors_computed=46,
        tensors_reused=1085,
        bytes_read=10**8,
        bytes_written=2 * 10**9,
        reasons=("alpha[IN04] 0.35 -> 0.4",),
        notices=("12 tensors of `merong` are left out",),
    )
    blocked = TargetResult("x", Verdict.BLOCKED, error=Problem("source-missing", "source `a` is missing"))
    plan = PlanResult(0.1, (target, blocked), 2 * 10**9, 10**11, 5 * 10**9, memory=MemoryBounds(10**9, 4 * 10**9))
    assert plan_lines(plan) == [
        "build    orange  out/o.safetensors  46 to compute, 1085 to reuse  read 100 MB  write 2.0 GB",
        "    alpha[IN04] 0.35 -> 0.4",
        "    12 tensors of `merong` are left out",
        "blocked  x       (in the store)",
        "    source `a` is missing",
        "5.0 GB of sources are not hashed yet, and would be read to know more",
        "space: 2.0 GB needed, 100 GB free",
        "memory: at most 1.0 GB beside the page cache, 4.0 GB of each device's",
    ]


def test_a_plan_with_nothing_to_do_is_one_line() -> None:
    assert plan_lines(PlanResult(0.04, (CURRENT,), 0, 1)) == ["nothing to do: 1 target is up to date (0.04 s)"]


def test_tensors_of_a_plan_are_rows_with_their_names_last() -> None:
    """Of many models the first are named; of many tensors that are not told there is the number."""
    tensors = (
        TensorWork("model.layers.0.mlp.weight", How.COMPUTED, tuple(f"source m{each}" for each in range(6)), 4096),
        TensorWork("norm", How.HELD, ("out/mix.safetensors",), 64),
        TensorWork("head", How.SHARED, ("target mix",), 64),
    )
    target = TargetResult("mix", Verdict.BUILD, "out/mix.safetensors", None, tensors_computed=5, tensors=tensors)

    lines = plan_lines(PlanResult(0.1, (target,), 0, 1000), verbose=True)

    assert lines[1:5] == [
        "    computed  m0, m1, m2, m3 and 2 more  model.layers.0.mlp.weight",
        "    held      out/mix.safetensors        norm",
        "    shared    target mix                 head",
        "    and 2 more tensors (-vv shows all)",
    ]
