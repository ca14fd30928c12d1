"""An argument parser whose refusals are one sentence and name the nearest option."""

from __future__ import annotations

import argparse
from typing import NoReturn

from tcformer.cli import VERBS
from tcformer.errors import UserError, cut, nearest, shown


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
