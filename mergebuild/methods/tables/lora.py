"""Rows of the methods that add LoRAs to a model, and that make LoRAs from a difference of models or from other LoRAs.

A LoRA's delta for a tensor is made of its factors, and added up like any other input. The tensors of a LoRA that is
made have names and shapes of their own; those of one module are made together.
"""

from __future__ import annotations

from fractions import Fraction

from mergebuild.methods.arguments import Flags, Numbers
from mergebuild.methods.making import ExtractedLora, LoraFactors, LoraSum, MergedLoras, ModelDelta
from mergebuild.methods.method import Method, Parameter

__all__ = ["DELTA", "FACTOR", "ROWS"]

_ZERO, _ONE = Fraction(0), Fraction(1)


def _add(count: int, numbers: Numbers, flags: Flags, name: str) -> tuple[Fraction, ...]:  # noqa: ARG001 -- as all
    strengths = numbers["strength"]
    assert isinstance(strengths, tuple)
    return (Fraction(1), *strengths)


DELTA = Method(
    name="lora_delta",
    inputs=("loras",),
    parameters=(),
    formula="scale (up @ down)",
    summary="what a LoRA adds to a tensor at strength 1",
    makes=ModelDelta(),
    version=2,
)
"""Makes the deltas that `add_lora` adds up. No recipe can name it, so it is not in the catalog."""

FACTOR = Method(
    name="lora_factor",
    inputs=("loras",),
    parameters=(),
    formula="up, down or alpha",
    summary="a tensor of a module of a LoRA that is made",
    makes=LoraFactors(),
    exact=False,
    version=2,
)
"""Makes the tensors of a new LoRA. No recipe can name it either."""

_ENERGY = Parameter(
    "energy", "the share of the squares of all singular values that is enough; factors beyond it are zeros",
    default=_ONE, low=_ZERO, high=_ONE,
)  # fmt: skip

ROWS = (
    Method(
        name="add_lora",
        inputs=("base", "loras"),
        parameters=(
            Parameter("strength", "how much of each LoRA is added; 1 is what it was trained for", per="model",
                      default=Fraction(1)),
            Parameter("allow_unmatched", "let tensors of a LoRA go that the model has no place for", kind="flag",
                      default=False),
        ),
        formula="base + sum_i strength_i * dW_i, dW_i what LoRA i adds at strength 1; a tensor of it that finds no "
        "place is an error, unless allow_unmatched",
        summary="LoRAs baked into a model: LoRA, LoCon, Tucker, LoHa, LoKr, IA3, DoRA, rsLoRA, full differences and "
        "norms, of kohya's trainers, LyCORIS, PEFT and diffusers",
        makes=LoraSum(_add),
        differs="a tensor of a LoRA that finds no place is an error, where other tools go on without it; what is "
        "added is computed in float64 and rounded once",
        cite="Hu et al. 2021, arXiv:2106.09685; Yeh et al. 2023 (LyCORIS), arXiv:2309.14859; Liu et al. 2024 (DoRA), "
        "arXiv:2402.09353",
        reference="peft",
    ),
    Method(
        name="extract_lora",
        inputs=("base", "a"),
        parameters=(
            Parameter("rank", "of linear layers and of convolutions of one point; as much as their shapes allow, and "
                      "0 leaves a layer out", low=_ZERO),
            Parameter("conv_rank", "of larger convolutions; 0 leaves them out", default=_ZERO, low=_ZERO),
            _ENERGY,
            Parameter("clamp_quantile", "clamp both factors at this quantile of their values; 0 clamps nothing",
                      default=_ZERO, low=_ZERO, high=_ONE),
            Parameter("svd", "how singular values are found: `randomized` comes close, and is much faster for large "
                      "layers", kind="word", default="exact", choices=("exact", "randomized")),
            Parameter("seed", "for randomized: which random vectors", kind="integer", default=_ZERO),
            Parameter("iterations", "for randomized: power iterations; more come closer", kind="integer",
                      default=Fraction(2), low=_ZERO),
        ),
        formula="up = U_r sqrt(S_r), down = sqrt(S_r) V_r^T of the singular value decomposition of a - base; alpha = r",
        summary="The LoRA that comes nearest to what a model was fine-tuned by: kohya's names for image models, PEFT's "
        "for others.",
        makes=ExtractedLora(),
        differs="half of each singular value goes to either factor and nothing is clamped, where kohya's tool leaves "
        "them to `up` and clamps: clamp_quantile = 0.99 does the same. It leaves out a text encoder that differs by "
        "less than 0.01 anywhere (min_diff); here headers decide which tensors there are: rank = { default = 32, "
        "text_encoder = 0 }. Norms, biases and embeddings are in no LoRA; mergekit's tool saves embeddings whole.",
        cite="Hu et al. 2021, arXiv:2106.09685; kohya-ss sd-scripts; mergekit-extract-lora; Eckart & Young 1936; Halko "
        "et al. 2011, arXiv:0909.4061",
        exact=False,
    ),
    Method(
        name="resize_lora",
        inputs=("a",),
        parameters=(
            Parameter("rank", "of all modules that have more; 0 leaves them as they are", default=_ZERO, low=_ZERO),
            _ENERGY,
        ),
        formula="up = U_r sqrt(S_r), down = sqrt(S_r) V_r^T of the singular value decomposition of scale * up @ down",
        summary="A LoRA of a smaller rank that comes nearest to another one.",
        makes=MergedLoras(),
        differs="ranks follow from headers alone: where `energy` asks for less, the factors beyond are zeros, which "
        "kohya's tool cuts off",
        cite="kohya-ss sd-scripts; Eckart & Young 1936",
        exact=False,
    ),
    Method(
        name="merge_loras",
        inputs=("loras",),
        parameters=(
            Parameter("strength", "how much of each LoRA; 1 is what it was trained for", per="model",
                      default=Fraction(1)),
            Parameter("rank", "cut the sum to this rank; 0: ranks are added up, and nothing is lost", default=_ZERO,
                      low=_ZERO),
            _ENERGY,
        ),
        formula="sum_i strength_i * dW_i, exactly, as one product of all factors side by side; cut to a rank as by "
        "resize_lora",
        summary="LoRAs put together into one that does what all of them do, named as the first.",
        makes=MergedLoras(),
        differs="exact, where kohya's and supermerger's tools add up `up` and `down` each, which is not the sum of "
        "what the LoRAs do; modules with alpha 0 add nothing, where supermerger divides by it",
        cite="kohya-ss sd-scripts (--concat); PEFT (cat, svd)",
        exact=False,
        reference="peft",
    ),
)  # fmt: skip
