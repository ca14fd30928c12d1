"""What to read and how to augment it: sections of options, free of torch."""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from tcformer.errors import UserError, nearest
from tcformer.sections import Off, Only, Section, Within

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

DATA_SETS = ("IMNET", "CIFAR", "CIFAR10", "INAT", "INAT19", "digits", "fake")
Decoder = Literal["pil", "torchvision"]
DECODERS: tuple[str, ...] = typing.get_args(Decoder)
SMALL_INPUT = 32  # up to this many pixels the recipe crops with padding instead of resizing
_AUTO_AUGMENT = ("v0", "v0r", "original", "originalr", "3a")
# What timm's parsers understand; the rest they would silently skip or fail an assertion on.
_SECTIONS = {
    "rand": re.compile(r"m\d+|n\d+|p\d+(\.\d+)?|mstd\d+(\.\d+)?|mmax\d+|inc[01]|t(weights|3aw?)"),
    "augmix": re.compile(r"m\d+|w\d+|d\d+|a\d+(\.\d+)?|b[01]|mstd\d+(\.\d+)?"),
}
_CLASSIFICATION = Only("classification")


@dataclass(frozen=True)
class DataSpec(Section):
    """Which images to read, and in what batches."""

    data_path: str = "data"
    """Folder that holds the data (ImageFolder: train/ and val/ with one folder a class)."""
    data_set: str = "IMNET"
    """IMNET (an ImageFolder), CIFAR (100 classes), CIFAR10, INAT, INAT19, digits, fake, timm:X;
    for segmentation ADE20K, folder (images and masks) or digits; for pose COCO-WholeBody, WFLW or
    sticks; for detection COCO (its layout of 2017) or shapes (drawn)."""
    inat_category: Annotated[
        Literal[
            "kingdom", "phylum", "class", "order", "supercategory", "family", "genus", "name"
        ],
        _CLASSIFICATION,
    ] = "name"  # fmt: skip
    """Label of INAT*: kingdom, phylum, class, order, supercategory, family, genus, name."""
    batch_size: Annotated[int, Within(1, 1_000_000)] = 128
    """Images per process and step, in evaluation too."""
    num_workers: Annotated[int, Within(0, 1024)] = 10
    """Loader processes per training process; 0 loads in the training process."""
    pin_mem: bool = True
    """Load into pinned memory (only does anything with a GPU)."""
    decoder: Annotated[Decoder, _CLASSIFICATION] = "pil"
    """Image reader: pil follows the recipe exactly, torchvision is faster."""
    skip_corrupt: bool = False
    """In evaluation, leave out unreadable images and count them; otherwise they are an error."""
    fake_images: Annotated[int, Within(1)] = field(default=256, metadata={"option": False})
    """Images of each split of the data set `fake`."""
    fake_classes: Annotated[int, Within(1)] = field(default=10, metadata={"option": False})
    """Its classes."""


def unknown_set(name: str, known: Sequence[str], task: str) -> UserError:
    """The refusal of a `--data-set` that the task has no reader for."""
    lower = {one.lower(): one for one in known}
    near = lower.get(nearest(name.lower(), lower) or "")
    guess = f" (did you mean {near}?)" if near else ""
    return UserError(f"--data-set {name} is not for {task}{guess}: use one of {', '.join(known)}.")


