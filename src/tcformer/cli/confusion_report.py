"""What `tcformer confusion` prints and writes once every picture is answered."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from tcformer.cli.confusion_pictures import draw_answers
from tcformer.data.fingerprint import fingerprint
from tcformer.data.folder import FolderSource
from tcformer.files import atomic_write, staging
from tcformer.predict import Loaded
from tcformer.predict.answers import Answer, Examined
from tcformer.predict.classes import Matching
from tcformer.predict.confusion import csv_line, wilson
from tcformer.predict.predict import printable
from tcformer.runtime import provenance
from tcformer.training.record import FORM
from tcformer.viz import MOST_CLASSES, matrix_picture, matrix_svg, png_bytes
from tcformer.viz.sheet import write_bytes

RECORD = "confusion.json"
FILES = (
    RECORD, "confusion.csv", "classes.csv", "wrong.csv", "confusion.svg", "confusion.png",
    "right.png", "wrong.png",
)  # fmt: skip
"""What is written; of an earlier run nothing is left. The record comes last, and has another name
than that of a training run, into whose folder these files may go."""

WRONG_COLUMNS = ("image", "truth", "answer", "probability", "probability_of_truth")

MOST_ROWS, WORST = 30, 20
"""Of the table that is printed: all classes if there are no more, else the worst."""

MOST_MISTAKES = 10


def wrong_head() -> bytes:
    """The first line of wrong.csv."""
    return csv_line(WRONG_COLUMNS).encode()


def wrong_line(answer: Answer, names: Sequence[str]) -> bytes:
    """A line of wrong.csv."""
    shares = f"{answer.probability:.4f}", f"{answer.truth_probability:.4f}"
    line = csv_line((answer.image, names[answer.truth], names[answer.answer], *shares))
    return line.encode("utf-8", "backslashreplace")


# ---- for people -----------------------------------------------------------------------------


def summary(examined: Examined, words: Sequence[str], where: str) -> Iterator[str]:
    """What is printed: how many are right, class by class, and what is confused most."""
    confusion = examined.confusion
    rows = [row for row in confusion.per_class() if row.pictures]
    classes = f"{len(rows)} class" + "es" * (len(rows) != 1)
    share, mean = confusion.accuracy, confusion.mean_recall
    assert share is not None  # there are pictures
    assert mean is not None
    yield (
        f"{printable(where)}: {_counted(confusion.pictures, 'picture')} of {classes}, "
        f"{confusion.right} right: {_percent(share)} ({_between(confusion.interval)}), "
        f"mean over the classes {_percent(mean)}"
    )
    if examined.unread:
        yield f"{_counted(examined.unread, 'picture')} that cannot be read left out"
    yield ""
    if len(rows) > MOST_ROWS:
        yield f"The {WORST} of {len(rows)} classes with the lowest recall:"
        rows = sorted(rows, key=lambda row: (row.recall, row.number))[:WORST]
    head = ("class", "pictures", "right", "recall", "95 % interval", "precision")
    table = [head]
    for row in rows:
        precision = "-" if row.precision is None else _percent(row.precision)
        assert row.recall is not None
        interval = _between(wilson(row.right, row.pictures))
        numbers = (str(row.pictures), str(row.right), _percent(row.recall), interval, precision)
        table.append((_short(words[row.number]), *numbers))
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    for line in table:
        first, *others = (
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        yield "  ".join((first, *others))
    yield ""
    mistakes = confusion.mistakes()
    if not mistakes:
        yield "There is no wrong answer."
        return
    yield "Confused most often:"
    pictures = confusion.counts.sum(axis=1)
    for truth, answer, count in mistakes[:MOST_MISTAKES]:
        names = f"{_short(words[truth])} -> {_short(words[answer])}"
        yield f"  {names}: {count} of {pictures[truth]}"
    if len(mistakes) > MOST_MISTAKES:
        yield f"  and {_counted(len(mistakes) - MOST_MISTAKES, 'other pair')}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _between(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f} %"


def _counted(count: int, words: str) -> str:
    return f"{count} {words}{'s' * (count != 1)}"


def _short(name: str, most: int = 40) -> str:
    name = printable(name)
    return name if len(name) <= most else f"{name[: most - 3]}..."


# ---- files ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What was asked, of whom, and the answers."""

    loaded: Loaded
    source: FolderSource
    matching: Matching
    examined: Examined
    argv: list[str]
    batch_size: int
    amp: str


