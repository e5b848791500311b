"""Rows of the methods that need several tensors at a time: those of the whole model, or of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mergebuild.methods.making import Surveyed, SurveyedOneByOne
from mergebuild.methods.method import Method, Parameter
from mergebuild.methods.scopes import attention_layers, channel_blocks, whole_model

__all__ = ["ROWS"]

_RANGE = (
    "low and high: the least and the greatest similarity over all tensors without their first and last percent. "
    "The VAE stays a's"
)

ROWS: Sequence[Method] = (
    Method(
        "cosine_a",
        ("a", "b"),
        (Parameter("alpha", "how much less of a: 0 favours a where the models are alike, 1 gives b"),),
        "(1 - k) * b + k * a, k = clamp((similarity - low) / (high - low) - |alpha|, 0, 1); similarity: half the "
        "cosine along the first dimension and half that of the whole, of tensors normalized along it; " + _RANGE,
        "Keep the structure of a where the models agree, with the details of b.",
        SurveyedOneByOne("model_wide", whole_model),
        aliases=("cosineA", "CosineA"),
        differs="A third model, which supermerger ignores, is an error; so are models without common tensors or that "
        "are equally alike everywhere. Tensors of whatever name take part, where supermerger wants `model` in it.",
        cite="supermerger; losslessmix",
        version=2,
    ),
    Method(
        "cosine_b",
        ("a", "b"),
        (Parameter("alpha", "how much less of a: 0 favours a where the models are alike, 1 gives b"),),
        "(1 - k) * b + k * a, k = clamp((similarity - low) / (high - low) - alpha, 0, 1); similarity: half the cosine "
        "along the first dimension and half that of the whole tensor; " + _RANGE,
        "Keep the structure of b where the models agree, with the details of a.",
        SurveyedOneByOne("model_wide", whole_model),
        aliases=("cosineB", "CosineB"),
        differs="As for cosine_a.",
        cite="supermerger; losslessmix",
        version=2,
    ),
    Method(
        "balance_attention",
        ("a",),
        (
            Parameter(
                "epsilon",
                "added to the energies, and the least they count as",
                default=Fraction(1, 10**6),
                low=Fraction(1, 10**30),
            ),
            Parameter(
                "form",
                "exchanged: each side gets the energy of the other, as in sd-mecha; equal: both get the same",
                kind="word",
                default="exchanged",
                choices=("exchanged", "equal"),
            ),
        ),
        "in each head S * Q and S^-1 * K for S = P^-1/2 (P^1/2 R P^1/2)^1/2 P^-1/2 (equal: its square root), "
        "P = Q Q^T + epsilon, R = K K^T + epsilon, and likewise for V and O^T",
        "Bring attention layers into a common form before merging. Changes nothing in what the model computes.",
        Surveyed("attention", attention_layers, ("epsilon", "form")),
        differs="sd-mecha takes heads of 64 rows everywhere, which is wrong for SD1 (8 heads of 40 to 160 rows), and "
        "has only SDXL. It adds epsilon to the wrong entries where a layer has several heads. Its formula exchanges "
        'the energies of both sides; form = "equal" makes them equal.',
        cite="sd-mecha",
        exact=False,
        reference="sd-mecha",
    ),
    Method(
        "rebasin",
        ("a", "b"),
        (
            Parameter(
                "head_width",
                "the size of an attention head, for models named as Llama is; 0: leave their attention as it is",
                kind="integer",
                default=Fraction(0),
                low=Fraction(0),
            ),
        ),
        "a with its hidden channels in the order in which their scalar product with b's is greatest",
        "Bring the hidden channels of a model into the order of another's before merging: for models trained from "
        "different starts. Changes nothing in what the model computes.",
        Surveyed("permutation", channel_blocks, ("head_width",)),
        aliases=("git_rebasin", "weight_matching"),
        differs="Only channels that can be reordered without any others are, so that each order is found exactly and "
        "in one pass: no iterations, no seed. sd-meh reorders three layers of the UNet in a random sequence. Beyond "
        "sd-mecha's, heads and the channels in residual blocks are reordered, within their norm groups.",
        cite="Ainsworth et al. 2022, arXiv:2209.04836; Kuhn 1955; Jonker & Volgenant 1987",
        exact=False,
    ),
)
