"""Config files: found by name, and read as Python's notation for settings, never run.

People pass recipes on, in issues and beside weights, and whoever tries somebody else's must not
run that person's code; so values, containers, arithmetic and names set before are worked out here,
and anything else is refused.
"""

from __future__ import annotations

import ast
import operator
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tcformer.errors import UserError, cut, nearest
from tcformer.files import parse_json, read_text

_MOST_BYTES = 1 << 20
_MOST_ITEMS = 10_000  # of a text or a container; an option takes three at most
_GREATEST = 1e100
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
    ast.BitOr: operator.or_,
}


class _NotASettingError(Exception):
    def __init__(self, node: ast.AST, why: str) -> None:
        super().__init__(why)
        self.line = getattr(node, "lineno", 0)


def load_config(path: str | Path) -> dict[str, Any]:
    """All settings of the config file `find_config(path)`; see `read_config`."""
    return read_config(find_config(path))


def find_config(path: str | Path) -> Path:
    """The file of that name on disk or, failing that, among the configs of the package."""
    path = Path(path)
    if os.path.isfile(path):  # which takes a name that no file can have for none
        return path
    inside = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    package = Path(__file__).parents[1]
    # Inside an installed wheel, or beside `src` in a clone.
    roots = [r for r in (package / "configs", package.parents[1] / "configs") if r.is_dir()]
    for root in roots if not path.is_absolute() else ():
        for name in (inside, Path(f"{inside}.py")):
            if os.path.isfile(root / name):
                return root / name
    shipped = [f"configs/{p.relative_to(r).as_posix()}" for r in roots for p in r.rglob("*.py")]
    near = nearest(path.as_posix(), shipped)
    folders = sorted({name.rpartition("/")[0] for name in shipped})
    hint = f"; did you mean {near}?" if near else f"; those shipped are in {', '.join(folders)}."
    raise UserError(f"the config file {cut(str(path))} does not exist{hint}")


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
    names: dict[str, Any] = {}
    merged: dict[str, Any] = {}
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
    for name, value in names.items():
        if isinstance(value, dict) and not name.startswith("__"):
            merged |= value
    return merged


def _assign(statement: ast.stmt, names: dict[str, Any]) -> None:
    match statement:
        case ast.Expr(value=ast.Constant()) | ast.Pass():
            return  # a docstring
        case ast.AnnAssign(target=target, value=ast.expr() as value):
            targets = [target]
        case ast.Assign(targets=targets, value=value):
            pass
        case _:
            raise _NotASettingError(statement, f"stands {_code(statement)}")
    result = _value(value, names)
    for target in targets:
        match target:
            case ast.Name(id=name):
                names[name] = result
            case ast.Subscript(value=ast.Name(id=name)) if isinstance(names.get(name), dict):
                names[name][_key(target.slice, names)] = result
            case _:
                raise _NotASettingError(target, f"the value goes to {_code(target)}")


def _key(node: ast.expr, names: dict[str, Any]) -> str | int:
    key = _value(node, names)
    if not isinstance(key, (str, int)):
        raise _NotASettingError(node, "a key is neither text nor a whole number")
    return key


def _value(node: ast.expr, names: dict[str, Any]) -> Any:
    """What an expression comes to."""
    value: Any
    try:
        match node:
            case ast.Constant(value=None | bool() | int() | float() | str() as value):
                pass
            case ast.Name(id=name) if name in names:
                return names[name]
            case ast.Name(id=name):
                raise _NotASettingError(node, f"stands the name {name!r}, which was not set before")
            case ast.List(elts=items):
                return [_value(item, names) for item in items]
            case ast.Tuple(elts=items):
                return tuple(_value(item, names) for item in items)
            case ast.Dict(keys=keys, values=values):
                value = {}
                for key, one in zip(keys, values, strict=True):
                    entry = _value(one, names)
                    value |= entry if key is None else {_key(key, names): entry}
            case ast.Call(func=ast.Name(id="dict"), args=args) if len(args) < 2:
                value = dict(*(_value(one, names) for one in args))
                for word in node.keywords:
                    entry = _value(word.value, names)
                    value |= entry if word.arg is None else {word.arg: entry}
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                value = -_value(operand, names)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                value = +_value(operand, names)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                one, other = _value(left, names), _value(right, names)
                if isinstance(op, ast.Mult) and not isinstance(one + 0 * other, (int, float)):
                    raise TypeError("only numbers are multiplied")
                if isinstance(op, ast.Pow) and not other < 100:  # 9 ** 9 ** 9 would never end
                    raise _NotASettingError(node, "stands a power with an exponent of 100 or more")
                value = _ARITHMETIC[type(op)](one, other)
            case _:
                raise _NotASettingError(node, f"stands {_code(node)}")
    except (TypeError, ValueError, ArithmeticError, LookupError) as error:
        text = " ".join(str(error).split())[:100]
        raise _NotASettingError(node, f"{type(error).__name__} is raised ({text})") from None
    # Before the next line makes more of it: x = x * x, sixty times.
    if isinstance(value, int) and abs(value) > _GREATEST:
        raise _NotASettingError(node, "stands a number of more than 100 digits")
    if hasattr(value, "__len__") and len(value) > _MOST_ITEMS:
        raise _NotASettingError(node, f"something of more than {_MOST_ITEMS} items is made")
    return value


def _code(node: ast.AST) -> str:
    return f"Python code ({type(node).__name__})"
