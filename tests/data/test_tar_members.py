"""The members of .tar files: Python's on sound archives, a sentence on others."""

import contextlib
import io
import tarfile

import numpy as np
import pytest

from tcformer.data.shards import members
from tcformer.errors import UserError

NAMES = ["a.jpg", "d/" * 40 + "b.jpg", "x" * 300 + ".jpg", "ü/日本.jpg", "-", "a.jpg"]


def archive(path, names=NAMES, form=tarfile.PAX_FORMAT):
    with tarfile.open(path, "w", format=form) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            content = bytes([number]) * (number * 511)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
            folder = tarfile.TarInfo(f"folder{number}")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            link = tarfile.TarInfo(f"link{number}")
            link.type, link.linkname = tarfile.SYMTYPE, "../" * 50 + "y" * 200
            tar.addfile(link)
    return path


@pytest.mark.parametrize("form", ["PAX", "GNU", "USTAR"])
def test_sound_archives_are_read_as_python_reads_them(tmp_path, write_tar, form):
    if form == "USTAR":  # which has no room for longer names
        names = [(name, b"abc") for name in ("short.jpg", "d/" * 60 + "long.jpg")]
        file = write_tar(tmp_path / "a.tar", names, tarfile.USTAR_FORMAT)
    else:
        file = archive(tmp_path / "a.tar", NAMES, getattr(tarfile, f"{form}_FORMAT"))
    with tarfile.open(file) as tar:
        expected = [(m.name, m.offset_data, m.size) for m in tar if m.isfile()]
    assert [tuple(m) for m in members(file)] == expected
    assert list(members(file, nested=True)) == list(members(file))


def resealed(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def extended(records: bytes) -> bytes:
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    return info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


def one(size: bytes | None = None, kind: bytes = b"0") -> bytes:
    header = bytearray(tarfile.TarInfo("a.jpg").tobuf(tarfile.USTAR_FORMAT))
    header[156:157] = kind
    if size is not None:
        header[124:136] = size
    return resealed(header)


END = bytes(1024)


DAMAGED = {
    "minus 256 bytes": (one(b"\xff" + b"\xff" * 10 + b"\x00") + END, "no size"),
    "more bytes than there are": (one(b"\x80" + b"\x7f" * 11) + END, "cannot be read"),
    "minus 1 byte": (one(b"-0000000001\0") + END, "cannot be read"),
    "extended, minus 512 bytes": (
        extended(b"13 size=-512\n") + one() + END,
        "no size",
    ),
    "extended, too many": (
        extended(b"23 size=99999999999999\n") + one() + END,
        "trunc",
    ),
    "holes": (one(kind=b"S") + END, "holes"),
    "a name of megabytes": (one(b"00010000000\0", b"L") + bytes(1 << 22) + END, "header of a file"),
    "zeros": (bytes(20000), "zeros"),
    "text": (b"hello" * 300, "no .tar file"),
    "no end": (one(), "truncated"),
    "no second header": (one() + b"\1" + bytes(2000), "it is damaged"),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_what_python_would_go_round_in_or_pass_over_is_refused(tmp_path, kind):
    content, words = DAMAGED[kind]
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(UserError, match=words):
        list(members(tmp_path / "a.tar"))


@pytest.mark.parametrize("records", [b"0 a=b\n", b"1" * 400, b"22 GNU.sparse.major=1\n"])
def test_odd_extended_headers_end(tmp_path, records):
    (tmp_path / "a.tar").write_bytes(extended(records) + one() + END)
    with contextlib.suppress(UserError):  # of later Pythons
        assert [member.name for member in members(tmp_path / "a.tar")] == ["a.jpg"]


def test_archives_in_archives_are_looked_at(tmp_path, write_tar):
    inner = extended(b"13 size=-512\n") + one() + END
    for _ in range(2):
        inner = write_tar(tmp_path / "a.tar", [("b.tar", inner)]).read_bytes()
    assert len(list(members(tmp_path / "a.tar"))) == 1
    with pytest.raises(UserError, match="no size"):
        list(members(tmp_path / "a.tar", nested=True))


def test_damaged_archives_give_a_sentence_or_places_inside_the_file(tmp_path):
    whole = archive(tmp_path / "a.tar").read_bytes()
    random = np.random.RandomState(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole[: random.randint(1, len(whole) + 1)])
        for position in random.randint(0, len(damaged), random.randint(0, 4)):
            damaged[position] = random.randint(256)
        (tmp_path / "b.tar").write_bytes(damaged)
        try:
            for member in members(tmp_path / "b.tar"):
                assert 0 <= member.offset <= member.offset + member.size <= len(damaged)
        except UserError:
            refused += 1
    assert refused > 50
