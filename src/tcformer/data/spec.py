"""What to read and how to augment it: plain settings, checked at construction, free of torch.

Field names are the published option names (`--data-set` is `data_set`). Every refusal is a
`UserError` of one sentence.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

from tcformer.errors import UserError, nearest

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

DATA_SETS = ("IMNET", "CIFAR", "CIFAR10", "INAT", "INAT19", "digits", "fake")
INAT_CATEGORIES = (
    "kingdom",
    "phylum",
    "class",
    "order",
    "supercategory",
    "family",
    "genus",
    "name",
)
DECODERS = ("pil", "torchvision")
INTERPOLATIONS = ("bicubic", "bilinear", "random", "nearest", "box", "hamming", "lanczos")
_RESIZE_ONLY = ("box", "hamming", "lanczos")
SMALL_INPUT = 32  # up to this many pixels the recipe crops with padding instead of resizing
_AUTO_AUGMENT = ("v0", "v0r", "original", "originalr", "3a")
# What timm's parsers understand; the rest they would silently skip or fail an assertion on.
_SECTIONS = {
    "rand": re.compile(r"m\d+|n\d+|p\d+(\.\d+)?|mstd\d+(\.\d+)?|mmax\d+|inc[01]|t(weights|3aw?)"),
    "augmix": re.compile(r"m\d+|w\d+|d\d+|a\d+(\.\d+)?|b[01]|mstd\d+(\.\d+)?"),
}


def _nearest(name: str, known: tuple[str, ...]) -> str:
    lower = {k.lower(): k for k in known}
    close = nearest(name.lower(), lower)
    return f" (did you mean {lower[close]}?)" if close else ""


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(
            f"--{option} {value!r} is not known{_nearest(str(value), known)}: "
            f"use one of {', '.join(known)}."
        )


def _number(option: str, value: object, low: float, high: float = math.inf) -> None:
    good = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not good or not low <= float(value) <= high:  # type: ignore[arg-type]
        bounds = f"from {low:g} to {high:g}" if high < math.inf else f"of at least {low:g}"
        raise UserError(f"--{option} must be a number {bounds}, but it is {value!r}.")


def _whole(option: str, value: object, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise UserError(
            f"--{option} must be a whole number of at least {low}, but it is {value!r}."
        )


@dataclass(frozen=True)
class DataSpec:
    """Which images to read.

    Args:
        data_path: root of the data set; not needed for `digits` and `fake`.
        data_set: IMNET (class folders under `train/` and `val/`, any number of classes), CIFAR
            (CIFAR-100), CIFAR10, INAT, INAT19 (JSON lists), digits (scikit-learn), fake, or
            `timm:NAME`, where NAME is passed on to timm's data set factory.
        inat_category: the rank of the taxonomy that is the label, for INAT and INAT19.
        decoder: `pil` decodes and resizes as the published recipe did; `torchvision` does both
            faster for JPEG files: decoded pixels are the same, resized ones differ a little.
        skip_corrupt: in evaluation, count unreadable images instead of stopping at the first.
            Training always counts and skips them.
        fake_images, fake_classes: size of the `fake` set (per split) and its number of classes.
    """

    data_path: str = ""
    data_set: str = "IMNET"
    inat_category: str = "name"
    decoder: str = "pil"
    skip_corrupt: bool = False
    fake_images: int = 256
    fake_classes: int = 10

    def __post_init__(self) -> None:
        if not self.data_set.startswith("timm:"):
            _one_of("data-set", self.data_set, DATA_SETS)
        _one_of("inat-category", self.inat_category, INAT_CATEGORIES)
        _one_of("decoder", self.decoder, DECODERS)
        _whole("fake-images", self.fake_images, 1)
        _whole("fake-classes", self.fake_classes, 1)

    @property
    def needs_path(self) -> bool:
        """Whether this set is read from `data_path` (digits and fake are not)."""
        return self.data_set not in ("digits", "fake")


@dataclass(frozen=True)
class TransformSpec:
    """How an image becomes a tensor: the published recipe by default.

    Args:
        input_size: side of the square input in pixels; at 32 or less the recipe takes a random
            crop with padding 4 instead of a random resized crop, and evaluates without resizing.
        color_jitter: strength of brightness, contrast and saturation jitter; as published it has
            no effect while `aa` is set. 0 switches it off.
        aa: RandAugment, AutoAugment or AugMix policy in timm's notation; None, '' or 'none' for
            none.
        crop_area: least and greatest share of the image's area that the training crop takes.
        train_interpolation: resampling of the training crop and of the policy's rotations; `random`
            draws bilinear or bicubic. box, hamming and lanczos cannot rotate: only without `aa`.
        reprob, remode, recount: random erasing: probability, fill (`pixel`, `rand`, `const`) and
            largest number of regions.
        resplit: refused, see the sentence: it needs augmentation splits, which this recipe has not.
        hflip: probability of a horizontal flip; None means 0.5, and 0 for the digits set.
        in_chans: 3 (RGB) or 1 (luma, taken after the augmentations, which need colour).
        mean, std: normalisation, one value a channel, pixels scaled to 0..1.
    """

    input_size: int = 224
    color_jitter: float | None = 0.4
    aa: str | None = "rand-m9-mstd0.5-inc1"
    crop_area: tuple[float, float] = (0.08, 1.0)
    train_interpolation: str = "bicubic"
    reprob: float = 0.25
    remode: str = "pixel"
    recount: int = 1
    resplit: bool = False
    hflip: float | None = None
    in_chans: int = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _whole("input-size", self.input_size, 1)
        if self.color_jitter is not None:
            _number("color-jitter", self.color_jitter, 0.0)
        object.__setattr__(self, "aa", _checked_policy(self.aa))
        self._check_crop_area()
        _one_of("train-interpolation", self.train_interpolation, INTERPOLATIONS)
        if self.aa and self.train_interpolation in _RESIZE_ONLY:
            raise UserError(
                f"--train-interpolation {self.train_interpolation} cannot rotate or shear as --aa "
                f"{self.aa} does: use bicubic, bilinear, random or nearest, or --aa none."
            )
        _number("reprob", self.reprob, 0.0, 1.0)
        _one_of("remode", self.remode, ("pixel", "rand", "const"))
        _whole("recount", self.recount, 1)
        if self.resplit:
            raise UserError(
                "--resplit keeps the first augmentation split free of erasing, but this recipe has "
                "no augmentation splits to choose from: leave it out."
            )
        if self.hflip is not None:
            _number("hflip", self.hflip, 0.0, 1.0)
        if self.in_chans not in (1, 3):
            raise UserError(
                f"--in-chans must be 1 or 3 for images from files, but it is {self.in_chans!r}."
            )
        for option in ("mean", "std"):
            value = getattr(self, option)
            if value is None:
                continue
            value = tuple(float(v) for v in value)
            if len(value) != self.in_chans or (option == "std" and min(value) <= 0):
                kind = "positive value" if option == "std" else "value"
                raise UserError(
                    f"--{option} needs one {kind} for each of the {self.in_chans} channels, but it "
                    f"is {value}."
                )
            object.__setattr__(self, option, value)

    def _check_crop_area(self) -> None:
        least, greatest = self.crop_area
        if not 0 < least <= greatest <= 1:  # so that NaN is refused too
            raise UserError(
                f"--crop-area is {least:g} {greatest:g}: give two shares of the image's area above "
                "0 and up to 1, the smaller one first."
            )
        if self.input_size <= SMALL_INPUT and self.crop_area != TransformSpec.crop_area:
            raise UserError(
                f"--crop-area has no effect with --input-size {self.input_size}: up to "
                f"{SMALL_INPUT} px the recipe pads the image and shifts it; leave it out."
            )

    def for_data_set(self, data_set: str) -> TransformSpec:
        """The settings with the data set's own defaults filled in: digits are not mirrored."""
        if self.hflip is not None:
            return self
        return replace(self, hflip=0.0 if data_set == "digits" else 0.5)

    @property
    def norm_mean(self) -> tuple[float, ...]:
        """`mean`, by default ImageNet's (for one channel: the average of its three)."""
        if self.mean is not None:
            return self.mean
        return IMAGENET_MEAN if self.in_chans == 3 else (sum(IMAGENET_MEAN) / 3,)

    @property
    def norm_std(self) -> tuple[float, ...]:
        """`std`, by default ImageNet's (for one channel: the average of its three)."""
        if self.std is not None:
            return self.std
        return IMAGENET_STD if self.in_chans == 3 else (sum(IMAGENET_STD) / 3,)

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
class MixSpec:
    """Mixing of pairs of images within a batch, and label smoothing (published option names).

    Args:
        mixup: Beta parameter of mixup; 0 switches it off.
        cutmix: Beta parameter of cutmix; 0 switches it off.
        cutmix_minmax: smallest and largest side of the cutmix box as a share of the image; replaces
            the Beta draw and switches cutmix on.
        mixup_prob: probability that a batch (or image) is mixed at all.
        mixup_switch_prob: probability of cutmix where both are on.
        mixup_mode: one draw per `batch`, per `pair` of images or per `elem`.
        smoothing: label smoothing of the targets.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    cutmix_minmax: tuple[float, float] | None = None
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mixup_mode: str = "batch"
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        _number("mixup", self.mixup, 0.0)
        _number("cutmix", self.cutmix, 0.0)
        _number("mixup-prob", self.mixup_prob, 0.0, 1.0)
        _number("mixup-switch-prob", self.mixup_switch_prob, 0.0, 1.0)
        _number("smoothing", self.smoothing, 0.0, 1.0)
        _one_of("mixup-mode", self.mixup_mode, ("batch", "pair", "elem"))
        if self.cutmix_minmax is not None:
            pair = tuple(float(v) for v in self.cutmix_minmax)
            if len(pair) != 2 or not 0 <= pair[0] < pair[1] <= 1:
                raise UserError(
                    "--cutmix-minmax needs two shares of the image side, the smaller first, each "
                    f"from 0 to 1, but it is {pair}."
                )
            object.__setattr__(self, "cutmix_minmax", pair)

    @property
    def active(self) -> bool:
        """Whether any mixing happens, so that targets are soft."""
        return self.mixup > 0 or self.cutmix > 0 or self.cutmix_minmax is not None
