"""What a LoRA adds to a tensor of a model, row by row: from the factors of its family to a float32 delta.

When its small factors have been combined, every family has one of a few forms: a product `L R` (LoRA, convolutions with
flattened kernels, a Tucker core contracted with one side), the elementwise product of two of them (LoHa), a Kronecker
product (LoKr), a vector that scales rows or columns of the weight (IA3), a whole matrix. Everything is computed in
float64 and rounded to float32 once. The terms of a product are added one after another, in the order of the rank, each
operation rounded by itself, and the sum is multiplied by the scale. So the result does not depend on rows, columns,
processors or devices, as that of a library's product would. The terms themselves are exact if the factors have no more
precision than float32.

With V = W + dW, a decomposed weight (DoRA, Liu et al. 2024) is `V * m / |V|`, with the norm over rows or over columns;
the delta is that minus W. If a norm is 0, so is V, and the quotient counts as 0.

The work is done in blocks of rows, whose size depends only on the shape.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final, NamedTuple

import torch
from torch import Tensor

from mergebuild.errors import SourceError
from mergebuild.lora import DeltaSum, Fact, ShapedDelta, needs
from mergebuild.lora.factors import matrix_of, scale_of
from mergebuild.lora.needs import OF_THE_WEIGHT, by_columns
from mergebuild.methods.kernels.reduction import ColumnSums, vector_sums
from mergebuild.methods.kernels.roots import square_root

__all__ = ["FactorSource", "LoraDeltas", "blocks", "delta", "factored"]

_BLOCK: Final = 1 << 18
"""Elements of a block: in float64 they fit into a processor's second cache."""

_TERMS: Final = 1 << 16
"""Elements to which the terms of a product are added at a time: all ranks, while these elements are in the cache."""


