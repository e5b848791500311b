"""Only what changed is made again, the answer says why, and the bytes are those of a build from nothing."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from project_space import NewSpace, Space
from tiny_models import INTEGERS, NAMES, block_names, sd15

from mergebuild.system.filestate import is_hidden

pytestmark = pytest.mark.portable

BLOCKS = """
[sources]
opk = "opk.safetensors"
merong = "merong.safetensors"

[targets.orange]
method = "weighted_sum"
a = "opk"
b = "merong"
output = "out/orange.safetensors"
[targets.orange.alpha]
default = 0.3
IN00-IN05 = 0.5
IN04 = 0.35
"""

SWEEP = """
[sources]
one = "one.safetensors"
two = "two.safetensors"

[targets.mix]
foreach.alpha = { from = 0.05, to = 0.5, step = 0.05 }
method = "weighted_sum"
a = "one"
b = "two"
alpha = "${alpha}"
output = "out/mix-${alpha}.safetensors"
"""


@pytest.fixture
def blocks(space: Space) -> Space:
    """A project with block weights, built."""
    space.model("opk.safetensors", sd15(1))
    space.model("merong.safetensors", sd15(2))
    space.write(BLOCKS)
    space.build()
    return space


@pytest.fixture
def sweep(pair: Space) -> Space:
    """A sweep of ten members, built."""
    pair.write(SWEEP)
    assert set(pair.build().verdicts.values()) == {"built"}
    return pair


def rebuilt(space: Space, path: str, new_space: NewSpace) -> bytes:
    """Return what a build of the same project from an empty store writes to `path`."""
    fresh = new_space("rebuilt")
    for each in space.root.iterdir():
        if each.is_file():
            shutil.copyfile(each, fresh / each.name)
    fresh.build()
    return fresh.bytes(path)


# One block


def test_a_tweak_of_one_block_computes_that_block(blocks: Space, new_space: NewSpace) -> None:
    """`tensors_computed` is the block's float tensors, and the file is that of a build from an empty store."""
    blocks.edit("IN04 = 0.35", "IN04 = 0.4")

    planned = blocks.plan()["orange"]
    built = blocks.build()["orange"]

    assert planned["verdict"] == "build"
    assert planned["tensors_computed"] == built["tensors_computed"] == len(block_names("IN04"))
    assert built["verdict"] == "built"
    assert built["tensors_reused"] == len(NAMES) + 1 - len(block_names("IN04"))
    assert blocks.bytes("out/orange.safetensors") == rebuilt(blocks, "out/orange.safetensors", new_space)


def test_why_names_exactly_the_number_that_changed(blocks: Space) -> None:
    blocks.edit("IN04 = 0.35", "IN04 = 0.4")

    why = blocks.json("why", "orange")

    assert why["reasons"] == ["alpha[IN04] 0.35 -> 0.4"]
    assert blocks.run("why", "orange").out == "alpha[IN04] 0.35 -> 0.4\n"
    assert blocks.plan()["orange"]["reasons"] == ["alpha[IN04] 0.35 -> 0.4"]


def test_why_says_that_a_target_is_up_to_date(blocks: Space) -> None:
    assert blocks.reasons("orange") == []
    assert blocks.run("why", "orange").out == "orange is up to date\n"


def test_a_number_written_otherwise_is_the_same_number(blocks: Space) -> None:
    """`0.35`, `0.350` and `35e-2` are one number, and names, comments and order of tables are in no digest."""
    blocks.edit("IN04 = 0.35", "IN04 = 35.0e-2  # the same")

    assert blocks.build().verdicts == {"orange": "up-to-date"}


def test_a_sources_name_is_in_no_digest(blocks: Space) -> None:
    text = (blocks / "mergefile.toml").read_text().replace('"opk"', '"renamed"').replace("opk =", "renamed =")
    blocks.write(text)

    assert blocks.build().verdicts == {"orange": "up-to-date"}
    assert blocks.build().computed == 0


def test_a_targets_name_is_in_no_digest(blocks: Space) -> None:
    """A renamed target whose output stays is up to date; nothing is computed."""
    blocks.write((blocks / "mergefile.toml").read_text().replace("targets.orange", "targets.lemon"))

    built = blocks.build()

    assert built.computed == 0
    assert built.verdicts == {"lemon": "up-to-date"}


