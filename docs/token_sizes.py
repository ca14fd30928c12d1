"""The half of docs/clustering_buys.md about sizes of tokens and the detail below them."""

from __future__ import annotations

from statistics import mean

import numpy as np
from clustering_records import Record, average, kinds, learned
from plots import COLOURS, Line, Points, chart

from tcformer.serve.examples import house
from tcformer.viz import (
    Panel,
    Row,
    Scale,
    contact_sheet,
    enlarge,
    gradient_magnitude,
    heat_colors,
    png_bytes,
    spread,
    token_areas,
)

SETS = {"CIFAR10": "CIFAR-10", "IMNET": "photographs", "digits": "digits"}

SIZES = """
## How large tokens are

After each merge, over all tokens of all images; a cell is 16 pixels, the size of a token before the
first merge. With a mean of so many pixels a grid would have nothing but tokens of that size.

| images | network | merge | tokens | mean, px | one cell | 10 %, 50 %, 90 %, largest, px |
|---|---|---|---|---|---|---|
"""

DETAIL = """
## Does detail get the small tokens?

For each image, Spearman's rank correlation between the size of its tokens and the mean gradient of
brightness inside them; here its mean over images, the standard deviation over images behind ±, and
the share of images in which it is negative, as it is when detail has the small tokens. It lies
between -1 and 1. In the list above "hardly" is a mean of 0.1 to 0.2 in magnitude, "tends to" up to
0.35, "clearly" more, and "neither" less, or within 0.05 of that with another image's tokens.

| images | network | merge | by tokens | negative | by insides | by cells | another image's tokens |
|---|---|---|---|---|---|---|---|
"""

MEANING = """
* The **gradient** is taken pixel by pixel, from the brightness of the picture as the network sees
  it, by central differences (`tcformer.viz.gradient_magnitude`). CIFAR-10 and digits are enlarged
  before the network sees them, so their detail is coarser than a pixel.
* **By tokens** each token is one point, with the mean gradient of its pixels. A large token
  averages more pixels, so its mean is less extreme; that blurs ranks but prefers no sign.
* **By insides** the pixels that have a neighbour in another token are left out. Borders between
  tokens tend to follow edges of the picture, and small tokens have more border: without this their
  mean gradient would be larger for that reason alone.
* **By cells** each cell of 16 pixels is one point, with the size of the token it belongs to. All
  average the same number of pixels, but a large token counts as often as it has cells.
* **Another image's tokens** laid over this image have the same sizes and shapes in the same places,
  but were not made for it. What correlation they show is due to where things usually lie: digits
  lie in the middle of every image. Only what goes beyond it answers the question.
* Of a **grid** all tokens are of one size: there is no correlation ({grid}).
* After the last merge few tokens are left, so that the correlation of an image is coarse; where one
  is left, or all are of one size, there is none. How many images have one stands behind the first
  column if not all do.
* TCFormerV2 clusters inside parts of the image. At 64 px the first merge makes 4 tokens of the 16
  cells of each part, and there is little room for sizes to differ.
* A correlation is no cause: networks cluster by features, and what they are made of is not shown
  here.
"""

PLOTS = """
The first plot of each set: means over images, with one standard deviation over images to each side.
The second: cells from the flattest tenth of an image to the most detailed one, and the size of the
token over them after the first merge, the geometric mean, and one standard deviation over images.
The third: how many tokens there are of each size after each merge, of the first network.
"""

PLOTTED = """
### {title}

![Correlation of size and gradient](images/buys_correlation_{name}.svg)
![Size of tokens by detail](images/buys_tenths_{name}.svg)
![Distribution of sizes](images/buys_sizes_{name}.svg)
"""

PICTURE = """
### A drawing

The gradient of its brightness, and the sizes of the tokens over it, on a logarithmic scale. If
detail gets the small tokens, the pictures are bright in the same places.

![A drawing, its gradient and its tokens by size](images/buys_drawing.png)
"""


