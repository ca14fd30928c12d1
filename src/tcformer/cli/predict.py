"""`tcformer predict`: the most probable classes of images, of one or of millions."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tcformer.cli.parser import SHARED, Parser, load_network, print_notes
from tcformer.errors import UserError, printable
from tcformer.files import MOST_BYTES, atomic_write, check_writable, make_folder
from tcformer.progress import progress_bar

if TYPE_CHECKING:
    from tcformer.predict import Loaded, Prediction

FORMATS = ("table", "json", "jsonl", "csv")
EXIT_SOME_UNREADABLE = 1
EXIT_NONE_READ = 2

_EPILOG = (
    "Of a folder, all images below it are read, in the order of their paths. An image that cannot "
    "be read is named on stderr and left out; the status is then 1, or 2 if not one could be read. "
    "Images are turned as their EXIF data says."
)


def main(argv: list[str]) -> int:
    """Run the verb; see `tcformer predict --help`."""
    args = _parse(argv)
    form = args.format or _form_of(args.out)
    missing = [name for name in args.images if name != "-" and not os.path.lexists(name)]
    if missing and len(missing) == len(args.images) and args.list is None:
        for name in missing:  # before a network is loaded for nothing
            print(f"error: cannot read {name}: there is no such file", file=sys.stderr)
        return EXIT_NONE_READ
    out = None
    if args.out is not None:
        out = check_writable(args.out, made_from=[*args.images, args.checkpoint, args.list])

    loaded = load_network(args)
    from tcformer.predict.predict import check_topk

    check_topk(loaded, args.topk)
    print_notes(loaded.notes)
    folders = args.list is not None or any(os.path.isdir(name) for name in args.images)
    wanted = args.progress
    if wanted is None and out is None and sys.stdout.isatty():
        wanted = False  # a bar between results on the same terminal would be in their way
    with progress_bar(None if folders else len(args.images), wanted=wanted) as update:
        count = _Count(update)
        results = _results(loaded, args, count)
        if out is None:
            encoding = sys.stdout.encoding or "utf-8"
            ascii = encoding.lower().replace("-", "") != "utf8"
            # Names of files can hold anything: what the stream's encoding lacks is escaped.
            for text in _written(results, form, ascii):
                sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        else:
            make_folder(out.parent)
            with contextlib.suppress(_NothingReadError):
                atomic_write(out, lambda stream: _write_file(results, form, stream, count))
    if out is not None and (count.read or not count.unread):
        print(f"wrote {out}: {count.read} image{'s' * (count.read != 1)}")
    if count.unread > 1:
        total = count.read + count.unread
        print(f"error: {count.unread} of {total} could not be read", file=sys.stderr)
    if count.unread:
        return EXIT_SOME_UNREADABLE if count.read else EXIT_NONE_READ
    return 0


def _parse(argv: list[str]) -> Namespace:
    parser = Parser("predict", epilog=_EPILOG)
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGE|FOLDER", help="images, folders of images, or - for an "
        "image on the standard input")  # fmt: skip
    add("--list", metavar="FILE", help="also the images named in this file (- for the standard "
        "input), one a line")  # fmt: skip
    add("--topk", type=int, metavar="N", help="classes an image (default: 5, or all of fewer)")
    add("--format", choices=FORMATS, help="default: what the ending of --out says, else table")
    add("--out", metavar="FILE", help="write there instead of to the standard output; the file "
        "appears when it is complete")  # fmt: skip
    parser.share(
        *SHARED,
        model={"help": "model to run (default: the checkpoint's own, else tcformer_light)"},
        checkpoint={"help": f"{SHARED['checkpoint']['help']}; without them the network is random"},
        progress={"help": "a bar on stderr (default: on a terminal, unless the results go there "
                  "too)"},
    )  # fmt: skip
    args = parser.parse_args(argv)
    if not args.images and args.list is None:
        raise UserError("tcformer predict: name an image or a folder, or give --list FILE")
    if args.list == "-" and "-" in args.images:
        raise UserError(
            "the standard input is an image (-) or a list of images (--list -), not both"
        )
    return args


def _form_of(out: str | None) -> str:
    ending = "" if out is None else Path(out).suffix.lower().removeprefix(".")
    return ending if ending in FORMATS else "table"


class _Count:
    """Images so far, and the bar that shows them."""

    def __init__(self, update: Callable[..., None]) -> None:
        self.read = self.unread = 0
        self.update = update

    def add(self, *, read: bool) -> None:
        self.read += read
        self.unread += not read
        self.update(advance=1, numbers=f"{self.unread} unreadable" if self.unread else "")


def _results(loaded: Loaded, args: Namespace, count: _Count) -> Iterator[Prediction]:
    from tcformer.images import LeftOut
    from tcformer.predict.sources import each_picture

    def unreadable(name: str, reason: str) -> None:
        count.add(read=False)
        print(f"error: cannot read {printable(name)}: {printable(reason)}", file=sys.stderr)

    left_out = LeftOut()
    for prediction in loaded.predict_each(
        each_picture(_sources(args), unreadable, left_out),
        topk=args.topk,
        batch_size=args.batch_size,
        workers=args.workers,
        amp=args.amp,
        unreadable=unreadable,
    ):
        count.add(read=True)
        yield prediction
    print_notes([left_out])


def _sources(args: Namespace) -> Iterator[Any]:
    from tcformer.predict import Picture

    for name in args.images:
        if name == "-":
            yield Picture("-", sys.stdin.buffer.read(MOST_BYTES))
        else:
            yield name
    if args.list is not None:
        yield from _listed(args.list)


def _listed(name: str) -> Iterator[str]:
    """The lines of a file, as names of files; read as they are needed."""
    try:
        with contextlib.ExitStack() as stack:
            stream: Any = sys.stdin.buffer
            if name != "-":
                stream = stack.enter_context(open(name, "rb"))
            mark = stream.peek(3)[:3]  # editors and shells on Windows begin a text with one
            if mark[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                for text in io.TextIOWrapper(stream, "utf-16"):
                    if text := text.rstrip("\n"):
                        yield text
                return
            if mark == codecs.BOM_UTF8:
                stream.read(3)
            for line in stream:
                if line := line.rstrip(b"\r\n"):
                    yield os.fsdecode(line)
    except (OSError, UnicodeDecodeError) as error:
        cause = getattr(error, "strerror", None) or error
        raise UserError(f"--list {name} cannot be read: {cause}") from None


class _NothingReadError(Exception):
    """Not one image could be read: an earlier file of results stays."""


def _write_file(results: Iterable[Prediction], form: str, stream: Any, count: _Count) -> None:
    for text in _written(results, form, False):
        stream.write(text.encode("utf-8", "backslashreplace"))
    if count.unread and not count.read:
        raise _NothingReadError


def _written(results: Iterable[Prediction], form: str, ascii: bool) -> Iterator[str]:
    """The text of result after result, none kept."""
    from tcformer.predict.confusion import csv_line

    if form == "csv":
        yield csv_line(("image", "rank", "class", "name", "probability"))
    between = "[\n"
    for result in results:
        if form == "table":
            yield f"{result}\n"
        elif form == "csv":
            for rank, guess in enumerate(result.guesses, 1):
                share = f"{guess.probability:.4f}"
                yield csv_line((result.image, rank, guess.index, guess.name, share))
        else:
            text = json.dumps(result.as_dict(), ensure_ascii=ascii)
            yield f"{text}\n" if form == "jsonl" else between + text
            between = ",\n"
    if form == "json":
        yield "[\n]\n" if between == "[\n" else "\n]\n"
