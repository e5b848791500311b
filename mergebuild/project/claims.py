"""What a recipe claims: the targets that it reaches, the paths that it would write to, and where its store is.

It is about names and paths alone. Families are open, so a recipe claims more than it lists: a user who builds further
members of a family has targets that no list names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from mergebuild.errors import MergeBuildError, UsageError
from mergebuild.formats import registry
from mergebuild.plan.description import Goal
from mergebuild.recipe import Recipe
from mergebuild.store import Ledger

__all__ = ["Claims"]


class Claims:
    """What one recipe claims."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._inside = f"{recipe.root.as_posix()}/"
        """What the paths in the project's folder begin with."""

    # Places

    @property
    def store(self) -> Path:
        """The store's folder: as `MERGEBUILD_STORE` says, or else the project's own."""
        given = os.environ.get("MERGEBUILD_STORE")
        return Path(given).expanduser().absolute() if given else self.own_store

    @property
    def own_store(self) -> Path:
        """The store's folder unless the user names another one."""
        return self._recipe.root / os.path.expanduser(self._recipe.project.store or ".mergebuild")  # noqa: PTH111 -- never raises

    @property
    def lock_file(self) -> Path:
        """The path of `mergefile.lock`."""
        return self._recipe.root / "mergefile.lock"

    def written(self) -> Iterator[Path]:
        """Yield every path that the recipe would write to."""
        for path in self._recipe.outputs():
            yield path / "any" if registry.is_folder(path) else path
        yield self.own_store / "any"

    def outputs(self, names: Iterable[str]) -> dict[Path, str]:
        """Return the listed outputs, and those of these targets and of all that they read, each with its target."""
        found = dict(self._recipe.outputs())
        for name in self.reached(names):
            with suppress(MergeBuildError):  # an invalid member; if it is listed, its output is known already
                if path := self._recipe.target(name).output_path:
                    found[path] = name
        return found

    def shown(self, path: Path) -> str:
        """Return a path as the user would write it."""
        written = path.as_posix()
        if written.startswith(self._inside):  # faster than `relative_to`, for thousands of outputs
            return written[len(self._inside) :]
        try:
            return path.relative_to(self._recipe.root).as_posix()
        except ValueError:
            return written

    # Targets

    def one(self, target: str) -> str:
        """Return the one target that a name means.

        Raises:
            UsageError: it means none, or several.
        """
        names = self._recipe.resolve((target,))
        if len(names) != 1:
            raise UsageError.one(
                "one-target", f"`{target}` is {len(names)} targets", help=f"name one, such as `{names[0]}`"
            )
        return names[0]

    def listed(self) -> tuple[str, ...]:
        """Return the targets that the mergefile names, with all that they read.

        Naming all members of a large family makes all of them, which takes seconds.
        """
        return self.reached(self._recipe.target_names())

    def known(self, ledger: Ledger) -> set[str]:
        """Return the targets that the mergefile names, and the members of its families that were built by name.

        Families are open: a user may have built members that no list names, and their outputs are no orphans.
        """
        found = set(self.listed())
        for record in ledger.records():
            if "@" in record.target and record.target not in found:
                with suppress(MergeBuildError):
                    found.update(self.reached([self._recipe.target(record.target).name]))
        return found

    def reached(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return these targets and all that they read, including members that no list names."""
        found: dict[str, None] = {}
        waiting = list(names)[::-1]
        while waiting:
            name = waiting.pop()
            if name not in found and name not in self._recipe.sources:
                found[name] = None
                with suppress(MergeBuildError):  # planning it will report what is wrong
                    waiting += [each.ref for each in self._recipe.target(name).reads]
        return tuple(found)

    def is_sound(self, name: str) -> bool:
        """Whether a target is valid. Of a family, only the first member is read with the mergefile."""
        try:
            self._recipe.target(name)
        except MergeBuildError:
            return False
        return True

    def has_only_its_output(self, name: str) -> bool:
        """Whether the store must have no copy of a target; False for what `-o` writes, and for an invalid target."""
        return bool(name) and self.is_sound(name) and self._recipe.target(name).has_only_its_output

    # Outputs of `-o`

    def elsewhere(self, names: tuple[str, ...], out: Path | str, dtype: str | None) -> Goal:
        """Return the goal of `-o`: one target, at a path that nothing else claims.

        Raises:
            UsageError: it is not one target, or not such a path.
        """
        path = Path.cwd() / out
        if len(names) != 1:
            raise UsageError.one("one-target", f"`-o` writes one target, and {len(names)} were named")
        is_folder = str(out).endswith(("/", os.sep))
        self._check_path(path, out, is_folder=is_folder)
        self._check_outputs(path, out, is_folder=is_folder)
        self._check_sources(path, out, is_folder=is_folder)
        target = self._recipe.target(names[0])
        return Goal(target.name, path, dtype or target.dtype or self._recipe.default_dtype, is_extra=True)

    def _check_path(self, path: Path, out: Path | str, *, is_folder: bool) -> None:
        """Refuse a path that can't be an output's."""
        if is_folder != registry.is_folder(path):
            suffixes = registry.shown_suffixes(", ")
            raise UsageError.one("bad-output", f"`{out}` does not end in {suffixes} or `/`")
        if reserved := self._recipe.reserved(path):
            raise UsageError.one("bad-output", f"`{out}` {reserved}", help="name another path")

    def _check_outputs(self, path: Path, out: Path | str, *, is_folder: bool) -> None:
        for taken, owner in self._recipe.outputs().items():
            if path == taken:
                message = f"`{out}` is the output of `{owner}`"
                raise UsageError.one("output-taken", message, help="build that, or name another")
            if (registry.is_folder(taken) and taken in path.parents) or (is_folder and path in taken.parents):
                inner, outer = (f"`{out}`", f"`{owner}`") if taken in path.parents else (f"`{owner}`", f"`{out}`")
                message = f"{inner} would lie in the folder of {outer}"
                raise UsageError.one("output-taken", message, help="name a path of its own")

    def _check_sources(self, path: Path, out: Path | str, *, is_folder: bool) -> None:
        for name, source in self._recipe.sources.items():
            there, here = (source.folder / source.path).resolve(), path.resolve()
            if there == here or there in here.parents or (is_folder and here in there.parents):
                what = "is" if there == here else "lies in the folder of" if there in here.parents else "holds"
                raise UsageError.one(
                    "output-is-source", f"`{out}` {what} the source `{name}`", help="name another path"
                )
