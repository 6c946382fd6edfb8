"""User-defined metrics: arithmetic over the columns of a row, parsed and checked, never handed to `eval`.

Allowed: numbers, column names (dotted ones too), `+ - * / **`, unary signs, parentheses, and
`log log2 log10 exp sqrt abs min max`. Python's own parser reads the text; only these nodes are turned into closures.
"""

from __future__ import annotations

import ast
import difflib
import math
import operator
from collections.abc import Callable, Collection, Mapping
from typing import Any

from rayscale.errors import InputError

RowFunction = Callable[[Mapping[str, Any]], float | None]
_Node = Callable[[Mapping[str, Any]], float]

_MAX_LENGTH = 2000
_MAX_DEPTH = 100
"""Nesting beyond it is refused, so that neither building nor evaluating can exhaust the stack."""
_ALLOWED = "numbers, columns, + - * / **, parentheses, log, log2, log10, exp, sqrt, abs, min, max"


class _MissingError(Exception):
    """A column has no number in this row."""


def compile_expression(text: str, columns: Collection[str]) -> RowFunction:
    """Turn an expression into a function of a row.

    Args:
        text: E.g. `energy_j / (trained_tokens * perplexity)`.
        columns: Names that may be used.

    Returns:
        A function row -> number; None where a column is missing, not a number, or the result is not a finite real.

    Raises:
        InputError: If the text is no such expression; an unknown column is named with the nearest one.
    """
    node = _build(_parse(text), text, frozenset(columns))

    def evaluate(row: Mapping[str, Any]) -> float | None:
        try:
            value = node(row)
        except (_MissingError, ZeroDivisionError, OverflowError, ValueError):
            return None
        return value if isinstance(value, float) and math.isfinite(value) else None

    return evaluate


def expression_columns(text: str, columns: Collection[str]) -> set[str]:
    """Return the columns that an expression uses.

    Args:
        text: The expression.
        columns: Names that may be used.

    Returns:
        The names found in it.

    Raises:
        InputError: As `compile_expression`.
    """
    tree = _parse(text)
    _build(tree, text, frozenset(columns))
    found = {_dotted(node) for node in ast.walk(tree) if isinstance(node, (ast.Name, ast.Attribute))}
    return {name for name in found if name is not None and name in columns}


def _parse(text: str) -> ast.expr:
    if len(text) > _MAX_LENGTH:
        raise InputError(f"expression of {len(text)} characters: expected at most {_MAX_LENGTH}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"expression `{text}`: expected arithmetic ({_ALLOWED})") from None
    if _too_deep(tree):
        raise InputError(f"expression `{text[:60]}...`: nested more than {_MAX_DEPTH} deep")
    return tree


def _too_deep(tree: ast.expr) -> bool:
    """Walk level by level, without recursion."""
    level: list[ast.AST] = [tree]
    for _ in range(_MAX_DEPTH):
        level = [child for node in level for child in ast.iter_child_nodes(node)]
        if not level:
            return False
    return True


def _dotted(node: ast.expr) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value)
        return f"{base}.{node.attr}" if base else None
    return None


def _build(node: ast.expr, text: str, columns: frozenset[str]) -> _Node:
    if isinstance(node, ast.Constant):
        return _constant(node.value, text)
    if isinstance(node, (ast.Name, ast.Attribute)):
        return _column(_dotted(node), text, columns)
    if isinstance(node, ast.UnaryOp):
        return _unary(node, text, columns)
    if isinstance(node, ast.BinOp):
        return _binary(node, text, columns)
    if isinstance(node, ast.Call):
        return _call(node, text, columns)
    raise _refused(node, text)


def _refused(node: ast.AST, text: str) -> InputError:
    part = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
    return InputError(f"expression `{text}`: `{part}` is not allowed; expected {_ALLOWED}")


def _constant(value: object, text: str) -> _Node:
    # Floats only: 10**10**10 in whole numbers would fill the memory, in floats it overflows at once.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"expression `{text}`: expected a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        raise InputError(f"expression `{text}`: the number {str(value)[:20]}... is too large") from None
    return lambda row: number


def _column(name: str | None, text: str, columns: frozenset[str]) -> _Node:
    if name is None or name not in columns:
        near = difflib.get_close_matches(name or "", columns, n=1, cutoff=0.0)
        hint = f"; did you mean `{near[0]}`?" if near else ""
        raise InputError(f"expression `{text}`: unknown column `{name or text}`{hint}")

    def read(row: Mapping[str, Any]) -> float:
        value = row.get(name)
        if value is None or isinstance(value, str):
            raise _MissingError
        return float(value)

    return read


def _unary(node: ast.UnaryOp, text: str, columns: frozenset[str]) -> _Node:
    operand = _build(node.operand, text, columns)
    if isinstance(node.op, ast.USub):
        return lambda row: -operand(row)
    if isinstance(node.op, ast.UAdd):
        return operand
    raise _refused(node, text)


def _binary(node: ast.BinOp, text: str, columns: frozenset[str]) -> _Node:
    operations: dict[type[ast.operator], Callable[[float, float], Any]] = {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.Pow: operator.pow,
    }
    operation = operations.get(type(node.op))
    if operation is None:
        raise _refused(node, text)
    left, right = _build(node.left, text, columns), _build(node.right, text, columns)
    return lambda row: _real(operation(left(row), right(row)))


def _real(value: Any) -> float:
    if isinstance(value, complex):  # a negative number to a fractional power
        raise ValueError
    return value


def _call(node: ast.Call, text: str, columns: frozenset[str]) -> _Node:
    one: dict[str, Callable[[float], float]] = {
        "log": math.log,
        "log2": math.log2,
        "log10": math.log10,
        "exp": math.exp,
        "sqrt": math.sqrt,
        "abs": abs,
    }
    many: dict[str, Callable[[list[float]], float]] = {"min": min, "max": max}
    name = node.func.id if isinstance(node.func, ast.Name) else ""
    if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
        raise _refused(node, text)
    arguments = [_build(argument, text, columns) for argument in node.args]
    if name in one and len(arguments) == 1:
        function, argument = one[name], arguments[0]
        return lambda row: function(argument(row))
    if name in many and arguments:
        choose = many[name]
        return lambda row: choose([_not_nan(part(row)) for part in arguments])
    raise _refused(node, text)


def _not_nan(value: float) -> float:
    # min and max would pass over a missing value silently, depending on its place.
    if math.isnan(value):
        raise _MissingError
    return value
