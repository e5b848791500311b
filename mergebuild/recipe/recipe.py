"""A whole mergefile, read and checked: other rooms ask it for targets, sources and outputs.

Loading checks every target, the first member of every family, and the output of every listed member. Other members are
made, and checked with all that they need, when they are asked for.
"""

from __future__ import annotations

import os
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, NoReturn, cast

from mergebuild.errors import Problem, UsageError, did_you_mean
from mergebuild.formats.registry import SUFFIXES
from mergebuild.methods.method import Method
from mergebuild.recipe.declared import Declared
from mergebuild.recipe.families import Family, Values
from mergebuild.recipe.files import File
from mergebuild.recipe.methods import OwnMethods
from mergebuild.recipe.model import LayoutText, ProjectOptions, Source, Target, Where
from mergebuild.recipe.namespace import Namespace, NoSuchNameError
from mergebuild.recipe.outputs import OutputPaths
from mergebuild.recipe.paths import SAFETENSORS, OutputError, absolute, check_output
from mergebuild.recipe.places import At
from mergebuild.recipe.problems import Problems
from mergebuild.recipe.target_table import Declaration
from mergebuild.recipe.targets import Reading, read_target
from mergebuild.recipe.template import Template
from mergebuild.recipe.variables import Scalar, Scope, VariableError, render
from mergebuild.recipe.walk import Walk

__all__ = ["Parts", "Recipe"]

_SHORT_CHAIN = 100
_FEW_VARIABLES = 30
"""So few are copied for a member: that is faster than looking up each name in two mappings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What loading found, before targets are read."""

    files: Sequence[File]
    project: ProjectOptions
    sources: Mapping[str, Source]
    layouts: Mapping[str, LayoutText]
    declared: Mapping[str, Declaration]
    families: Mapping[str, Family]
    scope: Scope
    namespace: Namespace
    default_dtype: str
    places: Declared
    methods: OwnMethods


class _Listed(NamedTuple):
    """A listed member of a family whose name and output were checked."""

    values: Values
    output: str
    path: str
    """The output's absolute path."""


