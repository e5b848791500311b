"""What a mergefile says, as frozen values. No I/O, no layouts, no headers of sources.

Every value has its place (`Where`); the text is searched for it only if an error shows it. Numbers are exact fractions
of the written decimals. A *family* (a target with `foreach`) is a template: its members are made on demand, so a
thousand of them cost nothing until they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal, Protocol

from mergebuild.errors import Place
from mergebuild.methods.arguments import Flags, Numbers
from mergebuild.methods.making import Linear, Making
from mergebuild.methods.method import Method
from mergebuild.recipe.tokenizer import ChatTemplate, TokenizerText

__all__ = [
    "Component",
    "Constant",
    "Elemental",
    "Formula",
    "Gradient",
    "Input",
    "LayerRange",
    "LayoutText",
    "Mbw",
    "NumberPerTensor",
    "Preset",
    "ProjectOptions",
    "Rule",
    "SelectorText",
    "Slice",
    "Source",
    "Target",
    "TensorRule",
    "Value",
    "Where",
]


class Where(Protocol):
    """Where a value is in the recipe: a file, and a path of keys in it."""

    def place(self, *path: str | int, key: bool = False) -> Place:
        """Return the place of the value (or key) at `path` below this one, or of the nearest value around it."""


@dataclass(frozen=True, slots=True)
class Constant:
    """One number for all tensors that the key selects."""

    number: Fraction


@dataclass(frozen=True, slots=True)
class Gradient:
    """Anchors spread evenly over the model's layers, from first to last, with linear interpolation between them."""

    anchors: tuple[Fraction, ...]


@dataclass(frozen=True, slots=True)
class Preset:
    """A named curve over the blocks of a UNet; its 0 and 1 are mapped to `low` and `high`."""

    name: str
    low: Fraction = Fraction(0)
    high: Fraction = Fraction(1)


@dataclass(frozen=True, slots=True)
class Mbw:
    """A list of block weights in the order of the layout's `mbw` list."""

    numbers: tuple[Fraction, ...]


@dataclass(frozen=True, slots=True)
class Elemental:
    """One rule of supermerger's elemental grammar: `blocks:elements:number`, each list possibly inverted by NOT."""

    blocks: tuple[str, ...]
    not_blocks: bool
    elements: tuple[str, ...]
    not_elements: bool
    number: Fraction


Value = Constant | Gradient | Preset | Mbw | Elemental


@dataclass(frozen=True, slots=True)
class Rule:
    """One key of a number per tensor: the selector as written, or `mbw`, `preset`, `elemental`."""

    key: str
    value: Value
    where: Where = field(compare=False)


@dataclass(frozen=True, slots=True)
class NumberPerTensor:
    """Rules in order; later ones win. A plain number is the single rule `default`."""

    rules: tuple[Rule, ...]

    @property
    def constant(self) -> Fraction | None:
        """The number, if the text alone shows that it is the same for every tensor; else None."""
        if len(self.rules) == 1 and self.rules[0].key == "default" and isinstance(self.rules[0].value, Constant):
            return self.rules[0].value.number
        return None


