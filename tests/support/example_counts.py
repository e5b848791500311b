"""How many examples hypothesis draws for a test: the number that the test names, or a fifth of it in the fast lane."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import HealthCheck, settings

__all__ = ["examples"]


def examples(count: int, *, suppress_health_check: Iterable[HealthCheck] = ()) -> settings:
    """Return settings with `count` examples, scaled by the loaded profile's number relative to hypothesis's 100.

    The given health checks are suppressed, and those that the profile suppresses.
    """
    profile = settings()
    return settings(
        max_examples=max(1, count * profile.max_examples // 100),
        suppress_health_check={*profile.suppress_health_check, *suppress_health_check},
    )
