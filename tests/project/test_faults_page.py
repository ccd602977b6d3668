"""Every test that the pages of faults and of bad input name exists and runs where they say; every place to be killed at
is there."""

import ast
import re

import pytest
from source_files import FOLDERS, ROOT

PAGE, BAD_INPUT = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("faults.md", "bad_input.md"))
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`( \(soak\))?", PAGE + BAD_INPUT)


@pytest.mark.parametrize(("file", "test", "soak"), NAMED)
def test_a_test_that_is_named_exists(file: str, test: str, soak: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    (found,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == test]
    of_file = [node for node in tree.body if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node)]
    marks = [*found.decorator_list, *(node.value for node in of_file)]
    assert bool(soak) is any("mark.soak" in ast.unparse(mark) for mark in marks)


def test_every_row_has_a_test() -> None:
    lines = [*PAGE.partition("## Points")[0].splitlines(), *BAD_INPUT.splitlines()]
    rows = [line for line in lines if line.startswith("| ") and "---" not in line]
    without = [row for row in rows if "`tests/" not in row and "| test |" not in row]
    assert without == []


def test_every_point_at_which_a_rank_can_be_killed_is_listed() -> None:
    there = {
        place
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        for place in re.findall(r'crash_point\("([\w.]+)"', path.read_text(encoding="utf-8"))
    }
    assert set(re.findall(r"`((?:train|publish|commit)\.\w+)`", PAGE)) == there
