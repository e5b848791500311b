"""Rows of embeddings and heads in the order of a target's tokens.

An input whose tokens have other numbers than the target's is given embeddings and heads with other rows: its own,
another input's, zeros, means. They are results of virtual targets that no recipe names, one for each input, and are
computed in the pass that merges them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from mergebuild.configuration.token_rows import MissingTokenError, RowsOfTokens, RowWish, TokensOfInput, rows_for
from mergebuild.configuration.vocabulary import embedding_of, is_of_tokens
from mergebuild.errors import MismatchError, RecipeError
from mergebuild.fold.forms import Blueprint, Form, Forms, Kinds, Operation, Slot, Spec
from mergebuild.fold.interning import Interner
from mergebuild.fold.view import View
from mergebuild.fold.views import Views
from mergebuild.fold.vocabularies import Vocabularies
from mergebuild.methods.tables.rows_of_tokens import ROWS_OF_TOKENS
from mergebuild.recipe.model import Input, Target
from mergebuild.recipe.tokenizer import TokenizerText

__all__ = ["OrderedRows", "embedding_rows", "tokens_of_loras"]

_Made = tuple[RowsOfTokens, tuple[int, ...]]
"""The rows of a tensor, and the inputs that they are of."""


class OrderedRows:
    """Gives inputs rows in the order of a target's tokens."""

    def __init__(
        self, intern: Interner, views: Views, blueprints: dict[str, Blueprint], vocabularies: Vocabularies
    ) -> None:
        """`blueprints`: the dict to which those of rows are added."""
        self._intern = intern
        self._views = views
        self._blueprints = blueprints
        self._vocabularies = vocabularies
        self._owners: dict[tuple[object, ...], str] = {}
        """By an input and what its rows are of, the name of the virtual target that makes them."""
        self.owners: dict[str, tuple[str, TokenizerText]] = {}
        """By such a name: the target that has the rows made first, and its tokens."""
        self._ordered: dict[tuple[object, ...], tuple[tuple[View, ...], tuple[View, ...]]] = {}
        """By the tokenizer and the ids of views, which are kept alive: the views with other rows."""
        self._rows: dict[tuple[object, ...], _Made | None] = {}
        self._notices: dict[TokenizerText, tuple[str, ...]] = {}

    def __contains__(self, owner: str) -> bool:
        """Whether an owner of slots is the rows of an input in another order."""
        return owner in self.owners

    def ordered(self, target: Target, views: tuple[View, ...]) -> tuple[View, ...]:
        """Return the inputs of a target, with rows in the order of its tokens.

        Raises:
            SourceError: an input has no tokenizer that can be used.
            RecipeError: it adds or makes LoRAs, or names a row that there is not.
            MismatchError: a row is of another width than those beside it.
        """
        text = target.tokenizer
        if text is None:
            return views
        if any(view.delta for view in views):
            raise tokens_of_loras(target)
        key = (text, *(id(each) for view in views for each in (view.specs, view.kinds, *view.palette)))
        found = self._ordered.get(key)
        if found is None:
            every = self._every(target, text, views)
            found = self._ordered[key] = views, tuple(self._with_rows(target, text, every, view) for view in views)
        return tuple(replace(made, input=view.input) for made, view in zip(found[1], views, strict=True))

    def notices(self, target: Target) -> tuple[str, ...]:
        """Return what users should know about the tokens of a target, one sentence each."""
        text = target.tokenizer
        return () if text is None else (*self._vocabularies.said(text).notices, *self._notices.get(text, ()))

    def _every(self, target: Target, text: TokenizerText, views: Sequence[View]) -> tuple[View, ...]:
        """Return the views of all inputs whose rows may be taken, in the order of the text."""
        known = {view.input.ref: view for view in reversed(views)}
        tied = {name for view in views for name in view.specs if is_of_tokens(name)}
        found: list[View] = []
        for each in text.inputs:
            view = known.get(each.ref) or self._views.beside(self._views.view(each, target), views[0])
            for name in sorted(tied - view.specs.keys()):
                view = self._views.untied(view, name)
            found.append(view)
        return tuple(found)

    def _with_rows(self, target: Target, text: TokenizerText, every: Sequence[View], view: View) -> View:
        """Return an input with rows in the order of the tokens; the same one if they are in it already."""
        at = next(place for place, each in enumerate(text.inputs) if each.ref == view.input.ref)
        made: dict[str, _Made] = {}
        for name, spec in view.specs.items():
            if is_of_tokens(name) and spec.is_float:
                counts = tuple(_rows(each, name) for each in every)
                if (rows := self._rows_for(target, text, at, counts)) is not None:
                    _check_widths(target, name, spec, [every[part] for part in rows[1]])
                    made[name] = rows
        return self._placed(target, every, view, made) if made else view

    def _rows_for(self, target: Target, text: TokenizerText, at: int, counts: tuple[int, ...]) -> _Made | None:
        """Return the rows of an input; None if it has just these. `counts`: of the rows of each input's tensor."""
        key = (text, at, counts)
        if key not in self._rows:
            tokens = self._vocabularies.said(text).tokens
            inputs = [
                TokensOfInput(each.ref, self._vocabularies.of(each.ref).tokenizer.ids, count)
                for each, count in zip(text.inputs, counts, strict=True)
            ]
            padding = -len(tokens) % (text.pad_to_multiple_of or 1)
            self._notices[text] = tuple(_notices(text, tokens, inputs, padding))
            try:
                self._rows[key] = rows_for(at, tokens, inputs, _wishes(text), padding)
            except MissingTokenError as error:
                raise _missing(target, text, error) from None
        return self._rows[key]

    def _placed(self, target: Target, every: Sequence[View], view: View, made: Mapping[str, _Made]) -> View:
        """Return an input with other rows, which a virtual target makes: one for equal rows of equal tensors."""
        specs = {
            name: view.specs[name]._replace(shape=_shape(view.specs[name], rows)) for name, (rows, _) in made.items()
        }
        read = [
            (
                name,
                id(rows),
                *(id(self._intern.under(every[part].palette[every[part].kind(name)], name)) for part in parts),
            )
            for name, (rows, parts) in made.items()
        ]
        owner = self._owners.setdefault((view.input.ref, *read), f"{view.input.ref}@rows{len(self._owners)}")
        if owner not in self._blueprints:
            assert target.tokenizer is not None  # else rows stay as they are
            self.owners[owner] = target.name, target.tokenizer
            forms = [_form(name, rows, [every[part] for part in parts]) for name, (rows, parts) in made.items()]
            kinds = Kinds({name: kind for kind, name in enumerate(specs)}, specs)
            self._blueprints[owner] = Blueprint(
                _unnamed(target, owner, view.input), view.layout, specs, specs, Forms(kinds, tuple(forms))
            )
        of = {name: len(view.palette) if name in made else view.kind(name) for name in view.specs}
        whole = {**view.specs, **specs}
        palette = (*view.palette, self._intern({Slot(owner): Fraction(1)}))
        return replace(view, specs=whole, palette=palette, kinds=Kinds(of, whole))


