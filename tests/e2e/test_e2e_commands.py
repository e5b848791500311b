"""Every command: its text, its JSON to the key, its exit code."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from project_space import NewSpace, Space
from tiny_models import INTEGERS, NAMES, sd15, with_ema

from mergebuild.formats.header import read_header
from mergebuild.methods.catalog import METHODS

TARGET_KEYS = {
    "target", "verdict", "output", "artifact", "seconds", "tensors_computed", "tensors_reused", "bytes_read",
    "bytes_written", "error", "notices",
}  # fmt: skip
ARTIFACT = re.compile(r"xxh3-128:[0-9a-f]{32}")

CHAIN = """
[vars]
m = 0.3
[sources]
one = "one.safetensors"
two = "two.safetensors"
[targets.virtual]
method = "weighted_sum"
a = "one"
b = "two"
alpha = "${m}"
[targets.file]
method = "add_difference"
a = "virtual"
b = "two"
c = "one"
alpha = 0.5
output = "out/file.safetensors"
[targets.last]
formula = "0.6*file + 0.4*two"
output = "out/last.safetensors"
"""


@pytest.fixture
def chain(pair: Space) -> Space:
    """A project with a virtual target, a file on it, and a file on that."""
    pair.write(CHAIN)
    return pair


# build


def test_build_json(chain: Space) -> None:
    """Every key is always there; targets asked for, then file targets built for them."""
    document = chain.json("build", "last")

    assert set(document) == {"ok", "seconds", "bytes_read", "bytes_written", "targets"}
    assert document["ok"] is True
    assert [each["target"] for each in document["targets"]] == ["last", "file"]
    for each in document["targets"]:
        assert set(each) == TARGET_KEYS
        assert each["verdict"] == "built"
        assert ARTIFACT.fullmatch(each["artifact"])
        assert each["tensors_computed"] + each["tensors_reused"] == len(NAMES) + 1
        assert each["error"] is None
        assert isinstance(each["seconds"], int | float)
    assert document["bytes_written"] == sum((chain / each["output"]).stat().st_size for each in document["targets"])
    assert chain.json("build")["targets"][0]["verdict"] == "up-to-date"


def test_the_artifact_is_over_tensors_not_over_metadata(chain: Space) -> None:
    first = chain.build()["last"]["artifact"]
    chain.edit('output = "out/last.safetensors"', 'output = "out/last.safetensors"\nmetadata = "none"')

    assert chain.build()["last"]["artifact"] == first


def test_build_json_of_failures_has_every_key(chain: Space) -> None:
    two = sd15(2)
    two[NAMES[4]].reshape(-1)[0] = float("nan")
    chain.model("two.safetensors", two)

    document = chain.json("build", code=1)

    assert document["ok"] is False
    for each in document["targets"]:
        assert set(each) == TARGET_KEYS
    failed = next(each for each in document["targets"] if each["verdict"] == "failed")
    assert {"code", "message", "where", "help"} <= set(failed["error"])


def test_results_go_to_stdout_and_progress_to_stderr(chain: Space) -> None:
    outcome = chain.run("build")

    assert "out/last.safetensors" in outcome.out
    assert "\x1b" not in outcome.out + outcome.err
    assert "\r" not in outcome.err
    assert chain.run("build", "-q").out == ""
    assert chain.run("build", "--json").err == ""


def test_build_n_is_plan(chain: Space) -> None:
    planned, dry = chain.json("plan"), chain.json("build", "-n")

    for document in (planned, dry):
        document.pop("seconds")
        document.pop("space_free")
    assert dry == planned


def test_computed_is_counted_once(chain: Space) -> None:
    """At the first target that needs it; all other tensors are reused."""
    chain.write(
        CHAIN + '\n[targets.again]\nmethod = "copy"\na = "file"\noutput = "out/again.safetensors"\n'
        '[targets.partly]\nmethod = "copy"\na = "file"\ndrop = ["vae"]\noutput = "out/partly.safetensors"\n'
    )

    built = chain.build("file", "again", "partly")

    floats = len([name for name in NAMES if not name.startswith("first_stage_model.")])
    assert built["file"]["tensors_computed"] == floats
    assert built["again"]["tensors_computed"] == 0
    assert built["partly"]["tensors_computed"] == 0


@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_device_that_is_not_there_is_usage(chain: Space, device: str) -> None:
    assert chain.refused("build", "--device", device, code=2).errors == ["no-such-device"]


def test_devices_auto_and_cpu(chain: Space) -> None:
    chain.build("--device", "cpu")

    assert chain.build("--device", "auto").computed == 0


def test_durable_builds_the_same(chain: Space) -> None:
    chain.build("--durable")
    before = chain.bytes("out/last.safetensors")
    chain.run("clean", "--yes")
    chain.build()

    assert chain.bytes("out/last.safetensors") == before


def test_options_without_sense_are_usage(chain: Space) -> None:
    for arguments in (
        ("build", "--dtype", "float16"),
        ("build", "-o", "x.safetensors"),
        ("build", "file", "last", "-o", "x.safetensors"),
        ("build", "file", "-o", "x.safetensors", "--dtype", "fp16"),
        ("build", "file", "-o", "x.pickle"),
        ("build", "file", "-o", "out/last.safetensors"),
        ("build", "-j", "0"),
        ("build", "--nope"),
        ("nope",),
        (),
    ):
        chain.refused(*arguments, code=2)


# plan, status, why


def test_plan_json(chain: Space) -> None:
    """The list of `build`, with the plan's verdicts and `reasons`."""
    document = chain.json("plan")

    assert {"ok", "seconds", "bytes_read", "bytes_written", "targets"} <= set(document)
    for each in document["targets"]:
        assert TARGET_KEYS | {"reasons"} <= set(each)
        assert each["verdict"] == "build"
        assert all(isinstance(reason, str) for reason in each["reasons"])
        assert each["reasons"]


