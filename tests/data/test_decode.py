import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from tcformer.data.decode import decode_tensor, require_decoder
from tcformer.errors import UserError
from tcformer.images import UnreadableImageError, decode_rgb


def both(data):
    """Decode with both decoders, check that they agree, return (H, W, 3) uint8."""
    image = decode_rgb(data)
    assert image.mode == "RGB"
    tensor = decode_tensor(data)
    assert tensor.dtype == torch.uint8
    pixels = tensor.permute(1, 2, 0).numpy()
    assert np.array_equal(pixels, np.array(image))
    return pixels


@pytest.mark.parametrize(
    "kind", ["RGB JPEG", "L JPEG", "CMYK JPEG", "P PNG", "RGBA PNG", "P GIF", "RGB WEBP", "RGB PPM"]
)
def test_both_decoders_agree_on_every_kind_of_image(kind, picture, encode):
    mode, kind = kind.split()
    data = encode(picture(1).convert(mode), kind)
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(both(data), np.array(image.convert("RGB")))


@pytest.mark.parametrize(
    "image", [Image.new("F", (4, 4)), Image.fromarray(np.full((4, 4), 1 << 20, np.int32))]
)
def test_pixels_of_unknown_range_are_refused(image, encode):
    for decoder in (decode_rgb, decode_tensor):
        with pytest.raises(UnreadableImageError, match="unknown range"):
            decoder(encode(image, "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
@pytest.mark.parametrize("decoder", [decode_rgb, decode_tensor])
def test_truncated_files_are_refused_even_where_pil_was_made_tolerant(
    kind, decoder, picture, encode, monkeypatch
):
    data = encode(picture(3, (60, 40)), kind)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    for keep in (len(data) // 2, len(data) - 60):
        with pytest.raises(UnreadableImageError):
            decoder(data[:keep])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.parametrize("decoder", [decode_rgb, decode_tensor])
def test_other_damage_is_refused_with_a_reason(decoder, picture, encode):
    with pytest.raises(UnreadableImageError, match="the file is empty"):
        decoder(b"")
    with pytest.raises(UnreadableImageError, match="not an image"):
        decoder(b"hello")
    for begin in (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(UnreadableImageError):
            decoder(begin + bytes(50))
    png = bytearray(encode(picture(4), "PNG"))
    png[60] ^= 0xFF
    with pytest.raises(UnreadableImageError):
        decoder(bytes(png))


def test_bombs_never_reach_the_fast_decoder(monkeypatch, encode, picture):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    for kind in ("JPEG", "PNG"):
        with pytest.raises(UnreadableImageError, match="decompression bomb"):
            decode_tensor(encode(picture(5), kind))


def test_a_torchvision_without_decoders_is_refused(monkeypatch):
    require_decoder("torchvision")
    monkeypatch.delattr("torchvision.io.decode_jpeg")
    with pytest.raises(UserError, match="use --decoder pil"):
        require_decoder("torchvision")
    require_decoder("pil")
