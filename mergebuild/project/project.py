"""The verbs of the program over one mergefile: what the command line calls, and what Python users call.

    import mergebuild

    project = mergebuild.load("mergefile.toml")
    result = project.build(["orange"])

A `Project` holds the recipe. Each verb opens sources and store for itself and closes them again, unless a `with` keeps
them open (`session.py`). What a verb does is in a module of its kind: `looking.py`, `building.py`, `verify.py`,
`lock.py`, `clearing.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Self, TypeVar, Unpack

from mergebuild.errors import UsageError
from mergebuild.events import Emit, silent
from mergebuild.project import clearing, lockfile, looking, trust
from mergebuild.project import lock as locks
from mergebuild.project.building import Building, with_torch_ahead
from mergebuild.project.claims import Claims
from mergebuild.project.options import BuildOptions, BuildWords
from mergebuild.project.profiled import profiled
from mergebuild.project.session import Session, Sessions, device_class
from mergebuild.project.stamp import Stamp
from mergebuild.project.stamping import keep_answer
from mergebuild.recipe import Recipe, load_recipe, recipe_of
from mergebuild.results.build import BuildResult, PlanResult
from mergebuild.results.looks import CleanResult, Lineage, StatusResult, Trusted, VerifyResult, WhyResult
from mergebuild.system.filestate import Moment

__all__ = ["Project", "load"]

Answer = TypeVar("Answer")


def load(
    path: Path | str | Mapping[str, object] = "mergefile.toml",
    *,
    overrides: Sequence[str] = (),
    variables: Mapping[str, object] | None = None,
    root: Path | str | None = None,
) -> Project:
    """Read a mergefile; or take its content as Python values.

    Args:
        path: The mergefile; or its tables, as Python values.
        overrides: Edits as `--set` takes them (`m=0.4`, `orange.alpha.IN04=0.4`).
        variables: Values that replace those in `[vars]`.
        root: For Python values, the project's folder, which paths are relative to; None: the current one.

    Raises:
        RecipeError: the mergefile is wrong; all of its problems at once.
        UsageError: an override names something that the mergefile does not have.
    """
    if isinstance(path, Mapping):
        return Project(recipe_of(path, Path(root or "."), overrides=overrides, variables=variables))
    if root is not None:
        raise UsageError.one("root-of-a-file", "`root` goes with values; a mergefile's paths are relative to itself")
    began, place = Moment.now(), Path(path).absolute()
    edits, values = tuple(overrides), dict(variables or {})  # the caller may change theirs later
    recipe = load_recipe(Path(path), overrides=edits, variables=values)
    return Project(recipe, lambda targets: Stamp(place, edits, values, targets), began)


class Project:
    """A mergefile that was read, and the verbs over it.

    In a `with` it is a session: what one verb has opened and found out is kept for the next one. Each verb returns and
    does the same as alone, only faster; files may change in between, and other processes may use the store. The
    mergefile is not read again. A session is for the thread that began it; verbs called by other threads open what they
    need for themselves.
    """

    def __init__(
        self, recipe: Recipe, stamp_of: Callable[[Sequence[str]], Stamp] | None = None, began: Moment | None = None
    ) -> None:
        """`stamp_of` returns the stamp for targets; `began`: a moment before the recipe was read."""
        self.recipe = recipe
        self._stamp_of = stamp_of
        self._began = began or Moment.now()
        self._claims = Claims(recipe)
        self._sessions = Sessions(recipe)

    def open(self) -> Self:
        """Begin a session, as `with` does, until `close`: for a notebook, in which a block can't span cells."""
        self._sessions.keep()
        return self

    def close(self) -> None:
        """End the session that was begun last; when the outermost one ends, sources and store are closed."""
        self._sessions.let_go()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, verb: Callable[[Session], Answer], *, emit: Emit = silent) -> Answer:
        """Return what a verb of another room, which only reads, answers in a session."""
        return self._sessions.run(verb, emit)

    # Names, from the text alone

    def source_names(self) -> list[str]:
        """Return the names of the declared sources."""
        return list(self.recipe.sources)

    def target_names(self) -> list[str]:
        """Return the names of the declared targets; for families, of their listed members."""
        return self.recipe.target_names()

    def default_targets(self) -> list[str]:
        """Return the names of the targets that a build without names makes."""
        return list(self.recipe.resolve(()))

    # Looking

    def plan(
        self,
        targets: Sequence[str] = (),
        *,
        device: str = "auto",
        force: bool = False,
        locked: bool = False,
        tensors: int | None = 0,
        emit: Emit = silent,
    ) -> PlanResult:
        """Return what a build of these targets (none given: the default ones) would do, and why.

        A target that a build would refuse (with `force` and `locked` as given) is `blocked`, and `exit_code` is that of
        the first such target. Sources of targets that were never built are not read, unless `locked`: `bytes_to_hash`
        says how much would have to be read in addition. It is not checked whether the device exists. `tensors`: for how
        many tensors of each target the result says what is done (None: for all).

        Raises:
            RecipeError: with `locked`, there is no lock.
        """
        began = time.perf_counter()
        lock = lockfile.read(self._claims.lock_file) if locked else None
        names = self.recipe.resolve(targets)
        verb = partial(looking.plan, names=names, began=began, force=force, lock=lock, tensors=tensors)
        return self._sessions.run(verb, emit, device=device)

    def status(self, targets: Sequence[str] = (), *, emit: Emit = silent) -> StatusResult:
        """Return the state of each target (none given: all with an output), and outputs that no target makes now."""
        names = self.recipe.resolve(targets) if targets else tuple(self.recipe.outputs().values())
        return self._sessions.run(partial(looking.status, names=names), emit)

    def why(self, target: str, *, tensor: str | None = None, emit: Emit = silent) -> WhyResult:
        """Return the differences from a target's last build; for a target that a build would refuse, the reasons.

        With the name of a `tensor`, also its key now and at the last build. All sources are read for this.

        Raises:
            UsageError: neither the target nor its last build has such a tensor.
        """
        return self._sessions.run(partial(looking.why, name=self._claims.one(target), tensor=tensor), emit)

    def lineage(self, target: str) -> Lineage:
        """Return the exact proportions of sources in a target."""
        return self._sessions.run(partial(looking.lineage, name=self._claims.one(target)), silent)

    # Building

    def build(
        self,
        targets: Sequence[str] = (),
        options: BuildOptions | None = None,
        *,
        emit: Emit = silent,
        **changes: Unpack[BuildWords],
    ) -> BuildResult:
        """Make targets (none given: the default ones) up to date.

        `options` says how; keywords with the names of its fields replace or change it. If a target fails, no error is
        raised: its result says so, and `exit_code` is that of the first one. With `out` one target is written there, in
        `dtype`, and nothing else changes. With `profile` the result says where the time went.

        Raises:
            MergeBuildError: a problem known before any work, unless `keep_going` (the error has the `result`); a full
                disk; an interrupt.
        """
        options = (options or BuildOptions()).changed(**changes).checked()
        build = partial(self._build, targets, options, emit)
        return profiled(build) if options.profile else build()

    def _build(self, targets: Sequence[str], options: BuildOptions, emit: Emit) -> BuildResult:
        began = time.perf_counter()
        if device_class(options.device) != "cpu":
            from mergebuild.engine.requirements import check_device

            check_device(options.device)
        names, asked = self.recipe.resolve(targets), tuple(targets)
        lock = lockfile.read(self._claims.lock_file) if options.locked else None
        stamp = self._stamp_of(asked) if self._stamp_of else None
        keep = partial(keep_answer, targets=asked, names=names, since=Moment.now(), stamp=stamp, read=self._began)

        def verb(session: Session) -> BuildResult:
            known = session.nothing_to_do(asked) if options.is_plain else None
            return known.result(began) if known else Building(session, names, options, lock, began, keep).run()

        return self._sessions.run(
            verb,
            with_torch_ahead(emit, self.recipe, names, options.device),
            durable=options.durable,
            device=options.device,
            timeout=options.lock_timeout,
        )

    # Checking

    def verify(self, targets: Sequence[str] = (), *, rebuild: bool = False, emit: Emit = silent) -> VerifyResult:
        """Hash artifacts and outputs again; with `rebuild`, build them again in another folder and compare the bytes.

        Raises:
            TrustError: a rebuild would run code that the user does not trust.
        """
        from mergebuild.project.verify import verify

        names = self.recipe.resolve(targets) if targets else None
        return self._sessions.run(partial(verify, names=names, rebuild=rebuild), emit)

    def lock(self, *, check: bool = False, emit: Emit = silent) -> Path:
        """Write `mergefile.lock` beside the mergefile, with every source and target, built or not; return its path.

        With `check` nothing is written.

        Raises:
            SourceError: a source is missing, or differs from its pin.
            MergeBuildError: a target cannot be made as it is written.
            ResultDiffersError: with `check`, the file would be another.
        """
        return self._sessions.run(partial(locks.write_lock, check=check), emit)

    # Freeing space

    def gc(
        self,
        *,
        max_size: int | None = None,
        older_than: float | None = None,
        dry_run: bool = False,
        lock_timeout: float | None = None,
    ) -> CleanResult:
        """Remove artifacts that no target needs, and what the history exceeds.

        `max_size` in bytes, `older_than` in seconds.
        """
        verb = partial(clearing.gc, max_size=max_size, older_than=older_than, dry_run=dry_run)
        return self._sessions.run(verb, silent, timeout=lock_timeout)

    def clean(
        self,
        targets: Sequence[str] = (),
        *,
        orphans: bool = False,
        dry_run: bool = False,
        foreseen: CleanResult | None = None,
        lock_timeout: float | None = None,
    ) -> CleanResult:
        """Remove outputs and artifacts that we made: of these targets, of orphans, or (none given) of all targets.

        Orphans, members of families that were only built by name, and the history stay unless they are asked for.
        `foreseen`: the result of a dry run; what was made after that stays.
        """
        names = set(self.recipe.resolve(targets) if targets else ())
        if not targets and not orphans:
            names.update(self._claims.listed())
        verb = partial(
            clearing.clean, names=names, former=bool(targets), orphans=orphans, dry_run=dry_run, foreseen=foreseen
        )
        return self._sessions.run(verb, silent, timeout=lock_timeout)

    def trust(self) -> Trusted:
        """Allow this project to write to outside folders that its mergefile names now, and to run its own methods."""
        return trust.grant(self.recipe.root, self._claims.written(), self.recipe.own_methods.values())
