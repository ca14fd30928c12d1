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
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.functional import to_tensor

from tcformer.data.keypoints.annotations import (
    check_number,
    check_numbers,
    check_whole,
    read_coco,
)
from tcformer.errors import UserError
from tcformer.images import LeftOut, UnreadableImageError, decode_rgb
from tcformer.models.fetch import file_sha256

try:
    from pycocotools import mask as rle
    from pycocotools.coco import COCO
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
        keypoints: read the categories that have keypoints instead of all objects.
        flip: probability of a horizontal flip.

    Attributes:
        categories: the file's ids in ascending order, and the names; the first one's label is 1.
        num_classes: number of categories + 1, the background being 0.
        num_keypoints: of each object, or 0.
        masks: whether every object has one.
        left_out: what of the file is not used.

    Raises:
        UserError: files are missing or wrong, or no picture can be used.
    """

    def __init__(self, folder: Path, split: str, *, keypoints: bool, flip: float = 0.0):
        kind = "person_keypoints" if keypoints else "instances"
        annotations = folder / "annotations" / f"{kind}_{split}2017.json"
        self.folder = folder / f"{split}2017"
        for path in (self.folder, annotations):
            if not path.exists():
                raise UserError(
                    f"{path} is missing; data_path must be a folder in the layout of COCO 2017."
                )
        self._annotations, self.keypoints, self.flip = annotations, keypoints, flip
        images, notes, categories = read_coco(annotations)
        for number, image in enumerate(images.values()):
            for side in ("width", "height"):
                check_whole(image, side, f"image {number} of {annotations}")
        entries = [categories[i] for i in sorted(categories)]
        if keypoints:
            entries = [entry for entry in entries if entry.get("keypoints")]
        self.categories = {entry["id"]: str(entry.get("name")) for entry in entries}
        self.num_classes = len(self.categories) + 1
        self._label = {category: i for i, category in enumerate(self.categories, 1)}
        points = entries[0]["keypoints"] if keypoints and entries else []
        self.num_keypoints = len(points)
        if keypoints and not points:
            raise UserError(f"{annotations} names no keypoints.")
        if keypoints and any(len(entry["keypoints"]) != len(points) for entry in entries):
            raise UserError(f"{annotations}: its categories have different numbers of keypoints.")
        # What "left_eye" becomes when a picture is mirrored.
        other = [re.sub("left|right", lambda side: _OTHER[side[0]], name) for name in points]
        self.mirror = [points.index(name) if name in points else i for i, name in enumerate(other)]
        # Ids count from 1: pycocotools reads an id of 0 as "not matched".
        objects = [
            {**note, "id": number}
            for number, note in enumerate(notes, 1)
            if note["category_id"] in self._label
        ]
        for note in objects:
            self._check(note, f"annotation {note['id'] - 1} of {annotations}")
        self.masks = not keypoints and all(note.get("segmentation") for note in objects)
        self.coco = COCO()
        self.coco.dataset = {
            "info": {},  # pycocotools before 2.0.11 asks for it
            "images": list(images.values()),
            "annotations": objects,
            "categories": entries,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco.createIndex()
        ids = sorted(images)
        self.chosen = [i for i in ids if split != "train" or self._usable(i)]
        self.left_out = LeftOut()
        inside = [note for note in objects if self._inside(note)]
        for what, all_of_them, used in (
            ("annotations of other categories", notes, objects),
            ("objects without a box in their picture", objects, inside),
            ("pictures without a usable object", ids, self.chosen),
        ):
            if len(used) < len(all_of_them):
                self.left_out.others[what] = len(all_of_them) - len(used)
        if not self.chosen:
            raise UserError(f"{annotations} holds no picture with an object.")

    def _check(self, note: dict[str, Any], where: str) -> None:
        check_numbers(note, "bbox", 4, where)
        check_number(note, "area", where)
        if self.keypoints:
            check_numbers(note, "keypoints", 3 * self.num_keypoints, where)
            note.setdefault("num_keypoints", sum(v > 0 for v in note["keypoints"][2::3]))
            check_whole(note, "num_keypoints", where)

    def __len__(self) -> int:
        return len(self.chosen)

    def fingerprint(self) -> dict[str, Any]:
        """What tells one data set from another: the file of annotations, which names the images."""
        digest = file_sha256(self._annotations)[:16]
        return {"classes": self.num_classes - 1, "images": len(self), "sha256": digest}

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """A picture (3, H, W) in 0..1 and its boxes, labels and masks or keypoints."""
        number = self.chosen[index]
        image = self._read(self.coco.imgs[number])
        annotations = self.coco.imgToAnns[number]
        target = self._target([a for a in annotations if self._good(a)], image)
        target["image_id"] = torch.tensor(number)
        if self.flip and torch.rand(()) < self.flip:
            image, target = image.flip(-1), self._mirrored(target, image.shape[-1])
        return image, target

    def _read(self, entry: dict[str, Any]) -> Tensor:
        """The picture of an entry, turned as its EXIF data says: so people annotated it."""
        path = self.folder / str(entry.get("file_name"))
        try:
            picture = decode_rgb(path.read_bytes())
        except (OSError, UnreadableImageError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise UserError(f"Cannot read the image {path}: {why}.") from None
        if picture.size != (entry["width"], entry["height"]):
            raise UserError(
                f"{path} has {picture.width} x {picture.height} pixels, turned as its EXIF data "
                f"says, but {self._annotations} is about {entry['width']} x {entry['height']}."
            )
        return to_tensor(picture)

    def _usable(self, image: int) -> bool:
        return any(self._good(a) for a in self.coco.imgToAnns[image])

    def _good(self, annotation: dict[str, Any]) -> bool:
        pointed = not self.keypoints or annotation["num_keypoints"] > 0
        return pointed and not annotation["iscrowd"] and self._inside(annotation)

    def _inside(self, annotation: dict[str, Any]) -> bool:
        """Whether a box has more than a pixel of its picture on each side."""
        x, y, width, height = annotation["bbox"]
        image = self.coco.imgs[annotation["image_id"]]
        across = min(x + width, image["width"]) - max(x, 0)
        down = min(y + height, image["height"]) - max(y, 0)
        return bool(across > 1 and down > 1)

    def _target(self, annotations: list[dict[str, Any]], image: Tensor) -> Target:
        height, width = image.shape[1:]
        boxes = torch.tensor([a["bbox"] for a in annotations], dtype=torch.float32).view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
        labels = [self._label[a["category_id"]] for a in annotations]
        target = {
            "boxes": boxes,
            "labels": torch.tensor(labels, dtype=torch.int64),
            "category_ids": torch.tensor([-1, *self.categories]),  # what `results` calls a label
        }
        if self.keypoints:
            points = torch.tensor([a["keypoints"] for a in annotations], dtype=torch.float32)
            points = points.view(-1, self.num_keypoints, 3)
            points[..., 2].clamp_(max=1)
            target["keypoints"] = points
        elif self.masks:
            masks = [self._mask(a, height, width) for a in annotations]
            stacked = np.stack(masks) if masks else np.zeros((0, height, width), np.uint8)
            target["masks"] = torch.from_numpy(stacked)
        return target

    def _mask(self, annotation: dict[str, Any], height: int, width: int) -> NDArray[np.uint8]:
        try:
            mask = self.coco.annToMask(annotation)
        except Exception as error:  # pycocotools raises whatever it meets
            mask, reason = None, f": {error}"
        if mask is None or mask.shape != (height, width):
            reason = reason if mask is None else f", of {mask.shape[1]} x {mask.shape[0]} pixels"
            raise UserError(
                f"annotation {annotation['id'] - 1} of {self._annotations} has no mask of its "
                f"picture's {width} x {height} pixels{reason}."
            )
        return mask

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
        image, categories = int(target["image_id"]), target["category_ids"].tolist()
        boxes = result["boxes"].cpu().clone()
        boxes[:, 2:] -= boxes[:, :2]
        for i, score in enumerate(result["scores"].tolist()):
            row = {
                "image_id": image,
                "category_id": categories[int(result["labels"][i])],
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
