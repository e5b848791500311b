"""Little of what a process needs: descriptors, memory, streams, a place of its own. It works, or says what is short."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from project_space import Space
from tiny_models import NAMES, sd15

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits on a process are set as on Linux")

SOURCES = 30
TARGETS = 40


def limited(**limits: int) -> Callable[[], None]:
    """Return what sets limits on a new process: `nofile`, `as`."""

    def set_all() -> None:
        import resource

        for name, value in limits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (value, value))

    return set_all


@pytest.fixture
def many(space: Space) -> Space:
    """A project of forty targets, each of twenty of its thirty models."""
    for index in range(SOURCES):
        space.model(f"m{index}.safetensors", sd15(index + 1, names=NAMES[:6]))
    lines = ["[sources]", *(f'm{index} = "m{index}.safetensors"' for index in range(SOURCES))]
    for index in range(TARGETS):
        models = ", ".join(f'"m{(index + step) % SOURCES}"' for step in range(20))
        lines += [
            f"[targets.t{index}]", 'method = "linear"', f"models = [{models}]", f"weight = {(index + 1) / 100}",
            f'output = "out/t{index}.safetensors"',
        ]  # fmt: skip
    space.write("\n".join(lines))
    return space


def outputs(space: Space) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (space / "out").iterdir()}


def test_32_descriptors_are_enough_for_forty_targets_of_thirty_models(many: Space) -> None:
    many.process("build", preexec_fn=limited(nofile=32))
    few = outputs(many)
    many.process("build", preexec_fn=limited(nofile=32))
    many.process("verify", preexec_fn=limited(nofile=32))
    many.run("clean", "--yes")
    many.build()

    assert len(few) == TARGETS
    assert outputs(many) == few


@pytest.mark.parametrize("number", [9, 10])
def test_too_few_descriptors_are_said(many: Space, number: int) -> None:
    """What was published is whole, and the next build goes on from there."""
    outcome = many.process("build", code=None, preexec_fn=limited(nofile=number))

    assert outcome.code == 1, outcome.err
    assert "Traceback" not in outcome.err
    assert not list(many.root.glob("out/.*"))
    built = many.build()
    assert len(outputs(many)) == TARGETS
    assert set(built.verdicts.values()) <= {"built", "restored", "up-to-date"}


def test_two_gibibytes_of_address_space_are_enough(pair: Space) -> None:
    """Also for a file that is larger than what is left of it: what can't be mapped is read."""
    size = 3 << 30
    with (pair / "one.safetensors").open("rb+") as one:
        header = one.read()
        length = int.from_bytes(header[:8], "little")
        text = header[8 : 8 + length].rstrip()
        data = len(header) - 8 - length
        more = f',"zz.hole":{{"dtype":"U8","shape":[{size}],"data_offsets":[{data},{data + size}]}}}}'
        text = text[:-1] + more.encode()
        text += b" " * (-len(text) % 8)
        one.seek(0)
        one.write(len(text).to_bytes(8, "little") + text + header[8 + length :])
        one.truncate(8 + len(text) + data + size)  # a hole: it takes no space
    pair.edit("alpha = 0.3", 'alpha = 0.3\ndrop = ["zz.*"]')

    pair.process("build", "-j", "2", preexec_fn=limited(**{"as": 2 << 30}))
    little = pair.bytes("out/mix.safetensors")
    pair.run("clean", "--yes")
    pair.build()

    assert pair.bytes("out/mix.safetensors") == little


@pytest.mark.parametrize("size", [300, 520, 570, 620, 670, 700])
def test_too_little_address_space_is_said(pair: Space, size: int) -> None:
    """Wherever torch's import would end the process, or fail with whatever it comes to."""
    by_torch = {"MERGEBUILD_NATIVE": "0"}
    outcome = pair.process("build", "--json", code=1, env=by_torch, preexec_fn=limited(**{"as": size * 1_000_000}))

    assert outcome.errors[0] in ("no-memory", "no-threads")
    assert "Traceback" not in outcome.err
    assert outcome.err.count("\n") < 5
    assert not list(pair.root.glob("out/.*"))


def test_compiled_kernels_need_no_such_space(pair: Space) -> None:
    pair.process("build", preexec_fn=limited(**{"as": 700_000_000}))
    little = pair.bytes("out/mix.safetensors")
    pair.run("clean", "--yes")
    pair.build()

    assert pair.bytes("out/mix.safetensors") == little


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
def test_closed_streams_are_no_outputs(pair: Space, closed: tuple[int, ...]) -> None:
    """A file that got the number of stderr would hold what libraries print there."""

    def close() -> None:
        for number in closed:
            os.close(number)

    pair.process("build", preexec_fn=close)
    whole = pair.bytes("out/mix.safetensors")
    pair.run("verify")
    pair.run("clean", "--yes")
    pair.build()

    assert pair.bytes("out/mix.safetensors") == whole


def test_a_closed_stdin_has_no_variables(pair: Space) -> None:
    outcome = pair.process("status", "--vars", "-", code=2, preexec_fn=lambda: os.close(0))

    assert "standard input is closed" in outcome.err


def test_a_name_that_the_system_cannot_write_is_said(pair: Space) -> None:
    pair.edit("out/mix", "out/混ぜ")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}

    assert "error[unwritable-name]" in pair.process("build", env=plain, code=1).err
    pair.process("build", env={"LC_ALL": "C"})
    assert (pair / "out/混ぜ.safetensors").exists()


def test_a_home_is_not_needed(pair: Space) -> None:
    pair.process("build", env={"HOME": "/nonexistent", "XDG_CONFIG_HOME": "/nonexistent", "TMPDIR": "/nonexistent"})
    pair.process("verify", env={"HOME": "", "XDG_CONFIG_HOME": ""})


@pytest.mark.parametrize("columns", ["0", "1", "-5", "many"])
def test_no_width_is_too_small(pair: Space, columns: str) -> None:
    for arguments in (("--help",), ("build", "--help"), ("plan",), ("status",)):
        pair.process(*arguments, env={"COLUMNS": columns})


def verdicts(space: Space) -> list[object]:
    """Return what a build, a tweak, the way back, and a look come to."""
    return [
        space.build().verdicts,
        space.build().verdicts,
        space.build("--set", "mix.alpha=0.4").verdicts,
        space.build().verdicts,
        space.states(),
        space.json("verify")["ok"],
    ]


def test_a_store_behind_a_link_is_a_store_once_it_is_trusted(pair: Space, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (pair / ".mergebuild").symlink_to(tmp_path / "elsewhere")
    pair.refused("build", code=10)
    pair.run("trust")

    first, null, tweak, back, states, ok = verdicts(pair)

    assert (first, null, tweak) == ({"mix": "built"}, {"mix": "up-to-date"}, {"mix": "built"})
    assert back in ({"mix": "restored"}, {"mix": "built"})
    assert (states, ok) == ({"mix": "up-to-date"}, True)
    assert (tmp_path / "elsewhere/state.sqlite3").exists()


def test_a_project_behind_a_link_is_the_same_project(pair: Space, tmp_path: Path) -> None:
    pair.build()
    (tmp_path / "link").symlink_to(pair.root)
    pair.here = tmp_path / "link"

    assert pair.build().verdicts == {"mix": "up-to-date"}
    assert pair.states() == {"mix": "up-to-date"}
    assert pair.build("--set", "mix.alpha=0.4").verdicts == {"mix": "built"}
    pair.here = pair.root
    assert pair.states("--set", "mix.alpha=0.4") == {"mix": "up-to-date"}