def test_a_renamed_output_is_no_arithmetic(blocks: Space) -> None:
    before = blocks.bytes("out/orange.safetensors")
    blocks.edit("out/orange.safetensors", "out/lemon.safetensors")

    built = blocks.build()

    assert built.verdicts == {"orange": "restored"}
    assert built.computed == 0
    assert blocks.bytes("out/lemon.safetensors") == before


def test_a_plan_changes_nothing(blocks: Space) -> None:
    """Neither `plan` nor `build -n` writes a byte of the project."""
    blocks.edit("IN04 = 0.35", "IN04 = 0.4")
    before = blocks.tree()

    blocks.plan()
    blocks.run("build", "-n")
    blocks.run("why", "orange")
    blocks.run("status")

    assert blocks.tree() == before


def test_a_plan_of_a_project_never_built_makes_no_store(pair: Space) -> None:
    before = pair.tree()

    planned = pair.plan()
    pair.run("status")
    pair.run("why", "mix")
    pair.run("lineage", "mix")
    pair.run("build", "-n")

    assert pair.tree() == before
    assert planned.verdicts == {"mix": "build"}
    assert planned["mix"]["tensors_computed"] + planned["mix"]["tensors_reused"] == len(NAMES) + 1


# Nothing to do


def test_nothing_to_do_is_one_line(blocks: Space) -> None:
    outcome = blocks.run("build")

    assert outcome.out.count("\n") == 1
    assert outcome.out.startswith("nothing to do")
    assert outcome.err == ""


def test_nothing_to_do_reads_no_source(blocks: Space) -> None:
    blocks.settle()
    blocks.build()

    built = blocks.build()

    assert built.verdicts == {"orange": "up-to-date"}
    assert built.bytes_read == 0
    assert built.document["bytes_written"] == 0


def test_only_the_sources_that_are_needed_are_looked_at(pair: Space) -> None:
    """A target builds while another's source is missing."""
    pair.write(
        (pair / "mergefile.toml").read_text().replace("[sources]", '[sources]\ngone = "gone.safetensors"')
        + '\n[targets.other]\nmethod = "copy"\na = "gone"\noutput = "other.safetensors"\n'
    )

    assert pair.build("mix").verdicts == {"mix": "built"}
    assert pair.refused("build", code=4).errors == ["source-missing"]


# Sources


def test_a_source_that_was_touched_is_hashed_again_and_nothing_built(blocks: Space) -> None:
    blocks.settle()
    blocks.build()
    os.utime(blocks / "opk.safetensors")
    size = (blocks / "opk.safetensors").stat().st_size

    built = blocks.build()

    assert built.verdicts == {"orange": "up-to-date"}
    assert built.bytes_read == size


def test_a_source_that_was_moved_is_hashed_again_and_nothing_built(blocks: Space) -> None:
    (blocks / "models").mkdir()
    shutil.copyfile(blocks / "opk.safetensors", blocks / "models/other-name.safetensors")
    (blocks / "opk.safetensors").unlink()
    blocks.edit('opk = "opk.safetensors"', 'opk = "models/other-name.safetensors"')

    assert blocks.build().verdicts == {"orange": "up-to-date"}


def test_a_source_whose_header_alone_changed_rebuilds_nothing(blocks: Space) -> None:
    """A source's identity is that of its tensors: other metadata in it are no other source."""
    blocks.model("opk.safetensors", sd15(1), {"format": "pt", "title": "renamed"})

    built = blocks.build()

    assert built.verdicts == {"orange": "up-to-date"}
    assert built.computed == 0


def test_a_source_edited_in_place_with_size_and_mtime_restored_is_rebuilt(blocks: Space, new_space: NewSpace) -> None:
    """Stat data of size and mtime alone are not trusted."""
    blocks.settle()
    blocks.build()
    path = blocks / "opk.safetensors"
    before = path.stat()
    model = sd15(1)
    name = block_names("OUT03")[0]
    model[name] = model[name] + 0.5
    fresh = blocks.model("fresh.safetensors", model).read_bytes()
    (blocks / "fresh.safetensors").unlink()
    with path.open("r+b") as file:
        file.write(fresh)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size

    assert blocks.states() == {"orange": "stale"}
    assert blocks.reasons("orange") == ["input opk: contents changed"]
    built = blocks.build()["orange"]

    assert built["verdict"] == "built"
    assert built["tensors_computed"] == 1
    assert blocks.bytes("out/orange.safetensors") == rebuilt(blocks, "out/orange.safetensors", new_space)


