"""Make the pictures of the documentation: python docs/make_pictures.py [FOLDER].

Everything is made from nothing: the scene is drawn here, and the network's weights are random with
a fixed seed, so this needs no photograph and no download.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tcformer.cli.show import cell_maps, load_model
from tcformer.viz import contact_sheet, token_row, write_png

SIDE = 224
RED = (230, 40, 40)


def main() -> None:
    """Write the pictures into the folder named on the command line (docs/images by default)."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images"
    draw(folder)
    print(f"wrote scene.png, tokens.png and v1_v2.png into {folder}")


def draw(folder: Path) -> None:
    """Write scene.png, tokens.png and v1_v2.png; the site is built with fresh ones."""
    picture = scene()
    write_png(folder / "scene.png", picture)
    model = load_model("tcformer_light", None)
    row = token_row(picture, cell_maps(model, picture), title="image")
    write_png(folder / "tokens.png", contact_sheet([row]))
    write_png(folder / "v1_v2.png", v1_beside_v2(picture))


def v1_beside_v2(picture: np.ndarray) -> np.ndarray:
    """The tokens of both versions, with the same random weights; V2's parts have red edges."""
    rows = []
    for name, title in (("tcformer_light", "V1"), ("tcformerv2_light", "V2")):
        model = load_model(name, None)
        grids = [getattr(model, f"ctm{number}").rule.nest[0] for number in (1, 2, 3)]
        row = token_row(picture, cell_maps(model, picture), title=title, panel_size=SIDE)
        panels = [
            panel._replace(picture=with_parts(panel.picture, grid))
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


def scene(side: int = SIDE, finer: int = 4) -> np.ndarray:
    """A house, a tree and hills under a sky: large calm areas and small detail, (side, side, 3)."""
    full = side * finer
    height = np.linspace(0, 1, full)[:, None]
    sky = np.stack([90 + 120 * height, 150 + 70 * height, 235 - 15 * height], axis=-1)
    image = Image.fromarray(sky.repeat(full, axis=1).astype(np.uint8))
    draw = ImageDraw.Draw(image)

    def polygon(colour, *points):
        draw.polygon([(x * full, y * full) for x, y in points], fill=colour)

    def box(colour, left, top, right, bottom):
        draw.rectangle([edge * full for edge in (left, top, right, bottom)], fill=colour)

    def disc(colour, x, y, radius):
        corners = (x - radius, y - radius, x + radius, y + radius)
        draw.ellipse([corner * full for corner in corners], fill=colour)

    def hill(colour, level, swing, waves):
        across = np.linspace(0, 1, 60)
        top = [(x, level + swing * np.sin(x * waves)) for x in across]
        polygon(colour, *top, (1, 1), (0, 1))

    disc((255, 220, 90), 0.80, 0.18, 0.09)
    for x, y, radius in ((0.20, 0.17, 0.05), (0.26, 0.15, 0.065), (0.33, 0.18, 0.05)):
        disc((250, 250, 252), x, y, radius)
    ridge = ((0, 0.62), (0.2, 0.42), (0.34, 0.56), (0.55, 0.36), (0.8, 0.58), (1, 0.48))
    polygon((104, 122, 150), *ridge, (1, 1), (0, 1))
    snow = ((0.485, 0.423), (0.55, 0.36), (0.61, 0.413), (0.57, 0.43), (0.55, 0.41), (0.52, 0.44))
    polygon((240, 244, 250), *snow)
    hill((96, 160, 72), 0.63, 0.04, 6)
    hill((66, 128, 56), 0.78, -0.05, 6)

    box((216, 190, 150), 0.16, 0.60, 0.42, 0.80)
    polygon((168, 60, 44), (0.13, 0.60), (0.29, 0.46), (0.45, 0.60))
    box((96, 60, 36), 0.26, 0.68, 0.32, 0.80)
    for left in (0.19, 0.355):
        box((70, 96, 128), left, 0.655, left + 0.045, 0.71)
        box((240, 240, 240), left + 0.0205, 0.655, left + 0.0245, 0.71)
        box((240, 240, 240), left, 0.6805, left + 0.045, 0.6845)

    box((100, 66, 40), 0.715, 0.66, 0.755, 0.86)
    crown = (
        ((36, 96, 40), 0.735, 0.52, 0.12),
        ((44, 108, 44), 0.66, 0.58, 0.08),
        ((30, 86, 36), 0.81, 0.59, 0.085),
        ((70, 140, 60), 0.70, 0.50, 0.05),
        ((60, 128, 52), 0.78, 0.49, 0.04),
    )
    for colour, x, y, radius in crown:
        disc(colour, x, y, radius)
    for x, y in ((0.69, 0.60), (0.76, 0.55), (0.80, 0.62), (0.66, 0.53), (0.73, 0.63)):
        disc((214, 52, 40), x, y, 0.014)
    return np.asarray(image.resize((side, side), Image.Resampling.BOX))


if __name__ == "__main__":
    main()
