"""What flows between nodes, as expressions: models, text encoders and VAEs, made of files, LoRAs and merges.

A merge of ComfyUI puts patches on a copy of its first model: what was patched before is scaled along, and the second
model is read as patched as it is. So a value is a function of the values that its node gets, and nothing else. A node
that makes no value, as it is unknown or was told nonsense, makes a `Gap`, which says why; so does all that needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Literal

from mergebuild.exchange.comfy.blocks import BLOCK_NODES
from mergebuild.exchange.comfy.graph import ComfyNode, Graph, Link
from mergebuild.exchange.decimals import complement, number_of
from mergebuild.exchange.draft import ModelName

__all__ = [
    "HANDLED",
    "Gap",
    "Loaded",
    "Made",
    "Mixed",
    "Patched",
    "Role",
    "Subtracted",
    "Summed",
    "Values",
    "text_input",
]

Role = Literal["model", "clip", "vae"]
Numbers = Decimal | Mapping[str, Decimal]
"""One number, or one for each prefix of the names of tensors; the first is that of what no prefix fits."""

_MOST_LORAS: Final = 100
"""LoRAs in a row."""
_DEEPEST: Final = 60
"""Merges in a row. Nobody's graph has as many, and the targets of one need each other as deep."""


@dataclass(frozen=True, eq=False, slots=True)
class Loaded:
    """A part of a file, or of several files where a text encoder is."""

    role: Role
    files: tuple[ModelName, ...]
    is_whole: bool
    """Whether the file is a checkpoint with all parts."""
    depth: int = 0

    @property
    def is_split(self) -> bool:
        """Whether it is loaded from several files, or made of what is."""
        return len(self.files) > 1


@dataclass(frozen=True, eq=False, slots=True)
class Patched:
    """A LoRA added. One node may patch a model and its text encoder."""

    role: Role
    base: Made
    lora: ModelName
    strength: Decimal
    node: ComfyNode
    depth: int
    is_split: bool
    row: int
    """How many LoRAs were added in a row, with this one."""


@dataclass(frozen=True, eq=False, slots=True)
class Mixed:
    """`first + share * (second - first)`; what the second lacks stays the first's."""

    role: Role
    first: Made
    second: Made
    share: Numbers
    node: ComfyNode
    depth: int
    is_split: bool


@dataclass(frozen=True, eq=False, slots=True)
class Summed:
    """`first + second`."""

    role: Role
    first: Made
    second: Made
    node: ComfyNode
    depth: int
    is_split: bool


@dataclass(frozen=True, eq=False, slots=True)
class Subtracted:
    """`factor * (first - second)`."""

    role: Role
    first: Made
    second: Made
    factor: Decimal
    node: ComfyNode
    depth: int
    is_split: bool


@dataclass(frozen=True, slots=True)
class Gap:
    """No value, and why not."""

    reason: str


Made = Loaded | Patched | Mixed | Summed | Subtracted
Value = Made | Gap

WEIGHTLESS: Final = frozenset(
    "CFGNorm CFGZeroStar CLIPSetLastLayer DifferentialDiffusion EasyCache FreeU FreeU_V2 HyperTile "
    "LazyCache ModelComputeDtype ModelSamplingAuraFlow ModelSamplingContinuousEDM ModelSamplingContinuousV "
    "ModelSamplingDiscrete ModelSamplingFlux ModelSamplingLTXV ModelSamplingSD3 ModelSamplingStableCascade "
    "PatchModelAddDownscale PerturbedAttentionGuidance Reroute RenormCFG RescaleCFG SelfAttentionGuidance "
    "SkipLayerGuidanceDiT SkipLayerGuidanceDiTSimple SkipLayerGuidanceSD3 TomePatchModel TorchCompileModel".split()
)
"""Nodes that hand a model or a text encoder on with other settings, and the same weights."""
_SILENT: Final = frozenset({"Reroute", "CLIPSetLastLayer"})
_MARKED: Final = frozenset({"ModelSamplingDiscrete", "ModelSamplingContinuousEDM"})
"""Nodes after which a checkpoint is saved with a mark, such as `v_pred`."""
_PRIMITIVES: Final = frozenset(
    {"PrimitiveFloat", "PrimitiveInt", "PrimitiveString", "PrimitiveStringMultiline", "PrimitiveBoolean"}
)
_CHECKPOINTS: Final[Mapping[str, tuple[Role | None, ...]]] = {
    "CheckpointLoader": ("model", "clip", "vae"),
    "CheckpointLoaderSimple": ("model", "clip", "vae"),
    "ImageOnlyCheckpointLoader": ("model", None, "vae"),
    "unCLIPCheckpointLoader": ("model", "clip", "vae"),
}
_MERGES: Final = frozenset(f"{role}Merge{how}" for role in ("Model", "CLIP") for how in ("Simple", "Add", "Subtract"))
_ENCODERS: Final = {"CLIPLoader": 1, "DualCLIPLoader": 2, "TripleCLIPLoader": 3, "QuadrupleCLIPLoader": 4}