def test_an_edit_right_after_a_build_is_seen(blocks: Space) -> None:
    """A source that changes within the clock's grain of its hashing is not missed."""
    for seed in (11, 12, 13):
        blocks.model("opk.safetensors", sd15(seed))
        assert blocks.build().verdicts == {"orange": "built"}


# Outputs


def test_a_deleted_output_comes_back_with_the_same_bytes(blocks: Space) -> None:
    before = blocks.bytes("out/orange.safetensors")
    (blocks / "out/orange.safetensors").unlink()

    assert blocks.states() == {"orange": "missing"}
    assert any("missing" in reason for reason in blocks.plan()["orange"]["reasons"])
    built = blocks.build()["orange"]

    assert built["verdict"] in {"built", "restored"}
    assert blocks.bytes("out/orange.safetensors") == before


@pytest.mark.parametrize("link", ["hard", "copy"])
def test_a_deleted_output_is_restored_without_arithmetic(blocks: Space, link: str) -> None:
    """With `link = "hard"` or `"copy"` the store keeps a second name or copy."""
    blocks.write(f'[project]\nlink = "{link}"\n' + BLOCKS)
    blocks.build()
    before = blocks.bytes("out/orange.safetensors")
    (blocks / "out/orange.safetensors").unlink()

    assert blocks.plan().verdicts == {"orange": "restore"}
    built = blocks.build()

    assert built.verdicts == {"orange": "restored"}
    assert built.computed == 0
    assert blocks.bytes("out/orange.safetensors") == before
    shares = link == "hard" and not is_hidden()
    assert (blocks / "out/orange.safetensors").stat().st_nlink == (2 if shares else 1)
    assert blocks.states() == {"orange": "up-to-date"}


def test_a_hard_linked_output_that_was_touched_is_still_ours(blocks: Space) -> None:
    blocks.write('[project]\nlink = "hard"\n' + BLOCKS)
    blocks.build()
    os.utime(blocks / "out/orange.safetensors")

    assert blocks.build().verdicts == {"orange": "up-to-date"}


def test_a_former_weight_comes_back_from_history(blocks: Space) -> None:
    """Going back is no arithmetic, and going forth again neither."""
    first = blocks.bytes("out/orange.safetensors")
    blocks.edit("IN04 = 0.35", "IN04 = 0.4")
    blocks.build()
    second = blocks.bytes("out/orange.safetensors")

    for weight, former, wanted in (("0.4", "0.35", first), ("0.35", "0.4", second), ("0.4", "0.35", first)):
        blocks.edit(f"IN04 = {weight}", f"IN04 = {former}")
        built = blocks.build()
        assert built.verdicts == {"orange": "restored"}
        assert built.computed == 0
        assert blocks.bytes("out/orange.safetensors") == wanted
        assert blocks.build().verdicts == {"orange": "up-to-date"}


def test_history_of_0_keeps_none(blocks: Space) -> None:
    blocks.write('[project]\nhistory = "0"\n' + BLOCKS)
    blocks.edit("IN04 = 0.35", "IN04 = 0.4")
    blocks.build()
    blocks.edit("IN04 = 0.4", "IN04 = 0.35")

    built = blocks.build()["orange"]

    assert built["verdict"] == "built"
    assert built["tensors_computed"] == len(block_names("IN04"))


@pytest.mark.parametrize("link", ["auto", "hard", "copy"])
def test_without_cache_the_store_keeps_nothing_of_a_target(blocks: Space, link: str, new_space: NewSpace) -> None:
    """Its output is all there is of it; tensors that did not change are still copied from there."""
    blocks.write(
        f'[project]\nlink = "{link}"\n' + BLOCKS.replace("[targets.orange]", "[targets.orange]\ncache = false")
    )
    assert blocks.build().verdicts == {"orange": "up-to-date"}
    for before, after in (("0.35", "0.4"), ("0.4", "0.35")):
        blocks.edit(f"IN04 = {before}", f"IN04 = {after}")
        planned, built = blocks.plan()["orange"], blocks.build()["orange"]
        assert (planned["verdict"], built["verdict"]) == ("build", "built")
        assert planned["tensors_computed"] == built["tensors_computed"] == len(block_names("IN04"))
        assert blocks.states() == {"orange": "up-to-date"}
    store = blocks / ".mergebuild"
    assert [path for kind in ("history", "kept") for path in (store / kind).glob("*")] == []
    assert (blocks / "out/orange.safetensors").stat().st_nlink == 1
    assert blocks.run("verify", "--rebuild").code == 0
    assert blocks.bytes("out/orange.safetensors") == rebuilt(blocks, "out/orange.safetensors", new_space)

    (blocks / "out/orange.safetensors").unlink()
    assert blocks.plan().verdicts == {"orange": "build"}
    assert blocks.build().verdicts == {"orange": "built"}