def size_sections(looked: list[Record]) -> tuple[list[str], list[str]]:
    """What is said in short, and the sections of the page."""
    if not looked:
        return ["Sizes of tokens: not run."], [SIZES.split("\n\n")[0] + "\n\nNot run.\n"]
    sizes, detail = [SIZES], [DETAIL]
    for record in looked:
        for (model, weights), rows in kinds(record).items():
            for stage in (2, 3, 4):
                start = (
                    f"| {SETS.get(record['data']['name'])} | `{model}`, {weights} | {stage - 1} |"
                )
                sizes.append(f"{start} {size_cells(rows, stage)} |\n")
                detail.append(f"{start} {detail_cells(rows, stage, record['images'])} |\n")
    images = "; ".join(
        f"{SETS[r['data']['name']]}: {r['images']} images at {r['size'].split('x')[0]} px, "
        f"{networks(r)}"
        for r in looked
    )
    seen = f"\nWhat was looked at: {images}. Of several networks the mean is shown.\n"
    defined = [
        stage["correlation"]["tokens"]["grid"]["defined"]
        for record in looked
        for network in record["networks"]
        for stage in network["stages"]
    ]
    total = sum(defined)
    grid = "defined for none of the images" if total == 0 else f"defined for {total} images"
    parts = ["".join(sizes), seen, "".join(detail), MEANING.format(grid=grid), PLOTS]
    for record in looked:
        data = record["data"]["name"]
        parts.append(
            PLOTTED.format(title=SETS[data][0].upper() + SETS[data][1:], name=data.lower())
        )
    if drawn(looked):
        parts.append(PICTURE)
    return points(looked), parts


def networks(record: Record) -> str:
    """How many of each, and how long they were trained."""
    told = []
    for (model, weights), rows in kinds(record).items():
        lengths = sorted({words for row in rows if (words := learned(row["weights"]))})
        after = f" (after epoch {' and '.join(lengths)})" if lengths else ""
        told.append(f"{len(rows)} `{model}`, {weights}{after}")
    return ", ".join(told)


def size_cells(rows: list[Record], stage: int) -> str:
    """Of one stage: how many, how large."""
    areas = [row["stages"][stage - 2]["area"] for row in rows]
    quantiles = [mean(area["quantiles"][i] for area in areas) for i in (1, 5, 9, 10)]
    cells = (
        f"{rows[0]['stages'][stage - 2]['count']}",
        f"{mean(area['mean'] for area in areas):.0f}",
        f"{mean(area['one_cell'] for area in areas):.0f} %",
        ", ".join(f"{value:.0f}" for value in quantiles),
    )
    return " | ".join(cells)


def detail_cells(rows: list[Record], stage: int, images: int) -> str:
    """Of one stage: correlation, its spread, its sign, and the control."""
    negative = average(rows, stage, "correlation", "tokens", "own", "negative")
    cells = (
        correlation(rows, stage, "tokens", "own", images),
        "none" if negative is None else f"{negative:.0f} %",
        correlation(rows, stage, "insides", "own"),
        correlation(rows, stage, "cells", "own"),
        correlation(rows, stage, "tokens", "another_image"),
    )
    return " | ".join(cells)


def correlation(
    rows: list[Record], stage: int, weigh: str, whose: str, images: int | None = None
) -> str:
    """Mean and spread over images, in how many if not in all; or that there is none."""
    middle, scatter, defined = (
        average(rows, stage, "correlation", weigh, whose, name)
        for name in ("mean", "sd", "defined")
    )
    if middle is None or defined is None:
        return "none"
    part = ""
    if images is not None and defined < images:
        part = f" (in {defined:.0f} of {images} images)"
    return f"{middle:+.2f} ± {scatter:.2f}{part}"


