"""A confusion matrix as a picture: rows are the ground truth, columns the prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tcformer.errors import UserError, printable
from tcformer.images import as_array
from tcformer.viz.canvas import INK, Box, Placed, Sheet, Text, fitted, text_width
from tcformer.viz.paint import WHITE, Color, enlarge

NUMBERED, LABELED = 40, 100
"""Up to so many classes cells hold their counts, and rows and columns have names."""

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


def matrix_svg(counts: Any, names: Sequence[str], *, numbers: Sequence[int] | None = None) -> str:
    """A confusion matrix as an SVG document.

    Up to 40 classes the cells hold their counts, up to 100 rows and columns have names; beyond,
    the matrix is drawn in pixels, without names.

    `counts` are (C, C) whole numbers, a row for each ground truth, a column for each prediction;
    array or tensor. `numbers`, by default the places of the C classes, stand for names that a
    picture of pixels cannot write. Well-formed XML, the same for the same input.

    Raises:
        UserError: more than `MOST_CLASSES` classes, none, or as many names as do not fit.
    """
    return _sheet(counts, names, numbers).svg()


def matrix_picture(
    counts: Any, names: Sequence[str], *, numbers: Sequence[int] | None = None
) -> NDArray[np.uint8]:
    """The picture of `matrix_svg` as pixels: (height, width, 3) uint8.

    The font has the letters of English: accents are left out, and a name in another script becomes
    "class 7". Arguments and errors are those of `matrix_svg`.
    """
    return _sheet(counts, names, numbers).pixels(FINER if len(names) <= LABELED else 1)


def _sheet(counts: Any, names: Sequence[str], numbers: Sequence[int] | None) -> Sheet:
    matrix = as_array(counts).astype(np.int64)
    size = len(names)
    if matrix.shape != (size, size) or not size:
        raise UserError(f"{size} names do not fit a confusion matrix {matrix.shape}")
    if size > MOST_CLASSES:
        raise UserError(
            f"a confusion matrix of {size} classes is too large for a picture; up to "
            f"{MOST_CLASSES} are drawn"
        )
    pictures = matrix.sum(axis=1)
    share = matrix / np.maximum(1, pictures)[:, None]
    # Mistakes are rare, so their shade grows with the root of their share.
    darkness = np.where(np.eye(size, dtype=bool), share, np.sqrt(share))
    colors = _colors(matrix, darkness)
    if size > LABELED:
        return _without_names(colors)
    font, cell = SMALL_FONT, 13
    if size <= NUMBERED:
        font, cell = FONT, max(28, math.ceil(text_width(str(matrix.max()), FONT)) + 8)
    words = [fitted(printable(" ".join(n.split())) or repr(n), LONGEST, font) for n in names]
    longest = max(text_width(word, font) for word in words)
    flat = longest <= cell - 4
    left = MARGIN + FONT + 10 + math.ceil(longest) + 6
    top = MARGIN + FONT + 8 + (font + 8 if flat else math.ceil(longest) + 8)
    side = cell * size
    right = left + side + 10 + text_width("100 %", font)
    sheet = Sheet((0, 0), [Box(left, top, side, side)])
    for row, column in np.argwhere((matrix > 0) | (pictures == 0)[:, None]).tolist():
        x, y, count = left + column * cell, top + row * cell, int(matrix[row, column])
        told = f"{names[row]} -> {names[column]}: {count} of {pictures[row]}" if count else ""
        color: Color = tuple(colors[row, column].tolist())
        # White shows between cells.
        sheet.boxes.append(Box(x + 0.5, y + 0.5, cell - 1, cell - 1, color, told))
        if count and size <= NUMBERED:
            ink = WHITE if darkness[row, column] > 0.65 else INK
            sheet.texts.append(Text(str(count), x + cell / 2, y + cell / 2, FONT, "mm", ink))
    for place, (word, number) in enumerate(zip(words, numbers or range(size), strict=True)):
        away, otherwise = (place + 0.5) * cell, f"class {number}"
        row_name = Text(word, left - 6, top + away, font, "rm", otherwise=otherwise)
        above = top - 4 - font / 2 if flat else top - 6
        column_name = row_name._replace(
            x=left + away, y=above, anchor="mm" if flat else "lm", turned=not flat
        )
        recall = f"{100 * share[place, place]:.0f} %" if pictures[place] else "-"
        sheet.texts += [row_name, column_name, Text(recall, right, top + away, font, "rm")]
    sheet.texts.append(Text("right", right, top - 4 - font / 2, font, "rm"))
    return _finished(sheet, right + MARGIN)


def _without_names(colors: NDArray[np.uint8]) -> Sheet:
    size, left, top = len(colors), MARGIN + FONT + 10, MARGIN + FONT + 8
    picture = enlarge(colors, max(1, SIDE // size))
    side = len(picture)
    sheet = Sheet((0, 0), [Box(left, top, side, side)], [Placed(picture, left, top, exact=True)])
    return _finished(sheet, left + side + MARGIN, f" ({size} classes in their order)")


def _finished(sheet: Sheet, width: float, more: str = "") -> Sheet:
    """Add axes and what the colors mean, and set the size of all."""
    left, top, side, *_ = sheet.boxes[0]
    sheet.texts += [
        Text(f"answer{more}", left + side / 2, MARGIN + FONT / 2, FONT, "mm"),
        Text(f"truth{more}", MARGIN + FONT / 2, top + side / 2, FONT, "mm", turned=True),
    ]
    line, x, shades = (
        top + side + MARGIN + FONT / 2,
        left,
        "the darker, the larger a part of the row",
    )
    for words, color in (("right", RIGHT), ("wrong", WRONG), (shades, None)):
        needed = text_width(words, FONT) + (FONT + 20 if color else 0)
        if x > left and x + needed > max(width, left + 190):
            x, line = left, line + 1.5 * FONT
        if color:
            sheet.boxes.append(Box(x, line - FONT / 2, FONT, FONT, color))
            x += FONT + 6
        sheet.texts.append(Text(words, x, line, FONT))
        x += text_width(words, FONT) + 18
        width = max(width, x)
    sheet.size = math.ceil(line + FONT / 2 + MARGIN), math.ceil(width)
    return sheet


def _colors(matrix: NDArray[np.int64], darkness: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(C, C, 3) uint8."""
    # One picture of many is to be seen, too, all the more in a cell of one pixel.
    least = 0.15 if len(matrix) <= LABELED else 0.6
    level = np.where(matrix > 0, np.maximum(darkness, least), 0)
    whole = np.floor(level * 1000 + 0.5).astype(np.int64)[..., None]
    target = np.full((*matrix.shape, 3), WRONG)
    target[np.diag_indices(len(matrix))] = RIGHT
    colors = 255 + (target - 255) * whole // 1000
    colors[matrix.sum(axis=1) == 0] = EMPTY
    return colors.astype(np.uint8)
