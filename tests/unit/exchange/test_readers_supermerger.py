"""supermerger: its history and its metadata, by place, with block weights, elemental rules, limits, and `Adjust`."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import pytest
import tomli
import torch
from model_files import write_model
from recipe_lab import RecipeLab, sd15_block, sdxl_block
from torch import Tensor

from mergebuild.errors import RecipeError
from mergebuild.exchange.draft import Draft
from mergebuild.exchange.merges.blocks import LONG, SHORT
from mergebuild.exchange.readers import model_metadata, supermerger_history
from mergebuild.exchange.readers.supermerger_history import fields_of
from mergebuild.exchange.recipe_file import RecipeFile
from mergebuild.exchange.written import text_of

HEADER = (
    "ID,time,name,weights alpha,weights beta,A,B,C,alpha,beta,mode,use MBW,plus lora,custom name,save setting,use ID\n"
)
WEIGHT, ADD = "Weight sum:A*(1-alpha)+B*alpha", "Add difference:A+(B-C)*alpha"
TRIPLE = "Triple sum:A*(1-alpha-beta)+B*alpha+C*beta"
TWICE = "sum Twice:(A*(1-alpha)+B*alpha)*(1-beta)+C*beta"
A, B, C = "a" * 10, "b" * 10, "c" * 10


def row(**said: object) -> list[str]:
    """Return the fields of a row, in their places."""
    plain: dict[str, object] = {
        "id": 1,
        "time": "2024.05.01 10.11.12.345",
        "name": "x",
        "wa": "",
        "wb": "",
        "a": A,
        "b": B,
        "c": "",
        "alpha": 0.5,
        "beta": 0.25,
        "mode": WEIGHT,
        "mbw": False,
        "custom": "mix",
        "save": "['overwrite', 'safetensors']",
        "ids": "[]",
        "elemental": "",
        "calcmode": "normal",
        "seed": -1,
        "adjust": "",
        "option": 0.3,
        "limits": "Off",
        "blocks": "[]",
        "elements": "",
    }
    return [str(each) for each in (plain | said).values()]


def history(*rows: Sequence[str]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return HEADER + out.getvalue()


def drafted(*rows: Sequence[str]) -> tuple[Mapping[str, Mapping[str, object]], Draft]:
    file = RecipeFile(Path("mergehistory.csv"), history(*rows).encode())
    assert supermerger_history.recognizes(file)
    draft = Draft()
    supermerger_history.read(file, draft)
    return tomli.loads(text_of(draft), parse_float=Decimal).get("targets", {}), draft


def lost(draft: Draft) -> list[str]:
    return [each.message for each in draft.unmapped]


def told(draft: Draft) -> list[str]:
    return [each.message for each in draft.notices]


@pytest.fixture
def lab(tmp_path: Path) -> RecipeLab:
    lab = RecipeLab(tmp_path)
    for seed, name in enumerate("abc", 1):
        lab.model(name, seed)
    return lab


def autov2(lab: RecipeLab, name: str) -> str:
    return hashlib.sha256((lab.root / f"{name}.safetensors").read_bytes()).hexdigest()[:10]


def built(lab: RecipeLab, **said: object) -> Path:
    """Build a row of the history of three models, and return the result."""
    hashes = {name: autov2(lab, name) for name in "abc"}
    lab.take(history(row(**hashes | said)), "mergehistory.csv")
    (path,) = lab.build().values()
    return path


LIST = [Decimal(number) / 100 for number in range(10, 62, 2)]
"""26 block weights, all of them different."""
TEXT = ",".join(map(str, LIST))


def weight(block_of: Callable[[str], str], numbers: Sequence[Decimal], blocks: Sequence[str]) -> Callable[[str], float]:
    table = dict(zip(blocks, map(float, numbers), strict=True))
    return lambda name: table[block_of(name)]


def test_a_weighted_sum_by_blocks_has_the_vae_with_base(lab: RecipeLab) -> None:
    path = built(lab, mbw=True, wa=TEXT)
    number = weight(sd15_block, LIST, LONG)
    lab.assert_made(path, lambda name, of: (1 - number(name)) * of["a"] + number(name) * of["b"])


def test_elemental_rules_apply_in_order_with_the_vae_in_base(lab: RecipeLab) -> None:
    rules = "cosineA,BASE:conv:0.9,OUT03-OUT05:attn2:0.8\nNOT IN01 BASE:norm:0.7,OUT04::0.6,IN02:proj"
    path = built(lab, mbw=True, wa=TEXT, elemental=rules)
    plain = weight(sd15_block, LIST, LONG)

    def number(name: str) -> float:
        block, found = sd15_block(name), plain(name)
        if block == "BASE" and "conv" in name:
            found = 0.9
        if block in ("OUT03", "OUT04", "OUT05") and "attn2" in name:
            found = 0.8
        if block not in ("IN01", "BASE") and "norm" in name:
            found = 0.7
        return 0.6 if block == "OUT04" else found

    assert lab.made is not None
    assert [each.message for each in lab.made.notices if "two colons" in each.message]
    lab.assert_made(path, lambda name, of: (1 - number(name)) * of["a"] + number(name) * of["b"])


@pytest.mark.parametrize(
    ("mode", "formula"),
    [
        (ADD, lambda a, b, c: a + 0.5 * (b - c)),
        (TRIPLE, lambda a, b, c: 0.25 * a + 0.5 * b + 0.25 * c),
        (TWICE, lambda a, b, c: 0.75 * (0.5 * a + 0.5 * b) + 0.25 * c),
    ],
)
def test_modes_are_their_formulas(lab: RecipeLab, mode: str, formula: Callable[..., Tensor]) -> None:
    path = built(lab, mode=mode)
    lab.assert_made(path, lambda _, of: formula(of["a"], of["b"], of["c"]))


def test_self_leaves_tensors_whose_factor_is_0_and_projections_and_norms(lab: RecipeLab) -> None:
    numbers = [Decimal(0), *LIST[1:]]
    path = built(lab, calcmode="self", mbw=True, wa=",".join(map(str, numbers)))
    number = weight(sd15_block, numbers, LONG)

    def formula(name: str, of: Mapping[str, Tensor]) -> Tensor:
        stays = any(word in name for word in ("to_out", "proj_out", "norm")) or not number(name)
        return of["a"] * (1 if stays else number(name))

    lab.assert_made(path, formula)


def test_train_difference_is_its_formula(lab: RecipeLab) -> None:
    path = built(lab, calcmode="trainDifference", mode=WEIGHT)

    def formula(_: str, of: Mapping[str, Tensor]) -> Tensor:
        a, b, c = of["a"], of["b"], of["c"]
        near, far = (b - a).abs(), (b - c).abs()
        scale = torch.nan_to_num(near / (near + far))
        return a + 1.8 * 0.5 * scale * (b - c)

    lab.assert_made(path, formula, tolerance=1e-5)


def test_tensor_takes_rows_of_b_from_beta_on(lab: RecipeLab) -> None:
    path = built(lab, calcmode="tensor", alpha=0.5, beta=0.25)

    def formula(_: str, of: Mapping[str, Tensor]) -> Tensor:
        made = of["a"].clone()
        count = len(made)
        made[int(count * 0.25) : int(count * 0.75)] = of["b"][int(count * 0.25) : int(count * 0.75)]
        return made

    lab.assert_made(path, formula, tolerance=1e-7)


def test_only_what_is_included_is_merged(lab: RecipeLab) -> None:
    path = built(lab, limits="Include", blocks="['IN01', 'BASE', 'print']", elements="attn2", alpha=0.4)
    lab.assert_made(
        path,
        lambda name, of: (
            0.6 * of["a"] + 0.4 * of["b"] if sd15_block(name) in ("IN01", "BASE") or "attn2" in name else of["a"]
        ),
    )


@pytest.mark.parametrize("calcmode", ["normal", "trainDifference", "self", "extract"])
def test_what_is_excluded_stays(lab: RecipeLab, calcmode: str) -> None:
    path = built(lab, limits="Exclude", blocks="['OUT02', 'VAE', 'Adjust']", calcmode=calcmode, alpha=0.4)
    found = lab.read(path)
    for name, tensor in found.items():
        fixed = ("input_blocks.0.0.", "diffusion_model.out.0.", "diffusion_model.out.2.")
        if sd15_block(name) == "OUT02" or name.startswith("first_stage") or any(each in name for each in fixed):
            assert torch.equal(tensor, lab.models["a"][name]), name
        elif "conv" in name or "to_k" in name:
            assert not torch.equal(tensor, lab.models["a"][name]), name


def test_adjust_is_a_target_behind_the_merge() -> None:
    targets, _ = drafted(row(adjust="0,0,x,0.5,,0,0", save="['safetensors', 'fp16']"))
    assert "output" not in targets["mix-merged"]
    assert targets["mix"] == {
        "method": "adjust",
        "a": "mix-merged",
        "cont": Decimal("0.5"),
        "output": "mix.safetensors",
        "dtype": "float16",
    }
    assert list(drafted(row(adjust="0,0,0"))[0]) == ["mix"]
    assert list(drafted(row(adjust="3"))[0]) == ["mix"]


def test_26_weights_of_sdxl_are_converted_once_the_model_is_known(tmp_path: Path) -> None:
    lab = RecipeLab(tmp_path)
    for seed, name in enumerate("abc", 1):
        lab.model(name, seed, "sdxl")
    path = built(lab, mbw=True, wa=TEXT)
    numbers = [LIST[0], *LIST[1:10], *LIST[13:23]]
    number = weight(sdxl_block, numbers, SHORT)
    lab.assert_made(path, lambda name, of: (1 - number(name)) * of["a"] + number(name) * of["b"])


@pytest.mark.parametrize("calcmode", ["normal", "extract"])
def test_tensors_of_sdxl_without_weight_or_bias_in_their_names_stay(tmp_path: Path, calcmode: str) -> None:
    lab = RecipeLab(tmp_path)
    name = "conditioner.embedders.1.model.text_projection"
    for seed, letter in enumerate("abc", 1):
        lab.model(letter, seed, "sdxl")
        lab.models[letter][name] = torch.randn(8, 8, generator=torch.Generator().manual_seed(seed))
        write_model(tmp_path / f"{letter}.safetensors", lab.models[letter])
    found = lab.read(built(lab, alpha=0.4, calcmode=calcmode))
    assert torch.equal(found[name], lab.models["a"][name])
    assert not torch.equal(found[other := name.replace("text_projection", "ln_final.weight")], lab.models["a"][other])


def test_blocks_of_elemental_rules_of_sdxl_are_found_by_place(tmp_path: Path) -> None:
    """`IN09` is M00 there, `IN10` OUT00; `M00` would be OUT02 and `OUT03` OUT06."""
    lab = RecipeLab(tmp_path)
    for seed, name in enumerate("abc", 1):
        lab.model(name, seed, "sdxl")
    path = built(lab, elemental="IN09:attn2:0.9,IN10:attn2:0.8,IN04:attn2:0.7,OUT11:attn2:0.1", alpha=0.2)
    numbers = {"M00": 0.9, "OUT00": 0.8, "IN04": 0.7}

    def formula(name: str, of: Mapping[str, Tensor]) -> Tensor:
        number = numbers.get(sdxl_block(name), 0.2) if "attn2" in name else 0.2
        return (1 - number) * of["a"] + number * of["b"]

    lab.assert_made(path, formula)


def test_blocks_behind_in08_of_a_model_that_is_not_there_are_told(tmp_path: Path) -> None:
    lab = RecipeLab(tmp_path)
    made = lab.take(history(row(elemental="M00:attn2:0.9")), "mergehistory.csv")
    assert [each.message[:37] for each in made.unmapped] == ["elemental rules with blocks behind IN"]
    assert lab.take(history(row(elemental="IN03:attn2:0.9")), "mergehistory.csv").unmapped == ()


def test_keys_that_reach_nothing_are_left_out_where_the_model_is_there(tmp_path: Path) -> None:
    lab = RecipeLab(tmp_path)
    for seed, name in enumerate("abc", 1):
        lab.model(name, seed)
        for key in [key for key in lab.models[name] if key.startswith("first_stage")]:
            del lab.models[name][key]
        write_model(tmp_path / f"{name}.safetensors", lab.models[name])
    rules = "BASE:attn:0.5,IN01:nothing:0.4"
    path = built(lab, mbw=True, wa=TEXT, elemental=rules, limits="Exclude", elements="no_such")
    assert lab.made is not None
    (target,) = tomli.loads(lab.made.text)["targets"].values()
    assert list(target["alpha"]) == ["mbw", "elemental"]
    assert target["alpha"]["elemental"] == ["BASE:attn:0.5"]
    number = weight(sd15_block, LIST, LONG)

    def formula(name: str, of: Mapping[str, Tensor]) -> Tensor:
        share = 0.5 if sd15_block(name) == "BASE" and "attn" in name else number(name)
        return (1 - share) * of["a"] + share * of["b"]

    lab.assert_made(path, formula)


def test_a_preset_is_named() -> None:
    targets, _ = drafted(row(mbw=True, wa="GRAD_V"))
    assert targets["mix"]["alpha"] == {"preset": "GRAD_V"}
    _, draft = drafted(row(mbw=True, wa="MY_OWN"))
    assert lost(draft) == ["block weights 'MY_OWN' are no list, and no preset that is known"]


def test_rows_of_old_versions_end_early() -> None:
    targets, draft = drafted(row()[:12])
    assert targets["x"]["method"] == "weighted_sum"
    assert lost(draft) == []


def test_fields_that_were_quoted_by_hand_are_read() -> None:
    text = '1,t,"A, B","[\'a\', \'b\']","["q", \'r\']",x\n2,"two\nlines","say ""hi""",z\n'
    rows = [["1", "t", "A, B", "['a', 'b']", '["q', " 'r']\"", "x"], ["2", "two\nlines", 'say "hi"', "z"]]
    assert fields_of(text) == rows


