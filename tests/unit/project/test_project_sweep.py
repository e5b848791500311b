"""Laws of sweeping: only what is ours goes, never a source, never what was changed by hand."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from lab import Lab

from mergebuild.errors import TrustError
from mergebuild.events import silent
from mergebuild.project.project import load
from mergebuild.project.source_places import SourcePlaces

SUM = '[targets.{0}]\nmethod = "weighted_sum"\na = "{1}"\nb = "y"\nalpha = {2}\noutput = "out/{0}.safetensors"\n'


@pytest.fixture
def pair(lab: Lab) -> Lab:
    lab.model("x", w=[1.0])
    lab.model("y", w=[5.0])
    lab.write(SUM.format("a", "x", 0.25) + SUM.format("b", "x", 0.5))
    lab.build()
    return lab


def outputs(lab: Lab) -> list[str]:
    return sorted(path.name.removesuffix(".safetensors") for path in (lab / "out").iterdir())


def test_clean_removes_what_was_made_and_leaves_the_rest(pair: Lab) -> None:
    (pair / "out/mine.txt").write_text("mine")
    result = pair.project.clean()
    assert outputs(pair) == ["mine.txt"]
    assert result.bytes_freed > 8000
    assert (pair / "x.safetensors").exists()
    assert pair.states() == {"a": "missing", "b": "missing"}


def test_clean_leaves_what_it_was_not_asked_for(pair: Lab) -> None:
    """The history, orphans, and members of families that were built by name: nobody named these."""
    family = SUM.format("m", "x", '"${alpha}"').replace("out/m", "out/m-${alpha}") + "foreach.alpha = [0.25, 0.5]\n"
    virtual = family.replace("targets.m", "targets.v").replace('output = "out/m-${alpha}.safetensors"\n', "")
    reader = SUM.format("reader", "m@alpha=0.75", 0.5)
    pair.write(SUM.format("a", "x", 0.6) + family + virtual + reader)
    pair.build("a", "m", "m@alpha=0.3", "v@alpha=0.35", "reader")
    inside = sorted((pair / ".mergebuild").glob("[kh]*/*"))  # what was kept, and the history
    foreseen = pair.project.clean(dry_run=True)
    assert outputs(pair) == ["a", "b", "m-0.25", "m-0.3", "m-0.5", "m-0.75", "reader"]
    done = pair.project.clean()
    assert outputs(pair) == ["b", "m-0.3"]
    assert sorted((pair / ".mergebuild").glob("[kh]*/*")) == inside
    assert len(inside) == 2
    assert (foreseen.removed, foreseen.kept) == (done.removed, done.kept)
    assert (foreseen.bytes_freed, foreseen.bytes_after) == (done.bytes_freed, done.bytes_after)
    assert (foreseen.dry_run, done.dry_run) == (True, False)
    pair.project.clean(["m@alpha=0.3", "v@alpha=0.35"])
    assert outputs(pair) == ["b"]
    assert len(list((pair / ".mergebuild/kept").iterdir())) == 0


def test_a_member_of_an_open_family_is_no_orphan_while_the_family_makes_it(pair: Lab) -> None:
    family = SUM.format("m", "x", '"${alpha}"').replace("out/m", "out/m-${alpha}") + "foreach.alpha = [0.25, 0.5]\n"
    virtual = family.replace("targets.m", "targets.v").replace('output = "out/m-${alpha}.safetensors"\n', "")
    pair.write(family + virtual)
    pair.build("m", "m@alpha=0.3", "v@alpha=0.35")
    pair.write((family + virtual).replace("0.25, ", ""))  # m@alpha=0.25 is listed no more
    assert pair.project.status().orphans == ("out/a.safetensors", "out/b.safetensors")
    pair.project.clean(orphans=True)
    pair.project.gc(max_size=0)
    assert outputs(pair) == ["m-0.25", "m-0.3", "m-0.5"]
    assert pair.verdicts("m@alpha=0.25", "m@alpha=0.3", "v@alpha=0.35") == dict.fromkeys(
        ("m@alpha=0.25", "m@alpha=0.3", "v@alpha=0.35"), "up-to-date"
    )
    pair.write(family.replace("out/m", "out/n") + virtual.replace("h.alpha", "h.beta").replace("{alpha", "{beta"))
    assert len(pair.project.status().orphans) == 3  # the family makes other files now
    pair.project.gc()
    assert list((pair / ".mergebuild/kept").iterdir()) == []  # and has no such member
    pair.write(virtual)
    assert len(pair.project.status().orphans) == 3  # there is no such family


def test_what_a_dry_clean_would_free_counts_files_with_two_names_once(pair: Lab) -> None:
    text = SUM.format("a", "x", 0.75)
    pair.write('[project]\nlink = "hard"\n#sources\n' + text)
    pair.build("a")
    foreseen = pair.project.clean(["a"], dry_run=True)
    done = pair.project.clean(["a"])
    assert len(done.removed) == 2
    assert (foreseen.removed, foreseen.bytes_freed, foreseen.bytes_after) == (
        done.removed, done.bytes_freed, done.bytes_after,
    )  # fmt: skip
    assert done.bytes_freed > 4000


def test_clean_of_a_virtual_target_leaves_what_another_one_is_as_well(pair: Lab) -> None:
    pair.write(VIRTUAL.format(0.9) + VIRTUAL.format(0.9).replace("targets.v", "targets.w"))
    pair.build("v", "w")
    pair.project.clean(["v"])
    assert pair.verdicts("w") == {"w": "up-to-date"}
    pair.project.clean(["w"])
    assert list((pair / ".mergebuild/kept").iterdir()) == []


def test_clean_of_one_target_leaves_the_others(pair: Lab) -> None:
    pair.project.clean(["a"])
    assert outputs(pair) == ["b"]
    assert pair.states() == {"a": "missing", "b": "up-to-date"}


def test_what_was_changed_by_hand_stays(pair: Lab) -> None:
    pair.edit_in_place("out/a.safetensors")
    result = pair.project.clean()
    assert outputs(pair) == ["a"]
    assert result.kept == ("out/a.safetensors (changed by hand)",)


def test_orphans_are_outputs_that_nothing_makes_now(pair: Lab) -> None:
    pair.write(SUM.format("a", "x", 0.25))
    assert pair.project.status().orphans == ("out/b.safetensors",)
    pair.project.clean(orphans=True)
    assert outputs(pair) == ["a"]
    assert pair.project.status().orphans == ()


def test_an_output_that_is_a_source_now_is_never_swept(pair: Lab) -> None:
    """What a target made once may be another's input; also through a link."""
    (pair / "link.safetensors").symlink_to("out/a.safetensors")
    pair.sources |= {"z": "link.safetensors"}
    pair.write(SUM.format("b", "z", 0.5))
    pair.build()
    assert pair.project.status().orphans == ()
    pair.project.clean(orphans=True)
    pair.project.clean()
    assert outputs(pair) == ["a"]


