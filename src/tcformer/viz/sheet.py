"""Contact sheets: rows of captioned panels, as pixels."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tcformer.errors import UserError
from tcformer.viz.drawing import Drawing
from tcformer.viz.heat import Scale, ramp
from tcformer.viz.images import as_array, as_rgb
from tcformer.viz.paint import WHITE, Colour, Fill, enlarge, paint_tokens
from tcformer.viz.regions import Size

PAPER: Colour = (255, 255, 255)
INK: Colour = (32, 32, 32)
FRAME: Colour = (205, 205, 205)
"""Of the line around panels, which bright pictures need on white paper."""

GAP = 12
"""Free pixels between panels and around the sheet."""

MOST_PIXELS = 400 * 2**20
"""Of a sheet: larger ones hardly any program opens, and they take gigabytes to make."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


class Panel(NamedTuple):
    """One picture with the line of text below it."""

    picture: NDArray[np.uint8] | Drawing
    """(H, W, 3) uint8, or what it is drawn from"""
    caption: str
    scale: Scale | None = None
    """the ends of the ramp of colours, if the picture shows numbers"""

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        if isinstance(self.picture, Drawing):
            return self.picture.size
        return self.picture.shape[0], self.picture.shape[1]

    def pixels(self) -> NDArray[np.uint8]:
        """(H, W, 3) uint8."""
        return self.picture.pixels() if isinstance(self.picture, Drawing) else self.picture


class Row(NamedTuple):
    """The panels of one image, from left to right."""

    panels: tuple[Panel, ...]
    heading: str = ""
    """text above them, in lines"""


def panel_scale(size: Size, panel_size: int) -> int:
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
    width: float = 1,
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
    scale = panel_scale((pixels.shape[0], pixels.shape[1]), panel_size)
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


class Text(NamedTuple):
    """A line of text on a sheet."""

    words: str
    x: float
    y: float
    """of its upper end"""
    centred: bool


class Bar(NamedTuple):
    """The ramp of colours with the meaning of its ends on its left and right."""

    left: int
    top: int
    width: int
    height: int
    scale: Scale


class Plan(NamedTuple):
    """Where everything stands on a sheet; pixels and SVG are made from it."""

    size: Size
    font_size: int
    places: list[list[tuple[int, int]]]
    """for each row (left, top) of its panels"""
    texts: list[Text]
    bars: list[Bar]


