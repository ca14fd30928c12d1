"""From a config file and a command line to one checked configuration. Imports no torch.

The command line wins over the config file, the config file over the defaults. (The published
script does the reverse: keys of its config silently overwrite what was typed.)
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import types
from collections.abc import Mapping
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

from tcformer.errors import UserError, cut, nearest, shown
from tcformer.sections import documented, option, typed
from tcformer.training.config import TrainConfig
from tcformer.training.configfile import find_config, load_config

__all__ = ["build", "find_config", "load_config", "parse"]

_ALIASES = {"dr": "decay_rate"}
_KINDS = TrainConfig.kinds()
_SWITCHES = {name for name, kind in _KINDS.items() if kind.__origin__ in (bool, bool | None)}


def build(values: Mapping[str, Any], *, where: str = "the configuration") -> TrainConfig:
    """A `TrainConfig` from plain values, each key and type checked; `where` names their origin."""
    return TrainConfig.build(_known(values, where))


def parse(argv: list[str], *, prog: str, description: str, **fixed: Any) -> TrainConfig:
    """The configuration of a command line: `[--config] CONFIG [options]`.

    Args:
        argv: arguments without the name of the program or verb.
        prog: how the command is called in its help.
        description: first lines of the help.
        fixed: options that the verb sets whatever was typed (`eval=True`).

    Raises:
        UserError: unknown option or key, wrong value, missing config file.
        SystemExit: with code 0, after `--help`.
    """
    config, rest = _split_config(argv)
    values = _known(load_config(config), config) if config else {}
    typed_in = vars(_parser(prog, description).parse_args(_with_known_names(rest)))
    for name, words in typed_in.items():
        kind = _KINDS[name].__origin__
        value = words if name in _SWITCHES else _read_words(kind, words)
        values[name] = typed(kind, value, f"{option(name)} is")
    return TrainConfig.build({**values, **fixed})


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{cut(message)}; see {self.prog} --help.")


def _parser(prog: str, description: str) -> argparse.ArgumentParser:
    """A parser that leaves values as words, its options in groups by section."""
    parser = _Parser(
        prog, f"{prog} CONFIG [options]; CONFIG is a Python file or config.json.", description,
        allow_abbrev=False, argument_default=argparse.SUPPRESS,
    )  # fmt: skip
    default, help_of = TrainConfig().flat(), explanations()
    group_of: dict[str, Any] = {}
    for title, section in TrainConfig.sections().items():
        group = parser.add_argument_group(title, section.__doc__)
        group_of |= dict.fromkeys(section.options(), group)
    for name, kind in _KINDS.items():
        text = help_of[name].replace("%", "%%")
        if default[name] not in (None, "", ()):
            text += f" (default: {default[name]})"
        settings: dict[str, Any] = {"help": text, "action": argparse.BooleanOptionalAction}
        if name not in _SWITCHES:
            one, several = _plain(kind.__origin__)
            choices = "{" + ",".join(get_args(one)) + "}" if get_origin(one) is Literal else ""
            settings["metavar"] = choices or one.__name__.upper()
            settings["action"], settings["nargs"] = "store", "*" if several else None
        group_of.get(name, parser).add_argument(f"--{name.replace('_', '-')}", **settings)
    return parser


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _plain(kind: Any) -> tuple[Any, bool]:
    """The type of one value of an option, and whether it takes several."""
    first = _alternatives(kind)[0]
    return (get_args(first)[0], True) if get_origin(first) is tuple else (first, False)


def _read_words(kind: Any, words: str | list[str]) -> Any:
    """What was typed, as numbers or None where the option takes them; else the words."""
    if words in ("None", ["None"]) and type(None) in _alternatives(kind):
        return None
    one, _ = _plain(kind)

    def read(word: str) -> Any:
        with contextlib.suppress(ValueError):
            return one(word) if one in (int, float) else word
        return word

    return read(words) if isinstance(words, str) else [read(word) for word in words]


@functools.cache
def explanations() -> dict[str, str]:
    """What `--help` says of each option, in the order of the configuration."""
    found: dict[str, str] = {}
    kinds: list[type] = [TrainConfig, *TrainConfig.sections().values()]
    for kind in kinds:
        found |= documented(kind)
    return {name: found[name] for name in _KINDS}


def _known(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Plain values by the names of options, each of its option's type."""
    known = {}
    for key, value in values.items():
        name = _ALIASES.get(key, str(key)).replace("-", "_")
        if name not in _KINDS:
            raise UserError(f"{where} sets {shown(key)}, which is not an option{_nearest(name)}.")
        known[name] = typed(_KINDS[name], value, f"{where} sets {name} to")
    return known


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
    switch = word[2:].replace("-", "_") in _SWITCHES
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
        if field not in _KINDS and bare not in _SWITCHES and field != "help":
            raise UserError(f"--{cut(name)} is not an option{_nearest(field, as_option=True)}.")
        out.append("--" + field.replace("_", "-") + equals + value)
    return out


def _nearest(name: str, *, as_option: bool = False) -> str:
    near = nearest(name, _KINDS)
    if not near:
        return "; see tcformer train --help"
    return f"; the nearest one is {option(near) if as_option else repr(near)}"
