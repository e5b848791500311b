"""From targets to linear forms over source tensors, exactly.

A tensor of a target is an expression over tensors of its inputs. For the linear family that is a combination with
exact rational coefficients, and a chain of them is one combination again: virtual targets fold away, sources and file
targets (which round) stay as the *slots* of the form. A `Form` does not name a tensor; most tensors of a target share
a handful of forms, so the algebra is done once a form and not once a tensor.

`Folder.blueprint` says of a target which tensors it has, with dtypes, shapes and forms, from headers alone, and
refuses inputs that do not fit together before any tensor is read. `canonical` goes from slots to digests, once these
are known: equal tensors are one term, and terms stand in the order of their digests, so that neither the order of
merging nor names matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import NamedTuple

from mergebuild.digest import Term
from mergebuild.errors import MismatchError, Problem, RecipeError
from mergebuild.formats import TensorInfo
from mergebuild.layouts import Layout, Selector, detect
from mergebuild.methods.catalog import METHODS, UndefinedError
from mergebuild.recipe import Recipe
from mergebuild.recipe.model import Input, NumberPerTensor, Target
from mergebuild.sources import Sources

__all__ = ["Blueprint", "Folder", "Form", "Slot", "Spec", "canonical"]

_EMA = "model_ema."
_EMA_OF = "model.diffusion_model."
_ZERO = Fraction(0)


class Slot(NamedTuple):
    """Where a term's tensor comes from: a source or a file target, under the same name or as its EMA copy."""

    owner: str
    ema: bool = False

    def tensor(self, name: str) -> str:
        """Return the name in the owner of what the target calls `name`."""
        return ema_name(name) if self.ema else name


@dataclass(frozen=True, slots=True)
class Form:
    """A linear combination of slots: exact coefficients, none of them 0, in the order of the slots' names."""

    terms: tuple[tuple[Slot, Fraction], ...]

    @property
    def lone(self) -> Slot | None:
        """The slot, when the form is just its tensor."""
        return self.terms[0][0] if len(self.terms) == 1 and self.terms[0][1] == 1 else None


class Spec(NamedTuple):
    """What a tensor is from outside."""

    dtype: str
    shape: tuple[int, ...]
    is_float: bool


@dataclass(frozen=True)
class Blueprint:
    """What a target will be: its tensors and how each is made; and what was noticed on the way."""

    target: Target
    layout: Layout | None
    source_specs: Mapping[str, Spec]
    """The tensors in the dtypes of the first input, which `dtype = "source"` means."""
    forms: Mapping[str, Form]
    missing: Mapping[str, int]
    """By input: tensors that it lacks, and that stay the first input's."""
    left_out: Mapping[str, int]
    """By input: tensors that only it has."""
    ema_dropped: Mapping[str, int]
    """By input: EMA copies left behind."""

    @cached_property
    def specs(self) -> Mapping[str, Spec]:
        """The tensors as whoever reads the target sees them: floats in its dtype, if it has one of its own."""
        return self.specs_in(self.target.dtype)

    def specs_in(self, dtype: str | None) -> Mapping[str, Spec]:
        """Return the tensors with floats rounded to `dtype`; None and `source` leave the first input's."""
        if dtype in (None, "source"):
            return self.source_specs
        assert dtype is not None
        return {name: spec._replace(dtype=dtype) if spec.is_float else spec for name, spec in self.source_specs.items()}

    @property
    def owners(self) -> set[str]:
        """The sources and file targets whose tensors it is made of."""
        return {slot.owner for form in set(self.forms.values()) for slot, _ in form.terms}

    def notes(self) -> list[str]:
        """Return what the user should know, a sentence each."""
        found = [f"{count} tensors that `{name}` lacks stay the first input's" for name, count in self.missing.items()]
        found += [f"{count} tensors that only `{name}` has are left out" for name, count in self.left_out.items()]
        found += [
            f'{count} EMA tensors of `{name}` are left out (`ema = "keep"` or `"use"`)'
            for name, count in self.ema_dropped.items()
        ]
        return found


@dataclass(frozen=True)
class _View:
    """An input as a target sees it."""

    input: Input
    layout: Layout | None
    specs: Mapping[str, Spec]
    form_of: Callable[[str], Form]
    ema_dropped: int = 0


@dataclass
class _Interner:
    """Gives equal forms one object, so that they can be compared and remembered by identity."""

    forms: dict[tuple[tuple[Slot, Fraction], ...], Form] = field(default_factory=dict)

    def __call__(self, terms: Mapping[Slot, Fraction]) -> Form:
        key = tuple(sorted((slot, coefficient) for slot, coefficient in terms.items() if coefficient))
        return self.forms.setdefault(key, Form(key))


