"""What a writer is given: the target that is asked for, all that it is made of, and a list of what can't be said.

A writer says a target as another tool's recipe only where that recipe, read back, makes the same artifact. Whatever
else a mergefile says is refused with its place, all of it at once: so a writer writes nothing half. Fields of a target
that decide its values are known here by name, and a field that is not known is refused too: a key that mergefiles get
later can't be passed over by a writer that was there before.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Final

from mergebuild.errors import Place, Problem
from mergebuild.exchange.file_names import suffix_of
from mergebuild.fold.folder import Folding
from mergebuild.layouts import Layout, Selector
from mergebuild.naming.canonical import is_constant
from mergebuild.recipe import Recipe
from mergebuild.recipe.model import Input, NumberPerTensor, Source, Target, Where
from mergebuild.recipe.numbers import shortest_text

__all__ = ["Asked", "Numbers", "path_of"]

_SAID: Final = frozenset(
    "name method inputs numbers flags words formula output output_path dtype where row kin".split()
)
"""Fields that each writer says, or refuses, itself."""
_SILENT: Final = frozenset("cache metadata max_shard_size missing".split())
"""Fields that decide nothing about values: what is kept, what a header says, how files are cut, what is an error."""
_PLAIN: Final[Mapping[str, object]] = {"merge": None, "drop": (), "ema": "drop", "nonfinite": "error"}
"""The values of fields that say nothing, where the class has none."""

_OF_AN_INPUT: Final = frozenset(("role", "ref", "where"))

_LONGEST_NUMBER: Final = 60
"""Digits of a number that recipes may have: readers of recipes have bounds too."""
Numbers = Mapping[str, Fraction]
"""The number that reaches each tensor; tensors that none reaches are absent."""


@dataclass
class Asked:
    """A target to be written, and what was refused so far."""

    recipe: Recipe
    target: Target
    format: str
    """What the format is called, in sentences."""
    folding: Callable[[], Folding]
    """Opens the headers of all sources below the target; raises what opening them raises."""
    refused: list[Problem] = field(default_factory=list)

    @property
    def steps(self) -> tuple[Target, ...]:
        """All targets that it is made of, each after those that it needs; itself last."""
        return tuple(map(self.recipe.target, self.recipe.below(self.target.name)))

    def refuse(self, message: str, where: Where | Place, *path: str | int, help: str = "", key: bool = False) -> None:
        """Add what the format can't say, with its place: that of the value (or key) at `path` below `where`."""
        place = where if isinstance(where, Place) else where.place(*path, key=key)
        self.refused.append(Problem("not-sayable", message, place, help))

    def check(self, target: Target, *, but: Collection[str] = ()) -> None:
        """Refuse what no format says: parts of a model, rules, choices of tensors, files between steps.

        `but`: fields that this format says.
        """
        for name in _choices(target):
            if name in but:
                continue
            self.refuse(
                f"target `{target.name}` has `{name}`, for which export to {self.format} has no word",
                target.where,
                name,
                key=True,
            )
        for each in target.inputs:
            if _is_more_than_a_name(each):
                self.refuse(f"`{each.role}` of target `{target.name}` is more than a model's name", each.where)
        if target.output is None and target.dtype is not None:
            self.refuse(
                f"`{target.name}` is rounded before it is used, for which export to {self.format} has no word",
                target.where,
            )
        if target is not self.target and target.output is not None:
            message = f"`{target.name}` is a file, whose rounded values `{self.target.name}` reads"
            mend = "steps of a recipe are read back as exact values: leave its `output` out, then it is one"
            self.refuse(message, target.where, "output", key=True, help=mend)

    def source(self, given: Input) -> Source | None:
        """Return the source that an input is; None if it is a target."""
        return self.recipe.sources.get(given.ref)

    def path(self, source: Source) -> str:
        """Return a source's path as a recipe in the mergefile's folder names it, with slashes."""
        return path_of(source, self.recipe.root)

    def is_folder(self, source: Source) -> bool:
        """Whether a source is a folder, by its path, or as it is there."""
        if source.path.endswith("/"):
            return True
        return not suffix_of(source.path) and (source.folder / source.path).is_dir()

    def is_file(self, source: Source) -> bool:
        """Whether a source is a file, by its path, or as it is there."""
        return bool(suffix_of(source.path)) or (source.folder / source.path).is_file()

    def file(self, source: Source) -> str:
        """Return the path of a source that must be a file; a folder is refused."""
        if self.is_folder(source):
            self.refuse(f"source `{source.name}` is a folder, and {self.format} reads files", source.where)
        return self.path(source)

    def check_output(self) -> None:
        """Refuse a target without an output, which keeps what it does not merge in its own dtype, unlike any file."""
        if self.target.output is None:
            message = f"target `{self.target.name}` has no output, and a recipe's result has one"
            self.refuse(message, self.target.where, help='give it one, such as `output = "out.safetensors"`')

    def check_file(self) -> str:
        """Return the suffix of the file that the target is; "", and refused, where it is none."""
        output = self.target.output
        suffix = PurePosixPath(output or "").suffix
        if suffix in (".safetensors", ".ckpt"):
            return suffix
        self.check_output()
        if output is not None:
            message = f"the output of target `{self.target.name}` is a folder, and {self.format} writes files"
            self.refuse(message, self.target.where, "output")
        return ""

    def is_halved(self) -> bool:
        """Whether the target is float16; else it must be as its inputs are, or is refused."""
        if self.target.output is None or self.target.dtype == "float16":
            return self.target.dtype == "float16"
        if not self.is_as_stored():
            told = f"{self.target.dtype}, and {self.format} writes float16, or what the inputs are"
            mend = '`dtype = "float16"`, or `"source"`'
            self.refuse(f"target `{self.target.name}` is {told}", self.target.where, "dtype", help=mend)
        return False

    def decimal(self, number: Fraction, where: Where, *path: str | int) -> str:
        """Return a number in its shortest plain form; "0", and refused, where it has none."""
        named = f"`{path[-1]}` comes to" if path else "a number is"
        mend = "write rounded numbers"
        try:
            found = shortest_text(number)
        except ValueError:
            self.refuse(f"{named} a fraction without a finite decimal form", where, *path, help=mend)
            return "0"
        if len(found) > _LONGEST_NUMBER:
            self.refuse(f"{named} a number of {len(found)} digits", where, *path, help=mend)
        return found

    def constant(self, target: Target, name: str) -> str:
        """Return the one number that a parameter is; "0", and refused, where it is a table."""
        number = target.numbers[name]
        assert isinstance(number, NumberPerTensor), "parameters for each model are their writers' own"
        found = number.constant
        if found is not None:
            return self.decimal(found, target.where, name)
        message = f"`{name}` of target `{target.name}` is a table, and {self.format} has one number for all tensors"
        self.refuse(message, target.where, name, key=True)
        return "0"

    def layout(self, target: Target) -> Layout | None:
        """Return the layout of a target's tensors; None if it is unknown. One of the project's own is refused."""
        found = self.folding().blueprint(target.name).layout
        if found is not None and found.name in self.recipe.layouts:
            message = f"`{target.name}` has blocks of the project's own layout `{found.name}`"
            self.refuse(message, self.recipe.layouts[found.name].where)
        return found

    def reached(self, target: Target, number: NumberPerTensor) -> Numbers:
        """Return the number that reaches each tensor that is merged at all, by canonical name."""
        folding = self.folding()
        folding.blueprint(target.name)  # raises if it can't be made
        specs = folding.blueprint(target.name).specs
        found = self.selector(target).resolve(number)
        return {
            name: each for name, each in found.items() if name in specs and not is_constant(name, specs[name].shape)
        }

    def floats(self, target: Target) -> tuple[str, ...]:
        """Return the canonical names of the tensors that numbers can reach."""
        specs = self.folding().blueprint(target.name).specs
        names = self.selector(target).names
        return tuple(name for name in names if name in specs and not is_constant(name, specs[name].shape))

    def selector(self, target: Target) -> Selector:
        """Return what gives numbers to the tensors of a target that has no rules and no components."""
        return self.folding().selector(target.name)

    def dtype(self) -> str | None:
        """Return the dtype that all floating-point tensors of the target get; None: there are several, or no output."""
        if self.target.dtype is None:
            return None
        if self.target.dtype != "source":
            return self.target.dtype
        specs = self.folding().blueprint(self.target.name).specs
        found = {spec.dtype for spec in specs.values() if spec.is_float}
        return found.pop() if len(found) == 1 else None

    def is_as_stored(self) -> bool:
        """Whether each tensor of the target keeps the dtype of its first input: as `dtype = "source"` asks."""
        if self.target.dtype in (None, "source"):
            return self.target.dtype == "source"
        specs = self.folding().blueprint(self.target.name).source_specs
        return {spec.dtype for spec in specs.values() if spec.is_float} == {self.target.dtype}


def path_of(source: Source, root: Path) -> str:
    """Return a source's path as it is from a folder, with slashes; an absolute one as it is."""
    path = Path(source.path)
    if path.is_absolute() or source.folder == root:
        text = source.path
    else:
        text = os.path.relpath(source.folder / path, root) + "/" * source.path.endswith("/")
    return re.sub(r"^(?:\./)+", "", text.replace(os.sep, "/"))


def _choices(target: Target) -> Iterator[str]:
    """Yield the fields of a target that say something that no writer says."""
    for each in fields(target):
        if each.name in _SAID or each.name in _SILENT:
            continue
        plain = _PLAIN.get(each.name, each.default)
        assert plain is not MISSING, f"the field `{each.name}` of targets is known to no writer"
        if getattr(target, each.name) != plain:
            yield each.name


def _is_more_than_a_name(given: Input) -> bool:
    """Whether an input has a field, of later versions too, that says more than what it is and which one it names."""
    return any(getattr(given, each.name) != each.default for each in fields(given) if each.name not in _OF_AN_INPUT)
