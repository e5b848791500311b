"""Methods that must know several tensors before they make one: what they find, when they look again, what they need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import pytest
import torch
from mergefiles import target_table
from model_files import same_bits
from project_space import Space
from torch import Tensor

from mergebuild.build.options import BuilderOptions
from mergebuild.engine.compute import Worker
from mergebuild.methods.kernels.attention import balance, scales_of
from mergebuild.methods.kernels.kernel import Call
from mergebuild.methods.kernels.model_wide import KERNELS as COSINES
from mergebuild.methods.kernels.model_wide import similarities, similarity_range
from mergebuild.methods.kernels.permutation import Order, moves, reordered
from mergebuild.methods.scopes.attention import attentions
from mergebuild.methods.scopes.channels import ChannelBlock, blocks

TEXT = "cond_stage_model.transformer.text_model."
UNET = "model.diffusion_model."
LAYERS = tuple(f"{TEXT}encoder.layers.{number}." for number in range(2))
FLOATS = torch.float16


def _shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {
        f"{TEXT}final_layer_norm.weight": (128,),
        f"{UNET}input_blocks.0.0.weight": (8, 4, 3, 3),
        f"{UNET}out.2.bias": (4,),
        "first_stage_model.encoder.conv_in.weight": (8, 3, 3, 3),
    }
    for layer in LAYERS:
        for part in ("q", "k", "v"):
            found[f"{layer}self_attn.{part}_proj.weight"] = (128, 128)
            found[f"{layer}self_attn.{part}_proj.bias"] = (128,)
        found[f"{layer}self_attn.out_proj.weight"] = (128, 128)
        found[f"{layer}self_attn.out_proj.bias"] = (128,)
        found[f"{layer}mlp.fc1.weight"] = (48, 128)
        found[f"{layer}mlp.fc1.bias"] = (48,)
        found[f"{layer}mlp.fc2.weight"] = (128, 48)
    return dict(sorted(found.items()))


SHAPES = _shapes()
ATTENTION = frozenset(name for layer in attentions(SHAPES) for name in layer.tensors)
CHANNELS = frozenset(name for block in blocks(SHAPES) for name in block.tensors)

Model = dict[str, Tensor]


def model(seed: int) -> Model:
    """Return made-up weights."""
    source = torch.Generator().manual_seed(seed)
    return {name: (torch.randn(shape, generator=source) * 0.1).to(FLOATS) for name, shape in SHAPES.items()}


def shuffled(tensors: Mapping[str, Tensor], seed: int) -> Model:
    """Return a model with its hidden channels in another order."""
    source = torch.Generator().manual_seed(seed)
    found = dict(tensors)
    for block in blocks(SHAPES):
        channels = tuple(
            torch.stack([torch.randperm(family.size, generator=source) for _ in range(block.groups)])
            for family in block.families
        )
        order = Order(torch.randperm(block.groups, generator=source), channels)
        found |= {name: reordered(tensors[name], along) for name, along in _moves(block, order).items()}
    return found


def _moves(block: ChannelBlock, order: Order) -> Mapping[str, Any]:
    return moves(block, order, SHAPES)


@pytest.fixture
def two(space: Space) -> tuple[Model, Model]:
    """Two models in files."""
    found = model(1), model(2)
    for name, tensors in zip(("one", "two"), found, strict=True):
        space.model(f"{name}.safetensors", tensors)
    return found


def write(space: Space, *targets: str) -> None:
    space.write('[sources]\none = "one.safetensors"\ntwo = "two.safetensors"\n\n' + "\n".join(targets))


def target(name: str, method: str, rest: str, *, output: bool = True) -> str:
    return target_table(name, rest, method=method, output="{}.safetensors" if output else None)


A_AND_B = 'a = "one"\nb = "two"\n'


@contextmanager
def looked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Note the tensors that surveys look at."""
    found: list[str] = []
    look = Worker.look

    def noted(self: Worker, survey: Any) -> Any:
        found.extend(each.name for each in survey.tensors)
        return look(self, survey)

    with monkeypatch.context() as patched:
        patched.setattr(Worker, "look", noted)
        yield found


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("method", ["cosine_a", "cosine_b"])
def test_cosines_are_placed_in_the_range_of_the_whole_model(
    space: Space, two: tuple[Model, Model], method: str
) -> None:
    """The VAE has no part in it, and stays."""
    a, b = two
    write(space, target("mix", method, f"{A_AND_B}alpha = 0.2"))
    space.build()
    found = space.read("mix.safetensors")
    names = [name for name in SHAPES if not name.startswith("first_stage_model.")]
    state = similarity_range([similarities(method, a[name].float(), b[name].float()) for name in names])
    for name in names:
        call = Call(name, SHAPES[name], {"alpha": Fraction(1, 5)})
        inputs = [each[name].float().reshape(-1) for each in two]
        expected = COSINES[method].apply(call, inputs, 0, state).reshape(SHAPES[name])
        assert same_bits(found[name], expected.to(FLOATS)), name
    assert all(same_bits(found[name], a[name]) for name in SHAPES if name not in names)
    assert space.build().verdicts == {"mix": "up-to-date"}


