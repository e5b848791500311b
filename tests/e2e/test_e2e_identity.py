"""Same recipe, same inputs, same bytes: however a mixture was reached, and whatever it was computed with."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
from collections.abc import Mapping
from fractions import Fraction

import pytest
import safetensors
import safetensors.torch
import torch
from model_files import as_bytes, same_bits
from project_space import NewSpace, Space
from tiny_models import NAMES, block_names, sd15

import mergebuild
from mergebuild.build import options as build_module

pytestmark = pytest.mark.portable

FOUR = """
[sources]
a = "a.safetensors"
b = "b.safetensors"
c = "c.safetensors"
d = "d.safetensors"
"""

RICH = (
    FOUR
    + """
[vars]
m = 0.3

[targets.base]
method = "weighted_sum"
a = "a"
b = "b"
alpha = 0.45

[targets.file]
method = "add_difference"
a = "base"
b = "c"
c = "d"
output = "out/file.safetensors"
[targets.file.alpha]
default = "${m}"
IN00-IN05 = 0.5
attn = 0.7
text_encoder = 0

[targets.reader]
formula = "0.4*file + 0.35*a + 0.25*d"
dtype = "bfloat16"
output = "out/reader.safetensors"

[targets.wide]
formula = "a - 0.9*b + 0.3*c"
dtype = "float32"
output = "out/wide.safetensors"
"""
)
OUTPUTS = ("out/file.safetensors", "out/reader.safetensors", "out/wide.safetensors")


@pytest.fixture
def four(space: Space) -> Space:
    """A folder with four fine-tunes of one model."""
    for seed, name in enumerate("abcd", start=1):
        space.model(f"{name}.safetensors", sd15(seed))
    space.write(FOUR)
    return space


def outputs(space: Space) -> dict[str, bytes]:
    return {name: space.bytes(name) for name in OUTPUTS}


# The order of merging


def test_every_tenth_and_its_mirror_make_the_same_halves(four: Space) -> None:
    """x/(1-x) and (1-x)/x mixed half and half are all the artifact of 0.5/0.5, built once."""
    four.write(
        FOUR
        + """
[targets.direct]
method = "weighted_sum"
a = "a"
b = "b"
alpha = 0.5
output = "out/direct.safetensors"

[targets.part]
foreach.alpha = { from = 0.1, to = 0.9, step = 0.1 }
method = "weighted_sum"
a = "a"
b = "b"
alpha = "${alpha}"

[targets.halves]
foreach.alpha = { from = 0.1, to = 0.9, step = 0.1 }
method = "weighted_sum"
a = "part@alpha=${alpha}"
b = "part@alpha=${1 - alpha}"
alpha = 0.5
output = "out/halves-${alpha}.safetensors"
"""
    )

    built = four.build()

    assert len(built.verdicts) == 10
    assert list(built.verdicts.values()).count("built") == 1
    assert list(built.verdicts.values()).count("restored") == 9
    assert len({each["artifact"] for each in built.document["targets"]}) == 1
    assert len({path.read_bytes() for path in (four / "out").iterdir()}) == 1
    for tenth in range(1, 10):
        lineage = four.json("lineage", f"halves@alpha=0.{tenth}")
        assert lineage["proportions"] == {"a": "1/2", "b": "1/2"}
    assert set(four.build().verdicts.values()) == {"up-to-date"}


def test_four_models_mixed_pairwise_in_any_order_are_four_quarters(four: Space) -> None:
    """All three pairings, and a chain of 1/2, 1/3, 1/4, are the artifact of `(a+b+c+d)/4`."""
    text = FOUR + '[targets.quarters]\nformula = "(a + b + c + d)/4"\noutput = "quarters.safetensors"\n'
    for number, (first, second) in enumerate([("ab", "cd"), ("ca", "bd"), ("da", "cb")]):
        for side, names in (("left", first), ("right", second)):
            text += (
                f'[targets.{side}{number}]\nmethod = "weighted_sum"\na = "{names[0]}"\nb = "{names[1]}"\nalpha = 0.5\n'
            )
        text += (
            f'[targets.pairs{number}]\nmethod = "weighted_sum"\na = "left{number}"\nb = "right{number}"\nalpha = 0.5\n'
            f'output = "pairs{number}.safetensors"\n'
        )
    text += (
        '[targets.one]\nformula = "(a + b)/2"\n[targets.two]\nformula = "one*2/3 + c/3"\n'
        '[targets.chain]\nformula = "two*3/4 + d/4"\noutput = "chain.safetensors"\n'
    )
    four.write(text)

    built = four.build()

    assert len({each["artifact"] for each in built.document["targets"]}) == 1
    assert sorted(built.verdicts.values()) == ["built", "restored", "restored", "restored", "restored"]
    assert len({four.bytes(f"{name}.safetensors") for name in built.verdicts}) == 1
    for name in built.verdicts:
        assert four.json("lineage", name)["proportions"] == dict.fromkeys("abcd", "1/4")


def test_the_order_of_the_models_is_no_matter_to_their_values(four: Space) -> None:
    """All orders of a soup give the same floats; only integers are the first one's."""
    found = set()
    for order in itertools.permutations("abcd"):
        names = ", ".join(f'"{name}"' for name in order)
        weights = ", ".join(str({"a": 0.1, "b": 0.2, "c": 0.3, "d": 0.4}[name]) for name in order)
        four.write(
            FOUR + f'[targets.soup]\nmethod = "linear"\nmodels = [{names}]\nweight = [{weights}]\n'
            'output = "soup.safetensors"\n'
        )
        found.add(four.build()["soup"]["artifact"])
    assert len(found) == 1


