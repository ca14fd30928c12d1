"""Images with boxes, masks or keypoints of objects, as torchvision's detectors take them."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_tensor

from tcformer.data.dataset import Item, SourceDataset
from tcformer.data.keypoints.annotations import (
    CocoFile,
    check_number,
    check_numbers,
    check_whole,
    names_and_sizes,
    pycocotools,
    read_coco,
)
from tcformer.data.shapes import draw_coco
from tcformer.data.spec import unknown_set
from tcformer.errors import UserError
from tcformer.images import LeftOut, decode_rgb

DETECTION_SETS = ("COCO", "shapes")
SHAPES_SIZE = 64  # side of the drawn images, pixels

Target = dict[str, Tensor]
"""What torchvision calls a target: `boxes` (N, 4) float32 as x0, y0, x1, y1 in pixels, `labels`
(N,) int64 from 1, and `masks` (N, H, W) uint8 or `keypoints` (N, K, 3) float32 where there are
some."""

_OTHER_SIDE = {"left": "right", "right": "left"}


class CocoSource:
    """A split of a data set in COCO's format.

    Args:
        content: the annotation file.
        folder: holds the images.
        split: train or val; images without a usable object are left out of train.
        keypoints: read the categories that have keypoints instead of all objects.
        path: of the annotation file, for messages.

    Attributes:
        categories: the file's ids in ascending order, and the names; the first one's label is 1.
        num_classes: number of categories + 1, the background being 0.
        mirror: for each keypoint, which one it is called when the image is mirrored.
        masks: whether every object has one.
        ids: of the images that are used.
        coco: pycocotools' index of the file.

    Raises:
        UserError: an entry is wrong, no image can be used, or pycocotools is not installed.
    """

    def __init__(
        self, content: CocoFile, folder: Path, split: str, *, keypoints: bool, path: str | Path
    ) -> None:
        self.folder, self.keypoints, self.path = folder, keypoints, path
        images, notes, categories = content
        self._names, self._sizes = names_and_sizes(images.values(), path)
        entries = [categories[i] for i in sorted(categories)]
        if keypoints:
            entries = [entry for entry in entries if entry.get("keypoints")]
        self.categories = {entry["id"]: str(entry.get("name")) for entry in entries}
        self.classes = list(self.categories.values())
        self.num_classes = len(self.categories) + 1
        self._label = {category: i for i, category in enumerate(self.categories, 1)}
        points = _keypoints_of(entries, path) if keypoints else []
        self.num_keypoints = len(points)
        # What "left_eye" becomes when an image is mirrored.
        other = [re.sub("left|right", lambda side: _OTHER_SIDE[side[0]], name) for name in points]
        self.mirror = [points.index(name) if name in points else i for i, name in enumerate(other)]
        # Ids count from 1: pycocotools reads an id of 0 as "not matched".
        objects = [
            {**note, "id": number}
            for number, note in enumerate(notes, 1)
            if note["category_id"] in self._label
        ]
        for note in objects:
            self._check(note, f"annotation {note['id'] - 1} of {path}")
        self.masks = not keypoints and all(note.get("segmentation") for note in objects)
        self.coco = pycocotools("dense").COCO()
        self.coco.dataset = {
            "info": {},  # pycocotools before 2.0.11 asks for it
            "images": list(images.values()),
            "annotations": objects,
            "categories": entries,
        }
        with contextlib.redirect_stdout(io.StringIO()):
            self.coco.createIndex()
        self.ids = [
            i
            for i in sorted(images)
            if split != "train" or any(self._usable(note) for note in self.coco.imgToAnns[i])
        ]
        inside = sum(self._inside(note) for note in objects)
        self.left_out = LeftOut()
        self.left_out.add("annotations of other categories", len(notes) - len(objects))
        self.left_out.add("objects without a box in their picture", len(objects) - inside)
        self.left_out.add("pictures without a usable object", len(images) - len(self.ids))
        if not self.ids:
            raise UserError(f"{path} has no image with an object.")

    def __len__(self) -> int:
        return len(self.ids)

    def describe(self, index: int) -> str:
        """The path of an image."""
        return str(self.folder / self._names[self.ids[index]])

    def read(self, index: int) -> Image.Image:
        """An image, RGB, turned as its EXIF data says: so people annotated it.

        Raises:
            OSError, UnreadableImageError: it cannot be read.
            UserError: it has another size than its annotations say.
        """
        image = decode_rgb(Path(self.describe(index)).read_bytes())
        width, height = self._sizes[self.ids[index]]
        if image.size != (width, height):
            raise UserError(
                f"{self.describe(index)} has {image.width} x {image.height} pixels after its EXIF "
                f"turn, but {self.path} says {width} x {height}."
            )
        return image

    def target(self, index: int) -> Target:
        """The usable objects of an image; their boxes are cut at its edges."""
        width, height = self._sizes[self.ids[index]]
        notes = [note for note in self.coco.imgToAnns[self.ids[index]] if self._usable(note)]
        boxes = torch.tensor([note["bbox"] for note in notes], dtype=torch.float32).view(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, 0::2].clamp_(0, width)
        boxes[:, 1::2].clamp_(0, height)
        labels = [self._label[note["category_id"]] for note in notes]
        target = {"boxes": boxes, "labels": torch.tensor(labels, dtype=torch.int64)}
        if self.keypoints:
            points = torch.tensor([note["keypoints"] for note in notes], dtype=torch.float32)
            target["keypoints"] = points.view(-1, self.num_keypoints, 3)
            target["keypoints"][..., 2].clamp_(max=1)
        elif self.masks:
            masks = [self._mask(note, height, width) for note in notes]
            stacked = np.stack(masks) if masks else np.zeros((0, height, width), np.uint8)
            target["masks"] = torch.from_numpy(stacked)
        return target

    def _check(self, note: dict[str, Any], where: str) -> None:
        check_numbers(note, "bbox", 4, where)
        check_number(note, "area", where)
        if self.keypoints:
            check_numbers(note, "keypoints", 3 * self.num_keypoints, where)
            note.setdefault("num_keypoints", sum(v > 0 for v in note["keypoints"][2::3]))
            check_whole(note, "num_keypoints", where)

    def _usable(self, note: Mapping[str, Any]) -> bool:
        pointed = not self.keypoints or note["num_keypoints"] > 0
        return bool(pointed and not note["iscrowd"] and self._inside(note))

    def _inside(self, note: Mapping[str, Any]) -> bool:
        """Whether a box has more than a pixel of its image on each side."""
        x, y, w, h = note["bbox"]
        width, height = self._sizes[note["image_id"]]
        across, down = min(x + w, width) - max(x, 0), min(y + h, height) - max(y, 0)
        return bool(across > 1 and down > 1)

    def _mask(self, note: Mapping[str, Any], height: int, width: int) -> np.ndarray:
        try:
            mask: np.ndarray | None = self.coco.annToMask(note)
        except Exception as error:  # pycocotools raises whatever it meets
            mask, reason = None, f": {error}"
        if mask is None or mask.shape != (height, width):
            reason = reason if mask is None else f", of {mask.shape[1]} x {mask.shape[0]} pixels"
            raise UserError(
                f"annotation {note['id'] - 1} of {self.path} has no mask of its picture's "
                f"{width} x {height} pixels{reason}."
            )
        return mask


def _keypoints_of(entries: Sequence[Mapping[str, Any]], path: str | Path) -> list[str]:
    """The names of the keypoints, which all categories share."""
    if not entries:
        raise UserError(f"{path} names no keypoints.")
    points: list[str] = entries[0]["keypoints"]
    if any(len(entry["keypoints"]) != len(points) for entry in entries):
        raise UserError(f"{path}: its categories have different numbers of keypoints.")
    return points


class CocoFolder(CocoSource):
    """A split of a folder in the layout of COCO 2017.

    The folder holds `train2017/`, `val2017/` and `annotations/instances_{train,val}2017.json`, or
    `person_keypoints_...` where keypoints are asked for.
    """

    def __init__(self, data_path: str | Path, split: str, *, keypoints: bool) -> None:
        kind = "person_keypoints" if keypoints else "instances"
        notes = Path(data_path) / "annotations" / f"{kind}_{split}2017.json"
        folder = Path(data_path) / f"{split}2017"
        for path in (folder, notes):
            if not path.exists():
                raise UserError(
                    f"{path} is missing; --data-path must be a folder in the layout of COCO 2017."
                )
        self.annotations_file = notes
        super().__init__(read_coco(notes), folder, split, keypoints=keypoints, path=notes)


class ShapesSource(CocoSource):
    """Drawn discs, squares and triangles of 64 x 64 pixels, with masks and three keypoints.

    Args:
        count: images to train on; a fifth as many, others, are for validation.
        split: train or val.
        keypoints: as for `CocoSource`.
        seed: another seed draws other images.
    """

    def __init__(self, count: int, split: str, *, keypoints: bool, seed: int = 0) -> None:
        first, number = (0, count) if split == "train" else (count, max(count // 5, 1))
        content, self._images = draw_coco(first, number, SHAPES_SIZE, seed=seed)
        where = f"the {split} split of shapes"
        super().__init__(content, Path(split), split, keypoints=keypoints, path=where)

    def read(self, index: int) -> Image.Image:
        """An image."""
        return self._images[self.ids[index]]


class DetectionDataset(SourceDataset):
    """Images and targets.

    Args:
        source: where they come from.
        flip: probability of a horizontal flip.
        skip_corrupt: as for `SourceDataset`.
    """

    def __init__(
        self, source: CocoSource, *, flip: float = 0.0, skip_corrupt: bool = False
    ) -> None:
        super().__init__(source, skip_corrupt=skip_corrupt)
        self.flip = flip

    def prepare(self, loaded: Image.Image, index: int) -> Item:
        """The image and its objects, mirrored or not."""
        image, target = to_tensor(loaded), self.source.target(index)
        if self.flip and torch.rand(()) < self.flip:
            image, target = image.flip(-1), mirrored(target, image.shape[-1], self.source.mirror)
        return Item(image, target, index)


def mirrored(target: Target, width: int, mirror: Sequence[int]) -> Target:
    """The target of an image `width` pixels wide after a horizontal flip; see `CocoSource`."""
    target = dict(target)
    boxes = target["boxes"].clone()
    boxes[:, 0::2] = width - target["boxes"][:, [2, 0]]
    target["boxes"] = boxes
    if "masks" in target:
        target["masks"] = target["masks"].flip(-1)
    if "keypoints" in target:
        points = target["keypoints"].clone()
        points[..., 0] = torch.where(points[..., 2] > 0, width - points[..., 0], 0.0)
        target["keypoints"] = points[:, list(mirror)]
    return target


def build_detection_source(
    data_set: str, data_path: str, split: str, *, keypoints: bool, num_shapes: int, seed: int
) -> CocoSource:
    """The images and objects that the options name.

    Raises:
        UserError: no such set, or its files are missing or wrong.
    """
    if data_set == "COCO":
        return CocoFolder(data_path, split, keypoints=keypoints)
    if data_set == "shapes":
        return ShapesSource(num_shapes, split, keypoints=keypoints, seed=seed)
    raise unknown_set(data_set, DETECTION_SETS, "detection")
