"""Strategies of hypothesis for worlds and for edits of them. Targets are drawn by the rows of the catalog.

So a new method of the catalog is drawn automatically, with its inputs and parameters, their kinds, ranges and choices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from worlds import FAMILIES, WRAPPERS, Family, Own, Rule, Source, Table, Target, World, root_of, spelling_of

from mergebuild.methods.catalog import METHODS as CATALOG
from mergebuild.methods.catalog import Method, Parameter
from mergebuild.methods.making import Elementwise, Linear, OwnProgram, Program, Statistical

__all__ = [
    "METHODS",
    "SPELLED",
    "STATISTICS",
    "Step",
    "every_spelling",
    "family_of",
    "parameter_values",
    "respelled",
    "row_of",
    "targets_by",
    "trained",
    "walks",
    "worlds",
]

Draw = Callable[..., Any]

_DTYPES = ("float16", "float32", "bfloat16", "float64", "float8_e4m3fn", "float8_e5m2")
_OUTPUT_DTYPES = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "source")
_NUMBERS = tuple(map(Decimal, ("0.3", "1", "0.5", "0", "0.25", "-0.7", "1.5", "0.01", "0.75")))
_OWN = OwnProgram(Program("", "", ""))
_OWN_ROWS = {
    "gate": Method(
        "gate", ("a", "b", "c"), (Parameter("alpha", ""), Parameter("sharp", "", default=True)), "", "", _OWN,
        optional=("b", "c"),
    ),
    "mean": Method("mean", ("a", "models"), (Parameter("alpha", "", per="model", default=True),), "", "", _OWN),
}  # fmt: skip
METHODS = {name: row for name, row in CATALOG.items() if not row.makes.makes_experts}
"""Those that any models can have; experts are made of whole language models, and have laws of their own."""
STATISTICS = tuple(name for name, row in METHODS.items() if isinstance(row.makes, Statistical))
_LINEAR = tuple(name for name, row in METHODS.items() if isinstance(row.makes, Linear) and "loras" not in row.inputs)
_OF_MODELS = tuple(name for name, row in METHODS.items() if "loras" not in row.inputs and not row.makes.makes_lora)
_LORA = tuple(name for name, row in METHODS.items() if "loras" in row.inputs or row.makes.makes_lora)


def _rarely(draw: Draw, one_in: int) -> bool:
    """Draw True about once in `one_in` times."""
    return bool(draw(st.integers(0, one_in - 1)) == one_in - 1)


# Parameters


def _allowed(parameter: Parameter, whole: bool) -> list[Decimal]:
    numbers = tuple(map(Decimal, ("1", "2", "0", "3"))) if whole else _NUMBERS
    low, high = parameter.low, parameter.high
    if low is not None and 0 < low < 1:
        numbers = (*numbers, Decimal("0.001"))
    return [each for each in numbers if (low is None or each >= low) and (high is None or each <= high)]


def _number(draw: Draw, parameter: Parameter, family: Family | None) -> Any:
    """Draw a number, or a table of numbers per tensor."""
    whole = "rank" in parameter.name
    plain = st.sampled_from(_allowed(parameter, whole))
    if family is None or not family.keys or not _rarely(draw, 3):
        return draw(plain)
    keys = draw(st.lists(st.sampled_from(sorted(family.keys)), min_size=1, max_size=2, unique=True))
    names = list(family.shapes)
    keys.sort(key=lambda key: -sum(map(family.keys[key], names)))  # a later one never hides an earlier one
    items = [(key, draw(plain)) for key in keys]
    if draw(st.booleans()):
        items.insert(0, ("default", draw(plain)))
    return Table(tuple(items))


def parameter_values(draw: Draw, parameter: Parameter, models: int, family: Family | None) -> Any:
    """Draw a value for a parameter, or one for each model if it has one per model."""
    match parameter.kind:
        case "flag":
            return draw(st.booleans())
        case "word":
            return draw(st.sampled_from(parameter.choices))
        case "integer":
            return draw(st.sampled_from(_allowed(parameter, whole=True)))
    if parameter.per == "model" and draw(st.booleans()):
        return tuple(_number(draw, parameter, family) for _ in range(models))
    return _number(draw, parameter, family)


def _parameters(draw: Draw, row: Method, models: int, family: Family | None) -> list[tuple[str, Any]]:
    kin = None if row.makes.makes_lora else family
    chosen = [each for each in row.parameters if each.default is None or _rarely(draw, 4)]
    return [(each.name, parameter_values(draw, each, models, kin)) for each in chosen]


# Sources


_CANONICAL = ("llama", "plain", "sd1", "sdxl")
"""Families that are drawn when all files have canonical names."""
SPELLED = ("llama", "moe", "gpt2", "bert", "t5", "llava", "sd1", "sdxl", "unet", "vae", "flux", "sd3", "plain")
"""Families that are drawn when files have several spellings."""


def _spelling(draw: Draw, source: Source) -> str:
    """Draw how a source's file spells its parameters."""
    kin = FAMILIES[source.family]
    known = [name for name, each in kin.spellings.items() if source.form in each.forms]
    if "scaled" in source.traits:  # each scale belongs to a single tensor
        known = [name for name in known if kin.spellings[name].of_names == kin.spellings[name]]
    if "ema" in source.traits:  # copies are named after the tensors of a UNet that has its own prefix
        known = [name for name in known if name in ("forge", "novelai")]
    elif _rarely(draw, 5) and known:
        wrapper = draw(st.sampled_from(("compiled", "parallel")))
        return f"{wrapper}+{draw(st.sampled_from(known))}"
    return draw(st.sampled_from(["", *known])) if known else ""