@dataclass(frozen=True, slots=True)
class SelectorText:
    """A selector of `merge` or `drop`, as written."""

    text: str
    where: Where = field(compare=False)


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a target: its role (`a`, `base`, `models[0]`; in a formula its name there) and what it names."""

    role: str
    ref: str
    """The canonical name of a source, a target, or a member of a family (`mix@alpha=0.3`)."""
    where: Where = field(compare=False)


class Formula(Protocol):
    """A parsed formula: linear in the inputs, with named numbers."""

    @property
    def text(self) -> str:
        """The formula as written, variables filled in."""

    @property
    def models(self) -> tuple[str, ...]:
        """The inputs in order of first appearance, as canonical names."""

    @property
    def numbers(self) -> tuple[str, ...]:
        """The named numbers."""

    def coefficients(self, numbers: Mapping[str, Fraction]) -> tuple[Fraction, ...]:
        """Return one coefficient for each model.

        Raises:
            ZeroDivisionError: a divisor is 0 with these numbers.
            OverflowError: a coefficient has more than 1000 digits.
        """


@dataclass(frozen=True, slots=True)
class Source:
    """A declared source.

    `path` is as written, with `~` and variables replaced; `folder` is the folder of its mergefile.
    """

    name: str
    path: str
    folder: Path
    sha256: str | None
    url: str | None
    where: Where = field(compare=False)
    autov2: str | None = None
    """A pin like `sha256`: 10 hexadecimal digits."""
    autov3: str | None = None
    """A pin like `sha256`: 64 hexadecimal digits, or the first 12."""

    @property
    def pins(self) -> Mapping[str, str]:
        """The hashes that the file must have, by name, in lower-case digits; there may be several."""
        found = {"sha256": self.sha256, "autov2": self.autov2, "autov3": self.autov3}
        return {name: digits for name, digits in found.items() if digits is not None}


@dataclass(frozen=True, slots=True)
class LayoutText:
    """A layout that the user declares in `[layouts.NAME]`, as plain TOML values, which `layouts` interprets."""

    name: str
    table: Mapping[str, object]
    where: Where = field(compare=False)


@dataclass(frozen=True, slots=True)
class Component:
    """A part of a model that is copied from another one, or has a dtype of its own."""

    name: str
    """`vae`, `text_encoder`, `unet`, ...: a name of a part in layouts."""
    input: Input | None
    """None: it is made like the rest of the model."""
    dtype: str | None


@dataclass(frozen=True, slots=True)
class Target:
    """One target, or one member of a family, with all variables filled in."""

    name: str
    method: str
    """A name of the catalog, one of the user's own methods, or `formula`."""
    inputs: tuple[Input, ...]
    """In the method's order: `base` first, then `models`. In a formula: in order of first appearance."""
    numbers: Mapping[str, NumberPerTensor | tuple[NumberPerTensor, ...]]
    """Numbers per tensor by parameter; a tuple, with one for each model, if the parameter has one for each."""
    flags: Mapping[str, bool]
    """Boolean parameters of the method, such as `normalize`; only those given."""
    words: Mapping[str, str | int]
    """Parameters of the method that are words or integers, one for all tensors, such as `vote` or `rank`."""
    formula: Formula | None
    output: str | None
    """As written, variables filled in."""
    output_path: Path | None
    """Absolute, not resolved through links."""
    dtype: str | None
    """`float32`, ..., `source`; the default of `[defaults]` is already filled in. None for a virtual target, unless it
    stands for an input that is rounded first."""
    merge: tuple[SelectorText, ...] | None
    drop: tuple[SelectorText, ...]
    missing: Literal["keep", "error"]
    ema: Literal["drop", "keep", "use"]
    nonfinite: Literal["error", "allow"]
    metadata: Literal["minimal", "full", "none"]
    cache: bool
    where: Where = field(compare=False)
    config: Input | None = None
    """The donor of small files for an output that is a folder; None: the first input that has such files."""
    max_shard_size: int | None = None
    """The most bytes of tensors in one file of a folder; None: the default."""
    components: tuple[Component, ...] = ()
    """Parts of the model that come from another one, or have a dtype of their own; later ones win."""
    on_channels: Literal["error", "common"] = "error"
    """Whether inputs with fewer input channels than the first may take part, with the channels that they have."""
    architectures: Literal["error", "allow"] = "error"
    """Whether the inputs' configurations may name different architectures."""
    rules: tuple[TensorRule, ...] = ()
    """Another method, or other numbers, for some tensors; later ones win."""
    slices: tuple[Slice, ...] = ()
    """If it is a stack: where its layers come from. Method, inputs and numbers are those of the first slice then."""
    tokenizer: TokenizerText | None = None
    """Its tokens, to which rows of embeddings and heads belong; None: rows are merged by their numbers."""
    chat_template: ChatTemplate | None = None
    """The chat template beside its weights; None: that of the tokenizer."""
    row: Method | None = field(default=None, compare=False)
    """The row of `method` in the catalog; None for a formula."""
    kin: object = field(default=None, compare=False, repr=False)
    """The same object for all members of a family that differ only in names, outputs and numbers; None: not known."""

    @property
    def programs(self) -> tuple[Method, ...]:
        """The user's own methods that it, its rules and its slices use, each once."""
        rows = (self.row, *(each.row for _, each in self.others))
        return tuple(dict.fromkeys(row for row in rows if row is not None and row.makes.program is not None))

    @property
    def reads(self) -> tuple[Input, ...]:
        """The inputs, followed by those that only its rules, slices, components, `config` and tokenizer name."""
        if not self.rules and not self.slices and not self.components and not self.beside:
            return self.inputs
        more = (
            Input(f"{key}.{each.role}", each.ref, each.where)
            for key, other in self.others
            for each in other.inputs
            if each not in self.inputs
        )
        baked = (each.input for each in self.components if each.input is not None)
        return (*self.inputs, *more, *baked, *self.beside)

    @property
    def beside(self) -> tuple[Input, ...]:
        """The models that only its small files come from: configuration, tokenizer and chat template."""
        if self.config is None and self.tokenizer is None and self.chat_template is None:
            return ()
        tokens = self.tokenizer.input if self.tokenizer else None
        template = self.chat_template.input if self.chat_template else None
        return tuple(each for each in (self.config, tokens, template) if each is not None)

    @property
    def others(self) -> Iterator[tuple[str, Target]]:
        """The targets that its rules and its slices are, each with its key."""
        yield from ((f"rules[{number}]", rule.target) for number, rule in enumerate(self.rules))
        yield from ((f"slices[{number}]", each.target) for number, each in enumerate(self.slices))

    @property
    def making(self) -> Making:
        """How its tensors are made: by its method, or as a combination by its formula."""
        if self.row is not None:
            return self.row.makes
        assert self.formula is not None  # a target has one or the other
        return _as_linear(self.formula)

    @property
    def is_virtual(self) -> bool:
        """Whether it has no output."""
        return self.output is None

    @property
    def folds(self) -> bool:
        """Whether it is never rounded, so that what reads it can be made of its own inputs."""
        return self.output is None and self.dtype is None

    @property
    def has_only_its_output(self) -> bool:
        """Whether it has an output, and the store keeps no copy of that (`cache = false`)."""
        return not self.cache and self.output is not None


