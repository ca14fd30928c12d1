"""CIFAR-10 and CIFAR-100: the authors' batches through torchvision, or one .npz file a split."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tcformer.data.folder import require_folder
from tcformer.errors import UserError

_SMALL = 1 << 26  # bytes
_MOST_GROWTH = 20


def cifar_source(data_path: str, split: str, *, classes: int) -> ArraySource | NpzSource:
    """CIFAR with 10 or 100 (fine) classes from `data_path`; the test images are the `val` split.

    The folder holds either `cifar-10-batches-py` (`cifar-100-python`), unpacked, or
    `cifar10_train.npz` and `cifar10_test.npz` (`cifar100_...`), see `NpzSource`. Nothing is
    downloaded.

    Raises:
        UserError: neither form is there, or the files are damaged.
    """
    unpacked = "cifar-10-batches-py" if classes == 10 else "cifar-100-python"
    root = require_folder(data_path, f"the folder that holds {unpacked}/")
    npz = root / f"cifar{classes}_{'train' if split == 'train' else 'test'}.npz"
    if npz.is_file():
        return NpzSource(npz)
    if root.name == unpacked:
        root = root.parent
    if not (root / unpacked).is_dir():
        raise UserError(
            f"CIFAR-{classes} is not in {root}: put the unpacked folder {unpacked}/ or the file "
            f"{npz.name} there."
        )
    from torchvision.datasets import CIFAR10, CIFAR100

    reader = CIFAR10 if classes == 10 else CIFAR100
    try:
        # torchvision compares every file with its published MD5 sum before it unpickles it.
        data: Any = reader(str(root), train=split == "train", download=False)
    except (RuntimeError, OSError, KeyError, ValueError, EOFError):
        raise UserError(
            f"The files in {root / unpacked} are incomplete or damaged (their checksums differ "
            f"from the published ones): unpack the CIFAR-{classes} archive again."
        ) from None
    return ArraySource(data.data, data.targets, list(data.classes), str(root / unpacked), split)


class ArraySource:
    """Decoded images in memory, (N, H, W, 3) uint8."""

    def __init__(
        self, images: np.ndarray, labels: list[int], classes: list[str], name: str, split: str
    ) -> None:
        self.images = images
        self.labels = np.asarray(labels, dtype=np.int64)
        self.classes = classes
        self.name = f"{name}, {split}"

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[Image.Image, int]:
        """The RGB image and its label."""
        return Image.fromarray(self.images[index]), int(self.labels[index])

    def describe(self, index: int) -> str:
        """The folder, split and position."""
        return f"{self.name} image {index}"


def _refuse_growth(path: Path) -> None:
    """JPEG files do not shrink when they are compressed; what grows a lot is no archive of them."""
    with zipfile.ZipFile(path) as archive:
        size = sum(record.file_size for record in archive.infolist())
    if size > max(_SMALL, _MOST_GROWTH * path.stat().st_size):
        raise ValueError(f"it would grow to {size:,} bytes")


class NpzSource:
    """Encoded images in one .npz file.

    Arrays: `jpeg` uint8, the files' bytes one after the other; `offset` (N+1,) int64, where each
    begins and the last ends; `label` (N,) int64; `classes` (C,) str. Nothing is unpickled.

    Raises:
        UserError: not such a file, or its arrays contradict each other.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            _refuse_growth(path)
            with np.load(path, allow_pickle=False) as file:
                self.data = file["jpeg"]
                self.offset = file["offset"]
                self.labels = file["label"].astype(np.int64)
                self.classes = [str(c) for c in file["classes"]]
        except Exception as error:  # numpy and zipfile raise a dozen kinds on damaged files
            why = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"{path} is not a readable image archive ({why}): it needs the arrays jpeg, "
                "offset, label and classes."
            ) from None
        fits = (
            self.data.dtype == np.uint8
            and self.data.ndim == self.labels.ndim == 1
            and np.issubdtype(self.offset.dtype, np.integer)
            and self.offset.shape == (len(self.labels) + 1,)
            and bool((np.diff(self.offset) >= 0).all())
            and len(self.labels) > 0
            and int(self.offset[0]) >= 0
            and int(self.offset[-1]) <= self.data.size
            and int(self.labels.min()) >= 0
            and int(self.labels.max()) < len(self.classes)
        )
        if not fits:
            raise UserError(
                f"The arrays of {path} do not fit together: offset must have one entry more than "
                "label and stay within jpeg, and each label must be a position in classes."
            )

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> tuple[bytes, int]:
        """The encoded image and its label."""
        begin, end = self.offset[index], self.offset[index + 1]
        return self.data[begin:end].tobytes(), int(self.labels[index])

    def describe(self, index: int) -> str:
        """The file and the entry."""
        return f"{self.path}, image {index}"
