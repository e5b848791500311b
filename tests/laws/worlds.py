"""A project as a value: small sources and targets, and the files that they are written to. Imports no `mergebuild`.

A `World` is frozen and its `repr` is Python that makes it again, so a case that breaks a law can be pasted. The values
of a source follow from a few words and seeds: two sources of one base share the tensors that were not trained, like
fine-tunes. `tensors_of` has the parameters of a source by canonical name, `stored_of` the tensors of its file, as its
spelling names them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache
from math import prod
from typing import Any

from families import CLIP, FAMILIES, UNET, WRAPPERS, Family
from spellings import PLAIN, Spelling
from tensor_files import Scaled, Stored, encode, files_of, scaled

__all__ = [
    "FAMILIES",
    "PROGRAMS",
    "WRAPPERS",
    "Family",
    "Own",
    "Rule",
    "Source",
    "Table",
    "Target",
    "World",
    "copies_of",
    "inputs_of",
    "mergefile",
    "root_of",
    "spelling_of",
    "stored_of",
    "tensors_of",
    "ties_of",
]

Value = Any
"""A value of TOML: a string, a boolean, a `Decimal`, a tuple of these, or a `Table`."""


@dataclass(frozen=True)
class Table:
    """A table of TOML, with its keys in order."""

    items: tuple[tuple[str, Value], ...]


@dataclass(frozen=True)
class Source:
    """A model. `base`: the seed of the model that it was trained from; `traits`: peculiarities, see `tensors_of`."""

    name: str
    family: str
    seed: int
    base: int = 0
    dtype: str = "float16"
    form: str = "file"
    traits: tuple[str, ...] = ()
    patches: tuple[tuple[int, int], ...] = ()
    """(number of a tensor, seed): tensors that were changed by an edit."""
    path: str = ""
    """The name of its file without suffix; empty: the source's name."""
    spelling: str = ""
    """One of its family's, or two joined by `+`, the first a wrapper around the second; empty: canonical names."""
    nonsense: tuple[int, ...] = ()
    """The numbers of the tensors of its file that have unknown names."""

    @property
    def place(self) -> str:
        """Its path in the project."""
        end = {"file": ".safetensors", "ckpt": ".ckpt"}.get(self.form, "/")
        return f"models/{self.path or self.name}{end}"


@dataclass(frozen=True)
class Rule:
    """Another method, or other numbers, for some tensors. `method` empty: the target's method."""

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
    """A path; empty: the target is virtual."""
    rules: tuple[Rule, ...] = ()
    axis: tuple[str, tuple[Decimal, ...]] | None = None
    """For a family, a parameter and its values."""
    terms: tuple[tuple[str, str], ...] = ()
    components: tuple[tuple[str, Table], ...] = ()

    @property
    def refs(self) -> tuple[str, ...]:
        """The names of all inputs, models of components and donors, in order."""
        found = inputs_of(self)
        for _, table in self.components:
            found += [value for key, value in table.items if key == "model"]
        found += [value for key, value in self.values if key == "config"]
        return tuple(found)

    @property
    def members(self) -> tuple[str, ...]:
        """The names of the family's members; without a family, its own name."""
        if self.axis is None:
            return (self.name,)
        return tuple(f"{self.name}@{self.axis[0]}={plain(value)}" for value in self.axis[1])

    def get(self, key: str, default: Value = None) -> Value:
        """Return the value of a key."""
        return dict(self.values).get(key, default)

    def output_of(self, member: str) -> str:
        """Return the output of a member."""
        return self.output.replace("${" + self.axis[0] + "}", member.partition("=")[2]) if self.axis else self.output


def inputs_of(target: Target) -> list[str]:
    """Return the inputs of a target in the order of its method: a base, single ones, then lists."""
    if not target.method:
        return [ref for _, ref in target.terms]
    return [ref for _, each in target.inputs for ref in ((each,) if isinstance(each, str) else each)]


@dataclass(frozen=True)
class Own:
    """A method that the project declares: one of `PROGRAMS`, with a number in its text."""

    name: str
    program: str
    number: int = 1


@dataclass(frozen=True)
class World:
    """A project."""

    sources: tuple[Source, ...]
    targets: tuple[Target, ...]
    dtype: str = ""
    """The dtype of `[defaults]`."""
    methods: tuple[Own, ...] = ()

    def target(self, name: str) -> Target:
        """Return the target with a name, or the family of a member's name."""
        return next(each for each in self.targets if each.name == name.partition("@")[0])

    def source(self, name: str) -> Source | None:
        """Return the source with a name; None if there is none."""
        return next((each for each in self.sources if each.name == name), None)

    @property
    def outputs(self) -> dict[str, str]:
        """The output of each target, and of each member, that has one."""
        return {member: each.output_of(member) for each in self.targets if each.output for member in each.members}

    def renamed(self, names: Mapping[str, str]) -> World:
        """Return the same project with other names of sources and targets; paths of files stay."""

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


_IDS = f"{CLIP}embeddings.position_ids"
_MIXED = ("float32", "bfloat16", "float16")


