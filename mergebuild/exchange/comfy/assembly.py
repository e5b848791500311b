"""Puts the parts that are saved together, or that are an input together, into sources and targets.

In a graph a model, its text encoder and its VAE go separate ways; in a mergefile they are parts of one input. Where a
text encoder went the way of its model (from one loader, through the same LoRAs, through merges of the same two), one
target has both, with a number for each. One that went another way is a component from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Final, Literal

from mergebuild.exchange.comfy.blocks import WHOLE, keys_of, without_wrapper
from mergebuild.exchange.comfy.graph import ComfyNode, bad_graph
from mergebuild.exchange.comfy.values import Loaded, Made, Mixed, Patched, Subtracted, Summed
from mergebuild.exchange.draft import Draft, DraftTarget, Value

__all__ = ["MOST_TARGETS", "Assembly", "Keys", "root_of"]

Keys = dict[str, Value]
"""The keys of a target."""

MOST_TARGETS: Final = 1_000
_TEXT: Final = "text_encoder"
_WITH_UNET: Final = frozenset({"sd15", "sd2", "sdxl"})
_ENCODERS: Final = {"clip_l": ("clip_l", "clip-l", "vit-l"), "clip_g": ("clip_g", "clip-g", "bigg"), "t5": ("t5",)}
"""Components that are text encoders, and what files of them have in their names."""


class Assembly:
    """The targets of one graph; parts that are needed several times are made once."""

    def __init__(self, draft: Draft, where: str, component: Literal["unet", "transformer"]) -> None:
        self.draft = draft
        self.where = where
        self.component = component
        self._named: dict[tuple[Made | None, Made | None], str] = {}
        self._belonging: dict[tuple[Made, Made], bool] = {}

    def input(self, model: Made | None, clip: Made | None = None) -> str:
        """Return the name of the source or target that has a model, a text encoder, or both.

        Raises:
            RecipeError: the graph makes too many targets.
        """
        known = self._named.get((model, clip))
        if known is None:
            known = self._named[model, clip] = self._source(model, clip) or self._target(model, clip)
        return known

    def keys(self, model: Made | None, clip: Made | None = None) -> Keys:
        """Return the keys of a target that has a model, a text encoder, or both; what else it has is the first input's.

        Raises:
            RecipeError: as `input`.
        """
        if model is not None and clip is not None and not self._belongs(model, clip):
            return self._joined(model, clip)
        lead = model or clip
        assert lead is not None, "a target has some part"
        if model is not None and isinstance(clip, Patched) and _form(model) == _form(_stripped(clip)[0]):
            return self._patched(model, clip)  # patched after both were merged alike
        match lead:
            case Loaded():
                return {"method": "copy", "a": self.file(lead)}
            case Patched():
                return self._patched(model, clip)
            case Mixed():
                return self._mixed(lead, clip if model else None)
            case Summed():
                return self._summed(lead, clip if model else None)
            case Subtracted():
                return self._subtracted(lead, clip if model else None)

    def add(self, name: str, keys: Keys, comments: Iterable[str] = ()) -> str:
        """Add a target, and return its name."""
        added = self.draft.target(name, keys, comments=comments)
        self.draft.once_found.append((added, _as_the_model_has_it))
        return added

    def components(self, clip: Made) -> dict[str, Value]:
        """Return the components that are a text encoder: one, or those of several files, by the names of these."""
        if not clip.is_split:
            return {_TEXT: self.input(None, clip)}
        if not isinstance(clip, Loaded):
            self.draft.leave_out(
                self.where, f"{clip.node.shown} changes a text encoder that is loaded from several files"
            )
            return {}
        found: dict[str, Value] = {}
        for file in clip.files:
            name = next(
                (name for name, marks in _ENCODERS.items() if any(mark in file.text.lower() for mark in marks)), ""
            )
            if name and name not in found:
                found[name] = self.draft.source(file)
            else:
                self.draft.leave_out(self.where, f"which text encoder {file.text[:100]} is does not show in its name")
        return found

    def file(self, value: Loaded) -> str:
        """Return the source that a part is loaded from; of several files the first."""
        return self.draft.source(value.files[0])

    def _source(self, model: Made | None, clip: Made | None) -> str | None:
        """Return the source that has both parts as they are; None: it takes a target."""
        if all(isinstance(part, Loaded) and len(part.files) == 1 for part in (model, clip) if part):
            lead = model or clip
            assert isinstance(lead, Loaded)
            return self.file(lead) if not (model and clip) or self._belongs(model, clip) else None
        return None

    def _target(self, model: Made | None, clip: Made | None) -> str:
        if len(self._named) >= MOST_TARGETS:
            raise bad_graph(f"the graph makes more than {MOST_TARGETS:,} models on the way", self.where)
        lead = model or clip
        assert lead is not None
        keys = self.keys(model, clip)
        return self.add(self._wished(lead, keys), keys, _said(lead))

    def _wished(self, lead: Made, keys: Keys) -> str:
        """Return a name for a target on the way: that of what is patched with its LoRAs, or of its node."""
        if isinstance(lead, Patched):
            loras = keys["loras"]
            assert isinstance(loras, list)
            names = [str(each["lora"] if isinstance(each, dict) else each) for each in loras]
            return "-".join([str(keys["base"]), *names])[:60]
        return "joined" if isinstance(lead, Loaded) else f"merge-{lead.node.id[:40]}"

    def _joined(self, model: Made, clip: Made) -> Keys:
        """Return the keys of a model with a text encoder that does not come along with it."""
        if isinstance(model, Mixed) and root_of(model).is_whole and self._belongs(model.second, clip):
            table = self._table(_shares(model), Decimal(1), is_whole=True)
            inputs: Keys = {"a": self.input(model.first), "b": self.input(model.second, clip)}
            return {"method": "weighted_sum", **inputs, "alpha": table}
        return self.keys(model) | {"components": self.components(clip)}

    def _patched(self, model: Made | None, clip: Made | None) -> Keys:
        bare_model, on_model = _stripped(model)
        bare_clip, on_clip = _stripped(clip)
        lead = model or clip
        assert lead is not None
        is_whole = root_of(lead).is_whole
        keys: Keys = {"method": "add_lora", "base": self.input(bare_model, bare_clip)}
        keys |= _lora_keys([self._lora(pair, is_whole=is_whole) for pair in _paired(on_model, on_clip)])
        return keys if is_whole else keys | {"allow_unmatched": True}

    def _lora(self, pair: tuple[Patched | None, Patched | None], *, is_whole: bool) -> tuple[str, Value]:
        """Return a LoRA's source, and how much of it goes where."""
        lead = pair[0] or pair[1]
        assert lead is not None
        if not is_whole:
            return self.draft.source(lead.lora), lead.strength
        # what no number reaches would get all of a LoRA
        strengths = [each.strength if each else Decimal(0) for each in pair]
        table = self._table({WHOLE: strengths[0]}, strengths[1], is_whole=True)
        return self.draft.source(lead.lora), table

    def _mixed(self, lead: Mixed, clip: Made | None) -> Keys:
        first, second, share = self._operands(lead, clip)
        table = self._table(_shares(lead), share, is_whole=root_of(lead).is_whole, role=lead.role)
        return {"method": "weighted_sum", "a": first, "b": second, "alpha": table}

    def _operands(self, lead: Mixed, clip: Made | None) -> tuple[str, str, Decimal | None]:
        """Return the inputs of a merge, and the share of the second one's text encoder where both merge."""
        if lead.role == "clip":
            return self.input(None, lead.first), self.input(None, lead.second), None
        if not isinstance(clip, Mixed):
            return self.input(lead.first, clip), self.input(lead.second), None
        assert isinstance(clip.share, Decimal), "text encoders have no blocks here"
        if self._belongs(lead.first, clip.second) and not self._belongs(lead.first, clip.first):
            return self.input(lead.first, clip.second), self.input(lead.second, clip.first), 1 - clip.share
        return self.input(lead.first, clip.first), self.input(lead.second, clip.second), clip.share

    def _summed(self, lead: Summed, clip: Made | None) -> Keys:
        other = clip if isinstance(clip, Summed) else None
        first = self._beside(lead, lead.first, other.first if other else clip)
        if not isinstance(lead.second, Subtracted):
            second = self._beside(lead, lead.second, other.second if other else None)
            return {"method": "add", "a": first, "b": second} | self._limits(lead, both=other is not None)
        minus = other.second if other else None
        assert minus is None or isinstance(minus, Subtracted)
        keys: Keys = {"method": "add_difference", "a": first}
        keys["b"] = self._beside(lead, lead.second.first, minus.first if minus else None)
        keys["c"] = self._beside(lead, lead.second.second, minus.second if minus else None)
        return keys | {"alpha": self._factors(lead, lead.second.factor, minus)}

    def _subtracted(self, lead: Subtracted, clip: Made | None) -> Keys:
        other = clip if isinstance(clip, Subtracted) else None
        first = self._beside(lead, lead.first, other.first if other else clip)
        second = self._beside(lead, lead.second, other.second if other else None)
        if lead.factor == 1 and (other is None or other.factor == 1):
            return {"method": "subtract", "a": first, "b": second} | self._limits(lead, both=other is not None)
        return {"formula": f"x * ('{first}' - '{second}')", "x": self._factors(lead, lead.factor, other)}

    def _beside(self, lead: Made, part: Made, clip: Made | None) -> str:
        return self.input(None, part) if lead.role == "clip" else self.input(part, clip)

    def _factors(self, lead: Made, factor: Decimal, other: Subtracted | None) -> Value:
        is_whole = root_of(lead).is_whole
        return self._table({WHOLE: factor}, other.factor if other else None, is_whole=is_whole, role=lead.role)

    def _limits(self, lead: Made, *, both: bool) -> Keys:
        """Return which tensors are merged, of inputs that have others."""
        if not root_of(lead).is_whole:
            return {}
        return {"merge": _TEXT if lead.role == "clip" else [self.component, _TEXT] if both else self.component}

    def _table(
        self, shares: Mapping[str, Decimal], text: Decimal | None, *, is_whole: bool, role: str = "model"
    ) -> Value:
        """Return a number for each part: one number, where the inputs have one part only."""
        if not is_whole and set(shares) == {WHOLE}:
            return shares[WHOLE]
        if not is_whole:
            shares = {without_wrapper(key): number for key, number in shares.items()}
        own = _TEXT if role == "clip" else self.component if is_whole else "default"
        table: dict[str, Value] = {key or own: number for key, number in shares.items()}
        return table | ({_TEXT: text} if text is not None else {})

    def _belongs(self, model: Made, clip: Made) -> bool:
        """Whether a text encoder went the way of a model, so that one input or target has both."""
        known = self._belonging.get((model, clip))
        if known is None:
            known = self._belonging[model, clip] = self._goes_along(model, clip)
        return known

    def _goes_along(self, model: Made, clip: Made) -> bool:
        if isinstance(model, Patched) or isinstance(clip, Patched):
            return self._belongs(_stripped(model)[0], _stripped(clip)[0])  # type: ignore[arg-type]
        if isinstance(model, Loaded):
            return model.is_whole and isinstance(clip, Loaded) and clip.is_whole and clip.files == model.files
        if _form(model) == _form(clip):
            assert not isinstance(clip, (Loaded, Patched))
            same = self._belongs(model.first, clip.first)
            return same or (isinstance(model, Mixed) and self._belongs(model.first, clip.second))
        return self._belongs(model.first, clip)