def test_two_targets_without_cache_change_places(pair: Space) -> None:
    """Each is the other's former output, and neither is in the history."""
    target = '[targets.{}]\nmethod = "weighted_sum"\na = "one"\nb = "two"\nalpha = {}\noutput = "{}.safetensors"\n'
    sources = '[sources]\none = "one.safetensors"\ntwo = "two.safetensors"\n'
    texts = [
        sources
        + "".join(target.format(name, alpha, name) + "cache = false\n" for name, alpha in zip("mn", each, strict=True))
        for each in ((0.25, 0.75), (0.75, 0.25))
    ]
    pair.write(texts[0])
    pair.build()
    m, n = pair.bytes("m.safetensors"), pair.bytes("n.safetensors")
    pair.write(texts[1])

    assert pair.plan().verdicts == {"m": "restore", "n": "restore"}
    assert pair.build().verdicts == {"m": "restored", "n": "restored"}
    assert (pair.bytes("m.safetensors"), pair.bytes("n.safetensors")) == (n, m)
    assert list((pair / ".mergebuild").glob("history/*")) == []

    pair.run("clean", "n")
    pair.write(texts[0])
    assert pair.plan("m").verdicts == {"m": "build"}
    assert pair.build("m").verdicts == {"m": "built"}


def test_history_is_trimmed_to_its_budget_newest_first(blocks: Space) -> None:
    size = (blocks / "out/orange.safetensors").stat().st_size
    blocks.write(f'[project]\nhistory = "{2 * size + 100}B"\n' + BLOCKS)
    weights = ["0.35", "0.4", "0.45", "0.5", "0.55"]
    for before, after in itertools.pairwise(weights):
        blocks.edit(f"IN04 = {before}", f"IN04 = {after}")
        blocks.build()

    assert blocks.plan("--set", "orange.alpha.IN04=0.5").verdicts == {"orange": "restore"}
    assert blocks.plan("--set", "orange.alpha.IN04=0.45").verdicts == {"orange": "restore"}
    assert blocks.plan("--set", "orange.alpha.IN04=0.4").verdicts == {"orange": "build"}


def test_an_output_changed_by_hand_is_never_overwritten(blocks: Space) -> None:
    """`status` says so, `build` refuses with exit 1, `--force` keeps it aside first."""
    output = blocks / "out/orange.safetensors"
    ours = output.read_bytes()
    theirs = ours[:-4] + b"\x01\x02\x03\x04"
    output.write_bytes(theirs)

    assert blocks.states() == {"orange": "changed-by-hand"}
    outcome = blocks.run("build", code=1)
    assert "error[changed-by-hand]: output `out/orange.safetensors`" in outcome.err
    assert output.read_bytes() == theirs
    failed = blocks.build(code=1)["orange"]
    assert failed["verdict"] == "failed"
    assert failed["error"]["code"] == "changed-by-hand"

    assert blocks.build("--force").verdicts["orange"] in {"built", "restored"}
    assert output.read_bytes() == ours
    aside = [path for path in output.parent.iterdir() if path != output]
    assert [path.read_bytes() for path in aside] == [theirs]


def test_force_keeps_every_version_aside(blocks: Space) -> None:
    output = blocks / "out/orange.safetensors"
    for number in range(3):
        output.write_bytes(b"mine %d" % number)
        blocks.build("--force")

    kept = sorted(path.read_bytes() for path in output.parent.iterdir() if path != output)
    assert kept == [b"mine 0", b"mine 1", b"mine 2"]


def test_a_strangers_file_at_an_outputs_path_is_never_overwritten(pair: Space) -> None:
    """Before the first build as well."""
    (pair / "out").mkdir()
    (pair / "out/mix.safetensors").write_bytes(b"precious")

    assert "error[changed-by-hand]" in pair.run("build", code=1).err
    assert pair.bytes("out/mix.safetensors") == b"precious"


def test_force_alone_does_not_rebuild(blocks: Space) -> None:
    assert blocks.build("--force").verdicts == {"orange": "up-to-date"}


