"""The targets of a graph: what its save nodes write.

Pictures and many graphs save no model, they only draw with one. Then it is the models that others than merging nodes
take which become targets, where something was merged, with the text encoder and the VAE that the picture was made with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Final, Literal

from mergebuild.exchange.comfy.assembly import MOST_TARGETS, Assembly, Keys, root_of
from mergebuild.exchange.comfy.blocks import BLOCK_NODES
from mergebuild.exchange.comfy.graph import ComfyNode, Graph, Link, bad_graph, in_order
from mergebuild.exchange.comfy.values import HANDLED, Gap, Loaded, Made, Role, Subtracted, Values, text_input
from mergebuild.exchange.decimals import number_of
from mergebuild.exchange.draft import Draft

__all__ = ["add_targets"]

_UNETS: Final = frozenset({"ModelMergeBlocks", "ModelMergeSD1", "ModelMergeSD2", "ModelMergeSDXL"})
"""Nodes for models whose main part is a UNet; those of others have a transformer."""
_SAVED: Final = {
    "CheckpointSave": "checkpoints/ComfyUI",
    "ImageOnlyCheckpointSave": "checkpoints/ComfyUI",
    "ModelSave": "diffusion_models/ComfyUI",
    "CLIPSave": "clip/ComfyUI",
    "VAESave": "vae/ComfyUI_vae",
    "LoraSave": "loras/ComfyUI_extracted_lora",
}
_CHECKPOINTS: Final = frozenset({"CheckpointSave", "ImageOnlyCheckpointSave"})
_CLAMPED: Final = Decimal("0.99")
"""The quantile at which LoRAs are clamped that a node extracts."""


def add_targets(graph: Graph, draft: Draft, shown: str, stem: str) -> None:
    """Add what a graph saves, or else what it draws with, to a draft.

    Args:
        graph: The graph.
        draft: What is added to.
        shown: The file's name, in messages.
        stem: The name of a target that the graph has no name for.

    Raises:
        RecipeError: nothing is merged or saved, the graph goes in a circle, or it makes too many models.
    """
    savers = [node for node in graph.values() if node.kind in _SAVED]
    if len(savers) > MOST_TARGETS:
        raise bad_graph(f"the graph saves {len(savers):,} files, and at most {MOST_TARGETS:,} are read", shown)
    values = Values(graph)
    for node in in_order(graph, [node.id for node in savers] or list(graph), shown):
        values.add(node)
    saves = _Saves(draft, values, shown)
    for node in savers:
        saves.add(node)
    if not savers:
        saves.add_drawn_with(stem)
    for node, message in values.losses:
        draft.leave_out(f"{shown}: node {node.id}", f"{node.shown}: {message}")
    draft.comments.extend(f"{node.shown}: {message}" for node, message in values.notes)


class _Saves:
    """The save nodes of one graph."""

    def __init__(self, draft: Draft, values: Values, shown: str) -> None:
        self.draft, self.values, self.shown = draft, values, shown
        merges = values.kinds & BLOCK_NODES
        self.component: Literal["unet", "transformer"] = "transformer" if merges and not merges & _UNETS else "unet"
        self.assembly = Assembly(draft, shown, self.component)

    def add(self, node: ComfyNode) -> None:
        """Add what a node saves; what is not known of it is left out."""
        name, output = _name_of(node)
        if node.kind == "LoraSave":
            self._add_lora(node, name, output)
            return
        roles: list[Role] = [role for role in ("model", "clip", "vae") if role in _roles_of(node)]
        parts = {role: self.values.input(node, role, role) for role in roles}
        lead = parts[roles[0]]
        if isinstance(lead, Gap):
            self._leave_out(node, f"{node.shown} saves what can't be mapped: {lead.reason}")
            return
        made: dict[Role, Made] = {role: part for role, part in parts.items() if not isinstance(part, Gap)}
        target = self._add(node, name, output, made, keep_all=node.kind in _CHECKPOINTS)
        for role, part in parts.items():
            if isinstance(part, Gap):
                self._leave_out(node, f"its {_NOUNS[role]}: {part.reason}", target)

    def _add(
        self, node: ComfyNode | None, name: str, output: str, made: dict[Role, Made], *, keep_all: bool
    ) -> str | None:
        """Add a target of parts, and return its name; None: what it has can't be said."""
        lead = next(iter(made.values()))
        if not keep_all and lead.is_split:
            self._leave_out(node, "a text encoder of several files is several files there")
            return None
        keys = self._keys(made)
        if not keep_all and root_of(lead).is_whole:
            others = {"model": self.component, "clip": "text_encoder", "vae": "vae"}
            keys["drop"] = [word for role, word in others.items() if role != lead.role]
        keys["output"] = self.draft.free_output(output)
        if self.component == "unet" and root_of(lead).is_whole:
            keys["dtype"] = "float16"
        target = self.assembly.add(name, keys, [node.shown] if node else [])
        if "dtype" in keys:
            self.draft.targets[target].notes["dtype"] = "ComfyUI saves what it computes with, usually this"
        return target

    def _keys(self, made: dict[Role, Made]) -> Keys:
        """Return the keys that make parts: what the first one is loaded with stays, unless it comes from elsewhere."""
        model, clip, vae = made.get("model"), made.get("clip"), made.get("vae")
        if model is None and clip is None:
            assert isinstance(vae, Loaded)
            return {"method": "copy", "a": self.assembly.file(vae)}
        keys = self.assembly.keys(model, clip)
        root = root_of(model or clip)  # type: ignore[arg-type]
        if isinstance(vae, Loaded) and not (root.is_whole and vae.is_whole and vae.files == root.files):
            components = keys.setdefault("components", {})
            assert isinstance(components, dict)
            components["vae"] = self.assembly.file(vae)
        return keys

    def _add_lora(self, node: ComfyNode, name: str, output: str) -> None:
        """Add a LoRA that is extracted: from the difference of two models, or of their text encoders too."""
        rank = number_of(node.inputs.get("rank", 8))
        model, clip = self._difference(node, "model"), self._difference(node, "clip")
        lead = model or clip
        if lead is None or rank is None or text_input(node, "lora_type") == "full_diff":
            self._leave_out(node, f"{node.shown}: it saves no low rank of a difference of two models")
            return
        both = model and clip
        keys: Keys = {"method": "extract_lora"}
        keys["base"] = self.assembly.input(model and model.second, clip and clip.second)
        keys["a"] = self.assembly.input(model and model.first, clip and clip.first)
        keys |= {"rank": rank, "conv_rank": rank, "clamp_quantile": _CLAMPED}
        if not both and root_of(lead).is_whole:
            keys["drop"] = ["text_encoder" if model else self.component]
        target = self.assembly.add(name, keys | {"output": self.draft.free_output(output)}, [node.shown])
        if node.inputs.get("bias_diff", True) is not False:
            self._leave_out(node, "differences of biases are in no LoRA that is extracted here", target)

    def _difference(self, node: ComfyNode, role: Role) -> Subtracted | None:
        found = self.values.input(node, {"model": "model_diff", "clip": "text_encoder_diff"}[role], role)
        return found if isinstance(found, Subtracted) and found.factor == 1 else None

    def add_drawn_with(self, stem: str) -> None:
        """Add the models that are drawn with, where one is merged of something.

        Raises:
            RecipeError: none is.
        """
        taken = {role: list(self._taken(role)) for role in ("model", "clip", "vae")}
        models = [model for model in taken["model"] if not isinstance(model, Loaded)]
        if not models:
            gaps = [value.reason for value in self.values.made.values() if isinstance(value, Gap)]
            raise bad_graph(
                "; ".join(["it merges no models that are known here", *dict.fromkeys(gaps[:5])]), self.shown
            )
        for model in models:
            made: dict[Role, Made] = {"model": model}
            made |= {role: taken[role][0] for role in ("clip", "vae") if len(taken[role]) == 1}
            target = self._add(None, stem, f"{stem}.safetensors", made, keep_all=True)
            self.draft.say(self.shown, "the graph saves no model: it draws with this one", target=target)
            for role in ("clip", "vae"):
                if len(taken[role]) > 1:
                    self.draft.say(
                        self.shown, f"it draws with several: its {_NOUNS[role]} is the first input's", target=target
                    )

    def _taken(self, role: str) -> Iterable[Made]:
        """Return the values that nodes take of which nothing is known here, each once."""
        links = (link for node in self.values.graph.values() if node.kind not in HANDLED for link in _links(node))
        found = (self.values.made.get(link) for link in links)
        return dict.fromkeys(value for value in found if value and not isinstance(value, Gap) and value.role == role)

    def _leave_out(self, node: ComfyNode | None, message: str, target: str | None = None) -> None:
        self.draft.leave_out(f"{self.shown}: node {node.id[:40]}" if node else self.shown, message, target=target)


_NOUNS: Final = {"model": "model", "clip": "text encoder", "vae": "VAE"}


def _roles_of(node: ComfyNode) -> tuple[str, ...]:
    match node.kind:
        case "CheckpointSave":
            return ("model", "clip", "vae")
        case "ImageOnlyCheckpointSave":
            return ("model", "vae")
    return (node.kind.removesuffix("Save").lower(),)


def _links(node: ComfyNode) -> Iterator[Link]:
    return (value for value in node.inputs.values() if isinstance(value, Link))


def _name_of(node: ComfyNode) -> tuple[str, str]:
    """Return the target's name and the path of what a node writes, which has a number behind its prefix."""
    prefix = text_input(node, "filename_prefix").strip() or _SAVED[node.kind]
    return prefix.replace("\\", "/").rstrip("/").rpartition("/")[2], f"{prefix}_00001_.safetensors"
