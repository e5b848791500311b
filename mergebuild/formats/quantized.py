"""Quantized weights: recognized by the tensors beside them; read as products if that is their meaning, else refused.

A quantized weight is a tensor of integers or 8-bit floats that means nothing alone: scales, zero points, codebooks or
packing, which are beside it in its module, say what it stands for. One form is read: 8-bit floats with one scale for
the whole tensor, for each row, or for each block, whose product is the weight (`TensorInfo.scale`). Web UIs, folders of
transformers, compressed-tensors and DeepSeek write it, under a few names. All other forms are refused, by their looks
and not by the name of a program: merged as stored, they would be noise.

8-bit floats with nothing beside them are a plain dtype. Integers that are no weights (positions, masks, counters) have
no scales, or have a weight beside them, and stay. Everything is decided from names, dtypes and shapes; of values, only
the marks are read with which ComfyUI says how a layer is stored, a few bytes each.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from mergebuild.configuration.text import QUANTIZATIONS
from mergebuild.errors import Place, SourceError
from mergebuild.formats.header import Scale, Scaling, TensorInfo
from mergebuild.formats.model import Model
from mergebuild.formats.reading import UNQUANTIZED, quoted
from mergebuild.system.platform import open_to_read, pread_into

__all__ = ["listed", "quantization_claimed", "with_scales"]

_FLOATS: Final = frozenset({"float8_e4m3fn", "float8_e5m2"})
_INTEGERS: Final = frozenset({"int8", "uint8", "int16", "uint16", "int32", "uint32"})
_LARGE_INTEGERS: Final = frozenset({"int64", "uint64"})
"""Dtypes of positions and counters; a few programs also pack weights into them."""
_FEW: Final = _FLOATS | _INTEGERS | _LARGE_INTEGERS
_SCALES: Final = frozenset({"float64", "float32", "float16", "bfloat16"})

_BLOCK: Final = 128
"""Rows and columns of a block, unless something else is given or fits."""

_WORDS: Final = re.compile(r"[._:]+")
_CORE: Final = re.compile(r"[wq]?(?:scales?|zeros?|zps?|absmax|codebooks?|codes?|centroids|luts?|scb|quant\w*)")
"""A word in names of tensors that say how quantized numbers are read."""
_BESIDE: Final = re.compile(
    rf"{_CORE.pattern}|weights?|w|q|inv|point|points|global|group|block|pre|post|input|act|activation|output|k|v|kv|"
    r"prob|max|min|ub|id|map|state|nested|shape|bits|g|idx|perm|invperm|smooth|factor|shift|packed|data|qdata|\d+"
)
"""Any word in such names."""
_PLACES: Final = frozenset({"mask", "masks", "index", "ids", "position", "positions"})
"""Words in names of integers that are positions."""
_ACTIVATIONS: Final = re.compile(
    r"(?:\w+_)?(?:input_scale(?:_ub)?|scale_input|act_scale|activation_scale|output_scale|prob_scale)|(?:k|v|q|kv)_scale"
)
"""Scales of a layer's inputs or outputs: not part of a weight, and useless once the weight is not quantized."""
_MARKS: Final = frozenset({"scaled_fp8", "comfy_quant"})
"""Tensors by which ComfyUI recognizes its scaled files and layers."""
_STATE: Final = "quant_state.bitsandbytes__"
_PART: Final = re.compile(
    r"(?:.*\.)?(?:qweight|qzeros|weight_packed|(?:\w+_)?weight_scale(?:_inv|_2)?|scale_weight|\w+_scale_inv|absmax|"
    rf"quant_map|nested_absmax|SCB|quant_state\.bitsandbytes__\w+|{'|'.join(_MARKS)})",
    re.DOTALL,
)
"""Names that only quantized weights have, or tensors beside them."""
_ENDS: Final = (
    "qweight",
    "scale_weight",
    "zeros",
    "packed",
    "weight_scale",
    "_inv",
    "_2",
    "absmax",
    "_map",
    "SCB",
    *_MARKS,
)
"""The ends of these names, except those with `_STATE`: a quick check that is enough for most names."""
_PLAIN_MARK: Final = re.compile(r"float8_e(?:4m3fn|5m2)(?:_\w+)?")
"""The formats of marked layers that are 8-bit floats with scales."""
_TURNED: Final = re.compile(r"rot|hadamard|transform", re.IGNORECASE)
"""Words for a weight that was transformed before it was quantized, so that the product is not the weight."""

