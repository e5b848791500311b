"""What all tests share: machines are slow at times, and no test is about how slow."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]

settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("fast", settings.get_profile("shared machine"), max_examples=20)
settings.load_profile("shared machine")


@pytest.fixture(scope="session", autouse=True)
def _requests_to_end_are_heard() -> Iterator[None]:
    """Have no process of a test's ignore requests to end because whoever started the suite ignores them.

    That is so under `nohup`, and in the background of a shell without job control. What a process ignores, those that
    it starts ignore too; what it handles they do not. So a hangup is handled here, by doing nothing: the suite outlives
    its terminal as it was told to, and what it starts is as if started from one.
    """
    before = {}
    for name, handler in (("SIGINT", signal.default_int_handler), ("SIGTERM", _let_be), ("SIGHUP", _let_be)):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_IGN:
            before[number] = signal.signal(number, handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _let_be(*_: object) -> None:
    pass


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Mapping[str, str]:
    """Keep what the user's machine says apart, in this process and, by what is returned, in one that a test starts."""
    for name in (
        "MERGEBUILD_STORE", "MERGEBUILD_MODELS", "MERGEBUILD_BOOT_ID", "FORCE_COLOR", "_MERGEBUILD_COMPLETE",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    found = {"XDG_CONFIG_HOME": str(tmp_path / "config"), "PYTHONPATH": str(ROOT)}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture(params=["processor", "device"])
def everywhere(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute on the processor, and in a second run on a device that is none, whatever the build asks for."""
    if request.param == "device":
        from fake_device import FakeDevice

        from mergebuild.engine import compute
        from mergebuild.engine.choice import Choice

        monkeypatch.setattr(compute, "chosen", lambda *_: Choice([FakeDevice()]))
