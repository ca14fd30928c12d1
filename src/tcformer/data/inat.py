"""iNaturalist 2018 and 2019: JSON lists, labeled at any rank of the taxonomy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tcformer.data.folder import FileSource, PathList, is_inside, read_json, require_folder
from tcformer.errors import UserError, shown
from tcformer.images import LeftOut

_LISTS = "iNaturalist's lists, which must lie in --data-path"


class INatSource(FileSource):
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
        train_list = read_json(root / train, _LISTS)
        listed = train_list if split == "train" else read_json(root / wanted, _LISTS)
        labels: dict[str, int] = {}
        for note in _entries(train_list, "annotations", root / train):
            number = note.get("category_id")
            if not _is_id(number) or number not in names:
                raise UserError(
                    f"{root / train} has the category {shown(number)}, not in categories.json."
                )
            labels.setdefault(names[number], len(labels))
        category_of = {
            note["image_id"]: note["category_id"]
            for note in _entries(listed, "annotations", root / wanted)
            if _is_id(note.get("image_id")) and _is_id(note.get("category_id"))
        }
        files, found = [], []
        for image in _entries(listed, "images", root / wanted):
            number, name = image.get("id"), image.get("file_name")
            if not (_is_id(number) and number in category_of and is_inside(name)):
                raise UserError(
                    f"{root / wanted} has an image without an annotation or a file name below "
                    f"--data-path ({shown(name or number)}): use the list as published."
                )
            label = names.get(category_of[number])
            if label not in labels:
                raise UserError(
                    f"{root / wanted} has the {category} {shown(label)}, which does not occur in "
                    f"{train}: use lists of the same year."
                )
            files.append(str(name))
            found.append(labels[str(label)])
        if files and not (root / files[0]).exists():
            # Without the folder of the super-category.
            files = ["/".join((f.split("/")[0], *f.split("/")[2:])) for f in files]
            if not (root / files[0]).exists():
                raise UserError(
                    f"The images of {wanted} are not in {root} (looked for {shown(files[0])}): "
                    "unpack them there."
                )
        paths = PathList([str(root / file) for file in files], found)
        super().__init__(list(labels), paths, LeftOut())


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str))


def _entries(content: Any, key: str, path: Path) -> list[dict[str, Any]]:
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        raise UserError(f"The file {path} has no list {key!r}: use the list as published.")
    return entries


def _names(path: Path, category: str) -> dict[Any, str]:
    """Name at the wanted rank for each category id."""
    table = _entries({"categories": read_json(path, _LISTS)}, "categories", path)
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
