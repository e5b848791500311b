"""What the verbs answer, in words."""

from __future__ import annotations

from mergebuild.errors import Problem
from mergebuild.report.looks import (
    clean_lines,
    combination_text,
    inspection_lines,
    lineage_lines,
    status_lines,
    tensor_lines,
    verify_lines,
    why_lines,
)
from mergebuild.results.build import Verdict
from mergebuild.results.looks import (
    Change,
    CleanResult,
    Inspection,
    KeyLine,
    Lineage,
    OutputState,
    StatusResult,
    TargetState,
    TensorWhy,
    VerifyResult,
    WhatItIs,
    WhyResult,
)


def test_status_is_a_line_a_target_and_a_line_an_orphan() -> None:
    status = StatusResult(
        (
            TargetState("orange", OutputState.CHANGED_BY_HAND, "out/o.safetensors"),
            TargetState("base", OutputState.MISSING, None),
        ),
        ("out/old.safetensors",),
    )
    assert status_lines(status) == [
        "changed-by-hand  orange  out/o.safetensors",
        "missing          base",
        "orphan           -       out/old.safetensors",
    ]


def test_a_tensor_is_told_in_two_columns_and_differences_are_marked() -> None:
    lines = (
        KeyLine("method", "linear@1", "linear@1"),
        KeyLine("target s: w", "1/2 (0.5)", "1/3 (0.333333)"),
        KeyLine("t", "1", "1", 1),
        KeyLine("source z: w", "1/2 (0.5)", None),
    )
    one, other = WhatItIs("xxh3-128:aa", None), WhatItIs("xxh3-128:bb", "source x: w")
    assert tensor_lines(TensorWhy("w", one, other, lines)) == [
        "w",
        "  as it was built        xxh3-128:aa  made",
        "  as the mergefile says  xxh3-128:bb  a copy of source x: w",
        "",
        "                 as it was built  as the mergefile says",
        "    method       linear@1         linear@1",
        "*   target s: w  1/2 (0.5)        1/3 (0.333333)",
        "      t          1                1",
        "*   source z: w  1/2 (0.5)        -",
    ]


def test_a_tensor_that_there_is_nothing_to_compare_with_has_one_column() -> None:
    lines = (KeyLine("method", None, "linear@1"), KeyLine("dtype", None, "float16"))
    assert tensor_lines(TensorWhy("w", None, WhatItIs("xxh3-128:aa", None), lines, "never built")) == [
        "w",
        "  as the mergefile says  xxh3-128:aa  made",
        "  never built",
        "",
        "    method  linear@1",
        "    dtype   float16",
    ]


def test_why_is_a_line_a_reason() -> None:
    text = "alpha[IN04] 0.35 -> 0.4"
    changes = (Change("alpha[IN04]", "0.35", "0.4", text),)
    assert why_lines(WhyResult("orange", Verdict.BUILD, changes, (text,))) == [text]
    assert why_lines(WhyResult("orange", Verdict.UP_TO_DATE, (), ())) == ["orange is up to date"]


def test_proportions_read_as_a_sum() -> None:
    assert combination_text({"opk": "3/10", "merong": "7/10"}) == "3/10 opk + 7/10 merong"
    assert combination_text({"a": "1", "b": "-1/2", "c": "-1"}) == "a - 1/2 b - c"
    assert combination_text({"a": "-1/2"}) == "-1/2 a"
    assert combination_text({}) == "0"


def test_lineage_shows_the_largest_share_first_then_the_way_down() -> None:
    lineage = Lineage("orange", True, {"opk": "3/10", "merong": "7/10"}, {}, ("base",), ("orange", "  a: opk"))
    assert lineage_lines(lineage) == [
        "orange = 7/10 merong + 3/10 opk",
        "rounded at base",
        "",
        "orange",
        "  a: opk",
    ]


def test_lineage_draws_neighbouring_blocks_of_equal_shares_together() -> None:
    half, whole = {"a": "1/2", "b": "1/2"}, {"a": "1"}
    blocks = {"BASE": whole, "IN00": half, "IN01": half, "IN02": half, "M00": whole}
    assert lineage_lines(Lineage("x", True, None, blocks, ())) == [
        "x =",
        "  BASE         a",
        "  IN00 … IN02  1/2 a + 1/2 b",
        "  M00          a",
    ]


