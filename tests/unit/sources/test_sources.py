"""Laws of sources: opened once they have settled, hashed once, believed by stat data, whatever clocks say."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lab import Lab
from model_files import write_model

from mergebuild.errors import MergeBuildError, SourceError
from mergebuild.events import Hashing
from mergebuild.formats.layout import encode_header
from mergebuild.recipe import load_recipe
from mergebuild.sources import checksums, settling
from mergebuild.sources import sources as sources_module
from mergebuild.sources.locating import locate
from mergebuild.sources.sources import Sources
from mergebuild.store.ledger import DiskLedger
from mergebuild.store.state import State
from mergebuild.system import filestate
from mergebuild.system.filestate import Identity

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


def test_a_source_of_this_moment_is_read_once_it_has_settled(one: Lab) -> None:
    """And is remembered like any other: what is learnt of it can only be of this content."""
    (one / "x.safetensors").touch()
    assert one.verdicts() == {"t": "built"}
    assert hashings(one) == 1
    assert one.verdicts() == {"t": "up-to-date"}
    assert hashings(one) == 0


class Clock:
    """A clock of two faces that only moves when somebody sleeps, and that can be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall = time.time_ns()
        self.steady = time.monotonic_ns()
        self.slept: list[float] = []
        self.at_a_sleep = lambda: None
        monkeypatch.setattr(time, "time_ns", lambda: self.wall)
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.steady)
        monkeypatch.setattr(time, "monotonic", lambda: self.steady / 1e9)
        monkeypatch.setattr(time, "sleep", self._sleep)

    def pass_by(self, seconds: float) -> None:
        self.wall += int(seconds * 1e9)
        self.steady += int(seconds * 1e9)

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.pass_by(seconds)
        self.at_a_sleep()


