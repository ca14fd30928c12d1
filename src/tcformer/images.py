"""The one place where the bytes of an image file become pixels: strictly, and within bounds.

Whatever shows, trains on or serves an image comes through here. A file is refused, never half
decoded, when it is damaged, and before its pixels are decoded when they are too many. Only formats
that hold nothing but pixels are opened: Pillow would hand PostScript, a program, to Ghostscript.
Importing this module does not import torch.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

T = TypeVar("T")

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "MPO", "AVIF", "JPEG2000")
"""What is opened, by Pillow's names, as far as the installed Pillow can."""

MOST_SCANS = 200
"""A JPEG file draws its pixels in so many passes at most; ordinary progressive ones have ten.

Each pass costs time for every pixel and may take ten bytes of the file: a small file of thousands
of passes would keep the decoder busy for hours.
"""

_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")


class UnreadableImageError(Exception):
    """An image that cannot be decoded; the message says why, without the file's name."""


class UnknownImageError(UnreadableImageError):
    """Not an image at all, or of a format that is not opened."""


class TooManyPixelsError(UnreadableImageError):
    """An image that would take too much memory: a decompression bomb, most of the time."""


def decode_strictly(data: bytes, use: Callable[[Image.Image], T]) -> T:
    """Open the image in `data` and return what `use` makes of it.

    Args:
        data: the bytes of a file in one of `FORMATS`.
        use: is given the opened image, which it decodes as it likes.

    Raises:
        UnreadableImageError: not an image, truncated, corrupt, or a decompression bomb: more
            pixels than `PIL.Image.MAX_IMAGE_PIXELS` (None there lifts the limit).
    """
    if data.startswith(b"\xff\xd8") and data.count(b"\xff\xda") > MOST_SCANS:
        raise TooManyPixelsError(
            f"it draws its pixels in more than {MOST_SCANS} passes, like a decompression bomb"
        )
    try:
        with _no_tolerance(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's remarks on metadata and on large images
            with Image.open(io.BytesIO(data), formats=_formats()) as image:
                _refuse_bomb(image)
                return use(image)
    except UnreadableImageError:
        raise
    except UnidentifiedImageError:
        raise UnknownImageError(_what_else(data)) from None
    except Image.DecompressionBombError:
        raise TooManyPixelsError(_too_many("more pixels")) from None
    except MemoryError:
        raise TooManyPixelsError("its pixels do not fit into memory") from None
    except Exception as error:  # PIL's plugins raise almost anything on damaged files
        text = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(text) from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode and convert to 8-bit RGB as torchvision's folder loader does.

    EXIF rotation is not applied (the published recipe never did), the first frame of an animation
    is taken, transparency is dropped. 16-bit grey is scaled to 8 bit, which PIL would clip.

    Raises:
        UnreadableImageError: floating-point or 32-bit pixels, whose range is unknown.
    """
    return grey_to_8_bit(image, lambda values: values >> 8).convert("RGB")


def grey_to_8_bit(image: Image.Image, scale: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    """16-bit grey through `scale` (to 0 ... 255) as an 8-bit image; other images as they are.

    Raises:
        UnreadableImageError: floating-point or 32-bit pixels, whose range is unknown.
    """
    if image.mode in _SIXTEEN_BIT:
        return Image.fromarray(scale(np.asarray(image)).astype(np.uint8))
    if image.mode == "I":
        values = np.asarray(image)
        if values.size and (values.min() < 0 or values.max() > 0xFFFF):
            raise UnreadableImageError("its pixels are 32-bit integers of unknown range")
        return Image.fromarray(scale(values).astype(np.uint8))
    if image.mode == "F":
        raise UnreadableImageError("its pixels are floating-point numbers of unknown range")
    return image


@functools.cache
def _formats() -> list[str]:
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _refuse_bomb(image: Image.Image) -> None:
    # PIL only warns between one and two times its own limit; at 4 bytes a pixel and a copy or two,
    # that is gigabytes in every worker.
    width, height = image.size
    if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
        raise TooManyPixelsError(_too_many(f"{width} x {height} pixels"))


def _too_many(has: str) -> str:
    return f"it has {has}, and more than {Image.MAX_IMAGE_PIXELS:,} could be a decompression bomb"


def _what_else(data: bytes) -> str:
    if not data:
        return "the file is empty"
    if data.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6")):
        return "it is a PostScript program, which is not run"
    return "it is not an image of a known format"


class _Tolerance:
    """How many threads want PIL strict now, and whether it was tolerant before."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """As at the beginning."""
        self.lock, self.inside, self.wanted = threading.Lock(), 0, False


_tolerance = _Tolerance()
if hasattr(os, "register_at_fork"):
    # A child has one thread: what others held or counted in the parent is nobody's there.
    os.register_at_fork(after_in_child=_tolerance.start)


@contextlib.contextmanager
def _no_tolerance() -> Iterator[None]:
    """PIL's tolerant mode, which fills missing rows with grey, off, whoever switched it on.

    It is given back by the last of several threads: the first would switch it on for the others.
    """
    with _tolerance.lock:
        _tolerance.inside += 1
        if ImageFile.LOAD_TRUNCATED_IMAGES:
            _tolerance.wanted, ImageFile.LOAD_TRUNCATED_IMAGES = True, False
    try:
        yield
    finally:
        with _tolerance.lock:
            _tolerance.inside -= 1
            if _tolerance.wanted and not _tolerance.inside:
                _tolerance.wanted, ImageFile.LOAD_TRUNCATED_IMAGES = False, True
