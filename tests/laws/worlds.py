"""A project as a value: small sources and targets, and how they are written down. Nothing of `mergebuild` is imported.

A `World` is frozen and its `repr` is Python that makes it again, so a case that a law found can be pasted. What a
source holds follows from a few words and seeds: two sources of one base share what they did not train, as fine-tunes
do.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import lru_cache
from math import prod
from typing import Any

from tensor_files import Scaled, Stored, encode, scaled

__all__ = [
    "FAMILIES",
    "PROGRAMS",
    "Family",
    "Own",
    "Rule",
    "Source",
    "Table",
    "Target",
    "World",
    "mergefile",
    "tensors_of",
]

Value = Any
"""A value of TOML: text, a flag, a `Decimal`, a tuple of such, or a `Table`."""


@dataclass(frozen=True)
class Table:
    """A table of TOML, in order."""

    items: tuple[tuple[str, Value], ...]


@dataclass(frozen=True)
class Source:
    """A model. `base`: the seed of what it was trained from; `traits`: what is odd about it; see `tensors_of`."""

    name: str
    family: str
    seed: int
    base: int = 0
    dtype: str = "float16"
    form: str = "file"
    traits: tuple[str, ...] = ()
    patches: tuple[tuple[int, int], ...] = ()
    """(number of a tensor, seed): tensors that were changed since."""
    path: str = ""
    """Its own, where it is not named as the source is."""

    @property
    def place(self) -> str:
        """Its path in the project."""
        end = {"file": ".safetensors", "ckpt": ".ckpt"}.get(self.form, "/")
        return f"models/{self.path or self.name}{end}"


@dataclass(frozen=True)
class Rule:
    """Another method, or other numbers, for some tensors. `method` empty: the target's own."""

    tensors: tuple[str, ...]
    method: str
    values: tuple[tuple[str, Value], ...]


@dataclass(frozen=True)
class Target:
    """A target. `method` empty: a formula, the sum of `terms` (a number or its name, and an input)."""

    name: str
    method: str
    inputs: tuple[tuple[str, str | tuple[str, ...]], ...]
    values: tuple[tuple[str, Value], ...] = ()
    """Parameters, and keys such as `dtype` and `ema`."""
    output: str = ""
    """A path; empty: it is virtual."""
    rules: tuple[Rule, ...] = ()
    axis: tuple[str, tuple[Decimal, ...]] | None = None
    """Of a family: a parameter and its values."""
    terms: tuple[tuple[str, str], ...] = ()
    components: tuple[tuple[str, Table], ...] = ()

    @property
    def refs(self) -> tuple[str, ...]:
        """All that it reads, in order."""
        found = [ref for _, each in self.inputs for ref in ((each,) if isinstance(each, str) else each)]
        found += [ref for _, ref in self.terms]
        for _, table in self.components:
            found += [value for key, value in table.items if key == "model"]
        found += [value for key, value in self.values if key == "config"]
        return tuple(found)

    @property
    def members(self) -> tuple[str, ...]:
        """The targets that it is: itself, or the members of the family."""
        if self.axis is None:
            return (self.name,)
        return tuple(f"{self.name}@{self.axis[0]}={plain(value)}" for value in self.axis[1])

    def get(self, key: str, default: Value = None) -> Value:
        """Return one of its values."""
        return dict(self.values).get(key, default)

    def output_of(self, member: str) -> str:
        """Return the output of a member."""
        return self.output.replace("${" + self.axis[0] + "}", member.partition("=")[2]) if self.axis else self.output


@dataclass(frozen=True)
class Own:
    """A method of the project's own: which of `PROGRAMS`, and a number in its text."""

    name: str
    program: str
    number: int = 1


