"""How a file would write parameters: those that it has in one tensor, in whatever order, lie there again."""

from __future__ import annotations

from mergebuild.naming.canonical import canonical
from mergebuild.naming.renamed import Shapes, TensorView
from mergebuild.naming.spelling import FileSpelling, SpelledTensor, spelling_of

_LAYER = "model.layers.0."


def _spelling(
    shapes: Shapes, facts: dict[str, object] | None = None
) -> tuple[FileSpelling, dict[str, tuple[int, ...]]]:
    """Return how a file spells its parameters, and their shapes."""
    made = canonical(shapes, facts).made
    return spelling_of(made, shapes), {name: renamed.shape for name, renamed in made.items()}


def test_what_lies_one_behind_the_other_needs_no_views() -> None:
    qkv = f"{_LAYER}self_attn.qkv_proj.weight"
    spelling, shapes = _spelling({f"{_LAYER}self_attn.o_proj.weight": (6, 8), qkv: (16, 6)})
    members = [f"{_LAYER}self_attn.{each}_proj.weight" for each in "qkv"]
    assert spelling.fused(shapes) == {SpelledTensor(qkv, (16, 6)): members}
    assert spelling.views == {}
    up, down = f"{_LAYER}mlp.experts.gate_up_proj", f"{_LAYER}mlp.experts.down_proj"
    spelling, shapes = _spelling({up: (2, 10, 6), down: (2, 6, 5)}, {"model_type": "qwen3_moe"})
    assert list(spelling.fused(shapes).values()) == [
        [f"{_LAYER}mlp.experts.{number}.{word}_proj.weight" for number in range(2) for word in words]
        for words in (("gate", "up"), ("down",))
    ]
    assert spelling.views == {}


def test_heads_in_groups_lie_in_several_places() -> None:
    wqkv = f"{_LAYER}attention.wqkv.weight"
    shapes = {f"{_LAYER}attention.wo.weight": (6, 8), wqkv: (16, 6)}
    spelling, parameters = _spelling(shapes, {"num_attention_heads": 4})
    fused = spelling.fused(parameters)
    assert list(fused) == [SpelledTensor(wqkv, (16, 6))]
    assert spelling.views[f"{_LAYER}self_attn.k_proj.weight"] == [
        TensorView(24, (2, 6), (6, 1)),
        TensorView(72, (2, 6), (6, 1)),
    ]
    assert sum(len(views) for views in spelling.views.values()) == 6


def test_transposed_stacks_lie_by_columns() -> None:
    up, down = f"{_LAYER}mlp.experts.gate_up_proj", f"{_LAYER}mlp.experts.down_proj"
    spelling, shapes = _spelling({up: (2, 6, 10), down: (2, 5, 6)}, {"model_type": "qwen3_moe"})
    assert len(spelling.fused(shapes)) == 2
    assert spelling.views[f"{_LAYER}mlp.experts.1.up_proj.weight"] == [TensorView(65, (5, 6), (1, 10))]
    assert spelling.views[f"{_LAYER}mlp.experts.1.down_proj.weight"] == [TensorView(30, (6, 5), (1, 6))]


def test_a_matrix_that_is_all_of_a_transposed_tensor_is_turned() -> None:
    shapes = {"text_projection.weight": (4, 6), "text_model.encoder.layers.0.mlp.fc1.weight": (8, 4)}
    spelling, _ = _spelling({f"text_encoders.clip_g.transformer.{name}": shape for name, shape in shapes.items()})
    for name in spelling.turned:
        assert name.endswith("text_projection")


def test_parameters_of_a_tensor_of_which_one_is_not_there_are_named_by_themselves() -> None:
    qkv = f"{_LAYER}self_attn.qkv_proj.weight"
    spelling, shapes = _spelling({f"{_LAYER}self_attn.o_proj.weight": (6, 8), qkv: (16, 6)})
    del shapes[f"{_LAYER}self_attn.q_proj.weight"]
    assert spelling.fused(shapes) == {}