def test_plan_foretells_the_build(chain: Space) -> None:
    """Tensors to compute, artifacts and bytes to write, once the sources are known."""
    chain.build()
    chain.edit("m = 0.3", "m = 0.45")

    planned, built = chain.plan(), chain.build()

    for name in ("file", "last"):
        for key in ("artifact", "tensors_computed", "tensors_reused", "bytes_written", "output"):
            assert planned[name][key] == built[name][key], (name, key)
        assert planned[name]["verdict"] == "build"
        assert built[name]["verdict"] == "built"


def test_plan_of_a_missing_source_is_blocked(chain: Space) -> None:
    (chain / "two.safetensors").unlink()

    outcome = chain.run("plan", "--json", code=None)

    assert {each["verdict"] for each in outcome.json["targets"]} == {"blocked"}
    assert all(each["error"]["code"] == "source-missing" for each in outcome.json["targets"])


def test_plan_says_space_needed_and_free(chain: Space) -> None:
    text = chain.run("plan").out

    assert re.search(r"needed.*free", text)


def test_status_json_and_text(chain: Space) -> None:
    assert chain.json("status") == {
        "targets": [
            {"target": "file", "state": "missing", "output": "out/file.safetensors"},
            {"target": "last", "state": "missing", "output": "out/last.safetensors"},
        ],
        "orphans": [],
    }
    chain.build()
    chain.edit("0.6*file", "0.5*file")
    (chain / "out/file.safetensors").write_bytes(b"mine")

    assert chain.states() == {"file": "changed-by-hand", "last": "stale"}
    lines = chain.run("status").out.splitlines()
    assert len(lines) == 2
    assert lines[0].split()[:2] == ["changed-by-hand", "file"]


def test_status_exit_code(chain: Space) -> None:
    """8 unless all are up to date; without the option 0."""
    chain.run("status", "--exit-code", code=8)
    chain.run("status", code=0)
    chain.build("file")
    chain.run("status", "--exit-code", code=8)
    chain.run("status", "file", "--exit-code", code=0)
    chain.build()
    chain.run("status", "--exit-code", code=0)


def test_why_names_what_differs(chain: Space) -> None:
    chain.build()
    cases = {
        "m=0.4": ["virtual.alpha 0.3 -> 0.4"],
        "file.alpha=0.25": ["alpha 0.5 -> 0.25"],
        "file.dtype=bfloat16": ["dtype source -> bfloat16"],
        "file.method=triple_sum": None,
    }
    for override, wanted in cases.items():
        extra = ["--set", "file.beta=0.1"] if "triple" in override else []
        why = chain.json("why", "file", "--set", override, *extra)
        assert why["target"] == "file"
        if wanted is not None:
            assert why["reasons"] == wanted, override
        else:
            assert "method add_difference -> triple_sum" in why["reasons"]


