"""A made-up COCO-WholeBody: annotations and pictures of noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tcformer.data.keypoints import layout

WHOLE = layout("coco_wholebody")

SMALL = {
    "task": "pose", "data_set": "COCO-WholeBody", "model": "tcformer_nano", "crop_size": (64, 48),
    "batch_size": 2, "num_workers": 0, "epochs": 2, "warmup_epochs": 0, "device": "cpu",
    "save_every": 0, "threads": 1, "neck_channels": 16, "neck_heads": 2, "boxes": "truth",
    "neck_reduction": "pool",
}  # fmt: skip


def annotation(random, number, image, size, *, crowd=0, body=True):
    """One person somewhere in an image of `size`, parts labelled at random."""
    width, height = size
    w, h = random.uniform(20, width), random.uniform(20, height)
    x, y = random.uniform(0, width - w), random.uniform(0, height - h)
    points = np.stack(
        [random.uniform(x, x + w, 133), random.uniform(y, y + h, 133), np.zeros(133)], axis=1
    )
    for part, (first, end) in WHOLE.parts.items():
        if random.rand() < (1.0 if body else 0.0) * (0.6 if part != "body" else 1.0):
            points[first:end, 2] = random.choice([0, 0.04, 1, 2], end - first)
    if body:
        points[0, 2] = 2
    points[points[:, 2] == 0] = 0
    entry = {
        "id": number, "image_id": image, "category_id": 1, "iscrowd": crowd, "area": w * h * 0.6,
        "bbox": [x, y, w, h], "num_keypoints": int((points[:17, 2] > 0).sum()),
    }  # fmt: skip
    for part, field in WHOLE.fields.items():
        entry[field] = points[WHOLE.slice(part)].ravel().tolist()
    return entry


def make_annotations(seed=0, images=3, people=3, size=(120, 100)):
    random = np.random.RandomState(seed)
    notes, number = [], 100
    for image in range(1, images + 1):
        for i in range(people):
            crowd, body = int(i == 2 and image == 1), not (i == 1 and image == 2)
            notes.append(annotation(random, number, image, size, crowd=crowd, body=body))
            number += 1
    entries = [
        {"id": i, "file_name": f"{i:012d}.jpg", "width": size[0], "height": size[1]}
        for i in range(1, images + 1)
    ]
    return {"images": entries, "annotations": notes, "categories": [{"id": 1, "name": "person"}]}


def as_prediction(note, points, score=0.5):
    """A results entry for an annotation, with points (133, 3)."""
    entry = {"image_id": note["image_id"], "category_id": 1, "score": score}
    for part, field in WHOLE.fields.items():
        entry[field] = points[WHOLE.slice(part)].ravel().tolist()
    return entry


def make_coco(root: Path) -> Path:
    random = np.random.RandomState(0)
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        content = make_annotations(seed=len(split))
        (root / "annotations" / f"coco_wholebody_{split}_v1.0.json").write_text(json.dumps(content))
        (root / f"{split}2017").mkdir()
        for image in content["images"]:
            pixels = random.randint(0, 256, (image["height"], image["width"], 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / f"{split}2017" / image["file_name"])
    return root


def perfect(content):
    """A results file that repeats the annotations."""
    return [
        {**{field: note[field] for field in WHOLE.fields.values()},
         "image_id": note["image_id"], "category_id": 1, "score": 0.5}
        for note in content["annotations"]
    ]  # fmt: skip
