"""Pictures of tokens: arrays in, uint8 arrays out.

Nothing here knows a network: a picture needs an image and, for every stage, the map that says which
token covers each cell of the initial grid (``tokens.layout.cell_to_token``). NumPy arrays and
torch tensors are both accepted. All arithmetic on colours is done in integers, so the same
input gives the same pixels on every machine.
"""

from tcformer.viz.images import (
    as_rgb,
    check_png_name,
    read_image,
    resize_image,
    unnormalise,
    write_png,
)
from tcformer.viz.paint import (
    FILLS,
    blend,
    density_map,
    enlarge,
    family_colours,
    mean_colours,
    paint_tokens,
    palette_colours,
    spread,
    token_borders,
    token_colours,
)
from tcformer.viz.regions import (
    border_path,
    cell_grid,
    pixel_tokens,
    region_mask,
    token_at,
    token_paths,
)
from tcformer.viz.sheet import Panel, Row, contact_sheet, token_row
from tcformer.viz.tracking import (
    children,
    contributions,
    families,
    layout_maps,
    parents,
    relatives,
)

__all__ = [
    "FILLS",
    "Panel",
    "Row",
    "as_rgb",
    "blend",
    "border_path",
    "cell_grid",
    "check_png_name",
    "children",
    "contact_sheet",
    "contributions",
    "density_map",
    "enlarge",
    "families",
    "family_colours",
    "layout_maps",
    "mean_colours",
    "paint_tokens",
    "palette_colours",
    "parents",
    "pixel_tokens",
    "read_image",
    "region_mask",
    "relatives",
    "resize_image",
    "spread",
    "token_at",
    "token_borders",
    "token_colours",
    "token_paths",
    "token_row",
    "unnormalise",
    "write_png",
]
