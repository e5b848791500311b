"""What all tests share: machines are slow at times, and no test is about how slow."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")


@pytest.fixture(params=["processor", "device"])
def everywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute on the processor, and in a second run on a device that is none, whatever the build asks for."""
    if request.param == "device":
        from fake_device import FakeDevice

        from mergebuild.engine import compute
        from mergebuild.engine.choice import Choice

        monkeypatch.setattr(compute, "chosen", lambda *_: Choice([FakeDevice()]))
