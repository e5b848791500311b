"""No part of a model is dropped silently: unknown tensors are refused, or each of them is counted in a notice."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import pytest
from example_counts import examples
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from model_files import write_model
from tiny_models import llama, sd15, sdxl
from torch import Tensor

from mergebuild.project.project import load

MODELS = {"sd15": sd15, "sdxl": sdxl, "llama": llama}
METHODS = {
    "weighted_sum": 'a = "a"\nb = "b"\nalpha = 0.5',
    "slerp": 'a = "a"\nb = "b"\nt = 0.5',
    "ties": 'base = "a"\nmodels = ["b"]\nweight = 1',
    "linear": 'models = ["a", "b"]\nweight = 1',
    "extract_lora": 'base = "a"\na = "b"\nrank = 2',
}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
SAID = re.compile(r"(\d+) tensors? that (?:only )?`b` (lacks|has)\b")


def nonsense(tensors: Mapping[str, Tensor], chosen: set[str]) -> dict[str, Tensor]:
    return {f"zq.{number}.v" if name in chosen else name: each for number, (name, each) in enumerate(tensors.items())}


def planned(root: Path, method: str, *, swapped: bool) -> tuple[tuple[str, ...], str]:
    """Return the notices of a mix of `a` and `b` and its error code; `swapped` exchanges the files."""
    one, other = ("two", "one") if swapped else ("one", "two")
    (root / "mergefile.toml").write_text(
        f'[sources]\na = "{one}.safetensors"\nb = "{other}.safetensors"\n'
        f'[targets.t]\nmethod = "{method}"\n{METHODS[method]}\noutput = "t.safetensors"\n'
    )
    (found,) = load(root / "mergefile.toml").plan().targets
    return found.notices, found.error.code if found.error else ""


@pytest.mark.parametrize("method", [name for name in METHODS if name != "extract_lora"])
@examples(15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_random_half_under_other_names_is_refused_or_named(tmp_path: Path, method: str, data: st.DataObject) -> None:
    """In either order of the inputs. If the mix is accepted, notices count each unmerged tensor of both inputs."""
    kind = data.draw(st.sampled_from(sorted(MODELS)), "model")
    one, two = MODELS[kind](1), MODELS[kind](2)
    floats = [name for name, each in one.items() if each.is_floating_point()]
    share = data.draw(st.fractions(Fraction(1, 10), 1), "share")
    chosen = set(data.draw(st.permutations(floats), "order")[: max(1, int(share * len(floats)))])
    write_model(tmp_path / "one.safetensors", one)
    write_model(tmp_path / "two.safetensors", nonsense(two, chosen))
    size = {name: each.nbytes for name, each in one.items()}
    apart, whole = sum(size[name] for name in chosen), sum(size[name] for name in floats)
    notices, code = planned(tmp_path, method, swapped=data.draw(st.booleans(), "swapped"))
    if code:
        assert code in ("too-little-in-common", "layout-mismatch")
        assert 2 * apart > whole or code != "too-little-in-common"
        return
    counted = {"lacks": 0, "has": 0}
    for notice in notices:
        for count, verb in SAID.findall(notice):
            counted[verb] += int(count)
    lost_head = len({HEAD, EMBEDDING} & chosen) == 1  # a model that has one of them is tied: it is the other too
    assert 2 * apart <= whole + lost_head * 2 * size.get(HEAD, 0)
    assert max(counted.values()) == len(chosen)
    assert min(counted.values()) >= len(chosen) - lost_head
    if not lost_head:
        assert any("may be two names for one" in notice for notice in notices)


@examples(10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_extraction_names_what_it_finds_no_counterpart_for(tmp_path: Path, data: st.DataObject) -> None:
    """The notice counts weights of layers; norms and biases are in no LoRA."""
    one, two = llama(1), llama(2)
    matrices = [name for name, each in one.items() if each.dim() == 2 and "embed" not in name and name != HEAD]
    chosen = set(data.draw(st.permutations(matrices), "order")[: data.draw(st.integers(1, len(matrices)), "count")])
    write_model(tmp_path / "one.safetensors", one)
    write_model(tmp_path / "two.safetensors", nonsense(two, chosen))
    notices, code = planned(tmp_path, "extract_lora", swapped=False)
    if code:
        assert code == "too-little-in-common"
        return
    for side in ("lacks", "has"):
        found = [int(count) for notice in notices for count, verb in SAID.findall(notice) if verb == side]
        assert sum(found) == len(chosen)
    assert 2 * sum(one[name].nbytes for name in chosen) <= sum(each.nbytes for each in one.values())