@st.composite
def _source(draw: Draw, name: str, family: str, *, spelled: bool = False) -> Source:
    kin = FAMILIES[family]
    seed = draw(st.integers(0, 3))
    dtype = draw(st.sampled_from(_DTYPES))
    traits = ["ties", "zeros", "small", "mixed", "missing", "extra", "alike", "scaled"]
    if family == "sd1":
        traits += ["ema", "ids", "broken-ids"] * 2
    if family.startswith("lora"):
        traits, dtype = [], draw(st.sampled_from(("float16", "float32")))
    chosen = set(draw(st.lists(st.sampled_from(traits), max_size=3))) if traits else set()
    if _rarely(draw, 40) and traits:
        chosen.add("nan")
    found = Source(name, family, seed, 0, dtype, draw(st.sampled_from(kin.forms)), tuple(sorted(chosen)))
    if not spelled or family.startswith("lora"):
        return found
    if kin.is_whole:
        chosen -= {"missing", "mixed", "extra"}  # tensors whose names are of no part belong to none
    if kin.ties:
        chosen |= set(draw(st.lists(st.sampled_from(("tied", "copied")), max_size=2)))
    elif kin.copies and draw(st.booleans()):
        chosen.add("copied")
    found = replace(found, traits=tuple(sorted(chosen)))
    return replace(found, spelling=_spelling(draw, found))


@st.composite
def respelled(draw: Draw, world: World) -> World:
    """Draw the same project with other spellings of its files.

    A statistic is of a tensor as the first input stores it. So if any target is not elementwise, first inputs keep
    their spelling where the old or the new one fuses or cuts parameters.
    """
    first = {root_of(world, each.name) for each in world.targets}
    is_loose = all(is_by_elements(world, each) for each in world.targets)
    found = []
    for source in world.sources:
        other = replace(source, spelling=_spelling(draw, source))
        if kept := FAMILIES[source.family].ties or FAMILIES[source.family].copies:
            traits = {each for each in source.traits if each != "copied"}
            other = replace(
                other, traits=tuple(sorted(traits | ({"copied"} if kept and draw(st.booleans()) else set())))
            )
        refits = spelling_of(source).refits or spelling_of(other).refits
        if refits and source in first and not is_loose:
            other = replace(other, spelling=source.spelling)
        found.append(other)
    return replace(world, sources=tuple(found))


def is_by_elements(world: World, target: Target) -> bool:
    """Return whether each element of a target depends only on the inputs' elements at the same index.

    False for a project's own methods, which may do anything.
    """
    methods = [target.method, *(rule.method for rule in target.rules)]
    own = {each.name for each in world.methods}
    return all(name not in own and isinstance(METHODS[name].makes, Linear | Elementwise) for name in methods if name)


# Targets