def test_why_of_a_target_below_a_file_names_the_file(chain: Space) -> None:
    chain.build()
    chain.edit("m = 0.3", "m = 0.4")

    assert chain.reasons("last") == ["input file: contents changed"]


def test_why_says_never_built_and_missing(chain: Space) -> None:
    assert chain.reasons("file") == ["never built"] or "never built" in chain.reasons("file")
    chain.build()
    (chain / "out/last.safetensors").unlink()
    assert chain.reasons("last") == ["out/last.safetensors is missing"]


def test_why_of_a_tensor_names_each_line_of_its_digest(chain: Space) -> None:
    """By the mergefile and, once it was built, by what was built; a name that there is not is a wrong command line."""
    (name, *_) = chain.read("one.safetensors")
    never = chain.json("why", "file", "--tensor", name)["tensor"]
    assert (never["before"], never["note"]) == (None, "never built")
    chain.build()
    found = chain.json("why", "file", "--tensor", name, "--set", "m=0.4")["tensor"]
    assert ARTIFACT.fullmatch(found["before"]["digest"])
    assert {each["what"]: (each["before"], each["after"]) for each in found["lines"]} == {
        "method": ("linear@1",) * 2,
        "dtype": (found["lines"][1]["before"],) * 2,
        "shape": (found["lines"][2]["before"],) * 2,
        f"source one: {name}": ("1/5 (0.2)", "1/10 (0.1)"),
        f"source two: {name}": ("4/5 (0.8)", "9/10 (0.9)"),
    }
    assert chain.run("why", "file", "--tensor", name).out.splitlines()[0] == name
    wrong = chain.run("why", "file", "--tensor", name[:-1], code=2)
    assert "error[unknown-tensor]" in wrong.err
    assert f"did you mean `{name}`?" in wrong.err


# lineage, list, methods, graph


def test_lineage_json_through_files(chain: Space) -> None:
    assert chain.json("lineage", "last") == {
        "target": "last",
        "linear": True,
        "proportions": {"one": "3/25", "two": "22/25"},
        "by_block": {},
        "rounded_at": ["file"],
    }


def test_lineage_text(chain: Space) -> None:
    assert chain.run("lineage", "last").out.startswith("last = 22/25 two + 3/25 one\nrounded at file\n")


def test_list_json(chain: Space) -> None:
    document = chain.json("list")

    assert set(document) == {"sources", "targets", "layouts"}
    assert [each["name"] for each in document["sources"]] == ["one", "two"]
    assert [each["name"] for each in document["targets"]] == ["virtual", "file", "last"]
    assert {"sd15", "sd2", "sdxl", "sd3", "flux"} <= {each["name"] for each in document["layouts"]}
    for kind in ("sources", "targets", "layouts"):
        assert chain.json("list", kind) == {kind: document[kind]}
    assert "virtual" in chain.run("list", "targets").out


def test_list_needs_no_source(chain: Space) -> None:
    """What there is, from the text alone."""
    for name in ("one", "two"):
        (chain / f"{name}.safetensors").unlink()

    chain.run("list")
    chain.run("graph")


def test_methods_lists_the_catalog(space: Space) -> None:
    document = space.json("methods")

    assert [each["name"] for each in document["methods"]] == list(METHODS)
    text = space.run("methods", "add_difference").out
    assert "a + alpha * (b - c)" in text
    assert "alpha" in text
    assert space.json("methods", "Weighted sum")["name"] == "weighted_sum"
    assert space.refused("methods", "weigted_sum", code=2).errors == ["unknown-method"]


@pytest.mark.parametrize("form", ["text", "dot", "mermaid", "json"])
def test_graph_formats(chain: Space, form: str) -> None:
    text = chain.run("graph", "--format", form).out

    for name in ("one", "two", "virtual", "file", "last"):
        assert name in text
    if form == "json":
        assert {node["name"] for node in json.loads(text)["nodes"]} == {"one", "two", "virtual", "file", "last"}
    else:
        assert text.startswith({"text": "last", "dot": "digraph", "mermaid": "flowchart"}[form])


def test_graph_json_is_the_same_both_ways(chain: Space) -> None:
    assert chain.json("graph") == json.loads(chain.run("graph", "--format", "json").out)


# inspect


