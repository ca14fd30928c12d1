"""Pictures and targets for torchvision's detectors, and the average precision of what they find.

Both are COCO's: the reader takes the folder layout of COCO 2017, the metric is pycocotools'.
"""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import CocoDetection
from torchvision.transforms.functional import to_tensor

from tcformer.errors import UserError
from tcformer.models.fetch import file_sha256

try:
    from pycocotools import mask as rle
    from pycocotools.cocoeval import COCOeval
except ImportError as error:
    raise SystemExit(
        f"error: this example needs {error.name}; install it with: pip install 'tcformer[dense]'"
    ) from None

Target = dict[str, Tensor]
_OTHER = {"left": "right", "right": "left"}

PERSON = 17  # keypoints of a person, for whose sizes pycocotools has its own constants


class CocoFolder(Dataset[tuple[Tensor, Target]]):
    """A split of COCO, as torchvision's detectors want it.

    Args:
        folder: holds SPLIT2017/ and annotations/.
        split: train or val; pictures without a usable object are left out of train.
        keypoints: read persons and their keypoints instead of objects.
        flip: probability of a horizontal flip.

    Attributes:
        num_classes: greatest category number + 1, the background being 0.
        num_keypoints: of the first category that has some, or 0.

    Raises:
        UserError: files are missing, or no picture can be used.
    """

    def __init__(self, folder: Path, split: str, *, keypoints: bool, flip: float = 0.0):
        kind = "person_keypoints" if keypoints else "instances"
        annotations = folder / "annotations" / f"{kind}_{split}2017.json"
        for path in (folder / f"{split}2017", annotations):
            if not path.exists():
                raise UserError(
                    f"{path} is missing; data_path must be a folder in the layout of COCO 2017."
                )
        with contextlib.redirect_stdout(io.StringIO()):
            self.pictures = CocoDetection(str(folder / f"{split}2017"), str(annotations))
        self.coco, self._annotations = self.pictures.coco, annotations
        self.keypoints, self.flip = keypoints, flip
        categories = self.coco.loadCats(self.coco.getCatIds())
        self.num_classes = max(category["id"] for category in categories) + 1
        names = [category.get("keypoints", []) for category in categories]
        points = max(names, key=len)
        self.num_keypoints = len(points)
        # What "left_eye" becomes when a picture is mirrored.
        other = [re.sub("left|right", lambda side: _OTHER[side[0]], name) for name in points]
        self.mirror = [points.index(name) if name in points else i for i, name in enumerate(other)]
        if keypoints and not self.num_keypoints:
            raise UserError(f"{annotations} names no keypoints.")
        ids = self.pictures.ids
        self.chosen = [i for i, image in enumerate(ids) if split != "train" or self._usable(image)]
        if not self.chosen:
            raise UserError(f"{annotations} holds no picture with an object.")

    def __len__(self) -> int:
        return len(self.chosen)

    def fingerprint(self) -> dict[str, Any]:
        """What tells one data set from another: the file of annotations, which names the images."""
        digest = file_sha256(self._annotations)[:16]
        return {"classes": self.num_classes - 1, "images": len(self), "sha256": digest}

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """A picture (3, H, W) in 0..1 and its boxes, labels and masks or keypoints."""
        number = self.chosen[index]
        picture, annotations = self.pictures[number]
        image = to_tensor(picture.convert("RGB"))
        target = self._target([a for a in annotations if self._good(a)], image)
        target["image_id"] = torch.tensor(self.pictures.ids[number])
        if self.flip and torch.rand(()) < self.flip:
            image, target = image.flip(-1), self._mirrored(target, image.shape[-1])
        return image, target

    def _usable(self, image: int) -> bool:
        return any(self._good(a) for a in self.coco.loadAnns(self.coco.getAnnIds(image)))

    def _good(self, annotation: dict[str, Any]) -> bool:
        _, _, width, height = annotation["bbox"]
        seen = not self.keypoints or annotation.get("num_keypoints", 0) > 0
        return seen and not annotation.get("iscrowd", 0) and width > 1 and height > 1

    def _target(self, annotations: list[dict[str, Any]], image: Tensor) -> Target:
        height, width = image.shape[1:]
        boxes = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32).view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
        labels = torch.tensor([a["category_id"] for a in annotations], dtype=torch.int64)
        target = {"boxes": boxes, "labels": labels}
        if self.keypoints:
            points = torch.tensor([a["keypoints"] for a in annotations], dtype=torch.float32)
            points = points.view(-1, self.num_keypoints, 3)
            points[..., 2].clamp_(max=1)
            target["keypoints"] = points
        else:
            masks = [self.coco.annToMask(a) for a in annotations]
            stacked = np.stack(masks) if masks else np.zeros((0, height, width), np.uint8)
            target["masks"] = torch.from_numpy(stacked)
        return target

    def _mirrored(self, target: Target, width: int) -> Target:
        target = dict(target)
        boxes = target["boxes"].clone()
        boxes[:, 0::2] = width - target["boxes"][:, [2, 0]]
        target["boxes"] = boxes
        if "masks" in target:
            target["masks"] = target["masks"].flip(-1)
        if "keypoints" in target:
            points = target["keypoints"].clone()
            points[..., 0] = torch.where(points[..., 2] > 0, width - points[..., 0], 0.0)
            target["keypoints"] = points[:, self.mirror]
        return target


def collate(batch: list[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    """Pictures of different sizes stay a list."""
    return [image for image, _ in batch], [target for _, target in batch]


def results(found: list[Target], targets: list[Target]) -> list[dict[str, Any]]:
    """What a detector found, as COCO's rows."""
    rows = []
    for result, target in zip(found, targets, strict=True):
        image = int(target["image_id"])
        boxes = result["boxes"].cpu().clone()
        boxes[:, 2:] -= boxes[:, :2]
        for i, score in enumerate(result["scores"].tolist()):
            row = {
                "image_id": image,
                "category_id": int(result["labels"][i]),
                "bbox": boxes[i].tolist(),
                "score": score,
            }
            if "masks" in result:
                mask = (result["masks"][i, 0] >= 0.5).cpu().numpy().astype(np.uint8)
                row["segmentation"] = rle.encode(np.asfortranarray(mask))
            if "keypoints" in result:
                row["keypoints"] = result["keypoints"][i].flatten().tolist()
            rows.append(row)
    return rows


def average_precision(data: CocoFolder, rows: list[dict[str, Any]], kind: str) -> dict[str, float]:
    """COCO's AP over IoU 0.5 to 0.95 and AP at 0.5, in percent.

    Args:
        data: the set that was measured.
        rows: from `results`, of all its pictures.
        kind: bbox, segm or keypoints.
    """
    if not rows:
        return {"AP": 0.0, "AP50": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(data.coco, data.coco.loadRes(rows), kind)
        if kind == "keypoints" and data.num_keypoints != PERSON:
            evaluation.params.kpt_oks_sigmas = np.full(data.num_keypoints, 0.05)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {"AP": 100 * float(evaluation.stats[0]), "AP50": 100 * float(evaluation.stats[1])}
