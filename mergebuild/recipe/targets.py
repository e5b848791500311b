"""From the table of a target to a `Target`: what makes it, and the keys that every target may have.

Everything is checked against the catalog of methods and the names of the recipe, and all mistakes are reported before
the target counts as invalid. For words of other tools, the help has ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple, cast

from mergebuild.recipe.made_by import made_by
from mergebuild.recipe.model import Component, Input, SelectorText, Target
from mergebuild.recipe.namespace import Namespace
from mergebuild.recipe.nodes import Invalid, Node, Reader, resolve
from mergebuild.recipe.paths import FOLDER, SAFETENSORS, OutputError, absolute, check_output, is_folder
from mergebuild.recipe.per_tensor import selectors
from mergebuild.recipe.places import At
from mergebuild.recipe.problems import Problems
from mergebuild.recipe.rules import read_rules
from mergebuild.recipe.slices import MadeSlice, read_slices, with_slices
from mergebuild.recipe.target_table import Context, Declaration, MadeBy, Methods, TargetTable
from mergebuild.recipe.tokenizer_keys import read_chat_template, read_tokenizer, with_token_inputs
from mergebuild.recipe.variables import Scope
from mergebuild.recipe.vocabulary import DTYPE_HINTS, DTYPES

__all__ = ["Reading", "read_dtype", "read_target"]

_CHOICES: Mapping[str, tuple[str, ...]] = {
    "missing": ("keep", "error"),
    "ema": ("drop", "keep", "use"),
    "nonfinite": ("error", "allow"),
    "metadata": ("minimal", "full", "none"),
    "on_channels": ("error", "common"),
    "architectures": ("error", "allow"),
}
"""The allowed values by key; the first is the default."""
_OF_A_COMPONENT = ("model", "loras", "dtype")


class Reading(NamedTuple):
    """The result of reading a target: the target, or None if it is invalid; and in any case what it refers to."""

    target: Target | None
    refs: tuple[tuple[str, At], ...]


class _OutputKeys(NamedTuple):
    """The output of a target and its dtype, if it has one."""

    output: str | None
    path: Path | None
    dtype: str | None


def read_dtype(reader: Reader, node: Node, what: str) -> str | None:
    """Return a dtype's name."""
    return reader.choice(node, what, DTYPES, DTYPE_HINTS)


def read_target(
    declaration: Declaration,
    name: str,
    scope: Scope,
    namespace: Namespace,
    methods: Methods,
    default_dtype: str,
    problems: Problems,
) -> Reading:
    """Read one target, or one member of a family (then `scope` has its axes)."""
    raw = {key: value for key, value in declaration.table.items() if key != "foreach"}
    node = resolve(raw, declaration.at, scope, problems)
    assert isinstance(node.value, dict)  # raw is a table
    table = TargetTable(node, node.value, name, Context(scope, namespace, methods), problems)
    target = _TargetReading(table).read(default_dtype)
    return Reading(target, tuple(table.refs))


