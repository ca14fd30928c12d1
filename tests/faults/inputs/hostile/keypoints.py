"""Annotations and predictions of keypoints, and boxes of detectors."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from people import make_annotations, perfect

from hostile.kinds import Kind
from hostile.labels import _text
from tcformer.data.keypoints.annotations import read_truth
from tcformer.data.keypoints.people import WholeBodySource
from tcformer.predict.boxes import read_boxes
from tcformer.tasks.pose.average_precision import evaluate_keypoints


@functools.cache
def _sound() -> dict[str, Any]:
    return make_annotations(images=2, people=2)


def _make(rng: random.Random, folder: Path) -> Path:
    """A folder of COCO-WholeBody of which one file is not sound."""
    sound = _sound()
    boxes = [
        {
            "image_id": n["image_id"],
            "bbox": n["bbox"],
            "score": 0.5,
            "category_id": 1,
            "file_name": "a.jpg",
        }
        for n in sound["annotations"]
    ]
    files: dict[str, Any] = {
        "annotations/coco_wholebody_val_v1.0.json": sound,
        "boxes.json": boxes,
        "found.json": perfect(sound),
    }
    hurt = rng.choice(list(files))
    (folder / "annotations").mkdir()
    (folder / "val2017").mkdir()
    for name, content in files.items():
        whole = json.dumps(content).encode()
        (folder / name).write_bytes(_text(rng, content) if name == hurt else whole)
    return folder


def _read(folder: Path) -> None:
    truth = read_truth(folder / "annotations" / "coco_wholebody_val_v1.0.json")
    source = WholeBodySource(str(folder), "val", str(folder / "boxes.json"))
    assert all(np.isfinite(source.subject(i).box).all() for i in range(len(source)))
    table = evaluate_keypoints(truth, folder / "found.json")
    assert all(np.isfinite(list(values.values())).all() for values in table.values())
    read_boxes(str(folder / "boxes.json"))


KINDS = [Kind("keypoints and boxes", _make, _read, 6)]
