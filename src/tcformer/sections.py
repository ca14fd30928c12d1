"""Sections of options: frozen dataclasses that check what they are given. Imports no torch.

A field is declared once, with its type, its default, its range and the tasks that use it:

    batch_size: Annotated[int, Within(1, 1_000_000)] = 128
    \"\"\"Images per process and step, in evaluation too.\"\"\"

The field's name is the key of a config file and, with hyphens or underscores, the option of the
command line; the string below it is what `--help` says. `Options` is a dataclass
of sections: the whole configuration of one program.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import inspect
import itertools
import json
import math
import re
import textwrap
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from tcformer.errors import UserError, nearest, shown

__all__ = ["Off", "Only", "Options", "Section", "Within", "documented", "option"]

_GREATEST = 2**31 - 1  # of a whole number that names no other bound
# The published script spelled most options with hyphens and these with underscores.
_UNDERSCORED = {
    "cache_mode", "output_dir", "start_epoch", "num_workers", "world_size", "dist_url",
}  # fmt: skip


def option(field: str) -> str:
    """The spelling of a field as an option: `batch_size` -> `--batch-size`."""
    return f"--{field}" if field in _UNDERSCORED else f"--{field.replace('_', '-')}"


@dataclass(frozen=True)
class Within:
    """The least and the greatest number that a field, or each number of it, may be."""

    low: float = -math.inf
    high: float = math.inf


class Only:
    """The tasks that use a field; with another task it is refused unless it has its default."""

    def __init__(self, *tasks: str) -> None:
        self.tasks = tasks


class Off:
    """Values besides the default that say "not at all", so that every task accepts them."""

    def __init__(self, *values: object) -> None:
        self.values = values


@dataclass(frozen=True)
class Section:
    """Options that belong together. Subclasses declare fields and, if need be, `validate`.

    A field with the metadata `{"option": False}` is set by code alone.

    Attributes:
        tasks: the tasks that use the section; empty for all.

    Raises:
        UserError: a value of another type or out of range; one sentence that names the option.
    """

    tasks: typing.ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for name, kind in _kinds(type(self)).items():
            value = typed(kind, getattr(self, name), option(name) + " is")
            _check_range(name, kind, value)
            object.__setattr__(self, name, value)
        self.validate()

    def validate(self) -> None:
        """Refuse fields that contradict each other."""

    @classmethod
    def options(cls) -> dict[str, Any]:
        """The fields that are options, with their defaults."""
        fields = dataclasses.fields(cls)
        return {f.name: f.default for f in fields if f.metadata.get("option", True)}

    @classmethod
    def foreign(cls, name: str, value: object, task: str) -> tuple[str, ...]:
        """The tasks that a field is about, if it is set and `task` does not use it."""
        marks = _kinds(cls)[name].__metadata__
        tasks = next((mark.tasks for mark in marks if isinstance(mark, Only)), cls.tasks)
        off = [v for mark in marks if isinstance(mark, Off) for v in mark.values]
        return () if value in [cls.options()[name], *off] or task in tasks else tasks


@dataclass(frozen=True)
class Options:
    """A configuration made of sections. Each option has a name of its own over all of them."""

    @classmethod
    def sections(cls) -> dict[str, type[Section]]:
        """The sections by their names."""
        hints = typing.get_type_hints(cls)
        return {k: v for k, v in hints.items() if isinstance(v, type) and issubclass(v, Section)}

    @classmethod
    def kinds(cls) -> dict[str, Any]:
        """The type of each option, in the order of `flat`."""
        return {name: kind for name, (_, kind) in _places(cls).items()}

    @classmethod
    def build(cls, values: Mapping[str, Any]) -> typing.Self:
        """A configuration from options by their names; the others have their defaults."""
        return cls().replace(**values)

    def replace(self, **values: Any) -> typing.Self:
        """The same with other values for some options."""
        changed: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            changed.setdefault(_places(type(self))[name][0], {})[name] = value
        own = changed.pop("", {})
        for section, new in changed.items():
            own[section] = dataclasses.replace(getattr(self, section), **new)
        return dataclasses.replace(self, **own)

    def flat(self) -> dict[str, Any]:
        """The value of each option by its name."""
        return {
            name: getattr(getattr(self, section) if section else self, name)
            for name, (section, _) in _places(type(self)).items()
        }

    def to_json(self) -> dict[str, Any]:
        """The same as JSON has it: tuples are lists."""
        values: dict[str, Any] = json.loads(json.dumps(self.flat()))
        return values

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.flat().items())})"


def _find_places(cls: type[Options]) -> dict[str, tuple[str, Any]]:
    """Option -> the name of its section ('' for the configuration itself) and its type."""
    sections = cls.sections()
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {
        name: ("", Annotated[kind, ""]) for name, kind in hints.items() if name not in sections
    }
    for section, kind in sections.items():
        for name in kind.options():
            assert name not in found, f"{name} is declared twice"
            found[name] = section, _kinds(kind)[name]
    return found


def _find_kinds(section: type[Section]) -> dict[str, Any]:
    """The annotated type of each field; one without annotations gets an empty one."""
    hints = typing.get_type_hints(section, include_extras=True)
    return {f.name: Annotated[hints[f.name], ""] for f in dataclasses.fields(section)}


_places: Callable[[Any], dict[str, tuple[str, Any]]] = functools.cache(_find_places)
_kinds: Callable[[Any], dict[str, Any]] = functools.cache(_find_kinds)


def documented(kind: type) -> dict[str, str]:
    """Field -> the string below it in the source, in one line."""
    found: dict[str, str] = {}
    for cls in filter(dataclasses.is_dataclass, reversed(kind.__mro__)):
        declared: Any = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        for field, below in itertools.pairwise(declared.body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                text = ast.literal_eval(below.value)
                found[ast.unparse(field.target)] = " ".join(text.split())
    return found


def typed(kind: Any, value: Any, told: str) -> Any:
    """The value as a type has it: a list becomes a tuple, a whole number a float.

    `told` is the beginning of the sentence about a value that does not fit.
    """
    while typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    several = typing.get_origin(kind) in (Union, types.UnionType)
    for one in typing.get_args(kind) if several else (kind,):
        with contextlib.suppress(TypeError, ValueError):
            return _fit(one, value)
    if typing.get_origin(kind) is Literal:
        known = [str(one) for one in typing.get_args(kind)]
        near = {one.lower(): one for one in known}.get(nearest(str(value).lower(), known) or "")
        guess = f" (did you mean {near}?)" if near else ""
        raise UserError(f"{told} {shown(value)}, but one of {', '.join(known)} is meant{guess}.")
    meant = re.sub(r"typing\.|<class '|'>", "", str(kind))
    raise UserError(f"{told} {shown(value)}, but {meant} is meant.")


def _fit(kind: Any, value: Any) -> Any:
    """What `value` becomes as a `kind`; a TypeError or ValueError where it is none."""
    origin = typing.get_origin(kind)
    if origin is tuple and isinstance(value, (list, tuple)):
        inner = typing.get_args(kind)
        kinds = [inner[0]] * len(value) if inner[-1] is ... else inner
        return tuple(_fit(k, v) for k, v in zip(kinds, value, strict=True))
    if kind is float and type(value) is int and abs(value) < 1e300:
        return float(value)
    if origin is Literal:
        fits = isinstance(value, str) and value in typing.get_args(kind)
    else:
        fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if not fits:
        raise TypeError
    return value


def _check_range(name: str, kind: Any, value: Any) -> None:
    """Refuse what is not finite, absurd or out of the field's own range."""
    bounds = next((m for m in kind.__metadata__ if isinstance(m, Within)), Within())
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            continue
        unbounded = isinstance(number, int) and bounds.high == math.inf
        high = _GREATEST if unbounded else bounds.high
        low = max(bounds.low, -high)
        if not math.isfinite(number):
            meant = "a finite number"
        elif low <= number <= high:
            continue
        elif -math.inf < low < 1 >= high:
            meant = f"{low:g} to {high:g}"
        else:
            meant = f"at most {high}" if number > high else f"at least {low}"
        raise UserError(f"{option(name)} is {shown(number)}, but {meant} is meant.")