def test_add_difference_of_a_model_with_itself_is_a_weighted_sum(four: Space) -> None:
    four.write(
        FOUR
        + """
[targets.difference]
method = "add_difference"
a = "a"
b = "b"
c = "a"
alpha = 0.3
output = "difference.safetensors"
[targets.sum]
method = "weighted_sum"
a = "a"
b = "b"
alpha = 0.3
output = "sum.safetensors"
"""
    )

    built = four.build()

    assert built["difference"]["artifact"] == built["sum"]["artifact"]


def test_sources_that_are_copies_of_each_other_are_one(four: Space) -> None:
    """Terms whose tensors have equal digests are added up, whatever their sources are called."""
    shutil.copyfile(four / "a.safetensors", four / "copy.safetensors")
    four.write(
        FOUR.replace("[sources]", '[sources]\nagain = "copy.safetensors"')
        + """
[targets.split]
formula = "0.2*a + 0.3*again + 0.5*b"
output = "split.safetensors"
[targets.whole]
formula = "0.5*a + 0.5*b"
output = "whole.safetensors"
"""
    )

    built = four.build()

    assert built["split"]["artifact"] == built["whole"]["artifact"]
    assert four.bytes("split.safetensors") == four.bytes("whole.safetensors")


def test_a_file_in_a_chain_is_another_artifact_than_a_virtual_one(four: Space) -> None:
    """A target with an output rounds; `lineage` sees through it and says where."""
    four.write(
        FOUR
        + """
[targets.half]
method = "weighted_sum"
a = "a"
b = "b"
alpha = 0.3
output = "half.safetensors"
[targets.through]
method = "weighted_sum"
a = "half"
b = "c"
alpha = 0.5
output = "through.safetensors"
[targets.exact]
formula = "0.35*a + 0.15*b + 0.5*c"
output = "exact.safetensors"
"""
    )

    built = four.build()

    assert built["through"]["artifact"] != built["exact"]["artifact"]
    lineage = four.json("lineage", "through")
    assert lineage == {
        "target": "through",
        "linear": True,
        "proportions": {"a": "7/20", "b": "3/20", "c": "1/2"},
        "by_block": {},
        "rounded_at": ["half"],
    }


def test_lineage_is_by_block_where_blocks_differ(four: Space) -> None:
    four.write(
        FOUR
        + """
[targets.mix]
method = "weighted_sum"
a = "a"
b = "b"
alpha = { default = 0.5, IN04 = 0.3, VAE = 0 }
output = "mix.safetensors"
"""
    )

    lineage = four.json("lineage", "mix")

    assert set(lineage) == {"target", "linear", "proportions", "by_block", "rounded_at"}
    assert lineage["proportions"] is None
    assert lineage["by_block"]["IN04"] == {"a": "7/10", "b": "3/10"}
    assert lineage["by_block"]["M00"] == {"a": "1/2", "b": "1/2"}
    assert lineage["by_block"]["VAE"] == {"a": "1"}
    assert lineage["by_block"]["BASE"] == {"a": "1/2", "b": "1/2"}


