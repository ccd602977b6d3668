"""The table of dimensions without torch, whose import takes longer than anybody waits for an entry.

A module of the objective is run statement by statement, without those that need a heavy library: stages keep their
names, docstrings and keyword parameters, which is all that an entry shows. A test compares the result with the modules
themselves.
"""

import ast
import builtins
from functools import cache
from pathlib import Path
from types import CodeType, SimpleNamespace
from typing import Any

OBJECTIVE = "isentrope.learner.objective"
FOLDER = Path(__file__).parents[1] / "learner" / "objective"

LIGHT = {"collections.abc", "dataclasses", "enum", "isentrope.kernels.limits", "pydantic", "types", "typing"}
LIGHT |= {f"{OBJECTIVE}.schema"}
"""Modules that are imported as they are."""


@cache
def light_module(path: Path) -> dict[str, Any]:
    """Return what a module of the objective declares, as far as that needs nothing heavy."""
    names: dict[str, Any] = {"__name__": f"{__name__}.{path.stem}"}
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    names["__doc__"] = ast.get_docstring(tree)
    for node in tree.body:
        match node:
            case ast.ImportFrom(module=str(module)) if module not in LIGHT:
                names |= _imported(module, node.names)
            case ast.Import():
                pass
            case ast.FunctionDef():
                exec(_compiled(_without_tensors(node), path), names)
            case _ if _needed(node) <= names.keys() | vars(builtins).keys():
                exec(_compiled(node, path), names)
    return names


def _imported(module: str, aliases: list[ast.alias]) -> dict[str, Any]:
    """Return the names of another module of the objective; nothing of modules elsewhere."""
    if module != OBJECTIVE and not module.startswith(f"{OBJECTIVE}."):
        return {}
    place = FOLDER.joinpath(*module.removeprefix(OBJECTIVE).split("."))
    found: dict[str, Any] = {}
    for alias in aliases:
        if (file := place / f"{alias.name}.py").exists():
            found[alias.asname or alias.name] = SimpleNamespace(**light_module(file))
        elif alias.name in (declared := light_module(place.with_suffix(".py"))):
            found[alias.asname or alias.name] = declared[alias.name]
    return found


def _without_tensors(node: ast.FunctionDef) -> ast.FunctionDef:
    """Return a function without the annotations of what it reads and returns; keys keep theirs."""
    node.returns = None
    for argument in node.args.args:
        argument.annotation = None
    return node


def _needed(node: ast.stmt) -> set[str]:
    """Return the names that a statement takes from its module."""
    names = [each for each in ast.walk(node) if isinstance(each, ast.Name)]
    bound = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    return {name.id for name in names} - bound


def _compiled(node: ast.stmt, path: Path) -> CodeType:
    return compile(ast.Module([node], type_ignores=[]), str(path), "exec")
