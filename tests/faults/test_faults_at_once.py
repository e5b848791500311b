"""Many processes on one store: builders of one project, of two that share a store, and gc, clean and verify among them.

Every tensor is computed once, by whoever comes first; the others wait and take the result. Nobody fails, nothing that is
needed is collected, and whoever reads beside a builder sees no corruption.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from forked_runs import Ended, Program, Running
from forty_targets import OTHER, Reference, check_tidy, make_project, outputs, remove
from many_cases import Report, Rounds, Trouble


def computed(ended: Sequence[Ended]) -> int:
    """Return the tensors that builds computed, all together."""
    return sum(target["tensors_computed"] for each in ended for target in each.document["targets"])


def test_builders_of_one_project_compute_every_tensor_once(
    program: Program,
    sources: Path,
    first: Reference,
    tmp_path: Path,
    rounds: Rounds,
    chance: random.Random,
    figures: Report,
) -> None:
    count = rounds(70, 3)
    trouble, builders = Trouble(), 0
    for number in range(count):
        root = make_project(tmp_path / f"round-{number}", sources, link=chance.choice(("auto", "copy", "hard")))
        some = [program.start("build", "--json", here=root) for _ in range((2, 4, 16)[number % 3])]
        ended = [each.wait() for each in some]
        builders += len(some)
        with trouble.noted(f"round {number}, {len(some)} builders"):
            assert computed([each.checked() for each in ended]) == first.all_computed
            assert outputs(root) == first.outputs
            check_tidy(root)
            remove(root)
    figures(rounds=count, builders=builders)
    trouble.check()


def test_builders_of_two_projects_that_share_a_store_compute_every_tensor_once(
    program: Program,
    sources: Path,
    first: Reference,
    tmp_path: Path,
    rounds: Rounds,
    chance: random.Random,
    figures: Report,
) -> None:
    count = rounds(65, 2)
    trouble, builders = Trouble(), 0
    for number in range(count):
        folder = tmp_path / f"round-{number}"
        link = chance.choice(("auto", "copy", "hard"))
        roots = [make_project(folder / name, sources, link=link) for name in ("here", "there")]
        env = {"MERGEBUILD_STORE": str(folder / "store")}
        some = [
            program.start("build", "--json", here=roots[each % 2], env=env) for each in range((2, 4, 16)[number % 3])
        ]
        ended = [each.wait() for each in some]
        builders += len(some)
        with trouble.noted(f"round {number}, {len(some)} builders"):
            assert computed([each.checked() for each in ended]) == first.all_computed
            for root in roots:
                assert outputs(root) == first.outputs
                check_tidy(root, folder / "store")
                program.run("verify", here=root, env=env).checked()
            remove(folder)
    figures(rounds=count, builders=builders)
    trouble.check()


DISTURBING = (
    ("here", "gc", "--max-size", "0"),
    ("there", "gc", "--max-size", "0"),
    ("there", "gc", "--older-than", "0d"),
    ("there", "clean"),
    ("there", "build", "--json"),
    ("here", "verify"),
    ("there", "verify"),
    ("here", "status"),
)


def test_builders_are_not_disturbed_by_gc_clean_and_verify(
    program: Program,
    sources: Path,
    first: Reference,
    other: Reference,
    tmp_path: Path,
    rounds: Rounds,
    chance: random.Random,
    figures: Report,
) -> None:
    """One project is built while another, which shares the store, is built, cleaned and collected, over and over."""
    count = rounds(65, 2)
    trouble, beside = Trouble(), Counter[str]()
    for number in range(count):
        folder = tmp_path / f"round-{number}"
        env = {"MERGEBUILD_STORE": str(folder / "store")}
        link = chance.choice(("auto", "copy", "hard"))
        here = make_project(folder / "here", sources, link=link)
        there = make_project(folder / "there", sources, m=OTHER, link=link)
        program.run("build", "--json", here=there, env=env).checked()
        program.run("build", "far", "--json", here=here, env=env).checked()
        builders = [program.start("build", "--json", here=here, env=env) for _ in range((2, 4, 16)[number % 3])]
        others: list[tuple[str, Running]] = []
        ended: list[tuple[str, Ended]] = []
        while not all(each.is_over() for each in builders):
            if len(others) < 2:
                place, *words = chance.choice(DISTURBING)
                running = program.start(*words, here=here if place == "here" else there, env=env)
                others.append((f"{' '.join(words)} of {place}", running))
            for pair in [each for each in others if each[1].is_over(0.02)]:
                others.remove(pair)
                ended.append((pair[0], pair[1].wait()))
        done = [each.wait() for each in builders]
        ended += [(name, each.wait()) for name, each in others]
        beside.update(name.split()[0] for name, _ in ended)
        for name, each in ended:
            with trouble.noted(f"round {number}, {name}"):
                each.checked()
        with trouble.noted(f"round {number}, builders and what they leave"):
            assert computed([each.checked() for each in done]) <= first.all_computed, "a tensor was computed twice"
            assert outputs(here) == first.outputs
            again = program.run("build", "far", "--json", here=here, env=env).checked()
            assert computed([again]) == 0, "what a virtual target keeps was collected"
            again = program.run("build", "--json", here=here, env=env).checked()
            assert {each["verdict"] for each in again.document["targets"]} == {"up-to-date"}
            program.run("build", here=there, env=env).checked()
            assert outputs(there) == other.outputs
            for root in (here, there):
                program.run("verify", here=root, env=env).checked()
                check_tidy(root, folder / "store")
            remove(folder)
    figures(rounds=count, beside=beside)
    trouble.check()
