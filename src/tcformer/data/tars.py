"""What is in a .tar file: names, places and sizes, and nothing that a damaged one could do.

Python's tarfile goes in circles over headers with negative sizes (CVE-2025-8194) and takes hours
over some extended ones (CVE-2024-6232), in Pythons that are still in use. This reader goes forwards
only, looks at no data but long names, and refuses what archives of images do not hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tcformer.errors import UserError
from tcformer.images import is_hidden_path

BLOCK = 512
_LONGEST_HEADER = 1 << 16  # of names that do not fit; a path has 4096 bytes at most
_WITHOUT_DATA = b"123456"  # links, devices, folders, pipes
_EMPTY = 10240  # bytes that tar writes for an archive of nothing
_DEEPEST = 3  # archives in archives


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    offset: int  # bytes from the start of the archive
    size: int  # bytes


class _DamagedError(Exception):
    pass


def members(path: Path, *, nested: bool = False) -> Iterator[Member]:
    """The ordinary files of an uncompressed archive, in order; only headers are read.

    Args:
        path: the archive.
        nested: take the files of a .tar file in it, named NAME.tar/FILE, instead of that one.

    Raises:
        UserError: it cannot be read, is truncated, damaged, or no .tar file.
    """
    try:
        with open(path, "rb") as stream:
            size = path.stat().st_size
            yield from _deep_scan(stream, 0, size, 1) if nested else _scan(stream, 0, size)
    except (OSError, _DamagedError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"The archive {path} cannot be read: {why}; copy it again.") from None


def _deep_scan(stream: BinaryIO, start: int, end: int, depth: int) -> Iterator[Member]:
    if depth > _DEEPEST:
        raise _DamagedError(f"archives are nested more than {_DEEPEST} deep in it")
    for member in _scan(stream, start, end):
        if not member.name.lower().endswith(".tar") or is_hidden_path(member.name):
            yield member
            continue
        inside = _deep_scan(stream, member.offset, member.offset + member.size, depth + 1)
        for name, offset, size in inside:
            yield Member(f"{member.name}/{name}", offset, size)


def _scan(stream: BinaryIO, start: int, end: int) -> Iterator[Member]:
    """The files of the archive between two positions of `stream`."""
    position = start
    long_name: str | None = None
    size_to_come: int | None = None
    while True:
        stream.seek(position)
        header = stream.read(BLOCK)
        if len(header) < BLOCK or position + BLOCK > end:
            raise _DamagedError("it has no end mark, so it is truncated")
        if not header.strip(b"\0"):
            if position == start and end - start > _EMPTY:
                raise _DamagedError("it begins with zeros instead of a file")
            return
        if not _sum_fits(header):
            what = "it is no .tar file" if position == start else "it is damaged"
            raise _DamagedError(f"{what} (no header at byte {position - start})")
        kind = header[156:157]
        size = _number(header[124:136])
        if size_to_come is not None and kind not in b"Lx":
            size = size_to_come
        data, position = position + BLOCK, position + BLOCK
        if kind not in _WITHOUT_DATA or kind == b"":
            position += -(-size // BLOCK) * BLOCK
        if data + size > end and kind not in _WITHOUT_DATA:
            raise _DamagedError("it ends in the middle of a file, so it is truncated")
        if kind in b"LKxXg":
            if size > _LONGEST_HEADER:
                raise _DamagedError(f"the header of a file in it has {size} bytes")
            content = stream.read(size)
            if kind == b"L":
                long_name = _text(content)
            elif kind != b"K":
                records = _records(content)
                if kind != b"g":
                    long_name = records.get("path", long_name)
                    size_to_come = _whole(records.get("size"))
            continue
        if kind == b"S":
            raise _DamagedError("it holds files with holes (GNU sparse), which are not read")
        name = long_name or _name(header)
        long_name = size_to_come = None
        if kind in b"0\x007" and not (kind == b"\0" and name.endswith("/")):
            yield Member(name, data, size)


def _sum_fits(header: bytes) -> bool:
    """Whether the header's own checksum is right; old programs added signed bytes."""
    field = header[148:156]
    rest = header[:148] + b" " * 8 + header[156:]
    try:
        written = _number(field)
    except _DamagedError:
        return False
    unsigned = sum(rest)
    return written in (unsigned, unsigned - 256 * sum(byte > 127 for byte in rest))


def _number(field: bytes) -> int:
    """An octal number, or GNU's binary one."""
    if field[0] == 0o200:
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0")[0].strip()
    if not re.fullmatch(rb"[0-7]*", digits):
        raise _DamagedError("a header in it has no size")
    return int(digits or b"0", 8)


def _whole(text: str | None) -> int | None:
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise _DamagedError("a header in it has no size")
    return int(text)


def _name(header: bytes) -> str:
    name, prefix = _text(header[:100]), _text(header[345:500])
    return f"{prefix}/{name}" if prefix and header[257:262] == b"ustar" else name


def _text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("utf-8", "surrogateescape")


def _records(content: bytes) -> dict[str, str]:
    """The entries `LENGTH KEY=VALUE\\n` of an extended header."""
    found: dict[str, str] = {}
    position = 0
    while position < len(content) and content[position]:
        match = re.compile(rb"([0-9]{1,6}) ([^=\n]{1,200})=").match(content, position)
        length = int(match[1]) if match else 0
        if not match or length < len(match[0]) + 1 or position + length > len(content):
            raise _DamagedError("an extended header in it is damaged")
        key = match[2].decode("utf-8", "replace")
        if key.startswith("GNU.sparse"):
            raise _DamagedError("it holds files with holes (GNU sparse), which are not read")
        value = content[match.end() : position + length - 1]
        found[key] = value.decode("utf-8", "surrogateescape")
        position += length
    return found
