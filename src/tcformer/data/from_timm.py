"""Whatever timm's data set factory reads, as a map-style source: `--data-set timm:NAME`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from PIL import Image
from timm.utils.misc import natural_key

from tcformer.data.folder import ClassFolders, FileSource, PathList, images_below, require_folder
from tcformer.data.shards import ShardSource, TarSource
from tcformer.errors import UserError
from tcformer.files import read_whole
from tcformer.images import LeftOut, UnreadableImageError

_LOCAL = ("", "folder", "image_folder", "tar")
_VAL_NAMES = ("validation", "val", "valid", "test")


def timm_source(name: str, data_path: str, split: str) -> Any:
    """Pick the reader for `NAME` of `--data-set timm:NAME`.

    `folder` or `tar`: ROOT/train and ROOT/val as folders of images, folders of one .tar a class, or
    ROOT/train.tar and ROOT/val.tar. `torch/NAME`: torchvision's sets. `hfds/NAME`: the Hugging Face
    Hub, needs the package `datasets`. `wds/NAME`: WebDataset shards on disk, see `ShardSource`.
    Labels are numbered as timm numbers them (natural sort order of class folders).

    Raises:
        UserError: unknown name, missing files or package, or a set that can only be streamed.
    """
    prefix, slash, _ = name.partition("/")
    prefix = prefix.lower() if slash else ""
    if prefix in ("hfids", "tfds"):
        raise UserError(
            f"--data-set timm:{name} is a stream without positions, so a run could neither resume "
            "exactly nor evaluate each image once: use timm:hfds/NAME, timm:wds/NAME or files."
        )
    if prefix == "wds":
        return ShardSource(data_path, split)
    if prefix == "hfds":
        if importlib.util.find_spec("datasets") is None:
            raise UserError(
                f"--data-set timm:{name} needs the package datasets: run pip install datasets."
            )
        names = ("train",) if split == "train" else _VAL_NAMES
        return TimmSource(_create(name, data_path or None, names), f"timm:{name} {split}")
    if prefix == "torch":
        if name.lower() in ("torch/image_folder", "torch/folder"):
            return ClassFolders(require_folder(data_path, "the folder that holds class folders"))
        return TimmSource(_create(name, data_path or None, (split,)), f"timm:{name} {split}")
    if slash or name not in _LOCAL:
        raise UserError(
            f"--data-set timm:{name} is not known: use timm:folder, timm:tar, timm:torch/NAME, "
            "timm:hfds/NAME or timm:wds/NAME."
        )
    root = require_folder(data_path, f"the folder that holds {split}/ or {split}.tar")
    return _local(root, split)


def _local(root: Path, split: str) -> Any:
    for name in (split,) if split == "train" else ("val", "validation"):
        if (file := root / f"{name}.tar").is_file():
            return TarSource(file)
        folder = root / name
        if folder.is_dir():
            return TarSource(folder) if any(folder.glob("*.tar")) else NaturalFolders(folder)
    raise UserError(
        f"Neither {root / split}/ nor {root / split}.tar exists: --data-path must be the folder "
        "that holds them."
    )


class NaturalFolders(FileSource):
    """Class folders as timm numbers them: a class is the name of the last folder, wherever it is.

    Classes and images are in natural order (2 before 10).
    """

    def __init__(self, folder: Path) -> None:
        left_out = LeftOut()
        found = images_below(folder, left_out)
        paths = sorted((p for p in found if Path(p).parent != folder), key=natural_key)
        left_out.add("outside of the class folders", len(found) - len(paths))
        names = [Path(path).parent.name for path in paths]
        classes = sorted(set(names), key=natural_key)
        label = {name: i for i, name in enumerate(classes)}
        super().__init__(classes, PathList(paths, [label[name] for name in names]), left_out)


def _create(name: str, root: str | None, splits: tuple[str, ...]) -> Any:
    """Timm's data set under the first name of the split that it knows."""
    from timm.data import create_dataset

    for split in splits:
        try:
            return create_dataset(name, root=root, split=split, search_split=False)
        except Exception as error:  # readers raise almost anything: assertions, tar, HTTP, pickle
            # Hugging Face says "Unknown split".
            if (
                isinstance(error, ValueError)
                and "split" in str(error).lower()
                and split != splits[-1]
            ):
                continue
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise UserError(f"timm cannot read the data set timm:{name}: {reason}.") from error
    raise AssertionError("no split was tried")


class TimmSource:
    """A map-style data set of timm's; images are decoded here, with this project's rules.

    timm's own `__getitem__` is not used: it replaces an unreadable image by its neighbour.
    """

    def __init__(self, dataset: Any, name: str) -> None:
        self.name = name
        self._dataset = dataset
        self._reader = getattr(dataset, "reader", None)
        if self._reader is None and hasattr(dataset, "loader"):
            dataset.loader = read_whole  # the file's bytes, for our reader, where torchvision asks
        self.classes, self.numbered = self._class_names()

    def _class_names(self) -> tuple[list[str], bool]:
        reader = self._reader
        if table := getattr(reader, "class_to_idx", None):
            return [str(n) for n, _ in sorted(table.items(), key=lambda pair: pair[1])], False
        names = getattr(self._dataset, "classes", None)
        if names:
            return [str(n) for n in names], False
        if reader is not None and hasattr(reader, "iter_targets"):
            highest = max((int(t) for t in reader.iter_targets()), default=-1)
            return [str(i) for i in range(highest + 1)], True
        raise UserError(f"{self.name} does not say what its classes are: use another data set.")

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, index: int) -> tuple[bytes | Image.Image, int]:
        """Encoded bytes (from some of torchvision's sets an image) and the label."""
        try:
            if self._reader is None:
                image, target = self._dataset[index]
                return image, int(target)
            file, target, *_ = self._reader[index]
            with file:
                return file.read(), int(target)
        except OSError as error:
            raise UnreadableImageError(error.strerror or str(error)) from None
        except Exception as error:  # Arrow has exceptions of its own
            raise UnreadableImageError(str(error) or type(error).__name__) from None

    def describe(self, index: int) -> str:
        """The file's name in the set, where the set has one."""
        try:
            return f"{self.name}: {self._reader.filename(index)}"  # type: ignore[union-attr]
        except Exception:  # not all readers know names
            return f"{self.name}: image {index}"