def plan_sheet(rows: Sequence[Row], *, font_size: int | None = None, least_column: int = 0) -> Plan:
    """Lay out rows of panels: see `contact_sheet`.

    Args:
        rows: the rows.
        font_size: height of the text in pixels.
        least_column: least width of a column in pixels.

    Raises:
        UserError: nothing to lay out, or far too much.
    """
    if not rows or not all(row.panels for row in rows):
        raise UserError("a contact sheet needs at least one row, and each row at least one panel")
    if font_size is None:
        font_size = max(16, max(panel.size[1] for row in rows for panel in row.panels) // 18)
    font = ImageFont.load_default(font_size)
    columns = [
        max([least_column, *(row.panels[c].size[1] for row in rows if c < len(row.panels))])
        for c in range(max(len(row.panels) for row in rows))
    ]
    # Narrow pictures still need room for "stage 1: 3136 tokens"; titles may be shortened.
    least = caption_width(rows, font)
    columns = [max(width, least) for width in columns]
    total = GAP + sum(width + GAP for width in columns)
    top, places, texts, bars = GAP, [], [], []
    for row in rows:
        for line in wrap(row.heading, total - 2 * GAP, font):
            texts.append(Text(line, GAP, top, False))
            top += font_size + font_size // 3
        top += font_size // 3 if row.heading else 0
        height, left, line_places = max(panel.size[0] for panel in row.panels), GAP, []
        for panel, width in zip(row.panels, columns, strict=False):
            line_places.append((left + (width - panel.size[1]) // 2, top))
            words = shorten(panel.caption, width, font)
            texts.append(Text(words, left + width / 2, top + height + GAP // 2, True))
            if panel.scale is not None:
                place = left + width // 2, top + height + GAP // 2 + font_size + font_size // 2
                bars.append(_bar(panel.scale, place, width, font))
            left += width + GAP
        places.append(line_places)
        # A caption stands nearer to its own panel than to the next row.
        top += height + GAP // 2 + font_size + max(GAP, font_size) + GAP
        if any(panel.scale is not None for panel in row.panels):
            top += font_size + font_size // 2
    if total * top > MOST_PIXELS:
        raise UserError(
            f"the picture would have {total} x {top} pixels, more than programs can open: give "
            "fewer images or drawings, or a smaller --panel-size"
        )
    return Plan((top, total), font_size, places, texts, bars)


def caption_width(rows: Sequence[Row], font: Font) -> int:
    """Pixels that the longest caption takes; the first panel's is a title, which may be cut."""
    captions = [panel.caption for row in rows for panel in row.panels[1:]]
    return max((ceil(font.getlength(caption)) for caption in captions), default=0)


def _bar(scale: Scale, place: tuple[int, int], width: int, font: Font) -> Bar:
    """In the middle of a column, between its two words."""
    middle, top = place
    words = ceil(max(font.getlength(scale.low), font.getlength(scale.high)))
    room = max(16, min(width // 2, width - 2 * words - 2 * GAP))
    return Bar(middle - room // 2, top, room, round(font_height(font) * 0.7), scale)


def font_height(font: Font) -> int:
    """The size that the font was loaded with."""
    return int(getattr(font, "size", 16))


def contact_sheet(
    rows: Sequence[Row], *, font_size: int | None = None, least_column: int = 0
) -> NDArray[np.uint8]:
    """Lay out rows of panels on white paper, each panel with its caption below.

    Panels stand in columns; a column is as wide as its widest panel, and titles that are
    wider are shortened in the middle. Rows may differ in height and in number of panels.

    Args:
        rows: what `token_row` returns, or `Subject.draw`; one for each image and drawing.
        font_size: height of the captions in pixels; by default an eighteenth of the widest panel,
            and at least 16: large sheets are looked at from afar.
        least_column: least width of a column in pixels.

    Returns:
        (height, width, 3) uint8.

    Raises:
        UserError: no rows, or a sheet of more than 400 million pixels.
    """
    plan = plan_sheet(rows, font_size=font_size, least_column=least_column)
    font = ImageFont.load_default(plan.font_size)
    sheet = Image.new("RGB", plan.size[::-1], PAPER)
    draw = ImageDraw.Draw(sheet)
    for row, places in zip(rows, plan.places, strict=True):
        for panel, place in zip(row.panels, places, strict=True):
            (left, top), (height, width) = place, panel.size
            draw.rectangle((left - 1, top - 1, left + width, top + height), outline=FRAME)
            sheet.paste(Image.fromarray(np.ascontiguousarray(panel.pixels())), place)
    for text in plan.texts:
        draw.text((text.x, text.y), text.words, INK, font, anchor="ma" if text.centred else "la")
    for bar in plan.bars:
        levels = np.arange(bar.width) * 255 // max(1, bar.width - 1)
        stripe = ramp()[levels][None].repeat(bar.height, axis=0)
        sheet.paste(Image.fromarray(stripe), (bar.left, bar.top))
        middle = bar.top + bar.height / 2
        draw.text((bar.left - GAP / 2, middle), bar.scale.low, INK, font, anchor="rm")
        draw.text((bar.left + bar.width + GAP / 2, middle), bar.scale.high, INK, font, anchor="lm")
    return np.asarray(sheet)


def wrap(text: str, width: float, font: Font) -> list[str]:
    """Lines of at most ``width`` pixels; a word that is longer is shortened."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else shorten(word, width, font)
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = shorten(word, width, font)
            line = longer
        lines.append(line)
    return lines


def shorten(text: str, width: float, font: Font) -> str:
    """The text if it fits into ``width`` pixels, else its two ends with an ellipsis between."""
    if font.getlength(text) <= width:
        return text
    for keep in range(len(text) - 1, 0, -1):
        head, tail = (keep + 1) // 2, keep // 2
        shorter = text[:head] + "..." + (text[-tail:] if tail else "")
        if font.getlength(shorter) <= width:
            return shorter
    return ""
