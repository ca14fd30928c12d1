"""Contact sheets: rows of captioned panels as pixels, as SVG, as cards, as moving pictures; files.

A sheet is planned once (`plan_sheet`), and pixels and SVG are made from the plan. In the SVG tokens
are paths and images are embedded, so no other file is needed.
"""

from __future__ import annotations

import base64
import io
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from math import ceil
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tcformer.errors import UserError, nearest
from tcformer.files import atomic_write, check_writable, make_folder
from tcformer.images import as_array, as_rgb, png_bytes
from tcformer.viz.paint import (
    RAMP,
    WHITE,
    Color,
    Drawing,
    Fill,
    blend,
    enlarge,
    paint_tokens,
    ramp,
    rgb,
)
from tcformer.viz.regions import Size

FORMATS = ("png", "svg", "gif", "webp")
"""Endings of names: a still picture, one of paths, and two that move."""

INK: Color = (32, 32, 32)
FRAME: Color = (205, 205, 205)
"""Of the line around panels, which bright pictures need on white paper."""

GAP = 12
"""Free pixels between panels and around the sheet."""

MOST_PIXELS = 400 * 2**20
"""Of a sheet: larger ones hardly any program opens, and they take gigabytes to make."""

MOST_FRAME_PIXELS = 24 * 2**20
"""Of a frame of a moving picture: twenty-one of them are held in memory."""

EMBEDDED_EXACTLY = 256 * 256
"""Pixels up to which an SVG embeds an image without loss; above, as JPEG."""

FADE_STEPS = 4
FADE_MS = 70
"""Pictures between two stages of a moving picture, and milliseconds of each."""

MOST_SIDE = {"gif": 65_535, "webp": 16_383}
"""What the formats can hold, in pixels."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


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
    panel_size: int = 448,
    **options: Any,
) -> Row:
    """The image and, to its right, the same image painted by the tokens of each stage.

    Args:
        image: (H, W, 3) uint8, the image that the network saw.
        cell_maps: for each stage the integers (H0*W0,) of this image,
            ``[tokens.layout.cell_to_token[b] for tokens in model.forward_tokens(batch)]``.
        title: caption of the image itself.
        fill: as in `paint_tokens`.
        panel_size: wished length of a panel's longer side in pixels; images are enlarged
            by a whole factor, 2 or more.
        **options: `outline`, `edge_color` and `width` of `paint_tokens`.
    """
    pixels = as_rgb(image)
    scale = panel_scale((pixels.shape[0], pixels.shape[1]), panel_size)
    panels = [Panel(enlarge(pixels, scale), title)]
    for stage, cell_map in enumerate(cell_maps, start=1):
        painted = paint_tokens(pixels, cell_map, fill=fill, scale=scale, **options)
        count = len(np.unique(as_array(cell_map)))
        words = "token" if count == 1 else "tokens"
        panels.append(Panel(painted, f"stage {stage}: {count} {words}"))
    return Row(tuple(panels))


# ---- what the font that comes with Pillow can write, and how long it gets -------------------


def drawable(text: str) -> bool:
    """Whether the font has every character; it would draw a box for one that it lacks."""
    return all(_has(character) for character in text)


@cache
def _has(character: str) -> bool:
    if character.isspace():
        return True
    font = ImageFont.load_default(32)
    shape, none = font.getmask(character), font.getmask("\uffff")
    return shape.size != none.size or bytes(shape) != bytes(none)


def written(text: str, otherwise: str) -> str:
    """The text as the font can write it: without its accents, or something else instead.

    The font has the letters of English. "grün" becomes "grun", and a name in another script
    becomes `otherwise`.
    """
    if drawable(text):
        return text
    apart = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    bare = "".join(character for character in apart if not unicodedata.combining(character))
    return bare if drawable(bare) else otherwise


def text_width(text: str, size: int) -> float:
    """Pixels that a line takes; for what the font lacks, what other fonts need."""
    if drawable(text):
        return float(ImageFont.load_default(size).getlength(text))
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return size * (wide + 0.6 * (len(text) - wide))


def fitted(text: str, width: float, length: Callable[[str], float]) -> str:
    """The text if it fits into so many pixels, else its two ends with an ellipsis between."""
    if length(text) <= width:
        return text
    for keep in range(min(len(text) - 1, int(width)), 0, -1):
        head, tail = (keep + 1) // 2, keep // 2
        shorter = text[:head] + "..." + (text[-tail:] if tail else "")
        if length(shorter) <= width:
            return shorter
    return ""


def _wrap(text: str, width: float, font: Font) -> list[str]:
    """Lines of at most ``width`` pixels; a word that is longer is shortened."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}" if line else fitted(word, width, font.getlength)
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = fitted(word, width, font.getlength)
            line = longer
        lines.append(line)
    return lines


