"""What `import mergebuild` offers: by name, typed, and imported when it is first used."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

import mergebuild
from mergebuild import results
from mergebuild.project.options import BuildOptions, BuildWords
from mergebuild.results import build, looks, tensor_work


@pytest.mark.parametrize("package", [mergebuild, results], ids=lambda package: package.__name__)
def test_every_name_is_there_and_known_to_type_checkers(package: object) -> None:
    names = set(package.__all__)  # type: ignore[attr-defined]
    assert all(getattr(package, name) is not None for name in names)
    text = Path(package.__file__).read_text()  # type: ignore[attr-defined]
    own = {"REVISION", "__version__"}
    assert set(_typed(text)) == names - own
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # type: ignore[attr-defined]  # noqa: B018


def _typed(text: str) -> Iterator[str]:
    """Yield the names that a module imports for type checkers alone."""
    for node in ast.parse(text).body:
        if isinstance(node, ast.If):
            for each in node.body:
                if isinstance(each, ast.ImportFrom) and each.module != "typing":
                    yield from (name.name for name in each.names)


def test_results_are_what_their_modules_export() -> None:
    others = {"Problem", "Place", "Seconds"}
    assert {*build.__all__, *looks.__all__, *tensor_work.__all__, *others} == set(results.__all__)


def test_importing_it_imports_nothing_else() -> None:
    program = (
        "import sys; import mergebuild; print(sorted(name for name in sys.modules if name.startswith('mergebuild.')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_results_are_found_without_an_import_of_theirs() -> None:
    program = "import mergebuild; print(mergebuild.results.BuildResult is mergebuild.BuildResult)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_the_keywords_of_a_build_are_the_fields_of_its_options() -> None:
    words, options = get_type_hints(BuildWords), get_type_hints(BuildOptions)
    assert list(words.items()) == [(each.name, options[each.name]) for each in fields(BuildOptions)]