def test_an_output_copied_over_itself_is_ours(blocks: Space) -> None:
    """A file found at an output's path is hashed before it is called changed by hand."""
    output = blocks / "out/orange.safetensors"
    copy = blocks / "copy"
    shutil.copyfile(output, copy)
    output.unlink()
    copy.rename(output)

    assert blocks.states() == {"orange": "up-to-date"}
    assert blocks.build().verdicts == {"orange": "up-to-date"}


def test_outputs_are_known_again_when_the_store_was_lost(blocks: Space) -> None:
    """Without its store a project builds again, and finds that its outputs are what it makes."""
    shutil.rmtree(blocks / ".mergebuild")
    before = blocks.bytes("out/orange.safetensors")

    blocks.build()

    assert blocks.bytes("out/orange.safetensors") == before
    assert blocks.states() == {"orange": "up-to-date"}


def test_a_moved_project_keeps_its_state(blocks: Space, new_space: NewSpace) -> None:
    """A folder that was renamed or moved has nothing to do."""
    moved = new_space("elsewhere")
    moved.root.rmdir()
    blocks.root.rename(moved.root)

    built = moved.build()

    assert built.verdicts == {"orange": "up-to-date"}
    assert moved.json("status")["orphans"] == []
    moved.edit("IN04 = 0.35", "IN04 = 0.4")
    assert moved.build()["orange"]["tensors_computed"] == len(block_names("IN04"))


def test_a_copied_project_is_a_project_of_its_own(blocks: Space, new_space: NewSpace) -> None:
    """Building in a copy leaves the original's outputs alone."""
    copy = new_space("copy")
    shutil.copytree(blocks.root, copy.root, dirs_exist_ok=True)
    before = blocks.bytes("out/orange.safetensors")
    copy.edit("IN04 = 0.35", "IN04 = 0.9")

    copy.build()

    assert blocks.bytes("out/orange.safetensors") == before
    assert blocks.build().verdicts == {"orange": "up-to-date"}


# Sweeps


def test_a_member_added_to_a_sweep_is_built_and_the_others_are_up_to_date(pair: Space) -> None:
    nine = "foreach.alpha = [0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45]"
    pair.write(SWEEP.replace("foreach.alpha = { from = 0.05, to = 0.5, step = 0.05 }", nine))
    pair.build()
    pair.edit("0.45]", "0.45, 0.5]")

    built = pair.build()

    assert list(built.verdicts.values()).count("up-to-date") == 9
    assert built.verdicts["mix@alpha=0.5"] == "built"
    assert len(built.verdicts) == 10


def test_a_sweep_reads_each_source_once(pair: Space) -> None:
    """Ten members cost one reading of their inputs, beside that of hashing them."""
    pair.write(SWEEP)
    sizes = sum((pair / f"{name}.safetensors").stat().st_size for name in ("one", "two"))

    built = pair.build()

    assert set(built.verdicts.values()) == {"built"}
    assert len(built.verdicts) == 10
    assert built.bytes_read <= 2 * sizes


def test_a_member_taken_out_of_the_list_is_no_orphan_and_is_cleaned_by_name(sweep: Space) -> None:
    """Families are open: what the list does not name is a target still."""
    sweep.edit("to = 0.5", "to = 0.45")
    sweep.build("mix@alpha=0.148")

    assert sweep.json("status")["orphans"] == []
    assert sweep.json("clean", "--orphans")["removed"] == []
    assert sweep.json("gc", "--max-size", "0")["removed"] == []
    foreseen = sweep.json("clean", "--yes", "-n")
    cleaned = sweep.json("clean", "--yes")

    assert foreseen["removed"] == cleaned["removed"]
    assert len(cleaned["removed"]) == 9
    left = ["mix-0.148.safetensors", "mix-0.5.safetensors"]
    assert sorted(path.name for path in (sweep / "out").iterdir()) == left
    assert sweep.json("clean", "mix@alpha=0.148")["removed"] == ["out/mix-0.148.safetensors"]


