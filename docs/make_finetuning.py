"""Put the figures of the newest record of benchmarks/finetuning.py into docs/finetuning.md.

`make docs` calls this; a test compares the page with the record.
"""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median
from typing import Any

from make_performance import newest

HERE = Path(__file__).parent

WORDS = {
    "frozen": "the classifier alone, over the digits' network",
    "full": "all of the digits' network",
    "scratch": "all of it, from random weights",
}


def table(record: dict[str, Any]) -> str:
    """What was trained, accuracy, time."""
    lines = ["| trained | top-1 | processor time |", "|---|---|---|"]
    for row in record["runs"]:
        accuracy = row["accuracy"]
        mean = sum(accuracy) / len(accuracy)
        each = ", ".join(f"{value:.1f}" for value in accuracy)
        seconds = median(row["seconds"])
        lines.append(f"| {WORDS[row['name']]} | {mean:.1f} % ({each}) | {seconds:.0f} s |")
    images = record["images"]
    return "\n".join(lines) + (
        f"\n\n{images['train']} pictures to learn from, {images['val']} to measure on. Accuracy of "
        f"the last of {record['runs'][0]['epochs']} epochs, mean and each seed; the median time of "
        "one thread, imports and evaluations included. "
        f"`benchmarks/results/{record['file']}`: `{record['command']}`, {record['date']}, "
        f"{record['machine']['processor']}, torch {record['versions']['torch']}.\n"
    )


def page(text: str, record: dict[str, Any]) -> str:
    """The page with the table between its marks made anew."""
    mark = re.compile(r"(<!-- finetuning -->\n).*?(<!-- end -->)", re.S)
    text, count = mark.subn(lambda m: f"{m[1]}\n{table(record)}\n{m[2]}", text)
    assert count == 1, "docs/finetuning.md needs one place for the table"
    return text


def main() -> None:
    """Write the page."""
    path = HERE / "finetuning.md"
    path.write_text(page(path.read_text(), newest("finetuning")))


if __name__ == "__main__":
    main()
