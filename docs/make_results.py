"""Write docs/results.md and its plots from the records under benchmarks/results/learning.

`make docs` calls this; a test compares the page with the records. Every figure and every sentence
that judges one is computed; what has no record is "not run". The only figures written here are
those that others published.
"""

from __future__ import annotations

import datetime
import math
import runpy
import sys
from collections.abc import Sequence
from typing import Any

from learning_records import ROOT, Group, Run, group, is_above, read_runs, verdict
from list_runs import clock, listing
from plots import Line, chart

sys.path.append(str(ROOT / "benchmarks"))

from learning import SETS

SHORT = ("cifar10", "cifar10-light")
"""Sets whose schedule was cut to fit a CPU."""

PAGE, IMAGES = ROOT / "docs" / "results.md", ROOT / "docs" / "images"

GOAL = 94.2
PUBLISHED = (
    ("strided convolution", 92.84),
    ("token clustering", 93.94),
    ("its own variant", 94.18),
)
"""Top-1 on CIFAR-10 at 64 px, percent, as a follow-up of 2025 prints it."""

HEAD = """\
# What it learns

ImageNet and the authors' weights are not at hand, so nobody can check the paper's figures here yet.
These are the next best: training runs that anybody can repeat, each with its record, beside the
**grid twin**: timm's PVTv2 of the same widths and depths, which is TCFormer without clustering, its
tokens stay squares. Both learn by the same recipe. Figures that disappoint stand here like the
others.

Top-1 is that after the last epoch; the best epoch would be chosen by the images it is measured on.
The spread, behind ±, is the sample standard deviation over the seeds. "More than the spread" means
more than the larger one of the two networks. `make docs` writes this page from the records, which
are [listed at its end](#the-runs).
"""

DIGITS_HEAD = """
## Digits

The handwritten digits that come with scikit-learn, on a CPU. Nothing is fetched, so anybody can
repeat it:

```sh
python benchmarks/learning.py digits
```
"""

CIFAR_HEAD = """
## CIFAR-10

On a CPU, by a schedule that was made short to fit into half an hour: the record of each run tells
its epochs. It shows that the networks learn and how they stand beside each other so early. It does
not show what they reach. One command, where DATA holds CIFAR-10 ([data](data.md)):

```sh
python benchmarks/learning.py cifar10 --data-path DATA
```
"""

LIGHT_HEAD = """
### The light networks

They are larger, so the schedule is shorter still, and too short to tell networks apart: the
learning rate was chosen for the small networks and follows the epochs, so in a single one it never
falls. What stands here shows that the command works, no more.

```sh
python benchmarks/learning.py cifar10-light --data-path DATA
```
"""

PUBLISHED_HEAD = """
### Published figures

A follow-up of 2025 trains on CIFAR-10 at 64 px as well. **These figures are its own**, of networks
and a schedule that are not ours; they say where a whole schedule may lead.

| tokens are made fewer by | top-1, the follow-up's figure | ours, full schedule |
|---|---|---|
"""

FULL_HEAD = """
### The full schedule

The files of `configs/cifar10` named after a network train it to the end, on a GPU. The goal is
{goal} % or more, and above the grid twin by more than the spread.

```sh
python benchmarks/learning.py cifar10-full --data-path DATA
python benchmarks/learning.py cifar10-full-light --data-path DATA
```
"""

ELSEWHERE = """
## What else was measured

| | |
|---|---|
| what keep ratio and k cost and bring, token sizes | [what clustering buys](clustering_buys.md) |
| fine-tuning on a folder, the classifier alone and all of it | [fine-tuning](finetuning.md) |
| our numbers beside those of the published code | [numerics](numerics.md) |
| forty steps of training beside the published code, and longer ones | [trajectory](trajectory.md) |
| how fast it is | [performance](performance.md) |
"""


def page(runs: Sequence[Run]) -> str:
    """The text of docs/results.md.

    Raises:
        ValueError: a run that belongs to no table.
    """
    for run in runs:
        if run.set not in SETS or run.model not in SETS[run.set].models:
            raise ValueError(f"{run.file}: benchmarks/learning.py has no such set or network")
    parts = [HEAD]
    parts += [DIGITS_HEAD, section(runs, "digits")]
    parts += [CIFAR_HEAD, section(runs, "cifar10"), half_an_hour(runs, "cifar10")]
    parts += [LIGHT_HEAD, section(runs, "cifar10-light"), half_an_hour(runs, "cifar10-light")]
    parts += [PUBLISHED_HEAD, published(runs)]
    parts += [FULL_HEAD.format(goal=GOAL), full(runs, "cifar10-full")]
    parts += [full(runs, "cifar10-full-light"), ELSEWHERE, listing(runs)]
    return "".join(parts)


