"""From a config file and a command line to one checked `TrainConfig`. Imports no torch.

The command line wins over the config file, the config file over the defaults. (The published
script does the reverse: keys of its config silently overwrite what was typed.)
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import json
import os
import re
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, cast

from tcformer.errors import UserError, cut, nearest, shown
from tcformer.training.config import TrainConfig, check, option
from tcformer.training.configfile import read_config

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

_ALIASES = {"dr": "decay_rate"}
_FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig)}
_SWITCHES = {"bool", "bool | None"}  # the types of fields that take no value


def parse(argv: list[str], *, prog: str, description: str, **fixed: Any) -> TrainConfig:
    """The configuration of a command line: `[--config] CONFIG [options]`.

    Args:
        argv: arguments without the name of the program or verb.
        prog: how the command is called in its help.
        description: first lines of the help.
        fixed: fields that the verb sets whatever was typed (`eval=True`).

    Raises:
        UserError: unknown option or key, wrong value, missing config file.
        SystemExit: with code 0, after `--help`.
    """
    import tyro  # 0.1 s: only when a command line is really parsed

    config, rest = _split_config(argv)
    values = load_config(config) if config else {}
    default = build(values, where=str(config))
    rest = _with_known_names(rest)
    heading = (
        f"{description}\n\nusage: {prog} CONFIG [options]; CONFIG is a Python file or config.json."
    )
    # tyro frames its messages over several lines; people get one sentence instead.
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            cfg = tyro.cli(
                type(shown_default := for_help(default, rest)),
                prog=prog,
                description=heading,
                args=rest,
                default=shown_default,
            )
    except SystemExit as stop:
        if stop.code:
            raise UserError(_one_sentence(complaint.getvalue(), prog)) from None
        raise
    cfg = dataclasses.replace(cfg, **fixed)
    check(cfg)
    return cfg


def for_help(default: T, argv: Sequence[str]) -> T:
    """The dataclass as it is, or, where its help is asked for, one that shows no empty defaults."""
    if not {"-h", "--help"} & set(argv):
        return default
    import tyro

    def hint(text: str) -> str:
        return "" if text in ("", "''", "None") else f"(default: {text})"

    kind = type(default)
    kinds = {
        name: Annotated[wanted, tyro.conf.arg(help_behavior_hint=hint)]
        for name, wanted in typing.get_type_hints(kind).items()
    }
    # Copies: a field takes the type that it is given here, and these are the configuration's own.
    fields = [(f.name, kinds[f.name], copy.copy(f)) for f in dataclasses.fields(kind)]
    quiet = dataclasses.make_dataclass(kind.__name__, fields, bases=(kind,), frozen=True)
    return cast(T, quiet(**{f.name: getattr(default, f.name) for f in dataclasses.fields(kind)}))


def build(values: Mapping[str, Any], *, where: str = "the configuration") -> TrainConfig:
    """A `TrainConfig` from plain values, each key and type checked; `where` names their origin."""
    known = {}
    for key, value in values.items():
        name = _ALIASES.get(key, str(key)).replace("-", "_")
        if name not in _FIELDS:
            raise UserError(f"{where} sets {shown(key)}, which is not an option{_nearest(name)}.")
        known[name] = _typed(name, value, where)
    return TrainConfig(**known)


def load_config(path: str | Path) -> dict[str, Any]:
    """All settings of a config file, `find_config(path)`.

    Raises:
        UserError: no such file, or the file cannot be read as a configuration.
    """
    return read_config(find_config(path))


def find_config(path: str | Path) -> Path:
    """The file of that name on disk or, failing that, among the configs of the package."""
    path = Path(path)
    if os.path.isfile(path):  # which takes a name that no file can have for none
        return path
    inside = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    for root in _shipped_roots() if inside.name else ():
        for name in (inside, inside.with_name(inside.name + ".py")):
            if not path.is_absolute() and os.path.isfile(root / name):
                return root / name
    shipped = [
        f"configs/{p.relative_to(r).as_posix()}" for r in _shipped_roots() for p in r.rglob("*.py")
    ]
    near = nearest(path.as_posix(), shipped)
    folders = sorted({name.rpartition("/")[0] for name in shipped})
    hint = f"; did you mean {near}?" if near else f"; those shipped are in {', '.join(folders)}."
    raise UserError(f"the config file {cut(str(path))} does not exist{hint}")


def _shipped_roots() -> list[Path]:
    """Where the shipped configs are: inside an installed wheel, or beside `src` in a clone."""
    package = Path(__file__).parents[1]
    roots = [package / "configs", package.parents[1] / "configs"]
    return [root for root in roots if root.is_dir()]


def _split_config(argv: list[str]) -> tuple[str | None, list[str]]:
    """Take CONFIG, positional or `--config CONFIG`, out of the arguments."""
    rest = list(argv)
    for i, word in enumerate(rest):
        if word == "--config":
            if i + 1 == len(rest):
                raise UserError("--config needs a file, such as configs/tcformer/tcformer.py.")
            return rest[i + 1], rest[:i] + rest[i + 2 :]
        if word.startswith("--config="):
            return word.split("=", 1)[1], rest[:i] + rest[i + 1 :]
    if rest and not rest[0].startswith("-"):
        return rest[0], rest[1:]
    for i, word in enumerate(rest[1:], 1):
        if word.endswith((".py", ".json")) and not _takes_value(rest[i - 1]):
            return word, rest[:i] + rest[i + 1 :]
    return None, rest


def _takes_value(word: str) -> bool:
    """Whether the next word may belong to this one: an option that is no switch and has no `=`."""
    field = _FIELDS.get(word[2:].replace("-", "_"))
    switch = field is not None and field.type in _SWITCHES
    return word.startswith("--") and "=" not in word and not switch


def _with_known_names(argv: list[str]) -> list[str]:
    """Aliases replaced; an unknown option is refused here, with the nearest known one named."""
    out = []
    for word in argv:
        if not word.startswith("--"):
            out.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        field = name.replace("-", "_")
        field = _ALIASES.get(field, field)
        bare = field.removeprefix("no_")
        is_switch = bare in _FIELDS and _FIELDS[bare].type in _SWITCHES
        if field not in _FIELDS and not is_switch and field != "help":
            raise UserError(f"--{cut(name)} is not an option{_nearest(field, as_option=True)}.")
        if is_switch and not equals and _FIELDS[bare].type != "bool":  # no, yes, or not said
            out += ["--" + bare.replace("_", "-"), str(field == bare)]
            continue
        out.append("--" + field.replace("_", "-") + equals + value)
    return out


def _nearest(name: str, *, as_option: bool = False) -> str:
    near = nearest(name, _FIELDS)
    if not near:
        return "; see tcformer train --help"
    return f"; the nearest one is {option(near) if as_option else repr(near)}"


def _one_sentence(complaint: str, prog: str) -> str:
    """The first paragraph of tyro's framed message."""
    lines = [re.sub(r"[│╭╮╰╯─]+|-{5,}", " ", line).strip() for line in complaint.splitlines()]
    text = " ".join(lines)
    title = re.match(
        r"\s*(Value error|Parsing error|Unrecognized options|Unrecognized.*?|Missing.*?)\s", text
    )
    body = text[title.end() :] if title else text
    body = re.split(r"Got errors:|Argument helptext:|For full helptext|Perhaps you meant", body)[0]
    body = cut(re.sub(r"\s+", " ", body).strip().rstrip("."))
    return f"{body}; see {prog} --help."


