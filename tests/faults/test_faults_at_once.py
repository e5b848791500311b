"""Many processes on one store: builders of one project, of two that share a store, and gc, clean and verify among them.

Every tensor is computed once, by whoever comes first; the others wait and take the result. Nobody fails, nothing that
is needed is collected, and whoever reads beside a builder sees no corruption.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench import Bench, Trouble
from forked_runs import Ended, Running
from forty_targets import OTHER, check_tidy, outputs, remove


def computed(ended: Sequence[Ended]) -> int:
    """Return the tensors that builds computed, all together."""
    return sum(target["tensors_computed"] for each in ended for target in each.document["targets"])


def test_builders_of_one_project_compute_every_tensor_once(bench: Bench) -> None:
    count = bench.rounds(70, 2)
    trouble, builders = Trouble(), 0
    for number in range(count):
        root = bench.project(bench.space / f"round-{number}", link=bench.link())
        some = [bench.program.start("build", "--json", here=root) for _ in range((2, 4, 16)[number % 3])]
        ended = [each.wait() for each in some]
        builders += len(some)
        with trouble.noted(f"round {number}, {len(some)} builders"):
            assert computed([each.checked() for each in ended]) == bench.first.all_computed
            assert outputs(root) == bench.first.outputs
            check_tidy(root)
            remove(root)
    bench.report(rounds=count, builders=builders)
    trouble.check()


def test_builders_of_two_projects_that_share_a_store_compute_every_tensor_once(bench: Bench) -> None:
    count = bench.rounds(65, 1)
    trouble, builders = Trouble(), 0
    for number in range(count):
        folder = bench.space / f"round-{number}"
        link = bench.link()
        roots = [bench.project(folder / name, link=link) for name in ("here", "there")]
        env = {"MERGEBUILD_STORE": str(folder / "store")}
        some = [
            bench.program.start("build", "--json", here=roots[each % 2], env=env)
            for each in range((2, 4, 16)[number % 3])
        ]
        ended = [each.wait() for each in some]
        builders += len(some)
        with trouble.noted(f"round {number}, {len(some)} builders"):
            assert computed([each.checked() for each in ended]) == bench.first.all_computed
            for root in roots:
                assert outputs(root) == bench.first.outputs
                check_tidy(root, folder / "store")
                bench.program.run("verify", here=root, env=env).checked()
            remove(folder)
    bench.report(rounds=count, builders=builders)
    trouble.check()


DISTURBING = (
    ("here", "gc", "--max-size", "0"),
    ("there", "gc", "--max-size", "0"),
    ("there", "gc", "--older-than", "0d"),
    ("there", "clean", "--yes"),
    ("there", "build", "--json"),
    ("here", "verify"),
    ("there", "verify"),
    ("here", "status"),
)


def test_builders_are_not_disturbed_by_gc_clean_and_verify(bench: Bench) -> None:
    """One project is built while another, which shares the store, is built, cleaned and collected, over and over."""
    count = bench.rounds(65, 1)
    trouble, beside = Trouble(), Counter[str]()
    for number in range(count):
        folder = bench.space / f"round-{number}"
        env = {"MERGEBUILD_STORE": str(folder / "store")}
        link = bench.link()
        here = bench.project(folder / "here", link=link)
        there = bench.project(folder / "there", m=OTHER, link=link)
        bench.program.run("build", "--json", here=there, env=env).checked()
        bench.program.run("build", "far", "--json", here=here, env=env).checked()
        builders = [bench.program.start("build", "--json", here=here, env=env) for _ in range((2, 4, 16)[number % 3])]
        others: list[tuple[str, Running]] = []
        ended: list[tuple[str, Ended]] = []
        while not all(each.is_over() for each in builders):
            if len(others) < 2:
                place, *words = bench.chance.choice(DISTURBING)
                running = bench.program.start(*words, here=here if place == "here" else there, env=env)
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
            assert computed([each.checked() for each in done]) <= bench.first.all_computed, (
                "a tensor was computed twice"
            )
            assert outputs(here) == bench.first.outputs
            again = bench.program.run("build", "far", "--json", here=here, env=env).checked()
            assert computed([again]) == 0, "what a virtual target keeps was collected"
            again = bench.program.run("build", "--json", here=here, env=env).checked()
            assert {each["verdict"] for each in again.document["targets"]} == {"up-to-date"}
            bench.program.run("build", here=there, env=env).checked()
            assert outputs(there) == bench.other.outputs
            for root in (here, there):
                bench.program.run("verify", here=root, env=env).checked()
                check_tidy(root, folder / "store")
            remove(folder)
    bench.report(rounds=count, beside=beside)
    trouble.check()
