"""Which token has which number, however a folder says it."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.configuration.tokenizers import ADDED, KINDS, TokenDifference, difference, vocabulary


def field(number: int, content: bytes) -> bytes:
    return bytes([number << 3 | 2, len(content)]) + content


def piece(text: str) -> bytes:
    """A piece of SentencePiece: its text, a score (32 bits), and a kind."""
    return field(1, field(1, text.encode()) + b"\x15\0\0\0\0" + b"\x18\x01")


TOKENIZER = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}},
    "added_tokens": [{"id": 2, "content": "<s>"}, {"id": 1, "content": "B"}],
}


@pytest.mark.parametrize(
    ("kind", "files", "expected"),
    [
        ("tokenizer.json", {"tokenizer.json": json.dumps(TOKENIZER).encode(), ADDED: b'{"no": 9}'}, "aB<s>"),
        ("tokenizer.json", {"tokenizer.json": b'{"model": {"vocab": [["a", -1.5], ["b", 0]]}}'}, "ab"),
        ("vocab.json", {"vocab.json": b'{"b": 1, "a": 0}', ADDED: b'{"c": 2}'}, "abc"),
        ("vocab.txt", {"vocab.txt": b"a\nb\n"}, "ab"),
        ("tokenizer.model", {"tokenizer.model": piece("a") + field(2, b"ignored") + piece("b")}, "ab"),
    ],
)
def test_each_kind_of_file_is_read(kind: str, files: Mapping[str, bytes], expected: str) -> None:
    found = vocabulary(kind, files.get)
    assert found is not None
    assert "".join(found[number] for number in range(len(found))) == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"\xff",
        b'{"model": [7]}',
        b'{"model": {"vocab": {"a": "x"}}}',
        b'{"model": {"vocab": {"a": 1e999}}}',
        b'{"model": {"vocab": [7]}}',
        b'{"model": {"vocab": {}}}',
    ],
)
def test_of_what_says_it_in_no_known_way_nothing_is_known(raw: bytes) -> None:
    assert vocabulary("tokenizer.json", lambda _: raw) is None
    assert vocabulary("vocab.json", lambda _: raw) is None


def test_where_there_is_no_file_nothing_is_known() -> None:
    assert all(vocabulary(kind, lambda _: None) is None for kind in KINDS)


@given(st.sampled_from(KINDS), st.binary(max_size=40))
def test_a_file_of_any_content_raises_nothing(kind: str, raw: bytes) -> None:
    """It comes from strangers."""
    vocabulary(kind, lambda _: raw)


def test_a_difference_counts_numbers_of_other_tokens_and_has_an_example() -> None:
    assert difference({0: "x", 1: "y"}, {0: "x", 1: "y"}) is None
    assert difference({0: "x", 2: "y", 1: "z"}, {0: "x", 1: "y", 2: "z"}) == TokenDifference(2, (1, "z", "y"), (0, 0))
    assert difference({0: "x"}, {0: "x", 1: "y", 2: "z"}) == TokenDifference(0, None, (0, 2))