@pytest.mark.parametrize(
    ("result", "names"),
    [
        ("first x 0.7 + second x 0.3", ["first", "second"]),
        ("first + (second -  third) x 0.5", ["first", "second", "third"]),
        ("first x 0.3 + second x 0.4 + third x 0.3", ["first", "second", "third"]),
        ("(first x 0.7 +second x 0.3) x 0.5 + third x 0.5", ["first", "second", "third"]),
        ("first x (1-alpha) + second x alpha (0.1,0.2)_cosineA", ["first", "second"]),
        ("something else", [A, B, C]),
    ],
)
def test_names_are_taken_from_the_name_of_the_result(result: str, names: list[str]) -> None:
    _, draft = drafted(row(name=result, c=C))
    assert [each.name for each in draft.sources.values()][: len(names)] == names
    assert [each.pins for each in draft.sources.values()] == [{"autov2": each} for each in (A, B, C)]


def test_an_empty_third_model_is_the_first() -> None:
    targets, _ = drafted(row(mode=ADD))
    assert targets["mix"]["c"] == targets["mix"]["a"]


def test_what_a_mergefile_can_not_say_is_told() -> None:
    for said in (
        {"calcmode": "unheard of"},
        {"calcmode": "cosineA", "mode": ADD},
        {"mode": "?"},
        {"a": "id 5"},
        {"mbw": True, "wa": "1,2,x"},
        {"mbw": True, "wa": "1,2,3"},
        {"mbw": True, "wa": ",".join(["0.1"] * 110)},
        {"elemental": "IN01:attn:R"},
        {"save": "['fp8']"},
    ):
        _, draft = drafted(row(**said))
        assert len(lost(draft)) == 1, said


