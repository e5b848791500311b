"""From a path, overrides and variables to a checked recipe: the steps in order, each in its own module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mergebuild.errors import Place, Problem, UsageError, did_you_mean
from mergebuild.methods.method import Method
from mergebuild.recipe.declared import (
    Declared,
    declarations,
    read_default_dtype,
    read_layouts,
    read_project,
    read_sources,
    read_variables,
)
from mergebuild.recipe.families import MOST_MEMBERS, Family, read_axes
from mergebuild.recipe.files import File, given_files, read_files
from mergebuild.recipe.methods import read_methods
from mergebuild.recipe.namespace import Namespace
from mergebuild.recipe.nodes import Reader, count_nested, resolve
from mergebuild.recipe.overrides import Override, apply_to_target, parse_override, raw_variable, target_of
from mergebuild.recipe.places import At
from mergebuild.recipe.problems import Problems
from mergebuild.recipe.recipe import Parts, Recipe
from mergebuild.recipe.target_table import Declaration
from mergebuild.recipe.variables import Scope
from mergebuild.system.spans import span

__all__ = ["load_methods", "load_names", "load_recipe", "recipe_of"]

_MOST_VALUES = 3_000_000
"""For the members of all families: 100,000 with 30 numbers each, such as block weights."""


def load_recipe(path: Path, *, overrides: Sequence[str] = (), variables: Mapping[str, object] | None = None) -> Recipe:
    """Read a mergefile and what it includes.

    Args:
        path: The mergefile.
        overrides: Edits as `--set` takes them: `m=0.4`, `orange.alpha=0.4`, `orange.alpha.IN04=0.4`.
        variables: Values for `[vars]`, as TOML or JSON give them; floats mean their shortest decimal.

    Raises:
        RecipeError: everything that is wrong with the files, at once.
        UsageError: an override or a variable that the mergefile does not have, or whose value it can't take.
    """
    with span("recipe", file=str(path)):
        problems = Problems()
        parts, default = _read(read_files(path, problems), overrides, variables or {}, problems)
        return Recipe(parts, default, problems)


def recipe_of(
    contents: Mapping[str, object],
    root: Path,
    *,
    overrides: Sequence[str] = (),
    variables: Mapping[str, object] | None = None,
) -> Recipe:
    """Return the recipe of a mergefile that a program gives as values; `root`: its folder.

    Raises:
        RecipeError, UsageError: as `load_recipe`.
    """
    with span("recipe", file=str(root)):
        problems = Problems()
        parts, default = _read(given_files(contents, root, problems), overrides, variables or {}, problems)
        return Recipe(parts, default, problems)


def load_names(
    path: Path, *, overrides: Sequence[str] = (), variables: Mapping[str, object] | None = None
) -> tuple[tuple[str, ...], Mapping[str, Family | None]]:
    """Return the names of the sources, and the names of the targets, each with its family, or None if it is no family.

    Targets are not read, so ten thousand of them take little time, and mistakes in them don't matter.

    Raises:
        RecipeError, UsageError: a file or an override that cannot be read at all.
    """
    problems = Problems()
    parts, _ = _read(read_files(path, problems), overrides, variables or {}, problems)
    return tuple(parts.sources), {name: parts.families.get(name) for name in parts.declared}


def load_methods(path: Path) -> Mapping[str, Method]:
    """Return the valid methods that a mergefile declares; mistakes in targets don't matter.

    Raises:
        RecipeError: a file that cannot be read at all.
    """
    problems = Problems()
    parts, _ = _read(read_files(path, problems), (), {}, problems)
    return parts.methods.rows


def _read(
    files: Sequence[File], overrides: Sequence[str], variables: Mapping[str, object], problems: Problems
) -> tuple[Parts, Sequence[tuple[str, At]]]:
    """Return the parts of the recipe, before any target is read; and what `default` names."""
    edits = _parsed(overrides)
    scope, edits = _variables(files, edits, variables, problems)
    names = Declared(problems)
    sources = read_sources(files, scope, names, problems)
    source_names = names.names
    declared = declarations(files, scope, names, problems)
    _apply(edits, declared, scope)
    families = _families(declared, scope, problems)
    plain = [name for name, declaration in declared.items() if "foreach" not in declaration.table]
    namespace = Namespace(source_names, plain, families, names.names - source_names - {*plain, *families})
    project, default = read_project(files[0], scope, problems)
    methods = read_methods(files, scope, problems)
    parts = Parts(
        files=files,
        project=project,
        sources=sources,
        layouts=read_layouts(files, scope, problems),
        declared=declared,
        families=families,
        scope=scope,
        namespace=namespace,
        default_dtype=read_default_dtype(files[0], scope, problems),
        places=names,
        methods=methods,
    )
    return parts, default


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
    """Return the values of the variables, and the overrides of other things."""
    known = {name: None for file in files for name in file.table("vars", problems)}
    rest: list[Override] = []
    asked = [("--vars", name, value) for name, value in variables.items()]
    for edit in edits:
        if ".".join(edit.pieces) in known:
            asked.append((edit.label, ".".join(edit.pieces), edit.value))
        else:
            rest.append(edit)
    return read_variables(files, _given(asked, known), problems), rest


def _given(asked: Sequence[tuple[str, str, object]], known: Mapping[str, None]) -> dict[str, tuple[object, str]]:
    """Return the raw values given to variables, each with its option; raise `UsageError` with all that can't be."""
    given: dict[str, tuple[object, str]] = {}
    wrong: list[Problem] = []
    for label, name, value in asked:
        try:
            given[name] = (_given_value(label, name, value, known), label)
        except UsageError as error:
            wrong.extend(error.problems)
    if wrong:
        raise UsageError(wrong)
    return given


