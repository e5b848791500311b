"""Laws of scheduling: what hangs together is one job, and jobs stand in the order of the files."""

from __future__ import annotations

import pickle
import random
from fractions import Fraction
from pathlib import Path

from mergebuild.engine.schedule import Cluster, looks, schedule
from mergebuild.engine.work import (
    Copy,
    KernelCall,
    Leaf,
    Location,
    OutputRange,
    Pass,
    Step,
    SurveyedLeaves,
    SurveyJob,
    UnseenGroup,
    UnseenInput,
)
from mergebuild.methods.catalog import METHODS
from mergebuild.methods.tables.lora import FACTOR

HALF = Fraction(1, 2)


def leaf(name: bytes, offset: int = 0, path: str = "in") -> Leaf:
    return Leaf(name, "float32", 1, Location(Path(path), offset, 4))


def clusters(work: Pass) -> list[Cluster]:
    return [job for job in schedule(work) if isinstance(job, Cluster)]


def test_runs_of_copies_are_one_range() -> None:
    here, there = Path("one"), Path("two")
    copies = [
        Copy(Location(here, 100, 10), OutputRange(0, 0)),
        Copy(Location(here, 110, 5), OutputRange(0, 10)),
        Copy(Location(here, 120, 5), OutputRange(0, 15)),
        Copy(Location(there, 125, 5), OutputRange(0, 20)),
        Copy(Location(there, 130, 0), OutputRange(0, 25)),
        Copy(Location(there, 130, 5), OutputRange(1, 25)),
    ]
    assert schedule(Pass(copies=copies[::-1])) == [
        Copy(Location(here, 100, 15), OutputRange(0, 0)),
        Copy(Location(here, 120, 5), OutputRange(0, 15)),
        Copy(Location(there, 125, 5), OutputRange(0, 20)),
        Copy(Location(there, 130, 5), OutputRange(1, 25)),
    ]


def test_clusters_are_what_hangs_together() -> None:
    """Steps that share an input, or read each other, are one cluster; others are others."""
    leaves = {name: leaf(name, offset) for offset, name in enumerate([b"a", b"b", b"c", b"d"])}
    terms = {b"t": [b"a", b"b"], b"u": [b"t", b"c"], b"v": [b"d"], b"w": [b"b"]}
    steps = {name: Step(name, "float32", 1, [(term, HALF) for term in some]) for name, some in terms.items()}
    found = clusters(Pass(leaves=leaves, steps=steps))
    assert [[step.digest for step in cluster.steps] for cluster in found] == [[b"t", b"u", b"w"], [b"v"]]
    assert [{leaf.digest for leaf in cluster.leaves} for cluster in found] == [{b"a", b"b", b"c"}, {b"d"}]


def test_a_step_is_made_of_what_is_below_it() -> None:
    """By way of others too, each behind what it reads; what lies in a file is read from there."""
    terms = {b"t": [b"a"], b"u": [b"a"], b"v": [b"t", b"u"], b"w": [b"v", b"t"], b"x": [b"lies"], b"lies": [b"t"]}
    steps = [Step(name, "float32", 1, [(term, HALF) for term in some]) for name, some in terms.items()]
    cluster = Cluster([leaf(b"a"), leaf(b"lies", 4)], steps)
    found = {step.digest: [each.digest for each in cluster.below(step)] for step in steps}
    assert found == {b"t": [], b"u": [], b"v": [b"t", b"u"], b"w": [b"t", b"u", b"v"], b"x": [], b"lies": [b"t"]}