def test_inspect_json(chain: Space) -> None:
    """Tensors, bytes, dtypes, layout, components, metadata, and the hashes that model sites use."""
    chain.model("one.safetensors", with_ema(sd15(1), 3))
    path = chain / "one.safetensors"
    raw = path.read_bytes()
    start = read_header(path).data_start

    found = chain.json("inspect", "one.safetensors")

    wanted = {"path", "format", "layout", "tensors", "bytes", "dtypes", "components", "metadata", "hashes"}
    assert wanted <= set(found)
    assert found["path"] == "one.safetensors"
    assert found["format"] == "safetensors"
    assert found["layout"] == "sd15"
    assert found["tensors"] == len(with_ema(sd15(1), 3))
    assert found["bytes"] == len(raw)
    assert found["dtypes"]["float16"] == len(NAMES)
    assert {"unet", "text_encoder", "vae", "ema"} <= set(found["components"])
    assert found["metadata"] == {"format": "pt"}
    assert found["hashes"] == {
        "sha256": hashlib.sha256(raw).hexdigest(),
        "autov1": hashlib.sha256(raw[0x100000:0x110000]).hexdigest()[:8],
        "autov2": hashlib.sha256(raw).hexdigest()[:10],
        "autov3": hashlib.sha256(raw[start:]).hexdigest(),
    }


def test_inspect_takes_names_and_lists_tensors(chain: Space) -> None:
    chain.build()

    assert chain.json("inspect", "one")["path"] == "one.safetensors"
    assert chain.json("inspect", "last")["path"] == "out/last.safetensors"
    listed = chain.run("inspect", "last", "--tensors").out
    assert all(name in listed for name in NAMES)
    assert INTEGERS in listed


def test_inspect_needs_no_mergefile(space: Space) -> None:
    space.model("lonely.safetensors", sd15(1))

    assert space.json("inspect", "lonely.safetensors")["layout"] == "sd15"
    space.refused("inspect", "missing.safetensors", code=4)


def test_inspect_hashes_of_a_large_file_use_the_window(space: Space) -> None:
    """AutoV1 is of 64 KiB at 1 MiB."""
    space.model("big.safetensors", {"weight": torch.randn(400_000, generator=torch.Generator().manual_seed(1))})
    raw = space.bytes("big.safetensors")

    hashes = space.json("inspect", "big.safetensors")["hashes"]

    assert hashes["autov1"] == hashlib.sha256(raw[0x100000:0x110000]).hexdigest()[:8]


# verify, gc, clean


def test_verify_json(chain: Space) -> None:
    chain.build()

    document = chain.json("verify")

    assert document["ok"] is True
    assert set(document["checked"]) == {"out/file.safetensors", "out/last.safetensors"}
    assert chain.json("verify", "file")["checked"] == ["out/file.safetensors"]


def test_verify_finds_a_changed_byte_that_stat_hides(chain: Space) -> None:
    """Bytes are read again, whatever the stat data say."""
    import os

    chain.build()
    path = chain / "out/file.safetensors"
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"\xff")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    outcome = chain.run("verify", "--json", code=5)

    assert "file.safetensors" in outcome.json["errors"][0]["message"]


def test_clean_removes_what_we_made_and_nothing_else(chain: Space) -> None:
    """Never a source, never what was changed by hand; the bytes freed are said."""
    chain.build()
    chain.build("virtual")
    (chain / "out/notes.txt").write_text("mine")
    (chain / "out/last.safetensors").write_bytes(b"changed")
    size = (chain / "out/file.safetensors").stat().st_size

    cleaned = chain.json("clean", "--yes")

    assert "out/file.safetensors" in cleaned["removed"]
    assert cleaned["bytes_freed"] >= size
    left = {path.relative_to(chain.root).as_posix() for path in chain.root.rglob("*") if path.is_file()}
    assert {name for name in left if not name.startswith(".mergebuild/")} == {
        "mergefile.toml", "one.safetensors", "two.safetensors", "out/notes.txt", "out/last.safetensors",
    }  # fmt: skip
    assert chain.states()["file"] == "missing"


def test_clean_of_a_target_leaves_the_others(chain: Space) -> None:
    chain.build()

    cleaned = chain.json("clean", "file")

    assert cleaned["removed"] == ["out/file.safetensors"]
    assert (chain / "out/last.safetensors").exists()
    assert "freed" in chain.run("clean", "last").out