def _form(name: str, rows: RowsOfTokens, parts: Sequence[View]) -> Form:
    """Return the form of an embedding with other rows."""
    inputs = tuple(view.palette[view.kind(name)] for view in parts)
    return Form(
        (), Operation(ROWS_OF_TOKENS, (("rows", rows),), inputs, tuple(view.specs[name].shape for view in parts))
    )


def _unnamed(target: Target, owner: str, of: Input) -> Target:
    """Return the virtual target that makes the rows of an input."""
    return replace(
        target, name=owner, inputs=(of,), output=None, output_path=None, dtype=None, rules=(), slices=(), components=(),
        tokenizer=None, chat_template=None, config=None,
    )  # fmt: skip


def _rows(view: View, name: str) -> int:
    """Return the rows of a tensor of an input; 0 if it has none."""
    spec = view.specs.get(name)
    return spec.shape[0] if spec is not None and spec.is_float and spec.shape else 0


def _shape(spec: Spec, rows: RowsOfTokens) -> tuple[int, ...]:
    return (rows.count + rows.padding, *spec.shape[1:])


def _wishes(text: TokenizerText) -> dict[str, RowWish]:
    place = {each.ref: at for at, each in enumerate(text.inputs)}
    return {
        row.token: RowWish(place[row.input.ref] if row.input else None, row.of, row.zero, row.force)
        for row in text.tokens
    }


def _notices(
    text: TokenizerText, tokens: Sequence[str], inputs: Sequence[TokensOfInput], padding: int
) -> Iterator[str]:
    """Yield sentences about tokens without a row, and about rows that are left out."""
    said = {row.token for row in text.tokens if row.zero or row.input is not None}
    none = [token for token in tokens if token not in said and all(each.row(token) is None for each in inputs)]
    if none:
        yield f"{len(none)} tokens have no row in any input and get zeros, such as `{none[0][:40]}`"
    left = inputs[0].rows - len(tokens) - padding
    if left > 0:
        yield (
            f"`{inputs[0].name}` has {inputs[0].rows} rows, and there are {len(tokens)} tokens: {left} rows that belong"
            " to none are left out; `pad_to_multiple_of` adds such rows"
        )


def embedding_rows(shapes: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the number of rows of a model's embedding; None if none is known."""
    name = embedding_of(shapes)
    return shapes[name][0] if name is not None and shapes[name] else None


def _check_widths(target: Target, name: str, spec: Spec, parts: Sequence[View]) -> None:
    """Check that rows that are put together are equally wide.

    Raises:
        MismatchError: they are not.
    """
    unlike = [view for view in parts if view.specs[name].shape[1:] != spec.shape[1:]]
    if unlike:
        shapes = [f"{view.input.ref}  {list(view.specs[name].shape)}" for view in (*parts[:1], *unlike)]
        raise MismatchError.one(
            "shape-mismatch",
            f"`{name}` differs between the inputs of `{target.name}`, and rows of one are needed in another",
            where=target.where.place("tokenizer"),
            rows=shapes,
            help="models of different widths can't be merged",
        )


def _missing(target: Target, text: TokenizerText, error: MissingTokenError) -> RecipeError:
    row = next(each for each in text.tokens if each.token == error.token)
    wanted = f"row {error.wanted}" if isinstance(error.wanted, int) else f"token `{error.wanted}` that has a row"
    taken = f"`tokenizer` of target `{target.name}` takes the row of `{error.token}` from `{error.model}`"
    return RecipeError.one(
        "unknown-token",
        f"{taken}, which has no {wanted}",
        where=row.where.place(),
        help="`token` names the token whose row it is, and `id` its number",
    )


def tokens_of_loras(target: Target) -> RecipeError:
    """Return the error of a target that adds or makes LoRAs and has a `tokenizer`."""
    return RecipeError.one(
        "tokenizer-of-lora",
        f"target `{target.name}` adds or makes LoRAs, which have no tokens of their own, and has a `tokenizer`",
        where=target.where.place("tokenizer", key=True),
        help="give it to another target, of which this one is an input",
    )
