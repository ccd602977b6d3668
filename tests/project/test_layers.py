"""Imports point down: what each folder may import is the architecture, and this is where it is written."""

import ast
import sys
from collections.abc import Iterator

from source_files import Source

OWN = {
    "rollout": {"errors", "rollout"},
    "kernels": {"errors", "kernels"},
    "actors": {"errors", "rollout", "actors"},
    "learner": {"errors", "rollout", "kernels", "learner"},
}
"""Parts of this project that a folder may import; `isentrope` itself may import all."""

OTHERS = {
    "rollout": {"msgpack", "numpy", "pydantic", "redis"},
    "kernels": {"torch", "triton"},
    "actors": {"numpy", "pebble", "pydantic", "safetensors", "torch", "transformers", "vllm"},
    "learner": {"deepspeed", "numpy", "prometheus_client", "pydantic", "safetensors", "torch", "transformers"},
}
"""Libraries that a folder may import."""

INSIDE_A_FUNCTION = {"kernels": {"matplotlib"}, "rollout": {"math_verify", "pyarrow", "transformers"}}
"""Libraries that only those need who ask for the feature."""


def test_each_folder_imports_only_what_lies_below_it(sources: list[Source]) -> None:
    wrong = [
        f"{source.name}:{line}: {name}"
        for source in sources
        if source.folder != "isentrope"
        for name, line, lazy in _imports(source.tree)
        if not _allowed(source.folder, name, lazy)
    ]
    assert wrong == []


def test_no_import_is_relative_or_names_a_folder_bare(sources: list[Source]) -> None:
    """Either would create a second copy of a class: `rollout.wire.types.Group` is not that of `isentrope.rollout`."""
    relative = [
        f"{source.name}:{node.lineno}"
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    bare = [
        f"{source.name}:{line}: {name}"
        for source in sources
        for name, line, _ in _imports(source.tree)
        if name.partition(".")[0] in OWN
    ]
    assert relative + bare == []


def _imports(tree: ast.Module) -> Iterator[tuple[str, int, bool]]:
    """Dotted name, line, whether it is inside a function, of every module imported. `from isentrope import x` gives
    `isentrope.x`."""
    lazy = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, node in lazy
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"isentrope.{alias.name}" for alias in node.names] if node.module == "isentrope" else [node.module]
            for name in names:
                yield name, node.lineno, node in lazy


def _allowed(folder: str, name: str, lazy: bool) -> bool:
    first, _, rest = name.partition(".")
    if first == "isentrope":
        return rest.partition(".")[0] in OWN[folder]
    allowed = sys.stdlib_module_names | OTHERS[folder] | (INSIDE_A_FUNCTION.get(folder, set()) if lazy else set())
    return first in allowed
