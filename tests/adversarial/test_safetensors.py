"""Hostile and broken files: each is refused by name, none crashes, hangs or makes us allocate what it claims."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import re
import socket
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open

from mergebuild import formats
from mergebuild.errors import Problem, SourceError
from mergebuild.formats import reading as reading_module
from mergebuild.formats.header import Header, read_header
from mergebuild.formats.layout import encode_header
from mergebuild.system.platform import pread_into


def framed(text: bytes | str, data: bytes = b"") -> bytes:
    """Return a file with that text as its header."""
    raw = text if isinstance(text, bytes) else text.encode()
    return len(raw).to_bytes(8, "little") + raw + data


def saying(document: object, data: bytes = b"") -> bytes:
    return framed(json.dumps(document), data)


def one(**changes: object) -> bytes:
    """Return a file with one float16 tensor of two elements, its entry changed."""
    return saying({"a": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]} | changes}, bytes(4))


def placed(*places: tuple[int, int], data: int) -> bytes:
    """Return a file with uint8 tensors at those places, and that many bytes of data."""
    entries = {
        f"t{number}": {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
        for number, (begin, end) in enumerate(places)
    }
    return saying(entries, bytes(data))


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    return file.getvalue()


ENTRY = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 4265380512\n"

CORPUS: dict[str, tuple[bytes, str]] = {
    # the file
    "nothing": (b"", "file-empty"),
    "one byte": (b"\0", "file-too-short"),
    "seven bytes": (b"\x02\0\0\0\0\0\0", "file-too-short"),
    "a length and nothing else": ((2).to_bytes(8, "little"), "header-truncated"),
    "a header cut short": (one()[:20], "header-truncated"),
    "a length one too large": ((3).to_bytes(8, "little") + b"{}", "header-truncated"),
    "a length just over the limit": ((100_000_001).to_bytes(8, "little") + b"{}", "header-too-large"),
    "a length of all ones": (b"\xff" * 8 + b"{}", "header-too-large"),
    "zeros": (bytes(64), "header-start"),
    "a header of no bytes": (bytes(8), "header-start"),
    "a header after a space": (framed(" {}"), "header-start"),
    "a byte order mark": (framed(b"\xef\xbb\xbf{}"), "header-start"),
    "a list as header": (framed("[]"), "header-start"),
    "a string as header": (framed('"{}"'), "header-start"),
    # other formats
    "a zip checkpoint": (zipped(), "header-too-large"),
    "a pickle": (pickle.dumps({"state_dict": {}}, protocol=2), "header-too-large"),
    "a tar checkpoint": (tarred(), "header-too-large"),
    "a GGUF": (b"GGUF\x03\0\0\0" + bytes(100), "not-in-this-version"),
    "a shard index": (b'{"metadata": {"total_size": 5}, "weight_map": {"a": "b"}}', "index-alone"),
    "a git-lfs pointer": (LFS, "git-lfs-pointer"),
    "a git-annex pointer": (b"/annex/objects/SHA256E-s9--0a.safetensors\n", "git-annex-pointer"),
    "what DVC keeps": (b"outs:\n- md5: 0a1b\n  size: 9\n  path: a.safetensors\n", "dvc-pointer"),
    "a web page": (b"<!DOCTYPE html>\n<html><head><title>Sign in</title>" + b"x" * 900, "not-a-model"),
    "a web page with a mark": (b"\xef\xbb\xbf\r\n <html lang='en'>" + "ü".encode(), "not-a-model"),
    "an XML error": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "not-a-model"),
    "a JSON error": (b'{"error":"Invalid credentials"}', "not-a-model"),
    "a line of text": (b"Access to this model is restricted.", "not-a-model"),
    # the text
    "broken UTF-8": (framed(b'{"\xff\xfe":1}'), "header-not-utf8"),
    "an encoded surrogate": (framed(b'{"\xed\xa0\x80":1}'), "header-not-utf8"),
    "half an object": (framed('{"a":'), "header-not-json"),
    "two objects": (framed("{}{}"), "header-not-json"),
    "a comma too many": (framed("{,}"), "header-not-json"),
    "padding of zeros": (framed(b"{}\0\0"), "header-not-json"),
    "a raw control character": (framed(b'{"a\n":1}'), "header-not-json"),
    "NaN": (framed('{"a":NaN}'), "header-not-json"),
    "-Infinity": (framed('{"a":-Infinity}'), "header-not-json"),
    "a number of 5000 digits": (framed(f'{{"a":{"1" * 5000}}}'), "header-not-json"),
    "lists without end": (framed('{"a":' + "[" * 200_000), "header-too-deep"),
    "objects without end": (framed('{"a":' * 200_000), "header-too-deep"),
    # names
    "a name twice": (framed(f'{{"a":{ENTRY},"b":{ENTRY},"a":{ENTRY}}}'), "duplicate-name"),
    "a name twice by escape": (framed(f'{{"a":{ENTRY},"\\u0061":{ENTRY}}}'), "duplicate-name"),
    "metadata twice": (framed('{"__metadata__":{},"__metadata__":{}}'), "duplicate-name"),
    "a key of an entry twice": (
        framed('{"a":{"dtype":"U8","dtype":"F16","shape":[0],"data_offsets":[0,0]}}'),
        "duplicate-name",
    ),
    "a metadata key twice": (framed('{"__metadata__":{"k":"1","k":"2"}}'), "duplicate-name"),
    "a NUL in a name": (framed(f'{{"a\\u0000":{ENTRY}}}'), "bad-tensor-name"),
    "an escape sequence in a name": (framed(f'{{"\\u001b[2J":{ENTRY}}}'), "bad-tensor-name"),
    "a C1 control in a name": (framed(f'{{"\\u009b2J":{ENTRY}}}'), "bad-tensor-name"),
    "half a character in a name": (framed(f'{{"\\ud800":{ENTRY}}}'), "bad-tensor-name"),
    # entries
    "a number as entry": (saying({"a": 1}), "bad-entry"),
    "null as entry": (saying({"a": None}), "bad-entry"),
    "a list as entry": (saying({"a": ["U8", [0], [0, 0]]}), "bad-entry"),
    "an empty entry": (saying({"a": {}}), "bad-entry"),
    "an entry without offsets": (saying({"a": {"dtype": "U8", "shape": [0]}}), "bad-entry"),
    "an entry with too much": (one(extra=1), "bad-entry"),
    "an unknown dtype": (one(dtype="F15"), "unknown-dtype"),
    "a dtype in words": (one(dtype="float16"), "unknown-dtype"),
    "a number as dtype": (one(dtype=16), "unknown-dtype"),
    "a list as dtype": (one(dtype=["F16"]), "unknown-dtype"),
    "an object as dtype": (one(dtype={}), "unknown-dtype"),
    "a dtype of packed elements": (one(dtype="F4", shape=[8]), "quantized-weights"),
    "a dtype of another machine": (one(dtype="F8_E4M3FNUZ", shape=[4]), "unsupported-dtype"),
    "a dtype of scales": (one(dtype="F8_E8M0", shape=[4]), "quantized-weights"),
    # shapes
    "a number as shape": (one(shape=2), "bad-shape"),
    "null as shape": (one(shape=None), "bad-shape"),
    "a fraction in a shape": (one(shape=[2.0]), "bad-shape"),
    "a string in a shape": (one(shape=["2"]), "bad-shape"),
    "true in a shape": (one(shape=[2, True]), "bad-shape"),
    "a list in a shape": (one(shape=[[2]]), "bad-shape"),
    "a deep list in a shape": (
        framed('{"a":{"dtype":"F16","shape":' + "[" * 300 + "]" * 300 + ',"data_offsets":[0,4]}}'),
        "bad-shape",
    ),
    "a negative size": (one(shape=[-2]), "bad-shape"),
    "two negative sizes": (one(shape=[-1, -2]), "bad-shape"),
    "65 dimensions": (one(shape=[1] * 64 + [2]), "bad-shape"),
    "a product that wraps to 2": (one(shape=[2**63 + 1, 2]), "shape-overflow"),
    "a product that wraps to 0": (one(shape=[2**32, 2**32], data_offsets=[0, 0]), "shape-overflow"),
    "a huge size beside a 0": (one(shape=[2**63, 2**63, 0], data_offsets=[0, 0]), "shape-overflow"),
    "a size of 4000 digits": (one(shape=[10**4000]), "shape-overflow"),
    # offsets
    "a number as offsets": (one(data_offsets=4), "bad-offsets"),
    "one offset": (one(data_offsets=[4]), "bad-offsets"),
    "three offsets": (one(data_offsets=[0, 4, 8]), "bad-offsets"),
    "fractions as offsets": (one(data_offsets=[0.0, 4.0]), "bad-offsets"),
    "booleans as offsets": (one(data_offsets=[False, 4]), "bad-offsets"),
    "an end before its begin": (one(data_offsets=[4, 0]), "bad-offsets"),
    "a negative begin": (one(data_offsets=[-4, 0]), "bad-offsets"),
    "an end beyond 64 bits": (one(data_offsets=[0, 2**64]), "bad-offsets"),
    "an end of 4000 digits": (one(data_offsets=[0, 10**4000]), "bad-offsets"),
    "bytes for fewer elements": (one(shape=[1]), "size-mismatch"),
    "bytes for more elements": (one(shape=[3]), "size-mismatch"),
    "bytes for an empty tensor": (one(shape=[2, 0]), "size-mismatch"),
    "no bytes for a scalar": (one(shape=[], data_offsets=[0, 0]), "size-mismatch"),
    # places
    "an overlap": (placed((0, 8), (4, 12), data=12), "tensors-overlap"),
    "the same bytes twice": (placed((0, 8), (0, 8), data=8), "tensors-overlap"),
    "an empty tensor within another": (placed((0, 8), (4, 4), data=8), "tensors-overlap"),
    "a hole": (placed((0, 8), (9, 12), data=12), "hole-in-data"),
    "a late start": (placed((1, 8), data=8), "data-start"),
    "data cut short": (placed((0, 8), (8, 1000), data=999), "data-truncated"),
    "no data": (placed((0, 8), data=0), "data-truncated"),
    "claimed terabytes": (one(shape=[2**40], data_offsets=[0, 2**41]), "data-truncated"),
    "a byte too many": (placed((0, 8), data=9), "trailing-bytes"),
    "data of nobody": (framed("{}", b"x"), "trailing-bytes"),
    # metadata
    "a list as metadata": (saying({"__metadata__": []}), "bad-metadata"),
    "a tensor as metadata": (saying({"__metadata__": json.loads(ENTRY)}), "bad-metadata"),
    "a number in metadata": (saying({"__metadata__": {"k": 1}}), "bad-metadata"),
    "null in metadata": (saying({"__metadata__": {"k": None}}), "bad-metadata"),
    "half a character in metadata": (framed('{"__metadata__":{"k":"\\udc00"}}'), "bad-metadata"),
}  # fmt: skip


def refused(path: Path) -> Problem:
    """Return why a file is refused."""
    with pytest.raises(SourceError) as caught:
        read_header(path, shown="models/x.safetensors")
    assert caught.value.exit_code == 4
    (problem,) = caught.value.problems
    return problem


def large(entry: str, count: int) -> str:
    return ",".join(f'"{number:x}":{entry}' for number in range(count))


LARGE: dict[str, tuple[str, str]] = {
    "tensors": (f"{{{large(ENTRY, 250_001)}}}", "header-too-large"),
    "empty lists": ('{"a":[' + "[]," * 2_000_000 + "[]]}", "header-too-large"),
    "entries of metadata": ('{"__metadata__":{' + large('"v"', 10_001) + "}}", "bad-metadata"),
    "signs of a name": ('{"' + "x" * 10_001 + f'":{ENTRY}}}', "bad-tensor-name"),
}


@pytest.mark.parametrize(("text", "code"), LARGE.values(), ids=LARGE.keys())
def test_a_header_has_no_more_than_a_model_can_have(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "x").write_bytes(framed(text))
    assert refused(tmp_path / "x").code == code


@pytest.mark.parametrize(("content", "code"), CORPUS.values(), ids=CORPUS.keys())
def test_a_broken_file_is_refused_by_name(tmp_path: Path, content: bytes, code: str) -> None:
    """With the file's name, one sentence that is safe to print, and a way out."""
    (tmp_path / "x").write_bytes(content)
    problem = refused(tmp_path / "x")
    assert problem.code == code
    assert problem.message.startswith("`models/x.safetensors` ")
    assert str(problem.where) == "models/x.safetensors"
    assert problem.help
    for text in (problem.message, problem.help, *problem.rows):
        assert text.isprintable()
        assert len(text) < 400
        text.encode()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("data cut short", "is cut short: 1 byte of 1,1"),
        ("a header cut short", "claims a header of 61 bytes, and only 12 follow"),
        ("an overlap", "`t1` begins 4 bytes before `t0` ends"),
        ("a hole", "has a hole of 1 byte before `t1`"),
        ("a byte too many", "has 1 byte after its last tensor"),
        ("bytes for more elements", "gives `a` 4 bytes, and float16 [3] takes 6"),
        ("an escape sequence in a name", "in the name `\\u001b[2J`"),
        ("an entry with too much", "describes `a` with `extra`, and only"),
        ("an entry without offsets", "describes `a` without `data_offsets`"),
    ],
)
def test_the_sentence_says_what_was_found(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "x").write_bytes(CORPUS[name][0])
    assert sentence in refused(tmp_path / "x").message


