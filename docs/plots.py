"""Draw the plots of docs/performance.md and docs/results.md from the records: `make docs`.

`python docs/plots.py FOLDER` writes them elsewhere, as PNG.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
import numpy as np
import tables
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, PercentFormatter, ScalarFormatter

from tcformer.bench.plot import draw_resolution
from tcformer.viz import matrix_svg

IMAGES = tables.ROOT / "docs" / "images"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#b8589a", "#7a5c00", "#4a4a4a", "#1f9ed1")
"""Told apart by color-blind readers (after Okabe and Ito; darker, for thin lines on white)."""

STYLE = {
    "axes.prop_cycle": mpl.cycler(color=COLORS),
    "axes.grid": True, "grid.color": "#e2e2e2", "font.size": 9, "legend.fontsize": 8,
    "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "tcformer",
    "font.family": "sans-serif",
}  # fmt: skip
FLOOR = 1e-9
"""Smaller differences, such as none at all, have no place on a logarithmic axis."""


def axes_of(columns: int, rows: int = 1, width: float = 4.6, height: float = 3.4) -> Any:
    """A figure of equal panels, and the panels in reading order."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def curve(axes: Any, x: Sequence[float], y: Sequence[float], band: Any = None, **how: Any) -> None:
    """A line through points, with a band from a lower to an upper value at each of them."""
    (line,) = axes.plot(x, y, **{"marker": "o", "markersize": 3, "linewidth": 1.4, **how})
    if band is not None:
        axes.fill_between(x, *zip(*band, strict=True), color=line.get_color(), alpha=0.18, lw=0)


def resolution() -> Figure:
    """Time of a forward pass against the side of the image."""
    rows = tables.newest("resolution")["rows"]
    figure, (axes,) = axes_of(1, width=6.4)
    models = rows[0]["models"]
    draw_resolution(
        axes, {name: {r["size"]: r["models"][name]["seconds"] for r in rows} for name in models}
    )
    axes.legend()
    return figure


def learning() -> Figure:
    """Top-1 after each epoch: means over the seeds, in a band from the worst to the best."""
    runs = tables.trainings()
    shown = {"digits": (85, 100), "cifar10": (None, None)}
    figure, panels = axes_of(len(shown))
    for axes, (name, limits) in zip(panels, shown.items(), strict=True):
        for model in tables.SETS[name]:
            curves = [[epoch["test_acc1"] for epoch in run["epochs"]] for run in runs[name][model]]
            values = np.array(curves)
            band = list(zip(values.min(0), values.max(0), strict=True))
            epochs = np.arange(1, values.shape[1] + 1)
            curve(axes, epochs, values.mean(0), band, label=f"{model}, seeds: {len(values)}")
        axes.set(xlabel="epoch", ylabel="top-1, %", title=name, ylim=limits)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
    return figure


def settings() -> Figure:
    """Time and accuracy against the keep ratio and against k."""
    (timed,) = tables.clustering("time")
    figure, panels = axes_of(2, 2)
    for axis, name in enumerate(("keep ratio", "k")):

        def along(values: dict[tables.Setting, Any], axis: int = axis) -> tuple[Any, Any]:
            """(x, value) of the settings whose other number is the baseline's, in order."""
            fixed = {s: v for s, v in values.items() if s[1 - axis] == tables.BASE[1 - axis]}
            return zip(*((s[axis], fixed[s]) for s in sorted(fixed)), strict=True)

        time, accuracy = panels[axis], panels[2 + axis]
        for one in timed["sizes"]:
            x, found = along({tables.setting(r): r["ratio_to_usual"] for r in one["rows"]})
            band = [(f["low"], f["high"]) for f in found]
            size = one["size"].split("x")[0]
            curve(time, x, [f["median"] for f in found], band, label=f"{size} px")
        time.set(ylabel="time of a forward pass, relative", ylim=(0, None))
        x, found = along(tables.swept())
        tops = [mean(seeds.values()) for seeds in found]
        accuracy.plot(x, tops, "k^", markersize=5, label="digits, trained with the setting")
        for label, records in tables.evaluated().items():
            rows = [{tables.setting(r): r["top1"] for r in one["rows"]} for one in records]
            x, found = along({s: [row[s] for row in rows] for s in rows[0]})
            band = [(min(v), max(v)) for v in found]
            curve(accuracy, x, [mean(v) for v in found], band, label=label.replace("`", ""))
        accuracy.set(xlabel=name, ylabel="top-1, %")
        accuracy.legend()
        time.legend()
    return figure


