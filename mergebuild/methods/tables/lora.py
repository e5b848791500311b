"""LoRAs baked into a model: what each adds to a tensor is made of its factors, and summed up like any other input."""

from __future__ import annotations

from fractions import Fraction

from mergebuild.methods.method import Flags, Method, Numbers, Parameter

__all__ = ["DELTA", "ROWS"]


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
    kernel="lora",
    exact=False,
    by_parts=True,
)
"""Makes what `add_lora` sums up. Not in the catalog: it has no name that a recipe could use."""

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
        formula="base + Σ strengthᵢ · ΔWᵢ",
        summary="LoRAs baked into a model: LoRA, LoCon, Tucker, LoHa, LoKr, IA3, DoRA, rsLoRA, full differences and "
        "norms, of kohya's trainers, LyCORIS, PEFT and diffusers",
        coefficients=_add,
        differs="a tensor of a LoRA that finds no place is an error, where other tools go on without it; what is "
        "added is computed in float64 and rounded once",
        cite="Hu et al. 2021, arXiv:2106.09685; Yeh et al. 2023 (LyCORIS), arXiv:2309.14859; Liu et al. 2024 (DoRA), "
        "arXiv:2402.09353",
        reference="peft",
    ),
)  # fmt: skip
