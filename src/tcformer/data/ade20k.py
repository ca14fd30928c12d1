"""ADE20K as the scene parsing challenge of 2016 gives it out: 150 classes, a PNG of labels each."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from tcformer.data.folder import PathList, require_folder
from tcformer.errors import UserError
from tcformer.files import read_whole
from tcformer.images import LeftOut, UnreadableImageError, decode_labels, decode_rgb

NAME = "ADEChallengeData2016"
NUM_CLASSES = 150
IGNORE = 255
_FOLDERS = {"train": "training", "val": "validation"}
_NAMES_FILE = "objectInfo150.txt"


class Ade20kSource:
    """Images and labels of one split.

    Below the data path (or its folder `ADEChallengeData2016`) lie `images/training`,
    `images/validation` and `annotations/` with the same two. In the files 0 is "something else" and
    1 to 150 are the classes; here the classes are 0 to 149, and what was 0 is 255 and counts
    nowhere. A part of the images will do.

    Raises:
        UserError: a folder is missing or empty, or an image has no file of labels.
    """

    def __init__(self, data_path: str, split: str) -> None:
        root = require_folder(data_path, f"the folder {NAME}, which holds images/ and annotations/")
        if (root / NAME).is_dir():
            root /= NAME
        self.images = root / "images" / _FOLDERS[split]
        self.annotations = root / "annotations" / _FOLDERS[split]
        for folder in (self.images, self.annotations):
            if not folder.is_dir():
                raise UserError(
                    f"The folder {folder} is missing: --data-path must be the folder {NAME}, which "
                    "holds images/ and annotations/, each with training/ and validation/."
                )
        self.left_out = LeftOut()
        shown = [name for name in _listed(self.images) if not self.left_out.hides(name)]
        names = sorted(name for name in shown if self.left_out.wants(name))
        if not names:
            raise UserError(f"The folder {self.images} has no image (.jpg): unpack {NAME} again.")
        labelled = set(_listed(self.annotations))
        without = [name for name in names if _labels_of(name) not in labelled]
        if without:
            raise UserError(
                f"{self.annotations / _labels_of(without[0])} is missing, the labels of "
                f"{self.images / without[0]} ({len(without)} of {len(names)} images have none): "
                f"unpack {NAME} again."
            )
        self.files = PathList([str(self.images / name) for name in names], [0] * len(names))
        self.classes = _class_names(root / _NAMES_FILE)

    def __len__(self) -> int:
        return len(self.files)

    def describe(self, index: int) -> str:
        """The image's path."""
        return self.files[index]

    def beside(self, index: int) -> str:
        """The path of the image's labels."""
        return str(self.annotations / _labels_of(Path(self.files[index]).name))

    def read(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """The image, RGB, and its labels (H, W) uint8: 0 to 149, or 255.

        Raises:
            OSError, UnreadableImageError: the image or its labels cannot be read.
            UserError: they do not belong together, or the labels are not those of ADE20K.
        """
        image = decode_rgb(read_whole(self.files[index]))
        file = self.annotations / _labels_of(Path(self.files[index]).name)
        try:
            labels = decode_labels(read_whole(file))
        except (UnreadableImageError, OSError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise UnreadableImageError(f"its labels {file} cannot be read ({why})") from None
        height, width = labels.shape
        if (width, height) != image.size:
            raise UserError(
                f"{file} has {width} x {height} labels, but {self.files[index]} has "
                f"{image.size[0]} x {image.size[1]} pixels: replace one of the two."
            )
        if labels.max() > NUM_CLASSES:
            raise UserError(
                f"{file} holds the label {labels.max()}, but ADE20K has 0 (none) to {NUM_CLASSES}: "
                "these are not the labels of the scene parsing challenge, or the file is damaged."
            )
        # 0 becomes 255 by going round in eight bits.
        return image, labels.astype(np.uint8) - np.uint8(1)


def _listed(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError as error:
        raise UserError(f"The folder {folder} cannot be read: {error.strerror or error}.") from None


def _labels_of(image: str) -> str:
    return Path(image).stem + ".png"


def _class_names(file: Path) -> list[str]:
    """The names in the last column of the data set's own table, or numbers without it."""
    numbers = [f"class {i + 1}" for i in range(NUM_CLASSES)]
    try:
        lines = read_whole(file, most=1 << 20).decode(errors="replace").splitlines()[1:]
    except OSError:
        return numbers
    names = [line.split("\t")[-1].split(",")[0].strip() for line in lines if line.strip()]
    return names if len(names) == NUM_CLASSES else numbers
