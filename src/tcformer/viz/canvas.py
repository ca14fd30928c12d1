"""A sheet of boxes, pictures and lines of text, written as pixels or as an SVG document.

Whoever draws says once where everything stands. In the SVG tokens are paths and images are
embedded, so no other file is needed.
"""

from __future__ import annotations

import base64
import io
import re
import unicodedata
from dataclasses import dataclass, field
from functools import cache
from math import ceil
from typing import NamedTuple
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tcformer.errors import UserError
from tcformer.images import png_bytes
from tcformer.viz.paint import WHITE, Color, Drawing, enlarge, rgb
from tcformer.viz.regions import Size

INK: Color = (32, 32, 32)
FRAME: Color = (205, 205, 205)
"""Of the line around pictures, which bright ones need on white paper."""

MOST_PIXELS = 400 * 2**20
"""Of a sheet: larger ones hardly any program opens, and they take gigabytes to make."""

EMBEDDED_EXACTLY = 256 * 256
"""Pixels up to which an SVG embeds an image without loss; above, as JPEG."""


# ---- what the font that comes with Pillow can write, and how long it gets -------------------


font = cache(ImageFont.load_default)


@cache
def _has(character: str) -> bool:
    """Whether the font has a character; it draws a box for one that it lacks."""
    if character.isspace():
        return True
    shape, none = (font(32).getmask(sign) for sign in (character, "\uffff"))
    return shape.size != none.size or bytes(shape) != bytes(none)


def written(text: str, otherwise: str) -> str:
    """The text as the font, which has the letters of English, can write it.

    "grün" becomes "grun", and a name in another script becomes `otherwise`.
    """
    apart = unicodedata.normalize("NFKD", text.replace("ß", "ss"))
    bare = "".join(character for character in apart if not unicodedata.combining(character))
    return next((words for words in (text, bare) if all(map(_has, words))), otherwise)


def text_width(text: str, size: int) -> float:
    """Pixels that a line takes; for what the font lacks, what other fonts need."""
    if all(map(_has, text)):
        return float(font(size).getlength(text))
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return size * (wide + 0.6 * (len(text) - wide))


def fitted(text: str, width: float, size: int) -> str:
    """The text if it fits into so many pixels, else its two ends with an ellipsis between."""
    if text_width(text, size) <= width:
        return text
    for keep in range(min(len(text) - 1, int(width)), 0, -1):
        head, tail = (keep + 1) // 2, keep // 2
        shorter = text[:head] + "..." + (text[-tail:] if tail else "")
        if text_width(shorter, size) <= width:
            return shorter
    return ""