@dataclass(frozen=True)
class World:
    """A project."""

    sources: tuple[Source, ...]
    targets: tuple[Target, ...]
    dtype: str = ""
    """Of `[defaults]`."""
    methods: tuple[Own, ...] = ()

    def target(self, name: str) -> Target:
        """Return the target of a name, or of a member's."""
        return next(each for each in self.targets if each.name == name.partition("@")[0])

    def source(self, name: str) -> Source | None:
        """Return the source of a name."""
        return next((each for each in self.sources if each.name == name), None)

    @property
    def outputs(self) -> dict[str, str]:
        """The output of each target that has one, members one by one."""
        return {member: each.output_of(member) for each in self.targets if each.output for member in each.members}

    def renamed(self, names: Mapping[str, str]) -> World:
        """Return the same with other names of sources and targets; where files lie does not change."""

        def new(ref: str) -> str:
            head, mark, tail = ref.partition("@")
            return names.get(head, head) + mark + tail

        def target(each: Target) -> Target:
            return replace(
                each,
                name=new(each.name),
                inputs=tuple(
                    (role, new(ref) if isinstance(ref, str) else tuple(map(new, ref))) for role, ref in each.inputs
                ),
                terms=tuple((number, new(ref)) for number, ref in each.terms),
                components=tuple(
                    (part, Table(tuple((key, new(value) if key == "model" else value) for key, value in table.items)))
                    for part, table in each.components
                ),
                values=tuple((key, new(value) if key == "config" else value) for key, value in each.values),
            )

        sources = (replace(each, name=new(each.name), path=each.path or each.name) for each in self.sources)
        return replace(self, sources=tuple(sources), targets=tuple(map(target, self.targets)))


# Families of models


@dataclass(frozen=True)
class Family:
    """Models of one kind: names and shapes, and selectors with what they select."""

    shapes: Mapping[str, tuple[int, ...]]
    keys: Mapping[str, Callable[[str], bool]]
    """Selectors that select some tensors and not all."""
    layers: Sequence[str] = ()
    """Names of blocks for `gradient`."""
    lora: str = ""
    """The family of LoRAs for it."""
    forms: tuple[str, ...] = ("file", "ckpt")
    components: tuple[str, ...] = ()


def _glob(pattern: str) -> Callable[[str], bool]:
    return lambda name: fnmatchcase(name, pattern)


def _has(pattern: str) -> Callable[[str], bool]:
    return lambda name: re.search(pattern, name) is not None


def _llama() -> Family:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (8, 4)}
    for layer in range(2):
        inner = f"model.layers.{layer}."
        shapes |= {f"{inner}self_attn.{name}_proj.weight": (4, 4) for name in "qkvo"}
        shapes |= {f"{inner}mlp.{name}_proj.weight": (8, 4) for name in ("gate", "up")}
        shapes |= {f"{inner}mlp.down_proj.weight": (4, 8), f"{inner}input_layernorm.weight": (4,)}
    shapes |= {"model.norm.weight": (4,), "lm_head.weight": (8, 4)}
    keys = {
        "L00": _has(r"^model\.layers\.0\."),
        "L01": _has(r"^model\.layers\.1\."),
        "attn": _has(r"\.self_attn\."),
        "*.mlp.*": _glob("*.mlp.*"),
        "re:norm": _has("norm"),
        "embed": _has("embed_tokens"),
        "*q_proj*": _glob("*q_proj*"),
    }
    return Family(shapes, keys, ("L00", "L01"), "lora-llama", ("file", "ckpt", "folder", "shards"))


_UNET = "model.diffusion_model."
_CLIP = "cond_stage_model.transformer.text_model."


