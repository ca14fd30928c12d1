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
    density_map,
    enlarge,
    paint_tokens,
    pixel_tokens,
    token_borders,
    token_colours,
)
from tcformer.viz.sheet import Panel, Row, contact_sheet, token_row

__all__ = [
    "FILLS",
    "Panel",
    "Row",
    "as_rgb",
    "check_png_name",
    "contact_sheet",
    "density_map",
    "enlarge",
    "paint_tokens",
    "pixel_tokens",
    "read_image",
    "resize_image",
    "token_borders",
    "token_colours",
    "token_row",
    "unnormalise",
    "write_png",
]
