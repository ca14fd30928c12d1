"""Average precision of whole-body keypoints, equal to that of COCO-WholeBody's own script.

One protocol, COCO's, is run for each part on the same list of people; pycocotools computes it. What
the official script does otherwise than plain COCO (section A.3 of the recipe):

* each part brings its own keypoints and sigmas; a person without a labelled keypoint of the part is
  ignored there, whatever `num_keypoints` (which counts the body) says;
* the area that scales the distances is the person's, also for a hand;
* a prediction that gives no keypoint of the part a score above zero does not take part;
* the size of a prediction, which only AP and AR of medium and large people look at, is the extent
  of its seventeen body keypoints, for every part; or its `bbox`, where the first result has one.

A file of bodies alone is measured as COCO does it: `num_keypoints` says whom to ignore, and the
third number of a result's keypoint says nothing.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tcformer.data.keypoints import Layout
from tcformer.data.keypoints.annotations import Truth, points_of, pycocotools
from tcformer.errors import UserError
from tcformer.images import LeftOut
from tcformer.tasks.pose.results import opened

STATISTICS = ("AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl")
"""The ten numbers of each part, in pycocotools' order; fractions, -1 where there is no truth."""

WHOLE = "wholebody"

COCO_SIZES = (32.0**2, 96.0**2)
"""From the first area on a person is medium, from the second on large; in square pixels."""


def evaluate_keypoints(
    truth: str | Path | Truth, predictions: str | Path | Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """Evaluate predictions of people against an annotation file.

    Args:
        truth: file in COCO's format with COCO-WholeBody's fields, or with the body alone.
        predictions: file or list, one entry a person: `image_id`, `score`, `keypoints` (17 times x,
            y, score), `foot_kpts`, `face_kpts`, `lefthand_kpts`, `righthand_kpts`; optionally
            `foot_score` and so on, by which that part is ranked instead, and `bbox`.

    Returns:
        Part ("body", "foot", "face", "lefthand", "righthand", "wholebody"; of a file of bodies only
        the first) to the ten `STATISTICS`.

    Raises:
        UserError: a file is missing or wrong (the sentence says where), or pycocotools is not
            installed.
    """
    real, found = opened(truth, predictions)
    if real.kind.sigmas is None:
        raise UserError(
            f"{real.path} annotates {real.kind.name}, which has no average precision; its measure "
            "is the normalised mean error."
        )
    parts = [*real.parts, WHOLE] if len(real.parts) > 1 else real.parts
    return {part: _evaluate(real, found, part) for part in parts}


def ignored(truth: Truth) -> LeftOut:
    """The annotations that nobody is measured by."""
    rows = _as_truth(truth, truth.parts)
    crowds = sum(row["iscrowd"] for row in rows)
    left_out = LeftOut()
    left_out.others["crowds"] = crowds
    left_out.others["people without keypoints"] = sum(row["ignore"] for row in rows) - crowds
    left_out.others["annotations of other categories"] = truth.num_others
    left_out.others = +left_out.others
    return left_out


def _evaluate(truth: Truth, found: Sequence[Mapping[str, Any]], part: str) -> dict[str, float]:
    tools, kind = pycocotools("pose"), truth.kind
    parts = truth.parts if part == WHOLE else (part,)
    real = _as_truth(truth, parts)
    people = [
        _as_prediction(entry, [kind.fields[p] for p in parts], part, kind)
        for entry in found
        if len(truth.parts) == 1
        or any(score > 0 for p in parts for score in entry[kind.fields[p]][2::3])
    ]
    if not people:
        return _nothing_found(real)
    assert kind.sigmas is not None
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports on what it does
        data = tools.COCO()
        data.dataset = {
            "info": {},  # pycocotools before 2.0.11 asks for it
            "images": [{"id": image} for image in truth.images],
            "annotations": real,
            "categories": [{"id": 1, "name": "person"}],
        }
        data.createIndex()
        guesses = data.loadRes(people)
        for person in guesses.dataset["annotations"]:
            person["area"] = person["size"]
        run = tools.COCOeval(data, guesses, "keypoints")
        run.params.kpt_oks_sigmas = np.concatenate([kind.sigmas[kind.slice(p)] for p in parts])
        run.evaluate()
        run.accumulate()
        run.summarize()
    return {name: float(value) for name, value in zip(STATISTICS, run.stats, strict=True)}


def _as_truth(truth: Truth, parts: Sequence[str]) -> list[dict[str, Any]]:
    """The annotations of these parts, counted from 1: an id of 0 reads as "not matched" in COCO."""
    rows = []
    for number, note in enumerate(truth.annotations, 1):
        points = [value for part in parts for value in note[truth.kind.fields[part]]]
        labeled = sum(v > 0 for v in points[2::3])
        if len(truth.parts) == 1:
            labeled = note.get("num_keypoints", labeled)
        row = {
            "id": number,
            "category_id": 1,
            "ignore": int(note["iscrowd"] or labeled == 0),
            "keypoints": points,
            "num_keypoints": labeled,
        }
        rows.append(row | {key: note[key] for key in ("image_id", "area", "bbox", "iscrowd")})
    return rows


def _nothing_found(real: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The numbers without a single prediction, which pycocotools does not take."""
    areas = np.array([note["area"] for note in real if not note["ignore"]], np.float64)
    medium, large = COCO_SIZES
    some = {
        "m": ((areas >= medium) & (areas <= large)).any(),
        "l": (areas >= large).any(),
    }
    return {name: 0.0 if some.get(name[2:], len(areas) > 0) else -1.0 for name in STATISTICS}


def _as_prediction(
    entry: Mapping[str, Any], fields: Sequence[str], part: str, kind: Layout
) -> dict[str, Any]:
    if "bbox" in entry:
        extent = entry["bbox"][2:]
    else:
        extent = np.ptp(points_of(entry, kind.fields["body"])[:, :2], axis=0)
    score = entry["score"] if part == "body" else entry.get(f"{part}_score", entry["score"])
    return {
        "image_id": entry["image_id"],
        "category_id": 1,
        "keypoints": [number for field in fields for number in entry[field]],
        "score": score,
        "size": float(np.prod(extent)),
    }