def ema_name(name: str) -> str:
    """Return the name of the EMA copy of a UNet tensor: `model_ema.` and the name without its dots.

    The way back is ambiguous and never taken.
    """
    return _EMA + name.removeprefix("model.").replace(".", "")


def canonical(form: Form, name: str, digest_of: Callable[[str, str], bytes]) -> tuple[Term, ...]:
    """Return the terms of a form for one tensor: equal tensors added up, zeros dropped, in the order of digests."""
    if len(form.terms) == 1:
        slot, coefficient = form.terms[0]
        return (Term(digest_of(slot.owner, slot.tensor(name)), coefficient),)
    gathered: dict[bytes, Fraction] = {}
    for slot, coefficient in form.terms:
        digest = digest_of(slot.owner, slot.tensor(name))
        gathered[digest] = gathered.get(digest, _ZERO) + coefficient
    return tuple(Term(digest, gathered[digest]) for digest in sorted(gathered) if gathered[digest])


class Folder:
    """Makes blueprints for the targets of a recipe, each once."""

    def __init__(self, recipe: Recipe, sources: Sources) -> None:
        self._recipe = recipe
        self._sources = sources
        self._intern = _Interner()
        self._blueprints: dict[str, Blueprint] = {}
        self._layouts: dict[str, Layout | None] = {}
        self._selectors: dict[tuple[str | None, tuple[str, ...]], Selector] = {}
        self._specs: dict[tuple[str, bool, bool], tuple[dict[str, Spec], int]] = {}

    def blueprint(self, name: str) -> Blueprint:
        """Return what a target is made of.

        Raises:
            SourceError: a source is missing or unreadable.
            RecipeError: a selector selects nothing, or the method has no value for the numbers given.
            MismatchError: the inputs do not fit together.
        """
        if name not in self._blueprints:
            for each in self._recipe.below(name):  # the deepest first, so that no chain is too long for the stack
                if each not in self._blueprints:
                    self._blueprints[each] = self._make(self._recipe.target(each))
        return self._blueprints[name]

    def is_virtual(self, ref: str) -> bool:
        """Whether an input folds away: a target without an output."""
        return ref not in self._sources and self._recipe.target(ref).is_virtual

    def _make(self, target: Target) -> Blueprint:
        views = [self._view(each, target) for each in target.inputs]
        first, others = views[0], views[1:]
        names = list(first.specs)
        dropped = self._select(target, "drop", names, first.layout) if target.drop else frozenset[str]()
        specs = {name: spec for name, spec in first.specs.items() if name not in dropped}
        floats = tuple(name for name, spec in specs.items() if spec.is_float)
        reached, coefficients = self._coefficients(target, floats, first.layout)
        common = [
            name
            for name in floats
            if name in reached and all(name in view.specs and view.specs[name].is_float for view in others)
        ]
        self._check_fit(target, views, common)
        missing = {
            view.input.ref: sum(name in reached and name not in view.specs for name in floats) for view in others
        }
        left_out = {view.input.ref: sum(name not in first.specs for name in view.specs) for view in others}
        self._check_missing(target, missing, left_out)
        forms = {name: first.form_of(name) for name in specs}
        self._combine(forms, common, coefficients, views)
        return Blueprint(
            target=target,
            layout=first.layout,
            source_specs=specs,
            forms=forms,
            missing={ref: count for ref, count in missing.items() if count},
            left_out={ref: count for ref, count in left_out.items() if count},
            ema_dropped={view.input.ref: view.ema_dropped for view in views if view.ema_dropped},
        )

    # Inputs

    def _view(self, each: Input, target: Target) -> _View:
        specs, ema_dropped = self._input_specs(each.ref, target.ema)
        layout = self._layout(each.ref)
        if each.ref not in self._sources:
            made = self.blueprint(each.ref)
            if made.target.is_virtual:
                return _View(each, layout, specs, made.forms.__getitem__, ema_dropped)
        plain = self._intern({Slot(each.ref): Fraction(1)})
        if target.ema != "use" or each.ref not in self._sources:
            return _View(each, layout, specs, lambda _name: plain, ema_dropped)
        own = self._sources.file(each.ref).header.tensors
        averaged = self._intern({Slot(each.ref, ema=True): Fraction(1)})

        def form_of(name: str) -> Form:
            return averaged if name.startswith(_EMA_OF) and ema_name(name) in own else plain

        return _View(each, layout, specs, form_of, ema_dropped)

    def _input_specs(self, ref: str, ema: str) -> tuple[dict[str, Spec], int]:
        """Return the tensors that an input offers, and how many EMA copies are left behind."""
        key = (ref, ema == "keep", ema == "use")
        found = self._specs.get(key)
        if found is None:
            found = self._specs[key] = self._make_specs(ref, ema)
        return found

    def _make_specs(self, ref: str, ema: str) -> tuple[dict[str, Spec], int]:
        if ref not in self._sources:
            specs = dict(self.blueprint(ref).specs)
        else:
            tensors = self._sources.file(ref).header.tensors
            specs = {name: _spec(info) for name, info in tensors.items()}
            if ema == "use":
                for name in specs:
                    if name.startswith(_EMA_OF) and (copy := tensors.get(ema_name(name))) and copy.is_float:
                        specs[name] = _spec(copy)
        if ema == "keep":
            return specs, 0
        kept = {name: spec for name, spec in specs.items() if not name.startswith(_EMA)}
        return kept, (len(specs) - len(kept) if ema == "drop" else 0)

    def _layout(self, ref: str) -> Layout | None:
        if ref not in self._sources:
            return self.blueprint(ref).layout
        if ref not in self._layouts:
            tensors = self._sources.file(ref).header.tensors
            shapes = {name: info.shape for name, info in tensors.items()}
            self._layouts[ref] = detect(shapes, self._recipe.layouts)
        return self._layouts[ref]

    # Numbers

    def selector(self, layout: Layout | None, names: tuple[str, ...]) -> Selector:
        """Return what resolves numbers per tensor over these names, made once."""
        key = (layout.name if layout else None, names)
        found = self._selectors.get(key)
        if found is None:
            found = self._selectors[key] = Selector(layout, names)
        return found

    def _select(self, target: Target, which: str, names: Sequence[str], layout: Layout | None) -> frozenset[str]:
        selectors = target.drop if which == "drop" else target.merge or ()
        return self.selector(layout, tuple(names)).select(selectors)

    def _coefficients(
        self, target: Target, floats: tuple[str, ...], layout: Layout | None
    ) -> tuple[set[str], Callable[[str], tuple[Fraction, ...]]]:
        """Return the tensors that the target's numbers reach, and the coefficients of the inputs for each of them."""
        resolve = self.selector(layout, floats).resolve
        problems: list[Problem] = []

        def resolved(number: NumberPerTensor) -> Mapping[str, Fraction]:
            try:
                return resolve(number)
            except RecipeError as error:
                problems.extend(error.problems)
                return {}

        numbers = {
            name: tuple(resolved(each) for each in (number if isinstance(number, tuple) else (number,)))
            for name, number in target.numbers.items()
        }
        if problems:
            raise RecipeError(problems)
        method = METHODS.get(target.method)
        defaults = {name: _default(method, name) for name in numbers} if method else {}
        amounts = [maps for name, maps in numbers.items() if defaults.get(name) is None]
        reached = set().union(*(each for maps in amounts for each in maps)) if amounts else set(floats)
        if target.merge is not None:
            reached &= self._select(target, "merge", floats, layout)
        columns = [(each, defaults.get(name)) for name, maps in numbers.items() for each in maps]
        known: dict[object, tuple[Fraction, ...]] = {}
        by_name = method is not None and method.by_name

        def coefficients(name: str) -> tuple[Fraction, ...]:
            values = tuple(each.get(name, default or _ZERO) for each, default in columns)
            key = (values, name) if by_name else values
            found = known.get(key)
            if found is None:
                found = known[key] = _evaluate(target, numbers, values, name)
            return found

        return reached, coefficients

    def _combine(
        self,
        forms: dict[str, Form],
        names: Iterable[str],
        coefficients: Callable[[str], tuple[Fraction, ...]],
        views: Sequence[_View],
    ) -> None:
        """Put into `forms` what each of `names` is made of; equal combinations of equal forms are computed once."""
        known: dict[tuple[object, ...], Form] = {}
        for name in names:
            of_inputs = tuple(view.form_of(name) for view in views)
            factors = coefficients(name)
            key = (factors, *map(id, of_inputs))
            form = known.get(key)
            if form is None:
                terms: dict[Slot, Fraction] = {}
                for factor, each in zip(factors, of_inputs, strict=True):
                    for slot, coefficient in each.terms:
                        terms[slot] = terms.get(slot, _ZERO) + factor * coefficient
                form = known[key] = self._intern(terms)
            forms[name] = form

    # Do the inputs fit together?

    def _check_fit(self, target: Target, views: Sequence[_View], common: Sequence[str]) -> None:
        first = views[0]
        for view in views[1:]:
            wrong = [name for name in common if view.specs[name].shape != first.specs[name].shape]
            ours, theirs = first.layout, view.layout
            differ = ours is not None and theirs is not None and ours.name != theirs.name
            if wrong:
                raise self._shape_mismatch(target, views, wrong, view if differ else None)
            if differ:
                assert ours is not None
                assert theirs is not None
                raise MismatchError.one(
                    "layout-mismatch",
                    f"the inputs of `{target.name}` are of different architectures: `{ours.name}` and `{theirs.name}`",
                    where=target.where.place(),
                    rows=(self._row(first), self._row(view)),
                    help="checkpoints of different architectures can't be merged",
                )
            shared = sum(name in first.specs for name in view.specs)
            smaller = min(len(first.specs), len(view.specs))
            if 2 * shared < smaller:
                raise MismatchError.one(
                    "too-little-in-common",
                    f"inputs of `{target.name}` share only {shared} tensors, less than half of the smaller one's"
                    f" {smaller}",
                    where=target.where.place(),
                    rows=(self._row(first), self._row(view)),
                    help="`mergebuild inspect FILE --tensors` shows the names",
                )

    def _shape_mismatch(
        self, target: Target, views: Sequence[_View], wrong: Sequence[str], other: _View | None
    ) -> MismatchError:
        name = wrong[0]
        longest = max(len(view.input.ref) for view in views)
        cells = [(self._row(view, longest), view.specs[name]) for view in views if name in view.specs]
        width = max(len(row) for row, _ in cells)
        rows = [f"{row:{width}}  {spec.dtype} {list(spec.shape)}" for row, spec in cells]
        if len(wrong) > 1:
            listed = ", ".join(wrong[1:4])
            rows.append(f"and {len(wrong) - 1} more: {listed}{', ...' if len(wrong) > 4 else ''}")
        mend = "take tensors that differ from one input only, with `merge` or a number that does not reach them"
        if other and views[0].layout and other.layout:
            mend = (
                f"these are `{views[0].layout.name}` and `{other.layout.name}`; checkpoints of different"
                " architectures can't be merged"
            )
        return MismatchError.one(
            "shape-mismatch",
            f"`{name}` differs between the inputs of `{target.name}`",
            where=target.where.place(),
            rows=rows,
            help=mend,
        )

    def _row(self, view: _View, width: int = 0) -> str:
        ref = view.input.ref
        shown = self._sources.file(ref).shown if ref in self._sources else "(a target)"
        return f"{ref:{width}}  {shown}"

    def _check_missing(self, target: Target, missing: Mapping[str, int], left_out: Mapping[str, int]) -> None:
        if target.missing != "error":
            return
        rows = [f"{ref}  lacks {count} tensors of the first input" for ref, count in missing.items() if count]
        rows += [f"{ref}  has {count} tensors that the first input lacks" for ref, count in left_out.items() if count]
        if rows:
            raise MismatchError.one(
                "missing-tensors",
                f'the inputs of `{target.name}` have different tensors, and it says `missing = "error"`',
                where=target.where.place(),
                rows=rows,
                help='`missing = "keep"` takes from the first input what another lacks',
            )


