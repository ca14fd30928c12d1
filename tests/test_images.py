"""The one place where files become pixels: bounded, strict, and no programs."""

import io
import os
import struct
import subprocess
import sys
import threading
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, ImageFile

from tcformer import images
from tcformer.files import read_whole
from tcformer.images import (
    FORMATS,
    MOST_SCANS,
    TooManyPixelsError,
    UnknownImageError,
    UnreadableImageError,
    decode_strictly,
    to_rgb,
)

Image.init()  # all formats, not only the usual ones
NOISE = Image.fromarray(np.random.RandomState(0).randint(0, 256, (20, 30, 3)).astype(np.uint8))


def encoded(kind, image=NOISE, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM", "GIF", "AVIF"])
def test_formats_of_pixels_are_opened(kind):
    if kind not in Image.SAVE:
        pytest.skip(f"this Pillow writes no {kind}")
    assert kind in FORMATS
    assert decode_strictly(encoded(kind), to_rgb).size == (30, 20)


def test_postscript_is_never_run(monkeypatch):
    def run(*_, **__):
        raise AssertionError("Ghostscript was called")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", run)
    program = encoded("EPS")
    with Image.open(io.BytesIO(program)) as image, pytest.raises(AssertionError, match="called"):
        image.load()  # what Pillow alone would do with it
    with pytest.raises(UnknownImageError, match="PostScript program, which is not run"):
        decode_strictly(program, to_rgb)


@pytest.mark.parametrize("kind", ["PCX", "TGA", "SGI", "ICO", "DDS"])
def test_other_formats_are_not_opened(kind):
    with pytest.raises(UnknownImageError, match="not an image of a known format"):
        decode_strictly(encoded(kind), to_rgb)


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    data = encoded("PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 599)  # Pillow alone would only warn
    with pytest.raises(TooManyPixelsError, match="30 x 20 pixels, and more than 599 could be"):
        decode_strictly(data, lambda _: pytest.fail("it was opened"))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200)
    with pytest.raises(TooManyPixelsError, match="decompression bomb"):
        decode_strictly(data, to_rgb)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 600)
    assert decode_strictly(data, to_rgb).size == (30, 20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode_strictly(data, to_rgb).size == (30, 20)


BOMB = """
import resource, sys
from PIL import Image
from tcformer.files import read_whole
from tcformer.images import UnreadableImageError, decode_strictly, to_rgb
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    try:
        decode_strictly(read_whole(name), to_rgb)
    except UnreadableImageError as error:
        assert "decompression bomb" in str(error), error
    else:
        raise SystemExit(f"{name} was decoded")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_bombs_cost_no_memory(tmp_path):
    side = 13000  # 169 million pixels, which Pillow alone would decode with a warning
    png, gif = (bytearray(encoded(kind, Image.new("L", (64, 64)))) for kind in ("PNG", "GIF"))
    png[16:24] = struct.pack(">II", side, side)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    gif[6:10] = struct.pack("<HH", side, side)
    (tmp_path / "bomb.png").write_bytes(png)
    (tmp_path / "bomb.gif").write_bytes(gif)
    command = [sys.executable, "-c", BOMB, *map(str, tmp_path.iterdir())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100  # MiB


def test_a_jpeg_of_a_thousand_passes_is_refused():
    data = encoded("JPEG", progressive=True)
    passes = data.count(b"\xff\xda")
    assert 5 < passes < 20
    assert decode_strictly(data, to_rgb).size == (30, 20)
    last = data[data.rindex(b"\xff\xda") : -2]
    many = data[:-2] + last * (MOST_SCANS + 1 - passes) + data[-2:]
    with pytest.raises(TooManyPixelsError, match="200 passes"):
        decode_strictly(many, to_rgb)


def test_the_tolerant_mode_is_off_for_every_thread_and_given_back(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    half = encoded("PNG")[:900]
    refused = []

    def read():
        for _ in range(20):
            try:
                decode_strictly(half, to_rgb)
            except UnreadableImageError:
                refused.append(1)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 80
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_the_first_that_is_done_does_not_make_the_others_tolerant(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    first, second = images._no_tolerance(), images._no_tolerance()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False
    second.__exit__(None, None, None)
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_whole_files_only_ordinary_ones(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert read_whole(tmp_path / "a") == b"abc"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    open_files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for name, words in [
        ("pipe", "not an ordinary file"),
        ("loop", "symbolic links"),
        ("none", "No such file"),
        (".", "it is a folder"),
        ("a/b", "Not a directory"),
        ("a\0b", "no file can have this name"),
        ("\ud800", "no file can have this name"),
        ("n" * 300, "name too long"),
    ]:
        with pytest.raises(OSError) as caught:
            read_whole(tmp_path / name)
        assert words in caught.value.strerror, name
    with pytest.raises(OSError, match="3 bytes, more than 2"):
        read_whole(tmp_path / "a", most=2)
    if open_files:
        assert len(os.listdir("/proc/self/fd")) == open_files
