"""Config files: Python's notation for settings, read and never run.

The published configs are Python files such as `cfg = dict(model="tcformer", lr=5e-4)`. Whoever gets
one from somebody else should not have to trust them with the machine, so what stands in it is
worked out here instead: values, containers, arithmetic, and names given before. Nothing else is
known, no import, no function but `dict` and its like, no attribute; there is no Python to break out
into.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tcformer.errors import UserError
from tcformer.files import parse_json, read_text

_MOST_BYTES = 1 << 20
_MOST_ITEMS = 10_000  # of a string or a container; an option takes three at most
_GREATEST = 10**100
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitOr: operator.or_,
}
_SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
    ast.Not: operator.not_,
}
_BUILDERS: dict[str, Callable[..., Any]] = {
    "dict": dict,
    "list": list,
    "tuple": tuple,
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
}


class _NotASettingError(Exception):
    def __init__(self, node: ast.AST, why: str) -> None:
        super().__init__(why)
        self.line = getattr(node, "lineno", 0)


def read_config(path: Path) -> dict[str, Any]:
    """All settings of a config file.

    A Python file may hold any number of top-level dictionaries; later ones win. A JSON file holds
    one object, such as the `config.json` that a run writes beside its results.

    Raises:
        UserError: the file cannot be read, or holds something besides settings; names the line.
    """
    try:
        text = read_text(path, most=_MOST_BYTES)
    except OSError as error:
        raise UserError(f"the config file {path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"the config file {path} is no text ({error}).") from None
    if path.suffix == ".json":
        try:
            values = parse_json(text)
        except ValueError as error:
            raise UserError(f"{path} is not valid JSON ({error}).") from None
        if not isinstance(values, dict):
            raise UserError(f"{path} must hold one JSON object.")
        return values
    merged: dict[str, Any] = {}
    for name, value in _worked_out(path, text).items():
        if isinstance(value, dict) and not name.startswith("__"):
            merged.update(value)
    return merged


def _worked_out(path: Path, text: str) -> dict[str, Any]:
    """The top-level names of a Python file with their values."""
    names: dict[str, Any] = {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of doubtful backslashes
            statements = ast.parse(text).body
        for statement in statements:
            _assign(statement, names)
    except _NotASettingError as problem:
        raise UserError(
            f"{path} is read, not run, and in line {problem.line} {problem}; keep to settings such "
            'as cfg = dict(model="tcformer", lr=5e-4).'
        ) from None
    except SyntaxError as error:
        raise UserError(f"{path} cannot be read: line {error.lineno}: {error.msg}.") from None
    except (ValueError, RecursionError, MemoryError) as error:  # a zero byte, a million brackets
        what = str(error) if isinstance(error, ValueError) else "it is nested too deeply"
        raise UserError(f"{path} cannot be read: {what}.") from None
    return names


def _assign(statement: ast.stmt, names: dict[str, Any]) -> None:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return  # a docstring
    if isinstance(statement, ast.Pass):
        return
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        targets: list[ast.expr] = [statement.target]
        value = statement.value
    elif isinstance(statement, ast.Assign):
        targets, value = statement.targets, statement.value
    else:
        raise _NotASettingError(statement, f"stands {_kind(statement)}")
    result = _value(value, names)
    for target in targets:
        if isinstance(target, ast.Name):
            names[target.id] = result
        elif isinstance(target, ast.Subscript):
            container = _value(target.value, names)
            if not isinstance(container, dict):
                raise _NotASettingError(target, "an entry is set in something that is no dict")
            container[_key(target.slice, names)] = result
        else:
            raise _NotASettingError(target, f"the value goes to {_kind(target)}")


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    """What an expression comes to."""
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return _bounded(node, value)
        case ast.Name(id=name) if name in names:
            return names[name]
        case ast.Name(id=name):
            raise _NotASettingError(node, f"stands the name {name!r}, which was not set before")
        case ast.List(elts=items):
            return [_value(item, names) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_value(item, names) for item in items)
        case ast.Dict(keys=keys, values=values):
            return _merged(
                node, [(k and _key(k, names), v) for k, v in zip(keys, values, strict=True)], names
            )
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _SIGNS:
            return _try(node, _SIGNS[type(op)], _value(operand, names))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _arithmetic(node, op, _value(left, names), _value(right, names))
        case ast.Subscript(value=container, slice=index):
            return _try(node, operator.getitem, _value(container, names), _value(index, names))
        case ast.Call(func=ast.Name(id=name)) if name in _BUILDERS:
            return _call(node, name, names)
    raise _NotASettingError(node, f"stands {_kind(node)}")


def _merged(
    node: ast.expr, entries: list[tuple[Any, ast.expr]], names: dict[str, Any]
) -> dict[Any, Any]:
    """A dict display: an entry without a key is `**another`."""
    result: dict[Any, Any] = {}
    for key, value in entries:
        if key is None:
            result.update(_try(node, dict, _value(value, names)))
        else:
            result[key] = _value(value, names)
    return result


def _key(node: ast.expr, names: dict[str, Any]) -> str | int:
    key = _value(node, names)
    if not isinstance(key, (str, int)):
        raise _NotASettingError(node, "a key is neither text nor a whole number")
    return key


def _call(node: ast.Call, name: str, names: dict[str, Any]) -> Any:
    given = [_value(argument, names) for argument in node.args]
    named = {word.arg: _value(word.value, names) for word in node.keywords if word.arg}
    for word in node.keywords:
        if word.arg is None:
            named = {**_try(node, dict, _value(word.value, names)), **named}
    if len(given) > 1 or (named and name != "dict"):
        raise _NotASettingError(node, f"{name}() is given more than it takes")
    return _bounded(node, _try(node, lambda: _BUILDERS[name](*given, **named)))


def _arithmetic(node: ast.expr, op: ast.operator, left: Any, right: Any) -> Any:
    # Small before the work is done: 9 ** 9 ** 9 and "x" * 10**12 would never end.
    if isinstance(op, ast.Pow) and not (_is_number(left) and _is_number(right) and right < 100):
        raise _NotASettingError(node, "stands a power with an exponent of 100 or more")
    for one, other in ((left, right), (right, left)):
        long = isinstance(op, ast.Mult) and hasattr(one, "__len__") and _is_number(other)
        if long and len(one) * other > _MOST_ITEMS:
            raise _NotASettingError(node, f"something of more than {_MOST_ITEMS} items is made")
    if isinstance(op, ast.Mod) and isinstance(left, str):
        raise _NotASettingError(node, "text is formatted")  # "%1000000000d" % 1
    return _bounded(node, _try(node, _ARITHMETIC[type(op)], left, right))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _bounded(node: ast.expr, value: Any) -> Any:
    if isinstance(value, int) and abs(value) > _GREATEST:
        raise _NotASettingError(node, "stands a number of more than 100 digits")
    if hasattr(value, "__len__") and len(value) > _MOST_ITEMS:
        raise _NotASettingError(node, f"something of more than {_MOST_ITEMS} items is made")
    return value


def _try(node: ast.expr, compute: Callable[..., Any], *values: Any) -> Any:
    try:
        return compute(*values)
    except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        text = " ".join(str(error).split())[:100]
        raise _NotASettingError(node, f"{type(error).__name__} is raised ({text})") from None


_KINDS = {
    ast.Import: "an import",
    ast.ImportFrom: "an import",
    ast.FunctionDef: "a function",
    ast.Lambda: "a function",
    ast.ClassDef: "a class",
    ast.Call: "a call",
    ast.Attribute: "an attribute of an object",
    ast.JoinedStr: "an f-string",
}


def _kind(node: ast.AST) -> str:
    return _KINDS.get(type(node), f"Python code ({type(node).__name__})")
