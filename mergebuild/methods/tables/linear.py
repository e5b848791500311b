"""Rows of the linear methods, and the functions that give an exact coefficient for each input."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mergebuild.methods.arguments import Flags, Numbers
from mergebuild.methods.making import Linear, LinearByName, LinearOfLoras, LinearUnion
from mergebuild.methods.method import Method, Parameter, UndefinedError

__all__ = ["ROWS"]


def _number(numbers: Numbers, name: str) -> Fraction:
    value = numbers[name]
    assert isinstance(value, Fraction)  # the catalog says per="target"
    return value


def _per_model(numbers: Numbers, name: str) -> tuple[Fraction, ...]:
    value = numbers[name]
    assert isinstance(value, tuple)  # the catalog says per="model"
    return value


def _weighted_sum(_n: int, numbers: Numbers, _flags: Flags, _name: str) -> tuple[Fraction, ...]:
    alpha = _number(numbers, "alpha")
    return (1 - alpha, alpha)


def _add_difference(_n: int, numbers: Numbers, _flags: Flags, _name: str) -> tuple[Fraction, ...]:
    alpha = _number(numbers, "alpha")
    return (Fraction(1), alpha, -alpha)


def _sum_twice(_n: int, numbers: Numbers, _flags: Flags, _name: str) -> tuple[Fraction, ...]:
    alpha, beta = _number(numbers, "alpha"), _number(numbers, "beta")
    return ((1 - beta) * (1 - alpha), (1 - beta) * alpha, beta)


def _triple_sum(_n: int, numbers: Numbers, _flags: Flags, _name: str) -> tuple[Fraction, ...]:
    alpha, beta = _number(numbers, "alpha"), _number(numbers, "beta")
    return (1 - alpha - beta, alpha, beta)


def _linear(_n: int, numbers: Numbers, flags: Flags, _name: str) -> tuple[Fraction, ...]:
    weights = _per_model(numbers, "weight")
    if not flags["normalize"]:
        return weights
    total = sum(weights, Fraction(0))
    if total == 0:
        message = "the weights add up to 0 and cannot be normalized"
        raise UndefinedError(message)
    return tuple(weight / total for weight in weights)


def _task_arithmetic(_n: int, numbers: Numbers, flags: Flags, _name: str) -> tuple[Fraction, ...]:
    weights, scale = _per_model(numbers, "weight"), _number(numbers, "lambda")
    if flags["normalize"]:
        if min(weights) < 0 < max(weights):
            message = "weights of both signs cannot be normalized"
            raise UndefinedError(message)
        total = sum(weights, Fraction(0))
        scale /= total if abs(total) >= Fraction(1, 10**8) else 1
    parts = tuple(scale * weight for weight in weights)
    return (1 - sum(parts, Fraction(0)), *parts)


def _block_mix(_n: int, numbers: Numbers, _flags: Flags, _name: str) -> tuple[Fraction, ...]:
    weights = _per_model(numbers, "weight")
    return (1 - sum(weights, Fraction(0)), *weights)


def _weighted_subtraction(_n: int, numbers: Numbers, _flags: Flags, _name: str) -> tuple[Fraction, ...]:
    product = _number(numbers, "alpha") * _number(numbers, "beta")
    if product == 1:
        message = "alpha * beta is 1, and the formula divides by 1 - alpha * beta"
        raise UndefinedError(message)
    return (1 / (1 - product), -product / (1 - product))


def _subtract(_n: int, _numbers: Numbers, _flags: Flags, _name: str) -> tuple[Fraction, ...]:
    return (Fraction(1), Fraction(-1))


def _add(_n: int, _numbers: Numbers, _flags: Flags, _name: str) -> tuple[Fraction, ...]:
    return (Fraction(1), Fraction(1))


def _copy(_n: int, _numbers: Numbers, _flags: Flags, _name: str) -> tuple[Fraction, ...]:
    return (Fraction(1),)


def _scale(_n: int, numbers: Numbers, _flags: Flags, _name: str) -> tuple[Fraction, ...]:
    return (_number(numbers, "alpha"),)


_NOT_SCALED = ("to_out", "proj_out", "norm")


def _scale_self(_n: int, numbers: Numbers, _flags: Flags, name: str) -> tuple[Fraction, ...]:
    return (Fraction(1) if any(part in name for part in _NOT_SCALED) else _number(numbers, "alpha"),)


def _replace(_n: int, numbers: Numbers, _flags: Flags, name: str) -> tuple[Fraction, ...]:
    if any(part in name for part in _NOT_SCALED):
        return (Fraction(1), Fraction(0))
    return (Fraction(0), _number(numbers, "alpha"))


_ALPHA = Parameter("alpha", "how much of the second input")
_WEIGHT = Parameter("weight", "the weight of each model", per="model")


def _first(count: int, _numbers: Numbers, _flags: Flags, _name: str) -> tuple[Fraction, ...]:
    return (Fraction(1), *[Fraction(0)] * (count - 1))


ROWS: Sequence[Method] = (
    Method(
        "weighted_sum",
        ("a", "b"),
        (Parameter("alpha", "the share of b; outside 0..1 it extrapolates"),),
        "(1 - alpha) * a + alpha * b",
        "Blend two models. The everyday merge.",
        Linear(_weighted_sum),
        aliases=("lerp", "Weighted sum", "Weight", "Sum"),
        differs="ComfyUI's ModelMergeSimple counts its ratio the other way: ratio 1 is all of the first model.",
        cite="AUTOMATIC1111 webui; Wortsman et al. 2022, arXiv:2203.05482",
    ),
    Method(
        "add_difference",
        ("a", "b", "c"),
        (Parameter("alpha", "how much of the difference b - c is added"),),
        "a + alpha * (b - c)",
        "Add to a what training or merging changed between c and b.",
        Linear(_add_difference),
        aliases=("Add difference", "Add", "Add-Diff"),
        differs="Some scripts define it as a + (b - c) * (1 - alpha).",
        cite="AUTOMATIC1111 webui",
    ),
    Method(
        "sum_twice",
        ("a", "b", "c"),
        (Parameter("alpha", "the share of b in the first sum"), Parameter("beta", "the share of c in the second")),
        "(1 - beta) * ((1 - alpha) * a + alpha * b) + beta * c",
        "Two weighted sums in a row.",
        Linear(_sum_twice),
        aliases=("Twice", "sumTwice"),
        cite="supermerger",
    ),
    Method(
        "triple_sum",
        ("a", "b", "c"),
        (Parameter("alpha", "the share of b"), Parameter("beta", "the share of c")),
        "(1 - alpha - beta) * a + alpha * b + beta * c",
        "Blend three models.",
        Linear(_triple_sum),
        aliases=("Triple", "tripleSum"),
        cite="supermerger",
    ),
    Method(
        "linear",
        ("models",),
        (_WEIGHT, Parameter("normalize", "divide by the sum of the weights", kind="flag", default=True)),
        "sum(weight_i * model_i), divided by sum(weight_i) if normalize",
        "Average any number of models (a model soup).",
        Linear(_linear),
        aliases=("n_average", "model_soup"),
        differs="mergekit divides by a sum of 0 and writes inf; here that is an error.",
        cite="Wortsman et al. 2022, arXiv:2203.05482; mergekit",
    ),
    Method(
        "task_arithmetic",
        ("base", "models"),
        (
            _WEIGHT,
            Parameter("normalize", "divide by the sum of the weights", kind="flag", default=False),
            Parameter("lambda", "scales the sum of the differences", default=Fraction(1)),
        ),
        "base + lambda * sum(weight_i * (model_i - base)), divided by sum(weight_i) if normalize",
        "Add what several fine-tunes learned to the model that they started from.",
        Linear(_task_arithmetic),
        differs="mergekit normalizes weights of both signs, which divides by a small or negative sum; here that is "
        "an error. Its int8_mask does nothing here and is refused.",
        cite="Ilharco et al. 2022, arXiv:2212.04089; mergekit",
    ),
    Method(
        "block_mix",
        ("base", "models"),
        (_WEIGHT,),
        "(1 - sum(weight_i)) * base + sum(weight_i * model_i)",
        "Mix any number of models into a base, each with its own weights per block.",
        Linear(_block_mix),
        cite="rimo_random_mix",
    ),
    Method(
        "fallback",
        ("a", "b"),
        (),
        "a's tensor where there is one, else b's",
        "Complete a file that lacks parts, such as one with the UNet alone.",
        LinearUnion(_first),
        cite="sd-mecha",
    ),
    Method(
        "weighted_subtraction",
        ("a", "b"),
        (Parameter("alpha", "first factor"), Parameter("beta", "second factor")),
        "(a - alpha * beta * b) / (1 - alpha * beta)",
        "Take a share of b out of a again.",
        Linear(_weighted_subtraction),
        differs="sd-meh nudges beta when alpha = beta = 1 and multiplies by 1e10; here that is an error.",
        cite="sd-meh",
    ),
    Method("subtract", ("a", "b"), (), "a - b", "The difference of two models.", Linear(_subtract), cite="sd-mecha"),
    Method("add", ("a", "b"), (), "a + b", "The sum of two inputs, such as a model and a difference.", Linear(_add),
           aliases=("ModelMergeAdd",), cite="ComfyUI"),
    Method(
        "scale",
        ("a",),
        (Parameter("alpha", "the factor"),),
        "alpha * a",
        "Multiply by a number; of a LoRA, what it adds.",
        LinearOfLoras(_scale),
        aliases=("passthrough with scale",),
        cite="sd-mecha; mergekit",
    ),
    Method("copy", ("a",), (), "a", "The model or LoRA as it is: to change dtype, drop tensors or take EMA weights.",
           LinearOfLoras(_copy), aliases=("No interpolation", "passthrough"), cite="AUTOMATIC1111 webui; mergekit"),
    Method(
        "scale_self",
        ("a",),
        (Parameter("alpha", "the factor"),),
        "alpha * a; tensors whose name contains to_out, proj_out or norm stay a",
        "Multiply by a number what is not an output projection or a norm.",
        LinearByName(_scale_self),
        aliases=("self",),
        differs="In supermerger alpha = 0 does nothing; here it is 0 * a.",
        cite="supermerger",
    ),
    Method(
        "replace",
        ("a", "b"),
        (Parameter("alpha", "the factor; 1 copies b"),),
        "alpha * b; tensors whose name contains to_out, proj_out or norm stay a",
        "Take the tensors of b, scaled.",
        LinearByName(_replace),
        cite="sd-webui-model-mixer",
    ),
)  # fmt: skip
