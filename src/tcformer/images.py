"""The one place that says which files are images and how their bytes become pixels.

Whatever trains on, evaluates, shows or serves an image comes through here, so that all of them see
the same pixels. A file is refused, never half decoded, when it is damaged, and before its pixels
are decoded when they are too many. Only formats that hold nothing but pixels are opened: Pillow
would hand PostScript, a program, to Ghostscript. Importing this module does not import torch.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from tcformer.errors import UserError
from tcformer.files import read_whole

T = TypeVar("T")

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "MPO", "AVIF", "JPEG2000")
"""What is opened, by Pillow's names, as far as the installed Pillow can."""

IMAGE_EXTENSIONS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".tif", ".tiff", ".bmp",
    ".pbm", ".pgm", ".ppm", ".pnm", ".gif", ".mpo", ".avif", ".avifs",
    ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx",
)  # fmt: skip
"""How the names of image files end, in small letters: Pillow's endings of `FORMATS`.

Without .pfm, whose pixels are floating-point numbers of unknown range.
"""

_HIDDEN = {
    *("__macosx", "@eadir", "@recycle", "#recycle", "thumbs.db", "desktop.ini", "lost+found"),
    *("$recycle.bin", "system volume information"),
}

MOST_SCANS = 200
"""A JPEG file draws its pixels in so many passes at most; ordinary progressive ones have ten.

Each pass costs time for every pixel and may take ten bytes of the file: a small file of thousands
of passes would keep the decoder busy for hours.
"""

_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
_STRETCHED = {"L;2": 3, "L;4": 15}  # Pillow stretches grays of 2 and 4 bits to 0 ... 255
_RENUMBERED = {
    **dict.fromkeys(("JPEG", "MPO", "JPEG2000"), "a JPEG, which changes numbers"),
    "GIF": "a GIF, whose writers renumber the palette",
}
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a tag of TIFF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_KINDS_TOLD = 8  # endings in the line about what was left out


class UnreadableImageError(Exception):
    """An image that cannot be decoded; the message says why, without the file's name."""


class UnknownImageError(UnreadableImageError):
    """Not an image at all, or of a format that is not opened."""


class TooManyPixelsError(UnreadableImageError):
    """An image that would take too much memory: a decompression bomb, most of the time."""


class NotLabelsError(UnreadableImageError):
    """A sound image whose pixels are no numbers of classes."""


def decode_strictly(data: bytes, use: Callable[[Image.Image], T]) -> T:
    """Open the image in `data`, of one of `FORMATS`, and return what `use` makes of it.

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


def decode_rgb(data: bytes) -> Image.Image:
    """Decode an image file into 8-bit RGB; raises as `decode_strictly` and `to_rgb`."""
    return decode_strictly(data, to_rgb)


def read_picture(source: Any) -> Image.Image:
    """Any image as 8-bit RGB by the rule of `to_rgb`.

    Args:
        source: a path; the bytes of a file; a PIL image; an array (H, W), (H, W, 1), (H, W, 3) or
            (H, W, 4) of uint8, or (H, W) of uint16 or bool; a tensor likewise, or with its
            channels first as torch has them.

    Raises:
        UnreadableImageError: it cannot be read, with the reason and without the name.
    """
    try:
        if isinstance(source, (str, os.PathLike)):
            return decode_rgb(read_whole(source))
        if isinstance(source, bytes):
            return decode_rgb(source)
        if isinstance(source, Image.Image):
            return to_rgb(source)  # of a file that Pillow has opened, but not read yet
        if isinstance(source, np.ndarray) or hasattr(source, "detach"):
            return to_rgb(_from_array(source))
    except FileNotFoundError:
        raise UnreadableImageError("there is no such file") from None
    except IsADirectoryError:
        raise UnreadableImageError("it is a folder; name the images in it") from None
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from None
    raise UnreadableImageError(
        f"a {type(source).__name__} is no picture; give a path, a PIL image or an array"
    )


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read an image file by the rule of `to_rgb`: (H, W, 3) uint8.

    Raises:
        UserError: missing, unreadable, not an image, damaged, or absurdly large.
    """
    try:
        return np.asarray(read_picture(path))
    except UnreadableImageError as error:
        raise UserError(f"cannot read {path}: {error}") from None