def write(out: Path, run: Run, wrong: IO[bytes], started: float) -> Iterator[str]:
    """Write everything into the folder; yields lines that say what is there and what is not.

    Args:
        out: the folder, made if it is missing.
        run: the run.
        wrong: the content of wrong.csv.
        started: when the run began, by `time.monotonic`.

    Raises:
        UserError: the folder cannot be written.
    """
    with staging(out, last=RECORD, stale=FILES) as folder:
        written = yield from _write_all(folder, run, wrong, started)
    yield f"wrote {', '.join(written)} in {out}"


def _write_all(
    out: Path, run: Run, wrong: IO[bytes], started: float
) -> Generator[str, None, list[str]]:
    confusion, matching = run.examined.confusion, run.matching
    written = []

    def text(name: str, lines: Iterable[str]) -> None:
        atomic_write(
            out / name,
            lambda stream: stream.writelines(
                line.encode("utf-8", "backslashreplace") for line in lines
            ),
        )
        written.append(name)

    text("confusion.csv", confusion.matrix_csv())
    text("classes.csv", confusion.classes_csv())
    wrong.seek(0)
    atomic_write(out / "wrong.csv", lambda stream: shutil.copyfileobj(wrong, stream))
    written.append("wrong.csv")
    drawn = confusion.occurring()
    if len(drawn) <= MOST_CLASSES:
        counts = confusion.counts[drawn][:, drawn]
        words, numbers = [matching.words[i] for i in drawn], drawn.tolist()
        text("confusion.svg", [matrix_svg(counts, words, numbers=numbers)])
        write_bytes(
            out / "confusion.png", png_bytes(matrix_picture(counts, words, numbers=numbers))
        )
        written.append("confusion.png")
    else:
        yield f"no picture of the matrix: {len(drawn)} classes are more than can be drawn"
    for name, answers in (("right.png", run.examined.right), ("wrong.png", run.examined.wrong)):
        if answers:
            pictures = draw_answers(run.loaded, answers, matching.words, run.source.root)
            write_bytes(out / name, png_bytes(pictures))
            written.append(name)
    if not run.loaded.merges and (run.examined.right or run.examined.wrong):
        yield f"{run.loaded.name} merges no tokens, so the answers are drawn without them"
    record = _in_lines(json.dumps(_record(run, started), indent=1, allow_nan=False)) + "\n"
    atomic_write(out / RECORD, lambda stream: stream.write(record.encode()))
    return [*written, RECORD]


def _record(run: Run, started: float) -> dict[str, Any]:
    """In the form of a run's record: everything that the figures depend on."""
    import torch

    loaded, confusion = run.loaded, run.examined.confusion
    truths, answers = confusion.counts.nonzero()
    wall = round(time.monotonic() - started, 3)
    device = loaded.device
    on_gpu = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    peak = {"host_bytes": provenance.resident("VmHWM"), "gpu_bytes": on_gpu}
    source = loaded.source
    return {
        "form": FORM,
        "kind": "confusion",
        "status": "finished",
        "model": loaded.name,
        "parameters": sum(p.numel() for p in loaded.network.parameters()),
        "weights": None if source is None else provenance.without_place(source),
        "weights_sha256": _digest(source),
        "data": fingerprint(SimpleNamespace(source=run.source), run.source.root.parent),
        "config": {
            "input_size": loaded.preprocessing.input_size,
            "batch_size": run.batch_size,
            "amp": run.amp,
        },
        "result": {
            "pictures": confusion.pictures,
            "right": confusion.right,
            "left_out": run.examined.unread,
            "acc1": round(100 * (confusion.accuracy or 0), 4),
            "acc1_95": [round(100 * end, 4) for end in confusion.interval or ()],
            "mean_recall": round(100 * (confusion.mean_recall or 0), 4),
        },
        "classes": list(run.matching.names),
        "counts": [
            [int(truth), int(answer), int(confusion.counts[truth, answer])]
            for truth, answer in zip(truths, answers, strict=True)
        ],
        "wall_seconds": wall,
        "peak_memory": peak,
        "epochs": [],
        "sessions": [
            {
                "status": "finished",
                "command": provenance.command_line(["confusion", *run.argv]),
                **provenance.circumstances(device),
                "wall_seconds": wall,
                "processor_seconds": round(time.process_time(), 3),
                "peak_memory": peak,
            }
        ],
    }


def _in_lines(text: str) -> str:
    """JSON whose lists of numbers stand on one line each."""
    return re.sub(r"\[\s+([-\d.,\s]+?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)


def _digest(source: str | None) -> str | None:
    """The first 16 digits of the SHA-256 of a file of weights."""
    if source is None or not Path(source).is_file():
        return None
    with open(source, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:16]
