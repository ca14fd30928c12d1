"""iNaturalist 2018 and 2019: JSON lists, labelled at any rank of the taxonomy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tcformer.data.folder import PathList, require_folder
from tcformer.errors import UserError, shown
from tcformer.files import parse_json, read_whole

_MOST_BYTES = 1 << 33  # of a list; that of 2021's 2.7 million images has 0.7e9


class INatSource:
    """Images named in ROOT/train<year>.json or ROOT/val<year>.json, labels from categories.json.

    Label numbers follow the order in which the names first occur in the annotations of the training
    list, as in the published code, so that its checkpoints fit; the training list is therefore
    needed for evaluation too. Image files lie where their list says, below ROOT, or one level
    higher, without the folder of the super-category.

    Args:
        data_path: ROOT.
        split: `train` or `val`.
        year: 2018 or 2019.
        category: rank of the taxonomy that is the label; `name` is the species.

    Raises:
        UserError: a list is missing, damaged, or lacks the rank; or the images are not there.
    """

    def __init__(self, data_path: str, split: str, *, year: int, category: str) -> None:
        train, wanted = f"train{year}.json", f"{split}{year}.json"
        root = require_folder(data_path, f"the folder that holds {wanted} and categories.json")
        names = _names(root / "categories.json", category)
        train_list = _read_json(root / train)
        listed = train_list if split == "train" else _read_json(root / wanted)
        labels: dict[str, int] = {}
        for note in _entries(train_list, "annotations", root / train):
            name = _lookup(names, note, "category_id", root / train)
            labels.setdefault(name, len(labels))
        category_of = {
            note["image_id"]: note["category_id"]
            for note in _entries(listed, "annotations", root / wanted)
            if _is_id(note.get("image_id")) and _is_id(note.get("category_id"))
        }
        images = _entries(listed, "images", root / wanted)
        for image in images:
            known = _is_id(image.get("id")) and image["id"] in category_of
            if not known or not _is_inside(image.get("file_name")):
                raise UserError(
                    f"{root / wanted} has an image without an annotation or a file name below "
                    f"--data-path ({shown(image.get('file_name', image.get('id')))}): use the list "
                    "as published."
                )
        labeled = [names.get(category_of[image["id"]]) for image in images]
        for label in labeled:
            if label not in labels:
                raise UserError(
                    f"{root / wanted} has the {category} {shown(label)}, which does not occur in "
                    f"{train}: use lists of the same year."
                )
        self.root = root
        self.classes = list(labels)
        files = _locate(root, [str(image["file_name"]) for image in images], wanted)
        self.files = PathList(files, [labels[str(name)] for name in labeled])

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> tuple[bytes, int]:
        """The file's bytes and its label."""
        return read_whole(self.root / self.files[index]), int(self.files.labels[index])

    def describe(self, index: int) -> str:
        """The file's path."""
        return str(self.root / self.files[index])


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str))


def _is_inside(name: Any) -> bool:
    """Whether this can be the name of a file below a folder: no way out, and no impossible name."""
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return len(name) < 4096 and not name.startswith("/") and ".." not in name.split("/")


def _read_json(path: Path) -> Any:
    try:
        return parse_json(read_whole(path, most=_MOST_BYTES))
    except FileNotFoundError:
        raise UserError(
            f"The file {path} is missing: --data-path must be the folder with iNaturalist's lists."
        ) from None
    except OSError as error:
        raise UserError(f"The file {path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise UserError(f"The file {path} is not valid JSON ({error}): unpack it again.") from None


def _entries(content: Any, key: str, path: Path) -> list[dict[str, Any]]:
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise UserError(f"The file {path} has no list {key!r}: use the list as published.")
    return entries


def _names(path: Path, category: str) -> dict[Any, str]:
    """Name at the wanted rank for each category id."""
    table = _read_json(path)
    if not isinstance(table, list) or not all(isinstance(row, dict) for row in table):
        raise UserError(f"The file {path} is not a list of categories: use the file as published.")
    for position, row in enumerate(table):
        if not _is_id(row.get("id", position)):
            raise UserError(
                f"The file {path} has a category whose id is no number: unpack it again."
            )
        if category not in row:
            ranks = shown(", ".join(k for k in row if k != "id"))
            raise UserError(
                f"--inat-category {category} does not occur in {path}, which has {ranks}."
            )
    return {row.get("id", position): str(row[category]) for position, row in enumerate(table)}


def _lookup(names: dict[Any, str], note: dict[str, Any], key: str, path: Path) -> str:
    if not _is_id(note.get(key)) or note[key] not in names:
        raise UserError(f"{path} has the category {shown(note.get(key))}, not in categories.json.")
    return names[note[key]]


def _locate(root: Path, files: list[str], listed: str) -> list[str]:
    """The files as listed, or without the super-category's folder, whichever exists."""
    if not files or (root / files[0]).exists():
        return files
    shorter = ["/".join((f.split("/")[0], *f.split("/")[2:])) for f in files]
    if (root / shorter[0]).exists():
        return shorter
    raise UserError(
        f"The images of {listed} are not in {root} (looked for {shown(files[0])}): unpack them "
        "there."
    )