@st.composite
def every_spelling(draw: Draw, family: str) -> tuple[World, World]:
    """Draw a project with a model per spelling and way to store ties: with canonical names, and with these spellings.

    Each model is the first and the second input of a linear target, and an input of a target by another method of the
    catalog. Methods take turns: in the simplest draws, all families together have each method several times.
    """
    kin = FAMILIES[family]
    one = Source("one", family, 1, form=draw(st.sampled_from(kin.forms)))
    own = [each for each in kin.spellings if each not in WRAPPERS]
    ways = [(each, ()) for each in own or kin.spellings]
    if kin.ties or kin.copies:
        ways += [("", each) for each in (("tied",), ("copied",), ("copied", "tied"))]
    models, others, targets = [one], [one], []
    for number, (spelling, traits) in enumerate(ways):
        forms = [each for each in kin.forms if not spelling or each in kin.spellings[spelling].forms]
        kept = tuple(each for each in traits if each != "copied")
        model = Source(f"m{number}", family, 2 + number, form=draw(st.sampled_from(forms)), traits=kept)
        other = replace(model, spelling=spelling, traits=traits)
        models.append(model)
        others.append(other)
        for place, pair in enumerate(((one.name, model.name), (model.name, one.name))):
            name, inputs = f"t{number}-{place}", tuple(zip("ab", pair, strict=True))
            values = (("alpha", Decimal("0.3")),)
            targets.append(Target(name, "weighted_sum", inputs, values, f"out/{name}.safetensors"))
        turn = SPELLED.index(family) * len(_OF_MODELS) // len(SPELLED) + number + draw(st.integers(0, 99))
        method = _OF_MODELS[turn % len(_OF_MODELS)]
        target = draw(targets_by(World((one, model), ()), family, f"t{number}-x", [method]))
        world = World((one, model), (target,))
        if root_of(world, target.name) == model and spelling_of(other).refits and not is_by_elements(world, target):
            target = world.renamed({one.name: model.name, model.name: one.name}).targets[0]
        targets.append(target)
    return World(tuple(models), tuple(targets)), World(tuple(others), tuple(targets))


@dataclass(frozen=True)
class _Around:
    """The sources and targets that a target may read."""

    family: str
    models: tuple[str, ...]
    loras: tuple[str, ...]
    methods: tuple[Own, ...]


def _around(world: World, family: str) -> _Around:
    models = [each.name for each in world.sources if each.family == family]
    loras = [each.name for each in world.sources if each.family != family]
    for each in world.targets:
        row = METHODS.get(each.method)
        refs = [*each.members, f"{each.name}@{each.axis[0]}=0.4"] if each.axis else [each.name]
        (loras if row is not None and row.makes.makes_lora else models).extend(refs)
    return _Around(family, tuple(models), tuple(loras), world.methods)


def _inputs(draw: Draw, row: Method, around: _Around) -> tuple[tuple[tuple[str, Any], ...], int]:
    """Draw a method's inputs, preferring later targets; return them, and how many are in its list."""
    model = st.sampled_from(around.models[::-1])
    lora = st.sampled_from(around.loras[::-1]) if around.loras else model
    found: list[tuple[str, Any]] = []
    count = 0
    for role in row.inputs:
        if role in row.optional and draw(st.booleans()):
            continue
        if role == row.listed:
            least, most = max(1, row.least_models), row.most_models or 3
            refs = draw(st.lists(lora if role == "loras" else model, min_size=least, max_size=max(least, most)))
            count = len(refs)
            found.append((role, tuple(refs)))
        else:
            found.append((role, draw(lora if row.name == "resize_lora" else model)))
    return tuple(found), count


def _output(draw: Draw, name: str, row: Method | None, around: _Around) -> str:
    kinds = ["", ".safetensors", ".safetensors", ".ckpt"]
    if row is None or not row.makes.makes_lora or around.family == "llama":
        kinds.append("/")
    kind = draw(st.sampled_from(kinds))
    return f"out/{name}{kind}" if kind else ""


