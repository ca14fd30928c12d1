"""Lists of people in COCO's results format: made of what a network found, and read from files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tcformer.data.folder import read_json
from tcformer.data.keypoints import Layout
from tcformer.data.keypoints.annotations import (
    Truth,
    categories_of,
    check_number,
    check_numbers,
    check_points,
    check_whole,
    people_category,
    read_truth,
)
from tcformer.errors import UserError, shown

Entries = list[dict[str, Any]]


def opened(
    truth: str | Path | Truth, predictions: str | Path | Sequence[Mapping[str, Any]]
) -> tuple[Truth, Entries]:
    """Annotations and the predictions for them, each a file or at hand, checked."""
    real = truth if isinstance(truth, Truth) else read_truth(truth)
    if isinstance(predictions, str | Path):
        return real, read_predictions(predictions, real)[0]
    return real, _checked(predictions, real, "the predictions", real.category, real.categories)


def read_predictions(path: str | Path, truth: Truth) -> tuple[Entries, int]:
    """A results file for `truth`: a list with one entry a person (or face).

    Returns:
        The entries, and how many were of other categories and are left out.

    Raises:
        UserError: it cannot be read, or an entry misses a field, names an image that `truth` does
            not have, holds a value that is not finite or lists of another length.
    """
    content = read_json(path, "a results file")
    category, others = truth.category, set(truth.categories)
    if isinstance(content, dict) and isinstance(content.get("annotations"), list):
        # Predictions in the form of the truth, which may number the categories in its own way.
        named = categories_of(content, path)
        _check_names(content.get("images"), truth, path)
        content = content["annotations"]
        if any(entry.get("name") for entry in named.values()):
            category, others = people_category(named, path), set(named)
    if not isinstance(content, list):
        raise UserError(f"{path} is no results file: it needs a list with one entry a person.")
    entries = _checked(content, truth, str(path), category, others)
    return entries, len(content) - len(entries)


def _check_names(images: Any, truth: Truth, path: str | Path) -> None:
    """Refuse predictions that number the photographs otherwise than the truth."""
    names = {image["id"]: image.get("file_name") for image in truth.image_entries}
    for image in images if isinstance(images, list) else []:
        theirs = image.get("file_name") if isinstance(image, dict) else None
        ours = names.get(image.get("id")) if isinstance(image, dict) else None
        if not isinstance(theirs, str) or not isinstance(ours, str):
            continue
        if Path(ours).name != Path(theirs).name:
            raise UserError(
                f"image {image['id']} is {shown(theirs)} in {path} and {shown(ours)} in "
                f"{truth.path}: number the results as the annotations do."
            )


def _checked(
    predictions: Sequence[Any], truth: Truth, path: str, category: int, others: Collection[int]
) -> Entries:
    """The entries of people, who are `category`; those of `others` are left out."""
    if not predictions:
        raise UserError(f"{path} holds no predictions.")
    known = set(truth.images)
    faces = truth.kind.sigmas is None
    ids = {note["id"]: note["image_id"] for note in truth.annotations} if faces else {}
    # COCO's tools measure all people by their boxes where the very first entry has one.
    first = predictions[0] if isinstance(predictions[0], dict) else {}
    boxes = not faces and first.get("bbox", []) != []
    if not faces and not boxes and "segmentation" in first:
        raise UserError(
            f"entry 0 of {path} has a mask and no box: COCO's tools measure people by their masks "
            "then, which is not done here; give each a `bbox`, or leave `segmentation` out."
        )
    checked = []
    for number, entry in enumerate(predictions):
        where = f"entry {number} of {path}"
        image = check_whole(entry, "image_id", where)
        if image not in known:
            raise UserError(f"{where} is on image {image}, which {truth.path} does not list.")
        given = check_whole(entry, "category_id", where) if "category_id" in entry else category
        if given != category:
            if given in others:
                continue
            raise UserError(
                f"{where} has category_id {given}, which {truth.path} does not list; "
                f"people and faces are category {category} there."
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
        entry = {**entry, "category_id": truth.category}
        if boxes:
            check_numbers(entry, "bbox", 4, where)
        elif not faces:
            entry.pop("bbox", None)
        checked.append(entry)
    if not checked:
        raise UserError(f"{path} holds no predictions of people, which are category {category}.")
    return checked


def results_of_image(
    image_id: int,
    points: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    box_scores: Sequence[float],
    layout: Layout,
) -> list[dict[str, Any]]:
    """The entries of a results file for the people of one image, after OKS-NMS.

    Args:
        image_id: of the image.
        points: (N, K, 2) in pixels.
        scores: (N, K) of the keypoints.
        areas: (N,) of the padded boxes.
        box_scores: N of the detector.
        layout: of the keypoints; without sigmas nobody is dropped.
    """
    people = np.array([person_score(b, s) for b, s in zip(box_scores, scores, strict=True)])
    kept = list(range(len(points)))
    if layout.sigmas is not None:
        kept = oks_nms(points, people, areas, layout.sigmas)
    entries = []
    for i in kept:
        flat = np.concatenate([points[i], scores[i][:, None]], axis=1)
        entry: dict[str, Any] = {"image_id": image_id, "category_id": 1}
        for part, field in layout.fields.items():
            entry[field] = flat[layout.slice(part)].ravel().astype(float).tolist()
        entries.append({**entry, "score": float(people[i])})
    return entries


def person_score(box_score: float, scores: np.ndarray, threshold: float = 0.2) -> float:
    """The score of a person: that of the box, times the mean of the confident keypoints'.

    It is 0 if no keypoint (K,) is above `threshold`: a network with low peaks loses all its people.
    """
    confident = scores[scores > threshold]
    return float(box_score * confident.mean()) if len(confident) else 0.0


def object_keypoint_similarity(
    one: np.ndarray, others: np.ndarray, area: float, areas: np.ndarray, sigmas: np.ndarray
) -> np.ndarray:
    """How alike one set of keypoints (K, 2) is to others (N, K, 2), 0 to 1; all keypoints count.

    The areas are those of the padded boxes in square pixels, `sigmas` (K,).

    Returns:
        (N,) float64: the mean over keypoints of exp(-d^2 / (2 (2 sigma)^2 a)), a the mean area.
    """
    squared = ((others - one) ** 2).sum(-1)
    mean_area = ((area + areas) / 2)[:, None]
    exponent = squared / (2 * sigmas) ** 2 / (mean_area + np.spacing(1)) / 2
    return np.exp(-exponent).mean(-1)


def oks_nms(
    keypoints: np.ndarray,
    scores: np.ndarray,
    areas: np.ndarray,
    sigmas: np.ndarray,
    threshold: float = 0.9,
) -> list[int]:
    """Non-maximum suppression of the people of an image, (N, K, 2) with scores (N,), by OKS.

    People whose similarity to a better one is above `threshold` are dropped; of equal scores the
    last counts as better, as published. `areas` (N,) are those of the padded boxes.

    Returns:
        The positions that are kept, best first.
    """
    left = np.argsort(scores, kind="stable")[::-1]
    kept = []
    while len(left):
        best, rest = left[0], left[1:]
        kept.append(int(best))
        alike = object_keypoint_similarity(
            keypoints[best], keypoints[rest], float(areas[best]), areas[rest], sigmas
        )
        left = rest[alike <= threshold]
    return kept
