"""Contact sheets: rows of captioned panels, one row an image."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tcformer.errors import UserError
from tcformer.viz.images import as_array, as_rgb
from tcformer.viz.paint import WHITE, Colour, Fill, enlarge, paint_tokens

PAPER: Colour = (255, 255, 255)
INK: Colour = (32, 32, 32)
GAP = 12
"""Free pixels between panels and around the sheet."""


class Panel(NamedTuple):
    """One picture with the line of text below it."""

    picture: NDArray[np.uint8]
    """(H, W, 3) uint8"""
    caption: str


class Row(NamedTuple):
    """The panels of one image, from left to right."""

    panels: tuple[Panel, ...]


def panel_scale(size: tuple[int, int], panel_size: int) -> int:
    """By how much to enlarge an image so that its longer side is about ``panel_size`` pixels.

    At least twofold: a cell of 4 pixels would be half covered by its own outline.
    """
    return max(2, round(panel_size / max(size)))


def token_row(
    image: Any,
    cell_maps: Sequence[Any],
    *,
    title: str = "image",
    fill: Fill = "mean",
    outline: bool = True,
    edge_colour: Colour = WHITE,
    width: int = 1,
    panel_size: int = 448,
) -> Row:
    """The image and, to its right, the same image painted by the tokens of each stage.

    Args:
        image: (H, W, 3) uint8, the picture that the network saw.
        cell_maps: for each stage the integers (H0*W0,) of this image,
            ``[tokens.layout.cell_to_token[b] for tokens in model.forward_tokens(batch)]``.
        title: caption of the image itself.
        fill: as in `paint_tokens`.
        outline: as in `paint_tokens`.
        edge_colour: as in `paint_tokens`.
        width: as in `paint_tokens`.
        panel_size: wished length of a panel's longer side in pixels; images are enlarged
            by a whole factor, 2 or more.
    """
    pixels = as_rgb(image)
    scale = panel_scale(pixels.shape[:2], panel_size)
    panels = [Panel(enlarge(pixels, scale), title)]
    for stage, cell_map in enumerate(cell_maps, start=1):
        painted = paint_tokens(
            pixels,
            cell_map,
            fill=fill,
            outline=outline,
            edge_colour=edge_colour,
            width=width,
            scale=scale,
        )
        count = len(np.unique(as_array(cell_map)))
        words = "token" if count == 1 else "tokens"
        panels.append(Panel(painted, f"stage {stage}: {count} {words}"))
    return Row(tuple(panels))


def contact_sheet(rows: Sequence[Row], *, font_size: int | None = None) -> NDArray[np.uint8]:
    """Lay out rows of panels on white paper, each panel with its caption below.

    Panels stand in columns; a column is as wide as its widest panel, and captions that are
    wider are shortened in the middle. Rows may differ in height and in number of panels.

    Args:
        rows: what `token_row` returns, one for each image.
        font_size: height of the captions in pixels; by default a sixteenth of the widest panel,
            and at least 16: large sheets are looked at from afar.

    Returns:
        (height, width, 3) uint8.
    """
    if not rows or not all(row.panels for row in rows):
        raise UserError("a contact sheet needs at least one row, and each row at least one panel")
    if font_size is None:
        widest = max(panel.picture.shape[1] for row in rows for panel in row.panels)
        font_size = max(16, widest // 16)
    font = ImageFont.load_default(font_size)
    # A caption stands nearer to its own panel than to the next row.
    line = GAP // 2 + font_size + max(GAP, font_size)
    # Narrow pictures still need room for "stage 1: 3136 tokens"; titles may be shortened.
    captions = [panel.caption for row in rows for panel in row.panels[1:]]
    least = max((ceil(font.getlength(caption)) for caption in captions), default=0)
    columns = [
        max([least, *(row.panels[c].picture.shape[1] for row in rows if c < len(row.panels))])
        for c in range(max(len(row.panels) for row in rows))
    ]
    heights = [max(panel.picture.shape[0] for panel in row.panels) for row in rows]
    sheet = Image.new(
        "RGB",
        (GAP + sum(width + GAP for width in columns), GAP + sum(h + line + GAP for h in heights)),
        PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        left = GAP
        for panel, width in zip(row.panels, columns, strict=False):
            inset = (width - panel.picture.shape[1]) // 2
            sheet.paste(Image.fromarray(np.ascontiguousarray(panel.picture)), (left + inset, top))
            words = shorten(panel.caption, width, font)
            draw.text((left + width / 2, top + height + GAP // 2), words, INK, font, anchor="ma")
            left += width + GAP
        top += height + line + GAP
    return np.asarray(sheet)


def shorten(text: str, width: float, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The text if it fits into ``width`` pixels, else its two ends with an ellipsis between."""
    if font.getlength(text) <= width:
        return text
    for keep in range(len(text) - 1, 0, -1):
        head, tail = (keep + 1) // 2, keep // 2
        shorter = text[:head] + "..." + (text[-tail:] if tail else "")
        if font.getlength(shorter) <= width:
            return shorter
    return ""
