"""Laws of whole projects, tested on projects and edits that hypothesis draws: a search for wrong files.

    pytest tests/laws                                        the short form, the same each time; about two minutes
    MERGEBUILD_LAWS_SECONDS=3600 pytest -m laws -s           the long form, other projects each day
    MERGEBUILD_LAWS_KEEP=DIR, MERGEBUILD_LAWS_SEED=NUMBER    where failures are kept; where the long form begins

A law is a function of values (`laws.py`): a `World` is a project (`worlds.py`), a `Step` is an edit of one
(`drawing.py`). Projects are drawn by the catalog of methods, so a new method takes part automatically. `runner.py`
writes a world to a folder and runs the program on it; `evaluator.py` computes outputs again, with NumPy in float64 and
without mergebuild.

A case that breaks a law is shrunk and shown as a mergefile, the edits, and a test that can be pasted into
`test_laws_found.py`: sources are made of a few words and seeds, so this text is the whole case.
"""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from drawing import (
    METHODS,
    SPELLED,
    Step,
    every_spelling,
    family_of,
    parameter_values,
    respelled,
    row_of,
    targets_by,
    trained,
    walks,
    worlds,
)
from hypothesis import HealthCheck, Verbosity, given, seed, settings
from hypothesis import strategies as st
from laws import LAWS, names_of
from runner import COUNTS
from worlds import FAMILIES, Table, Target, World, mergefile, stored_of

from mergebuild import native

Draw = Callable[..., Any]
Arguments = tuple[Any, ...]

# What each law is tried on


@st.composite
def _walk(draw: Draw) -> Arguments:
    return (draw(walks()),)


@st.composite
def _planned(draw: Draw) -> Arguments:
    """Draw edits of a project, an order of its targets, and the output at which a foreign file is (-1: none)."""
    return draw(walks(most=3)), draw(st.integers(0, 5)), draw(st.sampled_from((-1, 0, 1, 2, 3)))


@st.composite
def _together(draw: Draw) -> Arguments:
    world = draw(worlds(least=2, spelled=draw(st.booleans())))
    return world, tuple(draw(st.permutations(range(len(names_of(world))))))


@st.composite
def _at_once(draw: Draw) -> Arguments:
    return draw(worlds()), draw(st.sampled_from((2, 1, 3))), draw(st.sampled_from((3, 16, 7, 1, 64)))


@st.composite
def _compiled(draw: Draw) -> Arguments:
    return draw(worlds()), draw(st.sampled_from(("", *native.variants()))), draw(st.sampled_from((64, 7, 1 << 19)))


@st.composite
def _unseen(draw: Draw) -> Arguments:
    return draw(worlds()), draw(st.sampled_from((2, 1))), draw(st.sampled_from((200, 1, 2))), draw(st.integers(0, 5))


@st.composite
def _otherwise(draw: Draw) -> Arguments:
    """Draw a project, the same in another order with other names, and the mapping of names."""
    world = draw(worlds())
    sources = draw(st.permutations(world.sources))
    other = replace(world, sources=tuple(sources), targets=tuple(draw(st.permutations(world.targets))))
    new = draw(st.permutations("abcdefghijkl"))
    olds = [*(each.name for each in world.sources), *(each.name for each in world.targets)]
    names = {old: f"{new[index]}-x" for index, old in enumerate(olds)}
    renamed = other.renamed(names)
    moved = tuple(replace(each, path=f"elsewhere-{each.name}") for each in renamed.sources)
    return world, replace(renamed, sources=moved), names


_POOL = (*sorted(METHODS), *[name for name, row in METHODS.items() if row.makes.surveys] * 4)


