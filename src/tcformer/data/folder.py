"""The ImageFolder layout: ROOT/train/CLASS/.../image and ROOT/val/CLASS/.../image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tcformer.errors import UserError
from tcformer.files import parse_json, read_text, read_whole
from tcformer.images import IMAGE_EXTENSIONS, LeftOut

_MOST_WAYS = 16  # links to one folder; links to links multiply
_MOST_JSON = 1 << 33  # bytes; the list of 2.7 million images of iNaturalist 2021 has 0.7e9
_SYNONYMS = {"val": ("valid", "validation", "test", "eval"), "train": ("training",)}


class PathList:
    """File names of millions of images, and a label for each if given, in three arrays.

    A list of strings would be copied into every worker process: reading a Python object writes its
    reference count, and each written page of the forked memory becomes a private copy.
    """

    def __init__(self, paths: Sequence[str], labels: Sequence[int] = ()) -> None:
        encoded = [os.fsencode(p) for p in paths]
        self._text = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._end = np.cumsum([len(p) for p in encoded], dtype=np.int64)
        self.labels = np.asarray(labels or [0] * len(encoded), dtype=np.int64)

    def __len__(self) -> int:
        return len(self._end)

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self._end):
            raise IndexError(index)
        start = self._end[index - 1] if index else 0
        return os.fsdecode(self._text[start : self._end[index]].tobytes())


class FileSource:
    """Image files with a label each.

    Args:
        classes: names of the classes.
        files: paths and labels.
        left_out: what the search for files passed by.
    """

    def __init__(self, classes: list[str], files: PathList, left_out: LeftOut) -> None:
        self.classes, self.files, self.left_out = classes, files, left_out

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> Any:
        """The file's bytes and its label."""
        return read_whole(self.files[index]), int(self.files.labels[index])

    def describe(self, index: int) -> str:
        """The file's path, or the archive and the file's name in it."""
        return self.files[index]


def refuse_different_classes(train: list[str], val: list[str]) -> None:
    """Raise `UserError` if the class names of two splits differ, in order or in kind."""
    if train == val:
        return
    detail = "their order differs"
    for one, other, where in (
        (val, train, "val but not in train"),
        (train, val, "train but not in val"),
    ):
        if alone := sorted(set(one) - set(other)):
            detail = f"{alone[0]!r} is in {where}"
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
    except UserError:
        raise
    except (OSError, RuntimeError, ValueError) as error:  # no such user, no such name
        why = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise UserError(f"The data path {path} cannot be read: {why}.") from None
    return folder