def _as_the_model_has_it(target: DraftTarget, layout: str | None) -> None:
    """Name the main part of a model as its layout does, where that is known: what is no UNet is a transformer."""
    if layout is not None and layout not in _WITH_UNET:
        target.keys = {key: _renamed(value) for key, value in target.keys.items()}


def _renamed(value: Value) -> Value:
    match value:
        case "unet":
            return "transformer"
        case list():
            return [_renamed(each) for each in value]
        case dict():
            return {("transformer" if key == "unet" else key): _renamed(each) for key, each in value.items()}
    return value


def root_of(value: Made) -> Loaded:
    """Return what a value is loaded from first: it gives a target all that is not merged."""
    while not isinstance(value, Loaded):
        value = value.base if isinstance(value, Patched) else value.first
    return value


def _form(value: Made | None) -> tuple[type, bool]:
    """Return what two parts must have in common to be made by one target."""
    return type(value), isinstance(value, Summed) and isinstance(value.second, Subtracted)


def _shares(lead: Mixed) -> dict[str, Decimal]:
    return {WHOLE: lead.share} if isinstance(lead.share, Decimal) else keys_of(lead.node.kind, lead.share)


def _stripped(value: Made | None) -> tuple[Made | None, list[Patched]]:
    """Return a value without the LoRAs that were added last, and these in the order in which they were added."""
    loras: list[Patched] = []
    while isinstance(value, Patched):
        loras.append(value)
        value = value.base
    return value, loras[::-1]


def _paired(on_model: Iterable[Patched], on_clip: Iterable[Patched]) -> list[tuple[Patched | None, Patched | None]]:
    """Return the LoRAs of a model and of its text encoder, those of one node together."""
    left: dict[str, Patched] = {each.node.id: each for each in on_clip}
    pairs: list[tuple[Patched | None, Patched | None]] = [(each, left.pop(each.node.id, None)) for each in on_model]
    return [*pairs, *((None, each) for each in left.values())]


def _lora_keys(loras: list[tuple[str, Value]]) -> Keys:
    names: list[Value] = [name for name, _ in loras]
    strengths = [strength for _, strength in loras]
    if len(loras) == 1:
        return {"loras": names, "strength": strengths[0]}
    if not any(isinstance(strength, dict) for strength in strengths):
        return {"loras": names, "strength": strengths}
    return {"loras": [{"lora": name, "strength": strength} for name, strength in loras]}


def _said(lead: Made) -> list[str]:
    if isinstance(lead, Loaded):
        return []
    node: ComfyNode = lead.node
    named = f": {node.title[:80]}" if node.title and node.title != node.kind else ""
    return [f"{node.shown}{named}"]