def _as_linear(formula: Formula) -> Linear:
    """Return the making of a formula, whose numbers are not one for each input."""

    def coefficients(_count: int, numbers: Numbers, _flags: Flags, _name: str) -> tuple[Fraction, ...]:
        return formula.coefficients({name: each for name, each in numbers.items() if isinstance(each, Fraction)})

    return Linear(coefficients)


@dataclass(frozen=True, slots=True)
class TensorRule:
    """How a target makes the selected tensors: like another target with the same first input."""

    tensors: tuple[SelectorText, ...]
    target: Target
    """Has no rules of its own; whatever the rule leaves out is taken from its target."""


@dataclass(frozen=True, slots=True)
class LayerRange:
    """Some of an input's layers: `count` from the one with number `first` on; none if `count` is 0."""

    first: int
    count: int
    where: Where = field(compare=False)

    @property
    def text(self) -> str:
        """The layers as a mergefile names them, such as `L00-L15`."""
        if self.count < 2:
            return f"L{self.first:02}" if self.count else "none"
        return f"L{self.first:02}-L{self.first + self.count - 1:02}"


@dataclass(frozen=True, slots=True)
class Slice:
    """Layers of a stack, one after another: made like a target of the layers of its inputs."""

    target: Target
    """Has no slices of its own; whatever the slice leaves out is taken from its target."""
    layers: tuple[LayerRange, ...]
    """Of each input, with equal counts."""
    part: str
    """The part of the model whose layers they are, or a prefix of names; empty: the model's only stack."""
    own: tuple[str, ...] = field(compare=False)
    """The keys that the slice itself gives. Selectors in other numbers may be for other slices alone."""


@dataclass(frozen=True, slots=True)
class ProjectOptions:
    """The `[project]` table."""

    name: str | None = None
    default: tuple[str, ...] | None = None
    link: Literal["auto", "hard", "copy"] = "auto"
    history_bytes: int | None = None
    """None: the default budget."""
    store: str | None = None
