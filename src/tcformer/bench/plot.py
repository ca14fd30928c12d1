"""Draw records: time against resolution, and images a second against published accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tcformer.bench import record
from tcformer.errors import UserError
from tcformer.files import atomic_write, check_writable

# ImageNet-1k top-1, per cent, at 224 px: what the authors of each network report, not we. TCFormer:
# its repository; PVTv2: arXiv 2106.13797; Swin: arXiv 2103.14030; ResNet-50: arXiv 2110.00476 (A1).
TOP1 = {
    "tcformer_light": 79.4,
    "tcformer": 82.3,
    "tcformer_large": 83.6,
    "pvt_v2_b0": 70.5,
    "pvt_v2_b1": 78.7,
    "pvt_v2_b2": 82.0,
    "pvt_v2_b4": 83.6,
    "swin_tiny_patch4_window7_224": 81.3,
    "resnet50": 80.4,
}

FORMATS = (".svg", ".png", ".pdf")
Row = dict[str, Any]
Panels = dict[str, Callable[[Any], None]]


def plot(paths: Sequence[Path], target: Path) -> list[str]:
    """Draw what records of `tcformer bench` hold into one file; the title of each panel.

    Raises:
        UserError: matplotlib is missing, a record cannot be read, nothing can be drawn, or the
            picture cannot be written.
    """
    if target.suffix.lower() not in FORMATS:
        raise UserError(f"cannot draw {target}: its name must end in {', '.join(FORMATS)}.")
    check_writable(target, made_from=paths)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(
            "drawing needs the package matplotlib: pip install 'tcformer[bench]'."
        ) from None
    panels = panels_of([row for path in paths for row in rows_of(record.read(path))])
    if not panels:
        raise UserError(
            "there is nothing to draw: give a record with two or more sizes, or with models whose "
            "accuracy at 224 px is published."
        )
    figure = Figure(figsize=(6.4 * len(panels), 4.8), layout="constrained")
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, draw) in zip(places, panels.items(), strict=True):
        draw(axes)
        axes.set_title(title, fontsize=10)
        axes.grid(True, alpha=0.3)
        axes.legend(fontsize=8)
    ending = target.suffix.lower().removeprefix(".")
    atomic_write(target, lambda stream: figure.savefig(stream, format=ending))
    return list(panels)


def rows_of(kept: Row) -> list[Row]:
    """The comparisons of models in a record, those of a suite's parts included."""
    parts = [kept, *kept.get("parts", [])]
    return [row for part in parts for row in part.get("rows", []) if "models" in row]


def panels_of(rows: Sequence[Row]) -> Panels:
    """Title -> what draws it: first time against size, then accuracy against speed."""
    lines: dict[str, dict[str, dict[int, Row]]] = {}
    speeds: dict[str, dict[str, float]] = {}
    for row in rows:
        kind = f"batch {row['batch']}, {row['dtype']}, {row['device']}"
        for label, one in row["models"].items():
            sizes = lines.setdefault(f"{row['mode']}, {kind}", {}).setdefault(label, {})
            sizes[row["size"]] = one["seconds"]
            at_224 = row["mode"] == "inference" and row["size"] == 224
            if at_224 and label.partition("+")[0] in TOP1:
                speeds.setdefault(f"224 px, {kind}", {})[label] = one["images_per_second"]
    panels: Panels = {}
    for title, found in lines.items():
        if several := {label: points for label, points in found.items() if len(points) > 1}:
            panels[title] = partial(draw_resolution, lines=several)
    for title, speed in speeds.items():
        if len({label.partition("+")[0] for label in speed}) > 1:
            panels[title] = partial(_draw_accuracy, speeds=speed)
    return panels


def draw_resolution(axes: Any, lines: dict[str, dict[int, Row]]) -> None:
    """Draw label -> side of the image -> spread of the seconds, on logarithmic axes."""
    from matplotlib.ticker import LogLocator, ScalarFormatter

    for label, points in lines.items():
        sizes = sorted(points)
        low, middle, high = (
            [1e3 * points[size][name] for size in sizes] for name in ("low", "median", "high")
        )
        (line,) = axes.plot(sizes, middle, marker="o", markersize=3, label=label)
        axes.fill_between(sizes, low, high, color=line.get_color(), alpha=0.18, lw=0)
    ticks = sorted({size for points in lines.values() for size in points})
    axes.set(xscale="log", yscale="log", xlabel="side of the image, pixels")
    axes.set_ylabel("ms a batch (median and quartiles)")
    axes.set_xticks(ticks, [str(size) for size in ticks])
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    axes.yaxis.set_major_formatter(ScalarFormatter())


def _draw_accuracy(axes: Any, speeds: dict[str, float]) -> None:
    for label, speed in speeds.items():
        marker = "*" if label.startswith("tcformer") else "o"
        axes.scatter([speed], [TOP1[label.partition("+")[0]]], marker=marker, s=90, label=label)
    axes.set_xlim(left=0, right=1.1 * max(speeds.values()))
    axes.set_xlabel("images a second, measured")
    axes.set_ylabel("ImageNet-1k top-1, %, as their authors report it")