def test_gc_frees_history_by_size_and_says_so_before(pair: Lab) -> None:
    for alpha in (0.6, 0.7):
        pair.write(SUM.format("a", "x", alpha) + SUM.format("b", "x", 0.5))
        pair.build()
    history = pair / ".mergebuild/history"
    assert len(list(history.iterdir())) == 2
    planned = pair.project.gc(max_size=5000, dry_run=True)
    assert planned.dry_run
    assert len(list(history.iterdir())) == 2
    done = pair.project.gc(max_size=5000)
    assert len(list(history.iterdir())) == 1
    assert (done.removed, done.bytes_freed) == (planned.removed, planned.bytes_freed)
    assert set(pair.verdicts().values()) == {"up-to-date"}


def test_gc_frees_history_by_age(pair: Lab) -> None:
    pair.write(SUM.format("a", "x", 0.6))
    pair.build("a")
    pair.project.gc(older_than=3600)
    assert len(list((pair / ".mergebuild/history").iterdir())) == 1
    pair.settle()
    pair.project.gc(older_than=0.001)
    assert list((pair / ".mergebuild/history").iterdir()) == []


def test_gc_frees_what_was_kept_for_targets_that_are_gone(pair: Lab) -> None:
    virtual = '[targets.v]\nmethod = "weighted_sum"\na = "x"\nb = "y"\nalpha = 0.9\n'
    pair.write(virtual)
    pair.build("v")
    pair.project.gc()
    assert len(list((pair / ".mergebuild/kept").iterdir())) == 1
    pair.write(SUM.format("a", "x", 0.25))
    pair.project.gc()
    assert list((pair / ".mergebuild/kept").iterdir()) == []


