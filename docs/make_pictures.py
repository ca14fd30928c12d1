"""Make the pictures of the documentation: python docs/make_pictures.py [FOLDER].

Everything is made from nothing: the package draws the scene, the network has random weights with
a fixed seed, so this needs no photograph and no download.
"""

import sys
from pathlib import Path

import numpy as np

from tcformer.cli.show import cell_maps, load_model
from tcformer.serve.examples import house as scene
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


if __name__ == "__main__":
    main()
