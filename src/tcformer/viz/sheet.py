"""Contact sheets: rows of captioned panels, as a still or a moving picture; files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from math import ceil
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tcformer.errors import UserError, nearest
from tcformer.files import atomic_write, check_writable, make_folder
from tcformer.images import png_bytes
from tcformer.viz.canvas import (
    FRAME,
    Box,
    Placed,
    Sheet,
    Text,
    check_size,
    fitted,
    text_width,
    wrapped,
)
from tcformer.viz.paint import WHITE, Drawing, blend, ramp
from tcformer.viz.regions import Size

FORMATS = ("png", "svg", "gif", "webp")
"""Endings of names: a still picture, one of paths, and two that move."""

GAP = 12
"""Free pixels between panels and around the sheet."""

MOST_FRAME_PIXELS = 24 * 2**20
"""Of a frame of a moving picture: twenty-one of them are held in memory."""

FADE_STEPS = 4
FADE_MS = 70
"""Pictures between two stages of a moving picture, and milliseconds of each."""

MOST_SIDE = {"gif": 65_535, "webp": 16_383}
"""What the formats can hold, in pixels."""


class Scale(NamedTuple):
    """What the two ends of the ramp of colors mean, in words."""

    low: str
    high: str


class Panel(NamedTuple):
    """One picture with the line of text below it."""

    picture: NDArray[np.uint8] | Drawing
    """(H, W, 3) uint8, or what it is drawn from"""
    caption: str
    scale: Scale | None = None
    """the ends of the ramp of colors, if the picture shows numbers"""

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        return Placed(self.picture, 0, 0).size

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


# ---- where everything stands ----------------------------------------------------------------


def lay_out(rows: Sequence[Row], *, font_size: int | None = None, least_column: int = 0) -> Sheet:
    """Lay out rows of panels on white paper; arguments and errors as in `contact_sheet`."""
    if not rows or not all(row.panels for row in rows):
        raise UserError("a contact sheet needs at least one row, and each row at least one panel")
    size = font_size or _font_size(rows)
    # Narrow pictures still need room for "stage 1: 3136 tokens"; titles may be shortened.
    least = max(least_column, *(_caption_width(row.panels[1:], size) for row in rows))
    columns = [
        max([least, *(row.panels[c].size[1] for row in rows if c < len(row.panels))])
        for c in range(max(len(row.panels) for row in rows))
    ]
    total = GAP + sum(width + GAP for width in columns)
    top, sheet = GAP, Sheet((0, total))
    for row in rows:
        for line in wrapped(row.heading, total - 2 * GAP, size):
            sheet.texts.append(Text(line, GAP, top, size, "la"))
            top += size + size // 3
        top += size // 3 if row.heading else 0
        height, left = max(panel.size[0] for panel in row.panels), GAP
        below = top + height + GAP // 2
        for panel, width in zip(row.panels, columns, strict=False):
            high, wide = panel.size
            place = left + (width - wide) // 2, top
            sheet.boxes.append(Box(*place, wide, high))
            sheet.pictures.append(Placed(panel.picture, *place, panel.caption))
            words = fitted(panel.caption, width, size)
            sheet.texts.append(Text(words, left + width / 2, below, size, "ma"))
            if panel.scale is not None:
                _add_ramp(sheet, panel.scale, (left, below + size + size // 2), width, size)
            left += width + GAP
        # A caption stands nearer to its own panel than to the next row.
        top = below + size + max(GAP, size) + GAP
        if any(panel.scale is not None for panel in row.panels):
            top += size + size // 2
    sheet.size = (top, total)
    check_size(sheet.size)
    return sheet


def _font_size(rows: Sequence[Row]) -> int:
    """Large sheets are looked at from afar."""
    return max(16, max(panel.size[1] for row in rows for panel in row.panels) // 18)


def _caption_width(panels: Sequence[Panel], size: int) -> int:
    """Pixels that the longest caption takes."""
    return max((ceil(text_width(panel.caption, size)) for panel in panels), default=0)


def _add_ramp(sheet: Sheet, scale: Scale, place: tuple[int, int], width: int, size: int) -> None:
    """The ramp of colors in the middle of a column, the meaning of its ends beside it."""
    left, top = place
    words = ceil(max(text_width(scale.low, size), text_width(scale.high, size)))
    room, height = max(16, min(width // 2, width - 2 * words - 2 * GAP)), round(size * 0.7)
    left += width // 2 - room // 2
    levels = np.arange(room) * 255 // max(1, room - 1)
    sheet.pictures.append(Placed(ramp()[levels][None].repeat(height, axis=0), left, top))
    line = top + height / 2
    sheet.texts.append(Text(scale.low, left - GAP / 2, line, size, "rm"))
    sheet.texts.append(Text(scale.high, left + room + GAP / 2, line, size, "lm"))


def contact_sheet(
    rows: Sequence[Row], *, font_size: int | None = None, least_column: int = 0
) -> NDArray[np.uint8]:
    """Lay out rows of panels on white paper, each panel with its caption below.

    Panels stand in columns; a column is as wide as its widest panel, at least `least_column`
    pixels, and titles that are wider are shortened in the middle. Rows may differ in height and in
    number of panels. `font_size` is the height of the captions in pixels, by default an eighteenth
    of the widest panel and at least 16. (height, width, 3) uint8.

    Raises:
        UserError: no rows, or a sheet of more than 400 million pixels.
    """
    return lay_out(rows, font_size=font_size, least_column=least_column).pixels()


def svg_sheet(rows: Sequence[Row], *, font_size: int | None = None) -> str:
    """The sheet of `contact_sheet` as one SVG document: well-formed XML.

    Drawings become paths, one for each token, with a tooltip that says which token it is and how
    large. An image that several panels share is embedded once.
    """
    return lay_out(rows, font_size=font_size).svg()


def card_sheet(
    rows: Sequence[Row], *, across: int = 2, font_size: int = 16, least_column: int = 0
) -> NDArray[np.uint8]:
    """Lay out each row as a card, `across` of them side by side: (height, width, 3) uint8.

    Other arguments and errors are those of `contact_sheet`.
    """
    if not rows or across < 1:
        raise UserError("a sheet of cards needs at least one card, and at least one side by side")
    cards = [contact_sheet([row], font_size=font_size, least_column=least_column) for row in rows]
    across = min(across, len(cards))
    width = max(card.shape[1] for card in cards)
    lines = [cards[start : start + across] for start in range(0, len(cards), across)]
    heights = [max(card.shape[0] for card in line) for line in lines]
    size = (sum(heights) + len(lines) - 1, across * (width + 1) - 1)
    check_size(size)
    sheet, top = np.full((*size, 3), FRAME, np.uint8), 0
    for line, height in zip(lines, heights, strict=True):
        for place in range(across):
            room = sheet[top : top + height, place * (width + 1) :][:, :width]
            room[:] = WHITE
            if place < len(line):
                room[: line[place].shape[0], : line[place].shape[1]] = line[place]
        top += height + 1
    return sheet


# ---- the merging as a moving picture --------------------------------------------------------


class Frame(NamedTuple):
    """One picture of a moving one."""

    picture: NDArray[np.uint8]
    """(H, W, 3) uint8"""
    milliseconds: int


def merging_frames(
    stages: Sequence[Sequence[Row]], *, seconds: float = 1.4, font_size: int | None = None
) -> list[Frame]:
    """Sheets shown one after the other, each long enough to be read, fading into each other.

    Each sheet has rows of the same images, with panels of equal sizes, and stands still for some
    seconds, the last one twice as long.

    Raises:
        UserError: nothing to show, or sheets of different sizes.
    """
    if not stages:
        raise UserError("a moving picture needs at least one sheet")
    if not 0.1 <= seconds <= 60:
        raise UserError(f"{seconds:g} seconds for each stage? 0.1 to 60 are meant")
    size = font_size or _font_size(stages[0])
    # Every sheet leaves room for the longest caption of all, so that nothing moves but tokens.
    room = max(_caption_width(row.panels, size) for rows in stages for row in rows)
    plans = [lay_out(rows, font_size=size, least_column=room) for rows in stages]
    if any((plan.size, plan.boxes) != (plans[0].size, plans[0].boxes) for plan in plans):
        raise UserError("the sheets of a moving picture must have panels of the same sizes")
    boxes = [
        np.s_[int(box.y) : int(box.y + box.height), int(box.x) : int(box.x + box.width)]
        for box in plans[0].boxes
    ]
    sheets, still, frames = [plan.pixels() for plan in plans], round(seconds * 1000), []
    for sheet, following in pairwise(sheets):
        frames.append(Frame(sheet, still))
        for step in range(1, FADE_STEPS + 1):
            # Pictures fade; words change at once, half way, and can be read all the time.
            picture = (sheet if 2 * step <= FADE_STEPS else following).copy()
            for box in boxes:
                picture[box] = blend(sheet[box], following[box], 100 * step // (FADE_STEPS + 1))
            frames.append(Frame(picture, FADE_MS))
    return [*frames, Frame(sheets[-1], 2 * still)]


def encode_frames(frames: Sequence[Frame], kind: str) -> bytes:
    """A moving picture that plays for ever: "gif" (256 colors a frame) or "webp" (smaller, truer).

    Raises:
        UserError: no frames, another kind, or larger than the format can hold.
    """
    if not frames:
        raise UserError("a moving picture needs at least one frame")
    if kind not in MOST_SIDE:
        raise UserError(f"moving pictures are gif or webp, not {kind!r}")
    height, width = frames[0].picture.shape[:2]
    if max(height, width) > MOST_SIDE[kind]:
        raise UserError(
            f"the picture would have {width} x {height} pixels, and a {kind} holds "
            f"{MOST_SIDE[kind]} on a side: give fewer images or a smaller --panel-size"
        )
    pictures = [Image.fromarray(np.ascontiguousarray(frame.picture)) for frame in frames]
    durations = [frame.milliseconds for frame in frames]
    # Dithering would crawl over calm areas while frames fade, and fill a GIF. Of a WebP without
    # loss flat tokens take a quarter of the room, photographs several times as much.
    ways: list[dict[str, Any]] = [
        {"lossless": True, "quality": 60, "method": 4}, {"quality": 82, "method": 4}
    ]  # fmt: skip
    if kind == "gif":
        median, plain = Image.Quantize.MEDIANCUT, Image.Dither.NONE
        pictures = [picture.quantize(256, median, dither=plain) for picture in pictures]
        ways = [{"optimize": False, "disposal": 1}]
    packed = []
    for way in ways:
        data = io.BytesIO()
        pictures[0].save(
            data, kind.upper(), save_all=True, append_images=pictures[1:], duration=durations,
            loop=0, **way,
        )  # fmt: skip
        packed.append(data.getvalue())
    return min(packed, key=len)


# ---- files: the name says the format, and the file appears whole or not at all --------------


def check_picture_name(path: str | PathLike[str], formats: Sequence[str] = FORMATS) -> Path:
    """The path, if a picture can be written there: for refusing a name before the work is done.

    Raises:
        UserError: an ending that is none of `formats`, a folder, or a place that cannot be written.
    """
    path = Path(path)
    if path.suffix.lower().removeprefix(".") not in formats:
        dotted = [f".{name}" for name in formats]
        said = f"not {path.suffix}" if path.suffix else "and it has no ending"
        guess = nearest(path.suffix.lower(), dotted) if path.suffix else None
        hint = f"; did you mean {guess}?" if guess else ""
        ends = " or ".join(filter(None, (", ".join(dotted[:-1]), dotted[-1])))
        raise UserError(f"{path}: the name of a picture must end in {ends}, {said}{hint}")
    return check_writable(path)


def write_bytes(path: str | PathLike[str], data: bytes) -> None:
    """Write a file and the folders on the way; a reader sees all of it or the old one."""
    make_folder(Path(path).parent)
    atomic_write(path, lambda file: file.write(data))


def write_png(path: str | PathLike[str], picture: Any) -> None:
    """Write an (H, W, 3) uint8 picture as PNG; errors as `check_picture_name`."""
    write_bytes(check_picture_name(path, ("png",)), png_bytes(picture))


def write_sheet(
    path: str | PathLike[str], rows: Sequence[Row], *, font_size: int | None = None
) -> None:
    """Write rows of panels as a contact sheet, .png as pixels, .svg as paths: see `contact_sheet`.

    Errors also as `check_picture_name`.
    """
    path = check_picture_name(path, ("png", "svg"))
    sheet = lay_out(rows, font_size=font_size)
    svg = path.suffix.lower() == ".svg"
    write_bytes(path, sheet.svg().encode("utf-8") if svg else png_bytes(sheet.pixels()))


def write_moving(
    path: str | PathLike[str],
    stages: Sequence[Sequence[Row]],
    *,
    seconds: float = 1.4,
    font_size: int | None = None,
) -> None:
    """Write sheets as a moving picture, .gif or .webp: see `merging_frames`.

    Errors also as `check_picture_name`.
    """
    path = check_picture_name(path, ("gif", "webp"))
    frames = merging_frames(stages, seconds=seconds, font_size=font_size)
    write_bytes(path, encode_frames(frames, path.suffix.lower().removeprefix(".")))
