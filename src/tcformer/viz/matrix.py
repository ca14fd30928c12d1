"""A confusion matrix as a picture: rows are the truth, columns the answer."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tcformer.errors import UserError, printable
from tcformer.images import as_array, png_bytes
from tcformer.viz.paint import WHITE, Color, enlarge, rgb
from tcformer.viz.sheet import FRAME, INK, drawable, fitted, text_width, written, xml_text

NUMBERED = 40
"""Classes up to which cells hold their numbers; up to `LABELLED` rows and columns have names."""

LABELED = 100

MOST_CLASSES = 2000
"""A picture of more would be larger than screens are, with less than a pixel for a class."""

RIGHT: Color = (0, 108, 122)
WRONG: Color = (205, 72, 10)
EMPTY: Color = (242, 242, 242)
"""Of the row of a class without pictures."""

SIDE = 1000
"""Of the matrix without names, in pixels, about."""

MARGIN, FONT, SMALL_FONT = 14, 14, 10
LONGEST = 190
"""Pixels for a name."""

FINER = 2
"""A PNG has so many pixels for one of the SVG's: text stays sharp on fine screens."""


class _Cell(NamedTuple):
    x: float
    y: float
    width: float
    height: float
    color: Color
    told: str = ""


class _Word(NamedTuple):
    x: float
    y: float
    """of its middle line"""
    text: str
    anchor: str
    """start, middle or end"""
    turned: bool = False
    """reads upwards"""
    color: Color = INK
    size: int = FONT
    otherwise: str = ""
    """instead, where a font lacks its letters"""


@dataclass
class _Plan:
    width: float
    height: float
    cells: list[_Cell] = field(default_factory=list)
    words: list[_Word] = field(default_factory=list)
    frame: tuple[float, float, float] = (0, 0, 0)
    """left, top and side of the matrix"""
    lines: int = 0
    """cells in a row, if lines part them"""
    image: NDArray[np.uint8] | None = None
    """the matrix as pixels, if there are too many cells to draw one by one"""


def matrix_svg(counts: Any, names: Sequence[str], *, numbers: Sequence[int] | None = None) -> str:
    """A confusion matrix as an SVG document.

    Up to 40 classes the cells hold their counts, up to 100 rows and columns have names; beyond,
    the matrix is drawn in pixels, without names.

    Args:
        counts: (C, C) whole numbers, a row for each truth, a column for each answer; array or
            tensor.
        names: C names.
        numbers: C numbers of the classes, which stand for names that a picture of pixels cannot
            write; by default their places.

    Returns:
        well-formed XML, the same for the same input.

    Raises:
        UserError: more than `MOST_CLASSES` classes, none, or as many names as do not fit.
    """
    plan = _plan(counts, names, numbers)
    left, top, side = plan.frame
    parts = [f'<rect width="{plan.width:g}" height="{plan.height:g}" fill="white"/>']
    for cell in plan.cells:
        place = f'x="{cell.x:g}" y="{cell.y:g}" width="{cell.width:g}" height="{cell.height:g}"'
        told = f"<title>{xml_text(cell.told)}</title>" if cell.told else ""
        parts.append(f'<rect {place} fill="{rgb(cell.color)}">{told}</rect>')
    if plan.image is not None:
        code = base64.b64encode(png_bytes(plan.image)).decode("ascii")
        parts.append(
            f'<image x="{left:g}" y="{top:g}" width="{side:g}" height="{side:g}" '
            f'style="image-rendering:pixelated" href="data:image/png;base64,{code}"/>'
        )
    if plan.lines:
        step = side / plan.lines
        path = "".join(
            f"M{left:g} {top + i * step:g}h{side:g}M{left + i * step:g} {top:g}v{side:g}"
            for i in range(1, plan.lines)
        )
        parts.append(f'<path d="{path}" stroke="white"/>')
    parts.append(
        f'<rect x="{left:g}" y="{top:g}" width="{side:g}" height="{side:g}" fill="none" '
        f'stroke="{rgb(FRAME)}"/>'
    )
    for word in plan.words:
        turn = f' transform="rotate(-90 {word.x:g} {word.y:g})"' if word.turned else ""
        size = "" if word.size == FONT else f' font-size="{word.size}"'
        if len(word.text) > 1 and drawable(word.text):  # browsers have wider fonts than planned for
            size += f' textLength="{text_width(word.text, word.size):.1f}"'
            size += ' lengthAdjust="spacingAndGlyphs"'
        parts.append(
            f'<text x="{word.x:g}" y="{word.y:g}" dy="0.35em" text-anchor="{word.anchor}" '
            f'fill="{rgb(word.color)}"{size}{turn}>{xml_text(word.text)}</text>'
        )
    start = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{plan.width:g}" height="{plan.height:g}" '
        f'viewBox="0 0 {plan.width:g} {plan.height:g}" font-size="{FONT}" '
        "font-family=\"'Helvetica Neue',Arial,'Liberation Sans',sans-serif\">"
    )
    return "\n".join([start, *parts, "</svg>", ""])