def test_clean_without_arguments_asks_on_a_terminal_and_wants_yes_elsewhere(sweep: Space) -> None:
    before = sweep.tree()

    assert sweep.refused("clean", code=2).errors == ["clean-all"]
    for answer, gone in ((b"\n", False), (b"n\n", False), (b"y\n", True)):
        outer, inner = os.openpty()
        os.write(outer, answer)
        done = subprocess.run(
            [sys.executable, "-m", "mergebuild", "clean"], cwd=sweep.root, stdin=inner, stdout=inner, stderr=inner,
            check=False, timeout=60,
        )  # fmt: skip
        os.close(inner)
        shown = os.read(outer, 100_000).decode()
        os.close(outer)
        assert done.returncode == 0
        assert "out/mix-0.1.safetensors" in shown
        assert "remove 10 files" in shown
        assert (sweep.tree() != before) is gone
    assert list((sweep / "out").iterdir()) == []


def test_the_output_of_a_member_is_an_orphan_once_the_family_makes_another(sweep: Space) -> None:
    old = sorted(path.relative_to(sweep.root).as_posix() for path in (sweep / "out").iterdir())
    size = sum((sweep / path).stat().st_size for path in old)
    sweep.edit("out/mix-", "blends/")

    status = sweep.json("status")
    assert status["orphans"] == old
    assert len(status["targets"]) == 10
    assert old[0] in sweep.run("status").out
    assert set(sweep.build().verdicts.values()) == {"restored"}
    assert sweep.json("clean", "--orphans", "-n")["removed"] == old
    assert sorted(path.relative_to(sweep.root).as_posix() for path in (sweep / "out").iterdir()) == old

    cleaned = sweep.json("clean", "--orphans")

    assert cleaned["removed"] == old
    assert cleaned["bytes_freed"] == size
    assert not (sweep / "out").exists()
    assert sweep.json("status")["orphans"] == []
    assert set(sweep.build().verdicts.values()) == {"up-to-date"}


def test_an_orphan_changed_by_hand_is_not_cleaned(sweep: Space) -> None:
    sweep.edit("out/mix-", "out/blend-")
    orphan = sweep / "out/mix-0.5.safetensors"
    orphan.write_bytes(orphan.read_bytes()[:-1] + b"x")

    sweep.run("clean", "--orphans")

    assert orphan.exists()


def test_a_member_of_a_family_can_be_asked_for_that_the_list_does_not_name(sweep: Space) -> None:
    built = sweep.build("mix@alpha=0.148")

    assert built.verdicts == {"mix@alpha=0.148": "built"}
    assert (sweep / "out/mix-0.148.safetensors").exists()


def test_equal_members_are_built_once(pair: Space) -> None:
    """A target that is another's equal is `restored`: no arithmetic, the same artifact."""
    pair.write(
        """
        [sources]
        one = "one.safetensors"
        two = "two.safetensors"
        [targets.first]
        formula = "0.7*one + 0.3*two"
        output = "first.safetensors"
        [targets.second]
        formula = "(7*one + 3*two)/10"
        output = "second.safetensors"
        """
    )

    built = pair.build()

    assert sorted(built.verdicts.values()) == ["built", "restored"]
    assert built["first"]["artifact"] == built["second"]["artifact"]
    assert pair.bytes("first.safetensors") == pair.bytes("second.safetensors")
    assert sum(each["tensors_computed"] for each in built.document["targets"]) == built["first"]["tensors_computed"]


# -o


def test_o_of_a_virtual_target_changes_no_other_targets_bytes(pair: Space) -> None:
    pair.write(
        """
        [sources]
        one = "one.safetensors"
        two = "two.safetensors"
        [targets.base_mix]
        formula = "0.35*one + 0.65*two"
        [targets.final]
        formula = "base_mix*3 - 2*one"
        output = "final.safetensors"
        """
    )
    pair.build()
    before = pair.bytes("final.safetensors")

    built = pair.build("base_mix", "-o", "taste/base.safetensors", "--dtype", "float8_e4m3fn")

    assert built.verdicts == {"base_mix": "built"}
    assert {tensor.dtype for name, tensor in pair.read("taste/base.safetensors").items() if name != INTEGERS} == {
        torch.float8_e4m3fn
    }
    assert pair.build().verdicts == {"final": "up-to-date"}
    assert pair.bytes("final.safetensors") == before
    shutil.rmtree(pair / ".mergebuild")
    (pair / "final.safetensors").unlink()
    pair.build()
    assert pair.bytes("final.safetensors") == before


def test_o_before_the_first_build_changes_no_other_targets_bytes(pair: Space) -> None:
    pair.build("mix", "-o", "copy.safetensors")

    assert not (pair / "out/mix.safetensors").exists()
    assert pair.states() == {"mix": "missing"}
    pair.build()
    assert pair.bytes("out/mix.safetensors") == pair.bytes("copy.safetensors")


