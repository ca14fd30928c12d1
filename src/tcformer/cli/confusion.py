"""`tcformer confusion`: which classes a network confuses, with its right and wrong answers."""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from tcformer.cli.parser import SHARED, Parser, load_network, print_notes, whole
from tcformer.errors import UserError, printable
from tcformer.files import atomic_write, check_writable, staging
from tcformer.progress import progress_bar

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tcformer.data.folder import FolderSource
    from tcformer.predict import LabeledPrediction, Loaded, Report
    from tcformer.predict.classes import Matching
    from tcformer.viz import Row

MOST_PICTURES = 100

RECORD = "confusion.json"
FILES = (
    RECORD, "confusion.csv", "classes.csv", "wrong.csv", "confusion.svg", "confusion.png",
    "right.png", "wrong.png",
)  # fmt: skip
"""What is written; of an earlier run nothing is left. The record comes last, and has another name
than that of a training run, into whose folder these files may go."""

WRONG_COLUMNS = ("image", "truth", "answer", "probability", "probability_of_truth")

MOST_ROWS, WORST, MOST_MISTAKES = 30, 20, 10
"""What is printed: all classes if there are no more, else the worst."""

PANEL, WIDE = 192, 1000
"""Side of a panel in pixels, about; cards whose panels take more pixels stand below each other."""

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

    from tcformer.predict import evaluate, labeled_folder, match_classes  # imports torch
    from tcformer.predict.confusion import csv_line
    from tcformer.predict.predict import check_topk

    source = labeled_folder(args.folder)
    out = None if args.out is None else _checked_out(args.out, source.root)
    loaded = load_network(args)
    check_topk(loaded, None)
    matching = match_classes(loaded, source.classes, str(source.root))
    by_order = not loaded.named and matching.words == tuple(source.classes)
    own = [note for note in loaded.notes if not (by_order and "class names are recorded" in note)]
    print_notes((*own, *matching.notes, source.left_out))
    bar = progress_bar(len(source), wanted=args.progress)
    with tempfile.TemporaryFile() as wrong, bar as update:
        wrong.write(csv_line(WRONG_COLUMNS).encode())

        def each(found: LabeledPrediction) -> None:
            if not found.right:
                names = matching.names[found.truth], matching.names[found.answer]
                shares = f"{found.probability:.4f}", f"{found.truth_probability:.4f}"
                line = csv_line((found.image, *names, *shares))
                wrong.write(line.encode("utf-8", "backslashreplace"))
            update(advance=1)

        def left_out(name: str, reason: str) -> None:
            if not args.skip_corrupt:
                raise UserError(
                    f"cannot read {name}: {reason}; replace the file, or pass --skip-corrupt to "
                    "leave such pictures out and count them"
                )
            print(f"left out {name}: {reason}", file=sys.stderr)
            update(advance=1)

        report = evaluate(
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
        if not report.confusion.pictures:
            raise UserError(f"not one picture of {source.root} could be read")
        print(*_summary(report, matching.words, str(source.root)), sep="\n")
        if out is not None:
            settings = {"input_size": loaded.preprocessing.input_size}
            settings |= {"batch_size": args.batch_size, "amp": args.amp}
            record = _record(loaded, source, matching, report, settings)
            with staging(out, last=RECORD, stale=FILES) as folder:
                written = _write(folder, loaded, source.root, matching, report, wrong)
                record |= _circumstances(loaded.device, argv, started)
                text = _in_lines(json.dumps(record, indent=1, allow_nan=False)) + "\n"
                atomic_write(folder / RECORD, lambda stream: stream.write(text.encode()))
            print(f"wrote {', '.join([*written, RECORD])} in {out}")
    return 0


def _parse(argv: list[str]) -> Namespace:
    parser = Parser("confusion", epilog=_EPILOG)
    add = parser.add_argument
    add("folder", metavar="FOLDER", help="pictures in a folder for each class, or the folder "
        "above, with val/ in it")  # fmt: skip
    add("--out", metavar="FOLDER", help="where to write tables and pictures; without it, results "
        "are only printed")  # fmt: skip
    add("--pictures", type=whole(0, MOST_PICTURES), default=8, metavar="N", help="right "
        "answers to draw, and as many wrong ones; 0 draws none")  # fmt: skip
    add("--skip-corrupt", action="store_true", help="leave out pictures that cannot be read, and "
        "count them, instead of ending with an error")  # fmt: skip
    parser.share(*SHARED)
    args = parser.parse_args(argv)
    if args.checkpoint is None and args.model is None and not args.pretrained:
        raise UserError("tcformer confusion: give the weights to ask, --checkpoint FILE")
    return args


def _checked_out(name: str, pictures: Path) -> Path:
    """Refuse a bad place before any work is done, above all one among the pictures."""
    out = Path(name)
    inside = out.resolve()
    if pictures.resolve() in (inside, *inside.parents):
        raise UserError(
            f"--out {out} lies among the pictures, where it would be taken for a class: name a "
            f"folder outside of {pictures}"
        )
    for file in FILES:  # that they may be written there, before hours of work
        check_writable(out / file)
    return out


# ---- for people -----------------------------------------------------------------------------


def _summary(report: Report, words: Sequence[str], where: str) -> Iterator[str]:
    """What is printed: how many are right, class by class, and what is confused most."""
    from tcformer.predict.confusion import wilson

    confusion = report.confusion
    rows = [row for row in confusion.per_class() if row.pictures]
    classes = f"{len(rows)} class" + "es" * (len(rows) != 1)
    yield (
        f"{printable(where)}: {_counted(confusion.pictures, 'picture')} of {classes}, "
        f"{confusion.right} right: {_percent(confusion.accuracy)} "
        f"({_between(confusion.interval)}), mean over the classes {_percent(confusion.mean_recall)}"
    )
    if report.unread:
        yield f"{_counted(report.unread, 'picture')} that cannot be read left out"
    yield ""
    if len(rows) > MOST_ROWS:
        yield f"The {WORST} of {len(rows)} classes with the lowest recall:"
        rows = sorted(rows, key=lambda row: (row.recall, row.number))[:WORST]
    table = [("class", "pictures", "right", "recall", "95 % interval", "precision")]
    for row in rows:
        interval = _between(wilson(row.right, row.pictures))
        numbers = (str(row.pictures), str(row.right), _percent(row.recall), interval)
        table.append((_short(words[row.number]), *numbers, _percent(row.precision)))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for first, *others in table:
        cells = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        yield "  ".join((first.ljust(widths[0]), *cells))
    yield ""
    mistakes = confusion.mistakes()
    yield "Confused most often:" if mistakes else "There is no wrong answer."
    pictures = confusion.counts.sum(axis=1)
    for truth, answer, count in mistakes[:MOST_MISTAKES]:
        yield f"  {_short(words[truth])} -> {_short(words[answer])}: {count} of {pictures[truth]}"
    if len(mistakes) > MOST_MISTAKES:
        yield f"  and {_counted(len(mistakes) - MOST_MISTAKES, 'other pair')}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def _between(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def _counted(count: int, words: str) -> str:
    return f"{count} {words}{'s' * (count != 1)}"


def _short(name: str, most: int = 40) -> str:
    name = printable(name)
    return name if len(name) <= most else f"{name[: most - 3]}..."


# ---- files ----------------------------------------------------------------------------------


def _write(
    out: Path, loaded: Loaded, root: Path, matching: Matching, report: Report, wrong: IO[bytes]
) -> list[str]:
    """Write tables and pictures into a folder, and say what is there; prints what is not."""
    from tcformer.images import png_bytes
    from tcformer.viz import MOST_CLASSES, matrix_picture, matrix_svg

    confusion, written = report.confusion, []

    def save(name: str, parts: Iterable[str | bytes]) -> None:
        texts = (
            p if isinstance(p, bytes) else p.encode("utf-8", "backslashreplace") for p in parts
        )
        atomic_write(out / name, lambda stream: stream.writelines(texts))
        written.append(name)

    save("confusion.csv", confusion.matrix_csv())
    save("classes.csv", confusion.classes_csv())
    wrong.seek(0)
    save("wrong.csv", wrong)
    drawn = confusion.occurring()
    if len(drawn) <= MOST_CLASSES:
        matrix = confusion.counts[drawn][:, drawn], [matching.words[i] for i in drawn]
        save("confusion.svg", [matrix_svg(*matrix, numbers=drawn.tolist())])
        save("confusion.png", [png_bytes(matrix_picture(*matrix, numbers=drawn.tolist()))])
    else:
        print(f"no picture of the matrix: {len(drawn)} classes are more than can be drawn")
    for name, found in (("right.png", report.right), ("wrong.png", report.wrong)):
        if found:
            save(name, [png_bytes(_draw_answers(loaded, found, matching.words, root))])
    if not loaded.merges and (report.right or report.wrong):
        print(f"{loaded.name} merges no tokens, so the answers are drawn without them")
    return written


def _draw_answers(
    loaded: Loaded, answers: Sequence[LabeledPrediction], words: Sequence[str], root: Path
) -> NDArray[np.uint8]:
    """A card for each answer: "truth -> answer 93 %" over the picture and its tokens."""
    from tcformer.viz import card_sheet

    rows = [_card(loaded, answer, words, root) for answer in answers]
    panel = rows[0].panels[0].size[1]
    across = 4 if not loaded.merges else 2 if 4 * panel <= WIDE else 1
    return card_sheet(rows, across=across, font_size=max(16, panel // 18), least_column=PANEL)


def _card(loaded: Loaded, answer: LabeledPrediction, words: Sequence[str], root: Path) -> Row:
    """Draw what the network saw: the middle of the picture, in the photograph's own resolution
    where that is finer.
    """
    import torch

    from tcformer.images import read_picture, unnormalize
    from tcformer.viz import Figure, Panel, Row, enlarge, layout_maps, panel_scale
    from tcformer.viz.canvas import written

    picture = read_picture(answer.image)
    prepare = loaded.preprocessing
    side = prepare.input_size
    scale = panel_scale((side, side), PANEL)
    ready = prepare(picture)
    scales = {"mean": prepare.spec.norm_mean, "std": prepare.spec.norm_std}
    shown = enlarge(unnormalize(ready, **scales), scale)
    if min(picture.size) >= 1.5 * side / prepare.kept:
        finer = replace(prepare, input_size=scale * side, crop_pct=prepare.kept)
        shown = unnormalize(finer(picture), **scales)
    # The name of a class as far as the font has its letters, else its number.
    truth, said = (
        written(_plain(words[number]), f"class {number}")
        for number in (answer.truth, answer.answer)
    )
    heading = f"{truth} -> {said} {_rounded(answer.probability)}"
    if not answer.right:
        heading += f" ({truth} {_rounded(answer.truth_probability)})"
    name = _plain(os.path.relpath(answer.image, root))
    panels = [Panel(shown, written(name, "..."))]
    if loaded.merges:
        with torch.inference_mode():
            stages = loaded.backbone.forward_tokens(ready[None].to(loaded.device))
        figure = Figure(shown, layout_maps(stages), seen=(side, side))
        drawn = zip(figure.draw("mean").panels, stages, strict=True)
        # Before the first merge tokens are squares, and one alone is no picture.
        panels += [panel for panel, tokens in drawn if tokens.layout.num_tokens > 1][1:]
    return Row(tuple(panels), heading)


def _plain(text: str) -> str:
    return printable(" ".join(text.split()))


def _rounded(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.005 or not share else "< 1 %"


def _record(
    loaded: Loaded, source: FolderSource, matching: Matching, report: Report, settings: Any
) -> dict[str, Any]:
    """What the figures depend on, in the form of a run's record."""
    from tcformer.data.fingerprint import fingerprint
    from tcformer.runtime import provenance
    from tcformer.training.record import FORM
    from tcformer.weights.released import file_sha256

    confusion, weights = report.confusion, loaded.source
    is_file = weights is not None and Path(weights).is_file()
    return {
        "form": FORM,
        "kind": "confusion",
        "status": "finished",
        "model": loaded.name,
        "parameters": sum(p.numel() for p in loaded.network.parameters()),
        "weights": None if weights is None else provenance.without_place(weights),
        "weights_sha256": file_sha256(Path(str(weights)))[:16] if is_file else None,
        "data": fingerprint(SimpleNamespace(source=source), source.root.parent),
        "config": settings,
        "result": {
            "pictures": confusion.pictures,
            "right": confusion.right,
            "left_out": report.unread,
            "acc1": round(100 * (confusion.accuracy or 0), 4),
            "acc1_95": [round(100 * end, 4) for end in confusion.interval or ()],
            "mean_recall": round(100 * (confusion.mean_recall or 0), 4),
        },
        "classes": list(matching.names),
        "counts": [
            [truth, answer, int(confusion.counts[truth, answer])]
            for truth, answer in np.argwhere(confusion.counts).tolist()
        ],
    }


def _circumstances(device: Any, argv: list[str], started: float) -> dict[str, Any]:
    """What it cost, and where it ran."""
    import torch

    from tcformer.runtime import provenance

    on_gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    cost = {
        "wall_seconds": round(time.monotonic() - started, 3),
        "peak_memory": {"host_bytes": provenance.resident("VmHWM"), "gpu_bytes": on_gpu},
    }
    session = {
        "status": "finished",
        "command": provenance.command_line(["confusion", *argv]),
        **provenance.circumstances(device),
        "processor_seconds": round(time.process_time(), 3),
        **cost,
    }
    return {**cost, "epochs": [], "sessions": [session]}


def _in_lines(text: str) -> str:
    """JSON whose lists of numbers stand on one line each."""
    return re.sub(r"\[\s+([-\d.,\s]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
