"""Sets that need no files: scikit-learn's handwritten digits, and fake images for dry runs."""

from __future__ import annotations

import numpy as np
from PIL import Image

from tcformer.errors import UserError

DIGITS_SEED = 0  # of the 80/20 split; fixed, so that accuracies compare
DIGITS_SIZE = 32


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
        grey = np.rint(digits.images[self.rows] * (255 / 16)).astype(np.uint8)
        self.images, self.labels = grey, digits.target[self.rows].astype(np.int64)
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
    """Random colour patches: the same image for the same split and index, on every machine."""

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