def is_inside(name: Any) -> bool:
    """Whether this can be the name of a file below a folder: no way out, and no impossible name."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return len(name) < 4096 and not os.path.isabs(name) and ".." not in Path(name).parts


def read_json(path: str | Path, what: str) -> Any:
    """A JSON file.

    Raises:
        UserError: it is missing or no JSON.
    """
    try:
        return parse_json(read_whole(path, most=_MOST_JSON))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give the path of {what}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON, or damaged: {error}.") from error


def read_names(file: Path) -> list[str]:
    """The names of classes in a text file, one a line; a byte order mark is no part of the first.

    Raises:
        UserError: it cannot be read, or a name occurs twice.
    """
    try:
        lines = read_text(file).splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"The names of the classes in {file} cannot be read: {error}.") from None
    names = [line.strip() for line in lines if line.strip()]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"{file} names the class {twice[0]!r} twice: give each class its own name.")
    return names


def _listed(folder: str | Path, left_out: LeftOut) -> tuple[list[str], list[str]]:
    """The names of the folders and of the other entries in `folder`; hidden ones are counted."""
    names: tuple[list[str], list[str]] = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if not left_out.hides(entry.name):
                    names[not _is_folder(entry)].append(entry.name)
    except OSError as error:
        raise UserError(
            f"The folder {folder} cannot be read: {error.strerror or error}; check its permissions."
        ) from None
    return names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()  # asks the disk only about links
    except OSError:  # a link that leads to itself
        return False


def _class_folders(folder: Path, left_out: LeftOut) -> list[str]:
    """The names of the folders in `folder` in sorted order; what else is there is left out."""
    names, files = _listed(folder, left_out)
    left_out.add("outside of the class folders", sum(left_out.wants(name) for name in files))
    return sorted(names)


class ClassFolders(FileSource):
    """Images in class folders; label = position of the folder's name in sorted order.

    Files below a class folder count at any depth if their extension is one of `IMAGE_EXTENSIONS`,
    in torchvision's order, so indices agree with `torchvision.datasets.ImageFolder`. Hidden files
    and folders (`tcformer.images.is_hidden`) are neither images nor classes.

    Raises:
        UserError: no class folder, an empty class folder, or an unreadable folder.
    """

    def __init__(self, folder: Path) -> None:
        self.root, left_out = folder, LeftOut()
        classes = _class_folders(folder, left_out)
        if not classes:
            raise UserError(
                f"The folder {folder} has no class folders: put the images of each class into a "
                "folder of their own there."
            )
        paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            found = images_below(folder / name, left_out)
            if not found:
                raise UserError(
                    f"The class folder {folder / name} has no image "
                    f"({', '.join(IMAGE_EXTENSIONS)}): add images or remove the folder."
                )
            paths += found
            labels += [label] * len(found)
        super().__init__(classes, PathList(paths, labels), left_out)


class FolderSource(ClassFolders):
    """One split of the ImageFolder layout.

    Raises:
        UserError: as `ClassFolders`; a missing split, or (for `train`, where both exist) class
            folders that differ between train/ and val/.
    """

    def __init__(self, data_path: str, split: str) -> None:
        root = require_folder(data_path, "the folder that holds train/ and val/ class folders")
        if not (root / split).is_dir():
            raise UserError(_missing_split(root, split))
        super().__init__(root / split)
        other = root / "val"
        if split == "train" and other.is_dir():
            refuse_different_classes(self.classes, _class_folders(other, LeftOut()))


def _missing_split(root: Path, split: str) -> str:
    names = _class_folders(root, LeftOut())
    missing = f"The folder {root / split} is missing: "
    for synonym in _SYNONYMS[split]:
        if synonym in names:
            return f"{missing}rename or link {root / synonym} to {split}."
    holds = ", ".join(names[:3]) + (" and more" if len(names) > 3 else "") or "no folders"
    return f"{missing}--data-path must be the folder that holds {split}/, but {root} holds {holds}."


def images_below(folder: Path, left_out: LeftOut) -> list[str]:
    """All image files below `folder`, links followed, folder by folder in sorted order."""
    found = []
    for where, names in sorted(_walk_links(folder, left_out)):
        found += [os.path.join(where, name) for name in sorted(names) if left_out.wants(name)]
    return found


def _walk_links(top: Path, left_out: LeftOut) -> Iterator[tuple[str, list[str]]]:
    """Each folder below `top` that is not hidden, links followed, with the names of its files.

    os.walk would follow a link that leads back up until the system refuses the length of the path,
    and two such links in one folder for ever.

    Raises:
        UserError: a folder cannot be read, is reached through itself, or by too many ways.
    """
    ways: Counter[tuple[int, int]] = Counter()
    waiting: list[tuple[str, tuple[tuple[int, int], ...]]] = [(str(top), ())]
    while waiting:
        folder, above = waiting.pop()
        folders, files = _listed(folder, left_out)
        status = os.stat(folder)
        here = (status.st_dev, status.st_ino)
        if here in above:
            raise UserError(f"The link {folder} leads back to a folder above it: remove the link.")
        ways[here] += 1
        if ways[here] > _MOST_WAYS:
            raise UserError(
                f"The folder {folder} is reached in more than {_MOST_WAYS} ways: remove the links "
                "to it."
            )
        yield folder, files
        waiting += [(os.path.join(folder, name), (*above, here)) for name in folders]