def _from_array(values: Any) -> Image.Image:
    if hasattr(values, "detach"):  # a tensor
        if values.ndim == 3 and values.shape[0] in (1, 3, 4) and values.shape[2] not in (3, 4):
            values = values.permute(1, 2, 0)
        if values.is_floating_point():
            raise UnreadableImageError(
                f"it is a tensor of {str(values.dtype).removeprefix('torch.')}; give uint8 from 0 "
                "to 255, before any normalization"
            )
        values = as_array(values)
    shape = values.shape
    if values.ndim == 3 and shape[2] == 1:
        values = values[:, :, 0]
    wide = values.ndim == 2 and values.dtype in (np.uint16, np.bool_)
    flat = values.ndim == 2 or (values.ndim == 3 and shape[2] in (3, 4))
    if not flat or 0 in shape or not (wide or values.dtype == np.uint8):
        raise UnreadableImageError(
            f"it is an array {shape} of {values.dtype}; give (height, width, 3) of uint8 from 0 "
            "to 255"
        )
    return Image.fromarray(np.ascontiguousarray(values))


def to_rgb(image: Image.Image) -> Image.Image:
    """Any opened image as 8-bit RGB, the way a person sees it.

    Turned as its EXIF data says (all eight orientations); transparent pixels composited over white;
    16-bit gray scaled to 8 bits by its high byte, where Pillow alone would clip it; the first frame
    of an animation. Other modes as Pillow converts them.

    Raises:
        UnreadableImageError: floating-point or 32-bit pixels, whose range is unknown.
    """
    stored = _stored_as(image)
    key = _transparent_value(image, stored)
    image.load()
    turn = _TURNS.get(orientation(image))  # asked after loading, where Pillow turns TIFF files
    image = _to_8_bit(image, key, stored)
    if key is not None or {"A", "a"} & set(image.getbands()):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    return image if turn is None else image.transpose(turn)


def decode_labels(data: bytes) -> np.ndarray:
    """Decode an image whose pixels are numbers of classes: gray or indices into a palette.

    It is turned as its own EXIF data says, like the image that it belongs to.

    Returns:
        (H, W) uint8, or uint16 where the file has more than 8 bits.

    Raises:
        UnreadableImageError: as `decode_strictly`.
        NotLabelsError: its pixels are colors, or its format does not keep numbers (JPEG, GIF).
    """

    def numbers(image: Image.Image) -> np.ndarray:
        if image.mode not in ("1", "L", "P", "I", *_SIXTEEN_BIT):
            raise NotLabelsError(
                f"it holds {image.mode} pixels where one whole number for each is meant, gray or a "
                "palette's index"
            )
        why = _RENUMBERED.get(str(image.format))
        if image.info.get("compression") == "jpeg":  # in a TIFF
            why = _RENUMBERED["JPEG"]
        if why:
            raise NotLabelsError(f"it is {why}; PNG keeps them")
        stored = _stored_as(image)
        image.load()
        turn = _TURNS.get(orientation(image))
        values = np.array(image if turn is None else image.transpose(turn))
        if values.dtype.itemsize > 1:
            values, top = _sixteen_bits(values, stored), 0xFFFF
        else:
            values, top = values.astype(np.uint8), 0xFF
        if stored.most:
            values = np.rint(values * (stored.most / top)).astype(values.dtype)
        return values

    return decode_strictly(data, numbers)