def test_clean_of_a_source_is_usage(chain: Space) -> None:
    chain.refused("clean", "one", code=2)


def test_a_cleaned_target_is_built_again(chain: Space) -> None:
    chain.build()
    before = chain.bytes("out/last.safetensors")
    chain.run("clean", "--yes")

    assert set(chain.build().verdicts.values()) <= {"built", "restored"}
    assert chain.bytes("out/last.safetensors") == before


def test_gc_frees_history_by_size_and_age(chain: Space) -> None:
    for number in range(4):
        chain.build("file", "--set", f"m=0.{number + 1}")
    size = (chain / "out/file.safetensors").stat().st_size

    dry = chain.json("gc", "--max-size", "0", "-n")
    assert dry["bytes_freed"] == 3 * size
    assert len(list((chain / ".mergebuild/history").iterdir())) == 3
    chain.run("gc", "--older-than", "1h")
    assert len(list((chain / ".mergebuild/history").iterdir())) == 3
    chain.run("gc", "--max-size", f"{2 * size}B")
    assert len(list((chain / ".mergebuild/history").iterdir())) == 2
    assert chain.json("gc", "--older-than", "0s")["bytes_freed"] == 2 * size
    assert (chain / "out/file.safetensors").exists()
    assert chain.build("file", "--set", "m=0.4").verdicts == {"file": "up-to-date"}


def test_gc_frees_what_no_target_needs(chain: Space) -> None:
    """The kept artifact of a virtual target that is no more."""
    chain.build("virtual")
    kept = list((chain / ".mergebuild/kept").iterdir())
    assert chain.json("gc")["bytes_freed"] == 0
    chain.write(CHAIN.replace("virtual", "renamed").replace("0.5\n", "0.4\n").replace('"${m}"', "0.9"))

    freed = chain.json("gc")

    assert freed["bytes_freed"] > 0
    assert not any(path.exists() for path in kept)


def test_sizes_and_times_that_are_none_are_usage(chain: Space) -> None:
    chain.refused("gc", "--max-size", "many", code=2)
    chain.refused("gc", "--older-than", "yesterday", code=2)
    chain.refused("build", "--lock-timeout", "soon", code=2)


# lock


def test_lock_and_locked(chain: Space) -> None:
    """`mergefile.lock` names sha256 and size of every source, and the artifact of every target."""
    import tomli

    built = chain.build("file", "last", "virtual")
    chain.run("lock")

    locked = tomli.loads((chain / "mergefile.lock").read_text())
    for name in ("one", "two"):
        raw = chain.bytes(f"{name}.safetensors")
        assert locked["sources"][name] == {"sha256": hashlib.sha256(raw).hexdigest(), "size": len(raw)}
    assert locked["targets"] == {name: built[name]["artifact"] for name in ("file", "last", "virtual")}
    assert set(chain.build("--locked").verdicts.values()) == {"up-to-date"}


def test_locked_refuses_other_sources(chain: Space) -> None:
    chain.build()
    chain.run("lock")
    chain.model("two.safetensors", sd15(7))

    assert chain.refused("build", "--locked", code=4).errors == ["lock-mismatch"]


def test_locked_fails_on_another_result(chain: Space) -> None:
    chain.build()
    chain.run("lock")
    chain.edit("m = 0.3", "m = 0.31")

    assert "lock-result" in chain.refused("build", "--locked", code=6).errors


def test_locked_on_another_machine(chain: Space, new_space: NewSpace) -> None:
    """The lock file goes with the mergefile; nothing else does."""
    chain.build()
    chain.run("lock")
    other = new_space("other")
    for name in ("one.safetensors", "two.safetensors", "mergefile.toml", "mergefile.lock"):
        (other / name).write_bytes(chain.bytes(name))

    other.build("--locked")

    assert other.bytes("out/last.safetensors") == chain.bytes("out/last.safetensors")


def test_locked_without_a_lock_is_an_error(chain: Space) -> None:
    chain.refused("build", "--locked", code=3)


def test_lock_timeout_is_75_and_says_who(chain: Space) -> None:
    chain.build()
    chain.edit("m = 0.3", "m = 0.31")
    with FileLock(chain / ".mergebuild/lock"):
        outcome = chain.run("build", "--lock-timeout", "0.05", "--json", code=75)

    assert outcome.errors == ["store-locked"]
    assert "mergebuild" in outcome.json["errors"][0]["message"]
    chain.build()


