"""Laws of sources: hashed once, believed by stat data, never on the strength of a clock that had not moved."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest
import torch
from lab import Lab, write_model

from mergebuild import filestate, portable
from mergebuild import sources as sources_module
from mergebuild.errors import MergeBuildError, SourceError
from mergebuild.events import Hashing
from mergebuild.formats import encode_header
from mergebuild.portable import Identity
from mergebuild.recipe import load_recipe
from mergebuild.sources import Sources, locate

COPY = '[targets.t]\nmethod = "copy"\na = "x"\noutput = "t.safetensors"\n'


@pytest.fixture
def one(lab: Lab) -> Lab:
    """A source that is old enough to be trusted, and a copy of it."""
    lab.model("x", w=[1.0, 2.0], v=[3.0])
    lab.write(COPY)
    lab.settle()
    return lab


def hashings(lab: Lab) -> int:
    """Return how many files the last build hashed, and forget them."""
    found = sum(isinstance(event, Hashing) for event in lab.events)
    lab.events.clear()
    return found


def test_a_source_is_hashed_once(one: Lab) -> None:
    one.build()
    assert hashings(one) == 1
    one.build()
    assert hashings(one) == 0


def test_a_touched_source_is_hashed_again_and_changes_nothing(one: Lab) -> None:
    one.build()
    one.settle()
    (one / "x.safetensors").touch()
    one.settle()
    hashings(one)
    assert one.verdicts() == {"t": "up-to-date"}
    assert hashings(one) == 1


def test_an_edit_that_puts_size_and_mtime_back_is_seen(one: Lab) -> None:
    one.build()
    one.edit_in_place("x.safetensors")
    assert one.states() == {"t": "stale"}
    assert one.verdicts() == {"t": "built"}


@pytest.mark.parametrize(
    ("mtime", "ctime", "began", "racy"),
    [
        (1_000_000_001, 1_000_000_001, 1_000_000_001, True),
        (1_000_000_001, 1_000_000_001, 1_019_000_000, True),
        (1_000_000_001, 1_000_000_001, 1_020_000_001, False),
        (1, 1_000_000_001, 1_019_000_000, True),
        (1_000_000_001, 1, 1_019_000_000, True),
        (2_000_000_000, 2_000_000_000, 3_900_000_000, True),
        (2_000_000_000, 2_000_000_000, 4_000_000_000, False),
        (9_000_000_001, 1, 5_000_000_000, True),
    ],
)
def test_a_file_is_racily_clean_within_the_clocks_grain(mtime: int, ctime: int, began: int, racy: bool) -> None:
    """20 ms; 2 s where times are whole; also when the clock was set back. Counted from when hashing began."""
    assert portable.is_racy(Identity(1, 1, 1, mtime, ctime), began) == racy


def test_a_racily_clean_source_is_used_but_not_remembered(one: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filestate, "_FINE_GRAIN_NS", 10**12)
    assert one.verdicts() == {"t": "built"}
    assert one.verdicts() == {"t": "up-to-date"}
    assert hashings(one) == 2


def test_grain_is_counted_from_the_beginning_of_hashing(one: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long hashing takes: what was read first may have changed since without a trace."""
    real = sources_module.file_checksum

    def slow(fd: int, begin: int, end: int) -> bytes:
        time.sleep(0.03)
        return real(fd, begin, end)

    monkeypatch.setattr(sources_module, "file_checksum", slow)
    path = one / "x.safetensors"
    recipe = load_recipe(one / "mergefile.toml")
    path.touch()
    session = Sources(recipe.sources, one_state(one), folder=one.root)
    session.hashed("x")
    assert session._state.source(session.file("x").identity) is None


