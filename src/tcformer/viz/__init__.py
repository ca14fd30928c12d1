"""Pictures of tokens: arrays in, uint8 arrays out.

Nothing here knows a network: a picture needs an image and, for every stage, the map that says which
token covers each cell of the initial grid (``tokens.layout.cell_to_token``). NumPy arrays and
torch tensors are both accepted. All arithmetic on colors is done in integers, so the same
input gives the same pixels on every machine.
"""

from typing import Any

from tcformer.images import as_rgb, png_bytes, read_image, resize_image, unnormalize
from tcformer.viz.figure import (
    POINT_COLORS,
    STYLES,
    Figure,
    Picture,
    Point,
    Style,
    draw_tokens,
    panel_picture,
    panel_shape,
    token_row,
    with_image,
)
from tcformer.viz.matrix import MOST_CLASSES, matrix_picture, matrix_svg
from tcformer.viz.paint import (
    FILLS,
    Overlay,
    enlarge,
    family_colors,
    heat_colors,
    mean_colors,
    paint_tokens,
    palette_colors,
)
from tcformer.viz.regions import (
    pixel_tokens,
    region_mask,
    token_at,
    token_borders,
    token_paths,
)
from tcformer.viz.sheet import (
    FORMATS,
    Frame,
    Panel,
    Row,
    Scale,
    card_sheet,
    check_picture_name,
    contact_sheet,
    encode_frames,
    merging_frames,
    panel_scale,
    svg_sheet,
    write_moving,
    write_png,
    write_sheet,
)
from tcformer.viz.tracking import (
    contributions,
    families,
    gradient_magnitude,
    layout_maps,
    parents,
    relatives,
    size_against_detail,
    sizes_by_detail,
    token_areas,
)

__all__ = [
    "FILLS", "FORMATS", "MOST_CLASSES", "POINT_COLORS", "STYLES", "Figure", "Frame", "Overlay",
    "Panel", "Picture", "Point", "Row", "Scale", "Style", "as_rgb", "card_sheet",
    "check_picture_name", "contact_sheet", "contributions", "draw_tokens", "encode_frames",
    "enlarge", "families", "family_colors", "gradient_magnitude", "heat_colors", "layout_maps",
    "matrix_picture", "matrix_svg", "mean_colors", "merging_frames", "paint_tokens",
    "palette_colors", "panel_picture", "panel_scale", "panel_shape", "parents", "pixel_tokens",
    "png_bytes", "read_image", "region_mask", "relatives", "resize_image", "size_against_detail",
    "sizes_by_detail", "svg_sheet", "token_areas", "token_at", "token_borders", "token_paths",
    "token_row", "unnormalize", "with_image", "write_moving", "write_png", "write_sheet",
]  # fmt: skip

_FORMER = {
    "Subject": "Figure", "Look": "Style", "Mark": "Overlay", "KINDS": "STYLES",
    "unnormalise": "unnormalize",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Former names and British spellings, for code that uses them."""
    new = _FORMER.get(name, name.replace("colour", "color").replace("COLOUR", "COLOR"))
    if new == name or new not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals()[new]