def blocks(shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of rows (first, last + 1) of a tensor of this shape that are computed at a time."""
    rows, columns = matrix_of(shape)
    step = max(1, _BLOCK // max(1, columns))
    return ((first, min(rows, first + step)) for first in range(0, rows, step))


def delta(
    family: str,
    factors: Mapping[str, Tensor],
    facts: Mapping[str, Fact],
    shape: Sequence[int],
    weight: Tensor | None = None,
) -> Tensor:
    """Return what a LoRA adds at strength 1 (float32, of `shape`). See `FactorSource` for the arguments."""
    made = FactorSource(family, factors, facts, shape, weight)
    matrix = weight.reshape(matrix_of(shape)) if weight is not None else None
    result = torch.empty(matrix_of(shape), dtype=torch.float32, device=next(iter(factors.values())).device)
    for first, last in blocks(shape):
        result[first:last] = made.rows(first, last, matrix[first:last] if matrix is not None else None)
    return result.view(tuple(shape))


def factored(family: str, factors: Mapping[str, Tensor], facts: Mapping[str, Fact]) -> tuple[Tensor, Tensor, float]:
    """Return two matrices and a scale, whose product a LoRA of the families `PRODUCTS` adds at strength 1.

    Returns:
        float64 [rows, r] and [r, columns] as the LoRA has them, not transposed, and the scale. See `FactorSource` for
            the rest.
    """
    form = _FORMS[family](factors)
    assert isinstance(form, _FactorProduct)
    return form.left, form.right, _scale(factors, facts)


class FactorSource:
    """What a LoRA adds to a tensor, or to some rows of one.

    If it is added to some rows only, `shape`, `weight` and all numbers of rows are those of these rows.
    """

    def __init__(
        self,
        family: str,
        factors: Mapping[str, Tensor],
        facts: Mapping[str, Fact],
        shape: Sequence[int],
        weight: Tensor | None = None,
    ) -> None:
        """Combine the factors.

        Args:
            family: The family of a `mergebuild.lora.Delta`.
            factors: Its tensors by role, whole and in any dtype.
            facts: Its facts.
            shape: The shape of the delta, as the model has it.
            weight: The whole weight (float32, of that shape), if `needs` asks for it.

        Raises:
            SourceError: numbers contradict shapes, which a header can't show (`lora-shape`).
        """
        self._shape = matrix_of(shape)
        self._offset = int(facts.get("offset", 0))
        self._family = family
        self._form = _form(family, factors, facts, shape)
        self._scale = 1.0 if family in OF_THE_WEIGHT else _scale(factors, facts)
        self._magnitude: Tensor | None = None
        """The factors for rows of V after division by their norms; for columns, factors already divided by the
        norms."""
        self._by_columns = by_columns(facts)
        if "dora" in facts:
            self._magnitude = factors["dora_scale"].reshape(-1).to(torch.float64)
            self._kernel = prod(tuple(shape)[2:])
            if self._by_columns:
                assert weight is not None
                norms = self._column_norms(weight.reshape(self._shape), shape)
                self._magnitude = _quotient(self._magnitude, norms).repeat_interleave(self._kernel)

    @property
    def columns(self) -> int:
        """The number of columns of the delta."""
        return self._shape[1]

    def rows(self, first: int, last: int, weight: Tensor | None = None) -> Tensor:
        """Return the rows from `first` to before `last` of the delta at strength 1 (float32 [rows, columns], new).

        `weight`: the same rows of the model's weight (float32), with all but the first dimension flattened, if `needs`
        asks for any of it.
        """
        return self.exact_rows(first, last, weight).to(torch.float32)

    def exact_rows(self, first: int, last: int, weight: Tensor | None, room: Tensor | None = None) -> Tensor:
        """Return the same before rounding (float64), in `room` (as many rows and columns) or new."""
        if self._family in OF_THE_WEIGHT:
            assert weight is not None
            return self._of_weight(first, last, weight)
        if self._magnitude is None:
            return self._plain(first, last, room)
        assert weight is not None
        return self._decomposed(first, last, weight, self._magnitude)

    def _decomposed(self, first: int, last: int, weight: Tensor, magnitude: Tensor) -> Tensor:
        """Return rows of a DoRA's delta (float64)."""
        wide = weight.reshape(last - first, -1).to(torch.float64)
        direction = self._plain(first, last).add_(wide)
        if self._by_columns:
            direction *= magnitude
        else:
            norms = square_root(vector_sums(direction * direction))
            mine = magnitude[first + self._offset : last + self._offset]
            direction *= (mine / norms).nan_to_num_(0, 0, 0)[:, None]
        return direction.sub_(wide)

    def _plain(self, first: int, last: int, room: Tensor | None = None) -> Tensor:
        """Return rows of dW (float64), in `room` or new."""
        assert not isinstance(self._form, _Gains | _ReplacedRows)
        if self._scale == 0:
            return torch.zeros(last - first, self._shape[1], dtype=torch.float64, device=self._form.device)
        first, last = first + self._offset, last + self._offset
        form = self._form
        made = form.rows(first, last, room) if isinstance(form, _FactorProduct) else form.rows(first, last)
        return made if self._scale == 1 else made.mul_(self._scale)

    def _of_weight(self, first: int, last: int, weight: Tensor) -> Tensor:
        """Return rows of a delta that is a function of the weight (float64)."""
        wide = weight.reshape(last - first, -1).to(torch.float64)
        if isinstance(self._form, _ReplacedRows):
            made = torch.zeros_like(wide)
            for row, place in enumerate(self._form.places):
                if first <= place < last:
                    made[place - first] = self._form.matrix[row].to(torch.float64) - wide[place - first]
            return made
        if isinstance(self._form, _Whole):
            return self._form.rows(first + self._offset, last + self._offset).sub_(wide)
        assert isinstance(self._form, _Gains)
        if self._form.on_columns:
            return wide.mul_(self._form.gains)
        return wide.mul_(self._form.gains[first + self._offset : last + self._offset, None])

    def _column_norms(self, weight: Tensor, shape: Sequence[int]) -> Tensor:
        """Return the norms of V over all dimensions but the second (float64 [channels])."""
        sums = ColumnSums(self._shape[1])
        for first, last in blocks(shape):
            direction = self._plain(first, last).add_(weight[first:last])
            sums.add(direction.mul_(direction).reshape(-1))
        return square_root(vector_sums(sums.value().view(-1, self._kernel)))


class LoraDeltas:
    """What the modules of one or several LoRAs add to a tensor, in blocks of rows whose size depends on its shape."""

    def __init__(self, added: DeltaSum, shape: Sequence[int]) -> None:
        """Take what is added to a tensor of the model with this shape."""
        self._deltas = added.deltas
        self._shape = tuple(shape)
        self._columns = max(1, matrix_of(shape)[1])
        self._made: list[FactorSource] = []
        self._factors: list[Mapping[str, Tensor]] = []
        self._room = torch.empty(0, dtype=torch.float64)
        self.needs_whole = any(needs(delta.family, dict(delta.facts)) == "whole" for delta in self._deltas)
        self.unit = max(1, _BLOCK // self._columns) * self._columns
        """Elements of a block."""

    def take(self, factors: Sequence[Tensor]) -> None:
        """Take the flattened factors of all deltas, in order."""
        left = iter(factors)
        self._factors = [{role: next(left).view(shape) for role, shape in delta.factors} for delta in self._deltas]
        self._made = []
        place = factors[0].device if factors else None
        self._room = torch.empty(self.unit // self._columns, self._columns, dtype=torch.float64, device=place)

    def fill(self, out: Tensor, start: int, weight: Tensor | None) -> Tensor:
        """Fill a chunk (float32 [n]), which begins with a block, with the delta.

        `weight` is the same chunk of the model.
        """
        if not self._made:
            self._made = [
                self._one(delta, factors, weight) for delta, factors in zip(self._deltas, self._factors, strict=True)
            ]
        matrix = out.view(-1, self._columns)
        lone = self._deltas[0] if len(self._deltas) == 1 else None
        is_whole = lone is not None and lone.rows is None and self._made[0].columns == self._columns
        if not is_whole:
            matrix.zero_()
        beside = weight.view(-1, self._columns) if weight is not None else None
        above = start // self._columns
        for first in range(0, len(matrix), self.unit // self._columns):
            last = min(len(matrix), first + self.unit // self._columns)
            for delta, made in zip(self._deltas, self._made, strict=True):
                low, high = delta.rows or (0, matrix_of(self._shape)[0])
                begin, end = max(above + first, low), min(above + last, high)
                if begin < end:
                    rows = beside[begin - above : end - above] if beside is not None else None
                    place = matrix[begin - above : end - above]
                    if is_whole:
                        place.copy_(made.exact_rows(begin, end, rows, self._room))
                    elif made.columns != self._columns:  # another width: both have the first columns
                        both = min(made.columns, self._columns)
                        place[:, :both] += made.rows(begin - low, end - low)[:, :both]
                    else:
                        place += made.rows(begin - low, end - low, rows)
        return out

    def _one(self, delta: ShapedDelta, factors: Mapping[str, Tensor], weight: Tensor | None) -> FactorSource:
        shape = self._shape if delta.rows is None else (delta.rows[1] - delta.rows[0], *self._shape[1:])
        facts = dict(delta.facts)
        if "channels" in facts:
            shape = (shape[0], int(facts["channels"]), *shape[2:])
        whole = None
        if needs(delta.family, facts) == "whole":
            assert weight is not None
            low, high = delta.rows or (0, matrix_of(self._shape)[0])
            whole = weight.view(-1, self._columns)[low:high].reshape(shape)
        return FactorSource(delta.family, factors, facts, shape, whole)


@dataclass(frozen=True, slots=True)
class _FactorProduct:
    """`left @ right`: float64 [m, r] and [r, n]. Its terms are added in the order of the rank."""

    left: Tensor
    right: Tensor
    is_exact: bool
    """Whether products of two values are exact in float64."""

    @classmethod
    def of(cls, left: Tensor, right: Tensor) -> _FactorProduct:
        return cls(left, right, _is_float32(left) and _is_float32(right))

    @property
    def device(self) -> torch.device:
        return self.left.device

    def rows(self, first: int, last: int, room: Tensor | None = None) -> Tensor:
        """Return some rows, in `room` or new. Terms are added to as many rows at a time as fit into the cache."""
        left, columns = self.left[first:last], self.right.shape[1]
        out = left.new_empty(len(left), columns) if room is None else room[: len(left)]
        step = max(1, _TERMS // max(1, columns))
        for begin in range(0, len(left), step):
            self._add_terms(out[begin : begin + step].zero_(), left[begin : begin + step])
        return out

    def _add_terms(self, made: Tensor, left: Tensor) -> None:
        """Add the products of columns of `left` with the rows of the right side, one after another."""
        term = made if self.is_exact else torch.empty_like(made)
        for column, row in zip(left.unbind(1), self.right.unbind(), strict=True):
            if self.is_exact:  # whether `addcmul_` rounds the product before it adds makes no difference
                made.addcmul_(column[:, None], row)
            else:
                made.add_(torch.mul(column[:, None], row, out=term))

    def transposed(self) -> _FactorProduct:
        return _FactorProduct(self.right.T, self.left.T.contiguous(), self.is_exact)


class _Hadamard(NamedTuple):
    """The elementwise product of two products."""

    one: _FactorProduct
    other: _FactorProduct

    @property
    def device(self) -> torch.device:
        return self.one.device

    def rows(self, first: int, last: int) -> Tensor:
        return self.one.rows(first, last).mul_(self.other.rows(first, last))

    def transposed(self) -> _Hadamard:
        return _Hadamard(self.one.transposed(), self.other.transposed())


class _Kronecker(NamedTuple):
    """`kron(outer, inner)`: float64 [a, c] and [b, d]; kernels are flattened into d."""

    outer: Tensor
    inner: Tensor

    @property
    def device(self) -> torch.device:
        return self.outer.device

    def rows(self, first: int, last: int) -> Tensor:
        at = torch.arange(first, last, device=self.device)
        height = len(self.inner)
        return (self.outer[at // height, :, None] * self.inner[at % height, None, :]).reshape(last - first, -1)

    def transposed(self) -> _Kronecker:
        return _Kronecker(self.outer.T, self.inner.T)


class _Whole(NamedTuple):
    """A matrix [m, n], in the dtype of the file."""

    matrix: Tensor

    @property
    def device(self) -> torch.device:
        return self.matrix.device

    def rows(self, first: int, last: int) -> Tensor:
        return self.matrix[first:last].to(torch.float64, copy=True)

    def transposed(self) -> _Whole:
        return _Whole(self.matrix.T)


class _ReplacedRows(NamedTuple):
    """Rows [n, columns] that replace some of the weight's."""

    matrix: Tensor
    places: tuple[int, ...]
    """The index of the replaced row for each."""


class _Gains(NamedTuple):
    """The factors by which rows or columns of the weight are multiplied to give the delta (float64)."""

    gains: Tensor
    on_columns: bool


_Form = _FactorProduct | _Hadamard | _Kronecker | _Whole


def _form(
    family: str, factors: Mapping[str, Tensor], facts: Mapping[str, Fact], shape: Sequence[int]
) -> _Form | _Gains | _ReplacedRows:
    """Return the form of a family's delta, transposed if the model's tensor is."""
    if family == "ia3":
        return _gains(factors, facts, shape)
    if family == "tokens":
        return _ReplacedRows(factors["tokens"], tuple(map(int, str(facts["tokens"]).split(","))))
    form = _FORMS.get(family, _whole)(factors)
    return form.transposed() if facts.get("transposed") else form


def _lora(factors: Mapping[str, Tensor]) -> _FactorProduct:
    return _FactorProduct.of(_flat(factors["up"]), _flat(factors["down"]))


def _tucker(factors: Mapping[str, Tensor]) -> _FactorProduct:
    return _FactorProduct.of(_flat(factors["up"]), _contracted(factors["mid"], factors["down"]))


def _loha(factors: Mapping[str, Tensor]) -> _Hadamard:
    one, other = (_loha_side(factors, which) for which in "12")
    return _Hadamard(one, other)


def _loha_side(factors: Mapping[str, Tensor], which: str) -> _FactorProduct:
    left, right = factors[f"w{which}_a"], factors[f"w{which}_b"]
    if f"t{which}" in factors:
        return _FactorProduct.of(_flat(left).T, _contracted(factors[f"t{which}"], right))
    return _FactorProduct.of(_flat(left), _flat(right))


def _lokr(factors: Mapping[str, Tensor]) -> _Kronecker:
    outer = _flat(factors["w1"]) if "w1" in factors else _multiplied(_flat(factors["w1_a"]), _flat(factors["w1_b"]))
    if "w2" in factors:
        return _Kronecker(outer, _flat(factors["w2"]))
    left, right = _flat(factors["w2_a"]), factors["w2_b"]
    if "t2" in factors:
        return _Kronecker(outer, _multiplied(left.T, _contracted(factors["t2"], right)))
    return _Kronecker(outer, _multiplied(left, _flat(right)))


def _whole(factors: Mapping[str, Tensor]) -> _Whole:
    (matrix,) = factors.values()
    return _Whole(matrix.reshape(matrix_of(matrix.shape)))


_FORMS: Final[Mapping[str, Callable[[Mapping[str, Tensor]], _Form]]] = {
    "lora": _lora,
    "peft_embedding": _lora,
    "tucker": _tucker,
    "loha": _loha,
    "lokr": _lokr,
}


def _gains(factors: Mapping[str, Tensor], facts: Mapping[str, Fact], shape: Sequence[int]) -> _Gains:
    """Return IA3's factors: PEFT multiplies the weight by them, kohya's trainers add the weight times them."""
    if facts.get("peft"):
        gains, on_columns = factors["ia3"].to(torch.float64) - 1, bool(facts["on_input"])
    else:
        gains, on_columns = factors["weight"].to(torch.float64), bool(factors["on_input"].item())
    gains = gains.reshape(-1)
    if facts.get("transposed"):
        on_columns = not on_columns
    channels = shape[1] if len(shape) > 1 else 1
    wanted = channels if on_columns else matrix_of(shape)[0]
    if len(gains) != wanted:
        raise _wrong_count(len(gains), wanted, shape, "columns" if on_columns else "rows")
    return _Gains(gains.repeat_interleave(matrix_of(shape)[1] // channels) if on_columns else gains, on_columns)


def _wrong_count(found: int, wanted: int, shape: Sequence[int], what: str) -> SourceError:
    """Return the error for IA3's factors of another number than the model's rows or columns (`what`)."""
    return SourceError.one(
        "lora-shape", f"a tensor of the LoRA holds {found} numbers where {wanted} are needed",
        rows=(f"model   {list(shape)}, of which it scales the {what}",),
        help="the file is damaged, or whatever wrote it is wrong: download or export it again",
    )  # fmt: skip


def _scale(factors: Mapping[str, Tensor], facts: Mapping[str, Fact]) -> float:
    """Return the number by which dW is multiplied."""
    return scale_of(factors, lambda role: float(factors[role].item()), facts)


def _quotient(magnitude: Tensor, norms: Tensor) -> Tensor:
    """Return `magnitude / norms`, 0 where the norm is 0."""
    return (magnitude / norms).masked_fill_(norms == 0, 0)


def _contracted(core: Tensor, right: Tensor) -> Tensor:
    """Return a Tucker core [r, s, kernel...], contracted over s with `right` [s, channels]: [r, channels * kernel]."""
    outer, inner = core.shape[:2]
    points = core.reshape(outer, inner, -1).to(torch.float64).transpose(1, 2)
    made = _multiplied(points.reshape(-1, inner), _flat(right))
    return made.view(outer, points.shape[1], -1).transpose(1, 2).reshape(outer, -1)


def _multiplied(left: Tensor, right: Tensor) -> Tensor:
    """Return all of `left @ right`."""
    return _FactorProduct.of(left, right).rows(0, len(left))


def _is_float32(values: Tensor) -> bool:
    """Return whether float64 values can be float32 without rounding, so that products of two are exact."""
    return bool((values.to(torch.float32).to(torch.float64) == values).all())


def _flat(tensor: Tensor) -> Tensor:
    """Return a factor as a matrix (float64), with flattened kernels."""
    return tensor.reshape(matrix_of(tensor.shape)).to(torch.float64)
