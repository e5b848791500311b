"""Stacks: targets whose layers come from slices of their inputs.

A slice is made as a virtual target would be, of *cut* inputs: views with only the tensors that the slice makes, under
the names that these have in the output. So selectors mean layers of the output, gradients run over the layers of a
slice, and nothing of a method knows of stacks. Here inputs are cut, and the blueprints of the slices put together.

A cut view reads its owner's tensors by a table of names. What a tensor is does not depend on its number, so a layer
that is used twice has one digest, and a border that moves changes none. Methods that draw random numbers are told the
first input's own name of a tensor, for the same reason; those that look at several tensors together are told the
output's, as these belong together there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from mergebuild.configuration.layers import layered
from mergebuild.errors import MismatchError, Problem, RecipeError
from mergebuild.fold.counterparts import Spec, together
from mergebuild.fold.draft import Scope
from mergebuild.fold.forms import Blueprint, FirstLayer, Form, Forms, Kinds, Slot
from mergebuild.fold.frames import Frames
from mergebuild.fold.interning import Interner
from mergebuild.fold.naming import table
from mergebuild.fold.numbers import listed
from mergebuild.fold.selection import TensorSelection
from mergebuild.fold.stack_plan import StackPlan, is_following, plan_of, stack_of
from mergebuild.fold.view import MODEL_LIKENESS, View
from mergebuild.naming.spelling import FileSpelling
from mergebuild.recipe.model import LayerRange, Slice, Target

__all__ = ["CutSlice", "Stacks", "scopes_of"]


class CutSlice(NamedTuple):
    """A slice with its inputs, cut to what it makes of them."""

    slice: Slice
    views: tuple[View, ...]
    own_names: Mapping[str, str]
    """By tensor of the output, its name in the first input: of parameters, and of stored tensors that are several."""

    @property
    def floats(self) -> tuple[str, ...]:
        """Its floating-point tensors."""
        return tuple(name for name, spec in self.views[0].specs.items() if spec.is_float)


def scopes_of(slices: Sequence[CutSlice]) -> Sequence[Scope]:
    """Return the scope of each slice of a stack, whose keys may select tensors of other slices."""
    every = dict.fromkeys(name for each in slices for name in each.floats)
    return [Scope(among=tuple(name for name in every if name not in each.views[0].specs)) for each in slices]


class Stacks:
    """Cuts the inputs of stacks, and puts the blueprints of their slices together."""

    def __init__(self, intern: Interner, frames: Frames, selection: TensorSelection) -> None:
        self._intern = intern
        self._frames = frames
        self._selection = selection
        self._known: dict[tuple[object, ...], tuple[View, View]] = {}
        """By a view's likeness and the names of its cut; the view is kept alive."""

    def plan(self, target: Target, inputs: Sequence[Sequence[View]]) -> StackPlan:
        """Return which slice makes which tensor. `inputs`: whole views of the inputs of each slice.

        Raises:
            RecipeError: the model has no stack of layers, or it is not said which of several is meant.
        """
        return plan_of(target, [views[0] for views in inputs])

    def cut(self, plan: StackPlan, index: int, views: Sequence[View]) -> CutSlice:
        """Return a slice with its inputs cut.

        Raises:
            RecipeError: an input has not all of the layers.
            MismatchError: layers of an input are not apart in its file.
        """
        each = plan.slices[index]
        names = [
            _names_of(plan, index, place, view if not view.delta else views[0]) for place, view in enumerate(views)
        ]
        cut = [
            self._cut(plan, index, view, {name: own for name, own in some.items() if own in view.specs})
            for view, some in zip(views, names, strict=True)
        ]
        own = {
            stored: views[0].spelling.stored(names[0][members[0]])
            for stored, members in cut[0].spelling.aliases.items()
            if members[0] in names[0]
        }
        return CutSlice(each, tuple(cut), {**names[0], **own})

    def _cut(self, plan: StackPlan, index: int, view: View, names: Mapping[str, str]) -> View:
        key = (view.input.ref, *MODEL_LIKENESS(view), tuple(names.items()))
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = (view, self._cut_anew(plan.slices[index], view, names))
        return replace(known[1], input=view.input)

    def _cut_anew(self, each: Slice, view: View, names: Mapping[str, str]) -> View:
        back: dict[str, str] = {own: name for name, own in names.items()}
        specs = {name: view.specs[own] for name, own in names.items()}
        tied = dict(_ties(view.tied, back))
        return replace(
            view,
            specs=specs,
            palette=tuple(self._intern.summed(_renamed_terms(form, names)) for form in view.palette),
            kinds=view.kinds and Kinds({name: view.kinds.of[own] for name, own in names.items()}, specs),
            spelling=_renumbered(each.target, view, names),
            tied=tied,
            copies=tuple(name for name in view.copies if name in tied),
            refused={back[own]: problem for own, problem in view.refused.items() if own in back},
            whole=frozenset(back[own] for own in view.whole if own in back),
        )

    # -- all slices together

    def joined(
        self, target: Target, plan: StackPlan, inputs: Sequence[Sequence[View]], slices: Sequence[CutSlice],
        parts: Sequence[Blueprint],
    ) -> Blueprint:  # fmt: skip
        """Return the blueprint of a stack. `inputs`: whole views; `parts`: the blueprints of its slices.

        Raises:
            RecipeError: a selector selects nothing.
            MismatchError: layers of the first input are not apart in its file.
        """
        made = _Joined(plan, self._intern, [self._known_by(*pair) for pair in zip(parts, slices, strict=True)])
        made.take_ties(parts, inputs[0][0].copies)
        first = inputs[0][0]
        spelling = _spelling_of(target, plan, first, made.specs)
        whole = replace(
            first, specs=made.specs, palette=(), kinds=None, spelling=spelling, tied=made.tied, copies=(), refused={}
        )
        made.drop(self._selection.dropped(target, (whole,), made.specs) if target.drop else frozenset())
        return self._blueprint(target, parts, made, spelling)._replace(layers=_layers_of(plan, inputs))

    def _blueprint(
        self, target: Target, parts: Sequence[Blueprint], made: _Joined, spelling: FileSpelling
    ) -> Blueprint:
        specs = made.specs
        return parts[0]._replace(
            target=target,
            kin=None,
            source_specs=specs,
            specs=self._frames.in_dtype(specs, target.dtype),
            forms=made.forms(),
            accounts=together(account for part in parts for account in part.accounts),
            ema_dropped={ref: count for part in reversed(parts) for ref, count in part.ema_dropped.items()},
            warnings=tuple(dict.fromkeys(sentence for part in parts for sentence in part.warnings)),
            spelling=spelling,
            tied=made.tied,
        )

    def _known_by(self, part: Blueprint, each: CutSlice) -> Blueprint:
        """Return a slice's blueprint, in which methods that know a tensor's name are told the first input's."""
        if not any(form.operation and form.operation.method.name_in_key for form in part.forms.palette):
            return part
        naming = table({name: own for name, own in each.own_names.items() if name in part.specs})

        def told(form: Form) -> Form:
            operation = form.operation
            if operation is None or not operation.method.name_in_key or operation.method.makes.surveys:
                return form
            return replace(form, operation=replace(operation, known_as=naming))

        return part._replace(forms=Forms(part.forms.kinds, tuple(map(told, part.forms.palette))))

    def check_selectors(self, each: CutSlice) -> None:
        """Check that each selector of the numbers that a slice itself gives selects something in the slice.

        Raises:
            RecipeError: with all problems.
        """
        problems: list[Problem] = []
        selector = self._selection.selector(self._selection.vocabulary(each.views), each.floats)
        own = (number for key, number in each.slice.target.numbers.items() if key in each.slice.own)
        for one in (one for number in own for one in listed(number)):
            try:
                selector.places(one)
            except RecipeError as error:
                problems.extend(error.problems)
        if problems:
            raise RecipeError(problems)


