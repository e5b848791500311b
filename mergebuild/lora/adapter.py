"""What `adapter_config.json` says of an adapter that its tensors don't: scales, and the weights that it was made for.

The file may be untrusted, and its patterns are regular expressions, so all of them together have a limit of a few
seconds. Most are plain paths, which take practically no time.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Mapping
from fractions import Fraction
from typing import Final

from mergebuild.errors import Place, SourceError
from mergebuild.system.bounded_text import compiled
from mergebuild.system.time_limit import time_limit

__all__ = ["Adapter", "Fact"]

Fact = str | Fraction | bool | int
"""The value of a fact that the kernel is told besides the tensors."""

_TYPES: Final = {"LORA": "lora_alpha", "LOHA": "alpha", "LOKR": "alpha", "IA3": "", "TRAINABLE_TOKENS": ""}
"""The types of PEFT's adapters that are deltas of weights, and each one's name for alpha."""
_DEFAULT: Final = 8
"""PEFT's rank and alpha if the file has none."""
_ON_OTHER_WEIGHTS: Final = ("pissa", "corda", "olora", "loftq", "lora_ga")
"""Initializations that first subtract something from the base weights."""
_OTHER_FORMS: Final = (
    "alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "megatron_config",
    "monteclora_config", "target_parameters", "use_bdlora", "use_qalora", "velora_config",
)  # fmt: skip
"""Settings with which an adapter is more than a delta per tensor."""
_NOTHING: Final[Mapping[str, object]] = {}
_PLAIN: Final = re.compile(r"[\w.-]+")
"""Patterns without repetitions."""
_LIMIT: Final = 5.0
"""Seconds of processor time for all other patterns of an adapter together."""
_AGAIN: Final = "the file is damaged, or whatever wrote it is wrong: download or export it again"
_LARGEST: Final = sys.float_info.max
"""Integers in JSON may be of any length; larger ones are refused."""


