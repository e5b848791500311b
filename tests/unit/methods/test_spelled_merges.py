"""From files to files: models in every spelling of the rules merge with each other, and are written as the first is."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from lab import Lab
from model_files import read_model, write_model
from spelled_models import NEEDED, Shape, Spelled, canonical_tensors, spelled, theirs
from torch import Tensor

from mergebuild.naming.canonical import canonical
from mergebuild.naming.rules import signs_of

_KNOWN = [signs.family for signs in signs_of()]
State = Mapping[str, Tensor]


def _stored(each: Spelled, *, is_canonical: bool, prefix: str) -> dict[str, Shape]:
    rows = (theirs(each.part, row, 3, 2, prefix) for row in each.rows)
    made = canonical_tensors(each) if is_canonical else {k: v for some in rows for k, v in some.items()}
    return dict(NEEDED.get(each.family, {})) | made


def _is_shown(each: Spelled) -> bool:
    """Return whether the rows of a spelling alone show which family it is."""
    return canonical(_stored(each, is_canonical=False, prefix=each.part.prefix)).family == each.family


_SPELLED = [
    each
    for each in spelled()
    if each.family in _KNOWN and not each.spelling.signs and _is_shown(each)
    if each.part.pipeline == "transformer" or "openclip" in each.spelling.name
]


def _parameters(state: State) -> dict[str, Tensor]:
    """Return what a file's tensors are."""
    made = canonical({name: tuple(tensor.shape) for name, tensor in state.items()}).made
    found = {}
    for name, renamed in made.items():
        cuts = []
        for cut in renamed.cuts:
            tensor = state[cut.tensor]
            tensor = tensor if cut.rows is None else tensor[cut.rows[0] : cut.rows[1]]
            cuts.append(tensor.t() if cut.transposed else tensor)
        found[name] = torch.cat(cuts).reshape(renamed.shape) if cuts[0].ndim else cuts[0]
    return found


def _values(shapes: Mapping[str, Shape], seed: int) -> dict[str, Tensor]:
    """Return small whole numbers, of which quarters are exact."""
    return {
        name: torch.randint(-9, 9, shape, generator=torch.Generator().manual_seed(seed + zlib.crc32(name.encode())))
        + 0.0
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("each", _SPELLED, ids=str)
def test_two_spellings_merge_in_either_order(each: Spelled, tmp_path: Path) -> None:
    prefix = next(iter(each.part.prefixes), each.part.prefix)
    a = _values(_stored(each, is_canonical=False, prefix=prefix), 1)
    b = _values(_stored(each, is_canonical=True, prefix=""), 2)
    lab = Lab(tmp_path)
    lab.model("a", **a)
    lab.model("b", **b)
    target = 'method = "weighted_sum"\na = "{}"\nb = "{}"\nalpha = {}\noutput = "{}.safetensors"\n'
    lab.write("\n".join(
        (
            "[targets.ab]", target.format("a", "b", 0.25, "ab"),
            "[targets.ba]", target.format("b", "a", 0.75, "ba"),
        )
    ))  # fmt: skip
    lab.build()
    one, other = _parameters(a), _parameters(b)
    wanted = {name: 0.75 * one[name] + 0.25 * other[name] for name in one}
    for first, file in ((a, "ab"), (b, "ba")):
        made = read_model(lab / f"{file}.safetensors")
        assert {name: tensor.shape for name, tensor in made.items()} == {name: t.shape for name, t in first.items()}
        found = _parameters(made)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_pipeline_of_flux_is_written_as_one_whatever_it_merges_with(tmp_path: Path) -> None:
    each = next(each for each in _SPELLED if str(each) == "flux-transformer-diffusers")
    a = _values(_stored(each, is_canonical=False, prefix=""), 1)
    b = _values(_stored(each, is_canonical=True, prefix=""), 2)
    lab = Lab(tmp_path)
    lab.model("b", **{f"model.diffusion_model.{name}": tensor for name, tensor in b.items()})
    weights = "transformer/diffusion_pytorch_model.safetensors"
    (tmp_path / "pipe/transformer").mkdir(parents=True)
    write_model(tmp_path / "pipe" / weights, a)
    (tmp_path / "pipe/transformer/config.json").write_text('{"_class_name": "FluxTransformer2DModel"}')
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (tmp_path / "pipe/model_index.json").write_text(json.dumps(index))
    lab.sources["a"] = "pipe"
    target = '[targets.{}{}]\nmethod = "weighted_sum"\na = "{}"\nb = "{}"\nalpha = {}\noutput = "{}"\n'
    lab.write(
        target.format("a", "b", "a", "b", 0.25, "ab/") + target.format("b", "a", "b", "a", 0.75, 'ba/"\nconfig = "a')
    )
    lab.build()
    one, other = _parameters(a), _parameters(b)
    wanted = {name: 0.75 * one[name] + 0.25 * other[name] for name in one}
    for folder in ("ab", "ba"):
        made = read_model(tmp_path / folder / weights)
        assert made.keys() == a.keys()
        found = _parameters(made)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted)
