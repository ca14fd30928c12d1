"""From any picture to the network's input, as the evaluation in training does it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tcformer.data.spec import SMALL_INPUT, TransformSpec
from tcformer.data.transforms import eval_transform

__all__ = ["RECIPE_CROP", "Preprocessing"]

RECIPE_CROP = 224 / 256
"""Share of the short side that the recipe's center crop keeps (above 32 px)."""


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the network's input. Call it with an RGB PIL image.

    Attributes:
        input_size: side of the square input, pixels.
        in_chans: 3, or 1 for luma.
        mean, std: one number a channel, for pixels scaled to 0..1; None is ImageNet's.
        crop_pct: the short side is resized to input_size / crop_pct, then the center is cropped;
            None is the recipe's: 224/256, and at 32 px or less the whole short side.
        interpolation: of the resizing, timm's name.
    """

    input_size: int = 224
    in_chans: int = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    interpolation: str = "bicubic"

    @property
    def spec(self) -> TransformSpec:
        """The same as the training's data settings, of which it takes the defaults."""
        return TransformSpec(
            input_size=self.input_size, in_chans=self.in_chans, mean=self.mean, std=self.std
        )

    @property
    def kept(self) -> float:
        """`crop_pct`, the recipe's own where None was given."""
        recipe = 1.0 if self.input_size <= SMALL_INPUT else RECIPE_CROP
        return recipe if self.crop_pct is None else self.crop_pct

    @cached_property
    def transform(self) -> Callable[[Any], Tensor]:
        """RGB PIL image -> (in_chans, input_size, input_size) float32."""
        recipe = Preprocessing(self.input_size).kept
        if self.interpolation == "bicubic" and abs(self.kept - recipe) < 1e-6:
            return eval_transform(self.spec)
        from timm.data import create_transform
        from torchvision.transforms import Compose, Grayscale

        steps = create_transform(
            (self.in_chans, self.input_size, self.input_size),
            is_training=False,
            interpolation=self.interpolation,
            mean=self.spec.norm_mean,
            std=self.spec.norm_std,
            crop_pct=self.kept,
        )
        return Compose([Grayscale(1), steps]) if self.in_chans == 1 else steps

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB PIL image of any size -> (in_chans, input_size, input_size) float32."""
        return self.transform(image)

    def normalize(self, picture: NDArray[np.uint8]) -> Tensor:
        """A whole picture, (H, W, 3) uint8, neither resized nor cropped.

        Returns:
            (1, in_chans, H, W) float32.
        """
        pixels = torch.tensor(picture).permute(2, 0, 1)
        if self.in_chans == 1:
            pixels = torch.tensor(np.asarray(Image.fromarray(picture).convert("L")))[None]
        mean, std = (
            torch.tensor(v).view(-1, 1, 1) for v in (self.spec.norm_mean, self.spec.norm_std)
        )
        return ((pixels / 255 - mean) / std)[None]

    normalise = normalize  # its former name
