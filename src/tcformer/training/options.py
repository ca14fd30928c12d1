"""From a config file and a command line to one checked configuration. Imports no torch.

The command line wins over the config file, the config file over the defaults. (The published
script does the reverse: keys of its config silently overwrite what was typed.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Mapping
from typing import Annotated, Any

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
    import tyro  # 0.1 s: only when a command line is really parsed

    config, rest = _split_config(argv)
    values = _known(load_config(config), config) if config else {}
    rest = _with_known_names(rest)
    help_of = explanations()
    fields: list[Any] = [
        (
            name,
            Annotated[
                kind.__origin__,
                tyro.conf.arg(help=help_of[name], help_behavior_hint=_default_in_help),
            ],
            dataclasses.field(default=values.get(name, default)),
        )
        for (name, kind), default in zip(_KINDS.items(), TrainConfig().flat().values(), strict=True)
    ]
    heading = (
        f"{description}\n\nusage: {prog} CONFIG [options]; CONFIG is a Python file or config.json."
    )
    # tyro frames its messages over several lines; people get one sentence instead.
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            flat: Any = tyro.cli(
                dataclasses.make_dataclass("TrainConfig", fields),
                prog=prog,
                description=heading,
                args=rest,
            )
    except SystemExit as stop:
        if stop.code:
            raise UserError(_one_sentence(complaint.getvalue(), prog)) from None
        raise
    return TrainConfig.build({**vars(flat), **fixed})


def _default_in_help(text: str) -> str:
    return "" if text in ("", "''", "None") else f"(default: {text})"


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
        if bare in _SWITCHES and not equals and _KINDS[bare].__origin__ is not bool:
            out += ["--" + bare.replace("_", "-"), str(field == bare)]  # no, yes, or not said
            continue
        out.append("--" + field.replace("_", "-") + equals + value)
    return out


def _nearest(name: str, *, as_option: bool = False) -> str:
    near = nearest(name, _KINDS)
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