def _common(draw: Draw, output: str, row: Method | None, around: _Around) -> list[tuple[str, Any]]:
    """Draw keys that every target may have."""
    family = FAMILIES[around.family]
    found: list[tuple[str, Any]] = []
    if output and draw(st.booleans()):
        found.append(("dtype", draw(st.sampled_from(_OUTPUT_DTYPES))))
    if output and _rarely(draw, 4):
        found.append(("metadata", draw(st.sampled_from(("full", "none", "minimal")))))
    if output.endswith("/") and draw(st.booleans()):
        found.append(("max_shard_size", draw(st.sampled_from(("500B", "900B")))))
    if around.family == "sd1" and draw(st.booleans()):
        found.append(("ema", draw(st.sampled_from(("keep", "use", "drop")))))
    if _rarely(draw, 20):
        found.append(("missing", "error"))
    if _rarely(draw, 12):
        found.append(("nonfinite", "allow"))
    if family.keys and _rarely(draw, 6):
        found.append(("drop", draw(st.sampled_from(sorted(family.keys)))))
    elif family.keys and _rarely(draw, 6) and not (row and row.makes.makes_lora):
        found.append(("merge", (draw(st.sampled_from(sorted(family.keys))),)))
    if _rarely(draw, 3):
        found.append(("cache", False))
    return found


_COMMON_KEYS = ("dtype", "metadata", "max_shard_size", "ema", "missing", "nonfinite", "drop", "merge", "cache")


def _rules(draw: Draw, row: Method, inputs: Sequence[tuple[str, Any]], count: int, family: Family) -> tuple[Rule, ...]:
    roles = {role for role, _ in inputs}
    alike = [
        each.name
        for each in METHODS.values()
        if set(each.inputs) == roles and not each.makes.makes_lora and each.least_models <= max(1, count)
        and (each.most_models is None or count <= each.most_models)
    ]  # fmt: skip
    found = []
    for key in draw(st.lists(st.sampled_from(sorted(family.keys)), min_size=1, max_size=2, unique=True)):
        other = METHODS[draw(st.sampled_from(alike))]
        values = [each for each in _parameters(draw, other, count, None) if not isinstance(each[1], Table)]
        found.append(Rule((key,), other.name, tuple(values)))
    found.sort(key=lambda rule: -sum(map(family.keys[rule.tensors[0]], family.shapes)))
    return tuple(found)


@st.composite
def targets_by(draw: Draw, world: World, family: str, name: str, methods: Sequence[str] | None = None) -> Target:
    """Draw a target over a world's sources and targets; `methods`: the methods to choose from."""
    around = _around(world, family)
    kinds: list[Any] = [st.sampled_from(sorted(METHODS)), st.sampled_from(STATISTICS), st.sampled_from(_LINEAR)]
    if around.loras:
        kinds.append(st.sampled_from(_LORA))
    if around.methods:
        kinds += [st.sampled_from([own.name for own in around.methods])] * 3
    kinds.append(st.just(""))
    method = draw(st.sampled_from(methods) if methods else st.one_of(kinds))
    if not method:
        return _formula(draw, around, name)
    own = next((each for each in around.methods if each.name == method), None)
    row = _OWN_ROWS[own.program] if own else METHODS[method]
    if ("loras" in row.inputs or method == "resize_lora") and not around.loras:
        return _formula(draw, around, name)
    inputs, count = _inputs(draw, row, around)
    kin = FAMILIES[family]
    values = _parameters(draw, row, count, kin)
    output = _output(draw, name, row, around)
    common = _common(draw, output, row, around)
    rules: tuple[Rule, ...] = ()
    axis = None
    if not row.makes.makes_lora and own is None and "loras" not in row.inputs and kin.keys and _rarely(draw, 3):
        rules = _rules(draw, row, inputs, count, kin)
    single = [key for key, value in values if isinstance(value, Decimal) and "rank" not in key and key != "seed"]
    parameters = {each.name: each for each in row.parameters}
    if single and _rarely(draw, 5):
        key = single[0]
        if parameters[key].kind == "number":
            allowed = _allowed(parameters[key], whole=False)[:4]
            axis = ("ax", tuple(draw(st.lists(st.sampled_from(allowed), min_size=1, max_size=2, unique=True))))
            values = [(each, "${ax}" if each == key else value) for each, value in values]
            stem, dot, end = output.partition(".")
            output = (
                (output[:-1] + "-${ax}/") if output.endswith("/") else (stem + "-${ax}" + dot + end if output else "")
            )
    components: tuple[tuple[str, Table], ...] = ()
    if kin.components and not row.makes.makes_lora and _rarely(draw, 6):
        part = draw(st.sampled_from(kin.components))
        table = [("model", draw(st.sampled_from(around.models)))] if not output or draw(st.booleans()) else []
        if output and (not table or draw(st.booleans())):
            table.append(("dtype", draw(st.sampled_from(_OUTPUT_DTYPES[:-1]))))
        components = ((part, Table(tuple(table))),)
    return Target(name, method, inputs, tuple(values + common), output, rules, axis, (), components)


