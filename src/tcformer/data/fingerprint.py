"""What tells one data set from another without reading its images."""

from __future__ import annotations

import hashlib
import os
from typing import Any

import numpy as np

__all__ = ["SIZES", "fingerprint"]

SIZES = 2000
"""So many files, evenly spread, are asked for their size."""


def fingerprint(dataset: Any, root: str | os.PathLike[str] = "") -> dict[str, Any]:
    """A short description of a data set, the same wherever the same data lies.

    Hashed are the names of the classes, the number of images, the name of each (its path below
    `root`), the labels, and the sizes of at most `SIZES` files, evenly spread. No image is opened:
    sets that differ only inside images of equal size are not told apart. A file of annotations is
    read whole; where each image has a file of labels beside it, its size counts too.

    Args:
        dataset: with `source`, which has `classes` and `describe(index)`, and may have
            `annotations_file` and `beside(index)`.
        root: the folder of the data, which does not count.

    Returns:
        `classes` (their number), `images`, `sha256` (the first 16 digits).
    """
    source = dataset.source
    count = len(source)
    digest = hashlib.sha256()

    def add(*texts: object) -> None:
        for text in texts:
            digest.update(str(text).encode("utf-8", "surrogateescape") + b"\0")

    add(len(source.classes), *source.classes, count)
    labels = getattr(source, "labels", getattr(getattr(source, "files", None), "labels", None))
    if labels is not None:
        digest.update(np.asarray(labels).astype("<i8").tobytes())
    if notes := getattr(source, "annotations_file", None):
        with open(notes, "rb") as stream:
            add(hashlib.file_digest(stream, "sha256").hexdigest())
    beside = getattr(source, "beside", None)
    places = (os.path.abspath(root), os.path.normpath(root)) if root else ()
    above = tuple(os.path.join(place, "") for place in places)
    step = max(1, -(-count // SIZES))
    for index in range(count):
        name = source.describe(index)
        size = _size(name) if index % step == 0 else ""
        for place in above:
            name = name.removeprefix(place)
        add(name, size)
        if beside is not None and size != "":
            add(_size(beside(index)))
    return {"classes": len(source.classes), "images": count, "sha256": digest.hexdigest()[:16]}


def _size(name: str) -> int | str:
    try:
        return os.path.getsize(name)
    except (OSError, ValueError):  # no file of its own: an entry of an archive, or made up
        return ""