def test_lineage_draws_only_blocks_together_that_stand_next_to_each_other() -> None:
    """Not over a gap, not from one family to another, and no group or tensor with a block."""
    half = {"a": "1/2", "b": "1/2"}
    names = ["BASE", "IN03", "IN04", "IN04 attn", "IN05", "IN07", "IN09", "IN10", "IN11", "M00", "x.weight", "x.bias"]
    lines = lineage_lines(Lineage("x", True, None, dict.fromkeys(names, half), ()))
    assert [line.partition("  1/2")[0].strip() for line in lines[1:]] == [
        "BASE", "IN03, IN04", "IN04 attn", "IN05", "IN07", "IN09 … IN11", "M00", "x.weight", "x.bias",
    ]  # fmt: skip


def test_a_lineage_that_is_not_linear_says_so() -> None:
    assert lineage_lines(Lineage("x", False, None, {}, (), ("x",)))[0] == "x is not a linear combination of sources"


def test_verify_counts_and_clean_names_what_went() -> None:
    assert verify_lines(VerifyResult(("a", "b"), 10**9, ())) == ["2 artifacts checked, 1.0 GB read: all as written"]
    problem = Problem("damaged", "x")
    assert verify_lines(VerifyResult(("a",), 5, (problem,)))[-1].endswith("1 problem found")
    cleaned = CleanResult(("out/a",), ("out/b: changed by hand",), 2_000_000, 5_000_000, 3_000_000)
    assert clean_lines(cleaned) == [
        "removed out/a",
        "kept out/b: changed by hand",
        "freed 2.0 MB (store: 5.0 MB -> 3.0 MB)",
    ]
    assert clean_lines(CleanResult(("a",), bytes_freed=5, dry_run=True)) == ["would remove a", "would free 5 B"]


def test_an_inspection_shows_head_components_metadata_and_tensors() -> None:
    found = Inspection(
        path="m.safetensors",
        format="safetensors",
        layout=None,
        tensors=2,
        bytes=1000,
        dtypes={"float16": 2},
        components={"unet": {"tensors": 2, "bytes": 900, "dtypes": {"float16": 2}}},
        metadata={"format": "pt", "long": "x" * 500},
        hashes={"sha256": "ab", "autov3": None},
        weights="pruned",
        facts={"vae": "baked in"},
        origin=("made by sd-mecha: weighted_sum of a and b",),
        notices=("an optimizer is left out",),
        tensor_list=(("a", "float16", (2, 3), 12),),
    )
    lines = inspection_lines(found)
    assert lines[0] == "m.safetensors"
    assert "  layout   unknown" in lines
    assert "  vae      baked in" in lines
    assert not any("autov3" in line for line in lines)
    assert lines[lines.index("components:") - 2 :][:2] == [
        "  made by sd-mecha: weighted_sum of a and b",
        "  an optimizer is left out",
    ]
    assert "  unet  2 tensors  900 B  float16 2" in lines
    assert max(map(len, lines)) < 120
    assert lines[-1] == "  a  float16  [2, 3]  12 B"


def test_an_adapter_shows_families_ranks_and_alphas() -> None:
    found = Inspection(
        path="l.safetensors",
        format="safetensors",
        layout=None,
        tensors=9,
        bytes=1000,
        dtypes={"float16": 9},
        components={},
        metadata={},
        hashes={},
        adapter={
            "families": {"LoCon": 6, "DoRA": 3},
            "ranks": {"4": 2, "8": 1},
            "alphas": {"16": 3},
            "for": "SDXL",
            "text_encoder": True,
        },
    )
    lines = inspection_lines(found)
    assert "  kind     LoCon and DoRA for SDXL" in lines
    assert "  rank     4 (2 modules), 8 (1 module)" in lines
    assert "  alpha    16" in lines
    assert "  changes  text encoders too" in lines
    assert not any("weights" in line for line in lines)
