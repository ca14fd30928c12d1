"""The published recipe's transforms, over timm's `create_transform`.

Every transform takes an RGB PIL image or a (3, H, W) uint8 tensor (`--decoder torchvision`) and
returns a (C, S, S) float32 tensor. Random draws are made in the same order for both, so both
decoders see the same crops, flips and policies for the same seed. RandAugment and color jitter are
defined on PIL images: a tensor is converted after cropping, when it is small.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F2

from tcformer.data.spec import SMALL_INPUT, TransformSpec

_TENSOR_MODES = (InterpolationMode.BILINEAR, InterpolationMode.BICUBIC)


class ToPIL:
    """uint8 tensor to PIL image; PIL images pass."""

    def __call__(self, image: Any) -> Image.Image:
        """Apply."""
        if not isinstance(image, Tensor):
            return image
        return Image.fromarray(image.permute(1, 2, 0).numpy())


class ToNormalized:
    """PIL image or uint8 tensor to (C, H, W) float32: scaled to 0..1, less `mean`, over `std`.

    The same bits as torchvision's ToTensor and Normalize, with two copies of the image fewer.
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor(std).view(-1, 1, 1)

    def __call__(self, image: Any) -> Tensor:
        """Apply."""
        if not isinstance(image, Tensor):
            array = np.array(image)
            array = array[:, :, None] if array.ndim == 2 else array
            image = torch.from_numpy(array).permute(2, 0, 1)
        pixels = image.to(torch.float32, memory_format=torch.contiguous_format)
        return pixels.div_(255).sub_(self.mean).div_(self.std)


class CropResize(RandomResizedCropAndInterpolation):
    """timm's random resized crop, which also takes uint8 tensors (resized with antialiasing)."""

    def __call__(self, image: Any) -> Any:
        """Apply."""
        modes = self.interpolation
        chosen = modes if isinstance(modes, (tuple, list)) else (modes,)
        if not isinstance(image, Tensor) or any(m not in _TENSOR_MODES for m in chosen):
            return super().__call__(ToPIL()(image))
        # The order of draws below is that of timm's: the box, then the interpolation.
        top, left, height, width = self.get_params(image, self.scale, self.ratio)
        mode = chosen[0] if len(chosen) == 1 else random.choice(chosen)
        # Channels last is how the decoder lays pixels out and how the resampler is fastest.
        crop = image[None, :, top : top + height, left : left + width]
        crop = crop.contiguous(memory_format=torch.channels_last)
        return interpolate(crop, list(self.size), mode=mode.value, antialias=True)[0]


class Resize:
    """Resize the short side to `size` pixels, bicubic with antialiasing."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Any) -> Any:
        """Apply."""
        return F2.resize(
            image, [self.size], interpolation=InterpolationMode.BICUBIC, antialias=True
        )


class FitSquare:
    """Leave an image of size x size as it is; resize and center-crop any other to it.

    The published recipe has no such step for inputs of 32 px or less: it works on images that have
    the input size already (CIFAR), and fails on others.
    """

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, image: Any) -> Any:
        """Apply."""
        if F2.get_size(image) == [self.size, self.size]:
            return image
        return F2.center_crop(Resize(self.size)(image), [self.size, self.size])


def train_transform(spec: TransformSpec) -> Callable[[Any], Tensor]:
    """The training transform: crop, flip, policy or jitter, tensor, normalize, erase.

    Draws from Python's, NumPy's and torch's global generators; wrap the data set in `SeededDataset`
    to make it a function of the key. Call `spec.for_data_set(...)` first: digits are not mirrored.
    """
    recipe = create_transform(
        input_size=spec.input_size,
        is_training=True,
        scale=spec.crop_area,
        hflip=0.5 if spec.hflip is None else spec.hflip,
        color_jitter=spec.color_jitter or None,
        auto_augment=spec.aa,
        interpolation=spec.train_interpolation,
        # The policy fills with the mean color, so it needs three channels even for one.
        mean=spec.norm_mean if spec.in_chans == 3 else spec.norm_mean * 3,
        std=spec.norm_std if spec.in_chans == 3 else spec.norm_std * 3,
        re_prob=spec.reprob,
        re_mode=spec.remode,
        re_count=spec.recount,
        separate=True,
    )
    geometry, policy, final = (list(part.transforms) for part in recipe)
    if spec.input_size <= SMALL_INPUT:
        crop: list[Any] = [
            FitSquare(spec.input_size),
            transforms.RandomCrop(spec.input_size, padding=4),
        ]
    else:
        timm_crop = geometry[0]
        crop = [CropResize(spec.input_size, timm_crop.scale, timm_crop.ratio)]
        crop[0].interpolation = timm_crop.interpolation
    erase = final[2:]  # after timm's own tensor conversion and normalization
    return transforms.Compose(
        [
            *crop,
            *geometry[1:],
            *([ToPIL(), *policy] if policy else []),
            *_to_normalized(spec),
            *erase,
        ]
    )


def eval_transform(spec: TransformSpec) -> Callable[[Any], Tensor]:
    """The evaluation transform: short side to int(256/224*S) bicubic, center crop, normalize.

    At 32 px or less there is no resizing of images that have the input size already.
    """
    size = spec.input_size
    if size <= SMALL_INPUT:
        steps: list[Any] = [FitSquare(size)]
    else:
        steps = [Resize(int(256 / 224 * size)), transforms.CenterCrop(size)]
    return transforms.Compose([*steps, *_to_normalized(spec)])


def _to_normalized(spec: TransformSpec) -> list[Any]:
    gray = [transforms.Grayscale(1)] if spec.in_chans == 1 else []
    return [*gray, ToNormalized(spec.norm_mean, spec.norm_std)]
