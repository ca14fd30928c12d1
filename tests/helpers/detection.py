"""A folder of drawn images in COCO's layout, and the smallest runs of detectors."""

from __future__ import annotations

import json
from pathlib import Path

from tcformer.data.shapes import draw_coco

SMALL = {
    "task": "detection", "data_set": "shapes", "num_shapes": 4, "model": "tcformer_nano",
    "neck_channels": 16, "neck_heads": 2, "neck_reduction": "cluster", "num_outs": 3,
    "anchor_scale": 4.0, "proposals": 8, "rois": 4, "head_layers": 1, "detections": 10,
    "min_size": 64, "max_size": 64, "batch_size": 2, "num_workers": 0, "epochs": 2,
    "warmup_epochs": 0, "warmup_steps": 1, "lr": 0.064, "device": "cpu", "threads": 1,
    "save_every": 0,
}  # fmt: skip


def write_coco(folder: Path, train: int = 8, val: int = 6, size: int = 64) -> Path:
    """Write SPLIT2017/*.png, and annotations/*.json for objects and for keypoints."""
    (folder / "annotations").mkdir(parents=True)
    for split, first, count in (("train", 0, train), ("val", train, val)):
        content, images = draw_coco(first, count, size)
        (folder / f"{split}2017").mkdir()
        for number, image in images.items():
            image.save(folder / f"{split}2017" / content.images[number]["file_name"])
        text = json.dumps(
            {
                "images": list(content.images.values()),
                "annotations": content.annotations,
                "categories": list(content.categories.values()),
            }
        )
        for kind in ("instances", "person_keypoints"):
            (folder / "annotations" / f"{kind}_{split}2017.json").write_text(text)
    return folder


def edit(folder: Path, change, kind: str = "instances", split: str = "val") -> dict:
    """Change what an annotation file says; its content afterwards."""
    path = folder / "annotations" / f"{kind}_{split}2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return content
