"""Put the figures of the newest records into the README's table of what is measured.

`make docs` calls this; a test compares the README with the records.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from make_performance import newest

README = Path(__file__).parents[1] / "README.md"

SPEED = {
    "inference, batch 1: tcformer / pvt_v2_b2": "a forward pass of `tcformer`, one image",
    "inference, batch 8: tcformer / pvt_v2_b2": "the same, eight images",
    "training step, batch 8: tcformer / pvt_v2_b2": "a training step, eight images",
    "1024 px, batch 1, exact: tcformer / pvt_v2_b2": "a forward pass at 1024 px, one image",
}
"""Figures of the CPU suite that the README shows, and how it calls them."""

LEARNED = {
    "frozen": "letters, the classifier alone over a network of digits",
    "full": "letters, all of that network",
    "scratch": "letters, from random weights",
}


def table(suite: dict[str, Any], finetuning: dict[str, Any]) -> str:
    """What, how much, where it comes from."""
    lines = ["| | measured | |", "|---|---|---|"]
    values = {row["text"]: row["value"] for row in suite["verdicts"]}
    for text, words in SPEED.items():
        figure = f"{values[text]:.2f} times the time of timm's `pvt_v2_b2`"
        lines.append(f"| {words} | {figure} | [performance](docs/performance.md) |")
    for row in finetuning["runs"]:
        mean = sum(row["accuracy"]) / len(row["accuracy"])
        cells = (LEARNED[row["name"]], f"{mean:.1f} % right", "[fine-tuning](docs/finetuning.md)")
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("| ImageNet | not run | [reproducing the paper](docs/reproduce.md) |")
    speed, learned = (f"`benchmarks/results/{record['file']}`" for record in (suite, finetuning))
    return "\n".join(lines) + (
        f"\n\nTimes: {suite['machine']['processor']}, two threads, float32 ({speed}). Letters: "
        f"{finetuning['images']['train']} drawn pictures to learn from, "
        f"{finetuning['images']['val']} to measure on, mean of {_seeds(finetuning)} seeds "
        f"({learned}).\n"
    )


def _seeds(record: dict[str, Any]) -> int:
    (count,) = {len(row["accuracy"]) for row in record["runs"]}
    return count


def page(text: str) -> str:
    """The README with the table between its marks made anew."""
    made = table(newest("suite-cpu"), newest("finetuning"))
    mark = re.compile(r"(<!-- measured -->\n).*?(<!-- end -->)", re.S)
    text, count = mark.subn(lambda m: f"{m[1]}\n{made}\n{m[2]}", text)
    assert count == 1, "README.md needs one place for the table"
    return text


def main() -> None:
    """Write the README."""
    README.write_text(page(README.read_text()))


if __name__ == "__main__":
    main()
