"""Annotation files of keypoints in COCO's format, checked before anything is computed from them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Real  # NumPy's count too: predictions need not come from a file
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from tcformer.data.folder import is_inside, read_json
from tcformer.data.keypoints import Layout, layout
from tcformer.errors import UserError, shown

PEOPLE = ("person", "face")
"""What files call the category whose keypoints are looked for."""

_LARGEST_ID = 2**63 - 1  # ids are kept in arrays of 64 bits
_LARGEST = 1e12  # no area, coordinate or score is beyond this, and squares of it can be added up


@dataclass(frozen=True)
class Truth:
    """An annotation file of people or faces."""

    path: str
    kind: Layout  # its set of keypoints
    parts: tuple[str, ...]  # those of its parts that it annotates
    images: tuple[int, ...]  # ids, in the file's order, each once
    annotations: tuple[Mapping[str, Any], ...]  # checked; `iscrowd` is 0 or 1
    image_entries: tuple[Mapping[str, Any], ...] = ()  # as in the file
    category: int = 1  # the file's id of people (or faces)
    categories: Mapping[int, str] = field(default_factory=lambda: {1: "person"})
    num_others: int = 0  # annotations of other categories, which are left out


class CocoFile(NamedTuple):
    """An annotation file in COCO's format, checked as far as all kinds of objects have it."""

    images: dict[int, Mapping[str, Any]]
    """The entries by id, in the file's order."""
    annotations: list[dict[str, Any]]
    """Each with `image_id` out of `images`, `category_id` out of `categories` and `iscrowd` 0 or 1;
    their ids are not looked at."""
    categories: dict[int, Mapping[str, Any]]
    """The entries by id, in the file's order; one without a name where the file has no list."""


def read_coco(path: str | Path) -> CocoFile:
    """An annotation file in COCO's format, of whatever objects.

    Raises:
        UserError: it cannot be read, or is not such a file.
    """
    content = read_json(path, "an annotation file")
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), list) for key in ("images", "annotations")
    ):
        raise UserError(
            f"{path} is no annotation file: it needs the lists `images` and `annotations` of "
            "COCO's format."
        )
    images = _by_id(content["images"], "image", path)
    notes = content["annotations"]
    if not images or not notes:
        raise UserError(f"{path} holds no {'annotations' if images else 'images'}.")
    categories = categories_of(content, path)
    checked = []
    for number, note in enumerate(notes):
        where = f"annotation {number} of {path}"
        if check_whole(note, "image_id", where) not in images:
            raise UserError(
                f"{where} is on image {note['image_id']}, which `images` does not list."
            )
        category = next(iter(categories))
        if len(categories) > 1 or "category_id" in note:
            category = check_whole(note, "category_id", where)
        if category not in categories:
            raise UserError(
                f"{where} has category_id {category}, which `categories` does not list."
            )
        crowd = check_flag(note, "iscrowd", where)
        checked.append({**note, "category_id": category, "iscrowd": crowd})
    return CocoFile(images, checked, categories)


def categories_of(content: Mapping[str, Any], path: str | Path) -> dict[int, Mapping[str, Any]]:
    """The categories of a file in COCO's format by id.

    A file that lists none has those of its annotations; COCO's 1 if these say nothing either.
    """
    rows = content.get("categories")
    if isinstance(rows, list) and rows:
        return _by_id(rows, "category", path)
    ids = {
        check_whole(note, "category_id", f"annotation {number} of {path}")
        for number, note in enumerate(content["annotations"])
        if isinstance(note, dict) and "category_id" in note
    }
    return {i: {"id": i} for i in sorted(ids) or [1]}


def people_category(
    categories: Mapping[int, Mapping[str, Any]], path: str | Path, pointed: Collection[int] = ()
) -> int:
    """The id of people (or faces) among the categories of a file.

    It is the one called person, or face; otherwise the only one that names its keypoints, or whose
    annotations have some (`pointed`).

    Raises:
        UserError: none is, or several are.
    """
    found = [
        [i for i, entry in categories.items() if str(entry.get("name")).lower() == name]
        for name in PEOPLE
    ]
    named = [i for i, entry in categories.items() if entry.get("keypoints")]
    for ids in (*found, named, list(pointed), list(categories)):
        if len(ids) == 1:
            return ids[0]
        if ids:
            break
    names = [entry.get("name", i) for i, entry in categories.items()]
    raise UserError(
        f"{path} has annotations of {shown(names)}, so it is unclear which are people: call "
        "one category person."
    )


def read_truth(path: str | Path) -> Truth:
    """An annotation file in COCO's format: COCO, COCO-WholeBody, or WFLW's 98 points.

    Raises:
        UserError: it cannot be read, or is not such a file.
    """
    images, notes, categories = read_coco(path)
    pointed = {note["category_id"] for note in notes if note.get("keypoints")}
    category = people_category(categories, path, pointed)
    people = [
        (number, note) for number, note in enumerate(notes) if note["category_id"] == category
    ]
    if not people:
        raise UserError(f"{path} holds no annotations of people, which are category {category}.")
    kind, parts = _kind([note for _, note in people], str(path))
    seen = set()
    for number, note in people:
        where = f"annotation {number} of {path}"
        for part in parts:
            check_points(note, kind, part, where)
        if kind.sigmas is None:  # predictions of faces name them by their ids
            note_id = check_whole(note, "id", where)
            if note_id in seen:
                raise UserError(f"{where} has the id {note_id}, which an earlier one has already.")
            seen.add(note_id)
            continue
        if check_number(note, "area", where) < 0:
            raise UserError(f"{where}: `area` is {note['area']}, below 0.")
        check_numbers(note, "bbox", 4, where)
        if "num_keypoints" in note:
            check_whole(note, "num_keypoints", where)
    return Truth(
        str(path),
        kind,
        parts,
        tuple(images),
        tuple(note for _, note in people),
        tuple(images.values()),
        category,
        {i: str(entry.get("name", i)) for i, entry in categories.items()},
        len(notes) - len(people),
    )


