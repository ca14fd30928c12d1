"""Make the pictures of the documentation: python docs/make_pictures.py [FOLDER].

Everything is made from nothing: the package draws the scene, the network has random weights with
a fixed seed, and `tcformer.ops.dpc_knn` clusters the points on the plane.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

import tcformer
from tcformer.drawn import house
from tcformer.models.trace import Trace, trace
from tcformer.predict import load
from tcformer.viz import (
    Figure,
    Panel,
    Row,
    contact_sheet,
    enlarge,
    layout_maps,
    paint_tokens,
    pixel_tokens,
    token_borders,
    token_row,
    with_image,
    write_moving,
    write_png,
    write_sheet,
)

CONCEPT = ("cells.png", "one_token.png", "stages.png", "family.png", "peaks.png")
NAMES = (
    "scene.png",
    "tokens.png",
    "tracked.png",
    "followed.png",
    "heat.png",
    "point.png",
    "merging.webp",
    "v1_v2.png",
    *CONCEPT,
)
SIDE, SCALE = 224, 2
RED, WHITE, BLACK = (230, 40, 40), (255, 255, 255), (0, 0, 0)
CLUSTERS = ((214, 88, 40), (24, 128, 120), (98, 84, 190))

SUN, LEAVES, SKY = (352, 92), (356, 240), (200, 130)
"""Points of the enlarged scene."""


def draw(folder: Path) -> None:
    """Write all of `NAMES`; the site is built with fresh ones."""
    picture = house()
    write_png(folder / "scene.png", picture)
    loaded = load("tcformer_light")
    traced = trace(loaded.backbone, loaded.preprocessing.normalize(picture))
    maps = layout_maps(traced.stages)
    drawn = Figure(
        house(SCALE * SIDE),
        maps,
        seen=picture.shape[:2],
        weights=[tokens.layout.cell_weight[0] for tokens in traced.stages],
        scores=[score[0] for score in traced.scores],
    )
    for name, rows in drawings(drawn, traced).items():
        write_sheet(folder / name, [with_image(row, drawn, "scene", dots) for row, dots in rows])
    # Tokens that share a color beside their mean colors, stage by stage.
    rows = [with_image(drawn.draw(kind), drawn, "the image") for kind in ("family", "mean")]
    stages = range(len(rows[0].panels))
    moving = [[Row(tuple(row.panels[stage] for row in rows))] for stage in stages]
    write_moving(folder / "merging.webp", moving)
    write_png(folder / "v1_v2.png", v1_beside_v2(picture))
    concept = (
        cells(picture),
        one_token(picture, maps),
        token_row(picture, maps).panels[1:],
        family(picture, maps),
        peaks(),
    )
    for name, panels in zip(CONCEPT, concept, strict=True):
        # Two side by side, so that they can be made out on a phone.
        sheet = [Row(tuple(panels[first : first + 2])) for first in range(0, len(panels), 2)]
        write_png(folder / name, contact_sheet(sheet))


def drawings(drawn: Figure, traced: Trace) -> dict[str, list[tuple[Row, list]]]:
    """For each file its rows, and the points that are marked in the image in front of them."""
    three = [SUN, LEAVES, SKY]
    tokens = drawn.tokens_at(LEAVES)
    attention = drawn.draw_attention(
        LEAVES,
        [seen.cell_to_key[0] for seen in traced.attended],
        [seen.weights(token) for seen, token in zip(traced.attended, tokens, strict=True)],
        captions=[f"{seen.keys.shape[1]} {seen.over}" for seen in traced.attended],
    )
    return {
        "tokens.png": [(drawn.draw("mean"), [])],
        "tracked.png": [(drawn.draw("family"), [])],
        "followed.png": [(drawn.draw_regions(three), three)],
        "heat.png": [(drawn.draw("size"), []), (drawn.draw("importance"), [])],
        "point.png": [(attention, [LEAVES]), (drawn.draw_contributions(LEAVES), [LEAVES])],
    }


def v1_beside_v2(picture: np.ndarray) -> np.ndarray:
    """The tokens of both versions, with the same random weights; V2's windows have red edges."""
    rows = []
    for name, title in (("tcformer_light", "V1"), ("tcformerv2_light", "V2")):
        loaded = load(name)
        grids = [getattr(loaded.backbone, f"ctm{number}").rule.grids[0] for number in (1, 2, 3)]
        row = token_row(picture, layout_maps(loaded.tokens(picture)), title=title, panel_size=SIDE)
        panels = [
            panel._replace(picture=with_edges(panel.pixels(), grid))
            for panel, grid in zip(row.panels[2:], grids, strict=True)
        ]
        rows.append(row._replace(panels=(*row.panels[:2], *panels)))
    return contact_sheet(rows)


