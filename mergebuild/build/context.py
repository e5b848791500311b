"""What the parts of one build share: what it reads and writes, its options, and its outcomes so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mergebuild.build.options import BuilderOptions
from mergebuild.build.outcomes import Outcomes
from mergebuild.build.temporaries import Temporaries
from mergebuild.events import Emit
from mergebuild.plan.actions import Action, FileAction
from mergebuild.sources.sources import Sources
from mergebuild.store import Ledger, Publisher, Shelf, Store

__all__ = ["BuildContext"]


@dataclass(frozen=True, slots=True)
class BuildContext:
    """The sources, store, options and outcomes of one build."""

    sources: Sources
    shelf: Shelf
    ledger: Ledger
    publisher: Publisher
    options: BuilderOptions
    emit: Emit
    fingerprint_of: Callable[[str], bytes | None]
    """The fingerprint of a target, for its record."""
    outcomes: Outcomes
    temporaries: Temporaries

    @classmethod
    def over(
        cls,
        sources: Sources,
        store: Store,
        options: BuilderOptions,
        emit: Emit,
        fingerprint_of: Callable[[str], bytes | None],
    ) -> BuildContext:
        """Return the context of a build into a store."""
        return cls(
            sources,
            store.shelf,
            store.ledger,
            store.publisher,
            options,
            emit,
            fingerprint_of,
            Outcomes(emit, keep_going=options.keep_going),
            Temporaries(store.shelf),
        )

    def path(self, action: FileAction) -> Path:
        """Return where a file is published."""
        return action.place(self.shelf)

    def owner(self, action: Action) -> str:
        """Return the project whose output an action makes; empty for `-o`."""
        return "" if action.judgement.description.goal.is_extra else self.publisher.project
