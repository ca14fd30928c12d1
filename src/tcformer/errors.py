"""The one exception type that is meant for people, and the guess at what they meant."""

from __future__ import annotations

import difflib
import importlib.util
import reprlib
from collections.abc import Iterable

_LONGEST = 2000


class UserError(ValueError):
    """Something the user can put right: a path, an option, a file, a size.

    The message is one sentence that says what is wrong, where, and what to do. The command line
    prints it as it stands and exits with status 2; no traceback is shown.

    A message may quote a file, whose names and bytes may be of any length; what is longer than a
    person reads loses its middle, and keeps what is wrong and what to do.
    """

    def __init__(self, message: str = "") -> None:
        if len(message) > _LONGEST:
            message = f"{message[: _LONGEST // 2]} ... {message[-_LONGEST // 2 :]}"
        super().__init__(message)


def is_installed(module: str) -> bool:
    """Whether a package is there, as far as that shows without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that looks most like `word`, or None when none does."""
    matches = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


_short = reprlib.Repr()
_short.maxlevel = 3
_short.maxstring = _short.maxother = _short.maxlong = 80


def shown(value: object) -> str:
    """`repr(value)` cut to what fits into a sentence, however much is nested in the value."""
    try:
        text = _short.repr(value)
    except Exception:  # the value's own repr failed, such as an int of 5000 digits'
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:197]}..."


def cut(text: str, most: int = 250) -> str:
    """The text, its end replaced by dots where it is longer than a sentence bears."""
    return text if len(text) <= most else f"{text[:most]}..."


def printable(text: object) -> str:
    """One line, with what would break it or act on a terminal written out: `\\n`."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
