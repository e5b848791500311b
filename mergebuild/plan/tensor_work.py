"""What a build does for single tensors: whether they are computed, copied, held by an artifact or shared.

It follows from an action's `work` and `offers`, which refer to tensors by digest; here they have names again. If
sources were never hashed, no digests are known, and the forms say what is done. There is nothing to say for targets
that are up to date or blocked.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from mergebuild.plan.actions import Action, FileAction
from mergebuild.plan.made import Made
from mergebuild.plan.plan import Plan
from mergebuild.results.build import Verdict
from mergebuild.results.tensor_work import How, TensorWork

__all__ = ["tensor_work"]


def tensor_work(plan: Plan, root: Path, most: int | None = None) -> dict[str, tuple[TensorWork, ...]]:
    """Return what is done for the tensors of each target of a plan, by its name, in the order of its files.

    Args:
        plan: The plan.
        root: The folder that paths are shown relative to.
        most: The most tensors of each target; None: all.
    """
    telling = _Telling(plan, root)
    return {action.name: tuple(islice(telling.of(action), most)) for action in plan.actions}


class _Telling:
    """Says what is done for the tensors of one plan."""

    def __init__(self, plan: Plan, root: Path) -> None:
        self._origins = plan.origins
        self._root = root
        self._files = tuple(plan.files)
        self._makers: dict[bytes, str] | None = None

    def of(self, action: Action) -> Iterator[TensorWork]:
        """Yield what is done for the tensors of a target."""
        if action.refused is None and action.verdict is not Verdict.UP_TO_DATE:
            for file in action.files:
                yield from self._of_file(file)

    def _of_file(self, file: FileAction) -> Iterator[TensorWork]:
        if file.content.digest is None:
            yield from self._foreseen(file)
        elif file.verdict is Verdict.BUILD:
            yield from self._built(file)
        else:
            where = self._whole(file)
            yield from (TensorWork(each.name, How.HELD, (where,), each.nbytes) for each in file.content.made)

    def _whole(self, file: FileAction) -> str:
        """Return where a whole file comes from."""
        if file.twin is not None:
            return f"target {file.twin.name}"
        row = file.standing.row if file.stored is None else file.stored.row
        return self._shown(row.path) if row is not None else file.content.shown or file.name

    def _built(self, file: FileAction) -> Iterator[TensorWork]:
        told: set[bytes] = set()
        for made in file.content.made:
            yield TensorWork(made.name, *self._how(file, made, is_again=made.digest in told), made.nbytes)
            told.add(made.digest)

    def _how(self, file: FileAction, made: Made, *, is_again: bool) -> tuple[How, tuple[str, ...]]:
        work, digest = file.work, made.digest
        if digest in work.held:
            return How.HELD, (self._shown(work.held[digest].path),)
        if digest in work.seen or (is_again and digest in work.compute):
            return How.SHARED, (f"target {self._maker(digest, file)}",)
        if digest in work.compute:
            return How.COMPUTED, self._inputs(file, made)
        return How.COPIED, self._inputs(file, made)

    def _inputs(self, file: FileAction, made: Made) -> tuple[str, ...]:
        """Return what a tensor is made of; of equal tensors only the first, as only that is read."""
        wanted = set(made.reads)
        found: dict[bytes, str] = {}
        for slot in file.description.blueprint.forms[made.parameter].slots:
            tensor = slot.tensor(made.parameter)
            digest = self._origins.digest(slot.owner, tensor)
            if digest in wanted:
                found.setdefault(digest, self._label(slot.owner, tensor, made.name))
        return tuple(dict.fromkeys(found.values()))

    def _foreseen(self, file: FileAction) -> Iterator[TensorWork]:
        """Yield what will be done for each tensor of a file, by its form alone, as the sources are not hashed yet."""
        blueprint, tensors = file.description.blueprint, file.content.header.tensors
        for name, info in tensors.items():
            parameter = blueprint.copies.get(name, name)
            if parameter in blueprint.forms:
                form = blueprint.forms[parameter]
                is_copy = form.lone is not None and blueprint.source_specs[parameter].dtype == info.dtype
                labels = (self._label(slot.owner, slot.tensor(parameter), name) for slot in form.slots)
                how = How.COPIED if is_copy else How.COMPUTED
                yield TensorWork(name, how, tuple(dict.fromkeys(labels)), info.nbytes)

    def _label(self, owner: str, tensor: str, name: str) -> str:
        """Return the name, for people, of an owner's tensor; only the owner's if the tensor's name is `name`."""
        return self._origins.label(owner, tensor).removesuffix(f": {name}")

    def _maker(self, digest: bytes, file: FileAction) -> str:
        """Return the target for which a tensor is computed."""
        if self._makers is None:
            self._makers = {}
            for each in self._files:
                for computed in each.work.compute:
                    self._makers.setdefault(computed, each.name)
        return self._makers.get(digest, file.name)

    def _shown(self, path: Path) -> str:
        try:
            return path.relative_to(self._root).as_posix()
        except ValueError:
            return path.as_posix()