class Recipe:
    """A checked mergefile. Made by `load_recipe`, whose docstring says which errors are raised."""

    def __init__(self, parts: Parts, default: Iterable[tuple[str, At]], problems: Problems) -> None:
        self.path = parts.files[0].document.path
        self.root = self.path.parent
        documents = (file.document for file in parts.files)
        self._texts = {**{each.path: each.text for each in documents}, **parts.methods.texts}
        self.files = tuple(self._texts)
        self.own_methods = parts.methods.rows
        """The methods of `[methods]`, by name."""
        self.default_dtype = parts.default_dtype
        """The dtype of `[defaults]`."""
        self.project = parts.project
        self.sources = parts.sources
        self.layouts = parts.layouts
        self.families = tuple(parts.families)
        self._parts = parts
        self._declared = parts.declared
        self._families = parts.families
        self._namespace = parts.namespace
        self._methods = parts.methods.known
        self._targets: dict[str, Reading] = {}
        self._listed: dict[str, _Listed] = {}
        self._members_of: dict[str, list[str]] = {}
        """By family: its listed members, after their outputs were checked."""
        self._templates: dict[str, Template | None] = {}
        """By family: how its members are made, once a second one is asked for; None: each is read by itself."""
        self._below: dict[str, tuple[str, ...]] = {}
        self._on_sources: set[object] = set()
        """The `kin` of targets that read only sources."""
        root = str(self.root)
        store = absolute(parts.project.store or ".mergebuild", root)
        self._outputs = OutputPaths(parts.sources.values(), root, store, map(os.path.abspath, self.files))
        self._check_all(default, problems)

    @property
    def texts(self) -> Mapping[Path, str]:
        """The files that it was read from so far, with their texts as read.

        These are the mergefile, those that it includes, those of the user's own methods, and chat templates of targets.
        """
        read = (reading.target.chat_template for reading in self._targets.values() if reading.target is not None)
        templates = {each.path: each.text for each in read if each is not None and each.path is not None}
        return {**self._texts, **templates}

    def target(self, name: str) -> Target:
        """Return a target or a member of a family, listed or not, by any spelling of its name.

        Raises:
            UsageError: no such target, or several.
            RecipeError: a member is invalid, or something that it needs, which was not read before.
        """
        known = self._targets.get(name)
        if known is not None and known.target is not None:
            return known.target
        alike = self._made_alike(name)
        if alike is not None:
            return alike
        return self._checked(self._canonical(name))

    def _canonical(self, name: str) -> str:
        """Return the canonical name of a target or member; raise `UsageError` if there is none, or several."""
        if name in self.sources:
            _raise_unknown(self._namespace.unknown(name, sources=False))
        try:
            return self._namespace.one(name)
        except NoSuchNameError as error:
            _raise_unknown(error)

    def _checked(self, name: str) -> Target:
        """Read a target with all that it needs; if something is wrong, raise that and forget what was read."""
        problems = Problems()
        before = len(self._targets)
        self._check([name], problems)
        found = self._targets[name].target
        if problems or found is None:
            for added in list(self._targets)[before:]:
                del self._targets[added]
            problems.fail()
        return found

    def _made_alike(self, name: str) -> Target | None:
        """Return a member, made by its family's template; None if it must be read by itself, or is not listed."""
        listed = self._listed.get(name)
        if listed is None:
            return None
        template = self._template(name.partition("@")[0])
        if template is None:
            return None
        problems = Problems()
        scope = _within(self._parts.scope, listed.values)
        reading = template.member(name, scope, listed.output, listed.path, problems)
        if problems:
            return None
        self._targets[name] = reading
        return reading.target

    def _template(self, family: str) -> Template | None:
        """Return the template of a family; None if its members differ in more than a template can."""
        if family not in self._templates:
            first = self._families[family].first
            scope = _within(self._parts.scope, self._listed[first].values)
            self._templates[family] = Template.of(
                self._declared[family], first, scope, self._namespace, self._methods, self._parts.default_dtype
            )
        return self._templates[family]

    def beginning(self, ref: str) -> str:
        """Return the source at the end of the chain of first inputs that begins with this input.

        Raises:
            UsageError, RecipeError: as `target`.
        """
        while ref not in self.sources:
            ref = self.target(ref).inputs[0].ref
        return ref

    def below(self, name: str) -> tuple[str, ...]:
        """Return a target and all targets that it needs, each once and after those that it needs itself.

        Raises:
            UsageError, RecipeError: as `target`.
        """
        known = self._below.get(name)
        if known is not None:
            return known
        whole = self.target(name)
        if self._is_on_sources(whole):
            return (whole.name,)
        found = self._below_anew(whole)
        if len(found) <= _SHORT_CHAIN:  # keeping it for each target of a long chain would take quadratic memory
            self._below[name] = found
        return found

    def _is_on_sources(self, target: Target) -> bool:
        """Whether a target reads only sources; if so, all of its kin do."""
        if target.kin in self._on_sources:
            return True
        found = all(each.ref in self.sources for each in target.reads)
        if found and target.kin is not None:
            self._on_sources.add(target.kin)
        return found

    def _below_anew(self, top: Target) -> tuple[str, ...]:
        """Return `below` of a target. Not recursive, as chains may be longer than the stack allows."""
        done: dict[str, None] = {}
        stack = [(top, iter(top.reads))]
        while stack:
            target, rest = stack[-1]
            need = next((each.ref for each in rest if each.ref not in done and each.ref not in self.sources), None)
            if need is None:
                done[target.name] = None
                stack.pop()
            else:
                stack.append((self.target(need), iter(self.target(need).reads)))
        return tuple(done)

    def programs(self, name: str) -> tuple[Method, ...]:
        """Return the user's own methods that run when a target is made: its own, and those of virtual targets below it.

        Raises:
            UsageError, RecipeError: as `target`.
        """
        found: dict[Method, None] = {}
        seen: set[str] = set()
        waiting = [name] if self.own_methods else []
        while waiting:
            target = self.target(waiting.pop())
            seen.add(target.name)
            found |= dict.fromkeys(target.programs)
            below = (each.ref for each in target.reads if each.ref not in self.sources and each.ref not in seen)
            waiting += [ref for ref in below if self.target(ref).is_virtual]
        return tuple(found)

    def resolve(self, asked: Sequence[str]) -> tuple[str, ...]:
        """Return the canonical names of the targets that a user asks for: by name, family, member, slice, or output.

        If nothing is asked for, these are `[project] default`, or else all targets with an output.

        Raises:
            UsageError: one of them is no target and no output.
        """
        if isinstance(asked, str):  # a sequence of its letters, too
            raise UsageError.one("bad-targets", f"targets are `{asked}`, a string", help="name them in a list")
        if not asked:
            asked = self.project.default or ()
            if self.project.default is None:
                return tuple(self._paths)
        return self._all_named(asked)

    def _all_named(self, texts: Iterable[str]) -> tuple[str, ...]:
        """Return the canonical names of the targets that these texts name; raise one `UsageError` for all of them."""
        found: dict[str, None] = {}
        problems: list[Problem] = []
        for text in texts:
            try:
                found.update(dict.fromkeys(self._named(text)))
            except UsageError as error:
                problems.extend(error.problems)
        if problems:
            raise UsageError(problems)
        return tuple(found)

    def _named(self, text: str) -> Iterable[str]:
        """Return the canonical names of the targets that one text names."""
        try:
            return self._namespace.expand(text)
        except NoSuchNameError as error:
            output = self._outputs.owner(text, self.root)
            if output is None:
                raise UsageError.one(error.code, str(error), help=self._output_like(text) or error.hint) from None
            return (output,)

    def target_names(self) -> list[str]:
        """Return the names of all targets in the order of the files; for a family, its listed members."""
        return [name for declared in self._declared for name in self._members(declared)]

    def outputs(self) -> Mapping[Path, str]:
        """Return the target of every output, for listed members too; paths are absolute, links not resolved."""
        return {Path(path): name for name, path in self._paths.items()}

    def reserved(self, path: Path) -> str:
        """Return why nothing may be written to a path, as the end of a sentence about it; empty if it may."""
        return self._outputs.reserved(os.path.normcase(os.path.normpath(path)))

    def notices(self, name: str) -> tuple[str, ...]:
        """Return notices about a target that follow from the mergefile alone, a sentence each."""
        return self._outputs.notices(name)

    def where(self, name: str) -> Where:
        """Return where a source or a target is declared; for a member, where its family is.

        Raises:
            KeyError: it is not declared.
        """
        if name in self._namespace.inline:
            return self._namespace.inline.at(name)
        return self._parts.places.at(name.partition("@")[0].strip())

    @cached_property
    def _paths(self) -> dict[str, str]:
        """From a listed target with an output to its path, in the order of the files."""
        owned = {name: path for path, name in self._outputs.listed.items()}
        return {name: owned[name] for name in self.target_names() if name in owned}

    # -- checks

    def _check_all(self, default: Iterable[tuple[str, At]], problems: Problems) -> None:
        firsts = [next(iter(self._members(name)), name) for name in self._declared]
        self._check([name for name in firsts if self._readable(name)], problems)
        for family in self._families.values():
            self._check_outputs(family, problems)
        for text, at in default:
            try:
                self._namespace.expand(text)
            except NoSuchNameError as error:
                problems.add(error.code, f"`default` of `[project]`: {error}", at, help=error.hint)
        if problems:
            problems.fail()

    def _readable(self, name: str) -> bool:
        declared = name.partition("@")[0]
        return declared in self._families or "foreach" not in self._declared[declared].table

    def _members(self, declared: str) -> Iterator[str]:
        family = self._families.get(declared)
        if family is None:
            return iter((declared,))
        known = self._members_of.get(declared)
        return iter(known) if known is not None else (name for name, _ in family.members())

    def _check(self, names: Iterable[str], problems: Problems) -> None:
        """Read these targets and all that they need, depth first, and report mistakes."""
        for name in names:
            if name not in self._targets:
                Walk(self._read, problems).from_(name)

    def _read(self, name: str, problems: Problems) -> tuple[tuple[str, At], ...] | None:
        """Read a target and return the sources and targets that it refers to.

        None if there is nothing to read: the name is of a source, of no target, or of one that was read before.
        """
        if name in self._targets or name in self.sources:
            return None
        if name in self._namespace.inline:
            made, at = self._namespace.inline.target(name, self._methods.rows), self._namespace.inline.at(name)
            self._targets[name] = Reading(made, tuple((each.ref, at) for each in made.inputs))
            return self._targets[name].refs
        declared = name.partition("@")[0]
        if declared not in self._declared or not self._readable(declared):
            return None
        declaration = self._declared[declared]
        scope, is_listed = self._scope(name)
        reading = read_target(declaration, name, scope, self._namespace, self._methods, self.default_dtype, problems)
        self._targets[name] = reading
        if reading.target is not None and reading.target.output_path is not None:
            at = declaration.at.child("output")
            self._outputs.claim(str(reading.target.output_path), name, at, problems, listed=is_listed)
        return reading.refs

    def _scope(self, name: str) -> tuple[Scope, bool]:
        """Return the scope of a target or member, and whether it is listed."""
        if name.partition("@")[0] not in self._families:
            return self._parts.scope, True
        member = self._namespace.member(name)
        return _within(self._parts.scope, member.values), member.is_listed

    def _check_outputs(self, family: Family, problems: Problems) -> None:
        """Check the output of every listed member, up to the first mistake."""
        declaration = self._declared[family.name]
        raw = declaration.table.get("output")
        first = self._targets.get(family.first)
        if not isinstance(raw, str) or first is None or first.target is None:
            return
        at = declaration.at.child("output")
        before = len(problems)
        names: list[str] = []
        for name, values in family.members():
            self._check_output(raw, name, values, at, problems)
            if len(problems) > before:
                return
            names.append(name)
        self._members_of[family.name] = names

    def _check_output(self, raw: str, name: str, values: Values, at: At, problems: Problems) -> None:
        try:
            text = render(raw, _within(self._parts.scope, values))
            if not isinstance(text, str):
                problems.add("wrong-type", f"`output` of target `{name}` is no string, expected a path", at,
                             help=SAFETENSORS)  # fmt: skip
                return
            check_output(text)
        except VariableError as error:
            if error.code:  # else the variable itself is reported
                problems.add(error.code, f"`output` of target `{name}`: {error}", at, help=error.hint)
        except OutputError as error:
            problems.add(error.code, f"`output` of target `{name}` {error}", at, help=error.hint)
        else:
            self._claim_listed(text, name, values, at, problems)

    def _claim_listed(self, output: str, name: str, values: Values, at: At, problems: Problems) -> None:
        """Record the output of a listed member, or report what is wrong with it."""
        before = len(problems)
        path = absolute(output, at.document.folder)
        self._outputs.claim(path, name, at, problems, listed=True)
        if len(problems) == before:
            self._listed[name] = _Listed(values, output, path)

    def _output_like(self, text: str) -> str:
        if not text.endswith(SUFFIXES):
            return ""
        shown = [os.path.relpath(path, self.root) for path in list(self._outputs.listed)[:10_000]]
        return did_you_mean(text, shown, otherwise="it is the output of no target")


def _within(scope: Scope, values: Values) -> Scope:
    """Return the scope of a member: its axes, then the variables. Many variables are not copied for each of 100,000."""
    if len(scope) <= _FEW_VARIABLES:
        return {**scope, **values}
    maps = cast("list[MutableMapping[str, Scalar | None]]", [values, scope])  # they are only read
    return ChainMap(*maps)


def _raise_unknown(error: NoSuchNameError) -> NoReturn:
    raise UsageError.one(error.code, str(error), help=error.hint) from None
