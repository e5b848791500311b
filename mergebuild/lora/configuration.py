"""`adapter_config.json`: where an adapter has it, and the one for an adapter that we make, so that PEFT loads it.

In ours the ranks are those of the tensors, every alpha is its rank, and the modules that it adapts are named in full: a
short name such as `q_proj` would mean those of other layers too.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from typing import Final

from mergebuild.formats.model import Model
from mergebuild.lora.modules import PEFT
from mergebuild.lora.roles import role_of

__all__ = ["ADAPTER_METADATA", "adapter_config", "adapter_json"]

ADAPTER_METADATA = "lora_adapter_metadata"
"""What diffusers calls an adapter's configuration in a file's metadata."""
_MOST: Final = 1 << 24
"""Characters of a configuration in a file's metadata."""

_TASKS: Final = {
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}
"""PEFT's words for what a model is for, by how its class's name ends."""
_HUB: Final = re.compile(r"[\w.-]+/[\w.-]+")
_KEPT: Final = ("base_model_name_or_path", "revision", "task_type", "fan_in_fan_out", "modules_to_save")
"""What an adapter keeps of the one that it is made of."""


def adapter_config(model: Model) -> Mapping[str, object] | None:
    """Return an adapter's configuration: of a folder of PEFT, or what diffusers writes into a file's metadata."""
    if model.format == "peft":
        return model.facts
    text = model.metadata.get(ADAPTER_METADATA, "")
    try:
        found = json.loads(text) if len(text) <= _MOST else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def adapter_json(tensors: Mapping[str, tuple[int, ...]], beside: Mapping[str, object]) -> bytes:
    """Return the configuration of an adapter with these tensors.

    `beside`: that of the adapter which it was made of, or `config.json` of the model; empty where there is none.
    """
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
        "fan_in_fan_out": False,
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
        if not _HUB.fullmatch(str(found["base_model_name_or_path"])):  # a path of somebody's machine
            found["base_model_name_or_path"] = None
    return (json.dumps(found, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _task(config: Mapping[str, object]) -> str | None:
    classes = config.get("architectures")
    name = str(classes[0]) if isinstance(classes, list) and classes else ""
    return next((task for end, task in _TASKS.items() if name.endswith(end)), None)