class _TargetReading:
    def __init__(self, table: TargetTable) -> None:
        self._table = table
        self._values = table.values
        self._name = table.name
        self._problems = table.problems
        self._reader = table.reader

    def read(self, default_dtype: str) -> Target | None:
        before = len(self._problems)
        slices = read_slices(self._table)
        made = made_by(self._table) if slices is None else slices[0].made if slices else None
        written = self._written(default_dtype)
        target = self._target(made, written)
        if len(self._problems) > before or target is None:
            return None
        whole = with_token_inputs(self._table, self._divided(target, slices))
        return whole if len(self._problems) == before else None

    def _divided(self, target: Target, slices: Sequence[MadeSlice] | None) -> Target:
        """Return a target with its slices or rules; the same one if it has none, as most."""
        if slices:
            return with_slices(target, slices)
        rules = read_rules(self._table, target)
        return replace(target, rules=rules) if rules else target

    def _target(self, made: MadeBy | None, written: _OutputKeys) -> Target | None:
        """Read the keys that every target may have; None if nothing makes it."""
        merge, options, drop, cache = self._merge(), self._options(), self._selectors("drop") or (), self._cache()
        self._table.seed()
        config, most, components = self._config(), self._max_shard_size(), self._components(written.output is not None)
        tokenizer, template = read_tokenizer(self._table), read_chat_template(self._table)
        if made is None:
            return None
        return Target(
            name=self._name,
            method=made.method,
            inputs=made.inputs,
            numbers=made.numbers,
            flags=made.flags,
            words=made.words,
            formula=made.formula,
            output=written.output,
            output_path=written.path,
            dtype=written.dtype,
            merge=merge,
            drop=drop,
            missing=cast("Literal['keep', 'error']", options["missing"]),
            ema=cast("Literal['drop', 'keep', 'use']", options["ema"]),
            nonfinite=cast("Literal['error', 'allow']", options["nonfinite"]),
            metadata=cast("Literal['minimal', 'full', 'none']", options["metadata"]),
            cache=cache,
            where=self._table.node.at,
            on_channels=cast("Literal['error', 'common']", options["on_channels"]),
            architectures=cast("Literal['error', 'allow']", options["architectures"]),
            config=config,
            max_shard_size=most,
            components=components,
            tokenizer=tokenizer,
            chat_template=template,
            row=self._table.context.methods.rows.get(made.method),
        )

    def _what(self, key: str) -> str:
        return self._table.what(key)

    # -- where it is written

    def _written(self, default_dtype: str) -> _OutputKeys:
        output, path = self._output()
        return _OutputKeys(output, path, self._dtype(default_dtype, has_output="output" in self._values))

    def _output(self) -> tuple[str | None, Path | None]:
        node = self._values.get("output")
        if node is None:
            return None, None
        text = self._reader.text(node, self._what("output"), expected="a path", hint=SAFETENSORS)
        if text is None:
            return None, None
        try:
            check_output(text)
        except OutputError as error:
            self._problems.add(error.code, f"{self._what('output')} {error}", node.at, help=error.hint)
        return text, Path(absolute(text, node.at.document.folder))

    def _dtype(self, default: str, *, has_output: bool) -> str | None:
        node = self._values.get("dtype")
        if node is None:
            return default if has_output else None
        if not has_output:
            self._dtype_of_nothing("`dtype`", node)
            return None
        return read_dtype(self._reader, node, self._what("dtype"))

    def _dtype_of_nothing(self, what: str, node: Node) -> None:
        """Report a dtype although the target has no output."""
        message = f"target `{self._name}` has a {what} and no `output`"
        hint = "a target without an output is exact; give the `dtype` where it is written"
        self._problems.add("dtype-on-virtual", message, node.at, key=True, help=hint)

    # -- which tensors, and how

    def _selectors(self, key: str) -> tuple[SelectorText, ...] | None:
        node = self._values.get(key)
        return selectors(self._reader, node, self._what(key)) if node is not None else None

    def _merge(self) -> tuple[SelectorText, ...] | None:
        found = self._selectors("merge")
        if found == ():
            message = f"{self._what('merge')} is empty"
            hint = "list what is merged, or leave it out"
            self._problems.add("bad-value", message, self._values["merge"].at, help=hint)
        return found

    def _options(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for key, allowed in _CHOICES.items():
            node = self._values.get(key)
            chosen = self._reader.choice(node, self._what(key), allowed) if node is not None else None
            found[key] = chosen or allowed[0]
        method = self._table.method()
        if "compat" in self._values and not (method and method.parameter("compat")):
            message = f"`compat` in target `{self._name}` is not what its method has"
            hint = "`mergebuild methods NAME` says what there is, and how other tools differ"
            self._problems.add("not-in-this-version", message, self._values["compat"].at, key=True, help=hint)
        return found

    def _cache(self) -> bool:
        node = self._values.get("cache")
        found = self._reader.flag(node, self._what("cache")) if node is not None else None
        return found is not False

    # -- components, configuration, shards

    def _components(self, has_output: bool) -> tuple[Component, ...]:
        """Read which parts of the model come from another one."""
        node = self._values.get("components")
        hint = 'such as `components.vae = "kl_f8_anime2"`, or `{ model = "kl_f8_anime2", dtype = "float32" }`'
        table = self._reader.table(node, self._what("components"), hint) if node is not None else None
        found = [self._component(name, each, has_output) for name, each in (table or {}).items()]
        return tuple(each for each in found if each is not None)

    def _component(self, name: str, node: Node, has_output: bool) -> Component | None:
        role = f"components.{name}"
        if not isinstance(node.value, dict):
            whole = self._table.input(role, node)
            return Component(name, whole, None) if whole else None
        self._reader.known_keys(node.value, self._what(role), _OF_A_COMPONENT)
        model, dtype = node.value.get("model"), node.value.get("dtype")
        if dtype is not None and not has_output:
            self._dtype_of_nothing(f"`dtype` for its `{name}`", dtype)
        given = self._table.input_in(role, "model", node, ("loras",)) if model is not None else None
        if model is None and dtype is None:
            message = f"{self._what(role)} says nothing"
            self._problems.add("missing-key", message, node.at, help="name a `model`, or a `dtype`")
        rounded = read_dtype(self._reader, dtype, f"`dtype` of {role}") if dtype is not None else None
        return Component(name, given, rounded)

    def _config(self) -> Input | None:
        """Read the donor of the small files."""
        node = self._values.get("config")
        found = self._table.input("config", node) if node is not None else None
        if node is not None and found is not None:
            self._check_folder("config", node, "goes beside the weights of a folder")
        return found

    def _max_shard_size(self) -> int | None:
        node = self._values.get("max_shard_size")
        if node is None or isinstance(node.value, Invalid):
            return None
        found = self._reader.size(node, self._what("max_shard_size"), 'such as `max_shard_size = "5GB"`', least=1)
        if found is not None:
            self._check_folder("max_shard_size", node, "is about the files of a folder")
        return found

    def _check_folder(self, key: str, node: Node, does: str) -> None:
        """Report a key that is only for folders, if the output is none."""
        if not is_folder(self._values.get("output")):
            message = f"{self._what(key)} {does}, and there is none"
            self._problems.add("no-folder", message, node.at, key=True, help=FOLDER)
