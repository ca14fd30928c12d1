"""Write docs/clustering_buys.md, its plots and its picture from benchmarks/results/clustering.

`make docs` calls this; a test compares the page with the records. Every figure and every sentence
that judges one is computed; what has no record is "not run".
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

import clustering_records as records
from clustering_records import RESULTS, USUAL, Record, Training, spread
from learning_records import processor
from plots import Line, Points, chart
from token_sizes import drawing, size_plots, size_sections

HERE = Path(__file__).parent
IMAGES = HERE / "images"

HEAD = """\
# What clustering buys

How many tokens a merge leaves (`--keep-ratio`, usually 0.25) and how many neighbours make the
density that decides which (`--k`, usually 5) are [options](tokens.md#options). This page measures
what they cost and bring, how large tokens come out, and whether detail really gets the small ones.
Results that disappoint stand here like the others. "The usual" is keep ratio 0.25 and k = 5, as in
all published models.

"""

TIME = """
## Time

Processor time of a forward pass on one thread, random weights, divided by that of the usual
setting: the median over rounds in which all settings take turns.

"""

TRAINED = """
## Trained to merge so

Each network was trained with the setting it is measured with: top-1 after the last epoch, the mean
and each seed. The last column is the processor time of a training.

"""

OTHERWISE = """
## Trained as usual, merging otherwise

The setting has no parameters, so weights that were trained with the usual one fit all others. "Same
answer" is the share of images that get the answer of the usual setting. The standard error of a
difference in top-1 is at most the root of the share of other answers over the number of images: 0.7
points for 90 % and 2000 images, 2.4 for 80 % and 360. Times are processor time of one thread over
these very images.

"""

AGAIN = """
## Measure it again

```sh
python benchmarks/sweep.py train digits
python benchmarks/sweep.py train cifar10 --data-path DATA
python benchmarks/sweep.py evaluate --checkpoint FILE --data-path DATA
python benchmarks/sweep.py time
python benchmarks/tokens.py --checkpoint FILE --data-path DATA
```

DATA holds CIFAR-10 ([data](data.md)), FILE the weights of a training, such as those of
`python benchmarks/learning.py cifar10 --data-path DATA`. For digits say
`--config configs/digits/tcformer_nano.py` and leave `--data-path` out. A sweep can be stopped and
given again: what is finished stays. `make docs` writes this page from the records:

| record | command | of | machine |
|---|---|---|---|
"""


def page(results: Path = RESULTS) -> str:
    """The text of docs/clustering_buys.md."""
    timed, looked = records.times(results), records.looks(results)
    evaluated, trained = records.evaluations(results), records.trainings(results)
    points = [*time_points(timed), *trained_points(trained), *other_points(evaluated)]
    sizes_points, sizes = size_sections(looked)
    parts = [HEAD, "".join(f"* {point}\n" for point in [*points, *sizes_points])]
    parts += [TIME, time_table(timed), TRAINED, trained_tables(trained)]
    parts += [OTHERWISE, other_tables(evaluated), *sizes, AGAIN]
    every = [record for found in evaluated.values() for record in found]
    parts.append(sources([*([timed] if timed else []), *every, *looked]))
    parts.append(training_sources(trained))
    return "".join(parts)


def name(data: str) -> str:
    """What people call a set."""
    return {"CIFAR10": "CIFAR-10", "IMNET": "photographs"}.get(data, data)


def called(ratio: float, k: int) -> str:
    """A setting in words."""
    if (ratio, k) == USUAL:
        return "the usual: 0.25, k = 5"
    return f"keep ratio {ratio:g}" if k == USUAL[1] else f"k = {k}"


def order(setting: tuple[float, int]) -> tuple[bool, float, int]:
    """Keep ratios first, the usual among them, then k."""
    return setting[1] != USUAL[1], *setting


def sized(timed: Record, size: str) -> dict[tuple[float, int], Record]:
    """Setting -> row, for images of one size."""
    rows = next(one["rows"] for one in timed["sizes"] if one["size"] == size)
    return {(row["ratio"], row["k"]): row for row in rows}


def time_points(timed: Record | None) -> list[str]:
    """What the times say."""
    if timed is None:
        return ["Time: not run."]
    rows = sized(timed, "224x224")
    ratios = sorted(ratio for ratio, k in rows if k == USUAL[1])
    least, most = (rows[ratio, USUAL[1]] for ratio in (ratios[0], ratios[-1]))
    ks = [row["ratio_to_usual"]["median"] for (_, k), row in rows.items() if k != USUAL[1]]
    return [
        f"**The keep ratio decides the time.** At 224 px a forward pass takes "
        f"x {least['ratio_to_usual']['median']:.2f} of the usual time with keep ratio "
        f"{ratios[0]:g} and x {most['ratio_to_usual']['median']:.2f} with {ratios[-1]:g}. k does "
        f"not: x {min(ks):.2f} to x {max(ks):.2f}."
    ]


def time_table(timed: Record | None) -> str:
    """Settings down, sizes across."""
    if timed is None:
        return "Not run.\n"
    sizes = [one["size"] for one in timed["sizes"]]
    heads = [f"{size.split('x')[0]} px" for size in sizes]
    lines = [f"| | {' | '.join(heads)} | tokens at 224 px | GFLOPs |\n|{'---|' * (len(sizes) + 3)}"]
    for setting in sorted(sized(timed, sizes[0]), key=order):
        rows = [sized(timed, size)[setting] for size in sizes]
        cells = [interval(row["ratio_to_usual"]) for row in rows]
        tokens = ", ".join(map(str, rows[-1]["tokens"]))
        lines.append(
            f"| {called(*setting)} | {' | '.join(cells)} | {tokens} | {rows[-1]['gflops']:.2f} |"
        )
    return "\n".join(lines) + (
        f"\n\n`{timed['model']}`; behind the median the quartiles of {timed['rounds']} rounds. "
        "GFLOPs at 224 px by the published accounting.\n\n"
        "![Time against the keep ratio](images/buys_time_ratio.svg)\n"
        "![Time against k](images/buys_time_k.svg)\n"
    )


def interval(one: Record) -> str:
    """A median with its quartiles."""
    return f"x {one['median']:.2f} ({one['low']:.2f} to {one['high']:.2f})"


def grouped(trained: list[Training]) -> dict[tuple[str, int], dict[tuple[float, int], list]]:
    """(data, epochs) -> setting -> trainings."""
    found: dict[tuple[str, int], dict[tuple[float, int], list]] = {}
    for run in trained:
        sets = found.setdefault((run.set, run.epochs), {})
        sets.setdefault((run.ratio, run.k), []).append(run)
    return found


def differences(settings: dict[tuple[float, int], list]) -> dict[tuple[float, int], list[float]]:
    """Setting -> points above the usual one, seed by seed, where both have been trained."""
    usual = {run.seed: run.accuracy for run in settings.get(USUAL, [])}
    return {
        setting: [run.accuracy - usual[run.seed] for run in runs if run.seed in usual]
        for setting, runs in settings.items()
        if setting != USUAL
    }


def trained_points(trained: list[Training]) -> list[str]:
    """What the trainings say."""
    said = []
    for (data, epochs), settings in grouped(trained).items():
        above = {s: mean(values) for s, values in differences(settings).items() if values}
        usual = [run.accuracy for run in settings.get(USUAL, [])]
        if not above:
            continue
        worst, best = min(above, key=above.__getitem__), max(above, key=above.__getitem__)
        scatter = spread(usual)
        noise = (
            "; one seed of it, so its scatter is not known"
            if scatter is None
            else f"; the usual one scatters by {scatter:.2f} over "
            f"{len(usual)} seeds (standard deviation)"
        )
        said.append(
            f"**Trained to merge so** ({name(data)}, {epochs} epochs), the settings lie between "
            f"{above[worst]:+.1f} ({called(*worst)}) and {above[best]:+.1f} points "
            f"({called(*best)}) of the usual one, same seeds{noise}."
        )
    if said and all(run.k == USUAL[1] for run in trained):
        said.append("Trained with another k than the usual: not run.")
    return said or ["Trained to merge otherwise than usual: not run."]


def trained_tables(trained: list[Training]) -> str:
    """A table for each set, and a plot."""
    parts = []
    for (data, epochs), settings in grouped(trained).items():
        lines = [
            f"{name(data)}, {epochs} epochs:\n\n| | top-1, % | to the usual, same seeds "
            "| minutes |\n|---|---|---|---|"
        ]
        above = differences(settings)
        for setting in sorted(settings, key=order):
            runs = settings[setting]
            each = ", ".join(f"{run.accuracy:.1f}" for run in runs)
            cells = (
                called(*setting),
                f"{mean(run.accuracy for run in runs):.2f} ({each})",
                f"{mean(above[setting]):+.2f}" if above.get(setting) else "",
                f"{mean(run.minutes for run in runs):.1f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts) or "Not run.\n"


Accuracies = dict[tuple[float, int], list[float]]


def accuracies(found: list[Record]) -> Accuracies:
    """Setting -> top-1 of each network."""
    chosen: Accuracies = {}
    for record in found:
        for row in record["rows"]:
            chosen.setdefault((row["ratio"], row["k"]), []).append(row["top1"])
    return chosen


def other_points(evaluated: dict[tuple[str, str], list[Record]]) -> list[str]:
    """What happens to weights that merge otherwise than they learned."""
    said = []
    for (data, model), found in evaluated.items():
        lost = {s: mean(v) for s, v in accuracies(found).items()}
        usual = lost.pop(USUAL)
        by_ratio = {s: v - usual for s, v in lost.items() if s[1] == USUAL[1]}
        by_k = {s: v - usual for s, v in lost.items() if s[1] != USUAL[1]}
        told = [f"{change:+.1f} at {s[0]:g}" for s, change in sorted(by_ratio.items())]
        worst = min(by_k, key=by_k.__getitem__) if by_k else None
        k = "" if worst is None else " k costs nothing."
        if worst is not None and by_k[worst] < -0.05:
            k = f" k costs {-by_k[worst]:.1f} at most, at {worst[1]}."
        said.append(
            f"**Merging otherwise than learned** (`{model}`, {name(data)}) changes top-1 with the "
            f"keep ratio by {', '.join(told)} points.{k}"
        )
    return said or ["Trained as usual, merging otherwise: not run."]


def other_tables(evaluated: dict[tuple[str, str], list[Record]]) -> str:
    """A table for each network and set, and the plots."""
    parts = []
    for (data, model), found in evaluated.items():
        lengths = sorted({words for one in found if (words := records.learned(one))})
        after = f"; the weights after epoch {' and '.join(lengths)}" if lengths else ""
        lines = [
            f"`{model}`, {name(data)}, {found[0]['images']} test images, {found[0]['size']} px"
            f"{after}:\n\n| | tokens | neighbours | top-1, % | same answer, % | time |\n"
            "|---|---|---|---|---|---|"
        ]
        for row in sorted(found[0]["rows"], key=lambda row: order((row["ratio"], row["k"]))):
            setting = row["ratio"], row["k"]
            alike = [r for one in found for r in one["rows"] if (r["ratio"], r["k"]) == setting]
            tops = [r["top1"] for r in alike]
            each = f" ({', '.join(f'{top:.1f}' for top in tops)})" if len(tops) > 1 else ""
            cells = (
                called(*setting),
                ", ".join(map(str, row["tokens"])),
                ", ".join(map(str, row["neighbours"])),
                f"{mean(tops):.2f}{each}",
                f"{mean(r['same_answer'] for r in alike):.1f}",
                f"x {mean(r['ratio_to_usual']['median'] for r in alike):.2f}",
            )
            lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    if not parts:
        return "Not run.\n"
    pictures = (
        "\n![Accuracy against the keep ratio](images/buys_accuracy_ratio.svg)\n"
        "![Accuracy against k](images/buys_accuracy_k.svg)\n"
    )
    return "\n".join(parts) + pictures


def plots(results: Path = RESULTS) -> dict[str, str]:
    """File below docs/images -> SVG."""
    found = size_plots(records.looks(results))
    timed = records.times(results)
    if timed is not None:
        for axis, words, number in ((0, "keep ratio", "ratio"), (1, "k, neighbours", "k")):
            found[f"buys_time_{number}.svg"] = chart(
                *(time_line(timed, one["size"], axis) for one in timed["sizes"]),
                across=words,
                up="time of a forward pass, usual setting = 1",
                x_range=(0, 1) if axis == 0 else None,
                y_range=None if axis == 0 else (0, 1.5),
                width=480,
                height=320,
            )
    for axis, words, number in ((0, "keep ratio", "ratio"), (1, "k, neighbours", "k")):
        series = accuracy_series(axis, results)
        if series:
            found[f"buys_accuracy_{number}.svg"] = chart(
                *series, across=words, up="top-1, %", x_range=(0, 1) if axis == 0 else None,
                width=640, height=400,
            )  # fmt: skip
    return found


def along(values: dict[tuple[float, int], Any], axis: int) -> list[tuple[float, Any]]:
    """(keep ratio or k, value) with the other one as usual, in rising order."""
    other = 1 - axis
    return sorted((s[axis], value) for s, value in values.items() if s[other] == USUAL[other])


def time_line(timed: Record, size: str, axis: int) -> Line:
    """Median with a band of quartiles."""
    rows = {setting: row["ratio_to_usual"] for setting, row in sized(timed, size).items()}
    found = along(rows, axis)
    return Line(
        f"{size.split('x')[0]} px",
        [(place, one["median"]) for place, one in found],
        band=[(one["low"], one["high"]) for _, one in found],
        marks=True,
    )


def accuracy_series(axis: int, results: Path) -> list[Line | Points]:
    """Trained for it, with the spread of seeds; and trained as usual."""
    series: list[Line | Points] = []
    for (data, epochs), settings in grouped(records.trainings(results)).items():
        found = along({s: [r.accuracy for r in runs] for s, runs in settings.items()}, axis)
        series.append(
            Points(
                f"{name(data)}, trained to merge so ({epochs} epochs)",
                [(place, mean(values)) for place, values in found],
                spread=[(min(values), max(values)) for _, values in found],
            )
        )
    for (data, model), one in records.evaluations(results).items():
        found = along(accuracies(one), axis)
        series.append(
            Line(
                f"{name(data)}, {model} trained as usual",
                [(place, mean(values)) for place, values in found],
                band=[(min(values), max(values)) for _, values in found],
                marks=True,
            )
        )
    return series


def sources(found: list[Record]) -> str:
    """A line for each record."""
    lines = []
    for one in found:
        machine = f"{processor(one)}, torch {one['versions']['torch']}"
        commit = f"{one['commit']}{', changed' if one['changed'] else ''}"
        lines.append(
            f"| `{one['file']}` | `{one['command']}` | {one['date']}, {commit} | {machine} |"
        )
    return "\n".join(lines) + "\n"


def training_sources(trained: list[Training]) -> str:
    """The records of the trainings."""
    if not trained:
        return ""
    files = dict.fromkeys(run.file for run in trained)
    return f"\nTrainings: {', '.join(f'`{file}`' for file in files)}.\n"


def main() -> None:
    """Write all."""
    (HERE / "clustering_buys.md").write_text(page())
    for file, svg in plots().items():
        (IMAGES / file).write_text(svg)
    picture = drawing(records.looks())
    if picture is not None:
        (IMAGES / "buys_drawing.png").write_bytes(picture)


if __name__ == "__main__":
    main()