class _Joined:
    """The tensors of a stack, taken from the blueprints of its slices."""

    def __init__(self, plan: StackPlan, intern: Interner, parts: Sequence[Blueprint]) -> None:
        self._plan = plan
        self._intern = intern
        self._parts = parts
        self.specs: dict[str, Spec] = {}
        self.tied: dict[str, str] = {}
        self._form_of: dict[str, Form] = {}
        for index, part in enumerate(parts):
            taken = [name for name in part.specs if name not in part.tied and plan.owner(name) == index]
            self.specs |= {name: part.source_specs[name] for name in taken}
            self._form_of |= {name: part.forms[name] for name in taken}

    def take_ties(self, parts: Sequence[Blueprint], copies: Sequence[str]) -> None:
        """Take names that are tied in a slice to a tensor that, perhaps, another slice makes.

        A head that is another embedding than the stack's becomes a tensor of its own. Embeddings stay one.
        `copies`: of these names those that the first input's files hold nevertheless.
        """
        for index, part in enumerate(parts):
            for name, other in part.tied.items():
                if self._plan.owner(name) != index or other not in part.specs:
                    continue
                if other in self.specs and (not is_following(name) or self._is_one(part, other)):
                    self.tied[name] = other
                    if name in copies:
                        self.specs[name], self._form_of[name] = self.specs[other], self._form_of[other]
                else:
                    self.specs[name] = part.source_specs[other]
                    self._form_of[name] = self._under(part.forms[other], other)

    def _is_one(self, part: Blueprint, name: str) -> bool:
        """Whether a tensor of a slice is the one that the stack has under this name."""
        same = self._under(part.forms[name], name) == self._under(self._form_of[name], name)
        return same and part.source_specs[name] == self.specs[name]

    def _under(self, form: Form, name: str) -> Form:
        """Return a form that reads what it reads for `name`, whatever the reader's own name is."""
        if form.operation is None:
            return self._intern.under(form, name)
        inputs = tuple(self._intern.under(each, name) for each in form.operation.inputs)
        return Form((), replace(form.operation, inputs=inputs))

    def drop(self, names: frozenset[str]) -> None:
        """Leave tensors and ties out."""
        for name in names:
            self.specs.pop(name, None)
        self.tied = {name: other for name, other in self.tied.items() if name not in names and other in self.specs}

    def forms(self) -> Forms:
        """Return the forms of the tensors; equal ones are of one kind."""
        numbers: dict[int, int] = {}
        palette: list[Form] = []
        of: dict[str, int] = {}
        for name in self.specs:
            form = self._form_of[name]
            if id(form) not in numbers:
                numbers[id(form)] = len(palette)
                palette.append(form)
            of[name] = numbers[id(form)]
        return Forms(Kinds(of, self.specs), tuple(palette))


