"""Pictures into files: the name says the format, and the file appears whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tcformer.errors import UserError, nearest
from tcformer.files import atomic_write, check_writable, make_folder
from tcformer.viz.images import as_rgb
from tcformer.viz.moving import Frame, encode_frames, merging_frames
from tcformer.viz.sheet import Row, contact_sheet
from tcformer.viz.svg import svg_sheet

FORMATS = ("png", "svg", "gif", "webp")
"""Endings of names: a still picture, one of paths, and two that move."""

THOROUGH = 8 * 2**20
"""Pixels up to which a PNG is packed as small as can be; above, that would take minutes."""


def check_picture_name(path: str | PathLike[str], formats: Sequence[str] = FORMATS) -> Path:
    """The path, if a picture can be written there: for refusing a name before the work is done.

    Args:
        path: name of the file to be.
        formats: endings that are taken, without the dot.

    Raises:
        UserError: another ending, a folder, or a place that cannot be written to.
    """
    path = Path(path)
    ending = path.suffix.lower().removeprefix(".")
    if ending not in formats:
        dotted = [f".{name}" for name in formats]
        said = f"not {path.suffix}" if path.suffix else "and it has no ending"
        guess = nearest(path.suffix.lower(), dotted) if path.suffix else None
        hint = f"; did you mean {guess}?" if guess else ""
        ends = ", ".join(dotted[:-1]) + f" or {dotted[-1]}" if len(dotted) > 1 else dotted[0]
        raise UserError(f"{path}: the name of a picture must end in {ends}, {said}{hint}")
    return check_writable(path)


def write_bytes(path: str | PathLike[str], data: bytes) -> None:
    """Write a file and the folders on the way; a reader sees all of it or the old one.

    Raises:
        UserError: the place cannot be written.
    """
    path = Path(path)
    make_folder(path.parent)
    atomic_write(path, lambda file: file.write(data))


def png_bytes(picture: Any) -> bytes:
    """An (H, W, 3) uint8 picture as the content of a PNG file."""
    image = Image.fromarray(np.ascontiguousarray(as_rgb(picture)))
    data = io.BytesIO()
    if image.width * image.height <= THOROUGH:
        image.save(data, format="PNG", optimize=True)
    else:
        image.save(data, format="PNG", compress_level=3)
    return data.getvalue()


def write_png(path: str | PathLike[str], picture: Any) -> None:
    """Write an (H, W, 3) uint8 picture as PNG; the file appears whole or not at all.

    Folders on the way are created.

    Raises:
        UserError: when the name does not end in .png or the place cannot be written.
    """
    path = check_picture_name(path, ("png",))
    write_bytes(path, png_bytes(picture))


def write_sheet(
    path: str | PathLike[str],
    rows: Sequence[Row],
    *,
    font_size: int | None = None,
) -> None:
    """Write rows of panels as a contact sheet: .png as pixels, .svg as paths.

    Args:
        path: the file.
        rows: as in `contact_sheet`.
        font_size: as in `contact_sheet`.

    Raises:
        UserError: another ending, nothing to draw, too much, or a place that cannot be written.
    """
    path = check_picture_name(path, ("png", "svg"))
    if path.suffix.lower() == ".svg":
        write_bytes(path, svg_sheet(rows, font_size=font_size).encode("utf-8"))
    else:
        write_bytes(path, png_bytes(contact_sheet(rows, font_size=font_size)))


def write_moving(
    path: str | PathLike[str],
    stages: Sequence[Sequence[Row]],
    *,
    seconds: float = 1.4,
    font_size: int | None = None,
) -> None:
    """Write sheets as a moving picture, .gif or .webp: see `merging_frames`.

    Raises:
        UserError: another ending, sheets of different sizes, or a place that cannot be written.
    """
    path = check_picture_name(path, ("gif", "webp"))
    frames: list[Frame] = merging_frames(stages, seconds=seconds, font_size=font_size)
    write_bytes(path, encode_frames(frames, path.suffix.lower().removeprefix(".")))
