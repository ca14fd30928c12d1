"""Pictures for notebooks: drawn when they are looked at, no IPython needed to make them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcformer.viz.images import as_rgb, resize_image
from tcformer.viz.kinds import POINT_COLOURS, Look, Point, Subject
from tcformer.viz.paint import Colour, enlarge
from tcformer.viz.regions import Size
from tcformer.viz.sheet import Panel, Row, contact_sheet, panel_scale
from tcformer.viz.tracking import layout_maps
from tcformer.viz.writing import png_bytes, write_sheet


class Picture:
    """Rows of panels; a notebook shows them as the last value of a cell.

    Args:
        rows: as in `contact_sheet`.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        """(height, width, 3) uint8."""
        return contact_sheet(self.rows)

    def _repr_png_(self) -> bytes:
        return png_bytes(self.pixels)

    def save(self, path: str | PathLike[str]) -> None:
        """Write it as .png or .svg."""
        write_sheet(path, self.rows)


def draw_tokens(
    image: Any,
    stages: Sequence[Any],
    *,
    index: int = 0,
    kinds: Sequence[str] = ("mean",),
    points: Sequence[Point] = (),
    seen: Size | None = None,
    title: str = "image",
    panel_size: int = 448,
    look: Look | None = None,
) -> Picture:
    """Draw one image and its tokens: in a notebook, the one call that shows everything.

    Args:
        image: (H, W, 3) uint8, the image, of any resolution; array or tensor.
        stages: what ``model.forward_tokens(batch)`` returns.
        index: which image of the batch.
        kinds: rows to draw: mean, none, palette, family, size; with points also region, weights.
        points: (x, y) in pixels of the image.
        seen: height and width of the image in the batch, where that is another size.
        title: what stands below the image.
        panel_size: wished length of a panel's longer side in pixels.
        look: outlines, opacity.

    Raises:
        UserError: tokens that do not belong to the image, or something that cannot be drawn.
    """
    pixels = as_rgb(image)
    size = pixels.shape[0], pixels.shape[1]
    seen = size if seen is None else seen
    subject = Subject(
        panel_picture(pixels, seen, panel_size),
        layout_maps(stages, index),
        seen=seen,
        weights=[getattr(tokens, "layout", tokens).cell_weight[index] for tokens in stages],
        points_in=size,
        look=look,
    )
    rows: list[Row] = []
    for kind in kinds:
        if kind == "region" and points:
            rows.append(subject.draw_regions(points))
        elif kind == "weights" and points:
            rows += [subject.draw_contributions(point) for point in points]
        else:
            rows.append(subject.draw(kind, points=points))
    return Picture([with_image(row, subject, title, points) for row in rows])


def with_image(
    row: Row,
    subject: Subject,
    title: str,
    points: Sequence[Point] = (),
    colours: Sequence[Colour] = POINT_COLOURS,
) -> Row:
    """The row with the image itself, points marked, in front."""
    return row._replace(panels=(Panel(subject.plain(points, colours), title), *row.panels))


def panel_picture(image: Any, seen: Size, panel_size: int | None) -> NDArray[np.uint8]:
    """The image in the size to draw it: a whole multiple of what the network saw, so that all
    cells are equal.

    Args:
        image: (H, W, 3) uint8 of any resolution.
        seen: height and width of it as the network saw it.
        panel_size: wished length of the longer side in pixels; None for the image as it is.
    """
    pixels = as_rgb(image)
    size = panel_shape((pixels.shape[0], pixels.shape[1]), seen, panel_size)
    if pixels.shape[:2] == tuple(seen) and panel_size is not None:
        # There is no more detail; the network's own pixels show.
        return enlarge(pixels, size[0] // seen[0])
    return resize_image(pixels, size)


def panel_shape(size: Size, seen: Size, panel_size: int | None) -> Size:
    """Height and width of what `panel_picture` makes of an image of this size."""
    if panel_size is None:
        return size
    scale = panel_scale(seen, panel_size)
    return seen[0] * scale, seen[1] * scale
