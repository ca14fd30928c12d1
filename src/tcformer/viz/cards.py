"""Cards: a heading over a few panels each, laid out side by side on one sheet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tcformer.errors import UserError
from tcformer.viz.sheet import FRAME, MOST_PIXELS, PAPER, Row, contact_sheet

__all__ = ["card_sheet"]

FONT = 16


def card_sheet(
    rows: Sequence[Row], *, across: int = 2, font_size: int = FONT, least_column: int = 0
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
    if size[0] * size[1] > MOST_PIXELS:
        raise UserError(
            f"the sheet would have {size[1]} x {size[0]} pixels, more than programs can open: draw "
            "fewer pictures, or smaller ones"
        )
    sheet = np.full((*size, 3), FRAME, np.uint8)
    top = 0
    for line, height in zip(lines, heights, strict=True):
        for place in range(across):
            left = place * (width + 1)
            sheet[top : top + height, left : left + width] = PAPER
            if place < len(line):
                card = line[place]
                sheet[top : top + card.shape[0], left : left + card.shape[1]] = card
        top += height + 1
    return sheet