def test_the_range_is_found_once_and_again_when_an_input_changed(
    space: Space, two: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all members of a family, and the builds that follow."""
    sweep = '[targets.mix]\nmethod = "cosine_b"\n' + A_AND_B
    sweep += 'alpha = "${alpha}"\nforeach.alpha = [0.2, 0.3]\noutput = "mix-${alpha}.safetensors"\n'
    write(space, sweep)
    names = sorted(name for name in SHAPES if not name.startswith("first_stage_model."))
    with looked(monkeypatch) as seen:
        space.build()
        assert sorted(seen) == names
        space.edit("0.3]", "0.3, 0.4]")
        assert space.build()["mix@alpha=0.4"]["tensors_computed"] == len(names)
        assert sorted(seen) == names
        changed = {**two[1], f"{UNET}out.2.bias": torch.ones(4, dtype=FLOATS)}
        space.settle()
        space.model("two.safetensors", changed)
        assert space.build().computed == 3 * len(names)  # the range is part of what each tensor is
        assert len(seen) == 2 * len(names)


@pytest.mark.usefixtures("everywhere")
def test_a_reordered_model_is_brought_back(space: Space, two: tuple[Model, Model]) -> None:
    """Every tensor with hidden channels has the other's bytes; the rest is the first input's."""
    a, _ = two
    space.model("two.safetensors", shuffled(a, 3))
    write(space, target("back", "rebasin", 'a = "two"\nb = "one"\n'))
    built = space.build()
    found = space.read("back.safetensors")
    assert all(same_bits(found[name], a[name]) for name in SHAPES)
    assert not all(same_bits(space.read("two.safetensors")[name], a[name]) for name in CHANNELS)
    assert built["back"]["tensors_computed"] == len(CHANNELS)


def test_what_changed_in_a_layer_costs_that_layer(
    space: Space, two: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others' tensors are taken from the file that there is."""
    layer = next(each for each in attentions(SHAPES) if each.query.startswith(LAYERS[1]))
    write(
        space,
        target("balanced", "balance_attention", 'a = "one"'),
        target("ordered", "rebasin", A_AND_B),
    )
    assert space.build().computed == len(ATTENTION) + len(CHANNELS)
    space.settle()
    space.model("one.safetensors", {**two[0], layer.value: two[1][layer.value]})
    with looked(monkeypatch) as seen:
        built = space.build()
    assert built["balanced"]["tensors_computed"] == len(layer.tensors)
    assert built["ordered"]["tensors_computed"] == len(layer.tensors)
    assert sorted(seen) == sorted([*layer.tensors, *layer.tensors])


@pytest.mark.usefixtures("everywhere")
def test_balanced_layers_are_what_the_kernel_makes(space: Space, two: tuple[Model, Model]) -> None:
    """All others stay."""
    write(space, target("balanced", "balance_attention", 'a = "one"\nform = "equal"'))
    space.build()
    found, source = space.read("balanced.safetensors"), two[0]
    for layer in attentions(SHAPES):
        scales = scales_of(layer, {name: source[name].float() for name in layer.tensors}, halfway=True)
        for name in layer.tensors:
            assert same_bits(found[name], balance(scales, name, source[name].float()).to(FLOATS)), name
    assert all(same_bits(found[name], source[name]) for name in SHAPES.keys() - ATTENTION)


@pytest.mark.parametrize("between", ["slerp", "weighted_sum", "rebasin"])
def test_a_virtual_input_is_as_one_in_a_file(space: Space, two: tuple[Model, Model], between: str) -> None:
    """Made by an operation, by another of this kind, or folded; and so is a virtual result."""
    number = {"slerp": "t = 0.3", "weighted_sum": "alpha = 0.3", "rebasin": ""}[between]
    mix = 'a = "{}"\nb = "one"\n'
    write(
        space,
        target("virtual", between, f'a = "two"\nb = "one"\n{number}', output=False),
        target("ordered", "rebasin", mix.format("virtual"), output=False),
        target("sum", "weighted_sum", f"{mix.format('ordered')}alpha = 0.25"),
        target("file", between, f'a = "two"\nb = "one"\n{number}\ndtype = "float32"'),
        target("ordered_file", "rebasin", f'{mix.format("file")}dtype = "float32"'),
        target("sum_of_files", "weighted_sum", f'{mix.format("ordered_file")}alpha = 0.25\ndtype = "float16"'),
    )
    built = space.build("sum", "sum_of_files")
    assert set(built.verdicts.values()) <= {"built", "restored"}  # restored: the same digests, and so the same file
    one, other = space.read("sum.safetensors"), space.read("sum_of_files.safetensors")
    assert all(same_bits(one[name], other[name]) for name in CHANNELS)  # what stays folds, and is not rounded between
    assert not list(space.root.rglob("*surveyed*"))


def test_chunks_and_threads_change_no_byte(
    space: Space, two: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the work is cut."""
    methods = {"cosine_a": f"{A_AND_B}alpha = 0.1", "rebasin": A_AND_B, "balance_attention": 'a = "one"'}
    write(space, *(target(name, name, rest) for name, rest in methods.items()))
    space.build()
    expected = {name: space.bytes(f"{name}.safetensors") for name in methods}
    options = BuilderOptions

    def cut(*args: Any, **kwargs: Any) -> Any:
        return options(*args, **{**kwargs, "chunk": 1000})

    monkeypatch.setattr("mergebuild.build.options.BuilderOptions", cut)
    space.run("clean", "--yes")
    space.run("gc", "--max-size", "0")
    assert set(space.build("-j", "3").verdicts.values()) == {"built"}
    assert {name: space.bytes(f"{name}.safetensors") for name in methods} == expected


def test_half_a_layer_cannot_be_balanced(space: Space, two: tuple[Model, Model]) -> None:
    """`merge` leaves none of its layers whole: nothing is changed then. A rule that takes half of one says so."""
    write(space, target("mix", "balance_attention", f'a = "one"\nmerge = ["{LAYERS[0]}self_attn.q_proj.weight"]'))
    assert space.build()["mix"]["tensors_computed"] == 0
    rule = '[[targets.mix.rules]]\ntensors = ["*q_proj.weight"]\nmethod = "balance_attention"\n'
    write(space, target("mix", "weighted_sum", f"{A_AND_B}alpha = 0.5") + rule)
    outcome = space.run("build", "--json", code=1)
    (found,) = outcome.json["targets"]
    assert (found["verdict"], found["error"]["code"]) == ("failed", "undefined")


def test_models_without_anything_in_common_to_compare(space: Space) -> None:
    """A model all of whose likenesses are one number has no range."""
    tensors = {name: torch.ones(shape, dtype=FLOATS) for name, shape in SHAPES.items()}
    for name in ("one", "two"):
        space.model(f"{name}.safetensors", tensors)
    write(space, target("mix", "cosine_a", f"{A_AND_B}alpha = 0.5"))
    (found,) = space.run("build", "--json", code=1).json["targets"]
    assert (found["verdict"], found["error"]["code"]) == ("failed", "undefined")


@pytest.mark.parametrize(
    ("method", "keys"),
    [("cosine_a", f"{A_AND_B}alpha = 0.5"), ("rebasin", A_AND_B), ("balance_attention", 'a = "one"')],
)
def test_nothing_is_known_of_several_tensors_if_one_is_not_finite(space: Space, method: str, keys: str) -> None:
    """The error names it, on each tensor that depends on it."""
    tensors, name = model(1), f"{LAYERS[0]}{'mlp.fc1.weight' if method == 'rebasin' else 'self_attn.q_proj.weight'}"
    tensors[name].view(-1)[3] = float("nan")
    space.model("one.safetensors", tensors)
    space.model("two.safetensors", model(2))
    write(space, target("mix", method, keys))
    outcome = space.run("build", "--json", code=1)
    (found,) = outcome.json["targets"]
    assert (found["verdict"], found["error"]["code"]) == ("failed", "undefined")
    assert f"`{name}`, which it depends on, has values that are NaN or Inf" in outcome.err
