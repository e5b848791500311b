"""The methods of the catalog as lines of text."""

from __future__ import annotations

from collections.abc import Iterable

from mergebuild.methods.catalog import Method, Parameter
from mergebuild.report.columns import table

__all__ = [
    "default_text",
    "inputs_text",
    "kind_text",
    "method_document",
    "method_lines",
    "methods_lines",
    "parameters_text",
]


def inputs_text(method: Method) -> str:
    """Return the inputs as a user writes them: `a, b`, `base, models`; those that may be left out in brackets."""
    return ", ".join(f"[{role}]" if role in method.optional else role for role in method.inputs)


def parameters_text(method: Method) -> str:
    """Return the names of the parameters; those with a default as `name = default`."""
    return ", ".join(
        each.name if each.default is None else f"{each.name} = {default_text(each)}" for each in method.parameters
    )


def default_text(parameter: Parameter) -> str | None:
    """Return the default as TOML; None if the parameter must be given."""
    if parameter.default is None:
        return None
    if isinstance(parameter.default, bool):
        return str(parameter.default).lower()
    if parameter.kind == "texts":
        return "none"
    return f'"{parameter.default}"' if parameter.kind == "word" else str(parameter.default)


def methods_lines(methods: Iterable[Method]) -> list[str]:
    """Return a row per method: name, inputs, parameters, summary."""
    return table((each.name, inputs_text(each), parameters_text(each), each.summary) for each in methods)


def method_lines(method: Method) -> list[str]:
    """Return everything that the catalog says about a method."""
    lines = [method.name, *([f"  {method.summary}"] if method.summary else []), ""]
    lines += [f"  {method.formula}", ""] if method.formula else []
    lines += [f"  inputs: {inputs_text(method)}"]
    if method.parameters:
        lines += ["  parameters:", *table(map(_parameter_row, method.parameters), indent=4)]
    return [*lines, *(f"  {label}: {text}" for label, text in _further_facts(method) if text)]


def _further_facts(method: Method) -> list[tuple[str, str]]:
    """Return what the catalog says besides inputs and parameters, each with its label; empty if it says nothing."""
    program = method.makes.program
    return [
        ("reads", method.makes.reads),
        ("file", program.file if program else ""),
        ("also called", ", ".join(method.aliases)),
        ("differs", method.differs),
        ("cite", method.cite),
        ("same bytes everywhere", "yes" if method.exact else "no: approximate"),
    ]


def kind_text(parameter: Parameter) -> str:
    """Return which arguments a parameter takes: `true or false`, `a number per tensor, from 0 to 1`."""
    match parameter.kind:
        case "flag":
            return "true or false"
        case "word":
            return " or ".join(f'"{word}"' for word in parameter.choices)
        case "gate":
            words = ", ".join(f'"{word}"' for word in parameter.choices)
            return f'{words}, or a source, {{ model = "name" }}'
        case "texts":
            return "a list of texts, beside a model"
        case "integer":
            kind = "a whole number"
        case _:
            kind = "a number per tensor, one a model" if parameter.per == "model" else "a number per tensor"
    return _within_bounds(kind, parameter)


def _within_bounds(kind: str, parameter: Parameter) -> str:
    """Return a kind of numbers with the bounds that a parameter sets them."""
    low, high = parameter.low, parameter.high
    if low is not None and high is not None:
        return f"{kind}, from {low} to {high}"
    if low is not None:
        return f"{kind}, from {low} on"
    return kind if high is None else f"{kind}, up to {high}"


def _parameter_row(parameter: Parameter) -> tuple[str, ...]:
    default = default_text(parameter)
    return (
        parameter.name,
        kind_text(parameter),
        f"default {default}" if default else "must be given",
        parameter.summary,
    )


def method_document(method: Method) -> dict[str, object]:
    """Return a method as `methods --json` shows it. `default` is text, as it may be a fraction."""
    program = method.makes.program
    return {
        "name": method.name,
        "summary": method.summary,
        "formula": method.formula,
        "inputs": list(method.inputs),
        "optional": list(method.optional),
        "reads": method.makes.reads or None,
        "parameters": [
            {
                "name": each.name,
                "kind": each.kind,
                "choices": list(each.choices),
                "per": each.per,
                "default": default_text(each),
                "summary": each.summary,
            }
            for each in method.parameters
        ],
        "aliases": list(method.aliases),
        "differs": method.differs or None,
        "cite": method.cite or None,
        "version": method.version,
        "exact": method.exact,
        "file": program.file if program else None,
    }
