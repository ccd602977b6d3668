"""Conditions over the columns of a row, as `data.keep` has them: `0 < pass_rate < 1 and source != "old"`.

Comparisons of columns, numbers and texts, joined by `and`, `or` and `not`. Nothing is called or looked up.
"""

import ast
import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from isentrope.errors import ConfigError, DataError

KEY = "data.keep"

MAX_LENGTH = 1000
"""Longest condition, in characters."""

Value = float | str | None

_OPERATORS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


class Condition:
    """A condition that was read. columns: names of the columns in it, dotted ones for values inside a column."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._body = _parsed(text)
        self.columns = list(dict.fromkeys(_names(self._body)))

    def holds(self, values: Mapping[str, object], where: str) -> bool:
        """Return whether the condition holds of a row, by the values of `columns`.

        No comparison with null holds. A text that is compared with a number is read as a number.

        Raises:
            DataError: a text and a number are compared, or a value is neither, at `where`.
        """
        return self._value(self._body, values, where)

    def _value(self, node: ast.expr, values: Mapping[str, object], where: str) -> bool:
        match node:
            case ast.BoolOp(op=ast.And()):
                return all(self._value(each, values, where) for each in node.values)
            case ast.BoolOp():
                return any(self._value(each, values, where) for each in node.values)
            case ast.UnaryOp():
                return not self._value(node.operand, values, where)
        assert isinstance(node, ast.Compare)
        sides = [_side(each, values) for each in (node.left, *node.comparators)]
        return all(
            self._compare(each, left, right, where)
            for each, left, right in zip(node.ops, sides, sides[1:], strict=False)
        )

    def _compare(self, operation: ast.cmpop, left: object, right: object, where: str) -> bool:
        if left is None or right is None:
            return False
        left, right = _alike(left, right), _alike(right, left)
        if not (isinstance(left, str) and isinstance(right, str)) and not (
            isinstance(left, int | float) and isinstance(right, int | float)
        ):
            raise DataError(
                f"{self.text!r} compares {left!r} and {right!r}",
                where=f"{KEY} ({where})",
                fix="compare numbers with numbers, and text with text",
            )
        return _OPERATORS[type(operation)](left, right)


def _side(node: ast.expr, values: Mapping[str, object]) -> object:
    return values[name] if (name := _name(node)) is not None else _constant(node)


def _alike(value: object, other: object) -> object:
    """Return a text as number if it stands beside one: every value of a csv file is text."""
    if isinstance(value, str) and isinstance(other, int | float):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _parsed(text: str) -> ast.expr:
    """Return the condition's tree; ConfigError if it has anything but comparisons joined by words."""
    if len(text) > MAX_LENGTH:
        raise _refused(text, f"has {len(text)} characters, at most {MAX_LENGTH} are allowed")
    try:
        body = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise _refused(text, "cannot be read") from None
    _require_condition(body, text)
    if not any(_names(body)):
        raise _refused(text, "names no column")
    return body


def _require_condition(node: ast.expr, text: str) -> None:
    match node:
        case ast.BoolOp():
            for each in node.values:
                _require_condition(each, text)
        case ast.UnaryOp(op=ast.Not()):
            _require_condition(node.operand, text)
        case ast.Compare():
            for each in (node.left, *node.comparators):
                if _name(each) is None and _constant(each) is None:
                    raise _refused(text, f"has {ast.unparse(each)!r}, which is neither a column, a number nor a text")
            for operation in node.ops:
                if type(operation) not in _OPERATORS:
                    raise _refused(text, "has another comparison than <, <=, >, >=, == and !=")
        case _:
            raise _refused(text, f"has {ast.unparse(node)!r}, which is not a comparison")


def _refused(text: str, what: str) -> ConfigError:
    return ConfigError(f"{text[:80]!r} {what}", where=KEY, fix='write comparisons such as "0 < pass_rate < 1"')


def _name(node: ast.expr) -> str | None:
    """Return the column that a node names; None: it does not name one."""
    if isinstance(node, ast.Attribute):
        inner = _name(node.value)
        return None if inner is None else f"{inner}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else None


def _constant(node: ast.expr) -> Value:
    """Return the number or text that a node is; None: it is neither."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _constant(node.operand)
        return -inner if isinstance(inner, int | float) else None
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        return node.value
    return None


def _names(node: ast.expr) -> Iterator[str]:
    """Yield the columns in a tree, in order."""
    if (name := _name(node)) is not None:
        yield name
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            yield from _names(child)
