"""Hostile folders: each is refused by name, none crashes, leaves its own folder, or costs what it claims."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import tempfile
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.errors import Problem, SourceError
from mergebuild.formats.documents import MAX_CONFIG, MAX_INDEX, is_plain
from mergebuild.formats.folders import read_folder
from mergebuild.formats.layout import encode_header

INDEX = "model.safetensors.index.json"
SECRET = "hunter2"


def weights(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw, header = encode_header([(name, "float16", (2,)) for name in names], {})
    path.write_bytes(raw.ljust(header.file_size, b"\0"))


def index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def pipeline(folder: Path, **components: object) -> None:
    (folder / "model_index.json").write_text(json.dumps(components))


def refused(folder: Path) -> Problem:
    """Return the problem that a folder is refused for, told without a secret, a terminal's codes, or a real path."""
    with pytest.raises(SourceError) as caught:
        read_folder(folder, shown="hf/x")
    (problem,) = caught.value.problems
    told = f"{problem.message} {problem.help} {problem.rows}"
    assert SECRET not in told
    assert str(folder) not in told
    assert not re.search(r"[\x00-\x1f\x7f]", told)
    assert len(told) < 2000
    return problem


OUTSIDE = (
    "../other/model.safetensors",
    "/etc/model.safetensors",
    "sub/model.safetensors",
    "./model.safetensors",
    "..",
    ".",
    "",
    "..\\other\\model.safetensors",
    "C:model.safetensors",
    "C:\\model.safetensors",
    "\\\\server\\share\\model.safetensors",
    "a\0.safetensors",
    "a\n.safetensors",
    "\ud800.safetensors",
    "~/../model.safetensors",
    "file:///etc/model.safetensors",
)


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_index_names_files_beside_it_only(tmp_path: Path, name: str) -> None:
    weights(tmp_path / "other" / "model.safetensors", "a")
    home = tmp_path / "home"
    home.mkdir()
    index(home, {"a": name})
    problem = refused(home)
    assert problem.code == "index-outside"
    assert "hf/x/model.safetensors.index.json" in problem.message


def test_an_index_names_no_more_files_than_a_model_can_have(tmp_path: Path) -> None:
    index(tmp_path, {str(number): f"m{number}.safetensors" for number in range(10_001)})
    assert refused(tmp_path).code == "bad-index"


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_pipeline_names_folders_in_it_only(tmp_path: Path, name: str) -> None:
    pipeline(tmp_path, **{name: ["diffusers", "UNet2DConditionModel"]})
    assert refused(tmp_path).code == "bad-model-index"


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_configuration_names_a_file_beside_it_only(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"transformers_weights": name}))
    weights(tmp_path / "model.safetensors", "a")
    found = read_folder(tmp_path, shown="hf/x")
    assert [path.name for path in found.components[""].files] == ["model.safetensors"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", "json-invalid"),
        (b"{", "json-invalid"),
        (b"[]", "json-invalid"),
        (b"null", "json-invalid"),
        (b"\x80\x04}", "json-not-utf8"),
        (b'{"weight_map": {"\xff": "a"}}', "json-not-utf8"),
        (b"\xff\xfe{\0}\0", "json-not-utf8"),
        (b'{"a":' * 100_000, "json-too-deep"),
        (b"[" * 1_000_000, "json-too-deep"),
        (b'{"weight_map": ' + b"9" * 10_000 + b"}", "json-invalid"),
        (b'{"weight_map": {"a": "1.safetensors", "a": "2.safetensors"}}', "json-invalid"),
        (b'{"weight_map": {}, "weight_map": {"a": "1.safetensors"}}', "json-invalid"),
        (b"{}", "bad-index"),
        (b'{"weight_map": {}}', "bad-index"),
        (b'{"weight_map": []}', "bad-index"),
        (b'{"weight_map": "model.safetensors"}', "bad-index"),
        (b'{"weight_map": {"a": 1}}', "bad-index"),
        (b'{"weight_map": {"a": null}}', "bad-index"),
        (b'{"weight_map": {"a": ["1.safetensors"]}}', "bad-index"),
        (b'{"weight_map": {"a": "passwd"}}', "bad-index"),
        (b'{"weight_map": {"a": "pytorch_model.bin"}}', "bad-index"),
        (json.dumps({"weight_map": {"a": "x" * 300 + ".safetensors"}}).encode(), "shard-missing"),
    ],
)
def test_a_broken_index_is_named(tmp_path: Path, text: bytes, code: str) -> None:
    (tmp_path / INDEX).write_bytes(text)
    assert refused(tmp_path).code == code


