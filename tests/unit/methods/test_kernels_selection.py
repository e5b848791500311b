"""A cut takes exactly as many as asked for, equal ones in the order of their indices."""

from __future__ import annotations

import random

import torch
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.methods.kernels.selection import Selection, magnitude_keys, ordered_keys, value_of


@given(
    st.lists(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, -2.5, 1e-40, -1e-40, 1e30, 1.0000001]), min_size=1, max_size=60
    ),
    st.data(),
)
def test_a_cut_takes_exactly_as_many_as_asked(values: list[float], data: st.DataObject) -> None:
    """The r largest of any values in either order, with ties across pieces, as a stable sort has them."""
    tensor = torch.tensor(values)
    takes = data.draw(st.lists(st.integers(0, len(values)), min_size=1, max_size=3))
    source = random.Random(data.draw(st.integers(0, 99)))
    for keys, order_of, rank in (
        (magnitude_keys(tensor), tensor.abs(), lambda v: -abs(v)),
        (ordered_keys(tensor), tensor, lambda v: -v),
    ):
        selection = Selection(takes)
        more = True
        while more:
            start = 0
            while start < len(keys):
                stop = min(len(keys), start + source.randint(1, len(keys)))
                selection.look(keys[start:stop], start)
                start = stop
            more = selection.turn()
        order = sorted(range(len(values)), key=lambda i: (rank(float(tensor[i])), i))
        for take, cut in zip(takes, selection.cuts, strict=True):
            kept = torch.cat([cut.kept(order_of[:5], 0), cut.kept(order_of[5:], 5)])
            assert sorted(order[:take]) == torch.nonzero(kept).reshape(-1).tolist()
            assert kept.sum() == take
            if take:
                last = float(tensor[order[take - 1]])
                assert value_of(cut.key) == (abs(last) if rank(-1.0) == -1 else last)


def test_a_cut_may_depend_on_how_many_are_not_zero() -> None:
    values = torch.tensor([0.0, 3, 0, 1, 2, 0, 4])
    selection = Selection(lambda nonzero: (nonzero // 2,))
    while True:
        selection.look(magnitude_keys(values), 0)
        if not selection.turn():
            break
    assert selection.cuts[0].kept(values, 0).tolist() == [0, 1, 0, 0, 0, 0, 1]