@pytest.fixture
def clock(one: Lab, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of tests, a second after the files were made."""
    found = Clock(monkeypatch)
    found.pass_by(1)
    return found


def whole_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no file's time have a fraction."""
    real = filestate.identity

    def coarse(path: Path) -> Identity:
        found = real(path)
        times = (each // 10**9 * 10**9 for each in (found.mtime_ns, found.ctime_ns))
        return Identity(found.device, found.inode, found.size, *times)

    monkeypatch.setattr(filestate, "identity", coarse)


def test_an_old_source_is_not_waited_for(one: Lab, clock: Clock) -> None:
    session(one).file("x")
    assert clock.slept == []


def test_a_source_is_waited_for_until_the_clock_has_moved_on(one: Lab, clock: Clock) -> None:
    clock.wall = (one / "x.safetensors").stat().st_ctime_ns
    session(one).file("x")
    assert clock.slept == [0.02]


def test_where_times_are_whole_seconds_the_wait_is_of_two(
    one: Lab, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_seconds(monkeypatch)
    clock.wall = (one / "x.safetensors").stat().st_ctime_ns // 10**9 * 10**9 + 10**9
    session(one).file("x")
    assert clock.slept == [2.0]


@pytest.mark.parametrize("hours", [-1, 24 * 365])
def test_a_clock_that_was_set_costs_no_wait_and_no_memory(one: Lab, clock: Clock, hours: int) -> None:
    """Files dated a year ahead, or an hour ahead after it was set back: only whether times are equal counts."""
    memory = a_memory(one)
    recipe = load_recipe(one / "mergefile.toml")
    clock.wall += hours * 3600 * 10**9
    Sources(recipe.sources, memory, folder=one.root).hashed("x")
    assert Sources(recipe.sources, memory, folder=one.root).file("x").is_hashed
    assert clock.slept == []


def test_a_clock_that_is_set_while_a_source_is_opened_says_nothing(
    one: Lab, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changed after it was set back an hour is dated an hour ago, which looks old."""
    real = settling.read_model
    reads: list[Path] = []

    def disturbed(path: Path, **how: Any) -> object:
        if not reads:
            clock.wall -= 3600 * 10**9
        reads.append(path)
        return real(path, **how)

    monkeypatch.setattr(settling, "read_model", disturbed)
    session(one).file("x")
    assert len(reads) == 2


def test_header_and_state_of_a_source_are_of_one_content(one: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit between the reading of one and the look at the other is seen: both are of what came after it."""
    real = settling.read_model
    path = one / "x.safetensors"
    raw = path.read_bytes()
    after = raw.replace(b'"v"', b'"u"')
    reads: list[bool] = []

    def disturbed(where: Path, **how: Any) -> object:
        found = real(where, **how)
        if not reads:
            before = path.stat()
            path.write_bytes(after)
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        reads.append(True)
        return found

    monkeypatch.setattr(settling, "read_model", disturbed)
    sources = session(one)
    assert set(sources.file("x").tensors) == {"w", "u"}
    assert sources.changed(["x"]) == []
    assert len(reads) > 1


def test_an_old_file_that_takes_a_sources_place_while_it_is_opened_is_seen(
    one: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the way to it changes, and neither file: no time tells that."""
    real = settling.read_model
    one.model("other", file="other/x.safetensors", u=[1.0])
    (one / "there").symlink_to("other")
    (one / "way").mkdir()
    (one / "way/x.safetensors").write_bytes((one / "x.safetensors").read_bytes())
    (one / "mergefile.toml").write_text('[sources]\nx = "here/x.safetensors"\n' + COPY)
    (one / "here").symlink_to("way")
    one.settle()

    def disturbed(where: Path, **how: Any) -> object:
        found = real(where, **how)
        if (one / "there").is_symlink():
            (one / "there").replace(one / "here")
        return found

    monkeypatch.setattr(settling, "read_model", disturbed)
    assert set(session(one).file("x").tensors) == {"u"}


def test_a_source_that_goes_on_changing_is_given_up(one: Lab, clock: Clock) -> None:
    path = one / "x.safetensors"

    def touch() -> None:
        os.utime(path, ns=(clock.wall, clock.wall))

    touch()
    clock.at_a_sleep = touch
    with pytest.raises(SourceError) as caught:
        session(one).file("x")
    (problem,) = caught.value.problems
    assert problem.code == "source-changed"
    assert "is being written" in problem.message
    assert 9 < sum(clock.slept) < 11


def test_a_source_that_a_process_can_write_to_is_given_up(one: Lab, clock: Clock) -> None:
    """However old it is: what is being written may show in no time of it yet."""
    with (one / "x.safetensors").open("r+b"), pytest.raises(SourceError) as caught:
        session(one).file("x")
    assert caught.value.problems[0].code == "source-changed"
    assert "open for writing" in caught.value.problems[0].message
    session(one).file("x")


def test_a_source_that_is_half_written_is_waited_for(one: Lab, clock: Clock) -> None:
    """What is wrong with it may be right in a moment; what stays wrong is said."""
    path = one / "x.safetensors"
    whole = path.read_bytes()
    file = path.open("r+b")
    file.truncate(100)

    def finish() -> None:
        with file:
            file.write(whole)

    clock.at_a_sleep = lambda: None if file.closed else finish()
    assert set(session(one).file("x").tensors) == {"w", "v"}
    os.truncate(path, 100)
    clock.pass_by(1)
    with pytest.raises(SourceError) as caught:
        session(one).file("x")
    assert caught.value.problems[0].code != "source-changed"


def test_a_writer_of_one_file_of_a_folder_is_waited_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter(lab, lora_alpha=4)
    lab.sources["x"] = "x/"
    lab.write(COPY)
    lab.settle()
    clock = Clock(monkeypatch)
    clock.pass_by(1)
    file = (lab / "x/adapter_config.json").open("r+b")
    clock.at_a_sleep = file.close
    session(lab).file("x")
    assert len(clock.slept) == 1


def test_one_file_of_many_that_changes_now_is_enough(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the others are dated: the newest time of all says nothing of the rest."""
    adapter(lab, lora_alpha=4)
    lab.sources["x"] = "x/"
    lab.write(COPY)
    year = 365 * 24 * 3600
    os.utime(lab / "x/adapter_model.safetensors", (time.time() + year, time.time() + year))
    lab.settle()
    clock = Clock(monkeypatch)
    session(lab).file("x")
    assert clock.slept == []
    os.utime(lab / "x/adapter_config.json", ns=(clock.wall, clock.wall))
    session(lab).file("x")
    assert set(clock.slept) == {0.02}


def test_a_part_of_a_source_has_the_state_in_which_that_was_opened(one: Lab) -> None:
    """An edit before the part is asked for belongs to neither."""
    sources = session(one)
    model = sources.file("x").model
    one.edit_in_place("x.safetensors")
    part = sources.renamed("x", "half", model)
    assert sources.file(part).identity == sources.file("x").identity
    assert sources.changed(["x", part]) == ["x", part]


# Power cuts


def boots(lab: Lab, monkeypatch: pytest.MonkeyPatch, *, rested: float) -> tuple[Sources, Sources]:
    """Hash a source so many seconds after its last change.

    Return what another session of that boot knows, and one of the next boot.
    """
    memory = a_memory(lab)
    recipe = load_recipe(lab / "mergefile.toml")
    clock = Clock(monkeypatch)
    clock.pass_by(rested)
    monkeypatch.setenv("MERGEBUILD_BOOT_ID", "first")
    Sources(recipe.sources, memory, folder=lab.root).hashed("x", with_sha256=True)
    same = Sources(recipe.sources, memory, folder=lab.root)
    same.file("x")
    monkeypatch.setenv("MERGEBUILD_BOOT_ID", "second")
    return same, Sources(recipe.sources, memory, folder=lab.root)


def test_a_source_hashed_soon_after_it_was_written_is_hashed_again_in_another_boot(
    one: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut may have left other bytes behind the same stat data."""
    same, other = boots(one, monkeypatch, rested=200)
    assert same.file("x").is_hashed
    assert not other.file("x").is_hashed
    assert other.file("x").sha256 is None


def test_a_source_that_had_rested_is_believed_in_any_boot(one: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    same, other = boots(one, monkeypatch, rested=400)
    assert same.file("x").is_hashed
    assert other.file("x").is_hashed
    assert other.file("x").sha256


def test_a_source_dated_in_the_future_is_not_known_to_have_rested(one: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    same, other = boots(one, monkeypatch, rested=-3600)
    assert same.file("x").is_hashed
    assert not other.file("x").is_hashed


def test_what_is_not_believed_is_not_taken_over(one: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash of before the power cut does not come back beside checksums of after it."""
    _, other = boots(one, monkeypatch, rested=200)
    other.hashed("x")
    again = Sources(load_recipe(one / "mergefile.toml").sources, other._memory, folder=one.root)
    assert again.file("x").is_hashed
    assert again.file("x").sha256 is None


def test_a_large_source_has_the_checksums_of_a_small_one(one: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken side by side, they stand in the order of its header."""
    recipe = load_recipe(one / "mergefile.toml")
    alone = Sources(recipe.sources, a_memory(one), folder=one.root).hashed("x").checksums
    monkeypatch.setattr(sources_module, "SMALL", 0)
    assert Sources(recipe.sources, a_memory(one), folder=one.root).hashed("x").checksums == alone


def a_memory(lab: Lab) -> DiskLedger:
    """Return a memory of sources that is not on disk."""
    return DiskLedger(State(lab / "no-store" / "state"), "project")


def test_a_source_that_changes_while_it_is_hashed_is_refused(one: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    real = checksums.file_checksum

    def disturbed(fd: int, begin: int, end: int) -> bytes:
        one.edit_in_place("x.safetensors")
        return real(fd, begin, end)

    monkeypatch.setattr(checksums, "file_checksum", disturbed)
    with pytest.raises(SourceError) as caught:
        one.build()
    assert caught.value.problems[0].code == "source-changed"
    assert not (one / "t.safetensors").exists()


def test_a_source_that_is_cut_short_while_it_is_hashed_has_changed(one: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """However reading it fails."""
    real = checksums.file_checksum

    def disturbed(fd: int, begin: int, end: int) -> bytes:
        os.truncate(one / "x.safetensors", 100)
        return real(fd, begin, end)

    monkeypatch.setattr(checksums, "file_checksum", disturbed)
    with pytest.raises(SourceError) as caught:
        session(one).hashed("x")
    assert caught.value.problems[0].code == "source-changed"


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


def test_a_missing_source_names_what_looks_alike(one: Lab) -> None:
    (one / "x.safetensors").rename(one / "X.safetensors")
    if (one / "x.safetensors").exists():
        pytest.skip("the file system does not tell them apart")
    with pytest.raises(SourceError) as caught:
        one.build()
    (problem,) = caught.value.problems
    assert problem.rows == ("looked for x.safetensors", "there is   X.safetensors: it differs in letter case")
    assert problem.help == "write the name as it is there"


def test_a_source_that_another_program_keeps_says_what_brings_it_back(one: Lab) -> None:
    (one / "x.safetensors").unlink()
    (one / "x.safetensors.dvc").touch()
    with pytest.raises(SourceError) as caught:
        one.build()
    assert caught.value.problems[0].help == (
        "another program keeps it: `dvc pull x.safetensors.dvc` in its folder brings it back"
    )
    (one / "x.safetensors").symlink_to(".git/annex/objects/a/b/c/c")
    with pytest.raises(SourceError) as caught:
        one.build()
    assert "`git annex get x.safetensors`" in caught.value.problems[0].help


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
    return Sources(load_recipe(lab / "mergefile.toml").sources, a_memory(lab), folder=lab.root)


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
    memory = a_memory(lab)
    recipe = load_recipe(lab / "mergefile.toml")
    first = Sources(recipe.sources, memory, folder=lab.root).hashed("x")
    found = (lab / "x/adapter_config.json").stat()

    adapter(lab, lora_alpha=8)
    os.utime(lab / "x/adapter_config.json", ns=(found.st_atime_ns, found.st_mtime_ns))
    lab.settle()

    later = Sources(recipe.sources, memory, folder=lab.root)
    assert not later.file("x").is_hashed
    assert later.hashed("x").content != first.content
    assert later.hashed("x").digests == first.digests
    assert Sources(recipe.sources, memory, folder=lab.root).file("x").content == later.hashed("x").content


def test_an_adapter_that_is_named_as_a_file_is_that_of_its_folder(lab: Lab) -> None:
    """Its configuration is watched and hashed with it, and a pin is of both."""
    adapter(lab, lora_alpha=4)
    lab.sources["x"] = "x/"
    lab.write(COPY)
    whole = session(lab).hashed("x", with_sha256=True)
    lab.sources["x"] = "x/adapter_model.safetensors"
    lab.write(COPY)
    lab.settle()
    file = session(lab).hashed("x", with_sha256=True)
    assert (file.content, file.sha256, file.small_files) == (whole.content, whole.sha256, whole.small_files)
    adapter(lab, lora_alpha=8)
    lab.settle()
    assert session(lab).hashed("x").content != file.content


def test_a_pin_of_the_weights_of_an_adapter_alone_says_nothing_of_what_they_mean(lab: Lab) -> None:
    adapter(lab, lora_alpha=4)
    digits = hashlib.sha256((lab / "x/adapter_model.safetensors").read_bytes()).hexdigest()
    text = f'[sources]\nx = {{ path = "x/adapter_model.safetensors", sha256 = "{digits}" }}\n{COPY}'
    (lab / "mergefile.toml").write_text(text)
    with pytest.raises(SourceError) as caught:
        session(lab).hashed("x")
    (problem,) = caught.value.problems
    assert problem.code == "pin-mismatch"
    assert problem.rows[-1] == (
        "what is pinned is the file alone, without the `adapter_config.json` that says what it means"
    )
    assert problem.help == "look at that file, and pin what was found"


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
    memory = a_memory(one)
    recipe = load_recipe(one / "mergefile.toml")
    right = Sources(recipe.sources, memory, folder=one.root).hashed("x")
    row = memory.source(right.identity, filestate.epoch(right.identity.device))
    assert row is not None
    assert row.checksums is not None
    memory.remember_source(row._replace(checksums=row.checksums[16:] + row.checksums[:16]))
    again = Sources(recipe.sources, memory, folder=one.root)
    assert not again.file("x").is_hashed
    assert again.hashed("x").checksums == right.checksums


def test_small_files_of_a_folder_are_looked_at_again_when_a_plan_is_made_anew(lab: Lab) -> None:
    """A build that waited for another process plans once more, and reads them once more."""
    adapter(lab, lora_alpha=4)
    (lab / "x/tokenizer.json").write_text("{}")
    lab.sources["x"] = "x/"
    lab.write(COPY)
    lab.settle()
    sources = session(lab)
    first = sources.hashed("x", with_sha256=True).sha256
    (lab / "x/tokenizer.json").write_text("[]")
    assert sources.hashed("x", with_sha256=True).sha256 == first
    sources.look_again()
    assert sources.hashed("x", with_sha256=True).sha256 != first
    assert sources.hashed("x").small_files.keys() == {"adapter_config.json", "tokenizer.json"}


def test_a_folders_hash_of_before_is_not_believed(lab: Lab) -> None:
    """A store may have what it was when it was of the weights alone."""
    adapter(lab, lora_alpha=4)
    lab.sources["x"] = "x/"
    lab.write(COPY)
    lab.settle()
    memory = a_memory(lab)
    recipe = load_recipe(lab / "mergefile.toml")
    right = Sources(recipe.sources, memory, folder=lab.root).hashed("x", with_sha256=True)
    row = memory.source(right.identity, filestate.epoch(right.path.stat().st_dev))
    assert row is not None
    memory.remember_source(row._replace(sha256="0" * 64))
    again = Sources(recipe.sources, memory, folder=lab.root)
    assert again.file("x").is_hashed
    assert again.file("x").sha256 is None
    assert again.known_sha256("x") == right.sha256
