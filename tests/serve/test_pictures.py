"""What visitors send is checked before it is decoded, and each refusal is one sentence."""

import base64
import io
import struct
import zlib

import pytest
from PIL import Image

from tcformer.errors import UserError
from tcformer.serve import pictures
from tcformer.serve.pictures import Kept, Picture, clean_name, decode, from_browser


def encoded(size=(20, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (10, 200, 30)).save(file, format="PNG")
    return file.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A small PNG whose header promises many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


TRUNCATED = encoded()[:60]


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"GIF89a", "cannot be shown"),
        (b"no picture", "cannot be shown"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 30 30\n", "cannot be shown"),
        (TRUNCATED, "cannot be shown"),
        (encoded((8, 30)), "has 8 x 30 pixels; at least 16 on each side"),
        (png_that_claims(8000, 8000), "has 8000 x 8000 pixels; .* at most 50 million are taken"),
        (png_that_claims(20000, 20000), "cannot be shown, for it has more pixels"),
    ],
)
def test_what_is_no_picture_is_refused_before_it_is_decoded(data, sentence, monkeypatch):
    if data != TRUNCATED:
        monkeypatch.setattr(pictures, "decode_rgb", None)
    with pytest.raises(UserError, match=rf"^it\.png {sentence}"):
        decode(Picture("it.png", data))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ("", "is empty: choose another picture"),
        (None, "is empty: choose another picture"),
        (7, "is empty: choose another picture"),
        ("not base64!", "did not arrive whole: choose it again"),
        ("AAAA" * 300_000, r"a has 0\.9 MB, and at most 0\.5 MB are taken: make it smaller"),
    ],
)
def test_what_does_not_arrive_is_refused(data, sentence):
    with pytest.raises(UserError, match=sentence):
        from_browser("a", data, most_bytes=2**19)


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\fakepath\\me.png", "me.png"),
        ("a\nb\x00c\u202e.png", "a\\nb\\x00c\\u202e.png"),
        ("", "the picture"),
        (None, "the picture"),
        ("x" * 300, "x" * 30 + "..." + "x" * 15),
    ],
)
def test_names_are_fit_for_a_sentence_and_the_bytes_arrive_whole(name, clean):
    assert clean_name(name) == clean
    sent = base64.b64encode(encoded()).decode()
    assert from_browser(name, sent, most_bytes=len(encoded())) == (clean, encoded())


def test_the_pictures_kept_have_a_limit():
    kept = Kept(most_bytes=250)
    keys = [kept.keep(Picture(str(i), bytes(100))) for i in (0, 1, 0)]
    assert keys[0] == keys[2]  # kept once, and used: the other one is older now
    keys.append(kept.keep(Picture("2", bytes(100))))
    assert kept.bytes == 200
    assert kept.get(keys[0]).name == "0"
    with pytest.raises(UserError, match="no longer kept: choose it again"):
        kept.get(keys[1])