def test_a_failed_download_shows_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CORPUS["a line of text"][0])
    assert refused(tmp_path / "x").rows == ("it says: Access to this model is restricted.",)


def test_a_near_dtype_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(one(dtype="FP16"))
    assert "did you mean `F16`?" in refused(tmp_path / "x").help


def test_a_sound_file_is_never_taken_for_another_format(tmp_path: Path) -> None:
    """A header as long as the first bytes of a pickle say is a header."""
    raw = framed("{}".ljust(int.from_bytes(b"\x80\x04\x95\0\0\0\0\0", "little")))
    assert raw.startswith(b"\x80\x04\x95")
    (tmp_path / "x").write_bytes(raw)
    assert read_header(tmp_path / "x").tensors == {}


# What is no file, or can't be read


def no_file(path: Path) -> None:
    """Make nothing."""


def dangling_link(path: Path) -> None:
    path.symlink_to(path.with_name("gone"))


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def unix_socket(path: Path) -> None:
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(path.parent)  # a socket's address is short
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)


NO_FILES: dict[Callable[[Path], None], str] = {
    no_file: "file-missing",
    dangling_link: "file-missing",
    link_to_itself: "file-unreadable",
    Path.mkdir: "file-is-a-folder",
    pipe: "file-not-regular",
    device: "file-not-regular",
    unix_socket: "file-not-regular",
}


