"""Encoded bytes to an RGB image for the network; `tcformer.images` opens the files."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tcformer.errors import UserError
from tcformer.images import UnreadableImageError, decode_strictly, to_rgb

__all__ = [
    "UnreadableImageError",
    "decode_labels",
    "decode_pil",
    "decode_tensor",
    "pil_to_tensor",
    "require_decoder",
    "to_rgb",
]


def decode_pil(data: bytes) -> Image.Image:
    """Decode an image of any format that PIL reads into RGB.

    Raises:
        UnreadableImageError: not an image, truncated, corrupt, or a decompression bomb.
    """
    return decode_strictly(data, to_rgb)


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

    return decode_strictly(data, numbers)


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

    # Reads the header only; torchvision knows no limit for decompression bombs.
    mode, (width, height) = decode_strictly(data, lambda header: (header.mode, header.size))
    if mode not in ("L", "RGB"):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated since torchvision 0.29, still there
        try:
            image = decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        except Exception:  # PIL says what is wrong with it, or decodes it
            return None
    if image.shape[0] not in (1, 3) or image.shape[1:] != (height, width):
        return None
    return image.expand(3, -1, -1) if image.shape[0] == 1 else image


def pil_to_tensor(image: Image.Image) -> Tensor:
    """RGB image to (3, H, W) uint8."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