def _formula(draw: Draw, around: _Around, name: str) -> Target:
    refs = draw(st.lists(st.sampled_from(around.models[::-1]), min_size=1, max_size=3))
    values: list[tuple[str, Any]] = []
    terms = []
    for index, ref in enumerate(refs):
        if draw(st.booleans()):
            values.append((f"x{index}", _number(draw, Parameter("alpha", ""), FAMILIES[around.family])))
            terms.append((f"x{index}", ref))
        else:
            terms.append((str(draw(st.sampled_from([each for each in _NUMBERS if each >= 0]))), ref))
    output = _output(draw, name, None, around)
    return Target(name, "", (), tuple(values + _common(draw, output, None, around)), output, (), None, tuple(terms))


# Worlds


@st.composite
def worlds(
    draw: Draw, methods: Sequence[str] | None = None, least: int = 1, most: int = 4, *, spelled: bool = False
) -> World:
    """Draw a project; `spelled`: its files spell their parameters in several ways."""
    family = draw(st.sampled_from(SPELLED if spelled else (*_CANONICAL, "llama", "sd1")))
    kin = FAMILIES[family]
    sources = [draw(_source(f"s{number}", family, spelled=spelled)) for number in range(draw(st.integers(2, 3)))]
    if kin.lora and (draw(st.booleans()) or (methods and set(methods) & set(_LORA))):
        sources += [draw(_source(f"l{number}", kin.lora)) for number in range(draw(st.integers(1, 2)))]
    own: tuple[Own, ...] = ()
    if _rarely(draw, 3):
        own = (Own("mine", draw(st.sampled_from(("gate", "mean"))), draw(st.integers(1, 2))),)
    world = World(tuple(sources), (), "float16" if _rarely(draw, 4) else "", own)
    for number in range(draw(st.integers(least, most))):
        name = f"t{number}"
        is_new = not world.targets or draw(st.booleans())
        target = draw(targets_by(world, family, name, methods)) if is_new else _variation(draw, world, name)
        world = replace(world, targets=(*world.targets, target))
    return world


def _variation(draw: Draw, world: World, name: str) -> Target:
    """Draw a target that differs in one thing from an earlier one, so that both share work."""
    what = draw(st.sampled_from(("parameter", "keys", "role", "input", "parameter", "rules", "nothing")))
    optional = [each for each in world.targets if (row := row_of(world, each)) and row.optional]
    twin = draw(st.sampled_from(optional if what == "role" and optional else world.targets))
    output = twin.output.replace(f"out/{twin.name}", f"out/{name}") if twin.output else ""
    found = replace(twin, name=name, output=output)
    row = row_of(world, twin)
    around = _around(
        replace(world, targets=tuple(each for each in world.targets if each.name != twin.name)), family_of(world)
    )
    if what == "keys":
        kept = tuple(each for each in twin.values if each[0] not in _COMMON_KEYS)
        return replace(found, values=(*kept, *_common(draw, output, row, around)))
    if what == "parameter" and row is not None and row.parameters:
        words = [each for each in row.parameters if each.kind in ("flag", "word")]  # numbers are changed elsewhere too
        parameter = draw(st.sampled_from(words if words and draw(st.booleans()) else row.parameters))
        count = next((len(refs) for _, refs in twin.inputs if not isinstance(refs, str)), 0)
        value = parameter_values(draw, parameter, count, None if row.makes.makes_lora else FAMILIES[family_of(world)])
        if twin.get(parameter.name) != "${ax}":
            kept = tuple(each for each in twin.values if each[0] != parameter.name)
            return replace(found, values=(*kept, (parameter.name, value)))
    if what == "role" and row is not None and row.optional:
        others = [role for role in row.optional if role not in dict(twin.inputs)]
        there = [role for role in row.optional if role in dict(twin.inputs)]
        if others and there:
            return replace(
                found, inputs=tuple((others[0] if role == there[0] else role, ref) for role, ref in twin.inputs)
            )
    if what == "input" and row is not None and "loras" not in row.inputs and not row.makes.makes_lora and around.models:
        single = [role for role, ref in twin.inputs if isinstance(ref, str)]
        if single and row.name != "resize_lora":
            role = draw(st.sampled_from(single))
            ref = draw(st.sampled_from(around.models))
            return replace(found, inputs=tuple((each, ref if each == role else old) for each, old in twin.inputs))
    return replace(found, rules=()) if what == "rules" else found