def orientation(image: Image.Image) -> int:
    """How the camera was held, EXIF's 1 to 8; 1, upright, where the data is missing or damaged."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises SyntaxError, struct.error and others
        return 1


class _Stored(NamedTuple):
    """How a file stores its pixels, which Pillow tells until they are loaded."""

    mode: str  # Pillow's name for it
    most: int  # the largest gray, which Pillow stretches to that of 8 or 16 bits; 0 if it does not
    inverted: bool  # grays of 16 bits count from white to black, and Pillow leaves it so


def _stored_as(image: Image.Image) -> _Stored:
    tile = next(iter(getattr(image, "tile", None) or ()), None)
    args: Any = tile[3] if tile else ""  # by number: below Pillow 11 a tile is a plain tuple
    mode = str(args if isinstance(args, str) else args[0] if args else "")
    netpbm = tile is not None and tile[0] in ("ppm", "ppm_plain") and len(args) == 2
    most = int(args[1]) if netpbm else _STRETCHED.get(mode[:3], 0)
    white = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    return _Stored(mode, most, white and image.mode in _SIXTEEN_BIT)


def _transparent_value(image: Image.Image, stored: _Stored) -> Any:
    """The value that means transparent, and None without one; in the units of the pixels.

    Pillow leaves it in the units of a PNG file of 2, 4 or 16 bits, and then compares in vain.
    """
    key = image.info.get("transparency")
    if key is None or image.mode not in ("1", "L", "P", "RGB", *_SIXTEEN_BIT):
        return None
    if isinstance(key, int):
        key *= 255 // stored.most if stored.most else 1
    elif isinstance(key, tuple) and stored.mode == "RGB;16B":
        key = tuple(value >> 8 for value in key)
    image.info["transparency"] = key
    return key


def _to_8_bit(image: Image.Image, key: Any, stored: _Stored) -> Image.Image:
    """Grey of 16 bits as 8 bits, with alpha if there is a transparent value; others as they are."""
    if image.mode == "F":
        raise UnreadableImageError("its pixels are floating-point numbers of unknown range")
    if image.mode not in ("I", *_SIXTEEN_BIT):
        return image
    values = _sixteen_bits(np.asarray(image), stored)
    gray = Image.fromarray((values >> (4 if stored.mode == "I;12" else 8)).astype(np.uint8))
    if key is not None:
        gray.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return gray


def _sixteen_bits(values: np.ndarray, stored: _Stored) -> np.ndarray:
    """Grays as uint16, 0 black."""
    if values.size and (values.min() < 0 or values.max() > 0xFFFF):
        raise UnreadableImageError("its pixels are 32-bit integers of unknown range")
    values = values.astype(np.uint16)
    return 0xFFFF - values if stored.inverted else values


def is_hidden(name: str) -> bool:
    """Whether systems and programs hide files and folders of this name: never data, never a class.

    Names that begin with a dot (`._a.jpg`, `.DS_Store`, `.ipynb_checkpoints`) and what archivers,
    file servers and Windows leave behind (`__MACOSX`, `@eaDir`, `Thumbs.db`).
    """
    return name.startswith(".") or name.lower() in _HIDDEN


def is_hidden_path(path: str) -> bool:
    """Whether a file in an archive, or a folder above it there, is hidden."""
    return any(is_hidden(part) for part in path.split("/") if part not in ("", ".", ".."))


class LeftOut:
    """What a search for images passes by, counted, so that it can be said in one line.

    Attributes:
        endings: how many files are no images, by their ending.
        hidden: hidden files and folders (`is_hidden`).
        others: what else was left out and how often, in words.
    """

    def __init__(self) -> None:
        self.endings: Counter[str] = Counter()
        self.hidden = 0
        self.others: Counter[str] = Counter()

    def hides(self, name: str) -> bool:
        """Whether a file or folder is hidden; counts it then."""
        hidden = is_hidden(name)
        self.hidden += hidden
        return hidden

    def wants(self, name: str) -> bool:
        """Whether a file that is not hidden is an image by its ending; counts it otherwise."""
        ending = os.path.splitext(name)[1].lower()
        if ending in IMAGE_EXTENSIONS:
            return True
        self.endings[ending or "without ending"] += 1
        return False

    def add(self, what: str, count: int) -> None:
        """Count what else was left out."""
        if count:
            self.others[what] += count

    def __str__(self) -> str:
        parts = []
        if self.endings:
            kinds = [f"{ending} {count}" for ending, count in self.endings.most_common(_KINDS_TOLD)]
            if len(self.endings) > _KINDS_TOLD:
                kinds.append("...")
            total = sum(self.endings.values())
            what = "file that is no image" if total == 1 else "files that are no images"
            parts.append(f"{total} {what} ({', '.join(kinds)})")
        if self.hidden:
            parts.append(f"{self.hidden} hidden")
        parts += [f"{count} {what}" for what, count in self.others.items()]
        return f"left out {', '.join(parts)}" if parts else ""


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
    """PIL's tolerant mode, which fills missing rows with gray, off, whoever switched it on.

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


# ---- what a network sees --------------------------------------------------------------------

LEAST_SIDE = 16
"""The networks take images from this side on, in pixels."""

MOST_SEEN = 1024 * 1024
"""Pixels of what a network sees: clustering compares every token with every other, so time grows
with the square of the pixels."""


