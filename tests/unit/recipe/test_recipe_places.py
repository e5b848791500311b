from __future__ import annotations

from pathlib import Path

import pytest
import tomli
from hypothesis import given
from hypothesis import strategies as st

from mergebuild.recipe.places import At, Document, Keys

TEXT = """\
# a comment with a = "b"
top = 1   # behind
[targets.orange]
a.b = { c = 3, "d.e" = 'x' }
'odd name' = [
  10,  # ten
  { deep = "y" }, [1, 2],
]
long = '''
[not.a.table]
x = 1'''
[[list]]
k = 1
[[list]]
k = "esc \\" ]"
[list.sub]
z = true
[targets."v4.5".alpha]
IN04 = -0.5
"""


@pytest.fixture
def document() -> Document:
    return Document(Path("/p/mergefile.toml"), "mergefile.toml", TEXT)


@pytest.mark.parametrize(
    ("path", "value", "key"),
    [
        (("top",), "2:7 1", "2:1 top"),
        (("targets", "orange", "a"), "4:1 a", "4:1 a"),
        (("targets", "orange", "a", "b"), "4:7 { c = 3, \"d.e\" = 'x' }", "4:3 b"),
        (("targets", "orange", "a", "b", "d.e"), "4:24 'x'", '4:16 "d.e"'),
        (("targets", "orange", "odd name", 0), "6:3 10", "6:3 10"),
        (("targets", "orange", "odd name", 1, "deep"), '7:12 "y"', "7:5 deep"),
        (("targets", "orange", "odd name", 2, 1), "7:23 2", "7:23 2"),
        (("targets", "orange", "long"), "9:8 '''", "9:1 long"),
        (("list", 0, "k"), "13:5 1", "13:1 k"),
        (("list", 1, "k"), '15:5 "esc \\" ]"', "15:1 k"),
        (("list", 1, "sub", "z"), "17:5 true", "17:1 z"),
        (("targets", "v4.5", "alpha", "IN04"), "19:8 -0.5", "19:1 IN04"),
        (("targets", "orange", "odd name", 1, "deep", "gone"), '7:12 "y"', '7:12 "y"'),
    ],
)
def test_everything_has_its_place(document: Document, path: Keys, value: str, key: str) -> None:
    def marked(*, key: bool) -> str:
        place = At(document, path).place(key=key)
        return f"{place.line}:{place.column} {place.text[place.column - 1 : place.column - 1 + place.length]}"

    assert (marked(key=False), marked(key=True)) == (value, key)


def test_a_table_with_a_header_is_a_line_and_its_name(document: Document) -> None:
    place = document.place(("targets", "orange"))
    assert (str(place), place.note, place.text) == ("mergefile.toml:3", "[targets.orange]", "")
    assert str(document.place(("targets", "orange"), key=True)) == "mergefile.toml:3:10"


def test_a_table_that_only_a_longer_key_names_is_implied(document: Document) -> None:
    assert document.is_implied(("targets",))
    assert not document.is_implied(("targets", "orange"))
    assert not document.is_implied(("targets", "orange", "a", "b"))


def test_what_stands_nowhere_is_in_the_file(document: Document) -> None:
    assert str(document.place(("nowhere",))) == "mergefile.toml"


def test_a_part_of_a_string_is_marked_inside_it() -> None:
    document = Document(Path("/p/m.toml"), "m.toml", 'f = "a*b"\ng = "a\\u002ab"\n')
    inside = At(document, ("f",)).inside("a*b", 2, 3)
    assert (str(inside), inside.length) == ("m.toml:1:8", 1)
    escaped = At(document, ("g",)).inside("a*b", 2, 3)
    assert (str(escaped), escaped.length) == ("m.toml:2:5", 10)


keys = st.text(st.sampled_from("ab1-_é. \"'\\#[]=\n"), min_size=1, max_size=4)
leaves = st.one_of(st.integers(), st.booleans(), keys)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)


def written(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{quoted(key)} = {written(below)}" for key, below in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ",\n # a ] comment\n ".join(written(below) for below in value) + "]"
    return str(value)


def quoted(text: str) -> str:
    if "'" not in text and "\n" not in text and len(text) % 2:
        return f"'{text}'"
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


@given(st.dictionaries(keys, st.dictionaries(keys, values, max_size=3), max_size=3))
def test_the_text_at_a_place_is_the_value(tables: dict[str, dict[str, object]]) -> None:
    """Whatever the text looks like: what stands at the place of a leaf, read alone, is that leaf."""
    text = "".join(
        f"[{quoted(name)}]  # [x]\n" + "".join(f"{quoted(key)} = {written(value)}\n" for key, value in table.items())
        for name, table in tables.items()
    )
    assert tomli.loads(text) == tables
    document = Document(Path("/p/m.toml"), "m.toml", text)

    def check(value: object, path: Keys) -> None:
        if isinstance(value, dict):
            for key, below in value.items():
                check(below, (*path, key))
        elif isinstance(value, list):
            for number, below in enumerate(value):
                check(below, (*path, number))
        else:
            place = document.place(path)
            found = place.text[place.column - 1 : place.column - 1 + place.length]
            assert tomli.loads(f"x = {found}")["x"] == value

    for name, table in tables.items():
        for key, value in table.items():
            check(value, (name, key))


@given(st.text(st.sampled_from("ab=[]{}\"'#.,\n \\1"), max_size=40))
def test_the_scan_of_any_text_ends(text: str) -> None:
    place = Document(Path("/p/m.toml"), "m.toml", text).place(("a", "b"))
    assert place.file == "m.toml"