@pytest.mark.parametrize("name", [INDEX, "config.json", "model_index.json", "adapter_config.json"])
@pytest.mark.parametrize(("text", "code"), [(b"[]", "json-invalid"), (b'{"a":' * 100_000, "json-too-deep")])
def test_any_broken_document_is_named(tmp_path: Path, name: str, text: bytes, code: str) -> None:
    (tmp_path / name).write_bytes(text)
    problem = refused(tmp_path)
    assert problem.code == code
    assert problem.message.startswith(f"`hf/x/{name}` ")


@pytest.mark.parametrize(("name", "most"), [(INDEX, MAX_INDEX), ("config.json", MAX_CONFIG)])
def test_a_document_without_end_is_never_read(tmp_path: Path, name: str, most: int) -> None:
    with (tmp_path / name).open("wb") as file:
        file.truncate(100 << 30)
    tracemalloc.start()
    problem = refused(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert problem.code == "json-too-large"
    assert f"at most {most:,} are allowed" in problem.message
    assert peak < 1 << 20


def test_a_shard_is_checked_as_any_file(tmp_path: Path) -> None:
    index(tmp_path, {"a": "1.safetensors"})
    (tmp_path / "1.safetensors").write_bytes(b"\xff" * 100)
    problem = refused(tmp_path)
    assert problem.code == "header-too-large"
    assert problem.message.startswith("`hf/x/1.safetensors` ")


# links, pipes, devices


def put_link(path: Path) -> None:
    secret = path.parent.parent / "credentials.json"
    secret.write_text(json.dumps({"token": SECRET}))
    path.symlink_to(secret)


def put_loop(path: Path) -> None:
    path.symlink_to(path.name)


def put_pipe(path: Path) -> None:
    os.mkfifo(path)


def put_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def put_socket(path: Path) -> None:
    short = Path(tempfile.mkdtemp(prefix="s"))
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(short / "s"))
        shutil.move(short / "s", path)
    short.rmdir()


def put_folder(path: Path) -> None:
    path.mkdir()


ODD = (put_link, put_loop, put_pipe, put_device, put_socket, put_folder)


@pytest.mark.parametrize("put", ODD)
@pytest.mark.parametrize("name", [INDEX, "config.json", "model_index.json", "adapter_config.json"])
def test_a_document_is_a_file_of_its_folder(tmp_path: Path, name: str, put: Callable[[Path], None]) -> None:
    home = tmp_path / "home"
    home.mkdir()
    put(home / name)
    codes = {put_link: "link-outside", put_device: "link-outside", put_loop: "file-unreadable"}
    assert refused(home).code == codes.get(put, "file-not-regular")


@pytest.mark.parametrize("put", ODD)
def test_small_files_that_are_none_are_left_out(tmp_path: Path, put: Callable[[Path], None]) -> None:
    home = tmp_path / "home"
    weights(home / "model.safetensors", "a")
    put(home / "tokenizer.json")
    assert read_folder(home, shown="hf/x").sidecars == ()


@pytest.mark.parametrize("put", [put_pipe, put_device, put_socket, put_folder, put_loop])
@pytest.mark.parametrize("with_index", [False, True])
def test_weights_that_are_no_file_are_refused(tmp_path: Path, put: Callable[[Path], None], with_index: bool) -> None:
    if with_index:
        index(tmp_path, {"a": "1.safetensors"})
    put(tmp_path / "1.safetensors")
    refused(tmp_path)


def test_a_link_to_the_folder_itself_is_no_component(tmp_path: Path) -> None:
    pipeline(tmp_path, unet=["diffusers", "UNet2DConditionModel"])
    (tmp_path / "unet").symlink_to(".")
    assert refused(tmp_path).code == "weights-missing"


