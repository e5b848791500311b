"""How many examples hypothesis draws for a test: so many as it says, and a fifth of them in the fast lane."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import HealthCheck, settings

__all__ = ["examples"]


def examples(count: int, *, suppress_health_check: Iterable[HealthCheck] = ()) -> settings:
    """Return settings with so many examples, or fewer, as the loaded profile has fewer than hypothesis's 100.

    Health checks are suppressed beside those that the profile suppresses.
    """
    profile = settings()
    return settings(
        max_examples=max(1, count * profile.max_examples // 100),
        suppress_health_check={*profile.suppress_health_check, *suppress_health_check},
    )