def row_of(world: World, target: Target) -> Method | None:
    own = next((each for each in world.methods if each.name == target.method), None)
    return _OWN_ROWS[own.program] if own else METHODS.get(target.method)


# Edits


@dataclass(frozen=True)
class Step:
    """One edit of a project: the world after it, and what else happens to the folder before the next build."""

    said: str
    world: World
    act: tuple[str, int] = ("", 0)
    threads: int = 1


def family_of(world: World) -> str:
    """Return the family of a world's models."""
    return world.sources[0].family


def _readers(world: World, names: set[str]) -> set[str]:
    """Return the given names, with those of all targets that read any of them."""
    found = set(names)
    for each in world.targets:
        if any(ref.partition("@")[0] in found for ref in each.refs):
            found.add(each.name)
    return found


def _other_number(draw: Draw, world: World) -> tuple[str, World]:
    which = draw(st.integers(0, len(world.targets) - 1))
    target = world.targets[which]
    row = row_of(world, target)
    count = next((len(refs) for _, refs in target.inputs if not isinstance(refs, str)), 0)
    parameters = {each.name: each for each in row.parameters} if row else {}
    there = [key for key, value in target.values if key in parameters and value != "${ax}"]
    there += [key for key in parameters if parameters[key].default is not None and not target.get(key)]
    there += [key for key, _ in target.terms if key.startswith("x")]
    if not there:
        return _trained(draw, world)
    key = draw(st.sampled_from(sorted(set(there))))
    kin = None if row is not None and row.makes.makes_lora else FAMILIES[family_of(world)]
    value = parameter_values(draw, parameters.get(key, Parameter("alpha", "")), count, kin)
    if key not in parameters and isinstance(value, tuple):
        value = value[0]
    values = tuple((each, value if each == key else old) for each, old in target.values)
    if key not in dict(target.values):
        values = (*values, (key, value))
    return f"{target.name}.{key}", _with_target(world, which, replace(target, values=values))


def _with_target(world: World, which: int, target: Target) -> World:
    return replace(world, targets=(*world.targets[:which], target, *world.targets[which + 1 :]))


def _trained(draw: Draw, world: World) -> tuple[str, World]:
    which = draw(st.integers(0, len(world.sources) - 1))
    source = world.sources[which]
    patch = (draw(st.integers(0, len(FAMILIES[source.family].shapes) - 1)), draw(st.integers(1, 3)))
    changed = replace(source, patches=(*(each for each in source.patches if each[0] != patch[0]), patch))
    return f"another tensor {patch[0]} in {source.name}", _with_source(world, which, changed)


@st.composite
def trained(draw: Draw, world: World) -> World:
    """Draw the same world with one tensor of a source changed."""
    return _trained(draw, world)[1]


def _with_source(world: World, which: int, source: Source) -> World:
    return replace(world, sources=(*world.sources[:which], source, *world.sources[which + 1 :]))


def _other_source(draw: Draw, world: World) -> tuple[str, World]:
    which = draw(st.integers(0, len(world.sources) - 1))
    source = world.sources[which]
    changed = draw(_source(source.name, source.family, spelled=_is_spelled(world)))
    return f"another {source.name}", _with_source(world, which, replace(changed, path=source.path))


def _is_spelled(world: World) -> bool:
    """Return whether a world's files spell their parameters in several ways."""
    return family_of(world) not in _CANONICAL or any(each.spelling for each in world.sources)


def _otherwise_spelled(draw: Draw, world: World) -> tuple[str, World]:
    """Draw the same world with another spelling of one model."""
    models = [each.family in SPELLED and bool(FAMILIES[each.family].spellings) for each in world.sources]
    which = draw(st.sampled_from([number for number, is_model in enumerate(models) if is_model]))
    source = world.sources[which]
    changed = replace(source, spelling=_spelling(draw, source))
    return f"another spelling of {source.name}", _with_source(world, which, changed)