def groups_of(runs: Sequence[Run], name: str) -> list[Group]:
    """The networks of a set; the last one is the grid twin."""
    return group(runs, name, SETS[name].models, SETS[name].seeds)


def section(runs: Sequence[Run], name: str) -> str:
    """Conditions, table, plot, and what follows from them."""
    groups = groups_of(runs, name)
    parts = [conditions(groups), shorter(groups), table(groups)]
    if has_curves(groups):
        parts.append(f"\n![Top-1 of each network after each epoch](images/learning_{name}.svg)\n")
        several = any(len(g.runs) > 1 for g in groups)
        bands = "Lines are means over the seeds; bands go from the worst to the best."
        parts.append(f"\n{bands if several else 'One seed each, hence no bands.'}")
        below = left_out(groups)
        parts.append("\n" if below is None else f" First epochs below {below} % are left out.\n")
    *ours, twin = groups
    if any(g.runs for g in groups):
        parts.append("\n" + "".join(f"* {verdict(g, twin)}\n" for g in ours))
    return "".join(parts)


def conditions(groups: Sequence[Group]) -> str:
    """On what was trained, and how finely top-1 can be told apart there."""
    first = next((run.record for g in groups for run in g.runs), None)
    if first is None:
        begun = any(g.unfinished for g in groups)
        return "\nNo run has come to its end.\n" if begun else "\nNot run.\n"
    config, data = first["config"], first["data"]
    images = data["val"]["images"]
    return (
        f"\n{data['train']['images']:,} images to learn from, {images:,} to measure on, "
        f"{config['input_size']} px, {config['epochs']} epoch{'s' * (config['epochs'] > 1)}. "
        f"One image is {100 / images:.2f} points.\n"
    )


def shorter(groups: Sequence[Group]) -> str:
    """How much of the full schedule it is, where there is a fuller one."""
    run = next((run for g in groups for run in g.runs), None)
    if run is None or run.set not in SHORT:
        return ""
    recipe = runpy.run_path(str(ROOT / "configs" / "cifar10" / f"{run.model}.py"))["cfg"]
    count = run.record["config"]["epochs"]
    return f"The [full schedule](#the-full-schedule) has {recipe['epochs']} epochs, not {count}.\n"


