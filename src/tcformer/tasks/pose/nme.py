"""The error of face landmarks, in units of the face: normalised mean error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tcformer.data.keypoints.annotations import Truth, points_of
from tcformer.data.keypoints.people import measurable_faces
from tcformer.errors import UserError, shown
from tcformer.tasks.pose.results import opened

SUBSETS = ("pose", "expression", "illumination", "make-up", "occlusion", "blur")
"""WFLW's attributes, in the order of its lists; a face may have several."""


def normalized_mean_error(
    found: np.ndarray, truth: np.ndarray, visible: np.ndarray, norm: tuple[int, int]
) -> float:
    """Mean distance of landmarks (N, K, 2) of N faces from the truth, each in units of its face.

    The unit is the true distance of the two landmarks `norm`; a face where it is zero is left out.

    Returns:
        The mean over all landmarks with `visible` (N, K) above zero, as a fraction; NaN if there is
        none.
    """
    unit = np.linalg.norm(truth[:, norm[0]] - truth[:, norm[1]], axis=-1)
    counts = (visible > 0) & (unit > 0)[:, None]
    distance = np.linalg.norm(found - truth, axis=-1) / np.where(unit > 0, unit, 1)[:, None]
    return float(distance[counts].mean()) if counts.any() else float("nan")


def evaluate_faces(
    truth: str | Path | Truth, predictions: str | Path | Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Evaluate landmarks of faces against an annotation file.

    Args:
        truth: file in COCO's format with 98 landmarks a face. An annotation may carry `attributes`,
            a list of names out of `SUBSETS`, or of six zeros and ones in that order.
        predictions: file or list, one entry a face: `id` of the annotation, `image_id`, `keypoints`
            (98 times x, y, score). Each face that can be measured needs one
            (`measurable_faces`).

    Returns:
        "test" and each subset that has faces to the error, as a fraction.

    Raises:
        UserError: a file is missing or wrong, or a face has no prediction or two.
    """
    real, entries = opened(truth, predictions)
    if real.kind.norm is None:
        raise UserError(f"{real.path} annotates {real.kind.name}, which has no unit of the face.")
    real, _ = measurable_faces(real)
    by_face: dict[int, np.ndarray] = {}
    for number, entry in enumerate(entries):
        if entry["id"] in by_face:
            raise UserError(
                f"entry {number} of the predictions is for face {entry['id']}, as an "
                "earlier one is; each face needs one."
            )
        by_face[entry["id"]] = points_of(entry, "keypoints")
    missing = [note["id"] for note in real.annotations if note["id"] not in by_face]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(real.annotations)} faces of {real.path} have no prediction, "
            f"the first is {missing[0]}; each face needs one."
        )
    known = np.stack([points_of(note, "keypoints") for note in real.annotations])
    found = np.stack([by_face[note["id"]] for note in real.annotations])
    groups = [_attributes(note, real.path) for note in real.annotations]

    def error(chosen: np.ndarray) -> float:
        assert real.kind.norm is not None
        return normalized_mean_error(
            found[chosen, :, :2], known[chosen, :, :2], known[chosen, :, 2], real.kind.norm
        )

    result = {"test": error(np.ones(len(known), bool))}
    for name in SUBSETS:
        chosen = np.array([name in group for group in groups])
        if chosen.any():
            result[name] = error(chosen)
    return result


def _attributes(note: Mapping[str, Any], path: str) -> set[str]:
    given = note.get("attributes", [])
    listed = given if isinstance(given, list) else [None]
    if len(listed) == len(SUBSETS) and all(flag in (0, 1) for flag in listed):
        return {name for name, on in zip(SUBSETS, listed, strict=True) if on}
    if not all(name in SUBSETS for name in listed):
        raise UserError(
            f"annotation {note['id']} of {path}: `attributes` is {shown(given)}; it lists "
            f"names out of {', '.join(SUBSETS)}, or six zeros and ones in this order."
        )
    return set(listed)