@st.composite
def _parameter(draw: Draw) -> Arguments:
    """Draw a project, and the same with one change: of a target's parameter, of a program, or of a source's tensor."""
    world = draw(worlds(most=2))
    name = f"t{len(world.targets)}"
    world = _with(world, draw(targets_by(world, family_of(world), name, _POOL)))
    kind = draw(st.sampled_from(("parameter", "parameter", "trained", "program")))
    target = draw(st.sampled_from(world.targets[::-1]))
    if kind == "program" and world.methods:
        own = world.methods[0]
        return world, replace(world, methods=(replace(own, number=3 - own.number),)), name, ""
    row = row_of(world, target)
    if kind == "trained" or row is None or not row.parameters:
        return world, draw(trained(world)), name, ""
    parameter = draw(st.sampled_from(row.parameters))
    kin = FAMILIES[family_of(world)]
    key = draw(st.sampled_from(("", *sorted(kin.keys)))) if kin.keys and not row.makes.makes_lora else ""
    values = [parameter_values(draw, replace(parameter, per="target"), 1, None) for _ in range(3)]
    one, other = values[0], values[1]
    if key and parameter.kind == "number":
        one, other = (Table((("default", values[2]), (key, each))) for each in values[:2])
    else:
        key = ""
    if target.get(parameter.name) == "${ax}":
        return world, draw(trained(world)), name, ""
    key = "" if target.rules or target.components else key

    def having(value: Any) -> World:
        kept = tuple(each for each in target.values if each[0] != parameter.name)
        changed = replace(target, values=(*kept, (parameter.name, value)))
        return replace(world, targets=tuple(changed if each is target else each for each in world.targets))

    return having(one), having(other), target.name, key


def _with(world: World, target: Target) -> World:
    return replace(world, targets=(*world.targets, target))


@st.composite
def _many(draw: Draw) -> Arguments:
    return (draw(worlds(least=2, most=6)),)


@st.composite
def _kinds(draw: Draw) -> Arguments:
    """Draw a project with targets of all kinds, also by methods with surveys."""
    world = draw(worlds(most=3))
    return (_with(world, draw(targets_by(world, family_of(world), f"t{len(world.targets)}", _POOL))),)


@st.composite
def _spelled(draw: Draw) -> Arguments:
    """Draw a project whose files spell their parameters in several ways, and the same in other spellings."""
    world = draw(worlds(spelled=True))
    return world, draw(respelled(world))


