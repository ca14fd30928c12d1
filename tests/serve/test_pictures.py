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


def encoded(size=(20, 30), kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (10, 200, 30)).save(file, format=kind, **options)
    return file.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    """A small PNG whose header promises many pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "data",
    [
        b"GIF89a",
        b"no picture",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 30 30\n",
        b"\x00" * 99,
        encoded()[:60],
    ],
)
def test_what_is_no_picture_is_refused(data):
    with pytest.raises(UserError, match=r"^it\.png cannot be shown"):
        decode(Picture("it.png", data))


@pytest.mark.parametrize(
    ("side", "sentence"),
    [
        (8000, "bomb.png has 8000 x 8000 pixels; .* at most 50 million are taken"),
        (20000, "bomb.png cannot be shown, for it has more pixels"),
    ],
)
def test_a_bomb_is_refused_before_it_is_decoded(side, sentence, monkeypatch):
    monkeypatch.setattr(pictures, "decode_rgb", None)
    with pytest.raises(UserError, match=sentence):
        decode(Picture("bomb.png", png_that_claims(side, side)))


def test_a_tiny_picture_is_refused():
    with pytest.raises(UserError, match="8 x 30 pixels; at least 16 on each side"):
        decode(Picture("a", encoded((8, 30))))


def test_the_bytes_arrive_whole():
    data = encoded()
    sent = base64.b64encode(data).decode()
    assert from_browser("C:\\fakepath\\me.png", sent, most_bytes=len(data)) == ("me.png", data)


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
        ("a\nb\x00c\u202e.png", "a\\nb\\x00c\\u202e.png"),
        ("", "the picture"),
        (None, "the picture"),
        ("x" * 300, "x" * 30 + "..." + "x" * 15),
    ],
)
def test_names_are_fit_for_a_sentence(name, clean):
    assert clean_name(name) == clean


def test_the_pictures_kept_have_a_limit():
    kept = Kept(most_bytes=250)
    keys = [kept.keep(Picture(str(i), bytes(100))) for i in range(2)]
    assert kept.get(keys[0]).name == "0"  # used: the other one is older now
    keys.append(kept.keep(Picture("2", bytes(100))))
    assert kept.bytes == 200
    assert kept.get(keys[0]).name == "0"
    with pytest.raises(UserError, match="no longer kept: choose it again"):
        kept.get(keys[1])


def test_the_same_picture_is_kept_once():
    kept = Kept(most_bytes=250)
    assert kept.keep(Picture("a", b"x")) == kept.keep(Picture("a", b"x"))
    assert kept.bytes == 1
