"""Files of predicted keypoints, checked against the annotations that they are about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tcformer.data.keypoints.annotations import (
    Truth,
    check_number,
    check_points,
    check_whole,
    read_json,
    shortened,
)
from tcformer.errors import UserError


def read_predictions(path: str | Path, truth: Truth) -> list[dict[str, Any]]:
    """A results file for `truth`: a list with one entry a person (or face).

    Raises:
        UserError: it cannot be read, or an entry misses a field, names an image that `truth` does
            not have, holds a value that is not finite or lists of another length.
    """
    content = read_json(path, "a results file")
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        content = content["annotations"]  # predictions in the form of the truth
    if not isinstance(content, list):
        raise UserError(f"{path} is no results file: it needs a list with one entry a person.")
    return check_predictions(content, truth, str(path))


def check_predictions(
    predictions: Sequence[Any], truth: Truth, path: str = "the predictions"
) -> list[dict[str, Any]]:
    """The same for predictions at hand."""
    if not predictions:
        raise UserError(f"{path} holds no predictions.")
    known = set(truth.images)
    faces = truth.kind.sigmas is None
    ids = {note["id"]: note["image_id"] for note in truth.annotations}
    for number, entry in enumerate(predictions):
        where = f"entry {number} of {path}"
        image = check_whole(entry, "image_id", where)
        if image not in known:
            raise UserError(f"{where} is on image {image}, which {truth.path} does not list.")
        if entry.get("category_id", 1) != 1:
            raise UserError(
                f"{where} has category_id {shortened(entry['category_id'])}; people and faces "
                "are category 1."
            )
        if faces:
            face = check_whole(entry, "id", where)
            if ids.get(face) != image:
                raise UserError(f"{where} is for face {face}, which is not on image {image}.")
        else:
            check_number(entry, "score", where)
            for part in truth.parts:
                if f"{part}_score" in entry:
                    check_number(entry, f"{part}_score", where)
        for part in truth.parts:
            check_points(entry, truth.kind, part, where)
    return [dict(entry) for entry in predictions]