def _names_of(plan: StackPlan, index: int, place: int, view: View) -> Mapping[str, str]:
    """Return the tensors that a slice takes of an input, by their names in the output."""
    each, layers = plan.slices[index], plan.slices[index].layers[place]
    own = stack_of(each, view)
    lacking = sorted(set(range(layers.first, layers.first + layers.count)) - own.numbers)
    if lacking:
        raise _no_such_layers(each, view, layers, max(own.numbers))
    names: dict[str, str] = {}
    for name in (*view.specs, *view.tied):
        if (there := plan.renamed(index, own, layers, name)) is not None:
            if name in view.specs:
                names[there] = name
            elif (other := view.tied[name]) in view.specs and plan.renamed(index, own, layers, other) is None:
                names[other] = other  # the value of a name that the slice makes
    return names


def _layers_of(plan: StackPlan, inputs: Sequence[Sequence[View]]) -> Mapping[str, tuple[FirstLayer, ...]]:
    """Return where the layers of each stack come from, by the first inputs of the slices."""
    found: dict[str, list[FirstLayer]] = {}
    for each, stack, views in zip(plan.slices, plan.stacks, inputs, strict=True):
        own, layers = stack_of(each, views[0]).name, each.layers[0]
        numbers = range(layers.first, layers.first + layers.count)
        found.setdefault(stack, []).extend(FirstLayer(views[0].input.ref, own, number) for number in numbers)
    return {stack: tuple(some) for stack, some in found.items()}


def _no_such_layers(each: Slice, view: View, layers: LayerRange, last: int) -> RecipeError:
    return RecipeError.one(
        "no-such-layers",
        f"`{each.target.name}` takes {layers.text} of `{view.input.ref}`, which has L00 to L{last:02}",
        where=layers.where.place(),
        help="the last one of a range is taken too: of 32 layers it is L31",
    )


def _renamed_terms(form: Form, names: Mapping[str, str]) -> Iterator[tuple[Slot, Fraction]]:
    for slot, share in form.terms:
        yield Slot(slot.owner, table({name: slot.tensor(own) for name, own in names.items()})), share


def _ties(tied: Mapping[str, str], back: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the ties of a cut input. `back`: by its tensors, their names in the output."""
    for name, other in tied.items():
        if other in back and layered(name) is None:
            yield back.get(name, name), back[other]


def _renumbered(target: Target, view: View, names: Mapping[str, str]) -> FileSpelling:
    """Return the spelling of an input whose parameters have other names.

    Raises:
        MismatchError: a stored tensor is of several layers.
    """
    try:
        return view.spelling.renumbered(names, _number)
    except ValueError as error:
        raise MismatchError.one(
            "layers-not-apart",
            f"`{error}` of `{view.input.ref}` is of several layers, which `{target.name}` takes one by one",
            where=target.where.place(),
            help="name a file first that has each layer by itself",
        ) from error


def _number(name: str) -> int | None:
    at = layered(name)
    return at.number if at else None


def _spelling_of(target: Target, plan: StackPlan, first: View, specs: Mapping[str, Spec]) -> FileSpelling:
    """Return the spelling of a stack: as its first input spells layers, with the numbers that they have there."""
    like: dict[tuple[str, str], list[str]] = {}
    for name in first.specs:
        if (at := layered(name)) is not None:
            like.setdefault((at.stack, at.rest), []).append(name)
    names: dict[str, str] = {}
    for name in specs:
        at = layered(name)
        if at is None or at.stack not in plan.stacks:
            names |= {name: name} if name in first.specs else {}
        elif known := like.get((at.stack, at.rest)):
            names[name] = name if name in known else known[-1]
    return _renumbered(target, first, names)
