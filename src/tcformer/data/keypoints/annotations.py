"""Annotation files of keypoints in COCO's format, checked before anything is computed from them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real  # NumPy's count too: predictions need not come from a file
from pathlib import Path
from typing import Any

import numpy as np

from tcformer.data.keypoints import Layout, layout
from tcformer.errors import UserError

_SHOWN = 60  # characters of a wrong value in a message
_LARGEST = 1e12  # no area, coordinate or score is beyond this, and squares of it can be added up


@dataclass(frozen=True)
class Truth:
    """An annotation file.

    Attributes:
        path: of the file.
        kind: its set of keypoints.
        parts: those of its parts that it annotates.
        images: ids, in the file's order.
        annotations: as in the file, checked.
        image_entries: as in the file; empty where there is no such list.
    """

    path: str
    kind: Layout
    parts: tuple[str, ...]
    images: tuple[int, ...]
    annotations: tuple[Mapping[str, Any], ...]
    image_entries: tuple[Mapping[str, Any], ...] = ()


def read_truth(path: str | Path) -> Truth:
    """An annotation file in COCO's format: COCO, COCO-WholeBody, or WFLW's 98 points.

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
    images = [
        check_whole(image, "id", f"image {number} of {path}")
        for number, image in enumerate(content["images"])
    ]
    notes = content["annotations"]
    if not images or not notes:
        raise UserError(f"{path} holds no {'annotations' if images else 'images'}.")
    kind, parts = _kind(notes, str(path))
    known, seen = set(images), set()
    for number, note in enumerate(notes):
        where = f"annotation {number} of {path}"
        note_id = check_whole(note, "id", where)
        if note_id in seen:
            raise UserError(f"{where} has the id {note_id}, which an earlier one has already.")
        seen.add(note_id)
        if check_whole(note, "image_id", where) not in known:
            raise UserError(
                f"{where} is on image {note['image_id']}, which `images` does not list."
            )
        for part in parts:
            check_points(note, kind, part, where)
        if kind.sigmas is not None:
            check_number(note, "area", where)
            check_numbers(note, "bbox", 4, where)
    return Truth(str(path), kind, parts, tuple(images), tuple(notes), tuple(content["images"]))


def read_json(path: str | Path, what: str) -> Any:
    """A JSON file.

    Raises:
        UserError: it is missing or no JSON.
    """
    try:
        return json.loads(Path(path).read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give the path of {what}.") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else error
        raise UserError(f"{path} is not JSON, or damaged: {reason}.") from error


def points_of(entry: Mapping[str, Any], field: str) -> np.ndarray:
    """(K, 3) float64: x, y and visibility (truth) or score (prediction)."""
    return np.array(entry[field], np.float64).reshape(-1, 3)


def _kind(notes: Sequence[Any], path: str) -> tuple[Layout, tuple[str, ...]]:
    """Which set of keypoints a file annotates, told by the length of its lists."""
    first = notes[0].get("keypoints") if isinstance(notes[0], dict) else None
    length = len(first) if isinstance(first, list) else 0
    whole, face = layout("coco_wholebody"), layout("wflw")
    if length == _length(face, "face"):
        return face, ("face",)
    if length == _length(whole, "body"):
        # COCO's own files hold the body alone.
        return whole, tuple(p for p in whole.parts if p == "body" or whole.fields[p] in notes[0])
    raise UserError(
        f"{path} holds no known set of keypoints: its first annotation needs `keypoints`, a list "
        f"of {_length(whole, 'body')} numbers (COCO, COCO-WholeBody) or {_length(face, 'face')} "
        "(WFLW)."
    )


def _length(kind: Layout, part: str) -> int:
    first, end = kind.parts[part]
    return 3 * (end - first)


def _field(entry: Any, name: str, where: str) -> Any:
    if not isinstance(entry, dict):
        raise UserError(f"{where} is {shortened(entry)}, not an object with fields.")
    if name not in entry:
        raise UserError(f"{where} has no `{name}`.")
    return entry[name]


def check_whole(entry: Any, name: str, where: str) -> int:
    """The whole number in a field."""
    value = _field(entry, name, where)
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise UserError(f"{where}: `{name}` is {shortened(value)}, not a whole number.")
    return int(value)


def check_number(entry: Any, name: str, where: str) -> float:
    """The finite number in a field."""
    value = _field(entry, name, where)
    if not _finite(value):
        raise UserError(f"{where}: `{name}` is {shortened(value)}, not a finite number.")
    return float(value)


def check_points(entry: Any, kind: Layout, part: str, where: str) -> None:
    """Refuse an entry whose list for `part` is missing, of another length or not finite."""
    check_numbers(entry, kind.fields[part], _length(kind, part), where)


def check_numbers(entry: Any, name: str, length: int, where: str) -> None:
    """Refuse an entry whose list in a field is missing, of another length or not finite."""
    value = _field(entry, name, where)
    if not isinstance(value, list) or len(value) != length:
        have = f"{len(value)} numbers" if isinstance(value, list) else shortened(value)
        raise UserError(f"{where}: `{name}` needs {length} numbers, it has {have}.")
    if _all_finite(value):
        return
    position = next((i for i, number in enumerate(value) if not _finite(number)), None)
    if position is None:
        return  # numbers of NumPy, which are looked at one by one
    raise UserError(
        f"{where}: number {position} of `{name}` is {shortened(value[position])}, not a finite "
        "number."
    )


def _all_finite(numbers: list[Any]) -> bool:
    # A file of 260,000 people holds a hundred million numbers: the usual case has to be quick.
    if set(map(type, numbers)) <= {int, float}:
        try:
            return bool((np.abs(np.array(numbers, np.float64)) <= _LARGEST).all())
        except OverflowError:
            return False
    return False


def _finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value) and abs(float(value)) <= _LARGEST
    except OverflowError:
        return False


def shortened(value: Any) -> str:
    """A value as a sentence bears it."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
