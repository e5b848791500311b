"""What docs/mergefile.md says is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from recipe_texts import SOURCES, Load

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/mergefile.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
PROGRAMS = re.findall(r"```python\n# (\S+)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_of_the_page_is_a_mergefile(load: Load, text: str, tmp_path: Path) -> None:
    for name, program in PROGRAMS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(program, encoding="utf-8")
    recipe = load(text if "[sources]" in text else SOURCES + text)
    assert [recipe.target(name).name for name in recipe.target_names()] == recipe.target_names() != []


def test_every_code_of_the_room_is_on_the_page() -> None:
    """Codes are looked for as they are written in the code: in quotes, first of a problem's arguments."""
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "mergebuild/recipe").glob("*.py"))
    first = r"(?:problems\.add|[A-Za-z]+Error|\.one|_failure|Problem)\(\s*\"([a-z0-9]+(?:-[a-z0-9]+)+)\""
    codes = {*re.findall(first, written), *re.findall(r"code = .*?\"([a-z]+-[a-z-]+)\"", written)}
    assert len(codes) > 40
    assert {code for code in codes if f"`{code}`" not in PAGE} == set()


def test_the_page_names_no_code_that_there_is_not() -> None:
    table = PAGE[PAGE.index("| codes of a mergefile") :]
    named = {code for line in table.splitlines()[2:] for code in re.findall(r"`([a-z0-9-]+)`", line.split("|")[1])}
    written = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "mergebuild/recipe").glob("*.py"))
    assert {code for code in named if f'"{code}"' not in written} == set()
