"""Make the pictures of the documentation: python docs/make_pictures.py [FOLDER].

Everything is made from nothing: the package draws the scene, the network has random weights with
a fixed seed, so this needs no photograph and no download.
"""

import sys
from pathlib import Path

import numpy as np

from tcformer.drawn import house as scene
from tcformer.models.trace import Trace, trace
from tcformer.predict import load
from tcformer.viz import (
    Figure,
    Row,
    contact_sheet,
    layout_maps,
    token_row,
    with_image,
    write_moving,
    write_png,
    write_sheet,
)

NAMES = (
    "scene.png",
    "tokens.png",
    "tracked.png",
    "followed.png",
    "heat.png",
    "point.png",
    "merging.webp",
    "v1_v2.png",
)
SIDE = 224
SCALE = 2
RED = (230, 40, 40)

SUN, LEAVES, SKY = (352, 92), (356, 240), (200, 130)
"""Points of the enlarged scene."""


def main() -> None:
    """Write the pictures into the folder named on the command line (docs/images by default)."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images"
    draw(folder)
    print(f"wrote {', '.join(NAMES)} into {folder}")


def draw(folder: Path) -> None:
    """Write all of `NAMES`; the site is built with fresh ones."""
    picture = scene()
    write_png(folder / "scene.png", picture)
    traced = look("tcformer_light", picture)
    drawn = subject(picture, traced)
    for name, rows in drawings(drawn, traced).items():
        write_sheet(folder / name, [with_image(row, drawn, "scene", dots) for row, dots in rows])
    write_moving(folder / "merging.webp", merging(drawn))
    write_png(folder / "v1_v2.png", v1_beside_v2(picture))


def look(name: str, picture: np.ndarray) -> Trace:
    """The picture through a network with random weights."""
    loaded = load(name)
    return trace(loaded.backbone, loaded.preprocessing.normalize(picture))


def subject(picture: np.ndarray, traced: Trace) -> Figure:
    """The picture in twice its size, with what the network made of it."""
    return Figure(
        scene(SCALE * SIDE),
        layout_maps(traced.stages),
        seen=picture.shape[:2],
        weights=[tokens.layout.cell_weight[0] for tokens in traced.stages],
        scores=[score[0] for score in traced.scores],
    )


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
        "point.png": [
            (attention, [LEAVES]),
            (drawn.draw_contributions(LEAVES), [LEAVES]),
        ],
    }


def merging(drawn: Figure) -> list[list[Row]]:
    """The sheets of the moving picture: tokens that share a colour beside their mean colours."""
    rows = [with_image(drawn.draw(kind), drawn, "the image") for kind in ("family", "mean")]
    return [[Row(tuple(row.panels[stage] for row in rows))] for stage in range(len(rows[0].panels))]


def v1_beside_v2(picture: np.ndarray) -> np.ndarray:
    """The tokens of both versions, with the same random weights; V2's parts have red edges."""
    rows = []
    for name, title in (("tcformer_light", "V1"), ("tcformerv2_light", "V2")):
        loaded = load(name)
        grids = [getattr(loaded.backbone, f"ctm{number}").rule.nest[0] for number in (1, 2, 3)]
        maps = layout_maps(loaded.tokens(picture))
        row = token_row(picture, maps, title=title, panel_size=SIDE)
        panels = [
            panel._replace(picture=with_parts(panel.pixels(), grid))
            for panel, grid in zip(row.panels[2:], grids, strict=True)
        ]
        rows.append(row._replace(panels=(*row.panels[:2], *panels)))
    return contact_sheet(rows)


def with_parts(panel: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """A panel with lines of 4 pixels between the parts; they divide its sides."""
    panel = panel.copy()
    for part in range(1, grid[0]):
        middle = part * panel.shape[0] // grid[0]
        panel[middle - 2 : middle + 2] = RED
    for part in range(1, grid[1]):
        middle = part * panel.shape[1] // grid[1]
        panel[:, middle - 2 : middle + 2] = RED
    return panel


if __name__ == "__main__":
    main()