def test_a_component_that_links_to_a_foreign_folder_takes_no_small_file_from_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "config.json").write_text(json.dumps({"auths": SECRET}))
    weights(tmp_path / "private" / "model.safetensors", "a")
    pipeline(home, unet=["diffusers", "UNet2DConditionModel"])
    (home / "unet").symlink_to(tmp_path / "private")
    problem = refused(home)
    assert problem.code == "link-outside"
    assert problem.message == "`hf/x/unet/config.json` is a link to a file outside of its folder"


@pytest.mark.parametrize("blobs", ["link", "folder"])
def test_blobs_that_are_a_link_are_no_cache(tmp_path: Path, blobs: str) -> None:
    """A cache that was unpacked from a stranger's archive has only what the archive brought."""
    cache = tmp_path / "models--a--b"
    snapshot = cache / "snapshots" / "0"
    weights(snapshot / "model.safetensors", "a")
    private = tmp_path / "private" if blobs == "link" else cache / "blobs"
    private.mkdir()
    (private / "key.json").write_text(json.dumps({"key": SECRET}))
    if blobs == "link":
        (cache / "blobs").symlink_to(private)
    (snapshot / "tokenizer.json").symlink_to("../../blobs/key.json")
    found = read_folder(snapshot, shown="hf/x")
    assert found.sidecars == (("tokenizer.json",) if blobs == "folder" else ())


@pytest.mark.parametrize(
    ("end", "is_own"),
    [
        ("shared/tokenizer.json", True),
        (".dvc/cache/files/md5/12/34", True),
        (".git/annex/objects/x/y/k/k", True),
        (".env", False),
        (".git/config", False),
        (".dvc/config.local", False),
        ("hf/.secrets/key.json", False),
        ("../outside.json", False),
    ],
)
def test_a_link_is_judged_by_where_it_ends(tmp_path: Path, end: str, is_own: bool) -> None:
    """In the project, but not in what is hidden there: keys stand in such files."""
    root = tmp_path / "project"
    weights(root / "hf/x/model.safetensors", "a")
    path = root / end
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"key": SECRET}))
    for name in ("config.json", "tokenizer.json"):
        (root / "hf/x" / name).symlink_to(os.path.relpath(path, root / "hf/x"))
    if is_own:
        found = read_folder(root / "hf/x", shown="hf/x", within=(root,))
        assert found.sidecars == ("config.json", "tokenizer.json")
        return
    with pytest.raises(SourceError) as caught:
        read_folder(root / "hf/x", shown="hf/x", within=(root,))
    assert caught.value.problems[0].code == "link-outside"
    (root / "hf/x/config.json").unlink()
    assert read_folder(root / "hf/x", shown="hf/x", within=(root,)).sidecars == ()


def test_a_link_into_the_users_cache_of_models_is_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    for place in ("hub/models--a--b/blobs/0", "hub/private.json", "other/models--a--b/blobs/0"):
        folder = tmp_path / place.replace("/", "_")
        weights(folder / "model.safetensors", "a")
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("{}")
        (folder / "tokenizer.json").symlink_to(tmp_path / place)
        found = read_folder(folder, shown="hf/x")
        assert found.sidecars == (("tokenizer.json",) if place.startswith("hub/models--") else ())


@given(st.text())
def test_a_plain_name_stays_in_its_folder(name: str) -> None:
    if is_plain(name):
        assert Path("/a") / name == Path(f"/a/{name}")
        assert (Path("/a") / name).parent == Path("/a")
        assert os.path.normpath(f"/a/{name}") == f"/a/{name}"
        name.encode()


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(OUTSIDE),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=6)
            | st.sampled_from(["weight_map", "metadata", "unet", "quantization_config", "text_config", "_class_name"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


@given(
    st.sampled_from([INDEX, "config.json", "model_index.json", "adapter_config.json"]),
    DOCUMENTS.map(json.dumps).map(str.encode) | st.binary(max_size=60),
    st.booleans(),
)
def test_any_document_is_read_or_refused(name: str, text: bytes, with_weights: bool) -> None:
    """No content of a small file ends in anything but a model or an error of ours."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / name).write_bytes(text)
        if with_weights:
            weights(folder / "model.safetensors", "a")
        with suppress(SourceError):
            assert read_folder(folder, shown="hf/x").components
