"""Pictures that visitors send: limits before decoding, a sentence for everything that is wrong."""

from __future__ import annotations

import base64
import contextlib
import hashlib
from collections import OrderedDict
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tcformer import drawn
from tcformer.errors import UserError, printable
from tcformer.images import LEAST_SIDE, UnreadableImageError, decode_rgb, decode_strictly

MOST_PIXELS = 50 * 10**6
"""Pixels of a picture as it is sent, told by its header before they are decoded to 150 MB."""

MOST_NAME = 60
"""Letters of a file's name that are shown."""


class Picture(NamedTuple):
    """A picture as it was sent."""

    name: str
    data: bytes


def from_browser(name: object, data: object, *, most_bytes: int) -> Picture:
    """What the page sends for a file: its name, and its bytes in base64.

    Raises:
        UserError: it is too large, empty, or no base64.
    """
    short = clean_name(name)
    if not isinstance(data, str) or not data:
        raise UserError(f"{short} is empty: choose another picture")
    if len(data) > -(-most_bytes // 3) * 4:
        raise UserError(
            f"{short} has {len(data) * 3 / 4 / 2**20:.1f} MB, and at most {megabytes(most_bytes)} "
            "are taken: make it smaller and try again"
        )
    try:
        return Picture(short, base64.b64decode(data, validate=True))
    except ValueError:
        raise UserError(f"{short} did not arrive whole: choose it again") from None


def megabytes(count: int) -> str:
    """`20 MB`, `0.5 MB`."""
    return f"{count / 2**20:.3g} MB"


def clean_name(name: object) -> str:
    """A file's name fit for a sentence: no folders, no control characters, not long."""
    text = name if isinstance(name, str) else ""
    text = printable(text.replace("\\", "/").rsplit("/", 1)[-1]).strip()
    if len(text) > MOST_NAME:
        text = f"{text[: MOST_NAME // 2]}...{text[-MOST_NAME // 4 :]}"
    return text or "the picture"


def decode(picture: Picture) -> NDArray[np.uint8]:
    """The picture by the rule of `tcformer.images.to_rgb`, (H, W, 3) uint8.

    Raises:
        UserError: no picture of a known format, damaged, too many pixels or too few.
    """
    name, data = picture
    try:
        width, height = decode_strictly(data, lambda header: header.size)
        if width * height > MOST_PIXELS or min(width, height) < LEAST_SIDE:
            raise UserError(
                f"{name} has {width} x {height} pixels; at least {LEAST_SIDE} on each side and at "
                f"most {MOST_PIXELS // 10**6} million are taken: choose another picture"
            )
        return np.asarray(decode_rgb(data))
    except UnreadableImageError as error:
        raise UserError(f"{name} cannot be shown, for {error}: choose another picture") from None


class Kept:
    """The pictures in use, up to a number of bytes; the one not used for longest goes first.

    Tabs hold a key, not a picture, so a visitor who opens a thousand tabs costs no more than this.
    One thread asks at a time: `page.Desk` sees to it.
    """

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._pictures: OrderedDict[str, Picture] = OrderedDict()

    def keep(self, picture: Picture) -> str:
        """Keep the picture; returns its key."""
        key = hashlib.sha256(picture.name.encode() + b"\0" + picture.data).hexdigest()
        self._pictures[key] = picture
        self._pictures.move_to_end(key)
        while self.bytes > self.most_bytes and len(self._pictures) > 1:
            self._pictures.popitem(last=False)
        return key

    def get(self, key: str) -> Picture:
        """The picture of a key; `UserError` if it had to make room for others."""
        if key not in self._pictures:
            raise UserError("the picture is no longer kept: choose it again")
        self._pictures.move_to_end(key)
        return self._pictures[key]

    @property
    def bytes(self) -> int:
        """What all of them weigh."""
        return sum(len(picture.data) for picture in self._pictures.values())


@cache
def examples() -> dict[str, NDArray[np.uint8]]:
    """Name -> (H, W, 3) uint8. Those with digits are there where scikit-learn is."""
    from tcformer.data.builtin import DigitScenesSource, DigitsSource

    found = {"house": drawn.house(), "person": drawn.person(), "shapes": drawn.shapes()}
    with contextlib.suppress(UserError):
        found["digits on canvas"] = np.asarray(DigitScenesSource("val", 128).read(7)[0])
        found["a digit"] = np.asarray(DigitsSource("val").read(8)[0])
    return found