def answer(correlation: float, beyond: float, share: float) -> str:
    """What a correlation of size and gradient means.

    Args:
        correlation: mean over images.
        beyond: what is left of it less that with another image's tokens.
        share: of the images that have one: in the others all tokens are of one size.
    """
    if share < 0.5:
        return "In most images all tokens are of one size, whatever the detail"
    size = abs(correlation)
    if size < 0.1 or abs(beyond) < 0.05:
        return "Detail gets neither smaller nor larger tokens"
    kind = "smaller" if correlation < 0 else "larger"
    how = "hardly gets" if size < 0.2 else "tends to get" if size < 0.35 else "clearly gets"
    return f"Detail {how} the {kind} tokens"


def points(looked: list[Record]) -> list[str]:
    """What the sizes and correlations say, after the first merge."""
    said = []
    for record in looked:
        found = kinds(record)
        for model in dict.fromkeys(model for model, _ in found):
            told = []
            for weights in ("trained", "random weights"):
                rows = found.get((model, weights), [])
                own, other, negative = (
                    average(rows, 2, "correlation", "tokens", *path)
                    for path in (("own", "mean"), ("another_image", "mean"), ("own", "negative"))
                )
                if own is None or other is None:
                    continue
                told.append((weights, rows, own, other, negative))
            if told:
                said.append(point(record, model, told))
    return said


def point(record: Record, model: str, told: list) -> str:
    """One network on one set, trained and not."""
    (first, weighed, own, other, _), images = told[0], record["images"]
    share = (average(weighed, 2, "correlation", "tokens", "own", "defined") or 0) / images
    parts = []
    for weights, rows, _, control, negative in told:
        inside = correlation(rows, 2, "insides", "own")
        parts.append(
            f"{weights} {correlation(rows, 2, 'tokens', 'own', images)}, negative in "
            f"{negative:.0f} % (without the borders of tokens {inside}, with another image's "
            f"tokens {control:+.2f})"
        )
    text = (
        f"**{answer(own, own - other, share)}** ({SETS[record['data']['name']]}, `{model}`, "
        f"{first}). Rank correlation of size and gradient after the first merge, mean and standard "
        f"deviation over images: {'; '.join(parts)}."
    )
    if len(told) == 2:
        change = own - told[1][2]
        verb = "strengthens" if change < -0.05 else "weakens" if change > 0.05 else "hardly changes"
        text += f" Training {verb} what is there before it."
    return text


def size_plots(looked: list[Record]) -> dict[str, str]:
    """File below docs/images -> SVG: three for each set of images."""
    found = {}
    for record in looked:
        every = [(f"{model}, {weights}", rows) for (model, weights), rows in kinds(record).items()]
        name = record["data"]["name"].lower()
        found[f"buys_correlation_{name}.svg"] = correlation_plot(every)
        found[f"buys_tenths_{name}.svg"] = tenths_plot(every)
        found[f"buys_sizes_{name}.svg"] = sizes_plot(every)
    return found


LEAST = 5
"""Images without which a mean and its spread are not drawn."""

Labelled = list[tuple[str, list[Record]]]


def correlation_plot(every: Labelled) -> str:
    """After each merge: mean over images, and a standard deviation to each side."""
    clouds = []
    for number, (label, rows) in enumerate(every):
        places = []
        for stage in (2, 3, 4):
            value, sd, defined = (
                average(rows, stage, "correlation", "tokens", "own", name)
                for name in ("mean", "sd", "defined")
            )
            if value is not None and sd is not None and defined is not None and defined >= LEAST:
                beside = (number - (len(every) - 1) / 2) * 0.5 / len(every)
                places.append((stage - 1 + beside, value, sd))
        clouds.append(
            Points(
                label,
                [(place, value) for place, value, _ in places],
                spread=[(value - sd, value + sd) for _, value, sd in places],
            )
        )
    return chart(
        *clouds,
        across="",
        up="rank correlation of size and gradient over the tokens of an image",
        x_ticks={1.0: "first merge", 2.0: "second merge", 3.0: "third merge"},
        x_range=(0.5, 3.5),
        y_range=(-1, 1),
        height=360,
    )


