"""Statistics of tensors that another target makes: right in the pass that makes them, and what was wrong is stale."""

from __future__ import annotations

import pytest
import torch
from lab import Lab

from mergebuild.engine import compute
from mergebuild.methods.catalog import METHODS
from mergebuild.methods.making import CatalogKernel, Statistical
from mergebuild.plan import freshness
from mergebuild.project import stamp


@pytest.fixture
def chain(lab: Lab) -> Lab:
    """A written target, and one that takes statistics of it."""
    for seed, name in enumerate("abc"):
        lab.model(
            name,
            **{f"w{n}": torch.randn((6, 6), generator=torch.Generator().manual_seed(9 * seed + n)) for n in range(9)},
        )
    lab.write(
        '[targets.t1]\nmethod = "weighted_sum"\na = "a"\nb = "b"\nalpha = 0.3\ndtype = "float16"\n'
        'output = "t1.safetensors"\n'
        '[targets.t2]\nmethod = "ties"\nbase = "c"\nmodels = ["a", "t1"]\nweight = 0.5\ndensity = 0.4\n'
        'output = "t2.safetensors"\n'
        '[targets.plain]\nmethod = "ties"\nbase = "c"\nmodels = ["a", "b"]\nweight = 0.5\ndensity = 0.4\n'
        'output = "plain.safetensors"\n'
    )
    return lab


@pytest.mark.parametrize("between", ["t1.safetensors", "t1.ckpt", "t1/"])
def test_it_is_of_the_values_that_are_written(chain: Lab, between: str) -> None:
    """All at once = one by one, the statistics of a tensor that the same pass writes included."""
    mergefile = chain / "mergefile.toml"
    mergefile.write_text(mergefile.read_text().replace("t1.safetensors", between))
    chain.build("t1")
    chain.build("t2")
    apart = chain.read("t2.safetensors")
    for left in ("t2.safetensors", ".mergebuild/state.sqlite3"):
        (chain / left).unlink()
    chain.build(threads=2, force=True)
    together = chain.read("t2.safetensors")
    assert all(torch.equal(values, together[name]) for name, values in apart.items())


def test_what_an_earlier_version_made_of_them_is_made_again(chain: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says why; what takes statistics of sources alone is up to date as ever."""
    with monkeypatch.context() as earlier:
        earlier.setattr(Statistical, "takes_statistics", False)
        for module in (freshness, stamp):
            earlier.setattr(module, "REVISION", 1)
        assert set(chain.verdicts().values()) == {"built"}
    assert chain.states() == {"t1": "up-to-date", "t2": "stale", "plain": "up-to-date"}
    reason = "statistics of tensors that another target makes are taken again: earlier versions took wrong ones"
    assert chain.project.why("t2").reasons == (reason,)
    assert chain.verdicts() == {"t1": "up-to-date", "t2": "built", "plain": "up-to-date"}
    assert set(chain.verdicts().values()) == {"up-to-date"}


def test_a_statistic_that_was_kept_under_an_earlier_key_is_not_used(
    chain: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies in the store may be of memory that nothing had filled."""
    kept: dict[bytes, object] = {}
    find, put = compute.Findings.get, compute.Findings.put
    monkeypatch.setattr(
        compute.Findings, "put", lambda self, key, state: (kept.__setitem__(key, state), put(self, key, state))
    )
    with monkeypatch.context() as earlier:
        earlier.setattr("mergebuild.engine.findings._STATISTICS", "1")
        chain.build("t2")
    before, asked = set(kept), []
    assert before
    monkeypatch.setattr(compute.Findings, "get", lambda self, key: (asked.append(key), find(self, key))[1])
    (chain / "t2.safetensors").unlink()
    chain.project.gc(older_than=0.0)
    assert chain.verdicts("t2")["t2"] == "built"
    assert asked
    assert not before & set(asked)


def test_it_is_no_statistic_where_what_it_is_of_has_no_value(lab: Lab) -> None:
    """Nothing is kept of it, and both targets fail for the same reason."""
    lab.model("a", w=[1.0, 2.0])
    lab.model("b", w=[-1.0, 2.0])
    (lab / "mine.py").write_text(
        "from mergebuild.kernels import Kernel, UndefinedError\n\n\ndef mine(call, chunks, start, state):\n"
        "    raise UndefinedError('there is none')\n\n\nKERNELS = {'mine': Kernel(mine)}\n"
    )
    lab.write(
        '[methods.mine]\nfile = "mine.py"\ninputs = ["a"]\nexact = true\n'
        '[targets.t1]\nmethod = "mine"\na = "a"\n'
        '[targets.t2]\nmethod = "slerp"\na = "t1"\nb = "b"\nt = 0.5\noutput = "t2.safetensors"\n'
    )
    lab.project.trust()
    (found,) = lab.build().targets
    assert found.error is not None
    assert "there is none" in " ".join((found.error.message, *found.error.rows))


def test_every_method_that_takes_statistics_is_known_by_its_row() -> None:
    """`takes_statistics` is what the kernels have: the planner knows it without them."""
    found = {
        name: compute.kernel_of(method).statistic is not None
        for name, method in METHODS.items()
        if isinstance(method.makes, CatalogKernel)
    }
    assert {name for name, has in found.items() if has} == {
        name for name, method in METHODS.items() if method.makes.takes_statistics
    }


def test_the_digest_says_whose_tensors_statistics_were_taken_of(chain: Lab) -> None:
    """A file that copies a source's tensor has the source's: nothing about that can have been wrong."""
    chain.write(
        '[targets.same]\nmethod = "copy"\na = "b"\noutput = "same.safetensors"\n'
        '[targets.of_file]\nmethod = "ties"\nbase = "c"\nmodels = ["a", "same"]\nweight = 0.5\n'
        'output = "x.safetensors"\n'
        '[targets.of_source]\nmethod = "ties"\nbase = "c"\nmodels = ["a", "b"]\nweight = 0.5\n'
        'output = "y.safetensors"\n'
    )
    found = {each.target: each.artifact for each in chain.project.plan(("of_file", "of_source")).targets}
    assert found["of_file"] == found["of_source"]