VIRTUAL = '[targets.v]\nmethod = "weighted_sum"\na = "x"\nb = "y"\nalpha = {}\n'


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Lab, Lab]:
    """Two projects that share a store, each with a virtual target in it, and a superseded output."""
    monkeypatch.setenv("MERGEBUILD_STORE", str(tmp_path / "store"))
    labs = []
    for name, share in (("one", 0.125), ("two", 0.875)):
        (tmp_path / name).mkdir()
        lab = Lab(tmp_path / name)
        lab.model("x", w=[1.0])
        lab.model("y", w=[5.0])
        for alpha in (share, share / 2):
            lab.write(SUM.format("a", "x", alpha) + VIRTUAL.format(share / 4))
            lab.build("a", "v")
        labs.append(lab)
    return labs[0], labs[1]


def count(tmp_path: Path, folder: str) -> int:
    return len(list((tmp_path / "store" / folder).iterdir()))


def test_clean_takes_nothing_of_another_project(two: tuple[Lab, Lab], tmp_path: Path) -> None:
    one, other = two
    assert (count(tmp_path, "kept"), count(tmp_path, "history")) == (2, 2)
    one.project.clean()
    assert (count(tmp_path, "kept"), count(tmp_path, "history")) == (1, 2)
    assert other.verdicts("a", "v") == {"a": "up-to-date", "v": "up-to-date"}


def test_clean_of_a_target_leaves_what_another_project_keeps_alike(two: tuple[Lab, Lab], tmp_path: Path) -> None:
    one, other = two
    other.write(SUM.format("a", "x", 0.5) + VIRTUAL.format(0.125 / 4))  # the same as the first one's
    other.build("v")
    one.project.clean(["v"])
    assert other.verdicts("v") == {"v": "up-to-date"}


def test_gc_forgets_no_output_of_a_disk_that_is_not_plugged_in(two: tuple[Lab, Lab], tmp_path: Path) -> None:
    one, other = two
    other.root.rename(tmp_path / "unplugged")
    one.project.gc()
    (tmp_path / "unplugged").rename(other.root)
    assert other.states()["a"] == "up-to-date"
    other.write(SUM.format("a", "x", 0.625) + VIRTUAL.format(0.125 / 4))
    assert other.verdicts("a") == {"a": "built"}


def test_every_project_that_built_into_a_store_is_a_root(two: tuple[Lab, Lab], tmp_path: Path) -> None:
    """Also one whose mergefile is not there now, for a while; a budget is for a project's own history."""
    one, other = two
    one.write('[project]\nhistory = "0"\n#sources\n' + SUM.format("a", "x", 0.5))
    one.project.gc()
    assert (count(tmp_path, "kept"), count(tmp_path, "history")) == (1, 1)
    assert other.verdicts("v") == {"v": "up-to-date"}
    (other / "mergefile.toml").rename(tmp_path / "away.toml")
    freed = one.project.gc(dry_run=True)
    assert freed.removed == ()
    assert [each.endswith("two/mergefile.toml needs, though it is not there") for each in freed.kept] == [True]
    one.project.gc()
    assert count(tmp_path, "kept") == 1
    one.settle()
    foreseen = one.project.gc(older_than=0.001, dry_run=True)
    freed = one.project.gc(older_than=0.001)
    assert foreseen.removed == freed.removed
    assert (foreseen.bytes_freed, foreseen.bytes_after) == (freed.bytes_freed, freed.bytes_after)
    assert (count(tmp_path, "kept"), count(tmp_path, "history")) == (0, 0)


