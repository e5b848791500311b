"""Iterations of the arithmetic on spheres end, however many steps they may take."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from mergebuild.methods.spheres import _iterated


def step_by_step(step: Callable[[int], int | None], state: int, most: int) -> int:
    """Return what `_iterated` does, by taking every step."""
    for _ in range(most):
        after = step(state)
        if after is None:
            break
        state = after
    return state


@given(st.lists(st.none() | st.integers(0, 11), min_size=12, max_size=12), st.integers(0, 80))
def test_cycles_that_are_left_out_change_nothing(steps: list[int | None], most: int) -> None:
    assert _iterated(steps.__getitem__, 0, most) == step_by_step(steps.__getitem__, 0, most)


def test_an_iteration_that_comes_back_to_a_state_ends_whatever_the_number_of_steps() -> None:
    assert _iterated(lambda state: 1 - state, 0, 2**63) == 0
    assert _iterated(lambda state: 1 - state, 0, 2**63 + 1) == 1
    assert _iterated(lambda state: state + 1 if state < 90 else 80, 0, 10**18) == 80 + (10**18 - 80) % 11