def _given_value(label: str, name: str, value: object, known: Mapping[str, None]) -> object:
    """Return the raw value that the command line gives to a variable.

    Raises:
        UsageError: there is no such variable, or it can't have such a value.
    """
    if name not in known:
        hint = did_you_mean(name, known, otherwise="`[vars]` of the mergefile declares them")
        raise UsageError.one("unknown-variable", f"unknown variable `{name}`", where=Place(label), help=hint)
    try:
        return raw_variable(value)
    except ValueError as error:
        message = f"variable `{name}` is {error}, expected a number, a string or a boolean"
        hint = f"such as `{name}=0.4`" if label.startswith("--set") else f"such as `{name} = 0.4`"
        raise UsageError.one("wrong-type", message, where=Place(label), help=hint) from None


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
    """Return the families by name.

    Raises:
        RecipeError: they have too many members together; checking those would take long.
    """
    found: dict[str, Family] = {}
    reader = Reader(problems)
    members = values = 0
    for name, declaration in declared.items():
        if "foreach" in declaration.table:
            at = declaration.at.child("foreach")
            node = resolve(declaration.table["foreach"], at, scope, problems)
            axes = read_axes(reader, node, f"`foreach` of target `{name}`")
            if axes is None:
                continue
            found[name] = Family(name, axes)
            members += found[name].size
            each = sum(count_nested(raw) for key, raw in declaration.table.items() if key != "foreach")
            values += found[name].size * each
            _check_size(name, members, values, at, problems)
    return found


def _check_size(name: str, members: int, values: int, at: At, problems: Problems) -> None:
    """Report if the families up to this one have too many members, and raise all problems then."""
    if values > _MOST_VALUES:
        message = f"the members of the families up to `{name}` have more than {_MOST_VALUES:,} values"
        hint = "list fewer members, or give them fewer numbers"
        problems.add("too-many-members", message, at, help=hint)
        problems.fail()
    if members > MOST_MEMBERS:
        message = f"the families up to `{name}` make {members} members, more than {MOST_MEMBERS}"
        hint = "families are open: list fewer, and ask for others by name"
        problems.add("too-many-members", message, at, help=hint)
        problems.fail()