@dataclass(frozen=True)
class TransformSpec(Section):
    """How an image becomes a tensor: the published recipe by default."""

    input_size: Annotated[int, Within(1, 16_384), Only("classification", "segmentation")] = 224
    """Side of the square input, pixels."""
    in_chans: Annotated[int, _CLASSIFICATION] = 3
    """Channels of the input: 3 (color) or 1 (gray)."""
    color_jitter: Annotated[
        float | None, Within(0), Only("classification", "segmentation"), Off(None, 0)
    ] = 0.4
    """Color jitter strength; only used when --aa is None, and in segmentation always."""
    aa: Annotated[str | None, _CLASSIFICATION, Off(None)] = "rand-m9-mstd0.5-inc1"
    """AutoAugment or RandAugment policy in timm's notation, or None."""
    crop_area: Annotated[tuple[float, float], _CLASSIFICATION] = (0.08, 1.0)
    """Least and greatest share of the image's area that the training crop takes, 0 to 1."""
    train_interpolation: Annotated[
        Literal["bicubic", "bilinear", "random"], _CLASSIFICATION
    ] = "bicubic"  # fmt: skip
    """Interpolation of the training crop."""
    hflip: Annotated[float | None, Within(0, 1)] = None
    """Probability of a horizontal flip in training, 0 to 1; None is 0.5, and 0 for digits."""
    reprob: Annotated[float, Within(0, 1), _CLASSIFICATION, Off(0)] = 0.25
    """Probability of random erasing, 0 to 1."""
    remode: Annotated[Literal["pixel", "const", "rand"], _CLASSIFICATION] = "pixel"
    """What erased regions are filled with."""
    recount: Annotated[int, Within(1, 1000), _CLASSIFICATION] = 1
    """Greatest number of regions erased in an image."""
    mean: tuple[float, ...] | None = field(default=None, metadata={"option": False})
    """Normalization, one value a channel, for pixels scaled to 0..1; None is ImageNet's."""
    std: tuple[float, ...] | None = field(default=None, metadata={"option": False})
    """Likewise."""

    def validate(self) -> None:
        """Refuse a crop, a policy or a normalization that cannot be."""
        object.__setattr__(self, "aa", _checked_policy(self.aa))
        least, greatest = self.crop_area
        if not 0 < least <= greatest <= 1:
            raise UserError(
                f"--crop-area is {least:g} {greatest:g}: give two shares of the image's area above "
                "0 and up to 1, the smaller one first."
            )
        if self.input_size <= SMALL_INPUT and self.crop_area != TransformSpec.crop_area:
            raise UserError(
                f"--crop-area has no effect with --input-size {self.input_size}: up to "
                f"{SMALL_INPUT} px the recipe pads the image and shifts it; leave it out."
            )
        if self.in_chans not in (1, 3):
            raise UserError(
                f"--in-chans must be 1 or 3 for images from files, but it is {self.in_chans!r}."
            )
        for name, value in (("mean", self.mean), ("std", self.std)):
            if value is not None and (
                len(value) != self.in_chans or (name == "std" and min(value) <= 0)
            ):
                kind = "positive value" if name == "std" else "value"
                raise UserError(
                    f"--{name} needs one {kind} for each of the {self.in_chans} channels, but it "
                    f"is {value}."
                )

    def for_data_set(self, data_set: str) -> TransformSpec:
        """The settings with the data set's own defaults filled in: digits are not mirrored."""
        if self.hflip is not None:
            return self
        return replace(self, hflip=0.0 if data_set == "digits" else 0.5)

    @property
    def norm_mean(self) -> tuple[float, ...]:
        """`mean`, by default ImageNet's (for one channel: the average of its three)."""
        return self.mean or self._per_channel(IMAGENET_MEAN)

    @property
    def norm_std(self) -> tuple[float, ...]:
        """`std`, likewise."""
        return self.std or self._per_channel(IMAGENET_STD)

    def _per_channel(self, values: tuple[float, ...]) -> tuple[float, ...]:
        return values if self.in_chans == 3 else (sum(values) / 3,)

    def notes(self) -> list[str]:
        """Sentences about settings that change nothing together; worth printing before a run."""
        default = TransformSpec.color_jitter
        if self.aa and "3a" not in self.aa and self.color_jitter not in (default, None, 0):
            return [f"--color-jitter {self.color_jitter:g} has no effect while --aa is set."]
        return []


def _checked_policy(policy: str | None) -> str | None:
    """Refuse what timm would ignore or trip over; None, '' and 'none' mean no policy."""
    if policy is None or policy.strip().lower() in ("", "none"):
        return None
    head, *sections = policy.split("-")
    if head in _SECTIONS:
        bad = [s for s in sections if not _SECTIONS[head].fullmatch(s)]
    elif head in _AUTO_AUGMENT:
        bad = [s for s in sections if not re.fullmatch(r"mstd\d+(\.\d+)?", s)]
    else:
        raise UserError(
            f"--aa {policy!r} is not known: use a policy such as rand-m9-mstd0.5-inc1, "
            f"augmix-m3-w3, {', '.join(_AUTO_AUGMENT)}, or none."
        )
    if bad:
        raise UserError(f"--aa {policy!r}: the part {bad[0]!r} is not understood.")
    return policy


@dataclass(frozen=True)
class MixSpec(Section):
    """Mixing of pairs of images within a batch, and label smoothing."""

    tasks = ("classification",)

    mixup: Annotated[float, Within(0), Off(0)] = 0.8
    """Mixup alpha; 0 switches mixup off."""
    cutmix: Annotated[float, Within(0), Off(0)] = 1.0
    """CutMix alpha; 0 switches CutMix off."""
    cutmix_minmax: tuple[float, float] | None = None
    """Least and greatest side of the CutMix box as a share of the image; replaces --cutmix."""
    mixup_prob: Annotated[float, Within(0, 1), Off(0)] = 1.0
    """Probability that a batch is mixed at all, 0 to 1."""
    mixup_switch_prob: Annotated[float, Within(0, 1)] = 0.5
    """Probability of CutMix instead of mixup when both are on, 0 to 1."""
    mixup_mode: Literal["batch", "pair", "elem"] = "batch"
    """Whether lambda is drawn per batch, per pair or per image."""
    smoothing: Annotated[float, Within(0, 1), Off(0)] = 0.1
    """Label smoothing, 0 to 1."""

    def validate(self) -> None:
        """Refuse a CutMix box that cannot be."""
        pair: Any = self.cutmix_minmax
        if pair is not None and not 0 <= pair[0] < pair[1] <= 1:
            raise UserError(
                "--cutmix-minmax needs two shares of the image side, the smaller first, each "
                f"from 0 to 1, but it is {pair}."
            )

    @property
    def active(self) -> bool:
        """Whether any mixing happens, so that targets are soft."""
        return self.mixup > 0 or self.cutmix > 0 or self.cutmix_minmax is not None
