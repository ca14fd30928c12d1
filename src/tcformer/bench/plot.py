"""Pictures of records: time against resolution, and throughput against published accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def plot(paths: Sequence[Path], target: Path) -> list[str]:
    """Draw what the records hold into one file.

    Args:
        paths: records of `tcformer bench`.
        target: the picture, .svg, .png or .pdf.

    Returns:
        What was drawn, a line for each panel.

    Raises:
        UserError: matplotlib is missing, a record cannot be read, nothing can be drawn, or the
            picture cannot be written.
    """
    if target.suffix.lower() not in FORMATS:
        raise UserError(f"cannot draw {target}: its name must end in {', '.join(FORMATS)}.")
    check_writable(target, made_from=paths)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(
            "drawing needs the package matplotlib: pip install 'tcformer[bench]'."
        ) from None
    rows = [(path, row) for path in paths for row in rows_of(record.read(path))]
    panels = [*_resolution_panels(rows), *_accuracy_panels(rows)]
    if not panels:
        raise UserError(
            "there is nothing to draw: give a record with two or more sizes, or with models whose "
            "accuracy at 224 px is published."
        )
    figure = Figure(figsize=(6.4 * len(panels), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    told = []
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, draw) in zip(places, panels, strict=True):
        draw(axes)
        axes.set_title(title, fontsize=10)
        axes.grid(True, alpha=0.3)
        axes.legend(fontsize=8)
        told.append(title)
    ending = target.suffix.lower().removeprefix(".")
    atomic_write(target, lambda stream: figure.savefig(stream, format=ending))
    return told


def rows_of(kept: dict[str, Any]) -> list[dict[str, Any]]:
    """The comparisons of models in a record, those of a suite's parts included."""
    rows = list(kept.get("rows", []))
    for part in kept.get("parts", []):
        rows += part["rows"]
    return [row for row in rows if "models" in row]


Panels = Iterable[tuple[str, Any]]


def _resolution_panels(rows: Sequence[tuple[Path, dict[str, Any]]]) -> Panels:
    """One panel for each mode, batch size and precision that was measured at several sizes."""
    kinds: dict[tuple[Any, ...], dict[str, dict[int, dict[str, float]]]] = {}
    for _, row in rows:
        kind = (row["mode"], row["batch"], row["dtype"], row["device"])
        lines = kinds.setdefault(kind, {})
        for label, one in row["models"].items():
            lines.setdefault(label, {})[row["size"]] = one["seconds"]
    for (mode, batch, dtype, device), lines in kinds.items():
        several = {label: points for label, points in lines.items() if len(points) > 1}
        if several:
            title = f"{mode}, batch {batch}, {dtype}, {device}"
            yield title, lambda axes, several=several: _draw_resolution(axes, several)


def _draw_resolution(axes: Any, lines: dict[str, dict[int, dict[str, float]]]) -> None:
    for label, points in lines.items():
        sizes = sorted(points)
        middle = [points[size]["median"] * 1e3 for size in sizes]
        below = [(points[size]["median"] - points[size]["low"]) * 1e3 for size in sizes]
        above = [(points[size]["high"] - points[size]["median"]) * 1e3 for size in sizes]
        axes.errorbar(sizes, middle, yerr=(below, above), marker="o", capsize=3, label=label)
    ticks = sorted({size for points in lines.values() for size in points})
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(ticks, [str(size) for size in ticks])
    axes.minorticks_off()
    _plain(axes.yaxis)
    axes.set_xlabel("side of the image, pixels")
    axes.set_ylabel("ms a batch (median and quartiles)")


def _accuracy_panels(rows: Sequence[tuple[Path, dict[str, Any]]]) -> Panels:
    """One panel for each inference at 224 px; networks with a published accuracy."""
    kinds: dict[tuple[Any, ...], dict[str, float]] = {}
    for _, row in rows:
        if row["mode"] == "inference" and row["size"] == 224:
            points = kinds.setdefault((row["batch"], row["dtype"], row["device"]), {})
            for label, one in row["models"].items():
                if label.partition("+")[0] in TOP1:
                    points[label] = one["images_per_second"]
    for (batch, dtype, device), points in kinds.items():
        if len({label.partition("+")[0] for label in points}) > 1:
            title = f"224 px, batch {batch}, {dtype}, {device}"
            yield title, lambda axes, points=points: _draw_accuracy(axes, points)


def _draw_accuracy(axes: Any, points: dict[str, float]) -> None:
    for label, speed in points.items():
        ours = label.startswith("tcformer")
        accuracy = TOP1[label.partition("+")[0]]
        axes.scatter([speed], [accuracy], marker="*" if ours else "o", s=90, label=label)
    axes.set_xlim(left=0, right=1.1 * max(points.values()))
    axes.set_xlabel("images a second, measured")
    axes.set_ylabel("ImageNet-1k top-1, %, as their authors report it")


def _plain(axis: Any) -> None:
    """Write 50, 100, 200 instead of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
