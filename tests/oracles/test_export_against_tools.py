"""What export writes, run by the tools that it is for: mergekit on folders, sd-mecha on files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest
import sd_mecha
import torch
import yaml
from client_models import llama
from safetensors.torch import load_file, save_file
from tiny_models import full_checkpoint
from torch import Tensor

from mergebuild.exchange.exporting import export
from mergebuild.project.project import load

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # mergekit imports what NumPy has moved
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions

pytestmark = pytest.mark.filterwarnings("ignore")
CURVE = '{ default = { gradient = [0, 0.5, 1] }, mlp = 0.25, "*.q_proj.*" = 0.9 }'
MERGEKIT = {
    "linear": 'models = ["a", "b"]\nweight = [0.3, 0.9]',
    "linear by layers": f'method = "linear"\nmodels = ["a", "b"]\nweight = [0.5, {CURVE}]\nnormalize = false',
    "slerp": 'a = "a"\nb = "b"\nt = 0.3',
    "slerp by layers": f'method = "slerp"\na = "a"\nb = "b"\nt = {CURVE}',
    "slerp by a curve": 'method = "slerp"\na = "a"\nb = "b"\nt = { default = { gradient = [0.1, 1] }, head = 0.1 }',
    "task_arithmetic": 'base = "a"\nmodels = ["b", "c"]\nweight = [0.3, -0.5]\nlambda = 0.9',
    "ties": 'base = "a"\nmodels = ["b", "c"]\nweight = [0.3, 0.5]\ndensity = 0.7',
    "ties by layers": 'method = "ties"\nbase = "a"\nmodels = ["b", "c"]\nweight = [0.3, { default = 0.5, L00 = 1 }]\n'
                      'density = { default = 1, attn = 0.5 }',
    "breadcrumbs": 'base = "a"\nmodels = ["b", "c"]\nweight = [0.3, 0.5]\ndensity = 0.7\ngamma = 0.05',
    "model_stock": 'base = "a"\nmodels = ["b", "c"]\ncompat = "mergekit"',
    "nuslerp": 'models = ["b", "c"]\nweight = [0.3, 0.5]',
    "nearswap": 'a = "a"\nb = "b"\nt = 0.01',
    "stack": 'method = "copy"\nslices = [{ a = "a", layers = "L00-L01" }, '
             '{ method = "scale", a = "b", layers = "L01-L02", alpha = { default = 1, "*.o_proj.*" = 0 } }]',
    "stack by slerp": 'method = "slerp"\nt = 0.3\nslices = [{ a = "a", b = "b", layers = "L00-L01" }, '
                      '{ a = { model = "a", layers = "L01" }, b = { model = "c", layers = "L02" }, t = 0.6 }]',
    "scale": 'a = "a"\nalpha = { mlp = 0.5 }',
}  # fmt: skip
MECHA = {
    "weighted_sum by blocks": 'method = "weighted_sum"\na = "a"\nb = "b"\nalpha = { default = 0.25, IN04-OUT03 = 0.5 }',
    "add_difference": 'a = "a"\nb = "b"\nc = "c"\nalpha = 0.7',
    "slerp": 'a = "a"\nb = "b"\nt = 0.3\nmagnitude = "lerp"',
    "train_difference": 'a = "a"\nb = "b"\nc = "c"\nalpha = 0.7',
    "ties": 'base = "a"\nmodels = ["b", "c"]\nweight = 1\ndensity = 0.5\n'
            'vote = "count"\nzero_vote = "none"\naverage = "count"',
    "tensor_sum": 'a = "a"\nb = "b"\nwidth = 0.5\nrounding = "round"',
}  # fmt: skip


def mergefile(root: Path, lines: str, name: str, end: str, output: str) -> None:
    """Write a mergefile of one target, whose method is its name unless its lines say it."""
    method = "" if lines.startswith("method") else f'method = "{name}"\n'
    sources = "".join(f'{each} = "{each}{end}"\n' for each in "abc")
    text = f'[sources]\n{sources}[targets.t]\n{method}{lines}\noutput = "{output}"\ndtype = "float32"\n'
    (root / "mergefile.toml").write_text(text)


def near(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], tolerance: float, share: float = 0) -> None:
    """Hold all tensors of ours to theirs, which may lack none, but for a share of the elements."""
    assert set(theirs) - {"__metadata__"} == set(ours)
    far = 0
    for name, tensor in ours.items():
        allowed = tolerance * max(1.0, float(tensor.abs().max()))
        differ = int(((tensor - theirs[name].float()).abs() > allowed).sum())
        assert not differ or share, name
        far += differ
    assert far <= share * sum(each.numel() for each in ours.values())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three language models: fine-tunes of one."""
    root = tmp_path_factory.mktemp("mergekit")
    base = llama(0)
    for number, name in enumerate("abc"):
        tuned = llama(number)
        with torch.no_grad():
            for one, other in zip(tuned.parameters(), base.parameters(), strict=True):
                one.copy_(other + 0.1 * one)
        tuned.save_pretrained(root / name)
    return root


@pytest.mark.parametrize("name", MERGEKIT)
def test_mergekit_makes_of_it_what_we_make(folders: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(folders)
    output = f"out-{name.replace(' ', '-')}/"
    mergefile(folders, MERGEKIT[name], name, "/", output)
    project = load(folders / "mergefile.toml")
    made = export(project, "t", "mergekit")
    config = MergeConfiguration.model_validate(yaml.safe_load(made.text))
    run_merge(config, f"theirs-{output}", MergeOptions(copy_tokenizer=False, quiet=True))
    assert project.build().ok
    ours = load_file(folders / output / "model.safetensors")
    near(ours, load_file(folders / f"theirs-{output}" / "model.safetensors"), 1e-6)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints with all tensors of SDXL."""
    root = tmp_path_factory.mktemp("mecha")
    base = full_checkpoint("sdxl", 0, torch.float32)
    for number, name in enumerate("abc"):
        tuned = full_checkpoint("sdxl", number, torch.float32)
        tensors = {each: (base[each] + 0.1 * tuned[each]).contiguous() for each in base}
        save_file(tensors, root / f"{name}.safetensors")
    return root


@pytest.mark.parametrize("name", MECHA)
def test_sd_mecha_makes_of_it_what_we_make(files: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(files)
    output = f"{name.replace(' ', '-')}-out.safetensors"
    mergefile(files, MECHA[name], name, ".safetensors", output)
    project = load(files / "mergefile.toml")
    recipe = sd_mecha.deserialize(export(project, "t", "mecha").text)
    theirs = sd_mecha.merge(recipe, output_dtype=torch.float32, threads=1)
    assert project.build().ok
    share = 0.01 if name == "ties" else 0  # sd-mecha keeps all that is as large as the smallest that is kept
    near(load_file(files / output), theirs, 1e-5, share)
