"""Images with a label for every pixel: ADE20K and folders of masks, transforms, batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tcformer.data.builtin import DigitScenesSource
from tcformer.data.dataset import Item, Source, SourceDataset
from tcformer.data.folder import FileSource, PathList, images_below, read_names, require_folder
from tcformer.data.spec import IMAGENET_MEAN, IMAGENET_STD, unknown_set
from tcformer.data.transforms import ToNormalized
from tcformer.errors import UserError
from tcformer.files import read_text, read_whole
from tcformer.images import (
    IMAGE_EXTENSIONS,
    LeftOut,
    NotLabelsError,
    UnreadableImageError,
    decode_labels,
    decode_rgb,
)
from tcformer.sections import Section, Within

NAME = "ADEChallengeData2016"
NUM_CLASSES = 150
IGNORE = 255
"""The label of pixels that count nowhere, in files and here, of up to 255 classes."""

_IGNORE_16 = 65535  # of more classes
_SPLITS = {"train": ("train", "training"), "val": ("val", "validation")}
_NAMES_FILE = "objectInfo150.txt"
SEGMENTATION_SETS = ("ADE20K", "folder", "digits")
NOWHERE = 65535  # in batches, the label of pixels that count nowhere, whatever the files have
ALIGN = 32  # sides of evaluated images are multiples of this, so that all levels divide
LONGEST = 4  # times the short side: an image longer than that is made smaller as a whole
_SAME_CLASS = 0.75  # a crop of which one class has more than this is drawn again
_CROP_ATTEMPTS = 10
_BRIGHTNESS, _HUE = 64, 0.2  # at strength 1; contrast and saturation have the strength itself


class PixelSource(Source, Protocol):
    """Where images and labels come from: `read` gives RGB and (H, W) uint8 or uint16."""

    ignore: int  # the label that counts nowhere


class MaskFolderSource(FileSource):
    """Images and masks of one split; a mask's pixels are the numbers of the classes.

    Below the data path lie `images/` and `annotations/`, each with `train/` and `val/` (or
    `training/` and `validation/`), and `classes.txt` with a name a line, the first one that of
    number 0. A mask has the name of its image, in any image format but JPEG and GIF, which change
    numbers; its pixels are gray of up to 16 bits or indices into a palette. 255 counts nowhere;
    where there are more than 255 classes, 65535 does.

    With `reduce_zero_label` 0 is unlabeled in the files, and the first class is 1.

    Raises:
        UserError: a folder or the names are missing, an image has no mask, or white means the
            second of two classes.
    """

    what = "the folder that holds images/, annotations/ and classes.txt"
    void_in_files = True

    def __init__(self, data_path: str, split: str, *, reduce_zero_label: bool = False) -> None:
        self.root = self._root(data_path)
        self.classes = self._names()
        self.first = int(reduce_zero_label)
        number, wide = len(self.classes), len(self.classes) + self.first > IGNORE
        self.ignore = _IGNORE_16 if wide else IGNORE
        if not 0 < number < _IGNORE_16 - self.first:
            raise UserError(f"{self.root} names {number} classes: give 1 to {_IGNORE_16 - 2}.")
        self._label = np.full(1 << 16, self.ignore, np.uint16 if wide else np.uint8)
        self._label[self.first : self.first + number] = np.arange(number)
        self.images, self.annotations = (
            self._split_folder(self.root / kind, split) for kind in ("images", "annotations")
        )
        self.left_out = LeftOut()
        images, masks = (self._by_name(f) for f in (self.images, self.annotations))
        if not images:
            raise UserError(
                f"The folder {self.images} has no image ({', '.join(IMAGE_EXTENSIONS)}): pass "
                f"{self.what}."
            )
        without = [name for name in images if name not in masks]
        if without:
            raise UserError(
                f"{self.annotations / without[0]}.png is missing, the labels of "
                f"{images[without[0]]} ({len(without)} of {len(images)} images have none): give "
                "each image a mask of its name, or take the image away."
            )
        self.left_out.add("masks without an image", len(masks) - len(images))
        if number == 2:
            self._doubt_black_and_white([masks[name] for name in images], split)
        self.files = PathList(list(images.values()))
        self.masks = PathList([masks[name] for name in images])

    def _root(self, data_path: str) -> Path:
        return require_folder(data_path, self.what)

    def _names(self) -> list[str]:
        file = self.root / "classes.txt"
        if not file.is_file():
            raise UserError(
                f"{file} is missing: write the name of each class there, one a line, in the order "
                "of their numbers in the masks."
            )
        return read_names(file)

    def _split_folder(self, above: Path, split: str) -> Path:
        for name in _SPLITS[split]:
            if (above / name).is_dir():
                return above / name
        raise UserError(
            f"The folder {above / _SPLITS[split][-1]} is missing: --data-path must be {self.what}, "
            f"each with {' or '.join(_SPLITS['train'])} and {' or '.join(_SPLITS['val'])} in it."
        )

    def _by_name(self, folder: Path) -> dict[str, str]:
        """Path by the path below `folder` without its ending, in sorted order."""
        found: dict[str, str] = {}
        for path in images_below(folder, self.left_out):
            name = str(Path(path).relative_to(folder).with_suffix(""))
            if name in found:
                raise UserError(
                    f"{found[name]} and {path} have the same name, so it is unclear which mask "
                    "belongs to which image: rename one of them."
                )
            found[name] = path
        return found

    def _doubt_black_and_white(self, masks: list[str], split: str) -> None:
        """Refuse to learn from masks that mark the second of two classes by white; else say so."""
        white = 0
        for mask in masks:
            try:
                labels = decode_labels(read_whole(mask))
            except (UnreadableImageError, OSError):
                continue  # the run says so when it comes to it
            if (labels == self.first + 1).any():
                return
            white += bool((labels == self.ignore).any())
        if white and split == "val":
            none = f"masks' pixels of {self.ignore} (none has {self.first + 1}, {self.classes[1]})"
            self.left_out.others[none] = white
        elif white:
            raise UserError(
                f"No mask of {self.annotations} has the number {self.first + 1} "
                f"({self.classes[1]}), and {self.ignore} counts nowhere: if white means that "
                f"class, write {self.first + 1} there."
            )

    def beside(self, index: int) -> str:
        """The path of the image's labels."""
        return self.masks[index]

    def read(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """The image, RGB, and its labels (H, W): class numbers from 0, or `ignore`.

        Labels are uint8, or uint16 of more than 255 classes.

        Raises:
            OSError, UnreadableImageError: the image or its labels cannot be read.
            UserError: they do not belong together, or the labels are not those of these classes.
        """
        path, file = self.files[index], self.masks[index]
        image = decode_rgb(read_whole(path))
        try:
            labels = decode_labels(read_whole(file))
        except NotLabelsError as error:
            raise UserError(f"{file} holds no labels: {error}.") from None
        except (UnreadableImageError, OSError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise UnreadableImageError(f"its labels {file} cannot be read ({why})") from None
        height, width = labels.shape
        if (width, height) != image.size:
            hint = ", turned as its EXIF data says" if (height, width) == image.size else ""
            raise UserError(
                f"{file} has {width} x {height} labels, but {path} has {image.size[0]} x "
                f"{image.size[1]} pixels{hint}: replace one of the two."
            )
        self._check_numbers(labels, file)
        return image, self._label[labels]

    def _check_numbers(self, labels: np.ndarray, file: str) -> None:
        last = self.first + len(self.classes) - 1
        if labels.max(initial=0) <= last:
            return
        present = np.flatnonzero(np.bincount(labels.ravel()))
        wrong = present[present > last]
        if self.void_in_files:
            wrong = wrong[wrong != self.ignore]
        if len(wrong):
            void = f", and {self.ignore} for none" if self.void_in_files else ""
            raise UserError(
                f"{file} holds the label {wrong[-1]}, but {self.root} names {len(self.classes)} "
                f"classes, {self.first} to {last}{void}: correct the mask or the names."
            )


class Ade20kSource(MaskFolderSource):
    """ADE20K of the scene parsing challenge of 2016: 150 classes, and no list of names needed.

    Below the data path (or its folder `ADEChallengeData2016`) lie `images/training`,
    `images/validation` and `annotations/` with the same two. In the files 0 is "something else" and
    1 to 150 are the classes; here the classes are 0 to 149, and what was 0 is 255 and counts
    nowhere. A part of the images will do.

    Raises:
        UserError: a folder is missing or empty, or an image has no file of labels.
    """

    what = f"the folder {NAME}, which holds images/ and annotations/"
    void_in_files = False  # 255 would be there if somebody has subtracted 1 already

    def __init__(self, data_path: str, split: str) -> None:
        super().__init__(data_path, split, reduce_zero_label=True)

    def _root(self, data_path: str) -> Path:
        root = super()._root(data_path)
        return root / NAME if (root / NAME).is_dir() else root

    def _names(self) -> list[str]:
        return _class_names(self.root / _NAMES_FILE)


def _class_names(file: Path) -> list[str]:
    """The names in the last column of the data set's own table, or numbers without it."""
    numbers = [f"class {i + 1}" for i in range(NUM_CLASSES)]
    try:
        lines = read_text(file, most=1 << 20).splitlines()[1:]
    except (OSError, UnicodeDecodeError):
        return numbers
    names = [line.split("\t")[-1].split(",")[0].strip() for line in lines if line.strip()]
    return names if len(names) == NUM_CLASSES else numbers


class PixelDataset(SourceDataset):
    """Images and labels, transformed.

    Args:
        source: where they come from.
        transform: from (image, labels) to a pair of tensors.
        skip_corrupt: as for `SourceDataset`.
    """

    def __init__(
        self,
        source: PixelSource,
        transform: Callable[[Image.Image, np.ndarray], tuple[Tensor, Tensor]],
        *,
        skip_corrupt: bool = False,
    ) -> None:
        super().__init__(source, skip_corrupt=skip_corrupt)
        self.transform = transform

    def prepare(self, loaded: tuple[Image.Image, np.ndarray], index: int) -> Item:
        """The pair of tensors, with `NOWHERE` where no label counts."""
        pixels, targets = self.transform(*loaded)
        return Item(pixels, targets.masked_fill(targets == self.source.ignore, NOWHERE), index)


@dataclass(frozen=True)
class PixelSpec(Section):
    """How images and labels become tensors; the fields are options of segmentation."""

    input_size: Annotated[int, Within(ALIGN)] = 512
    """Side of the training crop and, before `scale` is applied, the short side that images are
    resized to, in training and in evaluation."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Least and greatest factor of the training image's size."""
    hflip: Annotated[float, Within(0, 1)] = 0.5
    """Probability of a horizontal flip."""
    color_jitter: Annotated[float | None, Within(0, 1)] = 0.5
    """Strength of the photometric distortion; 0.5 is that of the SSD detector, which the authors'
    code used, None or 0 leaves it out."""

    def validate(self) -> None:
        """Refuse factors that cannot be."""
        if not 0 < self.scale[0] <= self.scale[1] < 100:
            raise UserError(
                "--scale must be the least and the greatest factor, both above 0, such as 0.5 2, "
                f"but it is {self.scale[0]:g} {self.scale[1]:g}."
            )


class TrainPair:
    """Resize by a drawn factor, crop, flip, distort colors, normalize, pad.

    Draws from NumPy's global generator; wrap the data set in `SeededDataset`.

    What lies outside of the image gets the label `ignore`.
    """

    def __init__(self, spec: PixelSpec, ignore: int = IGNORE) -> None:
        self.spec, self.ignore = spec, ignore
        self.normalize = ToNormalized(IMAGENET_MEAN, IMAGENET_STD)

    def __call__(self, image: Image.Image, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Image and labels as (3, S, S) float32 and (S, S) int32."""
        spec = self.spec
        width, height = _scaled(image.size, spec.input_size, np.random.uniform(*spec.scale))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        nearest_label = Image.Resampling.NEAREST
        labels = np.asarray(Image.fromarray(labels).resize((width, height), nearest_label))
        top, left = self._corner(labels)
        box = np.s_[top : top + spec.input_size, left : left + spec.input_size]
        pixels, labels = np.asarray(image)[box], labels[box]
        if np.random.uniform() < spec.hflip:
            pixels, labels = pixels[:, ::-1], labels[:, ::-1]
        if spec.color_jitter:
            pixels = distort(pixels, spec.color_jitter)
        normal = self.normalize(np.ascontiguousarray(pixels))
        right, below = (spec.input_size - side for side in (labels.shape[1], labels.shape[0]))
        pad = torch.nn.functional.pad
        targets = torch.from_numpy(labels.astype(np.int32))
        # Nothing is known outside: the mean color, and no label.
        outside = (0, right, 0, below)
        return pad(normal, outside), pad(targets, outside, value=self.ignore)

    def _corner(self, labels: np.ndarray) -> tuple[int, int]:
        """Top and left of a crop that is not nearly all of one class, if a few draws find one."""
        side = self.spec.input_size
        room = [max(0, n - side) for n in labels.shape]
        for _ in range(_CROP_ATTEMPTS):
            top, left = (np.random.randint(r + 1) for r in room)
            counts = np.bincount(labels[top : top + side, left : left + side].ravel(), minlength=1)
            counts[self.ignore :] = 0
            if np.count_nonzero(counts) > 1 and counts.max() < _SAME_CLASS * counts.sum():
                break
            if not any(room):
                break
        return int(top), int(left)


class EvalPair:
    """The whole image, its short side resized, its sides rounded up to multiples of 32.

    Labels stay as they are in the file: scores are brought to their size.
    """

    def __init__(self, spec: PixelSpec) -> None:
        self.spec = spec
        self.normalize = ToNormalized(IMAGENET_MEAN, IMAGENET_STD)

    def __call__(self, image: Image.Image, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Image (3, H, W) float32, and labels (H', W') int32 of the file's size."""
        width, height = (-(-n // ALIGN) * ALIGN for n in _scaled(image.size, self.spec.input_size))
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        return self.normalize(image), torch.from_numpy(labels.astype(np.int32))


def _scaled(size: tuple[int, int], short: int, factor: float = 1.0) -> tuple[int, int]:
    """Width and height with this short side, or with four times that as the long one."""
    factor *= min(short / min(size), LONGEST * short / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def distort(pixels: np.ndarray, strength: float) -> np.ndarray:
    """Change brightness, contrast, saturation and hue, each with probability 0.5.

    Contrast comes before or after the other two colors, as drawn. Source: SSD (Liu et al., ECCV
    2016); at strength 0.5 the amounts are those (32 of 255, 0.5 to 1.5 twice, 18 of 180 degrees).

    Args:
        pixels: (H, W, 3) uint8, RGB.
        strength: 0 to 1.
    """

    def chance() -> bool:
        return bool(np.random.randint(2))

    def contrast(image: np.ndarray) -> np.ndarray:
        return image * np.random.uniform(1 - strength, 1 + strength) if chance() else image

    image = pixels.astype(np.float32)
    if chance():
        image = image + np.random.uniform(-_BRIGHTNESS, _BRIGHTNESS) * strength
    first = chance()
    if first:
        image = contrast(image)
    saturate, turn = chance(), chance()
    if saturate or turn:
        colored = Image.fromarray(image.clip(0, 255).astype(np.uint8)).convert("HSV")
        hsv = np.asarray(colored).astype(np.float32)
        if saturate:
            hsv[..., 1] *= np.random.uniform(1 - strength, 1 + strength)
        if turn:
            hsv[..., 0] = (hsv[..., 0] + 256 * strength * np.random.uniform(-_HUE, _HUE)) % 256
        back = Image.fromarray(hsv.clip(0, 255).astype(np.uint8), "HSV").convert("RGB")
        image = np.asarray(back).astype(np.float32)
    if not first:
        image = contrast(image)
    return image.clip(0, 255).astype(np.uint8)


def build_pixel_source(
    data_set: str, data_path: str, split: str, size: int, *, reduce_zero_label: bool = False
) -> PixelSource:
    """The images and labels that the options name.

    Raises:
        UserError: no such set, or its files are missing or wrong.
    """
    if data_set == "ADE20K":
        return Ade20kSource(data_path, split)
    if data_set == "folder":
        return MaskFolderSource(data_path, split, reduce_zero_label=reduce_zero_label)
    if reduce_zero_label:
        raise UserError(
            f"--reduce-zero-label applies to mask files, and --data-set {data_set} has none: "
            "leave it out."
        )
    if data_set == "digits":
        return DigitScenesSource(split, size)
    raise unknown_set(data_set, SEGMENTATION_SETS, "segmentation")