def token_sizes() -> Figure:
    """A row of panels for each set: correlation, size against detail, how many of each size."""
    records = tables.clustering("tokens-*")
    figure, panels = axes_of(3, len(records), width=4.4)
    for row, record in enumerate(records):
        correlation, tenths, sizes = panels[3 * row : 3 * row + 3]
        for number, (label, networks) in enumerate(tables.kinds(record).items()):
            name = label.replace("`", "")
            how = {"color": COLORS[number], "linestyle": "--" if "random" in name else "-"}
            found = [
                [tables.correlation(networks, "tokens", "own", w, stage) for w in ("mean", "sd")]
                for stage in (2, 3, 4)
            ]
            there = [(i + 0.9 + 0.06 * number, *f) for i, f in enumerate(found) if None not in f]
            x, y, sd = zip(*there, strict=True)
            correlation.errorbar(x, y, sd, fmt="o", markersize=3, color=COLORS[number], label=name)
            by_tenth = [network["stages"][0]["log2_area_by_tenth"] for network in networks]
            y, sd = (
                np.mean([[tenth[what] for tenth in one] for one in by_tenth], 0)
                for what in ("mean", "sd")
            )
            band = list(zip(2 ** (y - sd), 2 ** (y + sd), strict=True))
            curve(tenths, range(1, 11), 2**y, band, label=name, **how)
            shares = [network["stages"][0]["area"]["doublings"] for network in networks]
            padded = np.mean([s + [0] * (max(map(len, shares)) - len(s)) for s in shares], 0)
            curve(sizes, 16.0 * 2 ** np.arange(len(padded)), padded, label=name, **how)
        title = tables.DATA[record["data"]["name"]]
        correlation.set(title=title, xlim=(0.6, 3.4), ylim=(-1.2, 1.2))
        correlation.set(ylabel="rank correlation of size and gradient")
        correlation.set_xticks([1, 2, 3], ["merge 1", "merge 2", "merge 3"])
        tenths.set(yscale="log", ylabel="size of a token, pixels", title=f"{title}, merge 1")
        tenths.set(xlabel="tenth of the cells, from the flattest to the most detailed")
        sizes.set(xscale="log", ylabel="share of the tokens", title=f"{title}, merge 1")
        sizes.set(xlabel="size of a token, pixels: from this to twice as much")
        for axis in (tenths.yaxis, sizes.xaxis):
            axis.set_major_locator(LogLocator(base=2, numticks=7))
            axis.set_major_formatter(ScalarFormatter())
            axis.set_minor_locator(NullLocator())
        sizes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        correlation.legend(fontsize=7, loc="upper right")
    return figure


def trajectory() -> Figure:
    """The forty losses, their differences, and how far rounding carries runs from float64."""
    record = tables.newest("trajectory")
    runs, published = record["variants"], record["published"]["float32"]
    figure, (losses, differences, long) = axes_of(3)
    losses.plot(runs["shipped"]["losses"][: len(published)], label="ours, float32")
    losses.plot(published, "k.", label="published, float32")
    losses.set(xlabel="step", ylabel="loss")
    own = [abs(a - b) for a, b in zip(published, record["published"]["float64"], strict=True)]
    for label, far in (
        ("ours from theirs, float32", runs["shipped"]["from_published"]),
        ("ours from theirs, float64", runs["float64"]["from_published"]),
        ("theirs, float32 from float64", own),
    ):
        differences.plot([max(value, FLOOR) for value in far], label=label)
    differences.axhline(1e-3, color="#777", linestyle="--", label="asked for: 1e-3")
    differences.set(xlabel="step", ylabel="difference of the loss", yscale="log")
    for name in runs:
        if name == "float64":
            continue
        so_far = [max(value, FLOOR) for value in accumulate(tables.gap(record, name), max)]
        (line,) = long.plot(so_far, label=runs[name]["words"])
        if (step := tables.flip(record, name)) is not None:
            long.plot(step, so_far[step], "o", color=line.get_color())
    long.set(xlabel="step", ylabel="largest difference from float64 so far", yscale="log")
    for axes in (losses, differences, long):
        axes.legend(fontsize=7)
    return figure


FIGURES = {
    "resolution": resolution,
    "learning": learning,
    "clustering_settings": settings,
    "clustering_tokens": token_sizes,
    "trajectory": trajectory,
}


def draw(folder: Path = IMAGES, form: str = "svg") -> None:
    """Write every plot, and the confusion matrices of fine-tuning."""
    with mpl.rc_context(STYLE):
        for name, figure in FIGURES.items():
            metadata = {"Date": None} if form == "svg" else None
            figure().savefig(folder / f"{name}.{form}", metadata=metadata, dpi=90)
    for kind, name in (("finetuning", "letters"), ("photographs", "pictures")):
        kept = tables.newest(kind)["confusion"]
        svg = matrix_svg(np.array(kept["counts"]), kept["classes"])
        (folder / f"{name}-confusion.svg").write_text(svg)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), "png") if len(sys.argv) > 1 else draw()