def test_an_invented_seed_is_told() -> None:
    targets, draft = drafted(row(calcmode="plus random"))
    assert targets["mix"]["seed"] == 1
    assert told(draft) == ["the tool draws at random without a seed: this one is invented"]


def metadata(**said: object) -> tuple[Mapping[str, Mapping[str, object]], Draft]:
    plain = {
        "type": "sd-webui-supermerger",
        "model_a": "a" * 64,
        "model_b": "b" * 64,
        "model_c": "c" * 64,
        "base_alpha": 0.3,
        "base_beta": 0.25,
        "weights_alpha": None,
        "weights_beta": None,
        "mode": "Triple sum",
        "mbw": False,
        "elemental_merge": "",
        "calcmode": "normal",
        "Off": [],
    }
    texts = {"sd_merge_recipe": json.dumps(plain | said), "sd_merge_models": json.dumps({"a" * 64: {"name": "A.ckpt"}})}
    draft = Draft()
    model_metadata.read(RecipeFile(Path("mixS.safetensors"), b"", texts), draft)
    return tomli.loads(text_of(draft), parse_float=Decimal).get("targets", {}), draft


def test_metadata_of_sdxl_have_19_weights_and_a_0() -> None:
    lists = {"weights_alpha": [0.1] * 9 + [0.5] + [0.2] * 9 + [0], "weights_beta": [0.0] * 20}
    targets, draft = metadata(mbw=True, Exclude=["OUT08"], **lists)
    mix = targets["mixS"]
    alpha, beta = mix["alpha"], mix["beta"]
    assert isinstance(alpha, dict)
    assert isinstance(beta, dict)
    assert alpha["mbw"] == [Decimal(each) for each in ("0.3", *["0.1"] * 9, "0.5", *["0.2"] * 9)]
    assert (alpha["VAE"], alpha["OUT08"], beta["VAE"]) == (Decimal("0.3"), 0, Decimal("0.25"))
    assert (mix["a"], mix["output"]) == ("A", "mixS.safetensors")
    assert lost(draft) == []
    assert "records neither the dtype" in text_of(draft)


def test_metadata_of_sd1_have_25_weights() -> None:
    rules = ["OUT03:attn2:0.6"]
    targets, _ = metadata(mode="Weight sum", mbw=True, weights_alpha=[0.1 + 0.2] * 25, elemental_merge=rules)
    assert targets["mixS"]["alpha"] == {
        "mbw": [Decimal("0.3")] * 26,
        "VAE": Decimal("0.3"),
        "elemental": ["OUT03:attn2:0.6"],
    }


def test_hostile_histories_end_soon() -> None:
    begin = time.monotonic()
    for body in ('"a,' * 3_000_000, '""' * 4_000_000, ",\n" * 3_000_000, "1,2\n" * 2_000_000, '"' + '""' * 4_000_000):
        draft = Draft()
        with suppress(RecipeError):
            supermerger_history.read(RecipeFile(Path("h.csv"), (HEADER + body).encode()), draft)
    assert time.monotonic() - begin < 20