def tenths_plot(every: Labelled) -> str:
    """Size against detail, with a standard deviation over images to each side."""
    lines = []
    for label, rows in every:
        tenths = [row["stages"][0]["log2_area_by_tenth"] for row in rows]
        places = [
            (tenth + 1, *(mean(one[tenth][name] for one in tenths) for name in ("mean", "sd")))
            for tenth in range(10)
            if all(one[tenth]["defined"] > 1 for one in tenths)
        ]
        lines.append(
            Line(
                label,
                [(place, 2**value) for place, value, _ in places],
                band=[(2 ** (value - sd), 2 ** (value + sd)) for _, value, sd in places],
                marks=True,
                dashed="random" in label,
            )
        )
    largest = max(high for line in lines for _, high in line.band or ())
    edges = [2.0**power for power in range(4, 17)]
    return chart(
        *lines,
        across="tenth of the cells, from the flattest to the most detailed",
        up="size of the token over a cell after the first merge, pixels",
        x_ticks={float(place): str(place) for place in range(1, 11)},
        y_log=True,
        y_ticks={edge: f"{edge:.0f}" for edge in edges if edge < 2 * largest},
        height=360,
    )


def sizes_plot(every: Labelled) -> str:
    """Shares of the tokens by size, in doublings, after each merge, of the first network."""
    model = every[0][0].partition(",")[0]
    lines = []
    for label, rows in every:
        if label.partition(",")[0] != model:
            continue
        for stage, merge in enumerate(("first", "second", "third")):
            shares = [row["stages"][stage]["area"]["doublings"] for row in rows]
            longest = max(map(len, shares))
            padded = np.mean([one + [0.0] * (longest - len(one)) for one in shares], axis=0)
            lines.append(
                Line(
                    f"{merge} merge, {label.partition(', ')[2]}",
                    [(16.0 * 2**step, 100 * float(share)) for step, share in enumerate(padded)],
                    marks=True,
                    dashed="random" in label,
                    colour=COLOURS[stage],
                )
            )
    largest = max(place for line in lines for place, _ in line.points)
    edges = [16 * 2**step for step in range(16) if 16 * 2**step <= max(largest, 32)]
    return chart(
        *lines,
        across=f"{model}: size of a token, pixels, from this to twice as much",
        up="share of the tokens after a merge, %",
        x_log=True,
        x_ticks={float(edge): str(edge) for edge in edges},
        height=360,
    )


def drawn(looked: list[Record]) -> list[Record]:
    """The records in which a drawing is large enough to show something."""
    return [record for record in looked if int(record["size"].split("x")[0]) >= 64]


def drawing(looked: list[Record]) -> bytes | None:
    """The picture as a PNG file: a row for each kind of network; None where nothing was drawn."""
    rows = []
    for record in drawn(looked):
        side = int(record["size"].split("x")[0])
        image = house(side)
        scale = max(1, 256 // side)
        gradient = gradient_magnitude(image)
        slopes = heat_colors(gradient.reshape(-1), low=0, high=float(np.quantile(gradient, 0.98)))
        first = Panel(enlarge(image, scale), f"a drawing, {side} px")
        second = Panel(
            enlarge(slopes.reshape(side, side, 3), scale), "gradient", Scale("none", "much")
        )
        for (model, weights), found in kinds(record).items():
            panels = [first, second]
            for merge, text in enumerate(found[0]["drawing"][:2], 1):
                cells = np.array(text.split(), np.int64)
                areas = token_areas(cells, (side, side))
                colours = heat_colors(-np.log2(areas))
                painted = spread(colours, cells, (side, side))
                ends = Scale(f"{areas.max()} px", f"{areas.min()} px")
                panels.append(Panel(enlarge(painted, scale), f"sizes, merge {merge}", ends))
            rows.append(Row(tuple(panels), f"{model}, {weights}, at {side} px"))
    return png_bytes(contact_sheet(rows)) if rows else None
