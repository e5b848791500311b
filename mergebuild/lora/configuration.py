"""`adapter_config.json`: where an adapter has it, and the one for an adapter that we make, so that PEFT loads it.

In that of an adapter whose factors we made the ranks are those of the tensors, every alpha is its rank, and the modules
that it adapts are named in full: a short name such as `q_proj` would mean those of other layers too. Factors that were
only copied or scaled mean what their own configuration says, and keep it, whole.
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
_KEPT: Final = ("base_model_name_or_path", "revision", "task_type", "fan_in_fan_out", "modules_to_save", "bias")
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


def adapter_json(
    tensors: Mapping[str, tuple[int, ...]],
    beside: Mapping[str, object],
    own: Mapping[str, object] | None = None,
) -> bytes:
    """Return the text of the configuration of an adapter.

    Args:
        tensors: their shapes.
        beside: the configuration of the adapter which it was made of, or `config.json` of the model; empty where there
            is none.
        own: what says what its factors mean, where we did not make them.
    """
    found = _made(tensors, beside) if own is None else own
    return (json.dumps(found, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def adapter_metadata(
    tensors: Mapping[str, tuple[int, ...]],
    beside: Mapping[str, object],
    own: Mapping[str, object] | None = None,
) -> Mapping[str, str]:
    """Return what a single file says in its metadata of what its factors mean; nothing where its tensors say it.

    The arguments are those of `adapter_json`.
    """
    found = own if own is not None else _made(tensors, beside) if lacks_scale(tensors) else None
    return {} if found is None else {ADAPTER_METADATA: json.dumps(found, sort_keys=True, ensure_ascii=False)}


def _made(tensors: Mapping[str, tuple[int, ...]], beside: Mapping[str, object]) -> Mapping[str, object]:
    """Return the configuration of an adapter whose factors are all that is to be said."""
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
        if not _HUB.fullmatch(str(found["base_model_name_or_path"])):  # a path of somebody's machine
            found["base_model_name_or_path"] = None
    return found


def _task(config: Mapping[str, object]) -> str | None:
    classes = config.get("architectures")
    name = str(classes[0]) if isinstance(classes, list) and classes else ""
    return next((task for end, task in _TASKS.items() if name.endswith(end)), None)
