"""Folders of images and masks of class numbers: your own, and ADE20K as its challenge gives it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from tcformer.data.folder import PathList, images_below, read_names, require_folder
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

NAME = "ADEChallengeData2016"
NUM_CLASSES = 150
IGNORE = 255
"""The label of pixels that count nowhere, in files and here, of up to 255 classes."""

_IGNORE_16 = 65535  # of more classes
_SPLITS = {"train": ("train", "training"), "val": ("val", "validation")}
_NAMES_FILE = "objectInfo150.txt"


class MaskFolderSource:
    """Images and masks of one split; a mask's pixels are the numbers of the classes.

    Below the data path lie `images/` and `annotations/`, each with `train/` and `val/` (or
    `training/` and `validation/`), and `classes.txt` with a name a line, the first one that of
    number 0. A mask has the name of its image, in any image format but JPEG and GIF, which change
    numbers; its pixels are grey of up to 16 bits or indices into a palette. 255 counts nowhere;
    where there are more than 255 classes, 65535 does.

    Args:
        data_path: the folder.
        split: "train" or "val".
        reduce_zero_label: in the files 0 is unlabeled and the first class is 1.

    Attributes:
        classes: names of the classes.
        ignore: the label that counts nowhere, 255 or 65535.
        left_out: what was passed by.

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
        if len(masks) > len(images):
            self.left_out.others["masks without an image"] = len(masks) - len(images)
        if number == 2:
            self._doubt_black_and_white([masks[name] for name in images], split)
        self.files = PathList(list(images.values()), [0] * len(images))
        self.masks = PathList([masks[name] for name in images], [0] * len(images))

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

    def __len__(self) -> int:
        return len(self.files)

    def describe(self, index: int) -> str:
        """The image's path."""
        return self.files[index]

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
