"""Bugs that the laws have found: each test runs a law on the shrunk case; its docstring says what went wrong."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from drawing import Step
from laws import LAWS
from worlds import Own, Rule, Source, Table, Target, World

LLAMA = (Source("s0", "llama", 0), Source("s1", "llama", 1), Source("s2", "llama", 2))


def _file(name: str, method: str, *inputs: tuple[str, str | tuple[str, ...]], **values: str) -> Target:
    numbers = tuple((key, Decimal(value)) for key, value in values.items())
    return Target(name, method, inputs, numbers, f"out/{name}.safetensors")


def test_a_statistic_of_a_file_of_the_same_pass_is_of_what_was_made() -> None:
    """`arcee_fusion` over a file of the same pass read a buffer that was not filled yet."""
    world = World(
        LLAMA, (_file("t0", "add", ("a", "s1"), ("b", "s1")), _file("t1", "arcee_fusion", ("a", "t0"), ("b", "s1")))
    )
    LAWS["together_is_alone"](world, (0, 1))
    LAWS["threads_and_chunks_do_not_matter"](world, 2, 7)


def test_targets_of_an_own_method_with_other_optional_inputs_are_not_alike() -> None:
    """Planned together, the second became a copy of the first."""
    world = World(
        LLAMA,
        (
            _file("t0", "mine", ("a", "s0"), ("b", "s1"), alpha="0.5"),
            _file("t1", "mine", ("a", "s0"), ("c", "s1"), alpha="0.5"),
        ),
        methods=(Own("mine", "gate"),),
    )
    LAWS["together_is_alone"](world, (1, 0))


def test_broken_position_ids_under_two_settings_of_ema() -> None:
    """`KeyError`, exit 70, for all verbs."""
    source = Source("s0", "sd1", 0, traits=("broken-ids", "ema"))
    keep = Target("t0", "copy", (("a", "s0"),), (("ema", "keep"),), "out/t0.safetensors")
    world = World((source,), (_file("t1", "copy", ("a", "s0")), keep))
    LAWS["together_is_alone"](world, (1, 0))


def test_a_fallback_over_virtual_targets_with_more_forms_than_the_first() -> None:
    """`IndexError`, exit 70."""
    lacking = Source("s1", "llama", 1, traits=("missing",))
    rule = (Rule(("attn",), "subtract", ()),)
    virtual = Target("v", "weighted_sum", (("a", "s0"), ("b", "s2")), (("alpha", Decimal("0.3")),), rules=rule)
    other = Target("w", "copy", (("a", "s1"),))
    world = World((LLAMA[0], lacking, LLAMA[2]), (other, virtual, _file("t0", "fallback", ("a", "w"), ("b", "v"))))
    LAWS["together_is_alone"](world, (2, 1, 0))


def test_numbers_without_dimensions_in_methods_of_the_whole_model() -> None:
    """`cosine_b` over a model with a tensor of no dimensions: exit 70 while memory was estimated."""
    world = World(
        (Source("s0", "plain", 0), Source("s1", "plain", 1)),
        (_file("t0", "cosine_b", ("a", "s0"), ("b", "s1"), alpha="0.5"),),
    )
    LAWS["threads_and_chunks_do_not_matter"](world, 2, 7)


def test_a_survey_of_what_folds_to_nothing() -> None:
    """`IndexError`, exit 70: 0 times a model has no terms."""
    nothing = Target("v", "scale", (("a", "s0"),), (("alpha", Decimal("0")),))
    world = World(LLAMA, (nothing, _file("t0", "cosine_a", ("a", "s1"), ("b", "v"), alpha="0.5"),
                          _file("t1", "rebasin", ("a", "v"), ("b", "s1"))))  # fmt: skip
    LAWS["together_is_alone"](world, (2, 1, 0))


def test_records_that_are_lost_are_begun_anew_by_the_next_build() -> None:
    """A stamp answered that nothing was to do; after the next edit, the output counted as changed by hand."""
    before = World(LLAMA, (_file("t0", "scale", ("a", "s0"), alpha="0.5"),))
    after = World(LLAMA, (_file("t0", "scale", ("a", "s0"), alpha="0.25"),))
    steps = (
        Step("begin", before), Step("nothing", before), Step("nothing", before), Step("lose", before, ("lose", 0)),
        Step("t0.alpha", after),
    )  # fmt: skip
    LAWS["incremental_is_fresh"](steps)


def test_a_checkpoint_is_not_restored_from_the_same_tensors_in_safetensors() -> None:
    """`plan` announced a restore, and the build then built it."""
    before = World(
        LLAMA,
        (
            _file("t0", "scale", ("a", "s0"), alpha="0.5"),
            Target("t1", "copy", (("a", "t0"),), output="out/t1.ckpt"),
            Target("t2", "copy", (("a", "t0"),), output="out/t2.safetensors"),
            Target("t3", "copy", (("a", "t1"),), output="out/t3.ckpt"),
        ),
    )
    after = World(before.sources, (_file("t0", "scale", ("a", "s0"), alpha="0.25"), *before.targets[1:]))
    steps = (Step("begin", before), Step("t0.alpha", after))
    LAWS["plan_says_what_build_does"](steps)
    LAWS["incremental_is_fresh"](steps)


def test_what_the_store_keeps_for_two_targets_is_written_once() -> None:
    """`plan` counted its bytes for each of them."""
    virtual = (Target("t0", "add", (("a", "s1"), ("b", "s1"))), Target("t1", "copy", (("a", "t0"),)))
    before = World(LLAMA, (Target("t0", "scale", (("a", "s1"),), (("alpha", Decimal("3")),)),))
    LAWS["plan_says_what_build_does"]((Step("begin", before), Step("two that are one", World(LLAMA, virtual))))


def test_a_folder_that_is_what_another_is_is_restored() -> None:
    """`plan` announced a build, though all its files were restored."""
    one, other = (Target(name, "add", (("a", "s1"), ("b", "s1")), output=f"out/{name}/") for name in ("t0", "t1"))
    before = World(LLAMA, (_file("t2", "copy", ("a", "s1")),))
    LAWS["plan_says_what_build_does"]((Step("begin", before), Step("two folders", World(LLAMA, (one, other)))))


def test_one_file_of_the_history_is_moved_to_one_place() -> None:
    """`plan` counted no bytes for either of two targets that both go back to the same artifact."""
    one, other = (_file(name, "subtract", ("a", "s1"), ("b", "s2")) for name in ("t0", "t1"))
    before = World(LLAMA, (one, other))
    after = World((*LLAMA[:1], Source("s1", "llama", 1, patches=((0, 1),)), LLAMA[2]), (one, other))
    LAWS["plan_says_what_build_does"]((Step("begin", before), Step("edit", after), Step("back", before)))


def test_what_gets_another_header_is_kept_once_for_all_that_are_it() -> None:
    """After an edit that changes inputs but no result, two copies were written to one temporary name."""
    sources = (Source("s0", "plain", 0), Source("s1", "plain", 0))
    targets = tuple(
        Target(name, "", (), values=(("merge", ("net.0.*",)),), terms=(("0.3", "s1"), ("0.3", "s0")))
        for name in ("t0", "t1", "t2")
    )
    edited = (Source("s0", "plain", 0, patches=((2, 1),)), sources[1])
    steps = (Step("begin", World(sources, targets)), Step("another tensor of s0", World(edited, targets)))
    LAWS["incremental_is_fresh"](steps)
    LAWS["plan_says_what_build_does"](steps)


def test_a_combination_that_an_operation_reads_is_computed_once() -> None:
    """`plan` counted it again for a virtual target that is this combination, and for the target that writes it."""
    one = Target("t0", "add", (("a", "s1"), ("b", "s1")))
    two = Target("t1", "add_opposite", (("a", "t0"), ("b", "t0"), ("c", "t0")), (("alpha", Decimal("0.3")),))
    same = World((LLAMA[0], replace(LLAMA[0], name="s1")), (one, two, replace(one, name="t2")))
    curved = Target("t0", "slerp", (("a", "s0"), ("b", "s1")), (("t", Decimal("0.4")),))
    mixed = _file("t1", "weighted_sum", ("a", "t0"), ("b", "s1"), alpha="0.5")
    plain = Target("t2", "", (), terms=(("1", "t0"),), values=(("dtype", "float32"),), output="out/t2.safetensors")
    for order in range(4):
        LAWS["plan_says_what_build_does"]((Step("begin", same), Step("delete", same, ("delete", 0))), order)
        LAWS["plan_says_what_build_does"]((Step("begin", World(LLAMA, (curved, mixed, plain))),), order)


def test_a_combination_of_two_that_are_made_alike_is_one_of_them() -> None:
    """It keeps the signs of its zeros; the evaluator took the two for different tensors."""
    sources = (Source("s0", "sd1", 0), replace(Source("s1", "sd1", 0), traits=("zeros",)))
    inputs = (("base", "s1"), ("models", ("s1",)))
    values = (("weight", Decimal("0.3")), ("seed", Decimal("1")))
    alike = tuple(Target(name, "della", inputs, values, f"out/{name}.safetensors") for name in ("t0", "t1"))
    both = _file("t2", "weighted_sum", ("a", "t1"), ("b", "t0"), alpha="0.3")
    LAWS["compiled_kernels_make_the_same"](World(sources, (*alike, both)), "", 64)


def test_a_number_that_a_rule_covers_may_have_no_value() -> None:
    """Weights of 0 can't be normalized, but needn't be for tensors that a rule makes; the evaluator divided by them."""
    weights = (("weight", Table((("default", Decimal("0.3")), ("re:norm", Decimal(0))))),)
    rule = Rule(("re:norm",), "linear", (("weight", Decimal("0.3")),))
    target = Target("t0", "linear", (("models", ("s0", "s1")),), weights, "out/t0.safetensors", (rule,))
    LAWS["threads_and_chunks_do_not_matter"](World(LLAMA, (target,)), 1, 64)


def test_a_name_of_the_same_storage_before_a_tie_ends_in_no_traceback() -> None:
    """The embedding of T5 was tied to a name that nobody knows, and its head to the embedding: a chain of ties."""
    other = replace(Source("s1", "t5", 0), form="ckpt", traits=("copied", "tied"), nonsense=(0, 1, 2, 3, 4, 5, 6))
    one = _file("t0", "weighted_sum", ("a", "s0"), ("b", "s1"), alpha="0.5")
    two = _file("t1", "weighted_sum", ("a", "s1"), ("b", "s0"), alpha="0.5")
    LAWS["nonsense_is_refused_or_named"](World((Source("s0", "t5", 0), other), (one, two)))