def seen_size(
    original: tuple[int, int],
    size: int | str | None,
    usual: int,
    *,
    what: str = "the picture",
    hint: str = "give another --size",
) -> tuple[int, int]:
    """Height and width for the network: the aspect is kept, the short side is as asked.

    Args:
        original: height and width of the image.
        size: the short side; "full" for the image as it is; None for `usual`, smaller images as
            they are.
        usual: what the network was trained with.
        what: what messages call the image.
        hint: what they advise.

    Raises:
        UserError: a side is shorter than `LEAST_SIDE`, or there are more than `MOST_SEEN` pixels.
    """
    short = min(original)
    height, width = original
    if size != "full" and not (size is None and short <= usual):
        target = usual if size is None else int(size)
        height, width = (max(1, round(side * target / short)) for side in original)
    check_seen((height, width), what=what, hint=hint)
    return height, width


def check_seen(
    size: tuple[int, int], *, what: str = "the picture", hint: str = "give another --size"
) -> None:
    """Refuse sizes (height, width) that a network cannot see, or not in reasonable time.

    Raises:
        UserError: as `seen_size`.
    """
    height, width = size
    if min(size) < LEAST_SIDE or height * width > MOST_SEEN:
        raise UserError(
            f"{what} would be seen as {height} x {width} px, and a network takes at least "
            f"{LEAST_SIDE} px a side and at most {MOST_SEEN // 2**20} million pixels: {hint}"
        )


# ---- arrays ---------------------------------------------------------------------------------


def as_array(values: Any) -> NDArray[Any]:
    """A NumPy array from an array, a nested list or a torch tensor of any device and dtype."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        # NumPy has no bfloat16; float32 holds every value of it and of float16.
        values = (values.float() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def as_rgb(image: Any) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 from (H, W, 3), (H, W, 1) or (H, W) uint8, array or tensor.

    Raises:
        UserError: for any other shape or type; floats are not guessed at, see `unnormalize`.
    """
    pixels = as_array(image)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    shape = pixels.ndim == 3 and pixels.shape[2] in (1, 3) and 0 not in pixels.shape
    if not shape or pixels.dtype != np.uint8:
        raise UserError(
            f"an image has shape (height, width, 3) and type uint8, not {pixels.shape} and "
            f"{pixels.dtype}: turn a batch of the network's inputs into images with viz.unnormalize"
        )
    return np.broadcast_to(pixels, (*pixels.shape[:2], 3))


def unnormalize(
    images: Any, *, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)
) -> NDArray[np.uint8]:
    """Undo a network's input normalization: x * std + mean, clipped to [0, 1], as 8-bit images.

    Args:
        images: (C, H, W) or (B, C, H, W) float, C = 1 or 3; array or tensor.
        mean: mean of each channel (or one for all), on the scale of 0 to 1.
        std: standard deviation, likewise.

    Returns:
        (H, W, 3) or (B, H, W, 3) uint8; one channel is repeated three times.
    """
    values = as_array(images).astype(np.float64)
    if values.ndim not in (3, 4) or values.shape[-3] not in (1, 3):
        raise UserError(
            f"network inputs have shape (3, height, width) or (batch, 3, height, width), "
            f"not {values.shape}"
        )
    channels = values.shape[-3]
    for name, numbers in (("mean", mean), ("std", std)):
        if len(numbers) not in (1, channels):
            raise UserError(f"{name} has {len(numbers)} values for {channels} channels")
    shape = (-1, 1, 1)
    values = values * np.reshape(std, shape) + np.reshape(mean, shape)
    pixels = np.floor(np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)
    pixels = np.moveaxis(pixels, -3, -1)
    return np.repeat(pixels, 3, axis=-1) if channels == 1 else pixels


def resize_image(image: Any, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize to (height, width) with Pillow's antialiased bicubic filter."""
    pixels = np.ascontiguousarray(as_rgb(image))
    if pixels.shape[:2] == tuple(size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC))


_THOROUGH = 8 * 2**20


def png_bytes(picture: Any, *, fast: bool = False) -> bytes:
    """An (H, W, 3) uint8 picture as a PNG file: as small as can be in seconds, or packed `fast`."""
    image = Image.fromarray(np.ascontiguousarray(as_rgb(picture)))
    data = io.BytesIO()
    thorough = not fast and image.width * image.height <= _THOROUGH
    image.save(data, format="PNG", optimize=thorough, compress_level=9 if thorough else 3)
    return data.getvalue()
