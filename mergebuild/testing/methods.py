"""The laws of a method's `makes`, for any row of the catalog and any class of `methods/making.py`.

A subclass provides the fixture `method`. `MethodTests` are for every row; `OperationTests` for rows that name a maker
of the engine. These check that everything which decides about a tensor is in its digest, and nothing else. No law
computes values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from mergebuild.digest import checksum
from mergebuild.fold.forms import Form, Kinds, Operation, Slot, Spec
from mergebuild.methods.arguments import Argument, Described
from mergebuild.methods.making import Shapes
from mergebuild.methods.method import Method, Parameter
from mergebuild.plan.made import Made, Origin
from mergebuild.plan.tensors import Grid, Tensors

__all__ = ["SHAPES", "MethodTests", "OperationTests"]

_UNET, _TEXT = "model.diffusion_model.", "cond_stage_model.transformer.text_model."
_LAYER = f"{_TEXT}encoder.layers.0."
SHAPES: Shapes = {
    f"{_UNET}input_blocks.0.0.weight": (320, 4, 3, 3), f"{_UNET}input_blocks.0.0.bias": (320,),
    f"{_UNET}input_blocks.1.1.proj_out.weight": (320, 320, 1, 1), f"{_UNET}out.2.weight": (4, 320, 3, 3),
    **{f"{_LAYER}self_attn.{part}_proj.{end}": shape for part in ("q", "k", "v", "out")
       for end, shape in (("weight", (768, 768)), ("bias", (768,)))},
    f"{_LAYER}mlp.fc1.weight": (3072, 768), f"{_LAYER}mlp.fc1.bias": (3072,), f"{_LAYER}mlp.fc2.weight": (768, 3072),
    "first_stage_model.decoder.conv_out.weight": (3, 128, 3, 3), "odd": (), "empty": (0, 5),
}  # fmt: skip
"""Some tensors of a checkpoint, chosen so that each method changes some of them."""

_MODELS = 2


class _Text(NamedTuple):
    key_text: str


def _argument(parameter: Parameter) -> Argument:
    """Return an argument for a parameter: its default, or a value within its bounds."""
    value = parameter.default
    if parameter.kind == "word":
        return str(value or parameter.choices[0])
    if isinstance(value, bool | str):
        return value
    least = parameter.low if parameter.low is not None else Fraction(0)
    number = value if isinstance(value, Fraction) else max(least, Fraction(1, 4))
    return (number,) * _MODELS if parameter.per == "model" else number


def _another(value: Argument) -> Argument:
    """Return another argument of the same kind."""
    match value:
        case bool():
            return not value
        case Fraction():
            return value + 1
        case str():
            return f"{value} too"
        case tuple():
            return (*value[:-1], value[-1] + 1)
        case _:
            return _described(f"{value.key_text} too")


def _described(text: str) -> Described:
    return _Text(text)


def _numbers(method: Method) -> Mapping[str, Fraction | tuple[Fraction, ...]]:
    found = {each.name: _argument(each) for each in method.parameters if each.kind == "number"}
    return {name: each for name, each in found.items() if isinstance(each, Fraction | tuple)}


def _words(method: Method) -> Mapping[str, Argument]:
    return {each.name: _argument(each) for each in method.parameters if each.kind in ("integer", "word")}


def _count(method: Method) -> int:
    """Return the number of inputs."""
    return sum(_MODELS if role == method.listed else 1 for role in method.inputs)


class MethodTests:
    """The laws of every row."""

    def test_its_tensors_come_about_in_one_way(self, method: Method) -> None:
        """As a combination of the inputs, by a maker of the engine, or as a LoRA or experts, made by other methods."""
        others = method.makes.makes_lora or method.makes.makes_experts
        ways = [self._shares(method, "w") is not None, bool(method.makes.maker), others]
        assert sum(ways) == 1
        assert method.makes.passes > 0

    def test_a_share_an_input(self, method: Method) -> None:
        """Shares are exact, and depend on the tensor's name only if `shares_by_name` says so."""
        found = [self._shares(method, name) for name in (*SHAPES, "block.to_out.weight")]
        exact = [share for shares in found if shares is not None for share in shares]
        assert all(isinstance(share, Fraction) for share in exact)
        assert all(shares is None or len(shares) == _count(method) for shares in found)
        assert (len(set(found)) > 1) == method.makes.shares_by_name

    def test_it_takes_up_some_of_the_tensors_in_their_order(self, method: Method) -> None:
        """In any order in which tensors are given."""
        found = list(method.makes.taken_up(SHAPES, _words(method)))
        assert found == [name for name in SHAPES if name in set(found)]
        assert found
        backwards = {name: SHAPES[name] for name in [*SHAPES][::-1]}
        assert list(method.makes.taken_up(backwards, _words(method))) == found[::-1]
        assert not list(method.makes.taken_up({}, _words(method)))

    def test_scopes_are_of_what_it_takes_up(self, method: Method) -> None:
        """If the method surveys, each tensor that it changes is in one scope; otherwise there are no scopes."""
        members = [name for scope in method.makes.scopes(SHAPES, _words(method)) for name in scope]
        taken = method.makes.taken_up(SHAPES, _words(method)) if method.makes.surveys else []
        assert sorted(members) == sorted(taken)

    def test_a_survey_depends_on_some_of_the_arguments(self, method: Method) -> None:
        """With all arguments that `scopes` depends on among them."""
        given = tuple(sorted((each.name, _argument(each)) for each in method.parameters))
        found = method.makes.survey_arguments(given)
        assert set(found) <= set(given)
        if method.makes.surveys:
            words = _words(method)
            seen = dict(found)
            for name in words.keys() - seen.keys():
                other = {**words, name: _another(words[name])}
                assert method.makes.scopes(SHAPES, other) == method.makes.scopes(SHAPES, words)
        else:
            assert not found

    def _shares(self, method: Method, name: str) -> tuple[Fraction, ...] | None:
        flags = {each.name: bool(each.default) for each in method.parameters if each.kind == "flag"}
        return method.makes.shares(_count(method), _numbers(method), flags, name)


