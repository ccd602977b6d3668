"""No test passes or fails by the speed of the machine: tests wait for states, by one helper, and bound no time."""

import ast
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from source_files import ROOT

HELPER = "tests/support/waits.py"
"""The only file that polls against a clock."""

PAUSE_S = 0.05
"""Longest pause between two looks at a state."""

FOREVER_S = 100_000
"""Of what must never end by itself: longer than any test."""

FIXED = {
    (
        "tests/actors/test_scoring.py",
        "time.sleep(4)",
    ): "an import that takes longer than a call may",
    ("tests/isentrope/launch/test_guard.py", "time.sleep(float(sys.argv[1]))"): "made longer until it is long enough",
    ("tests/system/test_autoscale.py", "time.sleep(1)"): "a slow reward, until it is freed",
    ("tests/system/test_recovery_cost.py", "time.sleep(SECONDS)"): "a slow reward, which gives batches their length",
}
"""Other sleeps, and why they decide nothing."""

CLOCKS = {"monotonic", "perf_counter", "process_time"}


def test_a_test_sleeps_between_two_looks_or_for_ever() -> None:
    found = {(file, ast.unparse(call)) for file, tree in _trees() for call in _sleeps(tree)}
    assert found == FIXED.keys()


def test_no_test_bounds_the_time_that_something_takes() -> None:
    found = [f"{file}: {ast.unparse(node)}" for file, tree in _trees() for node in _bounds(tree)]
    assert found == []


@pytest.mark.parametrize(
    ("program", "refused"),
    [
        ("time.sleep(0.3)", 1),
        ("time.sleep(0.01)", 1),
        ("while True: time.sleep(0.01)", 0),
        ("while True: time.sleep(0.3)", 1),
        ("while True:\n def f(): sleep(0.01)", 1),
        ("await asyncio.sleep(seconds)", 1),
        ("await asyncio.sleep(0)", 0),
        ("time.sleep(100_000)", 0),
        ("Timer(0.3, stop)", 1),
        ("'import time\\ntime.sleep(1)'", 1),
        ("monotonic() - began < 2", 1),
        ("0.3 <= monotonic() - began < 2", 1),
        ("monotonic() - began >= 0.3", 0),
        ("while not done: assert deadline > time.monotonic()", 1),
    ],
)
def test_what_is_refused(program: str, refused: int) -> None:
    tree = ast.parse(program)
    assert len([*_sleeps(tree), *_bounds(tree)]) == refused


def _trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name not in (HELPER, Path(__file__).relative_to(ROOT).as_posix()):
            yield name, ast.parse(path.read_text(encoding="utf-8"), filename=name)


def _sleeps(node: ast.AST, *, repeated: bool = False) -> Iterator[ast.Call]:
    """Sleeps that neither look again nor last for ever, in programs that are given as text too."""
    if isinstance(node, ast.Call) and not _allowed(node, repeated):
        yield node
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and "sleep(" in node.value:
        yield from _sleeps(ast.parse(dedent(node.value)))
    if isinstance(node, ast.While | ast.For | ast.AsyncFor):
        repeated = True
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        repeated = False
    for child in ast.iter_child_nodes(node):
        yield from _sleeps(child, repeated=repeated)


def _allowed(call: ast.Call, repeated: bool) -> bool:
    name = ast.unparse(call.func).rpartition(".")[2]
    if name != "sleep":
        return name != "Timer"
    seconds = call.args[0].value if isinstance(call.args[0], ast.Constant) else None
    return seconds == 0 or seconds == FOREVER_S or (repeated and isinstance(seconds, float) and seconds <= PAUSE_S)


def _bounds(tree: ast.Module) -> Iterator[ast.Compare]:
    """Comparisons that hold only if a clock has not gone too far."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            pairs = zip([node.left, *node.comparators], node.ops, node.comparators, strict=False)
            if any(_reads_clock(_smaller(*pair)) for pair in pairs):
                yield node


def _smaller(left: ast.expr, how: ast.cmpop, right: ast.expr) -> ast.expr | None:
    if isinstance(how, ast.Lt | ast.LtE):
        return left
    return right if isinstance(how, ast.Gt | ast.GtE) else None


def _reads_clock(node: ast.expr | None) -> bool:
    calls = [each for each in ast.walk(node) if isinstance(each, ast.Call)] if node is not None else []
    return any(ast.unparse(call.func).rpartition(".")[2] in CLOCKS for call in calls)