def test_a_build_waits_for_another_and_says_for_whom(chain: Space) -> None:
    chain.build()
    chain.edit("m = 0.3", "m = 0.31")
    is_held, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with FileLock(chain / ".mergebuild/lock"):
            (chain / ".mergebuild/lock.holder").write_text("`mergebuild build big` (process 4711)\n")
            is_held.set()
            may_go.wait(10)

    holder = threading.Thread(target=hold)
    holder.start()
    is_held.wait(10)
    threading.Timer(0.5, may_go.set).start()

    outcome = chain.run("build", "--json")

    holder.join()
    assert outcome.json["targets"][0]["verdict"] == "built"
    assert "4711" in outcome.err


def test_what_only_looks_needs_no_lock(chain: Space) -> None:
    chain.build()
    with FileLock(chain / ".mergebuild/lock"):
        for command in (["status"], ["plan"], ["why", "file"], ["lineage", "file"], ["list"], ["graph"]):
            chain.run(*command)


# init


def test_init_writes_a_mergefile_for_what_it_finds(space: Space) -> None:
    space.model("models/opk v1.5.safetensors", sd15(1))
    space.model("models/deep/merong.safetensors", sd15(2))
    (space / "models/broken.safetensors").write_bytes(b"nothing")

    document = space.json("init")

    assert set(document) >= {"ok", "mergefile", "sources"}
    assert sorted(document["sources"].values()) == ["models/deep/merong.safetensors", "models/opk v1.5.safetensors"]
    text = (space / "mergefile.toml").read_text()
    assert "#" in text
    assert {each["path"] for each in space.json("list", "sources")["sources"]} == set(document["sources"].values())
    space.run("plan")


def test_inits_example_builds(space: Space) -> None:
    """Its comments hold a target that works when it is uncommented."""
    space.model("opk.safetensors", sd15(1))
    space.model("merong.safetensors", sd15(2))
    space.run("init")
    text = (space / "mergefile.toml").read_text()
    head, _, example = text.partition("# [targets.")
    space.write(head + "\n".join(line.removeprefix("# ") for line in ("# [targets." + example).splitlines()) + "\n")

    built = space.build()

    assert list(built.verdicts.values()) == ["built"]


def test_init_overwrites_nothing(pair: Space) -> None:
    assert pair.refused("init", code=2).errors == ["mergefile-exists"]


def test_init_of_a_folder(space: Space) -> None:
    space.model("sub/one.safetensors", sd15(1))

    space.run("init", "sub")

    assert (space / "sub/mergefile.toml").exists()
    space.refused("init", "nowhere", code=2)


# Everywhere


def test_c_and_f(chain: Space, new_space: NewSpace) -> None:
    elsewhere = new_space("elsewhere")
    (chain / "mergefile.toml").rename(chain / "other.toml")

    built = elsewhere.build("-C", chain.root, "-f", "other.toml")

    assert set(built.verdicts.values()) == {"built"}
    assert elsewhere.tree() == {}
    elsewhere.run("-C", chain.root, "-f", "other.toml", "status", "--exit-code")
    elsewhere.run("status", "-f", chain / "other.toml", "--exit-code")
    elsewhere.refused("build", "-C", "nowhere", code=2)
    elsewhere.refused("build", "-f", "nowhere.toml", code=3)


def test_the_mergefile_is_found_above(chain: Space) -> None:
    """Paths of targets are then relative to where the user stands."""
    (chain / "out").mkdir()
    chain.here = chain / "out"

    assert chain.build("file.safetensors").verdicts == {"file": "built"}
    assert (chain / "out/file.safetensors").exists()


def test_set_changes_a_variable_a_number_and_a_block(chain: Space) -> None:
    chain.edit("alpha = 0.5", "alpha = { default = 0.5, IN04 = 0.2 }")

    chain.build()
    assert chain.json("why", "file", "--set", "m=0.4")["reasons"] == ["virtual.alpha 0.3 -> 0.4"]
    assert chain.json("why", "file", "--set", "file.alpha.IN04=0.25")["reasons"] == ["alpha[IN04] 0.2 -> 0.25"]
    assert chain.json("why", "file", "--set", "file.alpha.default=0.4")["reasons"] == ["alpha 0.5 -> 0.4"]
    built = chain.build("file", "--set", "file.output=out/elsewhere.safetensors")
    assert built["file"]["output"] == "out/elsewhere.safetensors"