@pytest.mark.parametrize("verb", ["build", "gc", "clean"])
def test_nothing_is_swept_outside_the_project_before_it_is_trusted(pair: Lab, tmp_path: Path, verb: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    left = outside / ".a.safetensors.mergebuild-77"
    left.touch()
    pair.write(SUM.format("a", "x", 0.25).replace("out/a", "../outside/a"))
    with suppress(TrustError):
        getattr(pair.project, verb)()
    assert left.exists()


def test_gc_takes_away_what_no_row_knows(pair: Lab) -> None:
    stray = pair / ".mergebuild/kept" / f"{'d' * 32}-0123abcd"
    stray.parent.mkdir(exist_ok=True)
    stray.write_bytes(b"12345")
    foreseen = pair.project.gc(dry_run=True)
    assert stray.exists()
    freed = pair.project.gc()
    assert foreseen.removed == freed.removed == (stray.relative_to(pair.root).as_posix(),)
    assert freed.bytes_freed == freed.bytes_before - freed.bytes_after == 5
    assert not stray.exists()


def test_what_the_store_says_is_outside_the_project_stays_without_a_word(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store may have come with a stranger's files, and name files of the user's whose bytes everybody knows."""
    lab.model("x", w=[1.0])
    out = tmp_path / "out/t.safetensors"
    lab.write(f'[targets.t]\nmethod = "copy"\na = "x"\noutput = "{out.as_posix()}"\n')
    lab.project.trust()
    lab.build()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another user's"))
    assert lab.project.clean().kept == (f"{out} (outside the project, which is not trusted with its folder)",)
    lab.write("")
    assert lab.project.status().orphans == ()
    lab.project.clean(orphans=True)
    assert out.exists()
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    lab.project.clean(orphans=True)
    assert not out.exists()


@pytest.mark.parametrize("home", ["store", "data"])
def test_gc_takes_nothing_of_a_folder_that_was_there_before_the_store(
    lab: Lab, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store may be put into a folder that has folders called as the store's own are."""
    strangers = [
        *(f"{each}/{name}" for each in ("kept", "history", "quarantine") for name in ("thesis.safetensors", "d" * 32)),
        "unreadable.txt", "my.unreadable-2", "state.sqlite3.unreadable-old", ".verify-me/thesis.txt",
        "stamps/stamp.txt", "by-hand/mix-1/mine",
    ]  # fmt: skip
    for name in strangers:
        (lab / home / name).parent.mkdir(parents=True, exist_ok=True)
        (lab / home / name).write_text("precious")
    if home == "store":
        monkeypatch.setenv("MERGEBUILD_STORE", str(lab / home))
    lab.model("x", w=[1.0])
    lab.model("y", w=[5.0])
    own = ["history/" + "d" * 32 + "-17", "quarantine/" + "d" * 32 + "-3", "state.sqlite3.unreadable-2"]
    for alpha in (0.25, 0.75):
        lab.write(f'[project]\nstore = "data"\n#sources\n{SUM.format("a", "x", alpha)}')
        lab.build()
    for name in own:
        (lab / home / name).parent.mkdir(exist_ok=True)
        (lab / home / name).write_text("left over")
    assert sorted(lab.project.gc(dry_run=True).removed) == sorted(f"{home}/{name}" for name in own)
    lab.project.gc(max_size=0)
    lab.project.verify(rebuild=True)
    lab.edit_in_place("out/a.safetensors")
    lab.project.verify()
    lab.project.clean(orphans=True)
    lab.project.clean()
    assert [name for name in strangers if not (lab / home / name).exists()] == []
    assert [name for name in own if (lab / home / name).exists()] == []


def copied(name: str, output: str, source: str = "m", more: str = "") -> str:
    return f'[targets.{name}]\nmethod = "copy"\na = "{source}"\noutput = "{output}"\n{more}'


@pytest.fixture
def one(lab: Lab) -> Lab:
    """A project with two sources that are alike in nothing."""
    lab.model("m", w=[1.0, 2.0])
    lab.model("n", w=[3.0])
    return lab


def there(lab: Lab) -> set[str]:
    return {path.relative_to(lab.root).as_posix() for path in (lab / "out").rglob("*") if path.is_file()}


FOLDER = '[targets.x]\nmethod = "weighted_sum"\na = "f"\nb = "f"\nalpha = 0.5\noutput = "out/x/"\n'


@pytest.fixture
def folder(one: Lab) -> Lab:
    """A project with an output that is a folder of a weight file, and what stands beside it."""
    one.model("f", file="f/model.safetensors", w=[1.0, 2.0])
    (one / "f/config.json").write_text('{"model_type": "llama"}')
    one.sources["f"] = "f/"
    one.write(FOLDER)
    one.build()
    assert there(one) >= {"out/x/model.safetensors", "out/x/config.json"}
    return one


@pytest.mark.parametrize("source", ["out/x/", "out/x/model.safetensors", "link/", "elsewhere/model.safetensors"])
def test_nothing_goes_that_is_or_lies_in_or_holds_a_source(folder: Lab, source: str) -> None:
    before = there(folder)
    (folder / "link").symlink_to("out/x")
    (folder / "elsewhere").symlink_to("out/x")
    folder.sources["s"] = source
    folder.write(copied("y", "out2/y.safetensors", "s"))
    folder.build()
    orphans = set(folder.project.status().orphans)
    folder.project.clean(orphans=True)
    left = there(folder)
    assert left == before - orphans
    assert left >= {"out/x/model.safetensors"}
    assert left == before or not source.endswith("/")
    assert folder.verdicts("y") == {"y": "up-to-date"}


@pytest.mark.parametrize("source", ["out/x/", "out/x/model.safetensors"])
def test_clean_of_a_target_leaves_a_source_in_its_former_folder(folder: Lab, source: str) -> None:
    folder.sources["s"] = source
    folder.write(FOLDER.replace("out/x/", "out/z/") + copied("y", "out2/y.safetensors", "s"))
    folder.build("y")
    found = folder.project.clean(["x"])
    assert "out/x/model.safetensors" in there(folder)
    assert "out/x/model.safetensors (a source now)" in found.kept
    assert ("out/x/config.json" in there(folder)) == source.endswith("/")


def test_no_orphan_goes_while_a_source_is_missing(folder: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may lie in a folder of MERGEBUILD_MODELS, which is not set now."""
    folder.write(FOLDER + copied("o", "out/o.safetensors"))
    folder.build()
    before = there(folder)
    monkeypatch.setenv("MERGEBUILD_MODELS", str(folder / "out"))
    folder.sources["s"] = "x/model.safetensors"
    moved = FOLDER.replace("out/x/", "out/z/")
    folder.write(moved + copied("y", "out2/y.safetensors", "s"))
    folder.build("y")
    monkeypatch.delenv("MERGEBUILD_MODELS")
    found = folder.project.clean(orphans=True)
    assert there(folder) == before
    assert found.kept == ("orphans, for a source that is missing may be one of them: `s`",)
    assert "out/x/model.safetensors" not in folder.project.status().orphans
    found = folder.project.clean(["x"])
    assert "out/x/model.safetensors" in there(folder)
    assert "out/x/model.safetensors (perhaps a source, for one is missing)" in found.kept
    monkeypatch.setenv("MERGEBUILD_MODELS", str(folder / "out"))
    folder.project.clean(orphans=True)
    assert there(folder) == {"out/x/model.safetensors"}


def test_clean_leaves_what_another_target_makes_now(one: Lab) -> None:
    one.write(copied("x", "out/1.safetensors") + copied("y", "out/2.safetensors", "n"))
    one.build()
    one.write(copied("x", "out/9.safetensors") + copied("y", "out/1.safetensors", "n"))
    one.build("y")
    one.project.clean(["x"])
    assert one.states() == {"x": "missing", "y": "up-to-date"}


def test_clean_leaves_what_another_target_makes_now_in_a_former_folder(folder: Lab) -> None:
    moved = FOLDER.replace("out/x/", "out2/x/")
    folder.write(moved + copied("y", "out/x/model.safetensors", "n"))
    folder.build("y", force=True)
    folder.project.clean(["x"])
    assert there(folder) == {"out/x/model.safetensors"}
    assert folder.states() == {"x": "missing", "y": "up-to-date"}


@pytest.mark.parametrize("second", ["m", "n"])
def test_clean_after_two_outputs_were_swapped(one: Lab, second: str) -> None:
    """What lies at another target's path is not touched, nor what is another one's last build."""
    one.write(copied("x", "out/1.safetensors") + copied("y", "out/2.safetensors", second))
    one.build()
    one.write(copied("x", "out/2.safetensors") + copied("y", "out/1.safetensors", second))
    one.project.clean(["x"])
    assert there(one) == ({"out/1.safetensors"} if second == "m" else {"out/1.safetensors", "out/2.safetensors"})
    one.project.clean()
    assert there(one) == set()


@pytest.mark.parametrize("second", ["m", "n"])
def test_clean_leaves_what_another_project_made_at_the_same_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, second: str
) -> None:
    monkeypatch.setenv("MERGEBUILD_STORE", str(tmp_path / "store"))
    labs = []
    for name, source in (("one", "m"), ("two", second)):
        (tmp_path / name).mkdir()
        lab = Lab(tmp_path / name)
        lab.model("m", w=[1.0, 2.0])
        lab.model("n", w=[3.0])
        lab.write(copied("x", (tmp_path / "out/x.safetensors").as_posix(), source))
        lab.project.trust()
        lab.build(force=True)
        labs.append(lab)
    first, other = labs
    assert first.project.clean().removed == ()
    assert first.project.clean(["x"]).kept == (f"{tmp_path / 'out/x.safetensors'} (what another project made)",)
    assert other.states() == {"x": "up-to-date"}
    first.write(copied("y", "out/y.safetensors"))
    assert first.project.status().orphans == ()
    (first / "mergefile.toml").unlink()  # it is no project any more
    assert len(other.project.clean().removed) == 1


def test_a_mergefile_that_was_renamed_cleans_what_it_made(one: Lab) -> None:
    one.write(copied("x", "out/1.safetensors"))
    one.build()
    (one / "mergefile.toml").rename(one / "other.toml")
    load(one / "other.toml").clean()
    assert there(one) == set()


def test_a_former_output_is_an_orphan_and_not_what_all_targets_made(one: Lab) -> None:
    one.write(copied("x", "out/1.safetensors"))
    one.build()
    one.write(copied("x", "out/9.safetensors"))
    assert one.project.status().orphans == ("out/1.safetensors",)
    assert one.project.clean().removed == ()
    one.build()
    assert one.project.clean().removed == ("out/9.safetensors",)
    assert one.project.clean(orphans=True).removed == ("out/1.safetensors",)


def test_clean_of_a_target_takes_its_former_output_that_none_makes_now(one: Lab) -> None:
    one.write(copied("x", "out/1.safetensors"))
    one.build()
    one.write(copied("x", "out/9.safetensors"))
    assert one.project.clean(["x"]).removed == ("out/1.safetensors",)


def test_clean_names_what_the_mergefile_makes_and_not_what_a_variable_made_last(one: Lab) -> None:
    one.write('[vars]\ntag = "one"\n' + copied("x", "out/${tag}.safetensors"))
    one.build()
    load(one / "mergefile.toml", overrides=["tag=two"]).build()
    assert one.project.status().orphans == ("out/two.safetensors",)
    assert one.project.clean(dry_run=True).removed == ("out/one.safetensors",)
    one.project.clean()
    assert there(one) == {"out/two.safetensors"}


def test_what_o_wrote_goes_only_where_a_target_was_built_as_it(one: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(one.root)
    one.write(copied("x", "out/1.safetensors"))
    one.build("x", out="out/9.safetensors")
    one.write(copied("x", "out/9.safetensors"))
    one.project.clean(["x"])
    assert there(one) == {"out/9.safetensors"}
    one.build()
    one.project.clean(["x"])
    assert there(one) == set()


def test_clean_takes_no_more_than_was_foreseen(one: Lab) -> None:
    text = copied("x", "out/1.safetensors") + copied("y", "out/2.safetensors", "n")
    one.write(text)
    one.build("x")
    foreseen = one.project.clean(dry_run=True)
    one.build("y")
    done = one.project.clean(foreseen=foreseen)
    assert (done.removed, done.kept) == (("out/1.safetensors",), ("out/2.safetensors (made after it was asked)",))
    assert one.states() == {"x": "missing", "y": "up-to-date"}
    foreseen = one.project.clean(dry_run=True)
    one.write(text.replace('"n"', '"m"'))
    one.build()
    assert one.project.clean(foreseen=foreseen).removed == ()  # other files at the paths that were named
    assert one.states() == {"x": "up-to-date", "y": "up-to-date"}


@pytest.mark.parametrize("names", [["x"], []])
def test_clean_of_a_folder_without_a_record_takes_what_is_ours_there(folder: Lab, names: list[str]) -> None:
    """A first build that failed or was killed leaves files and no record of the target."""
    (folder / "out/x/mine.txt").write_text("mine")
    with folder.project._sessions.open(silent) as session:
        session.store.ledger.forget_record("x")
    folder.project.clean(names)
    assert there(folder) == {"out/x/mine.txt"}


def test_clean_knows_the_files_of_a_folder_whose_rows_did_not_follow(folder: Lab) -> None:
    """Who is killed right after the exchange leaves rows of what was written in the stage."""
    (folder / "out/x/mine.txt").write_text("mine")
    stage = folder / "out/.x.mergebuild-77"
    (folder / "out/x/.stage.mergebuild-77").write_text(stage.name)
    with folder.project._sessions.open(silent) as session:
        session.store.ledger.forget_record("x")
        for row in session.store.state.outputs(session.store.project):
            place = stage / row.path.relative_to(folder / "out/x")
            session.store.state.move_artifact(row.id, place, "intended", row.identity, row.epoch)
    folder.project.clean(["x"])
    assert there(folder) == {"out/x/mine.txt"}


@pytest.mark.parametrize("home", [".x.mergebuild-77", ".x.mergebuild-77-former"])
def test_what_lies_in_a_hidden_folder_of_a_build_is_no_orphan(folder: Lab, home: str) -> None:
    (folder / "out/x").rename(folder / "out" / home)
    with folder.project._sessions.open(silent) as session:
        for row in session.store.state.outputs(session.store.project):
            place = folder / "out" / home / row.path.name
            session.store.state.move_artifact(row.id, place, "output", row.identity, row.epoch)
    before = there(folder)
    folder.write(copied("y", "out/y.safetensors"))
    assert folder.project.status().orphans == ()
    assert folder.project.clean(orphans=True).removed == ()
    assert there(folder) == before


def test_a_place_of_a_source_is_the_source_what_it_holds_and_what_holds_it(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    places = SourcePlaces([tmp_path / "link/models/a"], {"gone": "../some/b.safetensors"})
    for name in ("link/models/a", "real/models/a", "real/models/a/1.bin", "link/models", "real", "x/../real/models/a"):
        assert places.touch(tmp_path / name), name
    for name in ("link/models/ab", "real/models/b", "other"):
        assert not places.touch(tmp_path / name), name
    assert places.may_touch(tmp_path / "in/some/b.safetensors")
    assert places.may_touch(tmp_path / "some/b.safetensors/1.bin")
    assert not places.may_touch(tmp_path / "b.safetensors")


def test_clean_leaves_a_file_of_another_project_that_it_has_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its target has moved on: the file is that project's orphan, though a target of this one was built as it, too."""
    monkeypatch.setenv("MERGEBUILD_STORE", str(tmp_path / "store"))
    shared = (tmp_path / "out/x.safetensors").as_posix()
    labs = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        lab = Lab(tmp_path / name)
        lab.model("m", w=[1.0, 2.0])
        lab.write(copied("x", shared))
        lab.project.trust()
        lab.build()
        labs.append(lab)
    first, other = labs
    first.write(copied("x", "out/x.safetensors"))
    first.build()
    other.project.clean(["x"])
    assert Path(shared).exists()
    assert first.project.status().orphans == ()  # the other one has it as its last build
    other.write(copied("x", "out/x.safetensors"))
    other.build()
    assert first.project.clean(orphans=True).removed == (shared,)


def test_clean_leaves_a_file_in_a_folder_of_another_project(folder: Lab) -> None:
    """Two mergefiles beside each other have one store."""
    (folder / "other.toml").write_text((folder / "mergefile.toml").read_text().replace('"f/"', '"g/"', 1))
    (folder / "g").mkdir()
    for name in ("model.safetensors", "config.json"):
        (folder / "g" / name).write_bytes((folder / "f" / name).read_bytes())
    load(folder / "other.toml").build()
    before = there(folder)
    assert folder.project.clean().removed == ()
    assert there(folder) == before


def test_gc_leaves_a_source_that_lies_in_the_store(one: Lab) -> None:
    for source in "mn":
        one.write(copied("x", "out/1.safetensors", source))
        one.build()
    (kept,) = (one / ".mergebuild/history").iterdir()
    stray = kept.with_name("d" * 32 + "-77")
    stray.write_bytes(kept.read_bytes())
    one.sources |= {"s": str(kept.relative_to(one.root)), "t": str(stray.relative_to(one.root))}
    one.write(copied("y", "out/2.safetensors", "s") + copied("z", "out/3.safetensors", "t"))
    one.project.gc(max_size=0)
    assert (kept.exists(), stray.exists()) == (True, True)


def test_a_second_name_goes_only_if_it_was_foreseen(one: Lab) -> None:
    text = copied("x", "out/1.safetensors")
    one.write(text)
    one.build()
    foreseen = one.project.clean(dry_run=True)
    one.write('[project]\nlink = "hard"\n#sources\n' + copied("y", "out/2.safetensors"))
    one.build()
    (second,) = (one / ".mergebuild/kept").iterdir()
    (one / "out/2.safetensors").unlink()
    with one.project._sessions.open(silent) as session:
        session.store.ledger.forget_record("y")
        (row,) = session.store.state.artifacts(path=one / "out/2.safetensors")
        session.store.state.forget_artifact(row.id)
    one.write(text)
    assert one.project.clean(foreseen=foreseen).removed == ("out/1.safetensors",)
    assert second.exists()


def test_the_record_of_what_stays_stays(one: Lab) -> None:
    """Who cleans all targets can still clean a former output by its target's name."""
    one.write(copied("x", "out/1.safetensors"))
    one.build()
    one.write(copied("x", "out/9.safetensors"))
    one.project.clean()
    assert one.project.clean(["x"]).removed == ("out/1.safetensors",)
    assert one.project.clean(["x"]).removed == ()
