"""WebDataset shards on disk, indexed so that any sample can be read at any time."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tcformer.data.folder import EXTENSIONS, PathList, require_folder
from tcformer.data.tars import members
from tcformer.errors import UserError
from tcformer.files import parse_json, read_whole

_LONGEST_LABEL = 1 << 22  # bytes of a label file; the metadata of a sample may be in it
_MOST_CLASSES = 10_000_000
_SPLIT_NAMES = {"train": ("train", "training"), "val": ("validation", "valid", "val")}


class ShardSource:
    """Samples `KEY.jpg` + `KEY.cls` (or `KEY.json` with a whole number `label`) in .tar shards.

    Shards are those that `_info.json` / `info.json` lists for the split, else ROOT/train/*.tar,
    else ROOT/*train*.tar (`val`, `valid` or `validation` for validation). Reading shards as a
    stream, as the webdataset package does, has no positions; their headers are read once here (no
    image data), which makes the order seeded and resumable, and evaluation exact. `classes.txt` in
    ROOT, one name a line, names the classes; otherwise they are numbered up to the largest label.

    Raises:
        UserError: a remote address, no shards, a damaged shard, or a sample without a label.
    """

    def __init__(self, data_path: str, split: str) -> None:
        if "://" in data_path or data_path.startswith("pipe:"):
            raise UserError(
                f"The shards at {data_path} are remote, and exact resuming needs them at hand: "
                "copy them to a disk and pass its folder as --data-path."
            )
        root = require_folder(data_path, "the folder that holds the .tar shards")
        self.shards = _find_shards(root, split)
        names: list[str] = []
        labels: list[int] = []
        place: list[tuple[int, int, int]] = []  # shard, offset, size
        for number, shard in enumerate(self.shards):
            for name, offset, size, label in _scan(shard):
                names.append(f"{shard}/{name}")
                labels.append(label)
                place.append((number, offset, size))
        if not names:
            raise UserError(
                f"The shards of {root} have no images ({', '.join(EXTENSIONS)}): check --data-path."
            )
        self.place = np.asarray(place, dtype=np.int64)
        self.classes = _class_names(root)
        self.numbered = not self.classes
        highest = max(labels)
        if self.numbered and highest < _MOST_CLASSES:
            self.classes = [str(i) for i in range(highest + 1)]
        if highest >= len(self.classes) or min(labels) < 0:
            raise UserError(
                f"The shards of {root} have the labels {min(labels)} to {highest}, but "
                + (
                    f"0 to {_MOST_CLASSES - 1} are meant."
                    if self.numbered
                    else f"classes.txt names {len(self.classes)} classes."
                )
            )
        self.files = PathList(names, labels)

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> tuple[bytes, int]:
        """The encoded image and its label."""
        shard, offset, size = self.place[index].tolist()
        with open(self.shards[shard], "rb") as file:
            file.seek(offset)
            return file.read(size), int(self.files.labels[index])

    def describe(self, index: int) -> str:
        """The shard and the member's name."""
        return self.files[index]


def _find_shards(root: Path, split: str) -> list[Path]:
    names = _SPLIT_NAMES[split]
    for info in (root / "_info.json", root / "info.json"):
        if not info.is_file():
            continue
        try:
            splits = parse_json(read_whole(info)).get("splits", {})
            listed = next((splits[n]["filenames"] for n in names if n in splits), None)
            shards = [root / name for name in listed or ()]
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{info} does not list shards as timm writes it: {error!r}.") from None
        if shards:
            for shard in shards:
                if not shard.is_file():
                    raise UserError(f"The shard {shard}, listed in {info.name}, is missing.")
            return shards
    for pattern in [f"{n}/*.tar" for n in names] + [f"*{n}*.tar" for n in names]:
        shards = sorted(root.glob(pattern))
        if shards:
            return shards
    raise UserError(
        f"There are no .tar shards for {split} in {root}: expected {split}/*.tar or *{split}*.tar "
        "(uncompressed)."
    )


def _scan(shard: Path) -> list[tuple[str, int, int, int]]:
    """Name, offset, size and label of each image of a shard; reads headers and label files only."""
    images: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    with open(shard, "rb") as stream:
        for name, offset, size in members(shard):
            folder, _, file = name.rpartition("/")
            stem, _, extension = file.partition(".")
            key = f"{folder}/{stem}"
            if f".{extension}".lower().endswith(EXTENSIONS):
                images[key] = (name, offset, size)
            elif extension in ("cls", "json"):
                stream.seek(offset)
                try:
                    label = _label(stream.read(min(size, _LONGEST_LABEL + 1)), extension)
                except ValueError as error:
                    raise UserError(
                        f"The label {name} in {shard} cannot be read: {error}; copy it again."
                    ) from None
                if label is not None and (extension == "cls" or key not in labels):
                    labels[key] = label
    for key, (name, _, _) in images.items():
        if key not in labels:
            raise UserError(
                f"The sample {name} in {shard} has no label: a .cls file, or a .json file with a "
                "whole number under label, must have the same name."
            )
    return [(*image, labels[key]) for key, image in images.items()]


def _label(content: bytes, extension: str) -> int | None:
    """The number in a label file; None for a .json without one."""
    if len(content) > _LONGEST_LABEL:
        raise ValueError(f"it has more than {_LONGEST_LABEL:,} bytes")
    if extension == "cls":
        return int(content)
    value = parse_json(content)
    value = value.get("label") if isinstance(value, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _class_names(root: Path) -> list[str]:
    file = root / "classes.txt"
    if not file.is_file():
        return []
    try:
        lines = read_whole(file).decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"The names of the classes in {file} cannot be read: {error}.") from None
    return [line.strip() for line in lines if line.strip()]