class Adapter:
    """An adapter's configuration: parsed JSON, or those of several components as diffusers packs them in metadata."""

    def __init__(self, config: Mapping[str, object], shown: str = "") -> None:
        """Read a configuration; `shown` is the file's name in messages.

        Raises:
            SourceError: it asks for something that we can't do (`lora-unsupported`), or is malformed (`lora-config`).
        """
        self._where = Place(shown) if shown else None
        parts = {name.rpartition(".")[0] for name in config if name.endswith((".r", ".peft_type"))}
        self._parts = {
            part: {name[len(part) + 1 :]: value for name, value in config.items() if name.startswith(f"{part}.")}
            for part in parts
        } or {"": dict(config)}
        self._compiled: dict[str, re.Pattern[str]] = {}
        self._left = _LIMIT
        for settings in self._parts.values():
            self._check(settings)

    def rank(self, module: str) -> int:
        """Return the rank with which the adapter was made for a module; `module` is its name in the file."""
        settings, path = self._of(module)
        rank = self._number(settings, "rank_pattern", "r", path)
        if rank.denominator != 1 or rank < 1:
            raise self._malformed(f"has the rank {rank}, which is no positive whole number")
        return int(rank)

    def facts(self, module: str) -> tuple[tuple[str, Fact], ...]:
        """Return the alpha of a module, and whether it is divided by the root of the rank (`rslora`).

        Empty for a component for which diffusers packed no settings.
        """
        settings, path = self._of(module)
        if settings is _NOTHING:
            return ()
        word = _TYPES[self._type(settings)]
        if not word:
            return ()
        alpha = self._number(settings, "alpha_pattern", word, path)
        return (("alpha", alpha), ("rslora", True)) if settings.get("use_rslora") else (("alpha", alpha),)

    def fan_in_fan_out(self, module: str) -> bool:
        """Return whether the adapter's weights are stored as [in, out]."""
        return bool(self._of(module)[0].get("fan_in_fan_out"))

    def is_feedforward(self, module: str) -> bool:
        """Return whether IA3 scales the module's input, not its output."""
        settings, path = self._of(module)
        listed = settings.get("feedforward_modules") or ()
        if isinstance(listed, str):
            return self._matches(listed, path, whole=True)
        if not isinstance(listed, list | tuple):
            raise self._malformed("has `feedforward_modules` that are no list")
        return any(path == each or path.endswith(f".{each}") for each in listed)

    def tokens(self, module: str) -> tuple[int, ...]:
        """Return the rows of a module that the trained rows replace, in their order."""
        settings, path = self._of(module)
        listed = settings.get("trainable_token_indices") or settings.get("token_indices") or ()
        if isinstance(listed, Mapping):
            listed = next((some for name, some in listed.items() if path == name or path.endswith(f".{name}")), ())
        if not isinstance(listed, list | tuple) or not all(type(each) is int and each >= 0 for each in listed):
            raise self._malformed("has trained words that are no list of numbers")
        return tuple(listed)

    def _of(self, module: str) -> tuple[Mapping[str, object], str]:
        """Return the settings for a module, and its path for patterns."""
        if "" in self._parts:
            return self._parts[""], module.removeprefix("base_model.model.")
        part, _, path = module.partition(".")
        return self._parts.get(part, _NOTHING), path

    def _type(self, settings: Mapping[str, object]) -> str:
        return str(settings.get("peft_type") or "LORA").upper()

    def _check(self, settings: Mapping[str, object]) -> None:
        kind = self._type(settings)
        if kind not in _TYPES:
            raise self._unsupported(f"is an adapter of the kind `{kind[:40]}`")
        begun = str(settings.get("init_lora_weights", "")).lower()
        if kind == "LORA" and begun.startswith(_ON_OTHER_WEIGHTS):
            raise self._unsupported(f"was begun with `{begun[:40]}`, which changes the weights that it is added to")
        if kind == "LORA":
            other = next((name for name in _OTHER_FORMS if settings.get(name)), None)
            if other is not None:
                raise self._unsupported(f"uses `{other}`")

    def _number(self, settings: Mapping[str, object], patterns: str, word: str, path: str) -> Fraction:
        """Return the number of the first pattern that matches the path, or else the number of `word`."""
        table = settings.get(patterns) or {}
        if not isinstance(table, Mapping):
            raise self._malformed(f"has a `{patterns}` that is no table")
        fitting = [value for pattern, value in table.items() if self._matches(str(pattern), path)]
        value = fitting[0] if fitting else settings.get(word, _DEFAULT)
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST:
            return Fraction(value)
        raise self._malformed(f"has a `{patterns if fitting else word}` that holds no number")

    def _matches(self, pattern: str, path: str, *, whole: bool = False) -> bool:
        """Return whether a pattern matches the path, or, unless `whole`, the rest of it after some dot."""
        if _PLAIN.fullmatch(pattern) and not whole:
            start = len(path) - len(pattern)
            begins = start == 0 or (start > 0 and path[start - 1] == ".")
            return begins and self._pattern(pattern).fullmatch(path, start) is not None
        began = time.thread_time()
        try:
            with time_limit(self._left):
                return self._pattern(pattern if whole else rf"(.*\.)?({pattern})").fullmatch(path) is not None
        except re.error as error:
            raise self._malformed(f"has the pattern `{pattern[:60]}`, which is none: {error}") from error
        except TimeoutError:
            raise self._malformed(
                f"has patterns that take more than {_LIMIT:g} seconds to match, such as `{pattern[:60]}`",
                "write them without a repetition inside of a repetition, such as `(a*)*`",
            ) from None
        finally:
            self._left = max(self._left - (time.thread_time() - began), 0.01)

    def _pattern(self, text: str) -> re.Pattern[str]:
        """Return the compiled pattern, cached."""
        if text not in self._compiled:
            self._compiled[text] = compiled(text)
        return self._compiled[text]

    def _unsupported(self, what: str) -> SourceError:
        return SourceError.one(
            "lora-unsupported", f"the LoRA {what}, which this version can't add to a model", where=self._where,
            help="merge it with the tool that made it, and use the merged model as a source",
        )  # fmt: skip

    def _malformed(self, what: str, mend: str = _AGAIN) -> SourceError:
        return SourceError.one("lora-config", f"the LoRA's `adapter_config.json` {what}", where=self._where, help=mend)
