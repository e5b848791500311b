"""Turning one model towards another, against float64 written from the formulas and the laws of rotations."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import prod
from typing import Any

import pytest
import torch
from fake_device import Remote, remotely
from kernel_cases import SHAPES, call_of, tensors
from kernel_driver import run
from torch import Tensor

from mergebuild.methods.kernels.rotation import (
    KERNELS,
    aligned_directions,
    closest_rotation,
    orthogonal_log,
    orthogonal_power,
    stiefel_exp,
    stiefel_log,
)
from mergebuild.methods.method import UndefinedError
from mergebuild.methods.tables.rotation import ROWS

ROW = ROWS[0]
TALL = [(8, 1), (16, 24)[::-1], (30, 5), (4, 3, 3, 3), (6, 4, 1, 1), (13, 12)]
WIDE = [(1, 8), (16, 24), (3, 40), (6, 9, 1, 1)]


def rotated(a: Tensor, b: Tensor, **given: float) -> Tensor:
    return run(KERNELS["rotate"], call_of(ROW, tuple(a.shape), 2, given), [a, b], None)


def some(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation_of(side: int, seed: int = 0) -> Tensor:
    found = torch.linalg.qr(some(seed, side, side)).Q
    found[:, 0] *= torch.linalg.det(found).sign()
    return found


def as_matrix(values: Tensor) -> Tensor:
    shape = values.shape
    rows = shape[0] * shape[1] if len(shape) == 4 and prod(shape[2:]) > 1 else shape[0]
    return values.double().reshape(rows, -1)


def power_by_eigenvalues(rotation: Tensor, power: float) -> Tensor:
    values, vectors = torch.linalg.eig(rotation)
    return (vectors @ torch.diag(values**power) @ torch.linalg.inv(vectors)).real


def formula(a: Tensor, b: Tensor, alignment: float, alpha: float, centralization: float) -> Tensor:
    """Return the result for matrices as tall as wide, of full rank."""
    x, y = as_matrix(a), as_matrix(b)
    means = [each.mean(0) * centralization for each in (x, y)]
    x, y = x - means[0], y - means[1]
    left, _, right = torch.linalg.svd(x.T @ y)
    if alignment % 1 and torch.linalg.det(left @ right) < 0:
        left[:, -1] *= -1
    turn = left @ right
    powers = {0.0: torch.eye(len(turn), dtype=torch.float64), 1.0: turn, 2.0: turn @ turn, -1.0: turn.T}
    part = powers.get(alignment)
    part = power_by_eigenvalues(turn, alignment) if part is None else part
    mixed = (1 - alpha) * x + alpha * (y @ turn.T)
    return (mixed @ part + (1 - alignment) * means[0] + alignment * means[1]).reshape(a.shape)


@pytest.mark.parametrize("shape", TALL, ids=str)
@pytest.mark.parametrize("alignment", [1.0, 0.0, 0.5, 0.3, 2.0, -1.0])
@pytest.mark.parametrize(("alpha", "centralization"), [(0.0, 1.0), (0.4, 1.0), (-0.3, 0.5), (1.0, 0.0)])
def test_tall_matrices_turn_as_the_formula_says(
    shape: tuple[int, ...], alignment: float, alpha: float, centralization: float
) -> None:
    for kind in ("random", "fine-tunes"):
        a, b = tensors(kind, shape, 2)
        found = rotated(a, b, alignment=alignment, alpha=alpha, centralization=centralization)
        if (alignment, alpha) == (0.0, 0.0):
            assert torch.equal(found, a)
            continue
        torch.testing.assert_close(
            found.double(), formula(a, b, alignment, alpha, centralization), rtol=0, atol=2e-6 * float(a.abs().max())
        )


@pytest.mark.parametrize("shape", WIDE, ids=str)
@pytest.mark.parametrize("alignment", [1.0, 0.0, -1.0])
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_wide_matrices_are_carried_as_the_formula_says(shape: tuple[int, ...], alignment: float, alpha: float) -> None:
    """`x - x V V^T + x U V^T`, U and V from the whole decomposition of A^T B."""
    a, b = tensors("random", shape, 2)
    x, y = as_matrix(a), as_matrix(b)
    left, _, right = torch.linalg.svd(x.T @ y)
    u, v = left[:, : len(x)], right.T[:, : len(x)]
    mixed = x + alpha * (y - y @ u @ u.T + y @ v @ u.T - x)
    if alignment:
        u, v = (u, v) if alignment > 0 else (v, u)
        mixed = mixed - mixed @ v @ v.T + mixed @ u @ v.T
    found = rotated(a, b, alignment=alignment, alpha=alpha, centralization=0)
    torch.testing.assert_close(found.double(), mixed.reshape(shape), rtol=0, atol=2e-6 * float(a.abs().max()))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_ends_have_the_inputs_bits(shape: tuple[int, ...]) -> None:
    a, b = tensors("random", shape, 2)
    assert torch.equal(rotated(a, b, alignment=0, alpha=0), a)
    assert torch.equal(rotated(a, b, alignment=1, alpha=1), b)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("alignment", [0.5, 1.0])
def test_equal_models_stay_as_they_are(shape: tuple[int, ...], alignment: float) -> None:
    a, b = tensors("identical", shape, 2)
    assert torch.equal(rotated(a, b, alignment=alignment, alpha=0.3), a)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["one zero", "all zero", "antipodal"])
def test_every_kind_has_a_finite_value(kind: str, shape: tuple[int, ...]) -> None:
    a, b = tensors(kind, shape, 2)
    for alignment in (0.5, 1.0, 0.25):
        assert torch.isfinite(rotated(a, b, alignment=alignment, alpha=0.3)).all()


def test_what_was_turned_is_found_again() -> None:
    """B = A Q, so turning A wholly gives B, and half of it twice too."""
    turn = rotation_of(6)
    a = some(1, 30, 6).float()
    b = (a.double() @ turn).float()
    torch.testing.assert_close(rotated(a, b, alignment=1), b, rtol=0, atol=1e-5)
    half = rotated(a, b, alignment=0.5, centralization=0)
    again = (a.double() @ orthogonal_power(turn, Fraction(1, 2))).float()
    torch.testing.assert_close(half, again, rtol=0, atol=1e-5)


def test_what_the_inputs_do_not_have_is_not_turned() -> None:
    """Of missing directions Q is the identity: no chance of a library decides about them."""
    a, b = some(2, 20, 6), some(3, 20, 6)
    a[:, 4:], b[:, 4:] = 0, 0
    turn = closest_rotation(a.T @ b, proper=False)
    torch.testing.assert_close(turn[4:, 4:], torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-10)
    nothing = closest_rotation(torch.zeros(5, 5, dtype=torch.float64), proper=False)
    torch.testing.assert_close(nothing, torch.eye(5, dtype=torch.float64), rtol=0, atol=1e-10)


def test_a_wide_matrix_less_its_mean_has_one_direction_less() -> None:
    a, b = (some(seed, 4, 12) for seed in (4, 5))
    u, v = aligned_directions(a - a.mean(0), b - b.mean(0))
    assert u.shape == v.shape == (12, 3)


@pytest.mark.parametrize("side", [1, 2, 3, 7, 40])
def test_powers_of_a_rotation_add_up(side: int) -> None:
    turn = rotation_of(side, side)
    third = orthogonal_power(turn, Fraction(1, 3))
    identity = torch.eye(side, dtype=torch.float64)
    torch.testing.assert_close(third @ third @ third, turn, rtol=0, atol=1e-9)
    torch.testing.assert_close(third @ third.T, identity, rtol=0, atol=1e-10)
    torch.testing.assert_close(orthogonal_power(turn, Fraction(-1)), turn.T)
    torch.testing.assert_close(orthogonal_power(turn, Fraction(0)), identity)
    torch.testing.assert_close(torch.linalg.matrix_exp(orthogonal_log(turn)), turn, rtol=0, atol=1e-9)


def test_a_part_of_a_turn_is_the_same_on_a_device() -> None:
    """The stand-in for a device knows conjugates that torch puts off."""
    turn = rotation_of(5)
    with remotely():
        there = orthogonal_power(Remote(turn), Fraction(1, 3))
    assert isinstance(there, Remote)
    assert torch.equal(there.values, orthogonal_power(turn, Fraction(1, 3)))


def test_planes_of_the_same_angle_are_no_trouble() -> None:
    """Eigenvalues of any multiplicity, 1 among them."""
    plane = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    frame = rotation_of(9)
    turn = frame @ torch.block_diag(plane, plane, plane.T, torch.eye(3, dtype=torch.float64)) @ frame.T
    half = orthogonal_power(turn, Fraction(1, 2))
    torch.testing.assert_close(half @ half, turn, rtol=0, atol=1e-10)


def test_a_part_of_a_reflection_is_a_part_of_a_rotation() -> None:
    mirror = torch.diag(torch.tensor([1.0, 2.0, -0.1], dtype=torch.float64))
    assert torch.linalg.det(closest_rotation(mirror, proper=False)) < 0
    torch.testing.assert_close(closest_rotation(mirror, proper=True), torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize(("side", "width"), [(2, 1), (8, 3), (8, 7), (30, 20), (12, 6)])
@pytest.mark.parametrize("distance", [0.0, 0.1, 3.0])
def test_a_geodesic_arrives(side: int, width: int, distance: float) -> None:
    start = torch.linalg.qr(some(side, side, width)).Q
    q, r = torch.linalg.qr(start + distance * some(width, side, width))
    goal = q * r.diagonal().sign()
    velocity = stiefel_log(start, goal, 1e-10, 100, "w")
    torch.testing.assert_close(stiefel_exp(start, velocity), goal, rtol=0, atol=1e-8)
    torch.testing.assert_close(stiefel_exp(start, 0 * velocity), start, rtol=0, atol=1e-12)
    halfway = stiefel_exp(start, velocity / 2)
    torch.testing.assert_close(halfway.T @ halfway, torch.eye(width, dtype=torch.float64), rtol=0, atol=1e-10)


def test_a_geodesic_that_is_not_found_is_an_error() -> None:
    start, goal = (torch.linalg.qr(some(seed, 12, 6)).Q for seed in (1, 2))
    with pytest.raises(UndefinedError, match=r"`w` of the inputs are too far apart"):
        stiefel_log(start, goal, 0.0, 1, "w")


@pytest.mark.parametrize("shape", WIDE, ids=str)
def test_parts_of_a_wide_turn_join_its_ends(shape: tuple[int, ...]) -> None:
    """Alignments a little off 0 and 1 give results a little off those."""
    a, b = tensors("fine-tunes", shape, 2)
    for whole in (0, 1):
        near = rotated(a, b, alignment=abs(whole - 1e-4), centralization=0)
        torch.testing.assert_close(near, rotated(a, b, alignment=whole, centralization=0), rtol=0, atol=1e-3)


def test_working_sets_hold_at_least_the_inputs() -> None:
    memory = KERNELS["rotate"].working_set
    assert memory is not None
    for shape in (*SHAPES, *WIDE, *TALL):
        for alignment in (1, 0.5):
            given: Mapping[str, Any] = {"alignment": alignment}
            assert memory(call_of(ROW, shape, 2, given), 2) >= 8 * prod(shape)
