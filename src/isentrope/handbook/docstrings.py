"""Docstrings below fields, which Python itself does not keep: read from the source when somebody asks."""

import ast
import inspect
from functools import cache
from itertools import pairwise
from pathlib import Path


def field_docstrings(record: type) -> dict[str, str]:
    """Return the text of each documented field of a class, those of its base classes included."""
    found: dict[str, str] = {}
    for base in reversed(record.__mro__):
        if base.__module__.startswith("isentrope."):
            found |= class_docstrings(Path(inspect.getfile(base)), base.__qualname__)
    return found


def class_docstrings(path: Path, name: str) -> dict[str, str]:
    """Return the text of each documented field of the class of this name in a file."""
    return _of_class(_node(path, name))


def unwrapped(text: str) -> str:
    """Return a docstring with each paragraph on one line."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _node(path: Path, name: str) -> ast.ClassDef:
    (node,) = (node for node in _tree(path).body if isinstance(node, ast.ClassDef) and node.name == name)
    return node


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def _of_class(node: ast.ClassDef) -> dict[str, str]:
    found = {}
    for field, following in pairwise(node.body):
        match field, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = unwrapped(text)
    return found