def _renamed(draw: Draw, world: World) -> tuple[str, World]:
    names = [*(each.name for each in world.sources), *(each.name for each in world.targets)]
    old = draw(st.sampled_from(names))
    new = f"n{draw(st.integers(0, 99))}"
    return (f"{old} renamed {new}", world.renamed({old: new})) if new not in names else _trained(draw, world)


def _reordered(draw: Draw, world: World) -> tuple[str, World]:
    sources = tuple(draw(st.permutations(world.sources)))
    if sources[0].family.startswith("lora"):
        sources = tuple(sorted(sources, key=lambda each: each.family.startswith("lora")))
    return "other order", replace(world, sources=sources, targets=_sorted(draw(st.permutations(world.targets))))


def _sorted(targets: Sequence[Target]) -> tuple[Target, ...]:
    """Return targets in an order in which each comes after those that it reads."""
    found: list[Target] = []
    waiting = list(targets)
    names = {each.name for each in targets}
    while waiting:
        ready = next(
            each
            for each in waiting
            if not {ref.partition("@")[0] for ref in each.refs} & (names - {one.name for one in found})
        )
        found.append(ready)
        waiting.remove(ready)
    return tuple(found)


def _removed(draw: Draw, world: World) -> tuple[str, World]:
    name = draw(st.sampled_from([each.name for each in world.targets]))
    gone = _readers(world, {name})
    left = tuple(each for each in world.targets if each.name not in gone)
    return (f"without {name}", replace(world, targets=left)) if left else _trained(draw, world)


def _added(draw: Draw, world: World) -> tuple[str, World]:
    taken = {each.name for each in (*world.sources, *world.targets)}
    name = next(f"u{number}" for number in range(99) if f"u{number}" not in taken)
    target = draw(targets_by(world, family_of(world), name))
    return f"with {name}", replace(world, targets=(*world.targets, target))


def _other_key(draw: Draw, world: World) -> tuple[str, World]:
    """Draw the same world with another key of a target (dtype, metadata, ema and so on), or another output path."""
    which = draw(st.integers(0, len(world.targets) - 1))
    target = world.targets[which]
    around = _around(world, family_of(world))
    row = METHODS.get(target.method)
    values = [each for each in target.values if each[0] not in _COMMON_KEYS]
    if draw(st.booleans()):
        output = target.output
    elif target.axis:
        output = "" if target.output else f"out/{target.name}-again-" + "${ax}.safetensors"
    else:
        output = _output(draw, f"{target.name}-again", row, around)
    components = target.components if output else ()
    changed = replace(
        target, values=(*values, *_common(draw, output, row, around)), output=output, components=components
    )
    return f"{target.name} otherwise", _with_target(world, which, changed)


def _other_dtype(draw: Draw, world: World) -> tuple[str, World]:
    return "[defaults] dtype", replace(world, dtype=draw(st.sampled_from(("", *_OUTPUT_DTYPES[:3]))))


def _other_program(draw: Draw, world: World) -> tuple[str, World]:
    if not world.methods:
        return _trained(draw, world)
    own = world.methods[0]
    return "another program", replace(world, methods=(replace(own, number=3 - own.number), *world.methods[1:]))


_EDITS = (
    _other_number, _other_number, _trained, _other_source, _renamed, _reordered, _removed, _added, _other_key,
    _other_key, _other_dtype, _other_program, _otherwise_spelled,
)  # fmt: skip
_ACTS = ("", "", "", "delete", "gc", "clean", "lose", "kill", "kill")


@st.composite
def walks(draw: Draw, most: int = 5) -> tuple[Step, ...]:
    """Draw a project and a sequence of edits."""
    found = [Step("begin", draw(worlds(spelled=_rarely(draw, 3))), threads=draw(st.sampled_from((1, 2))))]
    for _ in range(draw(st.integers(1, most))):
        act = draw(st.sampled_from(_ACTS))
        world = found[-1].world
        if act in ("lose", "delete", "clean") or (act == "gc" and draw(st.booleans())):
            said = act
        elif len(found) > 1 and _rarely(draw, 5):
            back = draw(st.integers(0, len(found) - 2))
            said, world = f"back to {back}", found[back].world
        else:
            said, world = draw(st.sampled_from(_EDITS))(draw, world)
        number = draw(st.integers(0, 400)) if act == "kill" else draw(st.integers(0, 3))
        found.append(Step(said, world, (act, number), draw(st.sampled_from((1, 2)))))
    return tuple(found)
