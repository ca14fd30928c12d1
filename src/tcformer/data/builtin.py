"""Data sets that need no files: scikit-learn's digits, scenes of them, fake images for dry runs."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tcformer.drawn import canvas, grained, stream
from tcformer.errors import UserError

DIGITS_SEED = 0  # of the 80/20 split; fixed, so that accuracies compare
DIGITS_SIZE = 32

TRAIN_SCENES, VAL_SCENES = 1024, 128
_VAL_STREAM = 0x5343
_INK = 0.4  # share of full ink from which on a pixel belongs to the digit


def require_digits() -> None:
    """Refuse what needs the digits where scikit-learn is missing.

    Raises:
        UserError: it is not installed.
    """
    try:
        import sklearn.datasets  # noqa: F401
    except ImportError:
        raise UserError(
            "The digits set comes with scikit-learn, which is not installed: "
            'run pip install "tcformer[demo]".'
        ) from None


class DigitsSource:
    """1797 handwritten digits of 8x8 pixels, enlarged to 32x32 RGB; 1437 to train, 360 to validate.

    The split is stratified by digit and always the same. Data: UCI "Optical Recognition of
    Handwritten Digits" test set, shipped inside scikit-learn.

    Raises:
        UserError: scikit-learn is not installed.
    """

    def __init__(self, split: str) -> None:
        require_digits()
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        train, val = train_test_split(
            np.arange(len(digits.target)),
            test_size=0.2,
            stratify=digits.target,
            random_state=DIGITS_SEED,
        )
        # Both halves in the order of the original set: the shuffle is the sampler's business.
        self.rows = np.sort(train if split == "train" else val)
        gray = np.rint(digits.images[self.rows] * (255 / 16)).astype(np.uint8)
        self.images, self.labels = gray, digits.target[self.rows].astype(np.int64)
        self.classes = [str(d) for d in range(10)]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[Image.Image, int]:
        """A 32x32 RGB image and the digit."""
        image = Image.fromarray(self.images[index])
        size = (DIGITS_SIZE, DIGITS_SIZE)
        return image.resize(size, Image.Resampling.BICUBIC).convert("RGB"), int(self.labels[index])

    def describe(self, index: int) -> str:
        """The row of the original set."""
        return f"scikit-learn digits, row {self.rows[index]}"


class FakeSource:
    """Random color patches: the same image for the same split and index, on every machine."""

    SIZE = 256

    def __init__(self, split: str, *, images: int, classes: int) -> None:
        self.split, self.images = split, images
        self.classes = [f"class {i}" for i in range(classes)]

    def __len__(self) -> int:
        return self.images

    def read(self, index: int) -> tuple[Image.Image, int]:
        """A 256x256 RGB image and its label, index modulo the number of classes."""
        draw = np.random.RandomState([0 if self.split == "train" else 1, index])
        patches = Image.fromarray(draw.randint(0, 256, (8, 8, 3)).astype(np.uint8))
        image = patches.resize((self.SIZE, self.SIZE), Image.Resampling.BILINEAR)
        return image, index % len(self.classes)

    def describe(self, index: int) -> str:
        """Which fake image."""
        return f"fake {self.split} image {index}"


class DigitScenesSource:
    """Canvases of `size` x `size` with two or three digits; 11 classes, 0 is the background.

    Training draws each scene anew; those to validate on are the same for ever. Digits of the two
    come from the two halves of `DigitsSource`: none is in both.

    A digit's pixels are those with ink; its color, size, angle and place are drawn, and a later
    digit may cover an earlier one. What is behind is a mixture of two darker colors by smooth
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
        draw, size = stream(self.split, _VAL_STREAM, index), self.size
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
        return grained(draw, picture), labels


def _inked(digit: np.ndarray, draw: np.random.RandomState, size: int) -> np.ndarray:
    """A digit of 8x8 pixels, enlarged and turned: ink per pixel, 0 to 1."""
    side = max(8, int(size * draw.uniform(0.45, 0.65)))
    image = Image.fromarray(np.pad(digit, 1)).resize((side, side), Image.Resampling.BICUBIC)
    turned = image.rotate(draw.uniform(-15, 15), Image.Resampling.BILINEAR)
    return np.asarray(turned, np.float64) / 255