_METADATA: Final = "_quantization_metadata"
"""The metadata in which ComfyUI says how layers are stored."""
_MOST_MARKED: Final = 100_000
_LONGEST_MARK: Final = 10_000
"""The most bytes of a layer's mark; real ones have fifty."""


def with_scales(model: Model, shown: str, config: Mapping[str, object] | None = None) -> Model:
    """Return a model with its scaled weights as products; scales and marks are not among its tensors.

    Args:
        model: As its files describe it.
        shown: What to call it in errors.
        config: Its `config.json`, if it has one.

    Raises:
        SourceError: it has quantized weights in any other form (`quantized-weights`).
    """
    claims = list(_claims(config or {}))
    if not claims and not _is_suspect(model):
        return model
    found = _WeightsOfFewBits(model, claims)
    if found.refused:
        message = f"{quoted(shown)} holds quantized weights, which can't be merged"
        if claims:
            told = f"{quoted(f'{shown}/config.json')} has a {_told(*claims[0])}"
            message = f"{told}: its weights are quantized, and can't be merged"
        rows = _rows([f"{quoted(name)} {why}" for name, why in sorted(found.refused.items())])
        raise SourceError.one("quantized-weights", message, where=Place(shown), help=UNQUANTIZED, rows=rows)
    tensors = {
        name: replace(info, scale=found.scales[name]) if name in found.scales else info
        for name, info in model.tensors.items()
        if name not in found.beside
    }
    return replace(model, tensors=tensors, notices=(*found.notices(shown), *model.notices))


def listed(names: Sequence[str]) -> tuple[str, ...]:
    """Return names as rows of an error, the first few."""
    return _rows(list(map(quoted, names)))


def _rows(rows: Sequence[str]) -> tuple[str, ...]:
    return tuple(rows) if len(rows) <= 8 else (*rows[:8], f"… {len(rows)} in all")


def _is_suspect(model: Model) -> bool:
    """Whether something in a model may be quantized. A quick check, which is negative for most models."""
    return (
        _METADATA in model.metadata
        or any(info.dtype in _FEW and _may_be_weight(name, info) for name, info in model.tensors.items())
        or any(map(_is_part, model.tensors))
    )


