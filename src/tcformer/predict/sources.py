"""Where pictures come from: files, folders of any size, and what is in memory already."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from tcformer.errors import UserError
from tcformer.images import IMAGE_EXTENSIONS, LeftOut

__all__ = ["Picture", "each_picture", "is_one", "walk"]


class Picture(NamedTuple):
    """A picture with a name of your choice: a path, or something in memory."""

    name: str
    source: Any


LISTED = 50_000
"""So many names of a folder are sorted in memory; longer lists go through a temporary file."""

_MOST_WAYS = 100

Report = Callable[[str, str], None]
"""Is told the name of what cannot be read, and why, without a full stop."""

_Id = tuple[int, int]


def is_one(images: Any) -> bool:
    """Whether this is one picture, not several: neither a folder, a batch nor a list of them.

    Raises:
        UserError: it is nothing of the kind.
    """
    if isinstance(images, (str, os.PathLike)):
        return not os.path.isdir(images)
    if isinstance(images, (Image.Image, np.ndarray, torch.Tensor, bytes, Picture)):
        return getattr(images, "ndim", 0) != 4
    if isinstance(images, Iterable):
        return False
    raise UserError(
        f"a {type(images).__name__} is no picture; give a path, a PIL image, an array, or several "
        "of them"
    )


def each_picture(images: Any, report: Report, left_out: LeftOut | None = None) -> Iterator[Picture]:
    """Each picture with its name, one after the other, none kept.

    `images` is a path of an image, or of a folder (`walk`); a picture in memory, which is named
    "image 0" and so on by its place; or any iterable of these, endless ones too. `report` is told
    of folders that cannot be read, and `left_out` counts what folders hold besides images.
    """
    alone = is_one(images) or isinstance(images, (str, os.PathLike))
    for place, image in enumerate([images] if alone else images):
        if isinstance(image, Picture):
            yield image
        elif not isinstance(image, (str, os.PathLike)):
            yield Picture(f"image {place}", image)
        elif os.path.isdir(image):
            found = 0
            for found, path in enumerate(walk(os.fspath(image), report, left_out), 1):  # noqa: B007
                yield Picture(path, path)
            if not found:
                endings = ", ".join(IMAGE_EXTENSIONS)
                report(os.fspath(image), f"the folder holds no image ({endings})")
        else:
            yield Picture(os.fspath(image), image)


def walk(folder: str, report: Report, left_out: LeftOut | None = None) -> Iterator[str]:
    """The images below `folder` in the order of their paths, whatever their number.

    An image is what ends like one (`IMAGE_EXTENSIONS`) and is not hidden (`is_hidden`). Links are
    followed, but not in circles. Memory does not grow with the number of files: no list of
    them is made, and a folder of more than `LISTED` names is sorted in a temporary file. `report`
    is told of folders that cannot be read, and `left_out` counts the rest.
    """
    yield from _walk(folder, report, left_out or LeftOut(), (), Counter())


def _walk(
    folder: str, report: Report, left_out: LeftOut, above: tuple[_Id, ...], ways: Counter[_Id]
) -> Iterator[str]:
    try:
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in above:
            report(folder, "the link leads back to a folder above it")
            return
        if os.path.islink(folder):  # links that cross could be followed in 2^n ways
            ways[here] += 1
            if ways[here] > _MOST_WAYS:
                report(folder, f"the folder is linked from more than {_MOST_WAYS} places")
                return
        with os.scandir(folder) as entries:
            for name in _in_order(_wanted(entries, left_out)):
                path = os.path.join(folder, os.fsdecode(name))
                if name.endswith(b"/"):
                    yield from _walk(path[:-1], report, left_out, (*above, here), ways)
                else:
                    yield path
    except OSError as error:
        report(folder, f"the folder cannot be read ({error.strerror or error})")


def _wanted(entries: Iterable[os.DirEntry[str]], left_out: LeftOut) -> Iterator[bytes]:
    """Names of images, and of folders with a slash behind, so that they sort like their paths."""
    for entry in entries:
        if left_out.hides(entry.name):
            continue
        try:
            is_folder = entry.is_dir()
        except OSError:  # a link that leads to itself
            is_folder = False
        if is_folder:
            yield os.fsencode(entry.name) + b"/"
        elif left_out.wants(entry.name):
            yield os.fsencode(entry.name)


def _in_order(names: Iterator[bytes], most: int = LISTED) -> Iterator[bytes]:
    """Sorted names, about `most` of them in memory."""
    part = sorted(islice(names, most))
    if len(part) < most:
        yield from part
        return
    import sqlite3

    # Without a name it is a temporary file, which the library sorts beside what fits into memory.
    with closing(sqlite3.connect("", check_same_thread=False)) as listed:
        listed.execute("CREATE TABLE listed (name BLOB)")
        rows = ((name,) for name in chain(part, names))
        listed.executemany("INSERT INTO listed VALUES (?)", rows)
        del part
        for (name,) in listed.execute("SELECT name FROM listed ORDER BY name"):
            yield name
