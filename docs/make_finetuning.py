"""Put the figures of the newest records into docs/finetuning.md, and draw their matrices.

The records are those of benchmarks/finetuning.py (letters) and benchmarks/photographs.py.
`make docs` calls this; tests compare page and pictures with the records.
"""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from learning_records import processor
from make_performance import newest

from tcformer.predict.confusion import Confusion, wilson
from tcformer.viz import matrix_svg

HERE = Path(__file__).parent

WORDS = {
    "frozen": "the classifier alone, over the digits' network",
    "full": "all of the digits' network",
    "scratch": "all of it, from random weights",
}


PHOTOGRAPHS = {
    "frozen": "the classifier alone",
    "full": "all of the network",
    "scratch": "all of it, from random weights",
}

MOST = 3
"""Confusions that are named."""


def table(record: dict[str, Any]) -> str:
    """What was trained, accuracy, time."""
    lines = ["| trained | top-1 | processor time |", "|---|---|---|"]
    lines += [f"| {' | '.join(cells)} |" for cells in rows(record, WORDS)]
    images = record["images"]
    return "\n".join(lines) + (
        f"\n\n{images['train']} pictures to learn from, {images['val']} to measure on. Accuracy of "
        f"the last of {record['runs'][0]['epochs']} epochs, mean and each seed; the median time of "
        f"one thread, imports and evaluations included.{busy(record)} {source(record)}\n"
    )


def rows(record: dict[str, Any], words: dict[str, str]) -> list[tuple[str, ...]]:
    """What was trained, its accuracy, its time; for each row of the record."""
    found = []
    for row in record["runs"]:
        accuracy = row["accuracy"]
        mean = sum(accuracy) / len(accuracy)
        each = ", ".join(f"{value:.1f}" for value in accuracy)
        seconds = median(row["seconds"])
        found.append((words[row["name"]], f"{mean:.1f} % ({each})", f"{seconds:.0f} s"))
    return found


def busy(record: dict[str, Any]) -> str:
    """What to think of the times, if others used the machine as well."""
    load, cores = record["load_average_at_start"], record["machine"]["cores"]
    if load is None or load <= 1.5 * cores:
        return ""
    return (
        f" Other work kept the machine busy (a load of {load:.0f} on {cores} cores), which "
        "lengthens the processor's time too."
    )


def source(record: dict[str, Any]) -> str:
    """Where the figures come from."""
    return (
        f"`benchmarks/results/{record['file']}`: `{record['command']}`, {record['date']}, "
        f"{processor(record)}, torch {record['versions']['torch']}."
    )


def confusion(record: dict[str, Any]) -> Confusion:
    """The counts of a record."""
    kept = record["confusion"]
    return Confusion(np.array(kept["counts"]), tuple(kept["classes"]))


def confused(record: dict[str, Any], name: str) -> str:
    """The picture of the matrix, and what it comes to in words."""
    found = confusion(record)
    assert found.accuracy is not None
    assert found.interval is not None
    low, high = (f"{100 * end:.1f}" for end in found.interval)
    pictures = found.counts.sum(axis=1)
    pairs = [
        f"{found.classes[truth]} for {found.classes[answer]} ({count} of {pictures[truth]})"
        for truth, answer, count in found.mistakes(MOST)
    ]
    return (
        f"![Rows are the truth, columns the answer](images/{name}-confusion.svg)\n\n"
        f"{found.right} of {found.pictures} are right: {100 * found.accuracy:.1f} %, and on many "
        f"more such pictures {low} to {high} % (Wilson's interval, 95 %). Taken for another most "
        f"often: {', '.join(pairs)}.\n"
    )


def uncertain(pictures: int) -> int:
    """Percentage points to each side of a share of one half."""
    interval = wilson(pictures // 2, pictures)
    assert interval is not None
    return round(50 * (interval[1] - interval[0]))


def sheets() -> str:
    """The letters' pictures; photographs are not published."""
    return (
        "The wrong answers of which it is most certain (truth -> answer, and in brackets what the "
        "truth was given), beside\ntheir tokens after the first merges:\n\n"
        "![Letters and their tokens, wrong answers](images/letters-wrong.png)\n\n"
        "And the right ones of which it is most certain:\n\n"
        "![Letters and their tokens, right answers](images/letters-right.png)\n"
    )


def photographs(record: dict[str, Any] | None) -> str:
    """What was trained, accuracy, time; then the matrix of the second row."""
    if record is None:
        return (
            "No record of these is in `benchmarks/results` yet; `python benchmarks/photographs.py` "
            "makes one.\n"
        )
    images = record["images"]
    lines = ["| trained | top-1 | processor time |", "|---|---|---|"]
    lines += [f"| {' | '.join(cells)} |" for cells in rows(record, PHOTOGRAPHS)]
    lines.append(f"| nothing: always the same answer | {record['constant']:.1f} % | |")
    start, data = record["start"], record["confusion"]["classes"]
    return "\n".join(lines) + (
        f"\n\n{images['train']} photographs to learn from and {images['val']} to measure on, in "
        f"{len(data)} classes ({', '.join(data)}), all of ImageNet's validation set: one of each "
        "kind, so that those to measure on are of kinds that were never seen. The network to start "
        f"from knows {start['about']}. Accuracy of the last of {record['runs'][0]['epochs']} "
        "epochs, mean and each seed; the median time of one thread, imports and evaluations "
        "included."
        f"{busy(record)} {source(record)}\n\n"
        f"So few to measure on leave each share uncertain by {uncertain(images['val'])} points "
        "either way: smaller differences between rows say nothing. Where the second network (first "
        f"seed) is wrong:\n\n{confused(record, 'pictures')}"
    )


def page(text: str, letters: dict[str, Any], pictures: dict[str, Any] | None) -> str:
    """The page with what is between its marks made anew."""
    for name, content in (
        ("finetuning", table(letters)),
        ("letters confusion", f"{confused(letters, 'letters')}\n{sheets()}"),
        ("photographs", photographs(pictures)),
    ):
        mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
        text, count = mark.subn(lambda m, c=content: f"{m[1]}\n{c}\n{m[2]}", text)
        assert count == 1, f"docs/finetuning.md needs one place for: {name}"
    return text


def plots(letters: dict[str, Any], pictures: dict[str, Any] | None) -> dict[str, str]:
    """File below docs/images -> content."""
    found = {}
    for name, record in (("letters", letters), ("pictures", pictures)):
        if record is None:
            continue
        matrix = confusion(record)
        found[f"{name}-confusion.svg"] = matrix_svg(matrix.counts, matrix.classes)
    return found


def measured() -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The newest records, of the letters and of the photographs; None if there is none of those."""
    try:
        return newest("finetuning"), newest("photographs")
    except ValueError:  # of no files there is no newest
        return newest("finetuning"), None


def main() -> None:
    """Write the page and its plots."""
    records = measured()
    path = HERE / "finetuning.md"
    path.write_text(page(path.read_text(), *records))
    for name, content in plots(*records).items():
        (HERE / "images" / name).write_text(content)


if __name__ == "__main__":
    main()
