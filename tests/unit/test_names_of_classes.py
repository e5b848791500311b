"""A class has a name of its own: who searches for it finds one place, and who reads it knows which is meant."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

import mergebuild

ROOMS_OF_TESTS = {"testing"}
"""Their classes describe what others are held to, in the words of these."""


def test_no_two_classes_have_one_name() -> None:
    root = Path(mergebuild.__file__).parent
    found: dict[str, list[str]] = defaultdict(list)
    for path in root.rglob("*.py"):
        inside = path.relative_to(root)
        if inside.parts[0] not in ROOMS_OF_TESTS:
            classes = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef))
            for node in classes:
                found[node.name.lstrip("_")].append(f"{inside.as_posix()}:{node.name}")
    assert {name: places for name, places in found.items() if len(places) > 1} == {}
