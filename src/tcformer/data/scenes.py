"""Segmentation that needs no files: handwritten digits lying about on textured canvases."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tcformer.data.small import DigitsSource
from tcformer.drawn import canvas

TRAIN_SCENES, VAL_SCENES = 1024, 128
_VAL_STREAM = 0x5343
_INK = 0.4  # share of full ink from which on a pixel belongs to the digit


class DigitScenesSource:
    """Canvases of `size` x `size` with two or three digits; 11 classes, 0 is the background.

    Training draws each scene anew from NumPy's global generator, which `SeededDataset` seeds from
    (seed, epoch, index): there are as many scenes as one asks for. Scenes to validate on are the
    same for ever. Digits of the two come from the two halves of `DigitsSource`: none is in both.

    A digit's pixels are those with ink; its colour, size, angle and place are drawn, and a later
    digit may cover an earlier one. What is behind is a mixture of two darker colours by smooth
    noise, with stripes and grain.
    """

    def __init__(self, split: str, size: int) -> None:
        self.digits = DigitsSource(split)
        self.split, self.size, self.ignore = split, size, 255
        self.classes = ["background", *self.digits.classes]

    def __len__(self) -> int:
        return TRAIN_SCENES if self.split == "train" else VAL_SCENES

    def describe(self, index: int) -> str:
        """Which scene."""
        return f"{self.split} scene {index} of digits"

    def read(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """The scene, RGB, and its labels (size, size) uint8."""
        if self.split == "train":
            draw = np.random.RandomState(np.random.randint(2**31))
        else:
            draw = np.random.RandomState([_VAL_STREAM, index])
        size = self.size
        picture = canvas(draw, size)
        labels = np.zeros((size, size), np.uint8)
        for _ in range(draw.randint(2, 4)):
            row = draw.randint(len(self.digits))
            ink = _inked(self.digits.images[row], draw, size)
            height, width = ink.shape
            top = draw.randint(-height // 6, size - height + height // 6 + 1)
            left = draw.randint(-width // 6, size - width + width // 6 + 1)
            inside = np.s_[max(0, -top) : size - top, max(0, -left) : size - left]
            ink = ink[inside]
            height, width = ink.shape
            place = np.s_[max(0, top) : max(0, top) + height, max(0, left) : max(0, left) + width]
            picture[place] += ink[..., None] * (draw.uniform(150, 255, 3) - picture[place])
            labels[place][ink > _INK] = self.digits.labels[row] + 1
        picture += draw.normal(0, 6, picture.shape)
        return Image.fromarray(picture.clip(0, 255).astype(np.uint8)), labels


def _inked(digit: np.ndarray, draw: np.random.RandomState, size: int) -> np.ndarray:
    """A digit of 8x8 pixels, enlarged and turned: ink per pixel, 0 to 1."""
    side = max(8, int(size * draw.uniform(0.45, 0.65)))
    image = Image.fromarray(np.pad(digit, 1)).resize((side, side), Image.Resampling.BICUBIC)
    turned = image.rotate(draw.uniform(-15, 15), Image.Resampling.BILINEAR)
    return np.asarray(turned, np.float64) / 255