def matrix_picture(
    counts: Any, names: Sequence[str], *, numbers: Sequence[int] | None = None
) -> NDArray[np.uint8]:
    """The picture of `matrix_svg` as pixels: (height, width, 3) uint8.

    The font has the letters of English: accents are left out, and a name in another script becomes
    "class 7".

    Args:
        counts: as in `matrix_svg`.
        names: as in `matrix_svg`.
        numbers: as in `matrix_svg`.

    Raises:
        UserError: as `matrix_svg`.
    """
    plan = _plan(counts, names, numbers)
    finer = 1 if plan.image is not None else FINER
    sheet = Image.new("RGB", (math.ceil(plan.width) * finer, math.ceil(plan.height) * finer), WHITE)
    draw = ImageDraw.Draw(sheet)
    for x, y, width, height, color, _ in plan.cells:
        corners = (x * finer, y * finer, (x + width) * finer - 1, (y + height) * finer - 1)
        draw.rectangle(tuple(map(round, corners)), fill=color)
    left, top, side = (round(number * finer) for number in plan.frame)
    if plan.image is not None:
        sheet.paste(Image.fromarray(enlarge(plan.image, side // len(plan.image))), (left, top))
    for line in range(1, plan.lines):
        away = round(side * line / plan.lines)
        draw.line((left, top + away, left + side, top + away), fill=WHITE)
        draw.line((left + away, top, left + away, top + side), fill=WHITE)
    draw.rectangle((left - 1, top - 1, left + side, top + side), outline=FRAME)
    for word in plan.words:
        _write(sheet, draw, word, finer)
    return np.asarray(sheet)


def _write(sheet: Image.Image, draw: ImageDraw.ImageDraw, word: _Word, finer: int) -> None:
    text = written(word.text, word.otherwise)
    font = ImageFont.load_default(word.size * finer)
    x, y = word.x * finer, word.y * finer
    letter = {"start": "l", "middle": "m", "end": "r"}[word.anchor]
    if not word.turned:
        draw.text((x, y), text, word.color, font, anchor=f"{letter}m")
        return
    length, high = math.ceil(font.getlength(text)) + 2, 2 * word.size * finer
    strip = Image.new("L", (length, high))
    ImageDraw.Draw(strip).text((1, high / 2), text, 255, font, anchor="lm")
    strip = strip.transpose(Image.Transpose.ROTATE_90)
    below = {"start": 0, "middle": length / 2, "end": length}[word.anchor]
    place = (round(x - high / 2), round(y + below - length))
    sheet.paste(Image.new("RGB", strip.size, word.color), place, strip)


# ---- where everything stands ----------------------------------------------------------------


def _plan(counts: Any, names: Sequence[str], numbers: Sequence[int] | None) -> _Plan:
    matrix = as_array(counts).astype(np.int64)
    size = len(names)
    if matrix.shape != (size, size) or not size:
        raise UserError(f"{size} names do not fit a confusion matrix {matrix.shape}")
    if size > MOST_CLASSES:
        raise UserError(
            f"a confusion matrix of {size} classes is too large for a picture; up to "
            f"{MOST_CLASSES} are drawn"
        )
    numbers = range(size) if numbers is None else numbers
    pictures = matrix.sum(axis=1)
    colors = _colors(matrix, pictures)
    if size > LABELED:
        return _without_names(colors, size)
    font = FONT if size <= NUMBERED else SMALL_FONT
    words = [
        fitted(_one_line(name), LONGEST, lambda text: text_width(text, font)) for name in names
    ]
    spare = [f"class {number}" for number in numbers]
    longest = max(text_width(word, font) for word in words)
    cell = 13.0
    if size <= NUMBERED:
        cell = float(max(28, math.ceil(text_width(str(matrix.max()), FONT)) + 8))
    flat = longest <= cell - 4
    left = MARGIN + FONT + 10 + math.ceil(longest) + 6
    top = MARGIN + FONT + 8 + (font + 8 if flat else math.ceil(longest) + 8)
    side = cell * size
    plan = _Plan(0, 0, frame=(left, top, side), lines=size)
    for row in range(size):
        for column in range(size):
            share = matrix[row, column] / max(1, pictures[row])
            x, y = left + column * cell, top + row * cell
            number = int(matrix[row, column])
            told = f"{names[row]} -> {names[column]}: {number} of {pictures[row]}"
            if number or not pictures[row]:
                color: Color = tuple(colors[row, column].tolist())
                plan.cells.append(_Cell(x, y, cell, cell, color, told if number else ""))
            if number and size <= NUMBERED:
                ink = WHITE if _darkness(row == column, share) > 0.65 else INK
                middle = x + cell / 2, y + cell / 2
                plan.words.append(_Word(*middle, str(number), "middle", color=ink))
    for place, (word, instead) in enumerate(zip(words, spare, strict=True)):
        away = (place + 0.5) * cell
        plan.words.append(_Word(left - 6, top + away, word, "end", size=font, otherwise=instead))
        if flat:
            above = _Word(left + away, top - 4 - font / 2, word, "middle", otherwise=instead)
        else:
            above = _Word(left + away, top - 6, word, "start", True, otherwise=instead)
        plan.words.append(above._replace(size=font))
        recall = "-"
        if pictures[place]:
            recall = f"{100 * matrix[place, place] / pictures[place]:.0f} %"
        right = left + side + 10 + text_width("100 %", font)
        plan.words.append(_Word(right, top + away, recall, "end", size=font))
    plan.words.append(_Word(right, top - 4 - font / 2, "right", "end", size=font))
    _finish(plan, right + MARGIN)
    return plan


def _without_names(colors: NDArray[np.uint8], size: int) -> _Plan:
    left, top = MARGIN + FONT + 10, MARGIN + FONT + 8
    side = size * max(1, SIDE // size)
    plan = _Plan(0, 0, frame=(left, top, side), image=colors)
    _finish(plan, left + side + MARGIN, f" ({size} classes in their order)")
    return plan


def _finish(plan: _Plan, width: float, more: str = "") -> None:
    """Axes, what the colors mean, and the size of all."""
    left, top, side = plan.frame
    plan.words.append(_Word(left + side / 2, MARGIN + FONT / 2, f"answer{more}", "middle"))
    plan.words.append(_Word(MARGIN + FONT / 2, top + side / 2, f"truth{more}", "middle", True))
    line, x = top + side + MARGIN + FONT / 2, float(left)
    lines = [line]
    for words, color in (
        ("right", RIGHT),
        ("wrong", WRONG),
        ("the darker, the larger a part of the row", None),
    ):
        needed = text_width(words, FONT) + (FONT + 20 if color else 0)
        if x > left and x + needed > max(width, left + 190):
            x = float(left)
            lines.append(lines[-1] + 1.5 * FONT)
        if color:
            plan.cells.append(_Cell(x, lines[-1] - FONT / 2, FONT, FONT, color))
            x += FONT + 6
        plan.words.append(_Word(x, lines[-1], words, "start"))
        x += text_width(words, FONT) + 18
        width = max(width, x)
    plan.width, plan.height = math.ceil(width), math.ceil(lines[-1] + FONT / 2 + MARGIN)


def _darkness(right: bool, share: float) -> float:
    """0 to 1. Mistakes are rare, so their shade grows with the root of their share."""
    return share if right else math.sqrt(share)


def _colors(matrix: NDArray[np.int64], pictures: NDArray[np.int64]) -> NDArray[np.uint8]:
    """(C, C, 3) uint8."""
    share = matrix / np.maximum(1, pictures)[:, None]
    diagonal = np.eye(len(matrix), dtype=bool)
    # One picture of many is to be seen, too, all the more in a cell of one pixel.
    least = 0.15 if len(matrix) <= LABELED else 0.6
    level = np.where(diagonal, share, np.sqrt(share))
    level = np.where(matrix > 0, np.maximum(level, least), 0)
    whole = np.floor(level * 1000 + 0.5).astype(np.int64)[..., None]
    target = np.where(diagonal[..., None], np.array(RIGHT), np.array(WRONG))
    colors = 255 + (target - 255) * whole // 1000
    colors[pictures == 0] = EMPTY
    return colors.astype(np.uint8)


def _one_line(name: str) -> str:
    return printable(" ".join(name.split())) or repr(name)