def _typed(name: str, value: Any, where: str) -> Any:
    """The value as the field's type, or a sentence that says what is wanted."""
    wanted = typing.get_type_hints(TrainConfig)[name]
    for kind in typing.get_args(wanted) if _is_union(wanted) else (wanted,):
        fits, result = _fit(kind, value)
        if fits:
            return result
    meant = re.sub(r"typing\.|<class '|'>", "", str(wanted))
    raise UserError(f"{where} sets {name} to {shown(value)}, but {meant} is meant.")


def _fit(kind: Any, value: Any) -> tuple[bool, Any]:
    """Whether `value` may stand for `kind`, and what it becomes (a list becomes a tuple)."""
    if typing.get_origin(kind) is Literal:
        return value in typing.get_args(kind), value
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            return False, None
        inner = typing.get_args(kind)
        kinds: Iterable[Any] = [inner[0]] * len(value) if inner[-1] is ... else inner
        if inner[-1] is not ... and len(inner) != len(value):
            return False, None
        fits = [_fit(k, v) for k, v in zip(kinds, value, strict=True)]
        return all(ok for ok, _ in fits), tuple(v for _, v in fits)
    if isinstance(value, bool) and kind is not bool:
        return False, None
    if kind is float and isinstance(value, int):
        return True, float(value)
    return isinstance(value, kind), value


def _is_union(kind: Any) -> bool:
    return typing.get_origin(kind) in (Union, types.UnionType)


def to_json(cfg: Any) -> dict[str, Any]:
    """Options as JSON-able values; of a `TrainConfig`, `build(to_json(cfg)) == cfg`."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(cfg)))
    return values
