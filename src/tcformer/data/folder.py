"""The ImageFolder layout: ROOT/train/CLASS/.../image and ROOT/val/CLASS/.../image."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tcformer.errors import UserError
from tcformer.files import read_whole

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_MOST_WAYS = 16  # links to one folder; links to links multiply
_SYNONYMS = {"val": ("valid", "validation", "test", "eval"), "train": ("training",)}


class PathList:
    """File names and labels of millions of images in three arrays.

    A list of strings would be copied into every worker process: reading a Python object writes its
    reference count, and each written page of the forked memory becomes a private copy.
    """

    def __init__(self, paths: list[str], labels: list[int]) -> None:
        encoded = [os.fsencode(p) for p in paths]
        self._text = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._end = np.cumsum([len(p) for p in encoded], dtype=np.int64)
        self.labels = np.asarray(labels, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self.labels):
            raise IndexError(index)
        start = self._end[index - 1] if index else 0
        return os.fsdecode(self._text[start : self._end[index]].tobytes())


def refuse_different_classes(train: list[str], val: list[str]) -> None:
    """Raise `UserError` if the class names of two splits differ, in order or in kind."""
    if train == val:
        return
    only_train = sorted(set(train) - set(val))
    only_val = sorted(set(val) - set(train))
    if only_train or only_val:
        where, other, name = (
            ("train", "val", only_train[0]) if only_train else ("val", "train", only_val[0])
        )
        detail = f"{name!r} is in {where} but not in {other}"
    else:
        detail = "their order differs"
    raise UserError(
        f"The training and the validation split have different classes ({len(train)} and "
        f"{len(val)}; {detail}): give both the same, because a label is a position in the list."
    )


def require_folder(path: str, what: str) -> Path:
    """Return the data path as a `Path`, or say what is wrong with it.

    Raises:
        UserError: not given, missing, a file, or not readable.
    """
    if not path:
        raise UserError(f"No data path is given: pass --data-path, {what}.")
    try:
        folder = Path(path).expanduser()
        if not folder.exists():
            raise UserError(f"The data path {path} does not exist: pass {what}.")
        if not folder.is_dir():
            raise UserError(f"The data path {path} is a file, not a folder: pass {what}.")
        os.listdir(folder)
    except (OSError, RuntimeError, ValueError) as error:  # no such user, no such name
        why = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise UserError(f"The data path {path} cannot be read: {why}.") from None
    return folder


def _folder_names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if _is_folder(e))
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be read: {error.strerror or error}.") from None


class FolderSource:
    """Images in class folders; label = position of the folder's name in sorted order.

    Files below a class folder count at any depth if their extension is one of `EXTENSIONS`, in
    torchvision's order, so indices agree with `torchvision.datasets.ImageFolder`.

    Raises:
        UserError: missing split, no class folder, an empty class folder, an unreadable folder, or
            (for `train`, where both exist) class folders that differ between train/ and val/.
    """

    def __init__(self, data_path: str, split: str) -> None:
        root = require_folder(data_path, "the folder that holds train/ and val/ class folders")
        self.root = root / split
        if not self.root.is_dir():
            raise UserError(_missing_split(root, split))
        self.classes = _folder_names(self.root)
        if not self.classes:
            raise UserError(
                f"The folder {self.root} has no class folders: put the images of each class into a "
                "folder of their own there."
            )
        paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(self.classes):
            found = _images_below(self.root / name)
            if not found:
                raise UserError(
                    f"The class folder {self.root / name} has no image ({', '.join(EXTENSIONS)}): "
                    "add images or remove the folder."
                )
            paths += found
            labels += [label] * len(found)
        self.files = PathList(paths, labels)
        other = root / "val"
        if split == "train" and other.is_dir():
            refuse_different_classes(self.classes, _folder_names(other))

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> tuple[bytes, int]:
        """The file's bytes and its label."""
        return read_whole(self.files[index]), int(self.files.labels[index])

    def describe(self, index: int) -> str:
        """The file's path."""
        return self.files[index]


def _missing_split(root: Path, split: str) -> str:
    names = _folder_names(root)
    for synonym in _SYNONYMS[split]:
        if synonym in names:
            return (
                f"The folder {root / split} is missing: rename or link {root / synonym} to {split}."
            )
    holds = (
        ", ".join(names[:3]) + (" and more" if len(names) > 3 else "") if names else "no folders"
    )
    return (
        f"The folder {root / split} is missing: --data-path must be the folder that holds "
        f"{split}/, but {root} holds {holds}."
    )


def _images_below(folder: Path) -> list[str]:
    """All image files below `folder`, links followed, folder by folder in sorted order."""
    found = []
    for where, names in sorted(walk_links(folder)):
        found += [os.path.join(where, n) for n in sorted(names) if n.lower().endswith(EXTENSIONS)]
    return found


def walk_links(top: Path) -> Iterator[tuple[str, list[str]]]:
    """Each folder below `top`, links followed, with the names of what in it is no folder.

    os.walk would follow a link that leads back up until the system refuses the length of the path,
    and two such links in one folder for ever.

    Raises:
        UserError: a folder cannot be read, is reached through itself, or by too many ways.
    """
    ways: dict[tuple[int, int], int] = {}
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(str(top), ())]
    while waiting:
        folder, above = waiting.pop()
        try:
            status = os.stat(folder)
            with os.scandir(folder) as entries:
                listed = [(entry.name, _is_folder(entry)) for entry in entries]
        except OSError as error:
            raise UserError(
                f"The folder {folder} cannot be read: {error.strerror}; check its permissions."
            ) from None
        here = (status.st_dev, status.st_ino)
        if here in above:
            raise UserError(f"The link {folder} leads back to a folder above it: remove the link.")
        ways[here] = ways.get(here, 0) + 1
        if ways[here] > _MOST_WAYS:
            raise UserError(
                f"The folder {folder} is reached in more than {_MOST_WAYS} ways: remove the links "
                "to it."
            )
        yield folder, [name for name, is_folder in listed if not is_folder]
        inside = [os.path.join(folder, name) for name, is_folder in listed if is_folder]
        waiting += [(name, (*above, here)) for name in inside]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()  # asks the disk only about links
    except OSError:  # a link that leads to itself
        return False
