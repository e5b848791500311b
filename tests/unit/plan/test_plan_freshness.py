"""What a fingerprint covers, and that a target seen quickly to be up to date is one."""

from __future__ import annotations

import hashlib

import pytest
from lab import Lab

from mergebuild.errors import SourceError
from mergebuild.events import silent
from mergebuild.plan.describe import Describer
from mergebuild.plan.description import Description, Goal
from mergebuild.project.inspect import inspect

CHAIN = """
[vars]
m = 0.5
[targets.half]
method = "weighted_sum"
a = "x"
b = "y"
alpha = "${m}"
[targets.file]
method = "weighted_sum"
a = "half"
b = "y"
alpha = 0.25
output = "file.safetensors"
[targets.last]
formula = "file/2 + x/2"
output = "last.safetensors"
"""


@pytest.fixture
def chain(lab: Lab) -> Lab:
    lab.model("x", w=[1.0, 2.0], v=[5.0])
    lab.model("y", w=[3.0, 5.0], v=[6.0])
    lab.write(CHAIN)
    lab.settle()  # else the sources are racily clean, and nothing is remembered of them
    lab.build()
    lab.settle()
    return lab


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets that a planner looked at closely."""
    found: list[str] = []
    real = Describer.describe

    def describe(describer: Describer, goal: Goal) -> Description:
        found.append(goal.target)
        return real(describer, goal)

    monkeypatch.setattr(Describer, "describe", describe)
    return found


def test_a_fresh_target_is_not_planned(chain: Lab, looked_at: list[str]) -> None:
    assert chain.verdicts() == {"file": "up-to-date", "last": "up-to-date"}
    assert chain.states() == {"file": "up-to-date", "last": "up-to-date"}
    assert [str(each.verdict) for each in chain.project.plan().targets] == ["up-to-date", "up-to-date"]
    assert looked_at == []


def test_a_fresh_result_is_the_planned_one(chain: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = chain.build().targets
    monkeypatch.setattr("mergebuild.plan.freshness.Freshness.fresh", lambda _self, _names: {})
    closely = chain.build().targets
    assert quick == closely


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("m = 0.5", "m = 0.25"),
        ("alpha = 0.25", "alpha = { default = 0.25, v = 0.5 }"),
        ('b = "y"\nalpha = 0.25', 'b = "x"\nalpha = 0.25'),
        ("file/2 + x/2", "file/2 + x/4"),
        ('output = "last', 'dtype = "float16"\noutput = "last'),
        ('output = "last', 'metadata = "none"\noutput = "last'),
        ('output = "last', 'drop = "v"\noutput = "last'),
        ("[vars]", '[defaults]\ndtype = "bfloat16"\n[vars]'),
    ],
)
def test_a_change_of_the_recipe_is_looked_at(chain: Lab, looked_at: list[str], before: str, after: str) -> None:
    assert before in CHAIN
    chain.write(CHAIN.replace(before, after))
    assert {"built", "restored"} & set(chain.verdicts().values())
    assert "last" in looked_at


def test_a_changed_source_is_looked_at(chain: Lab) -> None:
    chain.edit_in_place("y.safetensors")
    assert chain.verdicts() == {"file": "built", "last": "built"}


def test_a_source_in_another_spelling_is_looked_at(lab: Lab) -> None:
    """Its content is the same, and may be known since another target was built; the output has its names."""
    names = [f"model.layers.0.self_attn.{each}_proj.weight" for each in "qk"]
    lab.model("x", **{name: [[1.0]] for name in names})
    lab.write(
        '[targets.a]\nformula = "x/2"\noutput = "a.safetensors"\n'
        '[targets.b]\nformula = "x/4"\noutput = "b.safetensors"\n'
    )
    lab.settle()
    lab.build()
    lab.model("x", **{f"module.{name}": [[1.0]] for name in names})
    lab.settle()
    for target in ("a", "b"):
        (found,) = lab.build(target).targets
        assert (str(found.verdict), found.tensors_computed) == ("restored", 0)
        assert sorted(lab.read(f"{target}.safetensors")) == sorted(f"module.{name}" for name in names)


def test_a_renamed_source_costs_a_look_and_no_more(chain: Lab, looked_at: list[str]) -> None:
    chain.sources["z"] = chain.sources.pop("y")
    chain.write(CHAIN.replace('"y"', '"z"'))
    assert chain.verdicts() == {"file": "up-to-date", "last": "up-to-date"}
    assert "file" in looked_at
    looked_at.clear()
    assert chain.verdicts() == {"file": "up-to-date", "last": "up-to-date"}
    assert looked_at == []


def test_a_wrong_pin_is_not_overlooked(chain: Lab) -> None:
    path = chain / "mergefile.toml"
    pinned = f'y = {{ path = "y.safetensors", sha256 = "{"0" * 64}" }}'
    path.write_text(path.read_text().replace('y = "y.safetensors"', pinned))

    with pytest.raises(SourceError) as caught:
        chain.build()
    assert caught.value.problems[0].code == "pin-mismatch"


def test_a_target_of_a_pinned_folder_is_not_planned(chain: Lab, looked_at: list[str]) -> None:
    """What its files are is remembered; another tokenizer is another folder."""
    (chain / "z").mkdir()
    (chain / "y.safetensors").rename(chain / "z/model.safetensors")
    (chain / "z/tokenizer.json").write_text("{}")
    chain.settle()
    pin = inspect(chain / "z").hashes["sha256"]
    path = chain / "mergefile.toml"
    path.write_text(path.read_text().replace('y = "y.safetensors"', f'y = {{ path = "z", sha256 = "{pin}" }}'))
    chain.build()
    looked_at.clear()
    assert chain.verdicts() == {"file": "up-to-date", "last": "up-to-date"}
    assert looked_at == []
    (chain / "z/tokenizer.json").write_text("[]")
    with pytest.raises(SourceError) as caught:
        chain.build()
    assert caught.value.problems[0].code == "pin-mismatch"


def test_what_full_metadata_say_of_a_source_is_not_overlooked(chain: Lab) -> None:
    """Its SHA-256, which covers its own metadata; the tensors, and so its content, are the same."""
    chain.write(CHAIN + 'metadata = "full"\n')
    chain.build()
    chain.settle()
    assert chain.verdicts() == {"file": "up-to-date", "last": "up-to-date"}
    raw = (chain / "y.safetensors").read_bytes()
    (chain / "y.safetensors").write_bytes(raw.replace(b'"format":"pt"', b'"format":"PT"'))
    chain.settle()
    assert (chain / "y.safetensors").read_bytes() != raw

    assert chain.verdicts("file") == {"file": "up-to-date"}  # which makes known that the tensors are the same
    assert chain.verdicts("last") == {"last": "restored"}
    sha256 = hashlib.sha256((chain / "y.safetensors").read_bytes()).hexdigest()
    assert sha256.encode() in (chain / "last.safetensors").read_bytes()
    chain.settle()
    assert chain.verdicts() == {"file": "up-to-date", "last": "up-to-date"}


def test_a_fresh_target_of_full_metadata_is_not_planned(chain: Lab, looked_at: list[str]) -> None:
    chain.write(CHAIN + 'metadata = "full"\n')
    chain.build()
    chain.settle()
    looked_at.clear()
    assert chain.verdicts() == {"file": "up-to-date", "last": "up-to-date"}
    assert looked_at == []


def test_an_output_changed_by_hand_is_not_fresh(chain: Lab) -> None:
    chain.edit_in_place("last.safetensors")
    assert chain.states() == {"file": "up-to-date", "last": "changed-by-hand"}


@pytest.mark.parametrize("key", ['config = "y"', 'max_shard_size = "1GB"'])
def test_a_fingerprint_covers_what_only_folders_have(chain: Lab, key: str) -> None:
    """It changes files, and no digest of tensors."""
    found = []
    for text in ("", key):
        chain.write(CHAIN.replace('output = "last.safetensors"', f'output = "last/"\n{text}'))
        with chain.project._sessions.open(silent) as session:
            found.append(session.freshness.fingerprint("last"))
    assert None not in found
    assert found[0] != found[1]