def test_set_adds_a_block_that_was_not_there(chain: Space) -> None:
    chain.build()

    why = chain.json("why", "file", "--set", "file.alpha.IN04=0.9")

    assert "alpha[IN04] (none) -> 0.9" in why["reasons"]
    assert chain.build("file", "--set", "file.alpha.IN04=0.9")["file"]["tensors_computed"] in {2, 3}


@pytest.mark.parametrize(
    ("name", "text"),
    [("vars.toml", "m = 0.4\n"), ("vars.json", '{"m": 0.4}'), ("bom.toml", "\ufeffm = 0.4\n")],
)
def test_vars_from_a_file(chain: Space, name: str, text: str) -> None:
    chain.build()
    (chain / name).write_text(text, encoding="utf-8")

    assert chain.json("why", "file", "--vars", name)["reasons"] == ["virtual.alpha 0.3 -> 0.4"]


def test_vars_from_standard_input(chain: Space) -> None:
    chain.build()

    outcome = chain.process("why", "file", "--vars", "-", input='{"m": 0.4}')

    assert outcome.out == "virtual.alpha 0.3 -> 0.4\n"


def test_vars_that_are_wrong_are_usage(chain: Space) -> None:
    (chain / "bad.toml").write_text("m = = 1")
    (chain / "unknown.toml").write_text("nope = 1")

    chain.refused("build", "--vars", "bad.toml", code=2)
    chain.refused("build", "--vars", "missing.toml", code=2)
    assert chain.run("build", "--vars", "unknown.toml", code=None).code in {2, 3}


def test_version_and_help(space: Space) -> None:
    from mergebuild import __version__

    assert space.run("--version").out == f"mergebuild {__version__}\n"
    assert "build" in space.run("--help").out
    for command in ("build", "plan", "status", "why", "lineage", "list", "methods", "graph", "inspect", "verify", "gc",
                    "clean", "lock", "trust", "init"):  # fmt: skip
        assert "--json" in space.run(command, "--help").out, command


def test_json_errors_have_the_contracts_form(space: Space) -> None:
    """On stdout one document, the message on stderr, the same exit code."""
    for arguments, code in (
        (("build",), 3),
        (("nope",), 2),
        (("build", "--nope"), 2),
        (("inspect", "x.safetensors"), 4),
    ):
        outcome = space.refused(*arguments, code=code)
        document = outcome.json
        assert set(document) == {"ok", "errors"}
        assert outcome.err.startswith("error[")
        assert space.run(*arguments, code=code).out == "" or not arguments


def test_outputs_of_paths_with_odd_names(pair: Space) -> None:
    """Spaces, accents, quotes and a leading dash in paths."""
    pair.edit('"out/mix.safetensors"', "'out dir/mïx \"1\" & -2.safetensors'")

    pair.build()

    assert (pair / "out dir" / 'mïx "1" & -2.safetensors').exists()
    assert pair.build('out dir/mïx "1" & -2.safetensors').verdicts == {"mix": "up-to-date"}


def test_an_outputs_path_names_its_target_however_it_is_written(pair: Space) -> None:
    for path in ("./out/mix.safetensors", "out/../out/mix.safetensors", str(pair / "out/mix.safetensors")):
        assert list(pair.build(path).verdicts) == ["mix"], path


def test_a_target_named_twice_is_built_once(pair: Space) -> None:
    assert list(pair.build("mix", "mix", "out/mix.safetensors").verdicts) == ["mix"]


def test_verbs_of_one_target_refuse_many(chain: Space) -> None:
    chain.write(
        CHAIN + '[targets.f]\nforeach.x = [1, 2]\nformula = "x*one"\nx = "${x}"\noutput = "f-${x}.safetensors"\n'
    )

    for verb in ("why", "lineage"):
        chain.refused(verb, "f", code=2)
        chain.refused(verb, "one", code=2)
    assert chain.json("lineage", "f@x=2")["proportions"] == {"one": "2"}


def test_trust_of_a_project_that_needs_none(pair: Space) -> None:
    assert pair.json("trust") == {"ok": True, "trusted": []}


def test_seconds_are_numbers(pair: Space, tmp_path: Path) -> None:
    document = pair.json("build")

    assert document["seconds"] >= 0
    assert all(each["seconds"] >= 0 for each in document["targets"])
