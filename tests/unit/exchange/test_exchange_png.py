"""The texts of PNGs: what programs write is read, what lies or bursts is left out or refused."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.exchange.png import SIGNATURE, PngError, texts


def chunk(kind: bytes, body: bytes, *, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return struct.pack(">I", size) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: bytes, end: bytes = chunk(b"IEND", b"")) -> io.BytesIO:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return io.BytesIO(SIGNATURE + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(b"\0\0")) + end)


def international(text: str, *, packed: bool = False) -> bytes:
    raw = text.encode()
    return b"prompt\0" + bytes([packed, 0]) + b"en\0translated\0" + (zlib.compress(raw) if packed else raw)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"tEXt", 'prompt\0{"1": "ü"}'.encode("latin-1")),
        (b"tEXt", 'prompt\0{"1": "ü"}'.encode()),
        (b"zTXt", b"prompt\0\0" + zlib.compress('{"1": "ü"}'.encode("latin-1"))),
        (b"iTXt", international('{"1": "ü"}')),
        (b"iTXt", international('{"1": "ü"}', packed=True)),
    ],
)
def test_a_text_of_each_kind_is_read(kind: bytes, body: bytes) -> None:
    assert texts(png(chunk(kind, body))) == {"prompt": '{"1": "ü"}'}


def test_several_texts_are_read_and_of_one_keyword_the_last() -> None:
    chunks = [chunk(b"tEXt", b"prompt\0old"), chunk(b"tEXt", b"workflow\0w"), chunk(b"tEXt", b"prompt\0new")]
    assert texts(png(*chunks)) == {"prompt": "new", "workflow": "w"}


def test_a_wrong_checksum_does_not_matter() -> None:
    body = b"prompt\0{}"
    assert texts(png(struct.pack(">I", len(body)) + b"tEXt" + body + b"\0\0\0\0")) == {"prompt": "{}"}


def test_texts_behind_the_end_do_not_count() -> None:
    assert texts(png(end=chunk(b"IEND", b"") + chunk(b"tEXt", b"prompt\0{}"))) == {}


def test_a_picture_that_ends_early_has_the_texts_before() -> None:
    assert texts(png(chunk(b"tEXt", b"prompt\0{}"), end=b"\0\0")) == {"prompt": "{}"}


@pytest.mark.parametrize(
    "broken",
    [
        chunk(b"tEXt", b"no separator"),
        chunk(b"tEXt", b"\0no keyword"),
        chunk(b"tEXt", b"k" * 80 + b"\0long keyword"),
        chunk(b"zTXt", b"prompt\0\0no zlib"),
        chunk(b"zTXt", b"prompt\0\0" + zlib.compress(b"cut")[:-5]),
        chunk(b"zTXt", b"prompt\0"),
        chunk(b"iTXt", b"prompt\0\0\0no more"),
        chunk(b"iTXt", b"prompt\0"),
    ],
)
def test_a_damaged_text_is_left_out_and_the_next_is_read(broken: bytes) -> None:
    assert texts(png(broken, chunk(b"tEXt", b"workflow\0w"))) == {"workflow": "w"}


def test_a_length_that_lies_ends_the_reading() -> None:
    lie = chunk(b"tEXt", b"prompt\0{}", length=0xFFFFFFFF)
    assert texts(png(chunk(b"tEXt", b"workflow\0w"), lie)) == {"workflow": "w"}


def test_a_file_that_is_no_png_is_refused() -> None:
    with pytest.raises(PngError, match=r"^it is no PNG$"):
        texts(io.BytesIO(b"GIF89a"))


def test_a_bomb_is_refused_having_unpacked_no_more_than_the_limit() -> None:
    """A thousandth of what it unpacks to is in the file."""
    bomb = chunk(b"zTXt", b"prompt\0\0" + zlib.compress(bytes(50_000_000), 9))
    with pytest.raises(PngError, match=r"^its texts have more than 10,000,000 bytes$"):
        texts(png(bomb))


@pytest.mark.parametrize("count", [2, 3])
def test_the_limit_is_of_all_texts_together(count: int) -> None:
    chunks = [chunk(b"tEXt", b"k%d\0" % number + b"x" * 40) for number in range(count)]
    if count == 2:
        assert len(texts(png(*chunks), most=100)) == 2
    else:
        with pytest.raises(PngError, match=r"^its texts have more than 100 bytes$"):
            texts(png(*chunks), most=100)


def test_a_text_chunk_of_gigabytes_is_not_read_whole() -> None:
    stream = png(chunk(b"tEXt", b"prompt\0" + b"x" * 5_000))
    with pytest.raises(PngError, match="more than 100 bytes"):
        texts(stream, most=100)
    assert stream.tell() < 2_000


def test_too_many_chunks_are_refused() -> None:
    with pytest.raises(PngError, match=r"^it has more than 100,000 chunks$"):
        texts(png(chunk(b"abCd", b"") * 100_001))


@given(st.binary(max_size=400))
def test_any_bytes_give_texts_or_a_problem(data: bytes) -> None:
    try:
        found = texts(io.BytesIO(SIGNATURE + data), most=200)
    except PngError:
        return
    assert sum(map(len, found.values())) <= 200


@given(st.lists(st.tuples(st.sampled_from([b"tEXt", b"zTXt", b"iTXt"]), st.binary(max_size=60)), max_size=5))
def test_any_chunks_give_texts_or_a_problem(chunks: list[tuple[bytes, bytes]]) -> None:
    try:
        found = texts(png(*(chunk(kind, body) for kind, body in chunks)), most=100)
    except PngError:
        return
    assert sum(map(len, found.values())) <= 100
