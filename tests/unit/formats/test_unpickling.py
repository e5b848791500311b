"""Laws of the machine for pickles: plain values come out as they went in, whatever the protocol."""

from __future__ import annotations

import collections
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.formats.unpickling import Dict, Opaque, ShortPickle, unpickle

PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**300), 2**300),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(max_size=300),
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(st.text(), inner, max_size=5),
    ),
    max_leaves=20,
)
PROTOCOLS = st.integers(3, 5)


def plain(value: object) -> object:
    """Return a value of the machine's in Python's own types."""
    if isinstance(value, Dict):
        return {key: plain(each) for key, each in value.named.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value))
    return value


@given(VALUES, PROTOCOLS)
def test_plain_values_come_out_as_they_went_in(value: object, protocol: int) -> None:
    raw = pickle.dumps(value, protocol)
    found, end = unpickle(raw)
    assert plain(found) == value
    assert end == len(raw)


@given(st.lists(VALUES, max_size=4), PROTOCOLS)
def test_pickles_in_a_row_are_read_one_by_one(values: list[object], protocol: int) -> None:
    raw = b"".join(pickle.dumps(value, protocol) for value in values)
    end = 0
    for value in values:
        found, end = unpickle(raw, end)
        assert plain(found) == value
    assert end == len(raw)


@given(VALUES, PROTOCOLS, st.data())
def test_a_pickle_that_is_cut_asks_for_more(value: object, protocol: int, data: st.DataObject) -> None:
    """For no more than it has, so that the rest can be read and no more."""
    raw = pickle.dumps(value, protocol)
    length = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(ShortPickle) as caught:
        unpickle(raw[:length])
    assert length < caught.value.needed <= len(raw)


def test_keys_that_are_no_strings_are_kept_apart() -> None:
    found, _ = unpickle(pickle.dumps({"a": 1, 3: 2, (4,): 5, None: 6}))
    assert isinstance(found, Dict)
    assert (found.named, found.others) == ({"a": 1}, [2, 5, 6])


def test_dicts_of_every_class_are_dicts() -> None:
    for value in (collections.OrderedDict(a=1), collections.defaultdict(list, a=1), collections.Counter(a=1)):
        for protocol in (2, 5):
            assert plain(unpickle(pickle.dumps(value, protocol))[0]) == {"a": 1}


@pytest.mark.parametrize("value", [{1, 2}, frozenset({3}), bytearray(b"x"), 1 + 2j, slice(1)])
def test_what_no_tensor_can_be_in_is_opaque(value: object) -> None:
    assert isinstance(unpickle(pickle.dumps(value, 2))[0], Opaque)


def test_equal_values_are_one() -> None:
    """The memo: a reference is no copy."""
    inner: list[object] = []
    found, _ = unpickle(pickle.dumps([inner, inner]))
    assert isinstance(found, list)
    assert found[0] is found[1]
