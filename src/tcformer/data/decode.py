"""Encoded bytes to an RGB image, strictly: a damaged file is refused, never half decoded."""

from __future__ import annotations

import io
import warnings

import numpy as np
import torch
from PIL import Image, ImageFile
from torch import Tensor

from tcformer.errors import UserError

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
    # Another library may have switched on the tolerant mode, which fills missing rows with grey.
    tolerant, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's remarks on metadata and on large images
            with Image.open(io.BytesIO(data)) as image:
                return to_rgb(image)
    except (UnreadableImageError, MemoryError):
        raise
    except Image.UnidentifiedImageError:
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
        UserError: this torchvision cannot decode images.
    """
    if decoder != "torchvision":
        return
    import torchvision.io

    usable = hasattr(torchvision.io, "decode_jpeg") and hasattr(torchvision.io, "decode_png")
    if not usable or not hasattr(torch.ops.image, "decode_jpeg"):
        raise UserError(
            "--decoder torchvision needs a torchvision with its image extension, which torchvision "
            f"{torchvision.__version__} lacks: use --decoder pil."
        )


def decode_tensor(data: bytes) -> Tensor:
    """Decode into (3, H, W) uint8: JPEG and plain 8-bit PNG by torchvision, the rest by PIL.

    Raises:
        UnreadableImageError: as `decode_pil`, which also has the last word on a file that
            torchvision cannot decode.
    """
    from torchvision import io as tvio

    fast = None
    if data[:3] == b"\xff\xd8\xff":
        fast = tvio.decode_jpeg
    elif data[:8] == b"\x89PNG\r\n\x1a\n" and data[24:25] == b"\x08" and data[25:26] in b"\x00\x02":
        fast = tvio.decode_png  # bit depth 8, grey or RGB: no palette, no alpha
    if fast is not None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # deprecated since torchvision 0.29, still there
                image = fast(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        except RuntimeError:
            image = None
        # Four channels are CMYK (or a PNG's transparent colour): PIL's conversion is the reference.
        if image is not None and image.dtype == torch.uint8 and image.shape[0] in (1, 3):
            return image.expand(3, -1, -1) if image.shape[0] == 1 else image
    return pil_to_tensor(decode_pil(data))


def pil_to_tensor(image: Image.Image) -> Tensor:
    """RGB image to (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
