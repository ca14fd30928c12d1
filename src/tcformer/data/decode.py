"""Encoded bytes as tensors; `tcformer.images` opens the files and has the rules."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tcformer.errors import UserError
from tcformer.images import decode_rgb, decode_strictly, orientation

__all__ = ["decode_tensor", "pil_to_tensor", "require_decoder"]


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
    """Decode into (3, H, W) uint8, the pixels of `decode_rgb`; most JPEG files by torchvision.

    Raises:
        UnreadableImageError: as `decode_rgb`, which also has the last word on a file that
            torchvision cannot decode.
    """
    image = _fast_jpeg(data)
    return pil_to_tensor(decode_rgb(data)) if image is None else image


def _fast_jpeg(data: bytes) -> Tensor | None:
    """The decoded file if it is a sound JPEG that torchvision decodes to the same pixels as PIL.

    PNG is left to PIL on purpose: torchvision's PNG decoder (0.29) crashes the process on damaged
    files, and CMYK is, because the two convert it differently. So is what has to be turned.
    """
    if data[:3] != b"\xff\xd8\xff":
        return None
    from torchvision.io import decode_jpeg

    # Reads the header only; torchvision knows no limit for decompression bombs.
    mode, (width, height), held = decode_strictly(
        data, lambda header: (header.mode, header.size, orientation(header))
    )
    if mode not in ("L", "RGB") or held != 1:
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