def test_thirds_are_exact(four: Space) -> None:
    four.write(FOUR + '[targets.third]\nformula = "(a + b + c)/3"\noutput = "third.safetensors"\n')

    assert four.json("lineage", "third")["proportions"] == dict.fromkeys("abc", "1/3")


# The same bytes


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, bytes]:
    """What a plain build of `RICH` writes."""
    space = Space(tmp_path_factory.mktemp("expected"), {})
    _fill(space)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MERGEBUILD_STORE", raising=False)
        space.build()
    return outputs(space)


def _fill(space: Space) -> None:
    for seed, name in enumerate("abcd", start=1):
        space.model(f"{name}.safetensors", sd15(seed))
    space.write(RICH)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_gives_the_same_bytes(space: Space, expected: Mapping[str, bytes], threads: int) -> None:
    _fill(space)

    space.build("-j", str(threads))

    assert outputs(space) == expected


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000, 1 << 22])
def test_any_chunk_size_gives_the_same_bytes(
    space: Space, expected: Mapping[str, bytes], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chunks of a single element too, and of more than a tensor has."""
    _fill(space)
    if chunk < 64:  # a few tensors are enough where every element is a chunk
        for seed, name in enumerate("abcd", start=1):
            space.model(f"{name}.safetensors", sd15(seed, names=NAMES[:9]))
        space.write(RICH.replace("IN00-IN05 = 0.5\n", ""))
        space.build()
        wanted: Mapping[str, bytes] = outputs(space)
        shutil.rmtree(space / "out")
        shutil.rmtree(space / ".mergebuild")
    else:
        wanted = expected
    options = build_module.BuilderOptions
    monkeypatch.setattr(
        "mergebuild.build.options.BuilderOptions", lambda *args, **kwargs: options(*args, **{**kwargs, "chunk": chunk})
    )

    space.build()

    assert outputs(space) == wanted


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_any_processor_gives_the_same_bytes(space: Space, expected: Mapping[str, bytes], capability: str) -> None:
    _fill(space)

    space.process("build", env={"ATEN_CPU_CAPABILITY": capability})

    assert outputs(space) == expected


def test_a_build_that_reused_tensors_gives_the_same_bytes(space: Space, expected: Mapping[str, bytes]) -> None:
    """Built with other numbers first, changed piece by piece, with outputs deleted in between."""
    _fill(space)
    space.edit("attn = 0.7", "attn = 0.1")
    space.edit("m = 0.3", "m = 0.9")
    space.build()
    space.edit("attn = 0.1", "attn = 0.7")
    (space / "out/reader.safetensors").unlink()
    space.build("reader")
    space.edit("m = 0.9", "m = 0.3")

    built = space.build()

    assert 0 < built["file"]["tensors_computed"] < len(NAMES) / 2
    assert outputs(space) == expected


def test_one_by_one_gives_the_same_bytes(space: Space, expected: Mapping[str, bytes]) -> None:
    _fill(space)

    for target in ("wide", "reader", "file"):
        space.build(target)

    assert outputs(space) == expected


def test_names_and_places_are_in_no_byte(space: Space, expected: Mapping[str, bytes]) -> None:
    """Other names for sources and targets, other paths, another order of tables: the same files."""
    for seed, name in enumerate("abcd", start=1):
        space.model(f"deep/er/model {name}.safetensors", sd15(seed))
    text = """
[targets.z]
formula = "four/4 + 0.35*one + 0.4*y"
dtype = "bfloat16"
output = "out/reader.safetensors"
[targets.wide]
formula = "0.3*three - 0.9*two + one"
dtype = "float32"
output = "out/wide.safetensors"
[targets.y]
c = "four"
b = "three"
a = "x"
method = "add_difference"
output = "out/file.safetensors"
alpha = { default = 0.3, IN00-IN05 = 0.5, attn = 0.7, text_encoder = 0 }
[targets.x]
formula = "0.55*one + 0.45*two"
[sources]
four = "deep/er/model d.safetensors"
three = "deep/er/model c.safetensors"
two = "deep/er/model b.safetensors"
one = "deep/er/model a.safetensors"
"""
    # `first input` decides on integers and dtype, so the first name of each formula is of the same dtypes
    space.write(text)

    space.build()

    assert outputs(space) == expected


def test_verify_rebuild_agrees(space: Space) -> None:
    """Also after a build that reused, and leaves nothing behind."""
    _fill(space)
    space.build()
    space.edit("attn = 0.7", "attn = 0.6")
    space.build()
    before = space.tree()

    verified = space.json("verify", "--rebuild")

    assert verified["ok"] is True
    assert set(verified["checked"]) >= set(OUTPUTS)
    assert space.tree() == before
    assert not list((space / ".mergebuild").glob(".verify-*"))


def test_verify_finds_a_flipped_bit(space: Space) -> None:
    """Corruption is exit 5, names the file and the tensor, and repairs nothing on its own."""
    _fill(space)
    space.build()
    path = space / "out/file.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    with path.open("r+b") as file:
        file.write(raw)

    outcome = space.run("verify", "--json", code=5)

    assert outcome.errors == ["corrupt"]
    assert "file.safetensors" in outcome.err


def test_verify_rebuild_differs_when_a_result_is_not_what_sources_give(space: Space) -> None:
    """A target whose recipe changed since is not what a rebuild gives: exit 6, not 0."""
    _fill(space)
    space.build()
    space.edit("attn = 0.7", "attn = 0.6")

    outcome = space.run("verify", "--rebuild", "--json", code=6)

    assert "file" in str(outcome.json["errors"])


# The Python API


def test_the_python_api_gives_the_same_bytes(space: Space, expected: Mapping[str, bytes]) -> None:
    _fill(space)

    project = mergebuild.load(space / "mergefile.toml")
    planned = project.plan()
    result = project.build()

    assert [each.target for each in planned.targets] == [each.target for each in result.targets]
    assert result.ok
    assert outputs(space) == expected
    assert project.lineage("base").proportions == {"a": "11/20", "b": "9/20"}


# Readers


def test_stock_readers_load_what_we_write(four: Space) -> None:
    """`safe_open` and `load_file` give every tensor with its values, in every dtype that we write."""
    four.write(
        FOUR
        + """
[targets.as]
foreach.dtype = ["float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
formula = "0.7*a + 0.3*b"
dtype = "${dtype}"
output = "as-${dtype}.safetensors"
[targets.full]
formula = "0.7*a + 0.3*b"
metadata = "full"
output = "full.safetensors"
[targets.none]
formula = "0.7*a + 0.3*b"
metadata = "none"
output = "none.safetensors"
"""
    )
    four.build()

    for path in [*sorted(four.root.glob("as-*.safetensors")), four / "full.safetensors", four / "none.safetensors"]:
        ours = four.read(path.name)
        theirs = safetensors.torch.load_file(path)
        assert theirs.keys() == ours.keys() == sd15(1).keys()
        for name, tensor in theirs.items():
            assert tensor.dtype == ours[name].dtype
            assert as_bytes(tensor) == as_bytes(ours[name])
        with safetensors.safe_open(path, framework="pt") as opened:
            assert opened.metadata()["format"] == "pt"
            assert sorted(opened.keys()) == sorted(ours)
            assert same_bits(opened.get_tensor(NAMES[0]), ours[NAMES[0]])


def test_outputs_are_laid_out_for_sharing(four: Space) -> None:
    """Data start on a page; tensors of whole pages come first, by name; nothing lies between."""
    four.write(FOUR + '[targets.mix]\nformula = "a/2 + b/2"\noutput = "mix.safetensors"\n')
    four.build()

    from mergebuild.formats.header import read_header

    header = read_header(four / "mix.safetensors")
    assert header.data_start % 4096 == 0
    tensors = list(header.tensors.values())
    pages = [each for each in tensors if each.nbytes % 4096 == 0]
    assert pages
    assert tensors[: len(pages)] == sorted(pages, key=lambda each: each.name)
    assert all(before.end == after.begin for before, after in itertools.pairwise(tensors))


def test_full_metadata_names_the_sources_by_sha256(four: Space) -> None:
    """As WebUIs read it: `sd_merge_recipe` and `sd_merge_models`; no paths, no times."""
    import hashlib
    import json

    four.write(FOUR + '[targets.mix]\nformula = "a/2 + b/2"\nmetadata = "full"\noutput = "mix.safetensors"\n')
    four.build()

    metadata = four.json("inspect", "mix")["metadata"]

    models = json.loads(metadata["sd_merge_models"])
    assert set(models) == {hashlib.sha256(four.bytes(f"{name}.safetensors")).hexdigest() for name in "ab"}
    assert "sd_merge_recipe" in metadata
    assert str(four.root) not in str(metadata)


def test_names_paths_and_order_change_no_byte_of_a_file(four: Space, new_space: NewSpace) -> None:
    """Nor do copies, touched files, other targets in between: minimal metadata names inputs by their content."""
    four.write(FOUR + '[targets.mix]\nformula = "a/2 + b/4 + c/4"\noutput = "mix.safetensors"\n')
    four.build()
    other = new_space("elsewhere")
    for name, new in (("a", "one"), ("b", "deep/two"), ("c", "three")):
        (other / f"{new}.safetensors").parent.mkdir(exist_ok=True)
        (other / f"{new}.safetensors").write_bytes(four.bytes(f"{name}.safetensors"))
        (other / f"{new}.safetensors").touch()
    other.write(
        """
        [targets.result]
        formula = "half/2 + first/2"
        output = "out/result.safetensors"
        [targets.half]
        formula = "third/2 + second/2"
        [targets.first]
        formula = "one"
        [sources]
        third = "three.safetensors"
        second = "deep/two.safetensors"
        one = "one.safetensors"
        """
    )

    other.build()

    assert other.bytes("out/result.safetensors") == four.bytes("mix.safetensors")


def test_sources_that_differ_in_unused_tensors_differ_in_the_header_only(four: Space) -> None:
    """One artifact, the same data, another file name by content in `__metadata__`: restored, nothing computed."""
    from mergebuild.formats.header import read_header

    four.model("extended.safetensors", sd15(2) | {"lora.extra": torch.zeros(4)})
    four.write(
        FOUR.replace("[sources]", '[sources]\nextended = "extended.safetensors"')
        + """
[targets.plain]
formula = "a/2 + b/2"
output = "plain.safetensors"
[targets.other]
formula = "a/2 + extended/2"
output = "other.safetensors"
"""
    )

    built = four.build()

    assert built.verdicts == {"plain": "built", "other": "restored"}
    assert built["plain"]["artifact"] == built["other"]["artifact"]
    assert built["other"]["tensors_computed"] == 0
    plain, other = (read_header(four / f"{name}.safetensors") for name in ("plain", "other"))
    assert plain.metadata != other.metadata
    assert plain.tensors == other.tensors
    assert four.bytes("plain.safetensors")[plain.data_start :] == four.bytes("other.safetensors")[other.data_start :]


def test_coefficients_are_rounded_once(four: Space) -> None:
    """Exact rationals, each rounded to float32 once: the pivot form with separate float32 steps, to the bit."""
    four.write(
        FOUR
        + """
[targets.sum]
formula = "0.148*a + 0.852*b"
dtype = "float32"
output = "sum.safetensors"
[targets.plain]
formula = "0.3*a - 0.7*b"
dtype = "float32"
output = "plain.safetensors"
"""
    )
    four.build()
    a, b = sd15(1), sd15(2)
    pivoted, plain = four.read("sum.safetensors"), four.read("plain.safetensors")

    def single(number: str) -> torch.Tensor:
        return torch.tensor(float(Fraction(number)), dtype=torch.float32)

    for name in block_names("IN04"):
        x, p = a[name].float(), b[name].float()
        assert same_bits(pivoted[name], p + (x - p) * single("0.148")), name
        sums = (x * single("0.3") + p * single("-0.7"), p * single("-0.7") + x * single("0.3"))
        assert any(same_bits(plain[name], each) for each in sums), name


@pytest.mark.parametrize("umask", [0o022, 0o077], ids=oct)
def test_outputs_take_the_umask_and_lie_alone(four: Space, umask: int) -> None:
    """A published file has the permissions of any new file, and nothing is left beside it."""
    four.write(FOUR + '[targets.mix]\nformula = "a/2 + b/2"\noutput = "out/mix.safetensors"\n')
    before = os.umask(umask)
    try:
        four.build()
    finally:
        os.umask(before)

    (output,) = (four / "out").iterdir()
    assert output.name == "mix.safetensors"
    assert stat.S_IMODE(output.stat().st_mode) == 0o666 & ~umask


def test_a_second_machine_gets_the_same_bytes(space: Space, new_space: NewSpace, expected: Mapping[str, bytes]) -> None:
    """Another folder, another store, another process."""
    elsewhere = new_space("a folder with spaces and ünïcode")
    _fill(elsewhere)

    elsewhere.process("build", env={"PYTHONHASHSEED": "77"})

    assert outputs(elsewhere) == expected