def wrapped(text: str, width: float, size: int) -> list[str]:
    """Lines of at most ``width`` pixels; a word that is longer is shortened."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in (fitted(word, width, size) for word in paragraph.split()):
            longer = f"{line} {word}" if line else word
            if line and text_width(longer, size) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


# ---- a sheet --------------------------------------------------------------------------------


class Box(NamedTuple):
    """A rectangle of a color; without one, a thin line around it."""

    x: float
    y: float
    width: float
    height: float
    color: Color | None = None
    told: str = ""
    """shown by SVG viewers under the mouse"""


class Placed(NamedTuple):
    """A picture with its upper left corner."""

    picture: NDArray[np.uint8] | Drawing
    x: int
    y: int
    title: str = ""
    exact: bool = False
    """whether an SVG embeds it without loss, and shows its pixels as they are"""

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        if isinstance(self.picture, Drawing):
            return self.picture.size
        return self.picture.shape[0], self.picture.shape[1]


class Text(NamedTuple):
    """A line of text."""

    words: str
    x: float
    y: float
    size: int
    anchor: str = "lm"
    """what of the text stands at (x, y), as Pillow says it: l, m or r, then a (top) or m"""
    color: Color = INK
    turned: bool = False
    """whether it reads upwards"""
    otherwise: str = ""
    """instead, where the font lacks its letters"""


@dataclass
class Sheet:
    """White paper of a height and width in pixels, and what stands on it."""

    size: Size
    boxes: list[Box] = field(default_factory=list)
    pictures: list[Placed] = field(default_factory=list)
    texts: list[Text] = field(default_factory=list)

    def pixels(self, scale: int = 1) -> NDArray[np.uint8]:
        """(height, width, 3) uint8, `scale` pixels for one of the sheet's.

        Raises:
            UserError: more than 400 million pixels.
        """
        height, width = self.size
        check_size((scale * height, scale * width))
        paper = Image.new("RGB", (scale * width, scale * height), WHITE)
        draw = ImageDraw.Draw(paper)
        for x, y, wide, high, color, _ in self.boxes:
            left, top = round(x * scale), round(y * scale)
            right, bottom = round((x + wide) * scale), round((y + high) * scale)
            if color is None:
                draw.rectangle((left - 1, top - 1, right, bottom), outline=FRAME)
            else:
                draw.rectangle((left, top, right - 1, bottom - 1), fill=color)
        for placed in self.pictures:
            picture = placed.picture
            shown = enlarge(picture.pixels() if isinstance(picture, Drawing) else picture, scale)
            place = placed.x * scale, placed.y * scale
            paper.paste(Image.fromarray(np.ascontiguousarray(shown)), place)
        for text in self.texts:
            _write(paper, draw, text, scale)
        return np.asarray(paper)

    def svg(self) -> str:
        """One document: well-formed XML, the same for the same sheet.

        An image that several pictures share is embedded once.
        """
        height, width = self.size
        names: dict[int, str] = {}
        definitions, body = [], [_svg_box(box) for box in self.boxes]
        for placed in self.pictures:
            picture = placed.picture
            image = picture.image if isinstance(picture, Drawing) else picture
            if id(image) not in names:
                names[id(image)] = f"picture{len(names) + 1}"
                definitions.append(_embedded(image, names[id(image)], placed.exact))
            name, (high, wide) = names[id(image)], placed.size
            title = f"<title>{xml_text(placed.title)}</title>" if placed.title else ""
            if isinstance(picture, Drawing):
                body.append(
                    f'<svg x="{placed.x}" y="{placed.y}" width="{wide}" height="{high}" '
                    f'viewBox="0 0 {wide} {high}">\n{title}\n{picture.svg(name)}\n</svg>'
                )
            else:
                place = f'x="{placed.x}" y="{placed.y}"'
                body.append(f'<use href="#{name}" {place}>{title}</use>')
        return "\n".join(
            [
                '<?xml version="1.0" encoding="UTF-8"?>',
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
                f'viewBox="0 0 {width} {height}">',
                "<style>.areas path:hover{stroke:#fff;stroke-width:2;paint-order:stroke}"
                "text{font-family:'Helvetica Neue',Arial,'Liberation Sans',sans-serif}</style>",
                f"<defs>{''.join(definitions)}</defs>",
                f'<rect width="{width}" height="{height}" fill="white"/>',
                *body,
                *(_svg_text(text) for text in self.texts if text.words),
                "</svg>",
                "",
            ]
        )


def check_size(size: Size) -> None:
    """Refuse a picture of too large a height and width."""
    if size[0] * size[1] > MOST_PIXELS:
        raise UserError(
            f"the picture would have {size[1]} x {size[0]} pixels, more than programs can open: "
            "give fewer images or drawings, or a smaller --panel-size"
        )


def _write(paper: Image.Image, draw: ImageDraw.ImageDraw, text: Text, scale: int) -> None:
    words = written(text.words, text.otherwise or text.words)
    letters = font(text.size * scale)
    x, y = text.x * scale, text.y * scale
    if not text.turned:
        draw.text((x, y), words, text.color, letters, anchor=text.anchor)
        return
    length, high = ceil(letters.getlength(words)) + 2, 2 * text.size * scale
    strip = Image.new("L", (length, high))
    ImageDraw.Draw(strip).text((1, high / 2), words, 255, letters, anchor="lm")
    strip = strip.transpose(Image.Transpose.ROTATE_90)
    below = {"l": 0, "m": length / 2, "r": length}[text.anchor[0]]
    place = (round(x - high / 2), round(y + below - length))
    paper.paste(Image.new("RGB", strip.size, text.color), place, strip)


def _svg_box(box: Box) -> str:
    x, y, width, height, color, told = box
    if color is None:
        x, y, width, height = x - 0.5, y - 0.5, width + 1, height + 1
    paint = f'fill="none" stroke="{rgb(FRAME)}"' if color is None else f'fill="{rgb(color)}"'
    title = f"<title>{xml_text(told)}</title>" if told else ""
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return f"<rect {place} {paint}>{title}</rect>"


def _svg_text(text: Text) -> str:
    """SVG asks for the line that a text stands on."""
    line = text.y + (0.95 if text.anchor[1] == "a" else 0.35) * text.size
    anchor = {"l": "start", "m": "middle", "r": "end"}[text.anchor[0]]
    turn = f' transform="rotate(-90 {text.x:g} {text.y:g})"' if text.turned else ""
    length = ""
    if len(text.words) > 1 and all(map(_has, text.words)):
        # Browsers have wider fonts than Pillow: the text is told to be as long as it was planned.
        length = f' textLength="{text_width(text.words, text.size):.1f}"'
        length += ' lengthAdjust="spacingAndGlyphs"'
    return (
        f'<text x="{text.x:g}" y="{line:g}" fill="{rgb(text.color)}" font-size="{text.size}" '
        f'text-anchor="{anchor}"{length}{turn}>{xml_text(text.words)}</text>'
    )


def _embedded(pixels: NDArray[np.uint8], name: str, exact: bool) -> str:
    height, width = pixels.shape[:2]
    if exact or height * width <= EMBEDDED_EXACTLY:
        kind, data = "png", png_bytes(pixels)
    else:
        file = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="JPEG", quality=90)
        kind, data = "jpeg", file.getvalue()
    code = base64.b64encode(data).decode("ascii")
    style = ' style="image-rendering:pixelated"' if exact else ""
    return (
        f'<image id="{name}" width="{width}" height="{height}"{style} '
        f'href="data:image/{kind};base64,{code}"/>'
    )


_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(words: str) -> str:
    """Escaped, and without what XML has no place for (a file's name can hold it)."""
    return escape(_FORBIDDEN.sub("\ufffd", words))
