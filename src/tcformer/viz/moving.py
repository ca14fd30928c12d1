"""The merging as a moving picture: the image, then stage after stage, fading into each other."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFont

from tcformer.errors import UserError
from tcformer.viz.paint import blend
from tcformer.viz.sheet import Row, caption_width, contact_sheet, plan_sheet

FADE_STEPS = 4
FADE_MS = 70
"""Pictures between two stages, and milliseconds of each."""

MOST_PIXELS = 24 * 2**20
"""Of a frame: twenty-one of them are held in memory."""

MOST_SIDE = {"gif": 65_535, "webp": 16_383}
"""What the formats can hold, in pixels."""


class Frame(NamedTuple):
    """One picture of a moving one."""

    picture: NDArray[np.uint8]
    """(H, W, 3) uint8"""
    milliseconds: int


def merging_frames(
    stages: Sequence[Sequence[Row]], *, seconds: float = 1.4, font_size: int | None = None
) -> list[Frame]:
    """Sheets shown one after the other, each long enough to be read.

    Args:
        stages: the rows of each sheet, the same images in each; panels of equal sizes.
        seconds: how long each stands still; the last one twice as long.
        font_size: as in `contact_sheet`.

    Returns:
        the frames: sheets, and between them pictures that fade from one to the next.

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
        kind: "gif" (256 colours a frame) or "webp" (smaller and truer).

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
    data = io.BytesIO()
    options = {"save_all": True, "duration": durations, "loop": 0}
    if kind == "gif":
        # Dithering would crawl over calm areas while frames fade, and fill the file.
        indexed = [
            picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
            for picture in pictures
        ]
        indexed[0].save(
            data, "GIF", append_images=indexed[1:], optimize=False, disposal=1, **options
        )
        return data.getvalue()
    # Without loss, flat tokens take a quarter of the room, photographs several times as much.
    packed = []
    for lossless, quality in ((True, 60), (False, 82)):
        data = io.BytesIO()
        pictures[0].save(
            data,
            "WEBP",
            append_images=pictures[1:],
            lossless=lossless,
            quality=quality,
            method=4,
            **options,
        )
        packed.append(data.getvalue())
    return min(packed, key=len)
