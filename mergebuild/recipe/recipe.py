"""A whole mergefile, read and checked: what every other room asks for targets, sources and outputs.

Loading checks every target, the first member of every family, and the output of every listed member. Other members
are made when someone asks, and checked then with all that they need.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import xxhash

from mergebuild.errors import Place, Problem, UsageError, did_you_mean
from mergebuild.recipe.declared import (
    Declared,
    declarations,
    read_default_dtype,
    read_layouts,
    read_project,
    read_sources,
    read_variables,
)
from mergebuild.recipe.families import Family, Values, read_axes
from mergebuild.recipe.files import File, read_files
from mergebuild.recipe.model import LayoutText, ProjectOptions, Source, Target, Where
from mergebuild.recipe.namespace import Namespace, NoSuchNameError
from mergebuild.recipe.nodes import Reader, resolve
from mergebuild.recipe.overrides import Override, apply_to_target, parse_override, raw_variable, target_of
from mergebuild.recipe.places import At
from mergebuild.recipe.problems import Problems
from mergebuild.recipe.targets import Declaration, OutputError, Reading, absolute, check_output, read_target
from mergebuild.recipe.variables import Scope, VariableError, render

__all__ = ["FamilySummary", "Recipe", "load_recipe"]

_LONGEST_CHAIN = 1000
"""So many members of one family that need each other are an endless chain: families are open."""


@dataclass(frozen=True, slots=True)
class FamilySummary:
    """A family in one line: its axes and how many members they list."""

    name: str
    axes: tuple[str, ...]
    size: int


def load_recipe(path: Path, *, overrides: Sequence[str] = (), variables: Mapping[str, object] | None = None) -> Recipe:
    """Read a mergefile with what it includes.

    Args:
        path: the mergefile.
        overrides: edits as `--set` takes them: `m=0.4`, `orange.alpha=0.4`, `orange.alpha.IN04=0.4`.
        variables: values for `[vars]`, as TOML or JSON give them; floats mean their shortest decimal.

    Raises:
        RecipeError: everything that is wrong with the files, at once.
        UsageError: an override or a variable that the mergefile does not have, or whose value it can't take.
    """
    problems = Problems()
    files = read_files(path, problems)
    edits = _parsed(overrides)
    scope, edits = _variables(files, edits, variables or {}, problems)
    names = Declared(problems)
    sources = read_sources(files, scope, names, problems)
    source_names = names.names
    declared = declarations(files, scope, names, problems)
    _apply(edits, declared, scope)
    families = _families(declared, scope, problems)
    plain = [name for name, declaration in declared.items() if "foreach" not in declaration.table]
    namespace = Namespace(source_names, plain, families, names.names - source_names - {*plain, *families})
    project, default = read_project(files[0], scope, problems)
    parts = _Parts(
        files=files,
        text_digest=_digest(files, overrides, variables or {}),
        project=project,
        sources=sources,
        layouts=read_layouts(files, scope, problems),
        declared=declared,
        families=families,
        scope=scope,
        namespace=namespace,
        default_dtype=read_default_dtype(files[0], scope, problems),
        places=names,
    )
    recipe = Recipe(parts)
    recipe._check_all(default, problems)  # noqa: SLF001 -- the other half of the constructor
    return recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What loading found, before the targets are read."""

    files: Sequence[File]
    text_digest: str
    project: ProjectOptions
    sources: Mapping[str, Source]
    layouts: Mapping[str, LayoutText]
    declared: Mapping[str, Declaration]
    families: Mapping[str, Family]
    scope: Scope
    namespace: Namespace
    default_dtype: str
    places: Declared