def _sd1() -> Family:
    attention = "1.transformer_blocks.0."
    shapes: dict[str, tuple[int, ...]] = {
        f"{_UNET}input_blocks.0.0.weight": (2, 4, 3, 3),
        f"{_UNET}input_blocks.0.0.bias": (4,),
        f"{_UNET}input_blocks.1.{attention}attn1.to_q.weight": (4, 4),
        f"{_UNET}input_blocks.1.{attention}attn2.to_k.weight": (4, 6),
        f"{_UNET}input_blocks.1.{attention}norm1.weight": (4,),
        f"{_UNET}middle_block.{attention}attn1.to_out.0.weight": (4, 4),
        f"{_UNET}middle_block.0.in_layers.2.weight": (4, 4, 3, 3),
        f"{_UNET}output_blocks.3.{attention}attn2.to_k.weight": (4, 6),
        f"{_UNET}output_blocks.3.{attention}ff.net.2.weight": (4, 8),
        f"{_UNET}out.0.weight": (4,),
        f"{_UNET}out.2.bias": (4,),
        f"{_CLIP}embeddings.token_embedding.weight": (10, 4),
        f"{_CLIP}encoder.layers.0.self_attn.q_proj.weight": (4, 4),
        f"{_CLIP}encoder.layers.0.mlp.fc1.weight": (8, 4),
        f"{_CLIP}final_layer_norm.weight": (4,),
        "first_stage_model.encoder.conv_in.weight": (4, 3, 3, 3),
        "first_stage_model.decoder.conv_out.bias": (3,),
    }
    keys = {
        "IN01": _has(r"diffusion_model\.input_blocks\.1\."),
        "IN00-IN01": _has(r"diffusion_model\.input_blocks\.[01]\."),
        "M00": _has(r"diffusion_model\.middle_block\."),
        "OUT": _has(r"diffusion_model\.(?:output_blocks|out)\."),
        "text_encoder": _has(r"^cond_stage_model\."),
        "vae": _has(r"^first_stage_model\."),
        "*.attn2.*": _glob("*.attn2.*"),
        "re:norm": _has("norm"),
    }
    return Family(shapes, keys, (), "lora-sd1", ("file", "ckpt"), ("unet", "text_encoder", "vae"))


def _sdxl() -> Family:
    attention = "1.transformer_blocks.0."
    shapes: dict[str, tuple[int, ...]] = {
        f"{_UNET}label_emb.0.0.weight": (4, 6),
        f"{_UNET}input_blocks.0.0.weight": (2, 4, 3, 3),
        f"{_UNET}input_blocks.4.{attention}attn2.to_k.weight": (4, 8),
        f"{_UNET}middle_block.{attention}attn1.to_q.weight": (4, 4),
        f"{_UNET}output_blocks.0.{attention}norm2.weight": (4,),
        f"{_UNET}out.2.weight": (2, 4, 3, 3),
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight": (6,),
        "conditioner.embedders.1.model.ln_final.weight": (6,),
        "first_stage_model.encoder.conv_in.weight": (4, 3, 3, 3),
    }
    keys = {
        "IN": _has(r"diffusion_model\.(?:input_blocks|label_emb)\."),
        "M00": _has(r"diffusion_model\.middle_block\."),
        "text_encoder": _has(r"^conditioner\."),
        "*.attn?.*": _glob("*.attn?.*"),
    }
    return Family(shapes, keys, (), "", ("file", "ckpt"), ("unet", "text_encoder", "vae"))


def _plain() -> Family:
    """Return models that nobody knows: no layout, some tensors longer than a chunk, one empty and one a number."""
    shapes: dict[str, tuple[int, ...]] = {
        "net.0.weight": (9, 7),
        "net.0.bias": (9,),
        "net.1.weight": (3, 5, 4),
        "net.1.scale": (),
        "net.1.nothing": (0, 3),
        "tail.to_out.weight": (5, 5),
        "tail.steps": (3,),
    }
    keys = {"net.0.*": _glob("net.0.*"), "*.weight": _glob("*.weight"), r"re:net\.\d": _has(r"net\.\d")}
    return Family(shapes, keys, (), "", ("file", "ckpt", "folder"))


def _lora_llama() -> Family:
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(2):
        for module in ("self_attn.q_proj", "mlp.down_proj"):
            rows, columns = (4, 4) if module.endswith("q_proj") else (4, 8)
            inner = f"base_model.model.model.layers.{layer}.{module}"
            shapes |= {f"{inner}.lora_A.weight": (2, columns), f"{inner}.lora_B.weight": (rows, 2)}
    return Family(shapes, {}, forms=("folder",))


def _lora_sd1() -> Family:
    shapes: dict[str, tuple[int, ...]] = {}
    modules = {
        "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k": (4, 6),
        "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_out_0": (4, 4),
        "lora_te_text_model_encoder_layers_0_mlp_fc1": (8, 4),
    }
    for module, (rows, columns) in modules.items():
        shapes |= {f"{module}.lora_up.weight": (rows, 2), f"{module}.lora_down.weight": (2, columns)}
        shapes[f"{module}.alpha"] = ()
    return Family(shapes, {}, forms=("file", "ckpt"))


