"""`tcformer predict`: the most probable classes of images, of one or of millions."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import os
import sys
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tcformer.cli import VERBS
from tcformer.cli.parser import Parser
from tcformer.errors import UserError
from tcformer.files import MOST_BYTES, atomic_write, check_writable, make_folder

if TYPE_CHECKING:
    from tcformer.predict import Loaded, Prediction

HELP = VERBS["predict"]

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

    from tcformer.predict import load
    from tcformer.predict.predict import check_topk

    loaded = load(
        args.model,
        args.checkpoint,
        pretrained=args.pretrained,
        ema=args.ema,
        input_size=args.input_size,
        device=args.device,
        threads=args.threads,
    )
    check_topk(loaded, args.topk)
    for note in loaded.notes:
        print(f"note: {note}.", file=sys.stderr)
    count = _Count()
    with _progress(args, count) as count.tick:
        results = _results(loaded, args, count)
        if out is None:
            encoding = sys.stdout.encoding or "utf-8"
            ascii = encoding.lower().replace("-", "") != "utf8"
            _write(results, form, lambda text: _print(text, sys.stdout), ascii)
        else:
            make_folder(out.parent)
            with contextlib.suppress(_NothingReadError):
                atomic_write(out, lambda stream: _write_file(results, form, stream, count))
    if out is not None and (count.read or not count.unread):
        print(f"wrote {out}: {count.read} image{'s' * (count.read != 1)}")
    if count.unread > 1:
        print(
            f"error: {count.unread} of {count.read + count.unread} could not be read",
            file=sys.stderr,
        )
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
    add("--checkpoint", metavar="FILE", help="trained weights, or a folder in timm's hub format; "
        "without them the network is random")  # fmt: skip
    add("--model", metavar="NAME", help="model to run (default: the checkpoint's own, else "
        "tcformer_light)")  # fmt: skip
    add("--pretrained", action="store_true", help="the weights the authors published for --model")
    add("--ema", action=BooleanOptionalAction, help="averaged weights of a training checkpoint "
        "(default: where it has them)")  # fmt: skip
    add("--topk", type=int, metavar="N", help="classes an image (default: 5, or all of fewer)")
    add("--format", choices=FORMATS, help="default: what the ending of --out says, else table")
    add("--out", metavar="FILE", help="write there instead of to the standard output; the file "
        "appears when it is complete")  # fmt: skip
    add("--batch-size", type=int, default=16, metavar="N", help="images that pass together")
    add("--workers", type=int, metavar="N", help="threads that read images ahead (default: one a "
        "core; 0: none)")  # fmt: skip
    add("--input-size", type=int, metavar="N", help="side of the network's square input, pixels "
        "(default: as it was trained)")  # fmt: skip
    add("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:N or mps")
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="mixed precision")
    add("--threads", type=int, default=0, metavar="N", help="CPU threads; 0 leaves torch's choice")
    add("--progress", action=BooleanOptionalAction, help="a bar on stderr (default: on a terminal, "
        "unless the results go there too)")  # fmt: skip
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
    """Images so far, and whom to tell."""

    read = unread = 0

    def __init__(self) -> None:
        self.tick: Callable[[], None] = lambda: None


def _results(loaded: Loaded, args: Namespace, count: _Count) -> Iterator[Prediction]:
    from tcformer.images import LeftOut
    from tcformer.predict.predict import printable
    from tcformer.predict.sources import each_picture

    def unreadable(name: str, reason: str) -> None:
        count.unread += 1
        count.tick()
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
        count.read += 1
        count.tick()
        yield prediction
    if str(left_out):
        print(f"note: {printable(str(left_out))}.", file=sys.stderr)


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
    _write(results, form, _encoder(stream))
    if count.unread and not count.read:
        raise _NothingReadError


def _write(
    results: Iterable[Prediction], form: str, write: Callable[[str], None], ascii: bool = False
) -> None:
    """Write result after result, keeping none."""
    if form == "csv":
        write(_csv(("image", "rank", "class", "name", "probability")))
    if form == "json":
        write("[")
    between = "\n"
    for result in results:
        if form == "table":
            write(f"{result}\n")
        elif form == "jsonl":
            write(json.dumps(result.as_dict(), ensure_ascii=ascii) + "\n")
        elif form == "json":
            write(between + json.dumps(result.as_dict(), ensure_ascii=ascii))
            between = ",\n"
        else:
            for rank, guess in enumerate(result.guesses, 1):
                row = (result.image, rank, guess.index, guess.name, f"{guess.probability:.4f}")
                write(_csv(row))
    if form == "json":
        write("\n]\n")


def _csv(row: Iterable[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue()


def _encoder(stream: Any) -> Callable[[str], None]:
    return lambda text: stream.write(text.encode("utf-8", "backslashreplace"))


def _print(text: str, stream: TextIO) -> None:
    """Names of files can hold anything: what the stream's encoding lacks is escaped."""
    encoding = stream.encoding or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


@contextlib.contextmanager
def _progress(args: Namespace, count: _Count) -> Iterator[Callable[[], None]]:
    """Draw a bar on stderr where somebody watches and the results are not in its way."""
    shown = sys.stderr.isatty() and not (args.out is None and sys.stdout.isatty())
    if not (shown if args.progress is None else args.progress):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    files = args.list is None and not any(os.path.isdir(name) for name in args.images)
    total = len(args.images) if files else None  # of a folder nobody knows before the end
    columns = (BarColumn(), TextColumn("{task.fields[numbers]}"), TimeElapsedColumn())
    console = Console(file=sys.stderr, force_terminal=args.progress)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        line = bar.add_task("", total=total, numbers="")

        def tick() -> None:
            done = count.read + count.unread
            of = f"{done} of {total}" if total else f"{done}"
            bad = f", {count.unread} unreadable" if count.unread else ""
            bar.update(line, completed=done, numbers=f"{of} images{bad}")

        yield tick
