"""Image files: of every kind, damaged in every way, and things that only look like them."""

from __future__ import annotations

import functools
import io
import os
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hostile.kinds import IS_ROOT, TRACE, Kind, mutated, strange_name
from tcformer.data import DataSpec, TransformSpec, build_dataset, eval_transform
from tcformer.errors import UserError
from tcformer.images import UnreadableImageError
from tcformer.viz import read_image

_SIZE = (37, 23)


def _picture(mode: str) -> Image.Image:
    noise = np.random.RandomState(0).randint(0, 256, (_SIZE[1], _SIZE[0], 4)).astype(np.uint8)
    smooth = np.add.outer(np.arange(_SIZE[1]), np.arange(_SIZE[0]))[..., None] * 4
    pixels = (noise // 4 + smooth).clip(0, 255).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
    if mode == "I":
        return Image.fromarray(pixels[..., 0].astype(np.int32) * 70_000)
    if mode == "F":
        return Image.fromarray(pixels[..., 0].astype(np.float32))
    if mode in ("CMYK", "RGBA"):
        return Image.fromarray(pixels, mode="RGBA") if mode == "RGBA" else _cmyk(pixels)
    return Image.fromarray(pixels[..., :3]).convert(mode)


def _cmyk(pixels: np.ndarray) -> Image.Image:
    return Image.frombytes("CMYK", _SIZE, pixels.tobytes())


@functools.cache
def sound() -> dict[str, bytes]:
    """Sound files by name, as far as this Pillow can write them."""
    Image.init()
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "words"
    rgb, gray = _picture("RGB"), _picture("L")
    more = [gray.convert("RGB"), rgb.transpose(Image.Transpose.ROTATE_180)]
    frames: dict[str, Any] = {"save_all": True, "append_images": more}
    wanted: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "jpeg": (rgb, "JPEG", {}),
        "jpeg-progressive": (rgb, "JPEG", {"progressive": True}),
        "jpeg-grey": (gray, "JPEG", {"quality": 30}),
        "jpeg-cmyk": (_picture("CMYK"), "JPEG", {}),
        "jpeg-turned": (rgb, "JPEG", {"exif": exif}),
        "jpeg-icc": (rgb, "JPEG", {"icc_profile": bytes(500), "comment": b"words" * 20}),
        "jpeg-restarts": (rgb, "JPEG", {"restart_marker_rows": 1, "subsampling": 2}),
        "mpo": (rgb, "MPO", frames),
        "png": (rgb, "PNG", {}),
        "png-grey": (gray, "PNG", {}),
        "png-bits": (_picture("1"), "PNG", {}),
        "png-palette": (_picture("P"), "PNG", {}),
        "png-see-through": (_picture("P"), "PNG", {"transparency": bytes(range(256))}),
        "png-alpha": (_picture("RGBA"), "PNG", {}),
        "png-grey-alpha": (_picture("LA"), "PNG", {}),
        "png-deep": (_picture("I;16"), "PNG", {}),
        "png-turned": (rgb, "PNG", {"exif": exif}),
        "png-moving": (rgb, "PNG", frames),
        "gif": (_picture("P"), "GIF", {}),
        "gif-moving": (rgb, "GIF", {**frames, "transparency": 0, "disposal": 2}),
        "webp": (rgb, "WEBP", {}),
        "webp-lossless": (_picture("RGBA"), "WEBP", {"lossless": True}),
        "webp-moving": (rgb, "WEBP", frames),
        "tiff": (rgb, "TIFF", {}),
        "tiff-lzw": (rgb, "TIFF", {"compression": "tiff_lzw"}),
        "tiff-deflate": (_picture("I;16"), "TIFF", {"compression": "tiff_adobe_deflate"}),
        "tiff-jpeg": (rgb, "TIFF", {"compression": "jpeg"}),
        "tiff-float": (_picture("F"), "TIFF", {}),
        "tiff-long": (_picture("I"), "TIFF", {}),
        "tiff-cmyk": (_picture("CMYK"), "TIFF", {}),
        "tiff-pages": (rgb, "TIFF", frames),
        "bmp": (rgb, "BMP", {}),
        "bmp-palette": (_picture("P"), "BMP", {}),
        "ppm": (rgb, "PPM", {}),
        "pgm": (gray, "PPM", {}),
        "avif": (rgb, "AVIF", {}),
        "jp2": (rgb, "JPEG2000", {}),
        "eps": (rgb, "EPS", {}),
        "tga": (rgb, "TGA", {}),
        "ico": (rgb, "ICO", {"sizes": [(16, 16)]}),
        "pcx": (rgb, "PCX", {}),
        "sgi": (rgb, "SGI", {}),
        "dds": (rgb, "DDS", {}),
    }  # fmt: skip
    files = {}
    for name, (image, kind, options) in wanted.items():
        if kind in Image.SAVE:
            stream = io.BytesIO()
            if "append_images" in options:  # saving leaves settings on an image: copies
                options = {**options, "append_images": [page.copy() for page in more]}
            image.copy().save(stream, kind, **options)
            files[name] = stream.getvalue()
    return files


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _bomb(rng: random.Random) -> bytes:
    """A small file that claims to be a large picture, or many."""
    side = rng.choice((9460, 13000, 30000, 65535, 1 << 20, (1 << 31) - 1))
    how = rng.randrange(7)
    if how == 0:
        head = struct.pack(">IIBBBBB", side, side, rng.choice((1, 8, 16)), 0, 0, 0, 0)
        rows = zlib.compress(bytes(1 << 20), 9) * rng.randint(1, 4)
        return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", rows)
    if how == 1:
        text = rng.choice((b"zTXt", b"iTXt", b"iCCP"))
        middle = {b"zTXt": b"k\0\0", b"iTXt": b"k\0\1\0\0\0", b"iCCP": b"k\0\0"}[text]
        body = middle + zlib.compress(bytes(50_000_000), 9)
        png = sound()["png"]
        return png[:33] + _chunk(text, body) * rng.randint(1, 40) + png[33:]
    if how == 2:
        gif = bytearray(sound()["gif"])
        gif[6:10] = struct.pack("<HH", min(side, 65535), min(side, 65535))
        return bytes(gif)
    if how == 3:
        side = min(side, 65535)
        jpeg = bytearray(sound()[rng.choice(("jpeg", "jpeg-progressive", "jpeg-grey"))])
        start = next(i for i in range(len(jpeg)) if jpeg[i] == 0xFF and jpeg[i + 1] in (0xC0, 0xC2))
        jpeg[start + 5 : start + 9] = struct.pack(">HH", side, side)
        return bytes(jpeg)
    if how == 4:
        jpeg = sound()["jpeg-progressive"]
        last = jpeg[jpeg.rindex(b"\xff\xda") : -2]
        return jpeg[:-2] + last * rng.choice((10, 189, 5000)) + jpeg[-2:]
    if how == 5:
        ppm = rng.choice((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf"))
        return ppm + b" %d %d 255\n" % (side, rng.choice((side, 1))) + bytes(1000)
    bmp = bytearray(sound()["bmp"])
    bmp[18:26] = struct.pack("<ii", side, rng.choice((side, -side, 1)))
    return bytes(bmp)


def _lie(rng: random.Random) -> bytes:
    """A file that is none of what it begins like."""
    starts = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\xff\xff\0\0WEBP", b"II*\0",
              b"MM\0*", b"BM", b"P6 ", b"\0\0\0 ftypavif", b"%!PS-Adobe-3.0 EPSF-3.0\n",
              b"%PDF-1.7", b"<svg xmlns=", b"\0\0\0\x0cjP  \r\n\x87\n", b"8BPS", b"")  # fmt: skip
    return rng.choice(starts) + rng.randbytes(rng.randrange(2000))


def _program(rng: random.Random) -> bytes:
    """PostScript, which Pillow hands to Ghostscript, inside and outside of EPS."""
    eps = sound().get("eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
    order = f"({TRACE}) (w) file closefile\n".encode()
    binary = b"\xc5\xd0\xd3\xc6" + struct.pack("<II", 32, len(eps)) + bytes(20)
    return rng.choice((b"", binary)) + eps.replace(b"%%EndComments\n", b"%%EndComments\n" + order)


def hostile_bytes(rng: random.Random) -> bytes:
    """What stands in a hostile image file."""
    files = list(sound().values())
    how = rng.random()
    if how < 0.70:
        data = mutated(rng, rng.choice(files))
        return mutated(rng, data) if rng.random() < 0.3 else data
    if how < 0.78:
        return rng.choice(files)
    if how < 0.86:
        return _bomb(rng)
    if how < 0.92:
        return _lie(rng)
    if how < 0.94:
        return _program(rng)
    if how < 0.97:
        one, other = rng.choice(files), rng.choice(files)
        return one[: rng.randrange(len(one))] + other[rng.randrange(len(other)) :]
    return rng.choice((b"", bytes(1), bytes(5000), b"\xff" * 500, b"not an image\n" * 50))


def _odd_file(rng: random.Random, path: Path) -> None:
    """Something of that name that is no ordinary file."""
    how = rng.randrange(9)
    if how == 0:
        path.mkdir()
    elif how == 1:
        os.mkfifo(path)
    elif how == 2:
        path.symlink_to(path.name)
    elif how == 3:
        path.symlink_to("nowhere")
    elif how == 4:
        path.symlink_to(rng.choice(("/dev/zero", "/dev/null", "/dev/full", "/proc/self/mem")))
    elif how == 5:
        path.write_bytes(sound()["png"])
        os.chmod(path, 0 if not IS_ROOT else 0o600)
    elif how == 6:
        with open(path, "wb") as stream:  # holes take no space
            stream.truncate(rng.choice((1 << 31, 1 << 40)))
    elif how == 7:
        path.symlink_to(rng.choice(("..", ".", "/")))
    else:
        (path.parent / "other").symlink_to(path.name)
        path.symlink_to("other")


def _place(rng: random.Random, folder: Path) -> Path:
    """An image folder with one class and one file of any name in it."""
    ending = rng.choice((".jpg", ".jpeg", ".png", ".JPEG", ".tif", ".webp", ".bmp", ".ppm"))
    stem = strange_name(rng) if rng.random() < 0.1 else "image"
    path = folder / "val" / "a class" / (stem + ending)
    path.parent.mkdir(parents=True)
    return path


def _make(rng: random.Random, folder: Path) -> Path:
    path = _place(rng, folder)
    path.write_bytes(hostile_bytes(rng))
    return path


def _make_odd(rng: random.Random, folder: Path) -> Path:
    path = _place(rng, folder)
    _odd_file(rng, path)
    return path


_TRANSFORM = functools.cache(lambda: eval_transform(TransformSpec(input_size=32)))


def read_everywhere(path: Path) -> None:
    """As training, evaluation and `show` do it; all refuse a file or all give pixels."""
    root = str(path.parents[2])
    outcomes = [_outcome(lambda d=d: _evaluated(root, d)) for d in ("pil", "torchvision")] + [
        _outcome(lambda: _shown(path))
    ]
    trained = build_dataset(DataSpec(root, "IMNET"), "val", _TRANSFORM())
    trained.skip_corrupt = True
    item = trained[0]
    if (item.image is None) != (outcomes[0] is not None):
        raise AssertionError(f"training and evaluation disagree: {item.reason!r}, {outcomes[0]!r}")
    for refusal in outcomes:
        if refusal is not None:
            raise refusal


def _outcome(read: Callable[[], None]) -> Exception | None:
    try:
        read()
    except (UserError, UnreadableImageError) as refusal:
        return refusal
    return None


def _evaluated(root: str, decoder: str) -> None:
    item = build_dataset(DataSpec(root, "IMNET", decoder=decoder), "val", _TRANSFORM())[0]
    assert item.image.shape == (3, 32, 32)
    assert bool(torch.isfinite(item.image).all())


def _shown(path: Path) -> None:
    picture = read_image(path)
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3


KINDS = [
    Kind("image files", _make, read_everywhere, share=40),
    Kind("image files that are none", _make_odd, read_everywhere, share=3),
]
