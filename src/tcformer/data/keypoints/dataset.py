"""People cut out of photographs, with heat maps as targets: the data set and its batches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tcformer.data.dataset import Item, SourceDataset
from tcformer.data.keypoints.augment import Pose, PoseAugmentation
from tcformer.data.keypoints.codec import HeatmapCodec
from tcformer.data.keypoints.crop import Crop, after_mirroring, warp
from tcformer.data.keypoints.people import KeypointSource, Subject, WflwSource, WholeBodySource
from tcformer.data.keypoints.sticks import SticksSource
from tcformer.data.spec import IMAGENET_MEAN, IMAGENET_STD, unknown_set
from tcformer.data.transforms import ToNormalized
from tcformer.errors import UserError

KEYPOINT_SETS = ("COCO-WholeBody", "WFLW", "sticks")


class KeypointBatch(NamedTuple):
    """A batch of people."""

    images: Tensor  # (B, 3, H, W) float32, normalized
    targets: Tensor  # (B, K, h, w) float32; (B, 0) in evaluation
    weights: Tensor  # (B, K) float32; (B, 0) in evaluation
    indices: Tensor  # (B,) int64, positions in the data set
    num_corrupt: int  # people left out because their photograph could not be read


def stacked(items: list[Item], num_corrupt: int) -> KeypointBatch:
    """Batch of items."""
    targets, weights = zip(*(item.target for item in items), strict=True)
    return KeypointBatch(
        torch.stack([item.image for item in items]),
        torch.stack(targets),
        torch.stack(weights),
        torch.tensor([item.position for item in items], dtype=torch.int64),
        num_corrupt,
    )


class KeypointDataset(SourceDataset):
    """People cut out of photographs.

    Args:
        source: photographs and people.
        codec: makes the crop and, in training, the targets.
        augmentation: how people are varied; None gives them as they are, without targets.
        skip_corrupt: as for `SourceDataset`.
    """

    def __init__(
        self,
        source: KeypointSource,
        codec: HeatmapCodec,
        augmentation: PoseAugmentation | None,
        *,
        skip_corrupt: bool = False,
    ) -> None:
        super().__init__(source, skip_corrupt=skip_corrupt)
        self.codec, self.augmentation = codec, augmentation

    def crop(self, subject: Subject) -> Crop:
        """Where the network looks for a person that is not varied."""
        return self.codec.crop(subject.box, self.source.padding)

    def load(self, index: int) -> tuple[Subject, Image.Image]:
        """A person, and the photograph."""
        return self.source.subject(index), self.source.read(index)

    def prepare(self, loaded: tuple[Subject, Image.Image], index: int) -> Item:
        """The crop, and in training the heat maps with their weights."""
        subject, image = loaded
        crop = self.crop(subject)
        if self.augmentation is None:
            return Item(cut(image, crop, self.codec), (torch.zeros(0), torch.zeros(0)), index)
        width, height = self.codec.input_size
        pose = Pose(crop, subject.points, subject.visible)
        pose, flip = self.augmentation(pose, image.width, self.source.layout, width / height)
        pixels = cut(image, pose.crop, self.codec, flip=flip)
        points = pose.crop.to_input(pose.points, width, height)
        target, weight = self.codec.encode(points, pose.visible)
        return Item(pixels, (torch.from_numpy(target), torch.from_numpy(weight)), index)


def cut(image: Image.Image, crop: Crop, codec: HeatmapCodec, *, flip: bool = False) -> Tensor:
    """The network's input: (3, H, W) float32, normalized; black outside of the photograph.

    With `flip` the photograph is mirrored first, and `crop` is a place in that.
    """
    width, height = codec.input_size
    matrix = crop.matrix(width, height)
    if flip:
        matrix = after_mirroring(matrix, image.width)
    pixels = warp(torch.from_numpy(np.array(image)), matrix, width, height)
    return ToNormalized(IMAGENET_MEAN, IMAGENET_STD)(pixels)


def build_keypoint_source(data_set: str, data_path: str, split: str, boxes: str) -> KeypointSource:
    """The photographs and people that the options name.

    Raises:
        UserError: no such set, or its files are missing or wrong.
    """
    if data_set not in KEYPOINT_SETS:
        raise unknown_set(data_set, KEYPOINT_SETS, "pose")
    if data_set == "COCO-WholeBody":
        return WholeBodySource(data_path, split, boxes)
    if boxes:
        raise UserError(
            f"--boxes applies to COCO-WholeBody and has no effect on {data_set}: leave it out."
        )
    return WflwSource(data_path, split) if data_set == "WFLW" else SticksSource(split)
