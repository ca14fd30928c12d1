"""Batches of drawn shapes for the examples, and how well their pixels are named."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from tcformer.data.shapes import KINDS, draw

__all__ = ["KINDS", "classification_batch", "mean_iou", "segmentation_batch"]

MEAN, STD = 0.45, 0.25


def to_tensor(image: Image.Image) -> Tensor:
    """(3, H, W) float, normalised to about -2..2."""
    pixels = torch.tensor(np.asarray(image)).permute(2, 0, 1).float() / 255
    return (pixels - MEAN) / STD


def segmentation_batch(
    first: int, count: int, size: int, *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Images (count, 3, size, size) and labels (count, size, size): 0 ground, 1 to 3 kinds."""
    images, labels = [], []
    for number in range(first, first + count):
        image, shapes = draw(number, size, seed=seed)
        label = Image.new("L", (size, size))
        for shape in shapes:
            ImageDraw.Draw(label).polygon(shape.outline, fill=shape.kind)
        images.append(to_tensor(image))
        labels.append(torch.tensor(np.asarray(label)).long())
    return torch.stack(images), torch.stack(labels)


def classification_batch(
    first: int, count: int, size: int, *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Images (count, 3, size, size) of one shape each, and its kind (count,), 0 to 2."""
    drawn = [draw(number, size, most=1, seed=seed) for number in range(first, first + count)]
    labels = torch.tensor([shapes[0].kind - 1 for _, shapes in drawn])
    return torch.stack([to_tensor(image) for image, _ in drawn]), labels


def mean_iou(predicted: Tensor, labels: Tensor) -> float:
    """Mean intersection over union of ground and kinds, in percent."""
    found = []
    for kind in range(len(KINDS) + 1):
        ours, theirs = predicted == kind, labels == kind
        union = (ours | theirs).sum()
        if union:
            found.append(((ours & theirs).sum() / union).item())
    return 100 * sum(found) / len(found)
