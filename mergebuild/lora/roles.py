"""What a tensor of a LoRA file is, by the end of its name: `lora_up`, `hada_w1_a`, `dora_scale`, ...

A name is a module followed by an ending. The known endings are few, so they can be cut off safely; the module before
them is never taken apart (`names.py`).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["UNSUPPORTED", "Factor", "Role", "is_saved", "role_of"]


class Factor(NamedTuple):
    """One tensor of a LoRA file, and its role in its family."""

    role: str
    """`up`, `down`, `mid`, `up_bias`; `w1_a` to `t2` of LoHa and LoKr; `alpha`, `scale`; `dora_scale`; `diff`,
    `diff_b`, `w_norm`, `b_norm`; `ia3`, `on_input`; `weight` and `bias`, which replace; `tokens`, which replaces rows.
    """
    tensor: str
    """Its name in the file."""


class Role(NamedTuple):
    """The name of a tensor of a LoRA file, taken apart; `group` distinguishes LoHa's `w1_a` from LoKr's."""

    module: str
    group: str
    role: str


_ENDINGS: Final[tuple[tuple[str, str, str], ...]] = (
    *((f"{joint}.{end}.weight", "lora", end) for joint in (".lora", ".lora_linear_layer", "_lora")
      for end in ("up", "down")),
    *((f".lora_{end}.weight", "lora", end) for end in ("up", "down", "mid")),
    (".lora_B.weight", "lora", "up"),
    (".lora_A.weight", "lora", "down"),
    (".lora_B.bias", "lora", "up_bias"),
    (".lora_embedding_B", "embedding", "up"),
    (".lora_embedding_A", "embedding", "down"),
    (".lora_magnitude_vector.weight", "peft_dora", "dora_scale"),
    (".lora_magnitude_vector", "peft_dora", "dora_scale"),
    (".dora_scale", "dora", "dora_scale"),
    *((f".hada_{end}", "loha", end) for end in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
    *((f".lokr_{end}", "lokr", end) for end in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
    (".ia3_l", "peft_ia3", "ia3"),
    (".on_input", "ia3", "on_input"),
    (".alpha", "scale", "alpha"),
    (".scale", "scale", "scale"),
    (".diff", "full", "diff"),
    (".diff_b", "full", "diff_b"),
    (".w_norm", "norm", "w_norm"),
    (".b_norm", "norm", "b_norm"),
    (".oft_blocks", "OFT", "blocks"),
    (".oft_diag", "OFT", "diag"),
    (".oft_R.weight", "OFT", "R"),
    (".oft_R", "OFT", "R"),
    (".oft_r", "OFT", "r"),
    (".boft_R", "BOFT", "R"),
    (".boft_s", "BOFT", "s"),
    *((f".{end}.weight", "GLoRA", end) for end in ("a1", "a2", "b1", "b2")),
    (".lora_E", "AdaLoRA", "E"),
    (".vera_lambda_b", "VeRA", "b"),
    (".vera_lambda_d", "VeRA", "d"),
    (".token_adapter.trainable_tokens_delta", "tokens", "tokens"),
    (".trainable_tokens_delta", "tokens", "tokens"),
    (".base_layer.weight", "plain", "weight"),
    (".base_layer.bias", "plain", "bias"),
    (".weight", "plain", "weight"),
    (".bias", "plain", "bias"),
)  # fmt: skip

UNSUPPORTED: Final = frozenset({"OFT", "BOFT", "GLoRA", "AdaLoRA", "VeRA"})
"""Groups that are recognized only to be refused by name."""

_ADAPTER: Final = re.compile(
    r"(\.(?:lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|hada_[wt][12](?:_[ab])?|lokr_[wt][12](?:_[ab])?|ia3_l"
    r"|trainable_tokens_delta))"
    r"\.(?!(?:weight|bias)$)[^.]+(?=$|\.weight$|\.bias$)"
)
"""PEFT appends the adapter's name (`default`) in files that were not saved with `save_pretrained`."""
_SAVED: Final = re.compile(r"\.modules_to_save(?:(?=\.(?:weight|bias)$)|\.[^.]+(?=\.))")
"""What PEFT inserts in such files into names of modules that are trained whole."""
_ORIGINAL: Final = ".original_module."
"""In such files, names of the model's own tensors beside trained ones contain this."""
_NUMBERED: Final = re.compile(r"(.+_lora[12])\.(up|down)\.weight")
"""XLabs puts the number of one of Flux's two streams into the module's name."""


def is_saved(name: str) -> bool:
    """Return whether a tensor's name says that PEFT trained its module whole."""
    return _SAVED.search(name) is not None


def role_of(name: str) -> Role | None:
    """Return the role of a tensor by its name; None if its ending is unknown."""
    if numbered := _NUMBERED.fullmatch(name):
        return Role(numbered[1], "lora", numbered[2])
    if _ORIGINAL in name:
        return Role(name.rpartition(".")[0], "original", "original")
    plain = _SAVED.sub("", _ADAPTER.sub(r"\1", name))
    for ending, group, role in _ENDINGS:
        if plain.endswith(ending) and len(plain) > len(ending):
            return Role(plain[: -len(ending)], group, role)
    return None
