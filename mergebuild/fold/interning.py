"""Makes equal forms the same object, so that they can be compared and cached by identity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from mergebuild.fold.forms import Form, Slot
from mergebuild.fold.naming import own

__all__ = ["Interner"]


@dataclass
class Interner:
    """Returns the same object for equal forms."""

    forms: dict[tuple[tuple[Slot, int, int], ...], Form] = field(default_factory=dict)
    """By slots with the numerators and denominators of their coefficients, as hashing a fraction is slow."""

    def __call__(self, terms: Mapping[Slot, Fraction]) -> Form:
        """Return the combination of slots with these coefficients; those of 0 are left out."""
        kept = sorted([(slot, coefficient) for slot, coefficient in terms.items() if coefficient])
        key = tuple([(slot, coefficient.numerator, coefficient.denominator) for slot, coefficient in kept])
        form = self.forms.get(key)
        if form is None:
            form = self.forms[key] = Form(tuple(kept))
        return form

    def combined(self, factors: Sequence[Fraction], inputs: Sequence[Form]) -> Form:
        """Return the sum of forms, each times a factor. None of them is an operation."""
        terms: dict[Slot, Fraction] = {}
        for factor, each in zip(factors, inputs, strict=True):
            for slot, coefficient in each.terms:
                share = factor if coefficient == 1 else factor * coefficient
                known = terms.get(slot)
                terms[slot] = share if known is None else known + share
        return self(terms)

    def summed(self, terms: Iterable[tuple[Slot, Fraction]]) -> Form:
        """Return the sum of terms, of which several may be of one slot: layers of a model may share their norm."""
        found: dict[Slot, Fraction] = {}
        for slot, share in terms:
            found[slot] = found.get(slot, Fraction(0)) + share
        return self(found)

    def under(self, form: Form, tensor: str) -> Form:
        """Return a form whose slots read what it reads for `tensor`, whatever the reader's own name is."""
        return self.summed((Slot(slot.owner, own(slot.tensor(tensor))), share) for slot, share in form.terms)
