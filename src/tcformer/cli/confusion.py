"""`tcformer confusion`: which classes a network confuses, with its right and wrong answers."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from argparse import BooleanOptionalAction, Namespace
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tcformer.cli import VERBS
from tcformer.cli.parser import Parser
from tcformer.errors import UserError
from tcformer.files import check_writable

if TYPE_CHECKING:
    from tcformer.predict.answers import Answer

HELP = VERBS["confusion"]

MOST_PICTURES = 100

_EPILOG = (
    "FOLDER holds a folder of pictures for each class, or a folder val/ that does. Classes are "
    "found by their names, whatever their order. --out gets the matrix (confusion.csv, .svg, "
    ".png), a line for each class (classes.csv) and for each wrong answer (wrong.csv), the most "
    "confident answers beside their tokens (right.png, wrong.png), and confusion.json, the record. "
    "Pictures are read as `tcformer predict` reads them."
)


def main(argv: list[str]) -> int:
    """Run the verb; see `tcformer confusion --help`."""
    args = _parse(argv)
    started = time.monotonic()

    from tcformer.cli import confusion_report as report  # torch is imported only now
    from tcformer.predict import examine, labelled_folder, load, match_classes
    from tcformer.predict.predict import check_topk

    source = labelled_folder(args.folder)
    out = None if args.out is None else _checked_out(args.out, source.root, report.FILES)
    loaded = load(
        args.model,
        args.checkpoint,
        pretrained=args.pretrained,
        ema=args.ema,
        input_size=args.input_size,
        device=args.device,
        threads=args.threads,
    )
    check_topk(loaded, None)
    matching = match_classes(loaded, source.classes, str(source.root))
    by_order = not loaded.named and matching.words == tuple(source.classes)
    own = [note for note in loaded.notes if not (by_order and "class names are recorded" in note)]
    for note in (*own, *matching.notes, str(source.left_out)):
        if note:
            print(f"note: {note}.", file=sys.stderr)
    with tempfile.TemporaryFile() as wrong, _progress(args, len(source)) as tick:
        wrong.write(report.wrong_head())

        def each(answer: Answer) -> None:
            if not answer.right:
                wrong.write(report.wrong_line(answer, matching.names))
            tick()

        def left_out(name: str, reason: str) -> None:
            if not args.skip_corrupt:
                raise UserError(
                    f"cannot read {name}: {reason}; replace the file, or pass --skip-corrupt to "
                    "leave such pictures out and count them"
                )
            print(f"left out {name}: {reason}", file=sys.stderr)
            tick()

        examined = examine(
            loaded,
            source,
            matching,
            keep=args.pictures,
            batch_size=args.batch_size,
            workers=args.workers,
            amp=args.amp,
            unreadable=left_out,
            each=each,
        )
        if not examined.confusion.pictures:
            raise UserError(f"not one picture of {source.root} could be read")
        words = matching.words
        for line in report.summary(examined, words, str(source.root)):
            print(line)
        if out is not None:
            run = report.Run(loaded, source, matching, examined, argv, args.batch_size, args.amp)
            for line in report.write(out, run, wrong, started):
                print(line)
    return 0


def _parse(argv: list[str]) -> Namespace:
    parser = Parser("confusion", epilog=_EPILOG)
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="pictures in a folder for each class, or the folder "
        "above, with val/ in it")  # fmt: skip
    add("--checkpoint", metavar="FILE", help="trained weights, or a folder in timm's hub format")
    add("--model", metavar="NAME", help="model to run (default: the checkpoint's own)")
    add("--pretrained", action="store_true", help="the weights the authors published for --model")
    add("--ema", action=BooleanOptionalAction, help="averaged weights of a training checkpoint "
        "(default: where it has them)")  # fmt: skip
    add("--out", metavar="FOLDER", help="where to write tables and pictures; without it, results "
        "are only printed")  # fmt: skip
    add("--pictures", type=int, default=8, metavar="N", help="so many right answers and so many "
        "wrong ones are drawn; 0 draws none")  # fmt: skip
    add("--skip-corrupt", action="store_true", help="leave out pictures that cannot be read, and "
        "count them, instead of ending with an error")  # fmt: skip
    add("--batch-size", type=int, default=16, metavar="N", help="pictures that pass together")
    add("--workers", type=int, metavar="N", help="threads that read pictures ahead (default: one "
        "a core; 0: none)")  # fmt: skip
    add("--input-size", type=int, metavar="N", help="side of the network's square input, pixels "
        "(default: as it was trained)")  # fmt: skip
    add("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda, cuda:N or mps")
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="mixed precision")
    add("--threads", type=int, default=0, metavar="N", help="CPU threads; 0 leaves torch's choice")
    add("--progress", action=BooleanOptionalAction, help="a bar on stderr (default: on a terminal)")
    args = parser.parse_args(argv)
    if args.checkpoint is None and args.model is None and not args.pretrained:
        raise UserError("tcformer confusion: give the weights to ask, --checkpoint FILE")
    if not 0 <= args.pictures <= MOST_PICTURES:
        raise UserError(f"--pictures is {args.pictures}, but 0 to {MOST_PICTURES} is meant")
    return args


def _checked_out(name: str, pictures: Path, files: Iterable[str]) -> Path:
    """Refuse a bad place before any work is done, above all one among the pictures."""
    out = Path(name)
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; name a folder, which is made if it is missing")
    inside = out.resolve()
    if pictures.resolve() in (inside, *inside.parents):
        raise UserError(
            f"--out {out} lies among the pictures, where it would be taken for a class: name a "
            f"folder outside of {pictures}"
        )
    for file in files:  # that they may be written there, before hours of work
        check_writable(out / file)
    return out


@contextlib.contextmanager
def _progress(args: Namespace, total: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr where somebody watches."""
    if not (sys.stderr.isatty() if args.progress is None else args.progress):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(file=sys.stderr, force_terminal=args.progress)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        line = bar.add_task("", total=total)
        yield lambda: bar.advance(line)
