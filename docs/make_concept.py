"""Draw the pictures that explain tokens and their clustering: python docs/make_concept.py [FOLDER].

The scene is that of docs/make_pictures.py, the network `tcformer_light` with random weights and a
fixed seed, and the points on the plane are clustered by `tcformer.ops.dpc_knn`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from make_pictures import scene
from PIL import Image, ImageDraw

import tcformer
from tcformer.predict import load
from tcformer.viz import (
    Panel,
    Row,
    contact_sheet,
    enlarge,
    layout_maps,
    paint_tokens,
    pixel_tokens,
    token_borders,
    token_row,
    write_png,
)

NAMES = ("cells.png", "one_token.png", "stages.png", "family.png", "peaks.png")
RED, WHITE, BLACK = (230, 40, 40), (255, 255, 255), (0, 0, 0)
SCALE = 2
CLUSTERS = ((214, 88, 40), (24, 128, 120), (98, 84, 190))


def main() -> None:
    """Write the pictures into the folder named on the command line (docs/images by default)."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images"
    draw(folder)
    print(f"wrote {', '.join(NAMES)} into {folder}")


def draw(folder: Path) -> None:
    """Write all of `NAMES`."""
    picture = scene()
    maps = layout_maps(load("tcformer_light").tokens(picture))
    stages = token_row(picture, maps).panels[1:]
    rows = (
        cells(picture),
        one_token(picture, maps),
        stages,
        family(picture, maps),
        peaks(),
    )
    for name, panels in zip(NAMES, rows, strict=True):
        # Two side by side, so that they can be made out on a phone.
        sheet = [Row(tuple(panels[first : first + 2])) for first in range(0, len(panels), 2)]
        write_png(folder / name, contact_sheet(sheet))


def cells(picture: np.ndarray) -> list[Panel]:
    """The grid of the first stage: the whole picture, and a part of it where cells can be seen."""
    top, left, side = 128, 32, 64
    whole = enlarge(picture, SCALE)
    image = Image.fromarray(whole)
    corners = [SCALE * edge for edge in (left, top, left + side, top + side)]
    ImageDraw.Draw(image).rectangle(corners, outline=RED, width=3)
    part = picture[top : top + side, left : left + side]
    grid = np.arange((side // 4) ** 2)
    near = paint_tokens(part, grid, fill="none", scale=7)
    return [Panel(np.asarray(image), "224 x 224 pixels"), Panel(near, "cells of 4 x 4 pixels")]


def one_token(picture: np.ndarray, maps: list[np.ndarray]) -> list[Panel]:
    """After each merge the token that covers most, everything else darkened."""
    panels = [Panel(enlarge(picture, SCALE), "image")]
    for stage, cell_map in list(enumerate(maps, start=1))[1:]:
        numbers, counts = np.unique(cell_map, return_counts=True)
        tokens = pixel_tokens(cell_map, picture.shape[:2])
        inside = enlarge(tokens == numbers[counts.argmax()], SCALE)
        shown = enlarge(picture, SCALE)
        dark = (shown // 4 + 24).astype(np.uint8)
        panel = np.where(inside[..., None], shown, dark)
        panel[token_borders(inside.astype(int), width=1)] = WHITE
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
        shown = enlarge(picture, SCALE)
        panel = np.where(inside[..., None], shown, (shown // 4 + 24).astype(np.uint8))
        panel[token_borders(np.where(inside, tokens, -1), width=1)] = WHITE
        members = len(np.unique(tokens[inside]))
        words = "token" if members == 1 else "tokens"
        panels.append(Panel(panel, f"stage {stage + 1}: {members} {words}"))
    return panels


def peaks() -> list[Panel]:
    """Points on a plane: their densities, the centres, and who joins which."""
    points = scattered()
    found = tcformer.ops.dpc_knn(torch.tensor(points[None], dtype=torch.float32), 3, k=5)
    squares = ((points[:, None] - points[None]) ** 2).sum(-1) / 2
    density = np.exp(-np.sort(squares, axis=1)[:, :5].mean(1))
    share = (density - density.min()) / np.ptp(density)
    centres, groups = found.centers[0].tolist(), found.assignment[0].tolist()
    gray = [tuple([int(225 - 200 * value)] * 3) for value in share]
    colors = [CLUSTERS[group] for group in groups]
    return [
        Panel(dots(points, [BLACK] * len(points)), "30 tokens with 2 features"),
        Panel(dots(points, gray), "dark: dense, neighbours near"),
        Panel(dots(points, gray, rings=centres), "centres: dense, far from denser"),
        Panel(dots(points, colors, rings=centres), "each joins its nearest centre"),
    ]


def scattered() -> np.ndarray:
    """Three loose heaps of ten points each, (30, 2) in -1..1."""
    draw = np.random.default_rng(3)
    middles = np.repeat([(-0.55, -0.45), (0.5, -0.2), (-0.1, 0.6)], 10, axis=0)
    return middles + draw.normal(0, (0.2, 0.16), (30, 2))


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
    main()