HANDLED: Final = frozenset({*WEIGHTLESS, *_PRIMITIVES, *_CHECKPOINTS, *_MERGES, *BLOCK_NODES, *_ENCODERS}) | {
    "LoraLoader",
    "LoraLoaderModelOnly",
    "UNETLoader",
    "VAELoader",
}
"""The nodes of which it is known what they make."""


@dataclass
class Values:
    """The values of nodes, each made once; nodes must come behind what they need."""

    graph: Graph
    made: dict[Link, Value] = field(default_factory=dict)
    literals: dict[Link, object] = field(default_factory=dict)
    notes: list[tuple[ComfyNode, str]] = field(default_factory=list)
    """What people should know of nodes on the way."""
    losses: list[tuple[ComfyNode, str]] = field(default_factory=list)
    """What nodes on the way do to weights, and no target says."""
    kinds: set[str] = field(default_factory=set)
    """The classes of nodes on the way."""
    _loaded: dict[tuple[Role, tuple[str, ...]], Loaded] = field(default_factory=dict)

    def add(self, node: ComfyNode) -> None:
        """Make the values of a node."""
        self.kinds.add(node.kind)
        if node.kind in _PRIMITIVES:
            self.literals[Link(node.id, 0)] = node.inputs.get("value")
            return
        try:
            for slot, value in self._outputs(node):
                self.made[Link(node.id, slot)] = _bounded(value, node)
        except _GapError as error:
            self.made[Link(node.id, 0)] = self.made[Link(node.id, 1)] = Gap(str(error))

    def input(self, node: ComfyNode, name: str, role: Role) -> Value:
        """Return the value that a node gets: a gap, where there is none of this role."""
        link = node.inputs.get(name)
        if not isinstance(link, Link):
            return Gap(f"{node.shown} has nothing at its input `{name}`")
        value = self.made.get(link)
        if value is None:
            return Gap(self._nothing(link))
        if not isinstance(value, Gap) and value.role != role:
            return Gap(f"{node.shown} has a {value.role} at its input `{name}`, and takes a {role}")
        return value

    def _nothing(self, link: Link) -> str:
        node = self.graph.get(link.node)
        if node is None:
            return f"a link leads to node {link.node[:60]}, which is not there"
        given = ", ".join(f"{name} = {value}"[:60] for name, value in node.inputs.items() if not _is_linked(value))
        return f"what {node.shown} makes is not known here{f' ({given[:300]})' if given else ''}"

    def _outputs(self, node: ComfyNode) -> Iterator[tuple[int, Value]]:
        kind = node.kind
        if kind in _CHECKPOINTS:
            file = ModelName(self._text(node, "ckpt_name"))
            yield from (
                (at, self._file(role, (file,), is_whole=True)) for at, role in enumerate(_CHECKPOINTS[kind]) if role
            )
        elif kind in {"LoraLoader", "LoraLoaderModelOnly"}:
            yield from self._patched(node)
        elif kind in WEIGHTLESS:
            yield 0, self._handed_on(node)
        elif kind in _MERGES or kind in BLOCK_NODES:
            yield 0, self._merged(node)
        elif (loaded := self._single(node)) is not None:
            yield 0, loaded

    def _single(self, node: ComfyNode) -> Loaded | None:
        """Return what a loader of one part loads; None: it is no such loader."""
        match node.kind:
            case "UNETLoader":
                self._note_rounding(node)
                return self._file("model", (ModelName(self._text(node, "unet_name")),))
            case "VAELoader":
                return self._file("vae", (ModelName(self._text(node, "vae_name")),))
            case kind if kind in _ENCODERS:
                names = ["clip_name"] if _ENCODERS[kind] == 1 else [f"clip_name{n + 1}" for n in range(_ENCODERS[kind])]
                return self._file("clip", tuple(ModelName(self._text(node, name)) for name in names))
        return None

    def _note_rounding(self, node: ComfyNode) -> None:
        dtype = node.inputs.get("weight_dtype", "default")
        if isinstance(dtype, str) and dtype != "default":
            self.losses.append(
                (node, f"`weight_dtype` = {dtype[:40]}: ComfyUI rounds the file to it before it is merged")
            )

    def _file(self, role: Role, files: tuple[ModelName, ...], *, is_whole: bool = False) -> Loaded:
        """Return a part of files; the same where another node loads the same."""
        key = (role, tuple(file.text for file in files))
        return self._loaded.setdefault(key, Loaded(role, files, is_whole))

    def _patched(self, node: ComfyNode) -> Iterator[tuple[int, Value]]:
        lora = ModelName(self._text(node, "lora_name"))
        both: tuple[tuple[Role, str], ...] = (("model", "strength_model"), ("clip", "strength_clip"))
        for slot, (role, strength) in enumerate(both[: 1 if node.kind == "LoraLoaderModelOnly" else 2]):
            base = self.input(node, role, role)
            if isinstance(base, Gap) or (number := self._number(node, strength)) == 0:
                yield slot, base
            else:
                yield slot, _patched(base, lora, number, node)

    def _handed_on(self, node: ComfyNode) -> Value:
        link = next((value for value in node.inputs.values() if isinstance(value, Link)), None)
        value = self.made.get(link) if link else None
        if link is None or value is None:
            return Gap(self._nothing(link) if link else f"{node.shown} has no input")
        if node.kind in _MARKED:
            self.losses.append((node, "what it says of the model's sampling is saved as a mark, which is not written"))
        elif node.kind not in _SILENT:
            self.notes.append((node, "it changes no weights"))
        return value

    def _merged(self, node: ComfyNode) -> Value:
        role: Role = "model" if node.kind.startswith("Model") else "clip"
        first, second = (self.input(node, f"{role}{n}", role) for n in (1, 2))
        for gap in (first, second):
            if isinstance(gap, Gap):
                return gap
        assert not isinstance(first, Gap)
        assert not isinstance(second, Gap)
        depth, is_split = max(first.depth, second.depth) + 1, first.is_split or second.is_split
        match node.kind.removeprefix("Model").removeprefix("CLIP"):
            case "MergeSimple":
                return Mixed(role, first, second, complement(self._number(node, "ratio")), node, depth, is_split)
            case "MergeAdd":
                return Summed(role, first, second, node, depth, is_split)
            case "MergeSubtract":
                return Subtracted(role, first, second, self._number(node, "multiplier"), node, depth, is_split)
        return Mixed(role, first, second, self._shares(node), node, depth, is_split)

    def _shares(self, node: ComfyNode) -> Numbers:
        """Return the second model's shares by prefix, of a node that has a number for each prefix."""
        names = [name for name in node.inputs if name not in {"model1", "model2"}]
        if not names:
            raise _GapError(f"{node.shown} has no numbers")
        return {name: complement(self._number(node, name)) for name in names}

    def _given(self, node: ComfyNode, name: str) -> object:
        """Return the value of an input, also where a primitive node gives it."""
        value = node.inputs.get(name)
        return self.literals.get(value) if isinstance(value, Link) else value

    def _number(self, node: ComfyNode, name: str) -> Decimal:
        found = number_of(self._given(node, name))
        if found is None:
            raise _GapError(f"{node.shown} has no number as `{name}`")
        return found

    def _text(self, node: ComfyNode, name: str) -> str:
        found = self._given(node, name)
        if not isinstance(found, str) or not found.strip():
            raise _GapError(f"{node.shown} has no text as `{name}`")
        return found


class _GapError(Exception):
    """A node was told what it can't be told; the message says what."""


def text_input(node: ComfyNode, name: str) -> str:
    """Return a text that a node was given; "" where it is none."""
    value = node.inputs.get(name)
    return value if isinstance(value, str) else ""


def _patched(base: Made, lora: ModelName, strength: Decimal, node: ComfyNode) -> Patched:
    """Return a value with a LoRA; LoRAs in a row are one target, and count as one step."""
    depth, row = (base.depth, base.row + 1) if isinstance(base, Patched) else (base.depth + 1, 1)
    return Patched(base.role, base, lora, strength, node, depth, base.is_split, row)


def _bounded(value: Value, node: ComfyNode) -> Value:
    if isinstance(value, Gap):
        return value
    if value.depth > _DEEPEST or (isinstance(value, Patched) and value.row > _MOST_LORAS):
        return Gap(f"{node.shown} stands behind more than {_DEEPEST} merges or {_MOST_LORAS} LoRAs in a row")
    return value


def _is_linked(value: object) -> bool:
    return isinstance(value, (Link, dict, list))
