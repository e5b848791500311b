"""Laws of keys: what is shown is what is hashed, and nothing slides from one line into another."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from mergebuild.digest import tagged
from mergebuild.key import (
    Key,
    Line,
    LinearDigests,
    OperationDigests,
    digest_of,
    gather,
    linear_key,
    narrows,
    operation_key,
    resolve,
    tensor_line,
)

DTYPES = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
LINES = st.lists(st.builds(Line, *[st.text("0123:\nab", max_size=4)] * 2), max_size=4).map(tuple)
A, B, C, S = (letter * 16 for letter in (b"a", b"b", b"c", b"s"))
HALF = Fraction(1, 2)


@given(LINES, LINES)
def test_only_equal_lines_have_equal_digests(one: tuple[Line, ...], other: tuple[Line, ...]) -> None:
    """No text in a name or a value can imitate a separator."""
    assert (Key(one).digest == Key(other).digest) == (one == other)


def test_a_value_has_one_text() -> None:
    inner = Key((Line("method", "linear@1"),))
    found = Key(
        (
            Line("number", Fraction(-1, 3)),
            Line("numbers", (Fraction(1, 2), Fraction(2))),
            Line("flag", True),
            Line("word", "sum"),
            Line("digest", A),
            Line(A, Fraction(1)),
            Line("key", inner),
        )
    )
    assert found.text.decode() == (
        "6:number4:-1/3\n7:numbers5:1/2 2\n4:flag4:True\n4:word3:sum\n"
        f"6:digest41:{tagged(A)}\n41:{tagged(A)}1:1\n3:key41:{tagged(inner.digest)}\n"
    )


def test_every_part_of_a_combination_is_in_its_digest() -> None:
    terms = [(A, HALF), (B, HALF)]
    found = [
        linear_key("float16", (2, 3), terms),
        linear_key("float32", (2, 3), terms),
        linear_key("float16", (3, 2), terms),
        linear_key("float16", (2, 3), terms[:1]),
        linear_key("float16", (2, 3), [terms[0], (C, HALF)]),
        linear_key("float16", (2, 3), [terms[0], (B, Fraction(1, 3))]),
        linear_key("float16", (2, 3), []),
        linear_key("float16", (2, 3), terms[:1], narrowed=True),
    ]
    assert len({each.digest for each in found}) == len(found)


def test_only_what_was_rounded_twice_has_another_digest() -> None:
    """The others keep theirs, and their outputs."""
    plain = Key((Line("method", "linear@1"), Line("dtype", "float16"), Line("shape", "4"), Line(A, Fraction(1))))
    assert linear_key("float16", (4,), [(A, Fraction(1))]) == plain
    assert linear_key("float16", (4,), [(A, Fraction(1))], narrowed=True) == Key(
        (*plain.lines, Line("rounded", "once, from float64"))
    )
    assert {(source, dtype) for source in DTYPES for dtype in DTYPES if narrows(source, dtype)} == {
        ("float64", dtype) for dtype in DTYPES if dtype not in ("float64", "float32")
    }


@given(
    st.lists(st.tuples(st.sampled_from(["float16", "float32"]), st.lists(st.integers(0, 9), max_size=3)), max_size=4),
    st.lists(st.tuples(st.integers(0, 2), st.fractions()), max_size=3, unique_by=lambda term: term[0]),
    st.booleans(),
)
def test_combinations_reckoned_together_have_the_digests_of_each(
    tensors: list[tuple[str, list[int]]], terms: list[tuple[int, Fraction]], narrowed: bool
) -> None:
    """The text that is hashed is the key's, whatever of it is kept and whatever is put in."""
    many = LinearDigests(3)
    inputs = [[bytes([number, index] * 8) for index in range(3)] for number in range(len(tensors))]
    for (dtype, shape), some in zip(tensors, inputs, strict=True):
        many.add(dtype, shape, some)
    assert many.of(terms, narrowed=narrowed) == [
        linear_key(dtype, shape, [(some[index], share) for index, share in terms], narrowed=narrowed).digest
        for (dtype, shape), some in zip(tensors, inputs, strict=True)
    ]


@given(
    st.sampled_from(["float16", "float32", ""]),
    st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=3).map(tuple), st.integers(0, 3)), max_size=4),
    LINES,
    st.booleans(),
)
def test_operations_reckoned_together_have_the_digests_of_each(
    dtype: str, tensors: list[tuple[tuple[int, ...], int]], facts: tuple[Line, ...], by_name: bool
) -> None:
    """As with combinations: what is kept of the text is the key's."""
    many = OperationDigests(dtype, facts)
    for number, (shape, count) in enumerate(tensors):
        inputs = [bytes([number, index] * 8) for index in range(count)]
        name = f"w{number}" if by_name else None
        every = (*facts, tensor_line(name)) if name else facts
        assert many.of(shape, inputs, tensor=name) == operation_key(dtype, shape, every, inputs).digest


def test_an_input_that_is_a_key_is_hashed_by_its_digest() -> None:
    """So a combination that a method reads can be shown by its terms."""
    inner = linear_key("float32", (4,), [(A, HALF), (B, HALF)])
    facts = (Line("method", "slerp@1"), Line("t", HALF))
    assert (
        operation_key("float16", (4,), facts, [inner, C]).digest
        == operation_key("float16", (4,), facts, [inner.digest, C]).digest
    )


# What a combination comes to


@given(st.permutations([(A, Fraction(1, 4)), (B, HALF), (C, Fraction(1, 4))]))
def test_terms_stand_in_the_order_of_their_digests(terms: list[tuple[bytes, Fraction]]) -> None:
    """Neither names nor the order of merging say where a term stands."""
    assert gather(terms) == ((A, Fraction(1, 4)), (B, HALF), (C, Fraction(1, 4)))


def test_equal_tensors_are_one_term() -> None:
    """Two fine-tunes that share a tensor count as one; all three equal are the tensor itself."""
    assert gather([(S, Fraction(1, 4)), (B, HALF), (S, Fraction(1, 4))]) == ((B, HALF), (S, HALF))
    assert gather([(S, Fraction(1, 4)), (S, HALF), (S, Fraction(1, 4))]) == ((S, Fraction(1)),)


def test_equal_tensors_that_cancel_are_no_term() -> None:
    assert gather([(A, Fraction(1)), (S, Fraction(1, 3)), (S, Fraction(-1, 3))]) == ((A, Fraction(1)),)


def test_a_lone_tensor_in_its_own_dtype_is_that_tensor() -> None:
    """Its digest is the input's; in another dtype it is rounded, and once where it was float64."""
    dtypes = {A: "float64", B: "float16"}
    copied = resolve([(B, Fraction(1, 4)), (B, Fraction(3, 4))], dtypes, "float16")
    rounded = resolve([(A, Fraction(1))], dtypes, "float16")
    scaled = resolve([(A, HALF)], dtypes, "float64")
    assert (copied.is_copy, copied.narrowed, digest_of(copied, "float16", (4,))) == (True, False, B)
    assert (rounded.is_copy, rounded.narrowed) == (False, True)
    assert digest_of(rounded, "float16", (4,)) == linear_key("float16", (4,), [(A, Fraction(1))], narrowed=True).digest
    assert (scaled.is_copy, scaled.narrowed) == (False, False)
    assert digest_of(scaled, "float64", (4,)) == linear_key("float64", (4,), [(A, HALF)]).digest