def test_jobs_stand_in_the_order_of_the_files() -> None:
    """Copies first, which need no torch; then what is to be hashed; each kind by where it begins to read."""
    places = [(path, offset) for path in ("one", "two") for offset in (0, 8, 16)]
    leaves = {b"%d" % index: leaf(b"%d" % index, offset, path) for index, (path, offset) in enumerate(places)}
    steps = [Step(b"s" + digest, "float32", 1, [(digest, HALF)]) for digest in leaves]
    unseen = [UnseenGroup((UnseenInput(each, (1,), b""),), ()) for each in leaves.values()]
    copy = Copy(Location(Path("two"), 100, 1), OutputRange(0, 0))
    order = random.Random(7)
    for _ in range(5):
        order.shuffle(steps)
        order.shuffle(unseen)
        work = Pass(leaves=leaves, steps={step.digest: step for step in steps}, copies=[copy], unseen=unseen)
        found = schedule(work)
        assert found[0] == copy
        hashed = [job.unhashed[0].digest for job in found if isinstance(job, UnseenGroup)]
        made = [job.leaves[0].digest for job in found if isinstance(job, Cluster)]
        assert found[1:] == [*found[1:7], *clusters(work)]
        assert hashed == made == list(leaves)


def test_parts_of_one_computation_are_siblings() -> None:
    """The first cluster of a module leads the others; what belongs to none stands by itself."""
    leaves = {name: leaf(name, offset) for offset, name in enumerate([b"a", b"b", b"c", b"d"])}

    def factor(name: bytes, together: bytes) -> Step:
        call = KernelCall(FACTOR, "w", (1,), {}, (), parts=(((leaves[name[:1]], HALF),),), together=together)
        return Step(name, "float32", 1, (), operation=call)

    steps = [factor(b"a1", b"m"), factor(b"b1", b"n"), factor(b"a2", b"m"), factor(b"c1", b""), factor(b"b2", b"n")]
    found = clusters(Pass(leaves=leaves, steps={step.digest: step for step in steps}))
    shown = [[each.steps[0].digest for each in (job, *job.siblings)] for job in found]
    assert shown == [[b"a1", b"a2"], [b"b1", b"b2"], [b"c1"]]
    assert [[leaf.digest for leaf in job.reads] for job in found] == [[b"a"], [b"b"], [b"c"]]


def test_what_a_step_makes_is_no_leaf_of_its_readers() -> None:
    """Unless it lies in a file too."""
    steps = {b"t": Step(b"t", "float32", 1, [(b"a", HALF)]), b"u": Step(b"u", "float32", 1, [(b"t", HALF)])}
    leaves = {b"a": leaf(b"a"), b"t": leaf(b"t", 4)}
    (both,) = clusters(Pass(leaves=leaves, steps=steps))
    assert [each.digest for each in both.leaves] == [b"a", b"t"]
    (one,) = clusters(Pass(leaves={b"a": leaf(b"a")}, steps=steps))
    assert [each.digest for each in one.leaves] == [b"a"]


def test_a_pass_that_travelled_is_cut_alike() -> None:
    """The same jobs, in the same order."""
    leaves = {name: leaf(name, offset) for offset, name in enumerate([b"a", b"b"])}
    steps = {b"t": Step(b"t", "float16", 1, ((b"a", HALF), (b"b", HALF)), (OutputRange(0, 8),))}
    work = Pass(leaves=leaves, steps=steps, copies=(Copy(Location(Path("x"), 1, 2), OutputRange(0, 4, (1, 2))),))
    assert schedule(pickle.loads(pickle.dumps(work))) == schedule(work)


def test_surveys_are_cut_into_what_is_looked_at_together() -> None:
    """All of a scope, or each tensor by itself, as the method says; nothing of what is known."""
    tensors = tuple(SurveyedLeaves(name, (1,), (((leaf(name.encode()), HALF),),)) for name in "vw")
    one_by_one = SurveyJob(b"cosines", METHODS["cosine_a"], {}, tensors)
    at_once = SurveyJob(b"order", METHODS["rebasin"], {}, tensors)
    known = SurveyJob(b"known", METHODS["rebasin"], {}, tensors)
    found = looks(Pass(surveys=[one_by_one, at_once, known], known={b"known": "[]"}))
    shown = [(each.survey, [tensor.name for tensor in each.part.tensors]) for each in found]
    assert shown == [(b"cosines", ["v"]), (b"cosines", ["w"]), (b"order", ["v", "w"])]
