"""What a kind of hostile input is, and how one of them is tried."""

from __future__ import annotations

import contextlib
import io
import os
import random
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcformer.errors import UserError
from tcformer.images import UnreadableImageError

SECONDS = 10.0
"""Of processor time for one input; the slowest sound ones take a tenth of it."""

WAIT = 90.0
"""Seconds by the clock, however busy the machine is: something waits for what never comes."""

LONGEST = 600
"""Characters of a refusal, without the name of its file."""

TRACE = "trace-of-foreign-code"
"""A file of this name in the folder of the input: something in the input was run."""


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    Attributes:
        name: the group it is counted in.
        make: writes the input into an empty folder, given a random generator; what it returns is
            handed to `read`.
        read: reads it as a run would. Raises UserError or UnreadableImageError to refuse it,
            AssertionError if what was read is not what it must be.
        share: how many of these are tried for each one of an ordinary kind.
        names: part of the name of the input, which every refusal must contain; "" for any.
    """

    name: str
    make: Callable[[random.Random, Path], Any]
    read: Callable[[Any], object]
    share: int = 1
    names: str = ""


class TooSlow(BaseException):  # no code under test may take it for an error
    """The input took more than its time."""


def attempt(kind: Kind, seed: int, index: int, folder: Path) -> str:
    """Try input `index` of a kind in `folder`, which is made and removed; '' or what went wrong."""
    folder.mkdir(parents=True)
    try:
        return tried(kind, seed, index, folder)
    finally:
        remove(folder)


def tried(kind: Kind, seed: int, index: int, folder: Path) -> str:
    """The same in an empty folder, which keeps the input."""
    given = kind.make(random.Random(f"{seed}/{kind.name}/{index}"), folder)
    before = _listing(folder)
    problem = ""
    try:
        with _limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind.read(given)
    except (UserError, UnreadableImageError) as refusal:
        problem = _bad_words(str(refusal), kind.names, folder)
        if not problem and (new := _listing(folder) - before):
            problem = f"refused, but left {sorted(new)}"
    except TooSlow:
        problem = f"took more than {SECONDS:g} s of processor time, or {WAIT:g} s of waiting"
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # the point of it all: nothing else may come out
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        problem = f"{type(error).__name__}: {str(error)[:200]!r} ({where})"
    ran = os.path.lexists(TRACE) or any(TRACE in name for name in _listing(folder))
    return f"code from the input was run ({problem})" if ran else problem


def remove(folder: Path) -> None:
    """Remove a tree with whatever names, permissions and links are in it."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            with contextlib.suppress(OSError):
                os.chmod(entry.path, 0o700)
            remove(Path(entry.path))
        else:
            os.unlink(entry.path)
    os.rmdir(folder)


def _listing(folder: Path) -> set[str]:
    return {
        os.path.join(where, name)
        for where, folders, files in os.walk(folder)
        for name in (*folders, *files)
    }


def _bad_words(text: str, names: str, folder: Path) -> str:
    short = text.replace(str(folder), "")
    if not text.strip():
        return "refused without a word"
    if len(short) > LONGEST:
        return f"refused in {len(short)} characters: {short[:200]!r} ..."
    if "Traceback" in text or "\n  File" in text:
        return f"refused with a traceback: {short[:200]!r}"
    if names and names not in text:
        return f"refused without naming {names}: {short[:200]!r}"
    return ""


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Processor time first, which a busy machine does not use up; then the clock."""

    def late(*_: object) -> None:
        raise TooSlow

    kept = {number: signal.signal(number, late) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WAIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in kept.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def silent() -> Iterator[io.StringIO]:
    """Collect what is printed."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        yield text


def mutated(rng: random.Random, data: bytes) -> bytes:
    """The bytes, damaged in one of the ways in which files get damaged."""
    if not data:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(64)))
    damaged = bytearray(data)
    size = len(damaged)

    def part(most: int) -> slice:
        start = rng.randrange(size)
        return slice(start, min(size, start + rng.randint(1, most)))

    how = rng.randrange(12)
    if how == 0:
        return bytes(damaged[: rng.randrange(size)])
    if how == 1:
        return bytes(damaged[: size - rng.randint(1, min(size, 64))])
    if how == 2:
        damaged[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif how == 3:
        for _ in range(rng.randint(1, 20)):
            damaged[rng.randrange(size)] = rng.randrange(256)
    elif how == 4:
        where = part(512)
        damaged[where] = bytes(where.stop - where.start)
    elif how == 5:
        del damaged[part(512)]
    elif how == 6:
        where = part(512)
        damaged[where.start : where.start] = damaged[where] * rng.randint(1, 4)
    elif how == 7:
        where = part(64)
        damaged[where.start : where.start] = rng.randbytes(rng.randint(1, 64))
    elif how == 8:
        one, other = part(256), part(256)
        damaged[one], damaged[other] = damaged[other], damaged[one]
    elif how == 9:
        damaged[rng.randrange(min(size, 64))] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF))
    elif how == 10:
        where = part(8)
        damaged[where] = rng.choice((b"\xff", b"\0", b"\x7f", b"\x80")) * (where.stop - where.start)
    else:
        damaged += rng.choice((bytes(rng.randint(1, 4096)), rng.randbytes(100), bytes(damaged)))
    return bytes(damaged)


def disturbed(
    rng: random.Random, value: Any, odd: Callable[[random.Random], Any], depth: int = 0
) -> Any:
    """A copy of nested lists and dicts with something replaced, missing, doubled or renamed."""
    if depth > 5 or not isinstance(value, (dict, list)) or not value or rng.random() < 0.1:
        return odd(rng)
    changed = value.copy()
    key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
    how = rng.random()
    if how < 0.2:
        del changed[key]
    elif how < 0.3 and isinstance(value, dict):
        names = (1, "", f"module.{key}", None, (1, 2), "x" * 5000, "a\nb", 1.5,
                 "state_dict", "about")  # fmt: skip
        changed[rng.choice(names)] = changed.pop(key) if rng.random() < 0.7 else odd(rng)
    elif how < 0.3:
        changed.insert(key, rng.choice((odd(rng), changed[key])))
    else:
        changed[key] = disturbed(rng, changed[key], odd, depth + 1)
    return changed


def strange_name(rng: random.Random) -> str:
    """A file name that programs stumble over, and that a file can have."""
    return rng.choice(
        (
            "new\nline", "tab\t", "back\\slash", " space ", "-dash", "--help", "quote'\"", "%s%n",
            "{0.__class__}", "\x1b[31mred", os.fsdecode(b"\xff\xfe"), "ü日本", "a" * 200, "$(id)",
            "..dots..", "*", "[a]", "~", "#", "\r", "\u202eright", "con", "\x7f",
        )
    )  # fmt: skip


IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
sys.setrecursionlimit(1000)  # that of a user's process, whatever a test runner has set