def _claims(config: Mapping[str, object]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the members of a configuration that say that weights are quantized: path and content."""
    parts = {"": config} | {f"{key}.": part for key, part in config.items() if key.endswith("_config")}
    for prefix, part in parts.items():
        for key in QUANTIZATIONS:
            found = part.get(key) if isinstance(part, Mapping) else None
            if found:
                yield f"{prefix}{key}", found if isinstance(found, Mapping) else {}


def _told(place: str, facts: Mapping[str, object]) -> str:
    """Return such a member for a sentence, with the program's name if it has one."""
    method = facts.get("quant_method")
    is_word = isinstance(method, str) and re.fullmatch(r"[\w-]{1,40}", method)
    return f"`{place}`" + (f" ({method})" if is_word else "")


def quantization_claimed(config: Mapping[str, object]) -> str | None:
    """Return the member of a configuration that says that weights are quantized, for a sentence; None if there is none.

    It may concern the whole model or a part of it (`text_config`). Whether it is true, only the tensors tell: a model
    trained on a quantized one and saved in floats often keeps that member.
    """
    return next((_told(*each) for each in _claims(config)), None)


_Module = dict[str, TensorInfo]
"""The tensors directly in a module, by the last part of their names."""


def _modules_of(tensors: Mapping[str, TensorInfo]) -> dict[str, _Module]:
    """Return the modules that have tensors, by name."""
    found: dict[str, _Module] = {}
    for name, info in tensors.items():
        prefix, _, leaf = name.rpartition(".")
        module = found.get(prefix)
        if module is None:
            module = found[prefix] = {}
        module[leaf] = info
    return found


class _WeightsOfFewBits:
    """Decides what a model's quantized weights are."""

    def __init__(self, model: Model, claims: Sequence[tuple[str, Mapping[str, object]]]) -> None:
        self._model = model
        self._claims = claims
        self._block = next((block for _, each in claims if (block := _block_of(each))), None)
        self.scales: dict[str, Scale] = {}
        """By name of the weight."""
        self.beside: set[str] = set()
        """Scales and marks."""
        self.refused: dict[str, str] = {}
        """By tensor, why the model is refused."""
        self._low: dict[str, TensorInfo] = {}
        """Tensors that are, or may be, quantized weights, for which no scales were found."""
        self._modules = _modules_of(model.tensors)
        for prefix, module in self._modules.items():
            self._look(f"{prefix}." if prefix else "", module)
        self._strays()
        self._marked()
        self._claimed()

    def _look(self, prefix: str, module: _Module) -> None:
        few = {leaf: info for leaf, info in module.items() if info.dtype in _FEW and _may_be_weight(leaf, info)}
        if not few:
            self.beside |= {prefix + leaf for leaf in _MARKS & module.keys()}
            return
        scaled = self._scaled(prefix, module, few)
        others = [leaf for leaf in module if leaf not in scaled and leaf not in _MARKS]
        if scaled:
            self.beside |= {prefix + leaf for leaf in others if _is_of_activations(leaf)}
            others = [leaf for leaf in others if not _is_of_activations(leaf)]
        self.beside |= {prefix + leaf for leaf in (*scaled, *(_MARKS & module.keys()))}
        for leaf in few:
            if prefix + leaf not in self.refused:
                self._sort(prefix + leaf, leaf, module, few, others)

    def _sort(self, name: str, leaf: str, module: _Module, few: _Module, others: Sequence[str]) -> None:
        """Refuse a tensor of few bits that is quantized in another form; note one that may be, without scales."""
        info = few[leaf]
        told = self._telling(name, leaf, module, few, others)
        if told:
            kind = f"{info.dtype} {list(info.shape)}"
            self.refused[name] = f"({kind}) has {', '.join(map(quoted, told[:3]))} beside it"
        elif info.dtype in _INTEGERS and _is_packed(leaf, info, [module[each] for each in others if each != leaf]):
            self.refused[name] = f"is {info.dtype} {list(info.shape)}"
        elif info.dtype not in _LARGE_INTEGERS and name not in self.scales:
            self._low[name] = info

    def _telling(
        self, name: str, leaf: str, module: _Module, few: Mapping[str, TensorInfo], others: Sequence[str]
    ) -> list[str]:
        """Return what, beside a tensor of few bits, shows that it is quantized."""
        is_float = few[leaf].dtype in _FLOATS
        told = sorted(each for each in others if each != leaf and _tells_of(each, leaf, is_float=is_float))
        if is_float and leaf == "weight":  # a single number beside 8-bit floats is a scale, whatever its name
            told += [each for each in others if each not in few and each not in told and module[each].count == 1]
        if name in self._modules:  # some programs put scales into a module with the tensor's own name
            told += filter(_is_told, self._modules[name])
        return told

    def _scaled(self, prefix: str, module: _Module, few: _Module) -> set[str]:
        """Find the scales of a module's weights; return their names."""
        found: set[str] = set()
        for leaf, info in few.items():
            names = [each for each in _scale_names(leaf) if each in module] if info.dtype in _FLOATS else []
            if not names:
                continue
            scales = module[names[0]]
            scale = _scale(info, scales, self._block) if len(names) == 1 else None
            if scale is None:
                kind = f"{scales.dtype} {list(scales.shape)}"
                self.refused[prefix + leaf] = f"has scales ({quoted(names[0])}, {kind}) of no known form"
            else:
                self.scales[prefix + leaf] = scale
            found.update(names)
        return found

    def _strays(self) -> None:
        """Refuse parts of quantized weights without such weights; leave out scales of activations."""
        for name, info in self._model.tensors.items():
            if name in self.beside or name in self.refused:
                continue
            if self.scales and info.count == 1 and _is_of_activations(name.rpartition(".")[2]):
                self.beside.add(name)
            elif _is_part(name):
                self.refused[name] = "is a part of a quantized weight"

    def _marked(self) -> None:
        """Refuse layers that are not stored as their marks say."""
        said = dict(_said_in(self._model.metadata))
        marks = {name: info for name, info in self._model.tensors.items() if name.rpartition(".")[2] == "comfy_quant"}
        for name, text in zip(marks, _texts(self._model, marks.values()), strict=True):
            said[name.rpartition(".")[0]] = _parsed(text)
        for name in (*self.scales, *self._low) if said else ():
            layer = name.rpartition(".")[0]
            facts = next((said[each] for each in (layer, *_below(layer)) if each in said), None)
            if facts is None:
                continue
            form = facts.get("format")
            if name in self.scales:
                if (isinstance(form, str) and not _PLAIN_MARK.fullmatch(form)) or _is_turned(facts):
                    self.refused[name] = f"is marked as of another form ({quoted(str(form))})"
            elif len(self._low[name].shape) > 1:
                self.refused[name] = "is marked as quantized, and has no scales"

    def _claimed(self) -> None:
        """Refuse weights that are quantized by the configuration but have nothing beside them that says how."""
        for place, facts in self._claims:
            for name, info in self._low.items():
                if len(info.shape) > 1 and info.shape[0] > 1:
                    self.refused.setdefault(name, f"is {info.dtype} {list(info.shape)}, without known scales")
            if self.scales and _is_turned(facts):
                self.refused |= dict.fromkeys(self.scales, f"was turned, as `{place}` says")

    def notices(self, shown: str) -> Iterator[str]:
        """Yield notices about a model that is not refused."""
        if self.scales:
            dtypes = " and ".join(sorted({self._model.tensors[name].dtype for name in self.scales}))
            yield (
                f"{len(self.scales)} weights are {dtypes} times scales, and are read as these products"
                f" (`source` is bfloat16); {len(self.beside)} tensors of scales and marks are not written"
            )
            return
        if self.beside:
            yield f"{len(self.beside)} marks of a quantization that its tensors do not have are left out"
        for each in self._claims:
            told = f"{quoted(f'{shown}/config.json')} has a {_told(*each)}"
            yield f"{told}, and no tensor is quantized: it is not written"


# Names


def _scale_names(leaf: str) -> tuple[str, ...]:
    """Return the possible names of a weight's scales, inside its module."""
    return (f"scale_{leaf}", f"{leaf}_scale", f"{leaf}_scale_inv")


@lru_cache(maxsize=4096)
def _is_of_activations(leaf: str) -> bool:
    """Whether a name is that of scales of a layer's inputs or outputs."""
    return _ACTIVATIONS.fullmatch(leaf) is not None


def _is_part(name: str) -> bool:
    """Whether a name is that of a part of a quantized weight, or of a tensor that only such weights come with."""
    return (name.endswith(_ENDS) or _STATE in name) and _PART.fullmatch(name) is not None


@lru_cache(maxsize=4096)
def _tells_of(leaf: str, weight: str, *, is_float: bool) -> bool:
    """Whether the tensor `leaf` of a module says how the tensor `weight` of the same module is read, by its name.

    After the words that both names begin with, its words must be those of quantizations: `weight_zero_point` of
    `weight_packed`. `logit_scale` and `layer_scale` are not, nor is a plain `scale` beside floats whose name is not a
    weight's.
    """
    own, others = _words(leaf), _words(weight)
    while own and others and own[0] == others[0]:
        own, others = own[1:], others[1:]
    if not own or not any(map(_CORE.fullmatch, own)) or not all(map(_BESIDE.fullmatch, own)):
        return False
    return len(own) < len(_words(leaf)) or not is_float or all(map(_BESIDE.fullmatch, others))


def _is_told(leaf: str) -> bool:
    """Whether a name consists of words of quantizations only."""
    words = _words(leaf)
    return any(map(_CORE.fullmatch, words)) and all(map(_BESIDE.fullmatch, words))


def _words(leaf: str) -> list[str]:
    return [word for word in _WORDS.split(leaf.lower()) if word]


def _may_be_weight(name: str, info: TensorInfo) -> bool:
    """Whether a tensor of few bits may be a weight.

    Integers are if they have that name, or are a matrix of several rows.

    Positions and causal masks have one row, [1, 77].
    """
    leaf, shape = name.rpartition(".")[2], info.shape
    if info.dtype in _FLOATS:
        return bool(shape) and leaf not in _MARKS and not _is_of_activations(leaf)
    if len(shape) > 1 and shape[0] > 1:
        return _PLACES.isdisjoint(_words(leaf))
    return leaf == "weight" and info.count > 1 and info.dtype in _INTEGERS


def _is_packed(leaf: str, info: TensorInfo, others: Iterable[TensorInfo]) -> bool:
    """Whether integers are in place of a weight: they have its name, or floats for each of their groups beside them.

    A mask or a table of indices has a weight beside it that is as large as itself.
    """
    if leaf == "weight" or leaf.endswith("_weight"):
        return True
    floats = [each for each in others if each.dtype in _SCALES and each.count > 1]
    if not floats or any(each.count > info.count or each.shape == info.shape for each in floats):
        return False
    return any(_is_of_groups(each.shape, info.shape) for each in floats)


def _is_of_groups(shape: Sequence[int], packed: Sequence[int]) -> bool:
    """Whether there may be one number for each group of packed integers."""
    pairs = zip(shape, packed, strict=True) if len(shape) == len(packed) else ((shape[0], each) for each in packed)
    fits = [min(one, other) > 0 and max(one, other) % min(one, other) == 0 for one, other in pairs]
    return all(fits) if len(shape) == len(packed) else len(shape) == 1 and any(fits)


# Scales


def _scale(info: TensorInfo, scales: TensorInfo, block: tuple[int, int] | None) -> Scale | None:
    """Return the scales of a tensor of 8-bit floats; None if they are of no known form.

    `block`: the rows and columns of a block, if the configuration says them.
    """
    if scales.dtype not in _SCALES or scales.pieces or not scales.count or not info.count:
        return None
    scaling = _scaling(info.shape, scales.shape, block)
    if scaling is None:
        return None
    across = math.ceil(scaling.columns / scaling.block_columns)
    return Scale(replace(scales, shape=(scales.count // across, across)), scaling)


@lru_cache(maxsize=1024)
def _scaling(shape: tuple[int, ...], scales: tuple[int, ...], block: tuple[int, int] | None) -> Scaling | None:
    """Return which elements of a tensor share a scale, given both shapes; None if unclear."""
    count, rows = math.prod(shape), shape[0]
    if math.prod(scales) == 1:
        return Scaling(count, 1, count)
    if math.prod(scales) == rows and scales[0] == rows:  # [rows], [rows, 1], [rows, 1, 1, 1]
        return Scaling(count // rows, 1, count // rows)
    if len(scales) != len(shape) or len(shape) < 2:
        return None
    blocks = _blocks(shape, scales, block)
    if blocks is None:
        return None
    *outer, tall, wide = shape
    *firsts, block_rows, block_columns = blocks
    if any(each != 1 for each, size in zip(firsts, outer, strict=True) if size != 1):
        return None
    if math.prod(outer) > 1 and tall % block_rows:  # a block would extend into the next matrix
        return None
    return Scaling(wide, block_rows, block_columns)


def _blocks(shape: Sequence[int], scales: Sequence[int], block: Sequence[int] | None) -> list[int] | None:
    """Return the size of a block by dimension; None if that is not clear."""
    given = [*[1] * (len(shape) - 2), *(block or (_BLOCK, _BLOCK))]
    if all(each in (1, math.ceil(size / of)) for each, size, of in zip(scales, shape, given, strict=True)):
        return [size if each == 1 else of for each, size, of in zip(scales, shape, given, strict=True)]
    if block is None and all(size % each == 0 for size, each in zip(shape, scales, strict=True)):
        return [size // each for size, each in zip(shape, scales, strict=True)]
    return None


def _block_of(facts: Mapping[str, object]) -> tuple[int, int] | None:
    """Return the rows and columns of a block, if the configuration says them."""
    found = facts.get("weight_block_size")
    if isinstance(found, list) and len(found) == 2 and all(type(each) is int and each > 0 for each in found):
        return found[0], found[1]
    return None


# Marks


def _said_in(metadata: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the layers that a file's metadata describe as quantized, each with its description."""
    layers = _parsed(metadata.get(_METADATA, "").encode()).get("layers")
    if isinstance(layers, Mapping):
        for name, facts in list(layers.items())[:_MOST_MARKED]:
            yield name, facts if isinstance(facts, Mapping) else {}


def _parsed(text: bytes) -> Mapping[str, object]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _below(layer: str) -> Iterator[str]:
    """Yield a layer's name without its first part, without its first two parts, and so on."""
    while layer:
        layer = layer.partition(".")[2]
        yield layer


def _is_turned(facts: Mapping[str, object]) -> bool:
    return any(_TURNED.search(key) and value for key, value in facts.items())


def _texts(model: Model, infos: Iterable[TensorInfo]) -> Iterator[bytes]:
    """Yield the bytes of small tensors; empty for tensors that are not contiguous or not text."""
    opened: dict[int, int] = {}
    try:
        for info in infos:
            if info.pieces or info.nbytes > _LONGEST_MARK or info.dtype not in ("uint8", "int8"):
                yield b""
                continue
            if info.file not in opened:
                opened[info.file] = open_to_read(model.files[info.file])
            text = bytearray(info.nbytes)
            yield bytes(text[: pread_into(opened[info.file], text, info.begin)])
    finally:
        for descriptor in opened.values():
            os.close(descriptor)
