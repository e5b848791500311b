"""Keys and tables that are planned for later versions, each with what to use in this one."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["LATER_KEYS", "LATER_TABLES"]

_CHECKS = "`nonfinite` refuses NaN and Inf, and `mergebuild verify` reads again what was written"
_FAMILY = "a family of targets tries values: `foreach.alpha = [0.1, 0.2]`"
_PARTS = 'parts are chosen by `merge` and `drop`, such as `drop = ["vae"]`'
_SELECTORS = "a number has selectors as keys: `alpha = { default = 0.3, attn = 0.7 }`"
_BESIDE = "`config` names whose tokenizer and configuration go beside the weights of a folder"
_LORAS = "a LoRA is a source like any other, which `add_lora` takes in `loras`"
_DOWNLOAD = "download the file, and name its path and `url` in `[sources]`"
_COMMANDS = "run it before or after `mergebuild build`"
_ALPHA = "parameters are numbers of the target, such as `alpha = 0.3`"

LATER_KEYS: Mapping[str, str] = {
    "checks": _CHECKS,
    "searches": _FAMILY,
    "search": _FAMILY,
    "sweep": _FAMILY,
    "adjust": _ALPHA,
}
"""Keys of a target, each with what to do now."""

LATER_TABLES: Mapping[str, str] = {
    "checks": _CHECKS,
    "check": _CHECKS,
    "searches": _FAMILY,
    "search": _FAMILY,
    "sweeps": _FAMILY,
    "sweep": _FAMILY,
    "rules": _SELECTORS,
    "components": _PARTS,
    "slices": "slices are a list of a target: `[[targets.NAME.slices]]`",
    "tokenizer": "it is a key of a target: `[targets.NAME.tokenizer]`",
    "config": _BESIDE,
    "remotes": _DOWNLOAD,
    "remote": _DOWNLOAD,
    "caches": "`[project] store` names the one store, and `history` its size",
    "scripts": _COMMANDS,
    "plugins": "`mergebuild methods` shows what there is",
    "hooks": _COMMANDS,
    "loras": _LORAS,
}
"""Tables and keys at the top of a file, each with what to do now."""
