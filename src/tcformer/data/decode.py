"""Encoded bytes to an RGB image, strictly: a damaged file is refused, never half decoded."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from tcformer.errors import UserError

T = TypeVar("T")

_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


class UnreadableImageError(Exception):
    """An image that cannot be decoded; the message says why, without the file's name."""


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode and convert to 8-bit RGB as torchvision's folder loader does.

    EXIF rotation is not applied (the published recipe never did), the first frame of an animation
    is taken, transparency is dropped. 16-bit grey is scaled to 8 bit, which PIL would clip.

    Raises:
        UnreadableImageError: floating-point or 32-bit pixels, whose range is unknown.
    """
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image).astype(np.int64)
        if values.size and (values.min() < 0 or values.max() > 0xFFFF):
            raise UnreadableImageError("its pixels are 32-bit integers of unknown range")
        image = Image.fromarray((values >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise UnreadableImageError("its pixels are floating-point numbers of unknown range")
    return image.convert("RGB")


def decode_pil(data: bytes) -> Image.Image:
    """Decode an image of any format that PIL reads into RGB.

    Raises:
        UnreadableImageError: not an image, truncated, corrupt, or a decompression bomb.
    """
    return _strictly(data, to_rgb)


def decode_labels(data: bytes) -> np.ndarray:
    """Decode an image whose pixels are numbers of classes, with or without a palette.

    Returns:
        (H, W) uint8.

    Raises:
        UnreadableImageError: as `decode_pil`; or its pixels are colours or wider than 8 bits.
    """

    def numbers(image: Image.Image) -> np.ndarray:
        if image.mode not in ("L", "P"):
            raise UnreadableImageError(
                f"it holds {image.mode} pixels where one 8-bit number for each is meant"
            )
        return np.array(image)

    return _strictly(data, numbers)


def _strictly(data: bytes, use: Callable[[Image.Image], T]) -> T:
    # Another library may have switched on the tolerant mode, which fills missing rows with grey.
    tolerant, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's remarks on metadata and on large images
            with Image.open(io.BytesIO(data)) as image:
                return use(image)
    except (UnreadableImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        kind = "the file is empty" if not data else "it is not an image of a known format"
        raise UnreadableImageError(kind) from None
    except Exception as error:  # PIL's plugins raise almost anything on damaged files
        text = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImageError(text) from None
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = tolerant


def require_decoder(decoder: str) -> None:
    """Refuse `torchvision` where its image extension is missing or has been removed.

    Raises:
        UserError: this torchvision cannot decode JPEG files.
    """
    if decoder != "torchvision":
        return
    import torchvision.io

    if not hasattr(torchvision.io, "decode_jpeg") or not hasattr(torch.ops.image, "decode_jpeg"):
        raise UserError(
            "--decoder torchvision needs a torchvision with its image extension, which torchvision "
            f"{torchvision.__version__} lacks: use --decoder pil."
        )


def decode_tensor(data: bytes) -> Tensor:
    """Decode into (3, H, W) uint8: grey and RGB JPEG files by torchvision, all others by PIL.

    Raises:
        UnreadableImageError: as `decode_pil`, which also has the last word on a file that
            torchvision cannot decode.
    """
    image = _fast_jpeg(data)
    return pil_to_tensor(decode_pil(data)) if image is None else image


def _fast_jpeg(data: bytes) -> Tensor | None:
    """The decoded file if it is a sound JPEG that torchvision decodes to the same pixels as PIL.

    PNG is left to PIL on purpose: torchvision's PNG decoder (0.29) crashes the process on damaged
    files, and CMYK is, because the two convert it differently.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    from torchvision.io import decode_jpeg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated since torchvision 0.29, still there
        try:
            # Reads the header only; torchvision knows no limit for decompression bombs.
            with Image.open(io.BytesIO(data)) as header:
                if header.mode not in ("L", "RGB"):
                    return None
            image = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        except Exception:  # PIL says what is wrong with it, or decodes it
            return None
    if image.shape[0] not in (1, 3):
        return None
    return image.expand(3, -1, -1) if image.shape[0] == 1 else image


def pil_to_tensor(image: Image.Image) -> Tensor:
    """RGB image to (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
