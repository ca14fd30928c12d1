"""What the font that comes with Pillow can write, and how long it gets."""

from __future__ import annotations

import unicodedata
from functools import cache

from PIL import ImageFont

__all__ = ["drawable", "fitted", "text_width", "written"]

_SIZE = 32


def drawable(text: str) -> bool:
    """Whether the font has every character; it would draw a box for one that it lacks."""
    return all(_has(character) for character in text)


@cache
def _has(character: str) -> bool:
    if character.isspace():
        return True
    font = ImageFont.load_default(_SIZE)
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
