"""How verbs declare options: a parser that refuses in one sentence, types, shared options."""

from __future__ import annotations

import argparse
import contextlib
import sys
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NoReturn

from tcformer.cli import VERBS
from tcformer.errors import UserError, cut, nearest, printable, shown

if TYPE_CHECKING:
    from tcformer.predict import Loaded

_NUMBER = {"type": int, "metavar": "N"}
SHARED: dict[str, dict[str, Any]] = {
    "model": {"metavar": "NAME", "help": "model to run (default: the checkpoint's own)"},
    "checkpoint": {"metavar": "FILE", "help": "trained weights, or a folder in timm's hub format"},
    "pretrained": {"action": "store_true", "help": "the weights the authors published for --model"},
    "ema": {
        "action": BooleanOptionalAction,
        "help": "averaged weights of a training checkpoint (default: where it has them)",
    },
    "batch-size": {**_NUMBER, "default": 16, "help": "images that pass together"},
    "workers": {**_NUMBER, "help": "threads that read images ahead (default: one a core; 0: none)"},
    "input-size": {
        **_NUMBER,
        "help": "side of the network's square input, pixels (default: as it was trained)",
    },
    "device": {"default": "auto", "help": "auto (a GPU if there is one), cpu, cuda, cuda:N or mps"},
    "amp": {"choices": ("off", "bf16", "fp16"), "default": "off", "help": "mixed precision"},
    "threads": {**_NUMBER, "default": 0, "help": "CPU threads; 0 leaves torch's choice"},
    "progress": {
        "action": BooleanOptionalAction,
        "help": "a bar on stderr (default: on a terminal)",
    },
}
"""Options that several verbs have, each declared here once."""


class Parser(argparse.ArgumentParser):
    """The parser of one verb: `Parser("flops")` is `tcformer flops`.

    Options cannot be abbreviated, defaults are shown in the help, and a mistake raises `UserError`
    instead of printing the whole usage.
    """

    def __init__(self, verb: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"tcformer {verb}",
            description=f"{VERBS[verb][0].upper()}{VERBS[verb][1:]}.",
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=_HelpWithDefaults,
        )

    def share(self, *names: str, **changed: dict[str, Any]) -> None:
        """Add options of `SHARED`; `changed` holds what is another with this verb."""
        for name in names:
            given = {**SHARED[name], **changed.get(name.replace("-", "_"), {})}
            self.add_argument(f"--{name}", **given)

    def error(self, message: str) -> NoReturn:
        """Raise `UserError` with argparse's message, or with the option that was probably meant."""
        kind, _, words = message.partition(": ")
        if kind == "unrecognized arguments":
            word = words.split()[0].partition("=")[0]
            known = [option for action in self._actions for option in action.option_strings]
            guess = nearest(word, known) if word.startswith("-") else None
            message = f"unknown argument {shown(word)}"
            if guess:
                message += f", did you mean {guess}"
        raise UserError(f"{self.prog}: {cut(message)}; `{self.prog} --help` lists what there is.")


class _HelpWithDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but no empty ones: there, the help text says what happens."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        empty = action.default is None or action.default in ("", (), [], {})
        return action.help if empty else super()._get_help_string(action)


def whole(low: int, high: int | None = None, *, word: str | None = None) -> Callable[[str], Any]:
    """A type of options: a whole number of a range, or a word. argparse refuses all else."""
    return _in_range(int, "whole number", low, float("inf") if high is None else high, word)


def real(low: float, high: float) -> Callable[[str], float]:
    """A type of options: a number of a range, both ends included."""
    return _in_range(float, "number", low, high)


def _in_range(
    kind: type, name: str, low: float, high: float, word: str | None = None
) -> Callable[[str], Any]:
    bounds = f"{name} from {low:g}" + (f" to {high:g}" if high < float("inf") else "")

    def read(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if text == word:
                return text
            if low <= (value := kind(text)) <= high:
                return value
        other = f", or {word}" if word else ""
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a {bounds}{other}")

    return read


def load_network(args: Namespace) -> Loaded:
    """The network that the shared options ask for."""
    from tcformer.predict import load

    given = {
        name: getattr(args, name)
        for name in ("pretrained", "ema", "input_size", "device", "threads")
        if hasattr(args, name)
    }
    return load(args.model, args.checkpoint, **given)


def print_notes(notes: Iterable[object]) -> None:
    """What people should know beside the result, on stderr; empty notes are left out."""
    for note in notes:
        if str(note):
            print(f"note: {printable(note)}.", file=sys.stderr)