class Recipe:
    """A checked mergefile. Made by `load_recipe`."""

    def __init__(self, parts: _Parts) -> None:
        self.path = parts.files[0].document.path
        self.root = self.path.parent
        self.files = tuple(file.document.path for file in parts.files)
        """The mergefile and what it includes."""
        self.default_dtype = parts.default_dtype
        """The dtype of `[defaults]`."""
        self.text_digest = parts.text_digest
        """Of all texts, overrides and given variables: 32 hexadecimal digits."""
        self.project = parts.project
        self.sources = parts.sources
        self.layouts = parts.layouts
        self.families = tuple(parts.families)
        self._parts = parts
        self._declared = parts.declared
        self._families = parts.families
        self._namespace = parts.namespace
        self._targets: dict[str, Reading] = {}
        self._outputs = _Outputs(parts.sources.values())

    def target(self, name: str) -> Target:
        """Return a target or a member of a family, listed or not, however it is spelled.

        Raises:
            UsageError: no such target, or several.
            RecipeError: a member that only now turns out to be wrong, or something that it needs.
        """
        known = self._targets.get(name)
        if known is not None and known.target is not None:
            return known.target
        if name in self.sources:
            _raise_unknown(self._namespace.unknown(name, sources=False))
        try:
            canonical = self._namespace.one(name)
        except NoSuchNameError as error:
            _raise_unknown(error)
        problems = Problems()
        before = len(self._targets)
        self._check([canonical], problems)
        found = self._targets[canonical].target
        if problems or found is None:
            for added in list(self._targets)[before:]:
                del self._targets[added]
            problems.fail()
        return found

    def resolve(self, asked: Sequence[str]) -> tuple[str, ...]:
        """Return the canonical names of what a user asks for: names, families, members, slices, paths of outputs.

        Nothing asked is `[project] default`, or else every target with an output.

        Raises:
            UsageError: one of them is no target and no output.
        """
        if not asked:
            asked = self.project.default or ()
            if self.project.default is None:
                return tuple(self._paths)
        found: dict[str, None] = {}
        problems: list[Problem] = []
        for text in asked:
            try:
                found.update(dict.fromkeys(self._namespace.expand(text)))
            except NoSuchNameError as error:
                output = self._outputs.owner(text, self.root)
                if output is not None:
                    found[output] = None
                else:
                    problems.append(Problem(error.code, str(error), None, self._output_like(text) or error.hint))
        if problems:
            raise UsageError(problems)
        return tuple(found)

    def target_names(self) -> list[str]:
        """Return every target in the order of the files, families as their listed members."""
        return [name for declared in self._declared for name in self._members(declared)]

    def families_summary(self) -> list[FamilySummary]:
        """Return what families there are, without their members."""
        return [
            FamilySummary(family.name, tuple(axis.name for axis in family.axes), family.size)
            for family in self._families.values()
        ]

    def outputs(self) -> Mapping[Path, str]:
        """Return the target of every output, members listed; paths absolute and normal, links as they are."""
        return {Path(path): name for name, path in self._paths.items()}

    def closure(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return these targets and all that they need, each once and after what it needs.

        Raises:
            UsageError, RecipeError: as `target`.
        """
        done: dict[str, None] = {}
        for name in names:
            stack = [(self.target(name), iter(self.target(name).inputs))]
            while stack:
                target, rest = stack[-1]
                below = next((one.ref for one in rest if one.ref not in done and one.ref not in self.sources), None)
                if below is None:
                    done[target.name] = None
                    stack.pop()
                elif below not in done:
                    stack.append((self.target(below), iter(self.target(below).inputs)))
        return tuple(done)

    def where(self, name: str) -> Where:
        """Return where a source or a target is declared; for a member, its family.

        Raises:
            KeyError: it is not declared.
        """
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
        return iter((declared,)) if family is None else (name for name, _ in family.members())

    def _check(self, names: Iterable[str], problems: Problems) -> None:
        """Read these targets and all that they need, depth first, and report what is wrong."""
        for name in names:
            if name not in self._targets:
                _Walk(self._read, problems).from_(name)

    def _read(self, name: str, problems: Problems) -> tuple[tuple[str, At], ...] | None:
        """Return what a target needs beside sources; None when it has been read before, or is a source."""
        if name in self._targets or name in self.sources:
            return None
        declared = name.partition("@")[0]
        if declared not in self._declared:
            return None
        declaration = self._declared[declared]
        scope: Scope = self._parts.scope
        if declared in self._families:
            scope = {**scope, **self._namespace.values(name)[1]}
        elif "foreach" in declaration.table:
            return None
        reading = read_target(declaration, name, scope, self._namespace, self._parts.default_dtype, problems)
        self._targets[name] = reading
        target = reading.target
        if target is not None and target.output_path is not None:
            at = declaration.at.child("output")
            self._outputs.claim(str(target.output_path), name, at, problems, listed=self._is_listed(name))
        return reading.refs

    def _is_listed(self, name: str) -> bool:
        family = self._families.get(name.partition("@")[0])
        if family is None:
            return True
        fixed = family.read(name.partition("@")[2])
        return all(fixed[axis.name][1] in axis.texts for axis in family.axes)

    def _check_outputs(self, family: Family, problems: Problems) -> None:
        """Check the output of every listed member, up to the first that is wrong."""
        declaration = self._declared[family.name]
        raw = declaration.table.get("output")
        first = self._targets.get(family.first)
        if not isinstance(raw, str) or first is None or first.target is None:
            return
        at = declaration.at.child("output")
        before = len(problems)
        for name, values in family.members():
            self._check_output(raw, name, values, at, problems)
            if len(problems) > before:
                return

    def _check_output(self, raw: str, name: str, values: Values, at: At, problems: Problems) -> None:
        try:
            text = render(raw, {**self._parts.scope, **values})
            if not isinstance(text, str):
                problems.add("wrong-type", f"`output` of target `{name}` is no string, expected a path", at)
                return
            check_output(text)
        except VariableError as error:
            problems.add(error.code, f"`output` of target `{name}`: {error}", at, help=error.hint)
        except OutputError as error:
            problems.add(error.code, f"`output` of target `{name}` {error}", at, help=error.hint)
        else:
            self._outputs.claim(absolute(text, at.document.folder), name, at, problems, listed=True)

    def _output_like(self, text: str) -> str:
        if not text.endswith(".safetensors"):
            return ""
        shown = [os.path.relpath(path, self.root) for path in list(self._outputs.listed)[:10_000]]
        return did_you_mean(text, shown, otherwise="it is the output of no target")


class _Walk:
    """A walk over what targets need, without recursion; finds circles and endless chains."""

    def __init__(self, read: _Read, problems: Problems) -> None:
        self._read = read
        self._problems = problems
        self._open: dict[str, None] = {}
        self._depth: dict[str, int] = {}

    def from_(self, name: str) -> None:
        """Read a target and all that it needs."""
        stack = [self._enter(name)]
        while stack:
            current, rest = stack[-1]
            for ref, at in rest:
                if ref in self._open:
                    self._circle(ref, at)
                elif self._endless(ref):
                    message = f"target `{current}` needs `{ref}`, and so on without end"
                    hint = "families are open, so a member that needs another member of its family never ends"
                    self._problems.add("endless-chain", message, at, help=hint)
                    return
                else:
                    stack.append(self._enter(ref))
                    break
            else:
                stack.pop()
                del self._open[current]
                self._depth[_family(current)] -= 1

    def _enter(self, name: str) -> tuple[str, Iterator[tuple[str, At]]]:
        self._open[name] = None
        self._depth[_family(name)] = self._depth.get(_family(name), 0) + 1
        return name, iter(self._read(name, self._problems) or ())

    def _endless(self, name: str) -> bool:
        return "@" in name and self._depth.get(_family(name), 0) >= _LONGEST_CHAIN

    def _circle(self, name: str, at: At) -> None:
        opened = list(self._open)
        circle = [*opened[opened.index(name) :], name]
        shown = circle if len(circle) <= _LONGEST_SHOWN else [*circle[:10], "...", *circle[-10:]]
        message = f"targets need each other: {' -> '.join(shown)}"
        self._problems.add("dependency-cycle", message, at, help="no target can be made from itself")


_Read = Callable[[str, Problems], "tuple[tuple[str, At], ...] | None"]
_LONGEST_SHOWN = 24


def _family(name: str) -> str:
    return name.partition("@")[0]


class _Outputs:
    """Which path is whose. Paths are compared as the file system's case rules compare them."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self.listed: dict[str, str] = {}
        """From an absolute path to its target, members that are listed."""
        self._owners: dict[str, tuple[str, At]] = {}
        self._folders: dict[str, str] = {}
        self._sources: dict[str, str] = {}
        for source in sources:
            for path in _source_paths(source):
                self._sources[os.path.normcase(path)] = source.name
                self._sources[os.path.normcase(os.path.realpath(path))] = source.name

    def claim(self, path: str, name: str, at: At, problems: Problems, *, listed: bool) -> None:
        """Note a target's output; report one that another target has, or that is a source."""
        compared = os.path.normcase(path)
        owner, first = self._owners.setdefault(compared, (name, at))
        if owner != name:
            same_family = first.path == at.path and first.document is at.document
            rows = () if same_family else (f"`{owner}` has it at {first.place()}",)
            message = f"targets `{owner}` and `{name}` have the same output"
            hint = "a family's output names every axis, such as `out/mix-${alpha}.safetensors`" if same_family else ""
            problems.add("duplicate-output", message, at, help=hint, rows=rows)
            return
        source = self._source(compared)
        if source is not None:
            message = f"the output of target `{name}` is the source `{source}`"
            problems.add("output-is-source", message, at, help="a source is never overwritten; choose another path")
        elif listed:
            self.listed[path] = name

    def owner(self, text: str, root: Path) -> str | None:
        """Return the target of an output as a user types it: relative to where he is, or to the project."""
        for folder in (Path.cwd(), root):
            found = self._owners.get(os.path.normcase(absolute(text, str(folder))))
            if found is not None:
                return found[0]
        return None

    def _source(self, path: str) -> str | None:
        folder, _, name = path.rpartition(os.sep)
        real = self._folders.get(folder)
        if real is None:
            real = self._folders[folder] = os.path.normcase(os.path.realpath(folder or os.sep)).rstrip(os.sep)
        found = self._sources.get(path) or self._sources.get(f"{real}{os.sep}{name}")
        if found is None and os.path.islink(path):  # noqa: PTH114 -- strings, for there may be 100,000
            found = self._sources.get(os.path.normcase(os.path.realpath(path)))
        return found


def _source_paths(source: Source) -> list[str]:
    """Return where a source may lie: as written, then in the folders of MERGEBUILD_MODELS if it is there."""
    found = [absolute(source.path, str(source.folder))]
    for folder in os.environ.get("MERGEBUILD_MODELS", "").split(os.pathsep):
        path = absolute(source.path, folder) if folder else ""
        if path and os.path.exists(path):  # noqa: PTH110 -- strings throughout
            found.append(path)
    return found


def _raise_unknown(error: NoSuchNameError) -> NoReturn:
    raise UsageError.one(error.code, str(error), help=error.hint) from None


def _parsed(overrides: Sequence[str]) -> list[Override]:
    found: list[Override] = []
    problems: list[Problem] = []
    for text in overrides:
        try:
            found.append(parse_override(text))
        except UsageError as error:
            problems.extend(error.problems)
    if problems:
        raise UsageError(problems)
    return found


def _variables(
    files: Sequence[File], edits: Sequence[Override], variables: Mapping[str, object], problems: Problems
) -> tuple[Scope, list[Override]]:
    """Return the variables' values, and the overrides that are not of variables."""
    known = {name: None for file in files for name in file.table("vars", problems)}
    given: dict[str, tuple[object, str]] = {}
    wrong: list[Problem] = []
    rest: list[Override] = []
    asked = [("--vars", name, value) for name, value in variables.items()]
    for edit in edits:
        if ".".join(edit.pieces) in known:
            asked.append((edit.label, ".".join(edit.pieces), edit.value))
        else:
            rest.append(edit)
    for label, name, value in asked:
        if name not in known:
            hint = did_you_mean(name, known, otherwise="`[vars]` of the mergefile declares them")
            wrong.append(Problem("unknown-variable", f"unknown variable `{name}`", Place(label), hint))
            continue
        try:
            given[name] = (raw_variable(value), label)
        except ValueError as error:
            message = f"variable `{name}` is {error}, expected a number, a string or a boolean"
            wrong.append(Problem("wrong-type", message, Place(label)))
    if wrong:
        raise UsageError(wrong)
    return read_variables(files, given, problems), rest


def _apply(edits: Sequence[Override], declared: Mapping[str, Declaration], scope: Scope) -> None:
    wrong: list[Problem] = []
    for edit in edits:
        try:
            name, keys = target_of(edit, declared, scope)
            apply_to_target(edit, keys, declared[name].table, declared[name].at)
        except UsageError as error:
            wrong.extend(error.problems)
    if wrong:
        raise UsageError(wrong)


def _families(declared: Mapping[str, Declaration], scope: Scope, problems: Problems) -> dict[str, Family]:
    found: dict[str, Family] = {}
    reader = Reader(problems)
    for name, declaration in declared.items():
        if "foreach" in declaration.table:
            at = declaration.at.child("foreach")
            node = resolve(declaration.table["foreach"], at, scope, problems)
            axes = read_axes(reader, node, f"`foreach` of target `{name}`")
            if axes is not None:
                found[name] = Family(name, axes)
    return found


def _digest(files: Sequence[File], overrides: Sequence[str], variables: Mapping[str, object]) -> str:
    """Return the identity of all that the recipe was made of, every part behind its length."""
    whole = xxhash.xxh3_128()
    texts = [part for file in files for part in (str(file.document.path), file.document.text)]
    given = [part for name in sorted(variables) for part in (name, repr(variables[name]))]
    for kind in (texts, overrides, given):
        whole.update(b"%d;" % len(kind))
        for part in kind:
            encoded = part.encode("utf-8", "surrogatepass")
            whole.update(b"%d:" % len(encoded))
            whole.update(encoded)
    return whole.hexdigest()