def table(groups: Sequence[Group]) -> str:
    """A row for each network."""
    names = ("network", "parameters", "top-1, % (worst to best)", "each seed", "processor time")
    lines = ["", f"| {' | '.join(names)} | records |", "|---" * 6 + "|"]
    for g in groups:
        cells = row(g) if g.runs else [f"`{g.model}`", "-", nothing(g), rest(g) or "-", *"--"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def row(g: Group) -> list[str]:
    """The cells of a network that was run."""
    record, values = g.runs[0].record, g.values
    seeds = ", ".join(str(run.seed) for run in g.runs)
    each = [
        f"{', '.join(f'{v:.2f}' for v in values)} (seed{'s' * (len(values) > 1)} {seeds})",
        rest(g),
    ]
    ends = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ", one seed"
    changed = " (changed sources)" if any(run.changed for run in g.runs) else ""
    return [
        f"`{g.model}`{parts_of(record)}",
        f"{record['parameters'] / 1e6:.2f} M",
        top1(g) + ends,
        "; ".join(filter(None, each)),
        clock(g.minutes),
        f"`{g.files}`{changed}",
    ]


def nothing(g: Group) -> str:
    """Why there is no figure."""
    return "not finished" if g.unfinished else "not run"


def rest(g: Group) -> str:
    """The seeds that do not count."""
    told = {"unfinished": g.unfinished, "not run": g.missing}
    return "; ".join(f"{why}: {', '.join(map(str, seeds))}" for why, seeds in told.items() if seeds)


def top1(g: Group) -> str:
    """Mean and spread."""
    return f"{g.mean:.2f}" + ("" if g.spread is None else f" ± {g.spread:.2f}")


def parts_of(record: dict[str, Any]) -> str:
    """The parts that V2 clusters in, where they are not its usual ones."""
    grids = record["config"].get("part_grids")
    return f" (parts {', '.join(grids)})" if grids else ""


def half_an_hour(runs: Sequence[Run], name: str) -> str:
    """What one seed of all networks cost."""
    groups = groups_of(runs, name)
    seeds = set.intersection(*({run.seed for run in g.runs} for g in groups))
    if not seeds:
        return ""
    them = [run for g in groups for run in g.runs if run.seed == min(seeds)]
    minutes = [run.minutes for run in them if run.minutes is not None]
    if len(minutes) < len(them):
        return ""
    cores = min(s["machine"]["cores"] for run in them for s in run.record["sessions"])
    share = max(sum(minutes) / cores, *minutes)
    fits = "half an hour or less" if share <= 30 else "more than half an hour"
    return (
        f"\nSeed {min(seeds)} of the {len(them)} networks took {sum(minutes):.0f} minutes of "
        f"processor time, which is {share:.0f} on {cores} cores that do nothing else: {fits}. "
        f"Beside other work it took {elapsed(them):.0f} minutes from the first start to the last "
        "end.\n"
    )


def elapsed(runs: Sequence[Run]) -> float:
    """Minutes from the first start to the last end."""
    form = "%Y-%m-%d %H:%M UTC"
    sessions = [session for run in runs for session in run.record["sessions"]]
    starts = [datetime.datetime.strptime(f"{s['date']} {s['time']}", form) for s in sessions]
    ends = [datetime.datetime.strptime(s["ended"], form) for s in sessions if "ended" in s]
    return (max(ends) - min(starts)).total_seconds() / 60


def published(runs: Sequence[Run]) -> str:
    """The follow-up's figures; ours beside them only where the whole schedule was run."""
    ran = [
        f"`{g.model}` {top1(g)}"
        for name in ("cifar10-full", "cifar10-full-light")
        for g in groups_of(runs, name)
        if g.runs
    ]
    cell = ", ".join(ran) or "not run"
    return "".join(f"| {name} | {value:.2f} % | {cell} |\n" for name, value in PUBLISHED)


def full(runs: Sequence[Run], name: str) -> str:
    """The table of a full schedule and whether its goal is reached."""
    groups = groups_of(runs, name)
    ours, twin = groups[0], groups[-1]
    if not ours.runs or not twin.runs:
        why = nothing(twin if ours.runs else ours)
        return f"{table(groups)}\n`{ours.model}`: **{why}**, so the goal is not tested.\n"
    high, above = ours.mean >= GOAL, is_above(ours, twin)
    said = "reached" if high and above else "not reached"
    so_far = " so far, without the seeds that are missing" if rest(ours) or rest(twin) else ""
    return (
        f"{table(groups)}\n`{ours.model}`: the goal is **{said}**{so_far}. {ours.mean:.2f} % is "
        f"{'at least' if high else 'less than'} {GOAL} %. {verdict(ours, twin)}\n"
    )


def has_curves(groups: Sequence[Group]) -> bool:
    """Whether there is more than a point to draw."""
    return any(len(run.curve) > 1 for g in groups for run in g.runs)


def curves(groups: Sequence[Group]) -> str:
    """The SVG: means over the seeds, epoch by epoch, in a band from the worst to the best."""
    lines = []
    for g in groups:
        points = by_epoch(g)
        if points:
            means = [(epoch, sum(values) / len(values)) for epoch, values in points.items()]
            band = [(min(values), max(values)) for values in points.values()]
            count = f"{len(g.runs)} seed{'s' * (len(g.runs) > 1)}"
            lines.append(Line(f"{g.model} ({count})", means, band=band, marks=True))
    last = max(epoch for line in lines for epoch, _ in line.points)
    few = {epoch: str(epoch) for epoch in range(1, int(last) + 1)}
    below = left_out(groups)
    return chart(
        *lines,
        across="epochs",
        up="top-1, %",
        x_ticks=few if last <= 10 else None,
        y_range=None if below is None else (below, 100),
    )


def left_out(groups: Sequence[Group]) -> int | None:
    """The lower end of the picture where the first tenth of the epochs would squeeze the rest."""
    points = [(epoch, v) for g in groups for epoch, vs in by_epoch(g).items() for v in vs]
    last = max(epoch for epoch, _ in points)
    early = [value for epoch, value in points if epoch <= last / 10]
    end = math.floor(min(value for epoch, value in points if epoch > last / 10) / 5) * 5
    return end if early and min(early) < end else None


def by_epoch(g: Group) -> dict[int, list[float]]:
    """Epochs trained -> top-1 of every seed."""
    found: dict[int, list[float]] = {}
    for run in g.runs:
        for epoch, accuracy in run.curve:
            found.setdefault(epoch, []).append(accuracy)
    return found


def plots(runs: Sequence[Run]) -> dict[str, str]:
    """Name of a file in docs/images -> the SVG, for every set with something to draw."""
    every = {name: groups_of(runs, name) for name in SETS}
    return {f"learning_{name}.svg": curves(g) for name, g in every.items() if has_curves(g)}


def main() -> None:
    """Write the page and its plots; plots of sets that are gone are removed."""
    runs = read_runs()
    drawn = plots(runs)
    for path in IMAGES.glob("learning_*.svg"):
        if path.name not in drawn:
            path.unlink()
    for name, text in drawn.items():
        (IMAGES / name).write_text(text)
    PAGE.write_text(page(runs))


if __name__ == "__main__":
    main()
