"""`adapter_config.json`: where an adapter has it, and the one for an adapter that we make, so that PEFT loads it.

For factors that we made, ranks are those of the tensors, every alpha equals its rank, and adapted modules are listed by
their full names, as a short name such as `q_proj` would also match other layers. Factors that were only copied or
scaled keep their own configuration unchanged, which defines their meaning.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Final

from mergebuild.formats.model import Model
from mergebuild.lora.kind import lacks_scale
from mergebuild.lora.modules import PEFT
from mergebuild.lora.roles import role_of
from mergebuild.naming.memory import has_transposed

__all__ = ["ADAPTER_METADATA", "adapter_config", "adapter_json", "adapter_metadata"]

ADAPTER_METADATA = "lora_adapter_metadata"
"""The key that diffusers uses for an adapter's configuration in a file's metadata."""
_MOST: Final = 1 << 24
"""The most characters of a configuration in a file's metadata."""

_TASKS: Final = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}
"""PEFT's names for a model's task, by the end of its class's name."""
_HUB: Final = re.compile(r"[\w.-]+/[\w.-]+")
_KEPT: Final = ("base_model_name_or_path", "revision", "task_type", "fan_in_fan_out", "modules_to_save", "bias")
"""Members that a new adapter keeps from the one that it is made of."""


def adapter_config(model: Model) -> Mapping[str, object] | None:
    """Return an adapter's configuration, from a folder of PEFT or from a file's metadata; None if it has none."""
    if model.format == "peft":
        return model.facts
    text = model.metadata.get(ADAPTER_METADATA, "")
    try:
        found = json.loads(text) if len(text) <= _MOST else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def adapter_json(
    tensors: Mapping[str, tuple[int, ...]],
    beside: Mapping[str, object],
    own: Mapping[str, object] | None = None,
) -> bytes:
    """Return the text of the configuration of a new adapter.

    Args:
        tensors: Shapes of its tensors by name.
        beside: The configuration of the adapter that it is made of, or `config.json` of the model; empty if there is
            none.
        own: The configuration that defines the meaning of its factors, if we did not make them.
    """
    found = _made(tensors, beside) if own is None else own
    return (json.dumps(found, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def adapter_metadata(
    tensors: Mapping[str, tuple[int, ...]],
    beside: Mapping[str, object],
    own: Mapping[str, object] | None = None,
) -> Mapping[str, str]:
    """Return the metadata of a single file that defines the meaning of its factors; empty if its tensors do.

    The arguments are those of `adapter_json`.
    """
    found = own if own is not None else _made(tensors, beside) if lacks_scale(tensors) else None
    return {} if found is None else {ADAPTER_METADATA: json.dumps(found, sort_keys=True, ensure_ascii=False)}


def _made(tensors: Mapping[str, tuple[int, ...]], beside: Mapping[str, object]) -> Mapping[str, object]:
    """Return the configuration of an adapter whose factors we made."""
    ranks = {
        role.module.removeprefix(PEFT): shape[0]
        for name, shape in tensors.items()
        if (role := role_of(name)) is not None and role.role == "down"
    }
    ((most, _),) = Counter(ranks.values()).most_common(1)
    others = {module: rank for module, rank in sorted(ranks.items()) if rank != most}
    found: dict[str, object] = {
        "base_model_name_or_path": None,
        "bias": "none",
        "fan_in_fan_out": has_transposed(beside),
        "inference_mode": True,
        "lora_alpha": most,
        "lora_dropout": 0.0,
        "alpha_pattern": others,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": most,
        "rank_pattern": others,
        "target_modules": sorted(ranks),
        "task_type": _task(beside),
        "use_rslora": False,
    }
    if "peft_type" in beside:
        found |= {name: beside[name] for name in _KEPT if name in beside}
        if not _HUB.fullmatch(str(found["base_model_name_or_path"])):  # a path on the machine where it was trained
            found["base_model_name_or_path"] = None
    return found


def _task(config: Mapping[str, object]) -> str | None:
    classes = config.get("architectures")
    name = str(classes[0]) if isinstance(classes, list) and classes else ""
    return next((task for end, task in _TASKS.items() if name.endswith(end)), None)
