"""Rows of stacks of experts, and of the gates that choose among them."""

from __future__ import annotations

from fractions import Fraction

from mergebuild.methods.making import Experts, PromptGate, RandomGate
from mergebuild.methods.method import Method, Parameter

__all__ = ["PROMPT_GATE", "RANDOM_GATE", "ROWS"]

RANDOM_GATE = Method(
    name="random_gate",
    inputs=(),
    parameters=(Parameter("seed", "which numbers", kind="integer"),),
    formula="standard normal numbers",
    summary="the gates of a layer, drawn",
    makes=RandomGate("experts"),
)
"""Makes gates that are drawn. No recipe can name it, so it is not in the catalog."""

PROMPT_GATE = Method(
    name="prompt_gate",
    inputs=("models",),
    parameters=(),
    formula="e / |e|, e = s(prompts) - s(negative_prompts), s the sum of the tokens' embeddings, divided by its length",
    summary="the gates of a layer, of the embeddings of words",
    makes=PromptGate(),
)
"""Makes gates of prompts. No recipe can name it either."""

ROWS = (
    Method(
        name="moe",
        inputs=("base", "models"),
        parameters=(
            Parameter("gate", "how a token's experts are chosen: by vectors that are drawn, by the embeddings of "
                      "prompts, or by those of a source, `{ model = \"gates\" }`", kind="gate",
                      choices=("random", "prompts")),
            Parameter("experts_per_token", "how many experts each token is given to", kind="integer",
                      default=Fraction(2), low=Fraction(1)),
            Parameter("seed", "for random gates, which need it: which numbers", kind="integer", default=Fraction(0)),
            Parameter("prompts", "for gates of prompts: texts that the expert is for, with the token that begins a "
                      "text in front", kind="texts", per="model", default=""),
            Parameter("negative_prompts", "texts that it is not for", kind="texts", per="model", default=""),
        ),
        formula="layer i: attention and norms of base; expert n has gate_proj, up_proj and down_proj of model n as w1, "
        "w3 and w2; each token goes to the experts whose gates are most like it",
        summary="A mixture of experts in Mixtral's form, of models in Llama's or Mistral's, with the base's attention.",
        makes=Experts(),
        least_models=2,
        differs="random gates follow from a seed; a sliding window of the base stays; gates of hidden states need the "
        "model to run, so they are a source's: `gate = { model = \"gates\" }`",
        cite="Jiang et al. 2024 (Mixtral), arXiv:2401.04088; mergekit-moe",
        reference="mergekit",
    ),
)  # fmt: skip
