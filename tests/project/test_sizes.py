"""Files and functions that a reader can hold in mind."""

import ast

from source_files import Source

FILE_LINES = 400
FUNCTION_LINES = 60

LONGER = {
    ("kernels/bench/aot.py", "kernels"): "a list of kernels with their arguments",
}
"""Functions that may be longer, and why."""


def test_files_are_short(sources: list[Source]) -> None:
    lines = {source.name: len(source.path.read_text(encoding="utf-8").splitlines()) for source in sources}
    assert {name: count for name, count in lines.items() if count > FILE_LINES} == {}


def test_functions_are_short(sources: list[Source]) -> None:
    found = {
        (source.name, node.name)
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        if (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES
    }
    assert found == LONGER.keys()
