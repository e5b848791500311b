"""Laws of first sight: a tensor comes to what it would be if all had been hashed before, and is made once."""

from __future__ import annotations

import pickle
from fractions import Fraction
from pathlib import Path

from mergebuild.digest import source_tensor_digest
from mergebuild.engine.first_sight import guessed, names_of, seen
from mergebuild.engine.work import Leaf, Location, OutputRange, UnseenGroup, UnseenInput, UnseenTensor
from mergebuild.key import linear_key

ONE, HALF = Fraction(1), Fraction(1, 2)
A, B, C = b"a" * 16, b"b" * 16, b"c" * 16
"""Checksums."""


def unhashed(name: str, dtype: str = "float32") -> UnseenInput:
    size = {"float64": 24, "float32": 12, "float16": 6}[dtype]
    return UnseenInput(Leaf(b"", dtype, 3, Location(Path(name), 0, size)), (3,), b"")


def tensor(*terms: tuple[int, Fraction], dtype: str = "float32", output: int = 0) -> UnseenTensor:
    return UnseenTensor(OutputRange(output, 0), dtype, (3,), terms)


def digest(checksum: bytes, dtype: str = "float32") -> bytes:
    return source_tensor_digest(dtype, (3,), checksum)


def test_terms_are_gathered_by_digest() -> None:
    """Inputs with equal bytes are one term, what adds up to 0 is none, and the order is that of the digests."""
    group = UnseenGroup(
        (unhashed("x"), unhashed("y"), unhashed("z")),
        (
            tensor((0, HALF), (1, HALF)),
            tensor((0, HALF), (1, -HALF), (2, ONE)),
            tensor((2, HALF), (0, HALF)),
            tensor((0, HALF), (2, HALF), output=1),
        ),
    )
    cluster, copies, found = seen(group, [A, A, C])
    assert found.checksums == (A, A, C)
    assert found.inputs == (digest(A), digest(A), digest(C))
    copied, other, mean, same = found.tensors
    assert (copied.digest, other.digest) == (digest(A), digest(C))
    assert [copy.place for copy in copies] == [group.tensors[0].place, group.tensors[1].place]
    terms = sorted([(digest(A), HALF), (digest(C), HALF)])
    assert mean == (linear_key("float32", (3,), terms).digest, True, 24)
    assert same == (mean.digest, False, 0)
    assert cluster is not None
    (step,) = cluster.steps
    assert list(step.terms) == terms
    assert step.places == [group.tensors[2].place, group.tensors[3].place]
    assert {leaf.digest for leaf in cluster.leaves} == {digest(A), digest(C)}


def test_tensors_are_made_of_earlier_ones_as_these_lie_in_their_files() -> None:
    """Which are leaves of nobody; a lone one in its own dtype is one more place of its step."""
    group = UnseenGroup(
        (unhashed("x", "float64"),),
        (
            tensor((0, ONE), dtype="float16"),
            tensor((1, ONE), dtype="float16", output=1),
            tensor((1, ONE), dtype="float32", output=2),
        ),
    )
    cluster, copies, found = seen(group, [A])
    assert not copies
    rounded, same, widened = found.tensors
    lone = [(digest(A, "float64"), ONE)]
    assert rounded == (linear_key("float16", (3,), lone, narrowed=True).digest, True, 24)
    assert same == (rounded.digest, False, 0)
    assert widened == (linear_key("float32", (3,), [(rounded.digest, ONE)]).digest, True, 0)
    assert cluster is not None
    assert [step.digest for step in cluster.steps] == [rounded.digest, widened.digest]
    assert [leaf.digest for leaf in cluster.leaves] == [digest(A, "float64")]


def test_what_is_hashed_already_is_not_asked_for() -> None:
    known = UnseenInput(Leaf(digest(B), "float32", 3, Location(Path("y"), 0, 12)), (3,), B)
    group = UnseenGroup((known, unhashed("x")), (tensor((0, HALF), (1, HALF)),))
    assert [leaf.location.path.name for leaf in group.unhashed] == ["x"]
    found = seen(group, [A]).found
    assert found.checksums == (B, A)
    assert found.inputs == (digest(B), digest(A))


def test_what_nothing_is_made_of_is_hashed_all_the_same() -> None:
    cluster, copies, found = seen(UnseenGroup((unhashed("x"),), ()), [A])
    assert (cluster, list(copies), found.checksums, found.tensors) == (None, [], (A,), ())


def test_a_group_that_travelled_comes_to_the_same() -> None:
    group = UnseenGroup((unhashed("x"), unhashed("y")), (tensor((0, HALF), (1, HALF)), tensor((2, HALF), output=1)))
    assert seen(pickle.loads(pickle.dumps(group)), [A, B]) == seen(group, [A, B])


# What is made while its inputs are hashed


def _guessed_right(group: UnseenGroup, checksums: list[bytes]) -> bool:
    """Whether what is guessed has the bits of what follows from digests; it is told by the stand-ins of all of it."""
    guess = guessed(group)
    names = names_of(group, seen(group, checksums)) if guess is not None else None
    if names is not None:
        assert guess is not None
        assert len(names) == len(group.inputs) + len(group.tensors)
        known = seen(group, checksums).cluster
        assert known is not None
        assert {names[step.digest] for step in guess.steps} == {step.digest for step in known.steps}
    return names is not None


def _sum(*shares: Fraction | int) -> UnseenGroup:
    lying = [Leaf(b"", "float16", 6, Location(Path("x"), 12 * index, 12)) for index in range(len(shares))]
    terms = tuple((index, Fraction(share)) for index, share in enumerate(shares))
    made = UnseenTensor(OutputRange(0, 0), "float16", (2, 3), terms)
    return UnseenGroup(tuple(UnseenInput(leaf, (2, 3), b"") for leaf in lying), (made,))


def test_sums_of_two_are_made_while_they_are_hashed() -> None:
    for shares in (
        (Fraction(3, 10), Fraction(7, 10)),
        (2, 3),
        (1, Fraction(7, 10), Fraction(-7, 10)),
        (Fraction(1, 2),),
    ):
        checksums = [b"%d" % each for each in range(len(shares))]
        assert _guessed_right(_sum(*shares), checksums)
        assert _guessed_right(_sum(*shares), checksums[::-1])


def test_what_the_order_of_digests_decides_is_not_guessed() -> None:
    for shares in ((Fraction(1, 2), Fraction(1, 2)), (1, 1, -1), (1, 2, 3), (1,), (0, 1)):
        assert guessed(_sum(*shares)) is None


def test_inputs_that_turn_out_to_be_the_same_are_no_sum() -> None:
    """Their proportions are added up, and where they come to 1 the tensor is a copy."""
    for shares in ((Fraction(3, 10), Fraction(7, 10)), (2, 3)):
        assert not _guessed_right(_sum(*shares), [b"same", b"same"])