# ---- where everything stands ----------------------------------------------------------------


class Text(NamedTuple):
    """A line of text on a sheet."""

    words: str
    x: float
    y: float
    """of its upper end"""
    centered: bool


class Bar(NamedTuple):
    """The ramp of colors with the meaning of its ends on its left and right."""

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
    """Lay out rows of panels; arguments as in `contact_sheet`.

    Raises:
        UserError: nothing to lay out, or far too much.
    """
    if not rows or not all(row.panels for row in rows):
        raise UserError("a contact sheet needs at least one row, and each row at least one panel")
    if font_size is None:
        font_size = max(16, max(panel.size[1] for row in rows for panel in row.panels) // 18)
    font = ImageFont.load_default(font_size)
    # Narrow pictures still need room for "stage 1: 3136 tokens"; titles may be shortened.
    least = max(least_column, caption_width(rows, font))
    columns = [
        max([least, *(row.panels[c].size[1] for row in rows if c < len(row.panels))])
        for c in range(max(len(row.panels) for row in rows))
    ]
    total = GAP + sum(width + GAP for width in columns)
    top, places, texts, bars = GAP, [], [], []
    for row in rows:
        for line in _wrap(row.heading, total - 2 * GAP, font):
            texts.append(Text(line, GAP, top, False))
            top += font_size + font_size // 3
        top += font_size // 3 if row.heading else 0
        height, left, line_places = max(panel.size[0] for panel in row.panels), GAP, []
        for panel, width in zip(row.panels, columns, strict=False):
            line_places.append((left + (width - panel.size[1]) // 2, top))
            words = fitted(panel.caption, width, font.getlength)
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
    _check_size((top, total))
    return Plan((top, total), font_size, places, texts, bars)


def _check_size(size: Size) -> None:
    if size[0] * size[1] > MOST_PIXELS:
        raise UserError(
            f"the picture would have {size[1]} x {size[0]} pixels, more than programs can open: "
            "give fewer images or drawings, or a smaller --panel-size"
        )


def caption_width(rows: Sequence[Row], font: Font) -> int:
    """Pixels that the longest caption takes; the first panel's is a title, which may be cut."""
    captions = [panel.caption for row in rows for panel in row.panels[1:]]
    return max((ceil(font.getlength(caption)) for caption in captions), default=0)


def _bar(scale: Scale, place: tuple[int, int], width: int, font: Font) -> Bar:
    """In the middle of a column, between its two words."""
    middle, top = place
    words = ceil(max(font.getlength(scale.low), font.getlength(scale.high)))
    room = max(16, min(width // 2, width - 2 * words - 2 * GAP))
    return Bar(middle - room // 2, top, room, round(int(getattr(font, "size", 16)) * 0.7), scale)


# ---- pixels ---------------------------------------------------------------------------------


def contact_sheet(
    rows: Sequence[Row], *, font_size: int | None = None, least_column: int = 0
) -> NDArray[np.uint8]:
    """Lay out rows of panels on white paper, each panel with its caption below.

    Panels stand in columns; a column is as wide as its widest panel, and titles that are
    wider are shortened in the middle. Rows may differ in height and in number of panels.

    Args:
        rows: what `token_row` returns, or `Figure.draw`; one for each image and drawing.
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
    sheet = Image.new("RGB", plan.size[::-1], WHITE)
    draw = ImageDraw.Draw(sheet)
    for row, places in zip(rows, plan.places, strict=True):
        for panel, place in zip(row.panels, places, strict=True):
            (left, top), (height, width) = place, panel.size
            draw.rectangle((left - 1, top - 1, left + width, top + height), outline=FRAME)
            sheet.paste(Image.fromarray(np.ascontiguousarray(panel.pixels())), place)
    for text in plan.texts:
        draw.text((text.x, text.y), text.words, INK, font, anchor="ma" if text.centered else "la")
    for bar in plan.bars:
        levels = np.arange(bar.width) * 255 // max(1, bar.width - 1)
        stripe = ramp()[levels][None].repeat(bar.height, axis=0)
        sheet.paste(Image.fromarray(stripe), (bar.left, bar.top))
        middle = bar.top + bar.height / 2
        draw.text((bar.left - GAP / 2, middle), bar.scale.low, INK, font, anchor="rm")
        draw.text((bar.left + bar.width + GAP / 2, middle), bar.scale.high, INK, font, anchor="lm")
    return np.asarray(sheet)


def card_sheet(
    rows: Sequence[Row], *, across: int = 2, font_size: int = 16, least_column: int = 0
) -> NDArray[np.uint8]:
    """Lay out rows of panels as cards, from left to right and then down.

    Args:
        rows: one for each card; its heading, in lines, stands over its panels.
        across: how many cards stand side by side.
        font_size: height of the text in pixels.
        least_column: least width of a panel's column in pixels.

    Returns:
        (height, width, 3) uint8.

    Raises:
        UserError: no rows, or a sheet of more than 400 million pixels.
    """
    if not rows or across < 1:
        raise UserError("a sheet of cards needs at least one card, and at least one side by side")
    cards = [contact_sheet([row], font_size=font_size, least_column=least_column) for row in rows]
    across = min(across, len(cards))
    width = max(card.shape[1] for card in cards)
    lines = [cards[start : start + across] for start in range(0, len(cards), across)]
    heights = [max(card.shape[0] for card in line) for line in lines]
    size = (sum(heights) + len(lines) - 1, across * (width + 1) - 1)
    _check_size(size)
    sheet = np.full((*size, 3), FRAME, np.uint8)
    top = 0
    for line, height in zip(lines, heights, strict=True):
        for place in range(across):
            left = place * (width + 1)
            sheet[top : top + height, left : left + width] = WHITE
            if place < len(line):
                card = line[place]
                sheet[top : top + card.shape[0], left : left + card.shape[1]] = card
        top += height + 1
    return sheet


# ---- SVG ------------------------------------------------------------------------------------


def svg_sheet(rows: Sequence[Row], *, font_size: int | None = None) -> str:
    """The sheet of `contact_sheet` as one SVG document: well-formed XML, the same for the same
    input.

    Drawings become paths, one for each token, with a tooltip that says which token it is and how
    large. An image that several panels share is embedded once.
    """
    plan = plan_sheet(rows, font_size=font_size)
    height, width = plan.size
    pictures: dict[int, str] = {}
    definitions: list[str] = []
    body: list[str] = []
    for row, places in zip(rows, plan.places, strict=True):
        for panel, (left, top) in zip(row.panels, places, strict=True):
            drawing = panel.picture if isinstance(panel.picture, Drawing) else None
            pixels = panel.picture.image if isinstance(panel.picture, Drawing) else panel.picture
            if id(pixels) not in pictures:
                pictures[id(pixels)] = name = f"picture{len(pictures) + 1}"
                definitions.append(_embedded(pixels, name))
            name = pictures[id(pixels)]
            inside = drawing.svg(name) if drawing else f'<use href="#{name}"/>'
            high, wide = panel.size
            body.append(
                f'<rect x="{left - 0.5}" y="{top - 0.5}" width="{wide + 1}" height="{high + 1}" '
                f'fill="none" stroke="{rgb(FRAME)}"/>\n'
                f'<svg x="{left}" y="{top}" width="{wide}" height="{high}" '
                f'viewBox="0 0 {wide} {high}">\n<title>{xml_text(panel.caption)}</title>\n'
                f"{inside}\n</svg>"
            )
    stops = "".join(
        f'<stop offset="{level / 255:.3f}" stop-color="{rgb(color)}"/>' for level, color in RAMP
    )
    definitions.append(f'<linearGradient id="ramp">{stops}</linearGradient>')
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-size="{plan.font_size}">',
            "<style>.areas path:hover{stroke:#fff;stroke-width:2;paint-order:stroke}"
            "text{font-family:'Helvetica Neue',Arial,'Liberation Sans',sans-serif}</style>",
            f"<defs>{''.join(definitions)}</defs>",
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *body,
            *_svg_words(plan),
            "</svg>",
            "",
        ]
    )


def _svg_words(plan: Plan) -> list[str]:
    """Texts and bars.

    A text's place is its upper end, where SVG asks for the line it stands on. Browsers have other
    fonts than Pillow: each text is told to be as long as it was planned.
    """
    font = ImageFont.load_default(plan.font_size)
    above = 0.95 * plan.font_size

    def write(words: str, x: float, line: float, anchor: str) -> str:
        return (
            f'<text x="{x:g}" y="{line:g}" fill="{rgb(INK)}" text-anchor="{anchor}" '
            f'textLength="{font.getlength(words):.1f}" lengthAdjust="spacingAndGlyphs">'
            f"{xml_text(words)}</text>"
        )

    parts = [
        write(text.words, text.x, text.y + above, "middle" if text.centered else "start")
        for text in plan.texts
        if text.words
    ]
    for bar in plan.bars:
        line = bar.top + bar.height / 2 + 0.35 * plan.font_size
        parts += [
            f'<rect x="{bar.left}" y="{bar.top}" width="{bar.width}" height="{bar.height}" '
            'fill="url(#ramp)"/>',
            write(bar.scale.low, bar.left - GAP / 2, line, "end"),
            write(bar.scale.high, bar.left + bar.width + GAP / 2, line, "start"),
        ]
    return parts


def _embedded(pixels: NDArray[np.uint8], name: str) -> str:
    height, width = pixels.shape[:2]
    if height * width <= EMBEDDED_EXACTLY:
        kind, data = "png", png_bytes(pixels)
    else:
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="JPEG", quality=90)
        kind, data = "jpeg", file.getvalue()
    code = base64.b64encode(data).decode("ascii")
    return (
        f'<image id="{name}" width="{width}" height="{height}" '
        f'href="data:image/{kind};base64,{code}"/>'
    )


_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(words: str) -> str:
    """Escaped, and without what XML has no place for (a file's name can hold it)."""
    return escape(_FORBIDDEN.sub("\ufffd", words))


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

    Args:
        stages: the rows of each sheet, the same images in each; panels of equal sizes.
        seconds: how long each stands still; the last one twice as long.
        font_size: as in `contact_sheet`.

    Raises:
        UserError: nothing to show, or sheets of different sizes.
    """
    if not stages:
        raise UserError("a moving picture needs at least one sheet")
    if not 0.1 <= seconds <= 60:
        raise UserError(f"{seconds:g} seconds for each stage? 0.1 to 60 are meant")
    size = font_size or max(16, max(p.size[1] for row in stages[0] for p in row.panels) // 18)
    font = ImageFont.load_default(size)
    # Every sheet leaves room for the longest caption of all, so that nothing moves but tokens.
    titled = [Row((row.panels[0], *row.panels)) for rows in stages for row in rows]
    room = max(caption_width([row], font) for row in titled)
    sheets = [contact_sheet(rows, font_size=size, least_column=room) for rows in stages]
    plans = [plan_sheet(rows, font_size=size, least_column=room) for rows in stages]
    if any(plan.size != plans[0].size or plan.places != plans[0].places for plan in plans):
        raise UserError("the sheets of a moving picture must have panels of the same sizes")
    boxes = [
        (slice(top, top + panel.size[0]), slice(left, left + panel.size[1]))
        for row, places in zip(stages[0], plans[0].places, strict=True)
        for panel, (left, top) in zip(row.panels, places, strict=True)
    ]
    still = round(seconds * 1000)
    frames = []
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
    """A GIF or WebP that plays for ever.

    Args:
        frames: pictures of one size.
        kind: "gif" (256 colors a frame) or "webp" (smaller and truer).

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
    ways: list[dict[str, Any]] = [{"lossless": True, "quality": 60}, {"quality": 82}]
    common: dict[str, Any] = {"method": 4}
    if kind == "gif":
        median, plain = Image.Quantize.MEDIANCUT, Image.Dither.NONE
        pictures = [picture.quantize(256, median, dither=plain) for picture in pictures]
        ways, common = [{}], {"optimize": False, "disposal": 1}
    packed = []
    for way in ways:
        data = io.BytesIO()
        pictures[0].save(
            data, kind.upper(), save_all=True, append_images=pictures[1:], duration=durations,
            loop=0, **common, **way,
        )  # fmt: skip
        packed.append(data.getvalue())
    return min(packed, key=len)


# ---- files: the name says the format, and the file appears whole or not at all --------------


def check_picture_name(path: str | PathLike[str], formats: Sequence[str] = FORMATS) -> Path:
    """The path, if a picture can be written there: for refusing a name before the work is done.

    Args:
        path: name of the file to be.
        formats: endings that are taken, without the dot.

    Raises:
        UserError: another ending, a folder, or a place that cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower().removeprefix(".") not in formats:
        dotted = [f".{name}" for name in formats]
        said = f"not {path.suffix}" if path.suffix else "and it has no ending"
        guess = nearest(path.suffix.lower(), dotted) if path.suffix else None
        hint = f"; did you mean {guess}?" if guess else ""
        ends = ", ".join(dotted[:-1]) + f" or {dotted[-1]}" if len(dotted) > 1 else dotted[0]
        raise UserError(f"{path}: the name of a picture must end in {ends}, {said}{hint}")
    return check_writable(path)


def write_bytes(path: str | PathLike[str], data: bytes) -> None:
    """Write a file and the folders on the way; a reader sees all of it or the old one.

    Raises:
        UserError: the place cannot be written.
    """
    path = Path(path)
    make_folder(path.parent)
    atomic_write(path, lambda file: file.write(data))


def write_png(path: str | PathLike[str], picture: Any) -> None:
    """Write an (H, W, 3) uint8 picture as PNG, and the folders on the way.

    Raises:
        UserError: when the name does not end in .png or the place cannot be written.
    """
    write_bytes(check_picture_name(path, ("png",)), png_bytes(picture))


def write_sheet(
    path: str | PathLike[str], rows: Sequence[Row], *, font_size: int | None = None
) -> None:
    """Write rows of panels as a contact sheet: .png as pixels, .svg as paths.

    Raises:
        UserError: another ending, nothing to draw, too much, or a place that cannot be written.
    """
    path = check_picture_name(path, ("png", "svg"))
    if path.suffix.lower() == ".svg":
        write_bytes(path, svg_sheet(rows, font_size=font_size).encode("utf-8"))
    else:
        write_bytes(path, png_bytes(contact_sheet(rows, font_size=font_size)))


def write_moving(
    path: str | PathLike[str],
    stages: Sequence[Sequence[Row]],
    *,
    seconds: float = 1.4,
    font_size: int | None = None,
) -> None:
    """Write sheets as a moving picture, .gif or .webp: see `merging_frames`.

    Raises:
        UserError: another ending, sheets of different sizes, or a place that cannot be written.
    """
    path = check_picture_name(path, ("gif", "webp"))
    frames = merging_frames(stages, seconds=seconds, font_size=font_size)
    write_bytes(path, encode_frames(frames, path.suffix.lower().removeprefix(".")))