def names_and_sizes(
    entries: Iterable[Mapping[str, Any]], path: str | Path
) -> tuple[dict[int, str], dict[int, tuple[int, int]]]:
    """File names, and sizes (width, height) in pixels, of the images of an annotation file."""
    names: dict[int, str] = {}
    sizes: dict[int, tuple[int, int]] = {}
    for number, image in enumerate(entries):
        where = f"image {number} of {path}"
        name = image.get("file_name")
        if not is_inside(name):
            raise UserError(f"{where}: `file_name` is {shown(name)}, not a name below its folder.")
        names[image["id"]] = str(name)
        width, height = (check_whole(image, side, where) for side in ("width", "height"))
        sizes[image["id"]] = (width, height)
    return names, sizes


def pycocotools(extra: str) -> Any:
    """COCO's own tools: a namespace of `COCO`, `COCOeval` and `mask`.

    Raises:
        UserError: they are not installed; `extra` of this package installs them.
    """
    try:
        from pycocotools import mask
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise UserError(
            "average precision is computed by pycocotools, which is not installed: "
            f"pip install 'tcformer[{extra}]'."
        ) from error
    return SimpleNamespace(COCO=COCO, COCOeval=COCOeval, mask=mask)


def _by_id(entries: Sequence[Any], what: str, path: str | Path) -> dict[int, Mapping[str, Any]]:
    found: dict[int, Mapping[str, Any]] = {}
    for number, entry in enumerate(entries):
        where = f"{what} {number} of {path}"
        entry_id = check_whole(entry, "id", where)
        if found.setdefault(entry_id, entry) != entry:
            raise UserError(f"{where} has the id {entry_id}, which an earlier one has already.")
    return found


def points_of(entry: Mapping[str, Any], field: str) -> np.ndarray:
    """(K, 3) float64: x, y and visibility (truth) or score (prediction)."""
    return np.array(entry[field], np.float64).reshape(-1, 3)


def _kind(notes: Sequence[Mapping[str, Any]], path: str) -> tuple[Layout, tuple[str, ...]]:
    """Which set of keypoints a file annotates, told by the length of its lists."""
    first = notes[0].get("keypoints")
    length = len(first) if isinstance(first, list) else 0
    whole, face = layout("coco_wholebody"), layout("wflw")
    if length == _length(face, "face"):
        return face, ("face",)
    if length == _length(whole, "body"):
        # COCO's own files hold the body alone.
        fields = {name for note in notes for name in note}
        return whole, tuple(p for p in whole.parts if p == "body" or whole.fields[p] in fields)
    raise UserError(
        f"{path} holds no known set of keypoints: its first annotation needs `keypoints`, a list "
        f"of {_length(whole, 'body')} numbers (COCO, COCO-WholeBody) or {_length(face, 'face')} "
        "(WFLW)."
    )


def _length(kind: Layout, part: str) -> int:
    first, end = kind.parts[part]
    return 3 * (end - first)


def _checked(
    entry: Any, name: str, where: str, fits: Callable[[Any], bool], what: str, *default: Any
) -> Any:
    """What a field holds, if it fits."""
    if not isinstance(entry, dict):
        raise UserError(f"{where} is {shown(entry)}, not an object with fields.")
    if name not in entry and not default:
        raise UserError(f"{where} has no `{name}`.")
    value = entry.get(name, *default)
    if not fits(value):
        raise UserError(f"{where}: `{name}` is {shown(value)}, not {what}.")
    return value


def check_whole(entry: Any, name: str, where: str) -> int:
    """The whole number in a field."""
    return int(_checked(entry, name, where, _whole, "a whole number of at most 64 bits"))


def check_flag(entry: Any, name: str, where: str) -> int:
    """0 or 1 of a field that says no or yes; 0 where it is missing."""

    def fits(value: Any) -> bool:
        return isinstance(value, str | Real) and value in (0, 1, "0", "1")  # True is 1

    return int(_checked(entry, name, where, fits, "0 or 1", 0) in (1, "1"))


def check_number(entry: Any, name: str, where: str) -> float:
    """The finite number in a field."""
    return float(_checked(entry, name, where, _finite, "a finite number"))


def check_points(entry: Any, kind: Layout, part: str, where: str) -> None:
    """Refuse an entry whose list for `part` is missing, of another length or not finite."""
    check_numbers(entry, kind.fields[part], _length(kind, part), where)


def check_numbers(entry: Any, name: str, length: int, where: str) -> list[Any]:
    """The list of so many finite numbers in a field."""
    value = _checked(entry, name, where, lambda _: True, "")
    if not isinstance(value, list) or len(value) != length:
        have = f"{len(value)} numbers" if isinstance(value, list) else shown(value)
        raise UserError(f"{where}: `{name}` needs {length} numbers, it has {have}.")
    # A file of 260,000 people holds a hundred million numbers: the usual case has to be quick.
    if set(map(type, value)) <= {int, float}:
        with contextlib.suppress(OverflowError):
            if (np.abs(np.array(value, np.float64)) <= _LARGEST).all():
                return list(value)
    for position, number in enumerate(value):
        if not _finite(number):
            raise UserError(
                f"{where}: number {position} of `{name}` is {shown(number)}, not a finite number."
            )
    return list(value)


def _whole(value: Any) -> bool:
    number = isinstance(value, Integral) and not isinstance(value, bool)
    return number and abs(int(value)) <= _LARGEST_ID


def _finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return bool(abs(float(value)) <= _LARGEST)
    except OverflowError:
        return False