FAMILIES: Mapping[str, Family] = {
    "llama": _llama(),
    "sd1": _sd1(),
    "sdxl": _sdxl(),
    "plain": _plain(),
    "lora-llama": _lora_llama(),
    "lora-sd1": _lora_sd1(),
}

_IDS = f"{_CLIP}embeddings.position_ids"
_MIXED = ("float32", "bfloat16", "float16")


def _numbers(key: str, count: int, traits: Sequence[str]) -> list[float]:
    """Return numbers that follow from a text: scattered as weights are, or ones with ties and zeros of both signs."""
    draw = random.Random(key)
    found = [draw.gauss(0, 1) for _ in range(count)]
    if "ties" in traits:
        found = [round(each * 2) / 2 for each in found]
    if "zeros" in traits:
        found = [draw.choice((each, 0.0, -0.0)) for each in found]
    return found


@lru_cache(maxsize=512)
def tensors_of(source: Source) -> Mapping[str, Stored | Scaled]:
    """Return what a source holds.

    Traits: `mixed` dtypes; `missing` and `extra` tensors; `ema` copies; `ids` right and `broken-ids`; `ties` and
    `zeros` among the values; `alike`: tensors of one shape are equal; `small`: trained little; `nan`: a value is none;
    `scaled`: half of the matrices are 8-bit floats with scales.
    """
    family = FAMILIES[source.family]
    traits = source.traits
    patches = dict(source.patches)
    found: dict[str, Stored | Scaled] = {}
    for number, (name, shape) in enumerate(family.shapes.items()):
        if "missing" in traits and number % 5 == 3:
            continue
        count = prod(shape)
        if name.endswith(".steps"):
            found[name] = Stored("int64", shape, encode([source.seed + each for each in range(count)], "int64"))
            continue
        own = str(shape) if "alike" in traits else name
        values = _numbers(f"{source.family} {source.base} {own}", count, traits)
        if source.seed and number % 3 != 2:  # a third of the tensors was not trained, and is the base's
            tuned = _numbers(f"{source.family} {source.base} {source.seed} {own}", count, traits)
            share = 0.01 if "small" in traits else 0.5
            values = [one + share * other for one, other in zip(values, tuned, strict=True)]
        if number in patches:
            values = [each + 0.25 for each in _numbers(f"{patches[number]} {name}", count, traits)]
        if name.endswith(".alpha"):
            values = [1.0 + source.seed % 3]
        if "nan" in traits and number == 2:
            values = [float("nan"), *values[1:]]
        dtype = _MIXED[number % 3] if "mixed" in traits else source.dtype
        if "scaled" in traits and number % 2 and len(shape) > 1 and name.endswith(".weight"):
            found[name] = scaled(values, shape, number // 2 + source.seed)
        else:
            found[name] = Stored(dtype, shape, encode(values, dtype))
    if "extra" in traits:
        found["extra.weight"] = Stored("float32", (3,), encode([1, 2, source.seed], "float32"))
    if source.family == "sd1":
        _add_odd(found, source)
    return found


def _add_odd(found: dict[str, Stored | Scaled], source: Source) -> None:
    """Add position ids, right or averaged as floats once, and EMA copies."""
    if "broken-ids" in source.traits:
        ids = [each * (0.99 if source.seed % 2 else 1.0) for each in range(77)]
        found[_IDS] = Stored("float32", (1, 77), encode(ids, "float32"))
    elif "ids" in source.traits:
        found[_IDS] = Stored("int64", (1, 77), encode(range(77), "int64"))
    if "ema" in source.traits:
        for name in [each for each in found if each.startswith(_UNET)][:6]:
            copy = "model_ema." + name.removeprefix("model.").replace(".", "")
            shape = found[name].shape
            values = _numbers(f"{source.seed} {copy}", prod(shape), source.traits)
            found[copy] = Stored("float32", shape, encode(values, "float32"))
        found["model_ema.num_updates"] = Stored("int32", (), encode([source.seed], "int32"))


def beside(source: Source) -> Mapping[str, object]:
    """Return the small files of a source that is a folder."""
    if source.family == "lora-llama":
        adapter = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "down_proj"]}
        return {"adapter_config.json": adapter | {"base_model_name_or_path": None}}
    return {
        "config.json": {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": source.dtype},
        "tokenizer.json": {"version": source.seed},
    }


# The mergefile


def plain(number: Decimal) -> str:
    """Return the shortest plain form of a number."""
    text = f"{number:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _toml(value: Value) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case Decimal():
            return plain(value)
        case str():
            return "'" + value + "'"
        case Table():
            return "{ " + ", ".join(f"{_key(key)} = {_toml(each)}" for key, each in value.items) + " }"
    return "[" + ", ".join(map(_toml, value)) + "]"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[\w-]+", key, re.ASCII) else "'" + key + "'"


def _formula(target: Target) -> str:
    signed = " + ".join(f"{number}*{ref if ref.isidentifier() else repr(ref)}" for number, ref in target.terms)
    return '"' + signed + '"'


def _lines(target: Target) -> Iterator[str]:
    yield f"[targets.{_key(target.name)}]"
    if target.axis is not None:
        yield f"foreach.{target.axis[0]} = {_toml(target.axis[1])}"
    if target.method:
        yield f"method = '{target.method}'"
    else:
        yield f"formula = {_formula(target)}"
    for role, ref in target.inputs:
        yield f"{role} = {_toml(ref)}"
    if target.output:
        yield f'output = "{target.output}"'
    for key, value in target.values:
        yield f"{_key(key)} = {_toml(value)}"
    for part, table in target.components:
        yield f"components.{part} = {_toml(table)}"
    for rule in target.rules:
        yield f"[[targets.{_key(target.name)}.rules]]"
        yield f"tensors = {_toml(rule.tensors)}"
        if rule.method:
            yield f"method = '{rule.method}'"
        for key, value in rule.values:
            yield f"{_key(key)} = {_toml(value)}"


def mergefile(world: World) -> str:
    """Return the text of a project."""
    lines = ["[defaults]", f"dtype = '{world.dtype}'"] if world.dtype else []
    lines += ["[sources]", *(f"{_key(each.name)} = '{each.place}'" for each in world.sources)]
    for own in world.methods:
        lines += [f"[methods.{own.name}]", f"file = 'methods/{own.name}.py'", *PROGRAMS[own.program][0]]
    for target in world.targets:
        lines += ["", *_lines(target)]
    return "\n".join(lines) + "\n"


PROGRAMS: Mapping[str, tuple[Sequence[str], str]] = {
    "gate": (
        (
            "inputs = ['a', 'b', 'c']",
            "optional = ['b', 'c']",
            "exact = true",
            "parameters = { alpha = {}, sharp = 0.5 }",
        ),
        """
from mergebuild.kernels import Kernel, float32_of


def gate(call, chunks, start, state):
    found = chunks[0] * NUMBER
    rest = list(chunks[1:])
    if call.flag("has_b"):
        found = found + float32_of(call.number("alpha")) * rest.pop(0)
    if call.flag("has_c"):
        found = found - float32_of(call.number("sharp")) * rest.pop(0)
    return found


KERNELS = {"METHOD": Kernel(gate)}
""",
    ),
    "mean": (
        ("inputs = ['a', 'models']", "exact = true", "parameters = { alpha = { default = 0.5, per = 'model' } }"),
        """
from mergebuild.kernels import Kernel, Statistic, Sum, float32_of


def look(call, account, chunks, start):
    account.add(chunks[1].abs())


def mean(call, account):
    return account.value() / max(1, call.count)


def lean(call, chunks, start, state):
    found = chunks[0]
    for share, chunk in zip(call.numbers("alpha"), chunks[1:]):
        found = found + float32_of(share) * NUMBER * (chunk.abs() > state) * (chunk - found)
    return found


KERNELS = {"METHOD": Kernel(lean, Statistic("mean", lambda call, inputs: Sum(), look, mean))}
""",
    ),
}
"""By name: the lines of a method's table, and its text; `NUMBER` in it is the project's own."""


def program(own: Own) -> str:
    """Return the text of a method of the project's own."""
    return PROGRAMS[own.program][1].replace("NUMBER", str(own.number)).replace("METHOD", own.name)
