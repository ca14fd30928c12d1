"""Image files of every kind that users have, each with the pixels that it means."""

from __future__ import annotations

import io
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 40, 56
_RANDOM = np.random.RandomState(3)
COLORS = _RANDOM.randint(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
GRAY = _RANDOM.randint(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)
DEEP = _RANDOM.randint(0, 65536, (HEIGHT, WIDTH)).astype(np.uint16)
ALPHA = np.where(np.arange(WIDTH) < WIDTH // 2, 0, 255).astype(np.uint8) * np.ones_like(GRAY)
SMOOTH = np.stack(np.broadcast_arrays(np.arange(WIDTH) * 4, np.arange(HEIGHT)[:, None] * 6, 90), 2)
SMOOTH = SMOOTH.astype(np.uint8)


class Kind(NamedTuple):
    """A file and the (H, W, 3) uint8 that everything has to read from it."""

    data: bytes
    ending: str
    pixels: np.ndarray


def encode(image: Image.Image | np.ndarray, form: str, **options) -> bytes:
    """The bytes of a file."""
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def png(samples: np.ndarray, bits: int, key: tuple[int, ...]) -> bytes:
    """A PNG of grey or RGB samples of any depth, one value of which (if given) is transparent."""
    height, width = samples.shape[:2]
    color = 2 if samples.ndim == 3 else 0
    if bits == 16:
        rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    else:
        flat = np.unpackbits(samples.astype(np.uint8)[..., None], axis=-1)[..., -bits:]
        rows = np.packbits(flat.reshape(height, -1), axis=1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    parts = [(b"IHDR", header)]
    parts += [(b"tRNS", struct.pack(f">{len(key)}H", *key))] if key else []
    parts += [(b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(samples: np.ndarray, bits: int, photometric: int = 1) -> bytes:
    """A TIFF of grey of any depth; 0 is black, or white with `photometric` 0."""
    height, width = samples.shape
    places = np.arange(bits)[::-1]
    digits = (samples.astype(int)[..., None] >> places & 1).astype(np.uint8).reshape(height, -1)
    packed = samples.astype("<u2") if bits == 16 else np.packbits(digits, axis=1)
    data = packed.tobytes()
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, 0),
            (277, 1), (278, height), (279, len(data))]  # fmt: skip
    start = 8 + 2 + 12 * len(tags) + 4
    entries = [struct.pack("<HHII", t, 4, 1, start if t == 273 else value) for t, value in tags]
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + b"".join(entries) + bytes(4) + data


def grey3(values: np.ndarray) -> np.ndarray:
    """Grey as RGB."""
    return np.repeat(values[..., None].astype(np.uint8), 3, axis=2)


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """What a viewer shows of pixels that were stored with this EXIF orientation."""
    return {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: stored[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(stored, 1),
    }[orientation]


def held(orientation: int) -> Image.Exif:
    """EXIF data of a camera that was held this way."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def _decoded(data: bytes) -> np.ndarray:
    """What Pillow makes of a file without alpha, turns or depth."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def kinds() -> dict[str, Kind]:
    """All of them by name."""
    found: dict[str, Kind] = {}

    def add(name: str, ending: str, data: bytes, pixels: np.ndarray | None = None) -> None:
        found[name] = Kind(data, ending, _decoded(data) if pixels is None else pixels)

    white = np.full_like(COLORS, 255)
    clear = np.where(ALPHA[..., None] == 0, white, COLORS)
    rgba = np.dstack([COLORS, ALPHA])
    add("opaque", "png", encode(COLORS, "PNG"), COLORS)
    for form in ("PNG", "TIFF", "WEBP"):
        options = {"lossless": True, "exact": True} if form == "WEBP" else {}
        add(f"rgba {form}", form.lower(), encode(rgba, form, **options), clear)
    half = np.dstack([np.zeros_like(COLORS), np.full_like(GRAY, 51)])  # a fifth of black
    add("half clear", "png", encode(half, "PNG"), np.full_like(COLORS, 204))
    la = Image.merge("LA", (Image.fromarray(GRAY), Image.fromarray(ALPHA)))
    add("grey with alpha", "png", encode(la, "PNG"), np.where(ALPHA[..., None], grey3(GRAY), 255))

    palette = Image.fromarray(COLORS).quantize(16)
    index, table = np.asarray(palette), np.array(palette.getpalette()).reshape(-1, 3)
    shown = table[index].astype(np.uint8)
    add("palette", "png", encode(palette, "PNG"), shown)
    gone = np.where((index == 3)[..., None], 255, shown).astype(np.uint8)
    add("palette, clear index", "png", encode(palette, "PNG", transparency=3), gone)
    add("palette, GIF", "gif", encode(palette, "GIF", transparency=3, optimize=False), gone)
    several = bytes([255, 0, 255, 0] + [255] * 12)
    gone = np.where(np.isin(index, (1, 3))[..., None], 255, shown).astype(np.uint8)
    add("palette with alpha", "png", encode(palette, "PNG", transparency=several), gone)

    for bits in (1, 2, 4, 8):
        low = GRAY >> (8 - bits)
        full = low.astype(int) * 255 // (2**bits - 1)
        seen = grey3(np.where(low == 1, 255, full))
        add(f"{bits} bit, clear value", "png", png(low, bits, (1,)), seen)
    add("16 bit", "png", encode(DEEP, "PNG"), grey3(DEEP >> 8))
    add("16 bit TIFF", "tif", encode(DEEP, "TIFF"), grey3(DEEP >> 8))
    key = int(DEEP[0, 0])
    add("16 bit, clear value", "png", png(DEEP, 16, (key,)),
        grey3(np.where(key == DEEP, 255, DEEP >> 8)))  # fmt: skip
    wide = COLORS.astype(np.uint16) * 256 + 7
    one = tuple(int(v) for v in wide[0, 0])
    add("16 bit RGB, clear value", "png", png(wide, 16, one),
        np.where((wide == one).all(2)[..., None], 255, COLORS).astype(np.uint8))  # fmt: skip
    add("12 bit TIFF", "tif", tiff(DEEP >> 4, 12), grey3(DEEP >> 8))
    add("16 bit TIFF from white", "tif", tiff(0xFFFF - DEEP, 16, 0), grey3(DEEP >> 8))
    add("4 bit TIFF from white", "tif", tiff(15 - (GRAY >> 4), 4, 0), grey3((GRAY >> 4) * 17))
    add("1 bit", "png", encode(Image.fromarray(GRAY > 99), "PNG"), grey3((GRAY > 99) * 255))
    add("CMYK", "jpg", encode(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG"))
    add("LAB", "tif", encode(Image.fromarray(SMOOTH).convert("LAB"), "TIFF"))
    add("grey JPEG", "jpg", encode(GRAY, "JPEG"))
    add("JPEG 2000", "jp2", encode(COLORS, "JPEG2000"), COLORS)

    frames = [Image.fromarray(COLORS), Image.new("RGB", (WIDTH, HEIGHT), "blue")]
    more = {"save_all": True, "append_images": frames[1:]}
    add("animated WebP", "webp", encode(frames[0], "WEBP", lossless=True, **more), COLORS)
    add("animated PNG", "png", encode(frames[0], "PNG", **more), COLORS)
    add("pages", "tif", encode(frames[0], "TIFF", **more), COLORS)
    still = [frame.quantize(64) for frame in frames]
    first = np.array(still[0].getpalette()).reshape(-1, 3)[np.asarray(still[0])].astype(np.uint8)
    moving = encode(still[0], "GIF", save_all=True, append_images=still[1:])
    add("animated GIF", "gif", moving, first)

    lossless = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}
    lossless["LZW"] = {"compression": "tiff_lzw"}
    for orientation in range(1, 9):
        seen = upright(COLORS, orientation)
        for name, options in lossless.items():
            form = "TIFF" if name == "LZW" else name
            data = encode(COLORS, form, exif=held(orientation), **options)
            add(f"turned {orientation} {name}", form.lower(), data, seen)
        plain = _decoded(encode(SMOOTH, "JPEG"))
        add(f"turned {orientation} JPEG", "jpg", encode(SMOOTH, "JPEG", exif=held(orientation)),
            upright(plain, orientation))  # fmt: skip
    both = encode(rgba, "PNG", exif=held(6))
    add("turned and clear", "png", both, upright(clear, 6))
    broken = encode(SMOOTH, "JPEG", exif=b"Exif\0\0broken data")
    add("broken EXIF", "jpg", broken, _decoded(encode(SMOOTH, "JPEG")))
    if "AVIF" in Image.SAVE:
        add("turned AVIF", "avif", encode(SMOOTH, "AVIF", exif=held(6)),
            upright(_decoded(encode(SMOOTH, "AVIF")), 6))  # fmt: skip
    return found