@pytest.mark.parametrize(("make", "code"), NO_FILES.items(), ids=lambda each: getattr(each, "__name__", each))
def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path, make: Callable[[Path], None], code: str) -> None:
    """A pipe that nobody writes to would hang a plain open for ever."""
    make(tmp_path / "x")
    assert refused(tmp_path / "x").code == code


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000])
def test_an_impossible_path_is_unreadable(tmp_path: Path, name: str) -> None:
    assert refused(tmp_path / name).code == "file-unreadable"


def test_a_path_through_a_file_is_missing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(one())
    assert refused(tmp_path / "x" / "y").code == "file-missing"


def test_missing_permission_is_told_from_a_broken_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(one())
    for number, way_out in ((errno.EACCES, "check its permissions"), (errno.EIO, "check the disk and the path")):

        def fail(path: Path, number: int = number) -> int:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(reading_module, "open_to_read", fail)
        problem = refused(tmp_path / "x")
        assert (problem.code, problem.help) == ("file-unreadable", way_out)
        assert os.strerror(number).lower() in problem.message


def test_a_disk_that_fails_while_reading_is_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "x").write_bytes(one())
    monkeypatch.setattr(reading_module, "pread_into", fail)
    assert refused(tmp_path / "x").code == "file-unreadable"


def test_the_path_stands_in_the_error_when_nothing_else_is_to_be_shown(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist") as caught:
        read_header(tmp_path / "none")
    assert str(caught.value.problems[0].where) == str(tmp_path / "none")


@pytest.mark.parametrize("size", [4, 5000])
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Shorter or longer: what was read may be of neither version."""
    (tmp_path / "x").write_bytes(one())

    def change(fd: int, view: memoryview | bytearray, offset: int) -> int:
        os.truncate(tmp_path / "x", size)
        return pread_into(fd, view, offset)

    monkeypatch.setattr(reading_module, "pread_into", change)
    assert refused(tmp_path / "x").code == "file-changed"


def test_every_error_of_the_reader_is_provoked_here() -> None:
    """A new rule needs a file that breaks it."""
    folder = Path(formats.__file__).parent
    text = "".join((folder / name).read_text(encoding="utf-8") for name in ("header.py", "foreign.py", "reading.py"))
    codes = set(re.findall(r'(?:BrokenRuleError|Foreign)\(\s*"([a-z0-9-]+)"', text))
    assert codes == {code for _, code in CORPUS.values()} | set(NO_FILES.values()) | {"file-changed"}
    assert len(CORPUS) > 100


# Fuzzing


SOUND = b"".join(
    (
        framed(
            '{"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2,3],"data_offsets":[0,12]},'
            '"b":{"dtype":"I64","shape":[],"data_offsets":[12,20]},"c":{"dtype":"BF16","shape":[0],"data_offsets":[20,20]}}'
        ),
        bytes(20),
    )
)
HEADER_END = len(SOUND) - 20
# Stock readers take these; here they are refused, as traps or as what no sound writer makes.
STRICTER = {
    "header-start", "duplicate-name", "bad-tensor-name", "unsupported-dtype", "quantized-weights", "bad-entry",
    "bad-shape", "shape-overflow",
}  # fmt: skip

EDITS = st.lists(
    st.tuples(st.integers(0, len(SOUND)), st.integers(0, 3), st.binary(max_size=3)),
    min_size=1,
    max_size=4,
)
WORDS = """{ } [ ] , : " 0 1 -1 12 20 true null 1e9 99999999999999999999 [0,0] [0,12] a b dtype shape data_offsets
    __metadata__ F16 F4 C64 \\u0000 \\ud800""".split()
TOKENS = st.sampled_from([*WORDS, " ", "\n"])
TEXT_EDITS = st.lists(st.tuples(st.integers(0, HEADER_END - 8), st.integers(0, 4), TOKENS), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "x"


def read_or_refuse(path: Path, content: bytes) -> Header | Problem:
    """Read a file as it may come from anyone; whatever is no refusal by name fails the test."""
    path.write_bytes(content)
    tracemalloc.start()
    try:
        return read_header(path)
    except SourceError as error:
        (problem,) = error.problems
        return problem
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2_000_000 + 100 * len(content)  # and whatever is imported for a refusal


def check_against_stock(path: Path, found: Header | Problem) -> None:
    """Whatever we take the stock reader takes, and says the same; and we refuse little that it takes."""
    try:
        with safe_open(path, framework="pt") as stock:
            shapes = {name: tuple(stock.get_slice(name).get_shape()) for name in stock.keys()}  # noqa: SIM118
            metadata = stock.metadata() or {}
    except SafetensorError:
        assert isinstance(found, Problem)
        return
    if isinstance(found, Problem):
        assert found.code in STRICTER
        return
    assert shapes == {name: info.shape for name, info in found.tensors.items()}
    assert metadata == found.metadata


@given(edits=EDITS)
@example(edits=[(0, 8, b"\xff\xff\xff\xff\x00\x00\x00\x00")])
@example(edits=[(0, 4, b"\x00\xe1\xf5\x05")])  # just 100,000,000
@settings(max_examples=400, deadline=None)
def test_random_bytes_never_crash_the_reader(fuzzed: Path, edits: list[tuple[int, int, bytes]]) -> None:
    content = SOUND
    for position, removed, added in edits:
        content = content[:position] + added + content[position + removed :]
    found = read_or_refuse(fuzzed, content)
    assume(b"-0" not in content)  # a number to us, none to stock readers; no writer makes it
    check_against_stock(fuzzed, found)


@given(edits=TEXT_EDITS)
@settings(max_examples=400, deadline=None)
def test_random_json_never_crashes_the_reader(fuzzed: Path, edits: list[tuple[int, int, str]]) -> None:
    """The length is set right, so that the fuzz reaches behind it."""
    text = SOUND[8:HEADER_END].decode()
    for position, removed, added in edits:
        text = text[:position] + added + text[position + removed :]
    found = read_or_refuse(fuzzed, framed(text, bytes(20)))
    assume("-0" not in text)
    check_against_stock(fuzzed, found)


@given(content=st.binary(max_size=300))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused(fuzzed: Path, content: bytes) -> None:
    check_against_stock(fuzzed, read_or_refuse(fuzzed, content))


@given(cut=st.integers(0, 4200))
@settings(max_examples=100, deadline=None)
def test_every_cut_of_a_sound_file_is_noticed(fuzzed: Path, cut: int) -> None:
    """A download that stopped anywhere: the missing bytes are told, or that there is no header yet."""
    raw, header = encode_header([("a", "float32", (25,)), ("b", "int8", (4,))], {"format": "pt"})
    content = raw + bytes(header.file_size - header.data_start)
    found = read_or_refuse(fuzzed, content[:cut])
    if cut >= len(content):
        assert found == header
    else:
        assert isinstance(found, Problem)
        expected = (
            "file-empty" if cut == 0
            else "file-too-short" if cut < 8
            else "header-truncated" if cut < header.data_start
            else "data-truncated"
        )  # fmt: skip
        assert found.code == expected


def test_a_sparse_file_with_the_largest_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """Claims that the file's size bears out cost nothing either, unless the header begins like one."""
    with (tmp_path / "x").open("wb") as file:
        file.write((100_000_000).to_bytes(8, "little"))
        file.truncate(200_000_000)
    tracemalloc.start()
    try:
        problem = refused(tmp_path / "x")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert problem.code == "header-start"
    assert peak < 1_000_000