def _spec(info: TensorInfo) -> Spec:
    return Spec(info.dtype, info.shape, info.is_float)


def _default(method: object, name: str) -> Fraction | None:
    parameter = method.parameter(name)  # type: ignore[attr-defined]
    default = parameter.default if parameter else None
    return default if isinstance(default, Fraction) else None


def _evaluate(
    target: Target, numbers: Mapping[str, tuple[Mapping[str, Fraction], ...]], values: Sequence[Fraction], name: str
) -> tuple[Fraction, ...]:
    """Return the coefficients of the inputs for one set of numbers, which stand in the order of `numbers`."""
    given: dict[str, Fraction | tuple[Fraction, ...]] = {}
    at = 0
    for parameter, maps in numbers.items():
        some = tuple(values[at : at + len(maps)])
        at += len(maps)
        given[parameter] = some if isinstance(target.numbers[parameter], tuple) else some[0]
    try:
        if target.formula is not None:
            plain = {parameter: value for parameter, value in given.items() if isinstance(value, Fraction)}
            return target.formula.coefficients(plain)
        return METHODS[target.method].coefficients(len(target.inputs), given, target.flags, name)
    except (UndefinedError, ZeroDivisionError) as error:
        why = "it divides by 0" if isinstance(error, ZeroDivisionError) else str(error)
        raise RecipeError.one(
            "undefined",
            f"target `{target.name}` has no value for `{name}`: {why}",
            where=target.where.place(),
            rows=tuple(f"{parameter} = {_shown(value)}" for parameter, value in given.items()),
            help="change the numbers that reach it",
        ) from error


def _shown(value: Fraction | tuple[Fraction, ...]) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
