"""Pictures of tokens: arrays in, uint8 arrays out.

Nothing here knows a network: a picture needs an image and, for every stage, the map that says which
token covers each cell of the initial grid (``tokens.layout.cell_to_token``). NumPy arrays and
torch tensors are both accepted. All arithmetic on colours is done in integers, so the same
input gives the same pixels on every machine.
"""

from tcformer.viz.cards import card_sheet
from tcformer.viz.detail import (
    cell_means,
    gradient_magnitude,
    rank_correlation,
    ranks,
    size_against_detail,
    sizes_by_detail,
    token_areas,
    token_means,
)
from tcformer.viz.display import Picture, draw_tokens, panel_picture, panel_shape, with_image
from tcformer.viz.drawing import Dot, Drawing, Mark
from tcformer.viz.heat import Scale, heat_colours
from tcformer.viz.images import as_rgb, read_image, resize_image, unnormalise
from tcformer.viz.kinds import KINDS, POINT_COLOURS, Look, Point, Subject
from tcformer.viz.matrix import MOST_CLASSES, matrix_picture, matrix_svg
from tcformer.viz.moving import Frame, encode_frames, merging_frames
from tcformer.viz.paint import (
    FILLS,
    blend,
    cell_sums,
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
from tcformer.viz.svg import svg_sheet
from tcformer.viz.tracking import children, contributions, families, layout_maps, parents, relatives
from tcformer.viz.writing import (
    FORMATS,
    check_picture_name,
    png_bytes,
    write_moving,
    write_png,
    write_sheet,
)

__all__ = [
    "FILLS",
    "FORMATS",
    "KINDS",
    "MOST_CLASSES",
    "POINT_COLOURS",
    "Dot",
    "Drawing",
    "Frame",
    "Look",
    "Mark",
    "Panel",
    "Picture",
    "Point",
    "Row",
    "Scale",
    "Subject",
    "as_rgb",
    "blend",
    "border_path",
    "card_sheet",
    "cell_grid",
    "cell_means",
    "cell_sums",
    "check_picture_name",
    "children",
    "contact_sheet",
    "contributions",
    "density_map",
    "draw_tokens",
    "encode_frames",
    "enlarge",
    "families",
    "family_colours",
    "gradient_magnitude",
    "heat_colours",
    "layout_maps",
    "matrix_picture",
    "matrix_svg",
    "mean_colours",
    "merging_frames",
    "paint_tokens",
    "palette_colours",
    "panel_picture",
    "panel_shape",
    "parents",
    "pixel_tokens",
    "png_bytes",
    "rank_correlation",
    "ranks",
    "read_image",
    "region_mask",
    "relatives",
    "resize_image",
    "size_against_detail",
    "sizes_by_detail",
    "spread",
    "svg_sheet",
    "token_areas",
    "token_at",
    "token_borders",
    "token_colours",
    "token_means",
    "token_paths",
    "token_row",
    "unnormalise",
    "with_image",
    "write_moving",
    "write_png",
    "write_sheet",
]