def with_edges(panel: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """A panel with lines of 4 pixels between its windows."""
    panel = panel.copy()
    for lines, windows in ((panel, grid[0]), (panel.swapaxes(0, 1), grid[1])):
        for window in range(1, windows):
            middle = window * len(lines) // windows
            lines[middle - 2 : middle + 2] = RED
    return panel


# --- how tokens come about --------------------------------------------------------------------


def cells(picture: np.ndarray) -> list[Panel]:
    """The grid of the first stage: the whole picture, and a part of it where cells can be seen."""
    top, left, side = 128, 32, 64
    image = Image.fromarray(enlarge(picture, SCALE))
    corners = [SCALE * edge for edge in (left, top, left + side, top + side)]
    ImageDraw.Draw(image).rectangle(corners, outline=RED, width=3)
    part = picture[top : top + side, left : left + side]
    near = paint_tokens(part, np.arange((side // 4) ** 2), fill="none", scale=7)
    return [Panel(np.asarray(image), "224 x 224 pixels"), Panel(near, "cells of 4 x 4 pixels")]


def lit(picture: np.ndarray, inside: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """The enlarged picture, dark outside; white lines around the tokens inside."""
    shown = enlarge(picture, SCALE)
    panel = np.where(inside[..., None], shown, (shown // 4 + 24).astype(np.uint8))
    panel[token_borders(np.where(inside, tokens, -1), width=1)] = WHITE
    return panel


def one_token(picture: np.ndarray, maps: list[np.ndarray]) -> list[Panel]:
    """After each merge the token that covers most, everything else darkened."""
    panels = [Panel(enlarge(picture, SCALE), "image")]
    for stage, cell_map in list(enumerate(maps, start=1))[1:]:
        numbers, counts = np.unique(cell_map, return_counts=True)
        tokens = enlarge(pixel_tokens(cell_map, picture.shape[:2]), SCALE)
        panel = lit(picture, tokens == numbers[counts.argmax()], tokens)
        panels.append(Panel(panel, f"stage {stage}: {counts.max()} of {counts.sum()} cells"))
    return panels


def family(picture: np.ndarray, maps: list[np.ndarray]) -> list[Panel]:
    """One token of the last stage, and what it was merged from at each stage before."""
    last = pixel_tokens(maps[3], picture.shape[:2])
    # A token of this picture that lies in several places.
    inside = enlarge(last == last[26, 34], SCALE)
    panels = []
    for stage in (3, 2, 1, 0):
        tokens = enlarge(pixel_tokens(maps[stage], picture.shape[:2]), SCALE)
        members = len(np.unique(tokens[inside]))
        words = f"stage {stage + 1}: {members} token{'s' * (members > 1)}"
        panels.append(Panel(lit(picture, inside, tokens), words))
    return panels


def peaks() -> list[Panel]:
    """Points on a plane: their densities, the centers, and who joins which."""
    draw = np.random.default_rng(3)
    middles = np.repeat([(-0.55, -0.45), (0.5, -0.2), (-0.1, 0.6)], 10, axis=0)
    points = middles + draw.normal(0, (0.2, 0.16), (30, 2))
    found = tcformer.ops.dpc_knn(torch.tensor(points[None], dtype=torch.float32), 3, k=5)
    squares = ((points[:, None] - points[None]) ** 2).sum(-1) / 2
    density = np.exp(-np.sort(squares, axis=1)[:, :5].mean(1))
    share = (density - density.min()) / np.ptp(density)
    centers, groups = found.centers[0].tolist(), found.assignment[0].tolist()
    gray = [tuple([int(225 - 200 * value)] * 3) for value in share]
    colors = [CLUSTERS[group] for group in groups]
    return [
        Panel(dots(points, [BLACK] * len(points)), "30 tokens with 2 features"),
        Panel(dots(points, gray), "dark: dense, neighbors near"),
        Panel(dots(points, gray, rings=centers), "centers: dense, far from denser"),
        Panel(dots(points, colors, rings=centers), "each joins its nearest center"),
    ]


def dots(points: np.ndarray, colors: list, rings: list | tuple = ()) -> np.ndarray:
    """A panel of 400 x 400 pixels with a dot for each point, drawn four times as large."""
    side, finer = 400, 4
    image = Image.new("RGB", (side * finer,) * 2, (244, 244, 240))
    pen = ImageDraw.Draw(image)

    def disc(point, radius, **how):
        x, y = ((1.15 + value) / 2.3 * side * finer for value in point)
        pen.ellipse([x - radius, y - radius, x + radius, y + radius], **how)

    for point, color in zip(points, colors, strict=True):
        disc(point, 9 * finer, fill=color)
    for number in rings:
        disc(points[number], 15 * finer, outline=RED, width=3 * finer)
    return np.asarray(image.resize((side, side), Image.Resampling.BOX))


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