class OperationTests:
    """The laws of rows that name a maker."""

    def operation(self, method: Method) -> Operation:
        """Return an operation of the method. A subclass overrides it if the row's parameters are not all arguments."""
        given: dict[str, Argument] = {each.name: _argument(each) for each in method.parameters}
        given |= {f"has_{role}": True for role in method.optional}
        given |= method.makes.layout_arguments("sd15")
        return Operation(method, tuple(sorted(given.items())), _inputs(_count(method)))

    def made(
        self, operation: Operation, name: str, *, device: str = "cpu", is_made: bool = False, owners: str = "abcdefgh"
    ) -> Made:
        """Return the tensor that an operation makes under a name; see `tensors` for the arguments."""
        (found,) = self.tensors(operation, name, device=device, is_made=is_made, owners=owners).made
        return found

    def tensors(
        self, operation: Operation, name: str, *, device: str = "cpu", is_made: bool = False, owners: str = "abcdefgh"
    ) -> Tensors:
        """Return the tensors of a target that has one tensor, made by an operation.

        Args:
            operation: Its input i is a tensor of the owner named i.
            name: The name of the tensor.
            device: The device that makes it.
            is_made: Whether the inputs are tensors that a target makes, not a source's.
            owners: A letter for each owner: the content of its tensor.
        """
        specs = {name: Spec("float16", (6, 4), is_float=True)}
        form = Form((), operation)

        def origin(owner: str, _tensor: str) -> Origin:
            return Origin(checksum(owners[int(owner)].encode()), "float32", 96, is_made)

        grid = Grid([name], specs, Kinds({name: 0}, specs), [form.slots], origin, device)
        return grid.tensors((form,))

    def test_the_engine_has_its_maker(self, method: Method) -> None:
        from mergebuild.engine.makers import MAKERS

        assert method.makes.maker in MAKERS

    def test_a_name_is_in_the_key_where_it_matters_alone(self, method: Method) -> None:
        """For other methods, equal tensors with two names have one digest."""
        one, other = (self.made(self.operation(method), name).digest for name in ("one.weight", "other.weight"))
        assert (one != other) == method.name_in_key

    def test_every_argument_is_in_the_key(self, method: Method) -> None:
        operation = self.operation(method)
        digest = self.made(operation, "w").digest
        for index, (name, value) in enumerate(operation.arguments):
            arguments = list(operation.arguments)
            arguments[index] = (name, _another(value))
            assert self.made(replace(operation, arguments=tuple(arguments)), "w").digest != digest, name

    def test_the_version_and_the_method_are_in_the_key(self, method: Method) -> None:
        operation = self.operation(method)
        later = replace(method, version=method.version + 1)
        named = replace(method, name=f"{method.name} too")
        found = {self.made(replace(operation, method=each), "w").digest for each in (method, later, named)}
        assert len(found) == 3

    def test_every_input_is_in_the_key(self, method: Method) -> None:
        operation = self.operation(method)
        letters = "abcdefgh"
        digest = self.made(operation, "w").digest
        for index in range(len(operation.inputs)):
            others = f"{letters[:index]}x{letters[index + 1 :]}"
            assert self.made(operation, "w", owners=others).digest != digest

    def test_a_device_is_in_the_key_of_what_differs_there(self, method: Method) -> None:
        here, there = (self.made(self.operation(method), "w", device=each).digest for each in ("cpu", "cuda"))
        assert (here != there) == (not method.exact)

    def test_statistics_of_what_a_target_makes_are_in_the_key(self, method: Method) -> None:
        lying, made = (self.tensors(self.operation(method), "w", is_made=each) for each in (False, True))
        assert (lying.digests != made.digests) == method.makes.takes_statistics
        assert made.looks_at_made == method.makes.takes_statistics
        assert not lying.looks_at_made

    def test_memory_is_told_of_what_needs_tensors_whole(self, method: Method) -> None:
        assert bool(self.tensors(self.operation(method), "w").largest_whole) == method.makes.whole_tensors

    def test_the_tensors_of_a_module_are_one_computation(self, method: Method) -> None:
        """Those with equal `module_arguments` are made together, if these are not None; other arguments may differ."""
        operation = self.operation(method)
        common = method.makes.module_arguments(operation.arguments)
        together = self.made(operation, "w").together
        assert bool(together) == (common is not None)
        for index, (name, value) in enumerate(operation.arguments if common is not None else ()):
            arguments = list(operation.arguments)
            arguments[index] = (name, _another(value))
            other = self.made(replace(operation, arguments=tuple(arguments)), "w").together
            assert (other == together) == (name not in dict(common or ()))

    def test_its_keys_have_the_lines_that_it_says(self, method: Method) -> None:
        found = self.made(self.operation(method), "w").facts
        assert all(line in found for line in method.makes.key_lines)
        assert bool(method.makes.key_lines) == (method.makes.program is not None)


def _inputs(count: int) -> tuple[Form, ...]:
    """Return `count` inputs, each the tensor of another owner, named by its number."""
    return tuple(Form(((Slot(str(number)), Fraction(1)),)) for number in range(count))
