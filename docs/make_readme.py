"""Write the README's two tables of figures: what is measured, and the zoo.

The first comes from the newest records, the second from the code, with the figures that the authors
report named as theirs. `make docs` calls this; a test compares the README with both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from learning_records import FOLDER, Group, Run, kind, processor, read_runs
from make_performance import ELSEWHERE, elsewhere, newest
from make_results import groups_of, nothing, top1

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


TRAINED = {"digits": "handwritten digits", "cifar10": "CIFAR-10"}
"""Sets of docs/results.md that the README shows, and how it calls them."""


def table(suite: dict[str, Any], finetuning: dict[str, Any], runs: Sequence[Run]) -> str:
    """What, how much, where it comes from."""
    lines = ["| | measured | |", "|---|---|---|"]
    values = {row["text"]: row["value"] for row in suite["verdicts"]}
    for text, words in SPEED.items():
        figure = (
            f"{values[text]:.2f} times the time of timm's `pvt_v2_b2` on {kind(suite)}; "
            f"{ELSEWHERE[text]} times on Zen 4"
        )
        lines.append(f"| {words} | {figure} | [performance](docs/performance.md) |")
    for name, words in TRAINED.items():
        groups = groups_of(runs, name)
        for g in groups:
            what = f"{words}{epochs(g)}, {'the grid twin ' * (g is groups[-1])}`{g.model}`"
            lines.append(f"| {what} | {learned(g)} | [results](docs/results.md) |")
    for row in finetuning["runs"]:
        mean = sum(row["accuracy"]) / len(row["accuracy"])
        cells = (LEARNED[row["name"]], f"{mean:.1f} % right", "[fine-tuning](docs/finetuning.md)")
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(
        "| ImageNet | not run | [reproducing the paper](docs/training.md#reproducing-the-paper) |"
    )
    speed, letters = (f"`benchmarks/results/{record['file']}`" for record in (suite, finetuning))
    threads = suite["settings"]["torch threads"]
    return "\n".join(lines) + (
        f"\n\nTimes: {processor(suite)}, {threads} threads, float32 ({speed}). "
        f"{elsewhere().strip()} "
        f"Letters: {finetuning['images']['train']} drawn pictures to learn from, "
        f"{finetuning['images']['val']} to measure on, mean of {_seeds(finetuning)} seeds "
        f"({letters}). Digits and CIFAR-10: mean ± spread over the seeds, the runs of "
        f"`{FOLDER}`; the grid twin is the same network without clustering.\n"
    )


def learned(g: Group) -> str:
    """Mean, spread and number of seeds."""
    if not g.runs:
        return nothing(g)
    return f"{top1(g)} % right, {len(g.runs)} seed{'s' * (len(g.runs) > 1)}"


def epochs(g: Group) -> str:
    """The length of the schedule, without which a figure says little."""
    if not g.runs:
        return ""
    count = g.runs[0].record["config"]["epochs"]
    return f", {count} epoch{'s' * (count > 1)}"


def zoo() -> str:
    """A row for each variant: counted by `tcformer flops`, the paper's figure, ours."""
    import torch

    from tcformer.models import VARIANTS, create_model
    from tcformer.models.flops import geometry, published_flops
    from tcformer.models.zoo import ZOO

    reported = {e.architecture: e.paper for e in ZOO.values() if "ImageNet" in e.task}
    names = ("model", "parameters", "GFLOPs at 224 px", "ImageNet-1k top-1, the paper")
    lines = [f"| {' | '.join(names)} | ImageNet-1k top-1, measured by us |", "|---" * 5 + "|"]
    for name in VARIANTS:
        with torch.device("meta"):
            model = create_model(name)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        flops = sum(published_flops(geometry(model), 224, 224).values())
        paper = "ours, not in the paper" if "nano" in name else "not known"
        if name in reported:
            paper = re.search(r"[\d.]+ %", reported[name])[0]
        # A figure of ours enters the last column together with a record.
        cells = (f"`{name}`", f"{parameters / 1e6:.2f} M", f"{flops / 1e9:.2f}", paper, "not run")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _seeds(record: dict[str, Any]) -> int:
    (count,) = {len(row["accuracy"]) for row in record["runs"]}
    return count


def tables() -> dict[str, str]:
    """Mark in the README -> the table that stands between it and `<!-- end -->`."""
    return {"measured": table(newest("suite-cpu"), newest("finetuning"), read_runs()), "zoo": zoo()}


def page(text: str, made_anew: Mapping[str, str]) -> str:
    """The README with the tables between their marks replaced."""
    for name, made in made_anew.items():
        mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.S)
        text, count = mark.subn(lambda m, made=made: f"{m[1]}\n{made}\n{m[2]}", text)
        assert count == 1, f"README.md needs one place for the table {name!r}"
    return text


def main() -> None:
    """Write the README."""
    README.write_text(page(README.read_text(), tables()))


if __name__ == "__main__":
    main()