def test_what_o_wrote_is_no_orphan(pair: Space) -> None:
    pair.build()
    pair.build("mix", "-o", "copy.safetensors", "--dtype", "float32")

    assert pair.json("status")["orphans"] == []
    pair.run("clean", "--orphans")
    assert (pair / "copy.safetensors").exists()


def test_a_virtual_target_asked_for_is_kept_in_the_store_in_float32(pair: Space) -> None:
    pair.write(
        """
        [sources]
        one = "one.safetensors"
        two = "two.safetensors"
        [targets.virtual]
        formula = "0.35*one + 0.65*two"
        """
    )

    first = pair.build("virtual")
    second = pair.build("virtual")

    assert first.verdicts == {"virtual": "built"}
    assert first["virtual"]["output"] is None
    assert second.verdicts == {"virtual": "up-to-date"}
    scanned = [path for path in pair.root.rglob("*") if path.suffix in {".safetensors", ".ckpt"}]
    assert sorted(path.name for path in scanned) == ["one.safetensors", "two.safetensors"]


# Metadata


@pytest.mark.parametrize("metadata", ["full", "none"])
def test_a_change_of_metadata_alone_computes_nothing(blocks: Space, metadata: str, new_space: NewSpace) -> None:
    blocks.edit('b = "merong"', f'b = "merong"\nmetadata = "{metadata}"')

    built = blocks.build()

    assert built.computed == 0
    assert built.verdicts == {"orange": "restored"}
    assert blocks.build().verdicts == {"orange": "up-to-date"}
    assert blocks.bytes("out/orange.safetensors") == rebuilt(blocks, "out/orange.safetensors", new_space)


def test_a_dtype_changed_and_changed_back(blocks: Space) -> None:
    before = blocks.bytes("out/orange.safetensors")
    blocks.edit('b = "merong"', 'b = "merong"\ndtype = "bfloat16"')
    blocks.build()
    blocks.edit('dtype = "bfloat16"', 'dtype = "float16"')

    assert blocks.build().verdicts == {"orange": "restored"}
    assert blocks.bytes("out/orange.safetensors") == before


# The store


def test_the_store_ignores_itself_in_git(blocks: Space) -> None:
    assert (blocks / ".mergebuild/.gitignore").read_text().strip() == "*"


def test_mergebuild_store_names_the_store(pair: Space, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MERGEBUILD_STORE", str(tmp_path / "store"))

    pair.build()

    assert not (pair / ".mergebuild").exists()
    assert (tmp_path / "store").is_dir()
    assert pair.build().verdicts == {"mix": "up-to-date"}


def test_project_store_names_the_store(pair: Space) -> None:
    pair.write('[project]\nstore = "cache/store"\n' + (pair / "mergefile.toml").read_text())

    pair.build()

    assert not (pair / ".mergebuild").exists()
    assert (pair / "cache/store").is_dir()


def test_two_projects_share_a_store(
    pair: Space, new_space: NewSpace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What one project made is no arithmetic for the other, and no orphan of either."""
    monkeypatch.setenv("MERGEBUILD_STORE", str(tmp_path / "store"))
    other = new_space("other")
    for name in ("one.safetensors", "two.safetensors", "mergefile.toml"):
        shutil.copyfile(pair / name, other / name)
    pair.build()

    built = other.build()

    assert built.verdicts == {"mix": "restored"}
    assert pair.json("status")["orphans"] == other.json("status")["orphans"] == []
    other.write(other.bytes("mergefile.toml").decode().replace("out/mix", "out/other"))
    assert other.json("status")["orphans"] == ["out/mix.safetensors"]
    other.run("clean", "--orphans")
    assert (pair / "out/mix.safetensors").exists()


def test_what_a_killed_build_left_is_removed_by_the_next(pair: Space) -> None:
    (pair / "out").mkdir()
    left = pair / "out/.mix.safetensors.mergebuild-1234"
    left.write_bytes(b"half")

    pair.build()

    assert [path.name for path in (pair / "out").iterdir()] == ["mix.safetensors"]


def test_metadata_names_no_path_and_no_time(blocks: Space) -> None:
    text = str(blocks.json("inspect", "orange")["metadata"])

    assert str(blocks.root) not in text
    assert "opk" not in text