def test_a_large_source_has_the_checksums_of_a_small_one(one: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken side by side, they stand in the order of its header."""
    recipe = load_recipe(one / "mergefile.toml")
    alone = Sources(recipe.sources, one_state(one), folder=one.root).hashed("x").checksums
    monkeypatch.setattr(sources_module, "SMALL", 0)
    assert Sources(recipe.sources, one_state(one), folder=one.root).hashed("x").checksums == alone


def one_state(lab: Lab) -> sources_module.State:
    """Return a state in memory."""
    return sources_module.State(lab / "no-store" / "state")


def test_a_source_that_changes_while_it_is_hashed_is_refused(one: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sources_module.file_checksum

    def disturbed(fd: int, begin: int, end: int) -> bytes:
        one.edit_in_place("x.safetensors")
        return real(fd, begin, end)

    monkeypatch.setattr(sources_module, "file_checksum", disturbed)
    with pytest.raises(SourceError) as caught:
        one.build()
    assert caught.value.problems[0].code == "source-changed"
    assert not (one / "t.safetensors").exists()


def test_a_pin_is_the_sha256_of_the_file(one: Lab) -> None:
    digest = hashlib.sha256((one / "x.safetensors").read_bytes()).hexdigest()
    text = '[sources]\nx = {{ path = "x.safetensors", sha256 = "{}" }}\n' + COPY
    (one / "mergefile.toml").write_text(text.format(digest))
    assert one.build().ok
    (one / "mergefile.toml").write_text(text.format("0" * 64))
    with pytest.raises(SourceError) as caught:
        one.build()
    assert caught.value.problems[0].code == "pin-mismatch"
    assert digest in caught.value.problems[0].rows[1]


def test_a_missing_source_says_where_it_was_looked_for(
    one: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "models"
    elsewhere.mkdir()
    monkeypatch.setenv("MERGEBUILD_MODELS", os.pathsep.join(["", str(elsewhere)]))
    (one / "x.safetensors").rename(tmp_path / "gone")
    with pytest.raises(SourceError) as caught:
        one.build()
    assert caught.value.problems[0].code == "source-missing"
    assert len(caught.value.problems[0].rows) == 2
    (tmp_path / "gone").rename(elsewhere / "x.safetensors")
    assert one.build().ok
    recipe = load_recipe(one / "mergefile.toml")
    assert locate(recipe.sources["x"], one.root) == elsewhere / "x.safetensors"


def test_a_damaged_source_blocks_only_what_reads_it(one: Lab) -> None:
    one.model("y", w=[5.0], v=[1.0])
    one.write(COPY + COPY.replace("targets.t", "targets.u").replace('"x"', '"y"').replace('"t.', '"u.'))
    data = (one / "y.safetensors").read_bytes()
    (one / "y.safetensors").write_bytes(data[:-3])
    result = one.build(keep_going=True)
    assert {each.target: str(each.verdict) for each in result.targets} == {"t": "built", "u": "failed"}
    assert result.exit_code == 4
    with pytest.raises(MergeBuildError):
        one.build()


def test_only_the_sources_asked_for_are_looked_at(one: Lab) -> None:
    one.sources["gone"] = "gone.safetensors"
    one.write(COPY + COPY.replace("targets.t", "targets.u").replace('"x"', '"gone"').replace('"t.', '"u.'))
    assert one.build("t").ok


def test_an_input_with_the_coefficient_zero_is_not_hashed(one: Lab) -> None:
    """Its header says whether it fits; its values are in nothing."""
    one.model("y", w=[float("nan"), 2.0], v=[3.0])
    one.write(COPY.replace("copy", "weighted_sum") + 'b = "y"\nalpha = 0\n')
    one.build()
    assert [event.path for event in one.events if isinstance(event, Hashing)] == ["x.safetensors"]
    one.edit_in_place("y.safetensors")
    assert one.verdicts() == {"t": "up-to-date"}
    one.write(COPY.replace("copy", "weighted_sum") + 'b = "y"\nalpha = 0.5\n')
    assert [change.text for change in one.project.why("t").changes] == ["alpha 0 -> 0.5", "input y: is new"]


# Adapters, and what else is said of tensors


def session(lab: Lab) -> Sources:
    """Return the sources of a project, nothing of them known."""
    return Sources(load_recipe(lab / "mergefile.toml").sources, one_state(lab), folder=lab.root)


def adapter(lab: Lab, **config: object) -> None:
    """Write a folder of PEFT as the source `x`."""
    (lab / "x").mkdir(exist_ok=True)
    (lab / "x/adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 1} | config))
    if not (lab / "x/adapter_model.safetensors").exists():
        name = "base_model.model.q_proj.lora_A.weight"
        write_model(lab / "x/adapter_model.safetensors", {name: torch.tensor([[1.0, 2.0]])})


def test_an_adapters_configuration_is_part_of_what_it_is(lab: Lab) -> None:
    adapter(lab, lora_alpha=4)
    lab.sources["x"] = "x/"
    lab.write(COPY)
    lab.settle()
    state = one_state(lab)
    recipe = load_recipe(lab / "mergefile.toml")
    first = Sources(recipe.sources, state, folder=lab.root).hashed("x")
    found = (lab / "x/adapter_config.json").stat()

    adapter(lab, lora_alpha=8)
    os.utime(lab / "x/adapter_config.json", ns=(found.st_atime_ns, found.st_mtime_ns))
    lab.settle()

    later = Sources(recipe.sources, state, folder=lab.root)
    assert not later.file("x").is_hashed
    assert later.hashed("x").content != first.content
    assert later.hashed("x").digests == first.digests
    assert Sources(recipe.sources, state, folder=lab.root).file("x").content == later.hashed("x").content


def test_what_diffusers_says_of_an_adapter_in_its_metadata_is_part_of_what_it_is(lab: Lab) -> None:
    """Other metadata are not."""
    found = []
    for metadata in ({}, {"title": "x"}, {"lora_adapter_metadata": '{"unet.lora_alpha": 4}'}):
        raw, _ = encode_header([("w", "float32", (1,))], metadata)
        (lab / "x.safetensors").write_bytes(raw + bytes(4))
        lab.sources["x"] = "x.safetensors"
        lab.write(COPY)
        found.append(session(lab).hashed("x").content)
    assert found[0] == found[1] != found[2]


def test_what_another_version_saw_of_a_source_is_not_believed(one: Lab) -> None:
    """Its checksums may be of other tensors, or of the same in another order: then the content is another."""
    state = one_state(one)
    recipe = load_recipe(one / "mergefile.toml")
    right = Sources(recipe.sources, state, folder=one.root).hashed("x")
    row = state.source(right.identity)
    assert row is not None
    assert row.checksums is not None
    state.remember_source(row._replace(checksums=row.checksums[16:] + row.checksums[:16]))
    again = Sources(recipe.sources, state, folder=one.root)
    assert not again.file("x").is_hashed
    assert again.hashed("x").checksums == right.checksums