def _numbers(key: str, count: int, traits: Sequence[str]) -> list[float]:
    """Return random numbers by a text as seed: normal, or with ties and zeros of both signs if the traits say so."""
    draw = random.Random(key)
    found = [draw.gauss(0, 1) for _ in range(count)]
    if "ties" in traits:
        found = [round(each * 2) / 2 for each in found]
    if "zeros" in traits:
        found = [draw.choice((each, 0.0, -0.0)) for each in found]
    return found


@lru_cache(maxsize=512)
def tensors_of(source: Source) -> Mapping[str, Stored | Scaled]:
    """Return the parameters of a source, by canonical name.

    Traits: `mixed` dtypes; `missing` and `extra` tensors; `ema` copies; correct position `ids`, or `broken-ids`; `ties`
    and `zeros` among the values; `alike`: tensors of one shape are equal; `small`: trained only a little; `nan`: one
    value is NaN; `scaled`: half of the matrices are 8-bit floats with scales; `tied`: the family's tied names are not
    parameters.
    """
    family = FAMILIES[source.family]
    traits = source.traits
    patches = dict(source.patches)
    found: dict[str, Stored | Scaled] = {}
    for number, (name, shape) in enumerate(family.shapes.items()):
        if "missing" in traits and number % 5 == 3:
            continue
        if name in family.copies or ("tied" in traits and name in family.ties):
            continue
        count = prod(shape)
        if name.endswith(".steps"):
            found[name] = Stored("int64", shape, encode([source.seed + each for each in range(count)], "int64"))
            continue
        own = str(shape) if "alike" in traits else name
        values = _numbers(f"{source.family} {source.base} {own}", count, traits)
        if source.seed and number % 3 != 2:  # a third of the tensors was not trained, and is equal to the base's
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


def root_of(world: World, name: str) -> Source | None:
    """Return the source that is the first input, followed down through targets; None if that is a LoRA."""
    while world.source(name) is None:
        name = inputs_of(world.target(name))[0]
    found = world.source(name)
    return None if found is None or found.family.startswith("lora") else found


def ties_of(source: Source) -> Mapping[str, str]:
    """Return the tied names of a source, with the parameter that each stands for.

    A name that a file lacks is tied, unless a configuration beside the file says that it is not.
    """
    family, there = FAMILIES[source.family], tensors_of(source)
    is_told = source.form in ("folder", "shards") and "tied" not in source.traits
    ties = {**family.copies, **({} if is_told else family.ties)}
    return {name: other for name, other in ties.items() if name not in there and other in there}


def copies_of(source: Source) -> Mapping[str, str]:
    """Return the tied names that its file contains nevertheless: with the trait `copied`.

    For names that are not tied in every model, a reader only knows that if there is a configuration beside the file, or
    if both names share one storage (`.ckpt`).
    """
    family = FAMILIES[source.family]
    if "copied" not in source.traits:
        return {}
    return {name: other for name, other in ties_of(source).items() if name in family.copies or source.form != "file"}


def spelling_of(source: Source) -> Spelling:
    """Return how a source's file spells its parameters."""
    known = FAMILIES[source.family].spellings
    *wrappers, inner = source.spelling.split("+")
    found = known[inner] if inner else PLAIN
    return replace(found, steps=(*found.steps, *(step for each in wrappers for step in known[each].steps)))


@lru_cache(maxsize=512)
def stored_of(source: Source) -> Mapping[str, Stored]:
    """Return the tensors of a source's file; names of one tensor have the same object."""
    there = dict(tensors_of(source))
    there |= {name: there[other] for name, other in copies_of(source).items()}
    numbers = {name: each.numbers if isinstance(each, Scaled) else each for name, each in there.items()}
    scales = {id(each.numbers): each for each in there.values() if isinstance(each, Scaled)}
    spelled = spelling_of(source).of(numbers)
    return files_of(
        {
            (f"n{number}.x{number * 7919 % 997}" if number in source.nonsense else name): scales.get(id(each), each)
            for number, (name, each) in enumerate(spelled.items())
        }
    )


def _add_odd(found: dict[str, Stored | Scaled], source: Source) -> None:
    """Add position ids, correct ones or floats as a merge leaves them, and EMA copies, as the traits say."""
    if "broken-ids" in source.traits:
        ids = [each * (0.99 if source.seed % 2 else 1.0) for each in range(77)]
        found[_IDS] = Stored("float32", (1, 77), encode(ids, "float32"))
    elif "ids" in source.traits:
        found[_IDS] = Stored("int64", (1, 77), encode(range(77), "int64"))
    if "ema" in source.traits:
        for name in [each for each in found if each.startswith(UNET)][:6]:
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
    family = FAMILIES[source.family]
    config: dict[str, object] = {"model_type": family.model_type, "torch_dtype": source.dtype}
    if family.model_type == "llama":
        config["architectures"] = ["LlamaForCausalLM"]
    if family.ties and ("tied" in source.traits or family.model_type != "llama"):
        config["tie_word_embeddings"] = "tied" in source.traits
    return {"config.json": {**config, **dict(spelling_of(source).config)}, "tokenizer.json": {"version": source.seed}}


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
    """Return the text of a project's mergefile."""
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
"""By name, the lines of a method's table, and its program; `NUMBER` in it is replaced by the project's number."""


def program(own: Own) -> str:
    """Return the program of a method that the project declares."""
    return PROGRAMS[own.program][1].replace("NUMBER", str(own.number)).replace("METHOD", own.name)