@st.composite
def _nonsense(draw: Draw) -> Arguments:
    """Draw two models, with unknown names for half of the tensors of one of them, and targets of both."""
    world = draw(worlds(spelled=True))
    one, other = world.sources[:2]
    one, other = (replace(each, traits=tuple(sorted(set(each.traits) - {"nan", "scaled"}))) for each in (one, other))
    there = range(len(stored_of(other)))
    other = replace(other, nonsense=tuple(sorted(draw(st.permutations(there))[: max(1, len(there) // 2)])))
    half = (Decimal("0.5"),)
    method = draw(st.sampled_from(("weighted_sum", "ties", "slerp", "max", "linear")))
    targets = []
    for number, pair in enumerate(((one.name, other.name), (other.name, one.name))):
        roles = {"ties": (("base", pair[0]), ("models", pair[1:])), "linear": (("models", pair),)}
        inputs = roles.get(method, (("a", pair[0]), ("b", pair[1])))
        values = {
            "ties": (("weight", half[0]),),
            "linear": (("weight", half[0]),),
            "max": (),
            "slerp": (("t", half[0]),),
        }
        targets.append(
            Target(
                f"t{number}", method, inputs, values.get(method, (("alpha", half[0]),)), f"out/t{number}.safetensors"
            )
        )
    return (World((one, other), tuple(targets)),)


TRIED: Mapping[str, tuple[st.SearchStrategy[Arguments], int]] = {
    "incremental_is_fresh": (_walk(), 20),
    "planned_together_is_planned_alone": (_many(), 80),
    "a_digest_is_its_lines_hashed": (_kinds(), 60),
    "together_is_alone": (_together(), 14),
    "threads_and_chunks_do_not_matter": (_at_once(), 40),
    "compiled_kernels_make_the_same": (_compiled(), 40),
    "first_sight_makes_the_same": (_unseen(), 40),
    "order_and_names_do_not_matter": (_otherwise(), 30),
    "nothing_is_left_to_do": (_walk(), 14),
    "session_is_fresh": (walks(most=3).map(lambda steps: (steps,)), 8),
    "plan_says_what_build_does": (_planned(), 24),
    "a_parameter_rebuilds_what_it_reaches": (_parameter(), 40),
    "spellings_do_not_matter": (_spelled(), 25),
    "every_spelling_is_the_same_model": (st.sampled_from(SPELLED).flatmap(every_spelling), 0),
    "nonsense_is_refused_or_named": (_nonsense(), 25),
}
"""By law, the strategy of its arguments, and the number of examples in the short form (0: `test_every_spelling_of`)."""

# Trying


def _hold(law: str, arguments: Arguments, origin: str) -> None:
    """Check a law; if it does not hold, add a test that repeats the failure to the exception."""
    try:
        LAWS[law](*arguments)
    except Exception as error:
        text = as_test(
            law, arguments, f"{origin}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        )
        if folder := os.environ.get("MERGEBUILD_LAWS_KEEP"):
            path = Path(folder) / f"{law}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)  # the last example tried is the smallest
        error.add_note(text)
        raise


def as_test(law: str, arguments: Arguments, why: str) -> str:
    """Return the text of a test of a law with just these arguments, with the mergefile and edits in its docstring."""
    lines = [f"def test_found_{hashlib.sha256(repr(arguments).encode()).hexdigest()[:8]}() -> None:"]
    lines.append(f'    """{law}: {why}')
    for each in arguments:
        if isinstance(each, World):
            lines += ["", *(f"    {line}".rstrip() for line in mergefile(each).splitlines())]
        elif isinstance(each, tuple) and each and isinstance(each[0], Step):
            lines += _told(each)
        else:
            lines += ["", f"    {each!r}"]
    lines += ['    """', f"    LAWS[{law!r}](", *(f"        {each!r}," for each in arguments), "    )", ""]
    return "\n".join(lines)


def _told(steps: tuple[Step, ...]) -> list[str]:
    lines: list[str] = []
    before = ""
    for number, step in enumerate(steps):
        lines += ["", f"    {number}: {step.said}, then {step.act}, -j {step.threads}"]
        text = mergefile(step.world)
        if text != before:
            lines += [f"    {line}".rstrip() for line in text.splitlines()]
        lines += [f"    {each!r}" for each in step.world.sources] if not number or text == before else []
        before = text
    return lines


_QUIET: Mapping[str, Any] = {
    "deadline": None,
    "database": None,
    "suppress_health_check": list(HealthCheck),
    "print_blob": False,
    "report_multiple_bugs": False,
    "verbosity": Verbosity.quiet,
}


def _search(
    law: str, origin: str, until: float = math.inf, tried: st.SearchStrategy[Arguments] | None = None, **options: Any
) -> Callable[[], None]:
    """Return a search for arguments that break a law. After the time `until`, examples are skipped."""

    @settings(**_QUIET, **options)
    @given(TRIED[law][0] if tried is None else tried)
    def hold(arguments: Arguments) -> None:
        if time.monotonic() < until:
            _hold(law, arguments, origin)

    return hold


@pytest.mark.parametrize("law", [law for law in LAWS if TRIED[law][1]])
def test_law(law: str) -> None:
    """Each law on a few projects, the same each time."""
    _search(law, "short form", max_examples=TRIED[law][1], derandomize=True)()


@pytest.mark.parametrize("family", SPELLED)
def test_every_spelling_of(family: str) -> None:
    """Each spelling of a family, in both orders of inputs, and each way to store its ties."""
    law, origin = "every_spelling_is_the_same_model", f"short form, {family}"
    _search(law, origin, tried=every_spelling(family), max_examples=1, derandomize=True)()


@pytest.mark.laws
@pytest.mark.parametrize("law", LAWS)
def test_law_for_long(law: str) -> None:
    """Each law for an equal share of the time, on other projects each day; prints the counts and seeds."""
    end = time.monotonic() + float(os.environ.get("MERGEBUILD_LAWS_SECONDS", "3600")) / len(LAWS)
    first = number = int(os.environ.get("MERGEBUILD_LAWS_SEED") or datetime.now(UTC).strftime("%Y%m%d000000"))
    before = dict(COUNTS)
    try:
        while time.monotonic() < end:
            seed(number)(_search(law, f"seed {number}", end + 300, max_examples=25))()
            number += 1
    finally:
        told = ", ".join(f"{COUNTS[key] - before.get(key, 0):,} {key}" for key in sorted(COUNTS))
        print(f"\n{law}: seeds {first} to {number}: {told}")
