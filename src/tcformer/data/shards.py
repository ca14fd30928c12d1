"""Images in .tar files, above all WebDataset shards, indexed so that any is read at any time."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

import numpy as np
from timm.utils.misc import natural_key

from tcformer.data.folder import FileSource, PathList, read_names, require_folder
from tcformer.errors import UserError, cut, shown
from tcformer.files import parse_json, read_whole
from tcformer.images import IMAGE_EXTENSIONS, LeftOut, is_hidden, is_hidden_path

_LONGEST_LABEL = 1 << 22  # bytes of a label file; the metadata of a sample may be in it
_MOST_CLASSES = 10_000_000
_SPLIT_NAMES = {"train": ("train", "training"), "val": ("validation", "valid", "val")}

_LONGEST_HEADER = 1 << 16  # of names that do not fit; a path has 4096 bytes at most
_EMPTY = 10240  # bytes that tar writes for an archive of nothing
_DEEPEST = 3  # archives in archives


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    offset: int  # bytes from the start of the archive
    size: int  # bytes


class _Header(tarfile.TarInfo):
    """A header that cannot keep Python's reader busy for ever.

    Pythons in use go in circles over negative sizes (CVE-2025-8194, up to 3.13.5) and take hours
    over long extended headers (CVE-2024-6232, up to 3.12.5).
    """

    def _block(self, count: int) -> int:
        if count < 0:
            raise tarfile.HeaderError("a header in it has no size")
        return super()._block(count)  # type: ignore[misc]

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in b"LKxXg" and self.size > _LONGEST_HEADER:
            raise tarfile.HeaderError(f"the header of a file in it has {self.size} bytes")
        return super()._proc_member(archive)  # type: ignore[misc]


def members(path: Path, *, nested: bool = False) -> Iterator[Member]:
    """The ordinary files of an uncompressed archive, in order; only headers are read.

    Args:
        path: the archive.
        nested: take the files of a .tar file in it, named NAME.tar/FILE, instead of that one.

    Raises:
        UserError: it cannot be read, is truncated, damaged, or no .tar file.
    """
    try:
        with open(path, "rb") as stream:
            yield from _members(stream, path.stat().st_size, _DEEPEST if nested else 0)
    except (OSError, tarfile.TarError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"The archive {path} cannot be read: {why}; copy it again.") from None


def _members(stream: IO[bytes], size: int, depth: int) -> Iterator[Member]:
    """The files of an archive of `size` bytes, and of those in it down to `depth`."""
    try:
        archive = tarfile.TarFile(fileobj=stream, tarinfo=_Header)
    except tarfile.ReadError as error:
        raise tarfile.TarError(f"it is no .tar file ({error})") from None
    with archive:
        for member in archive:
            archive.members.clear()  # type: ignore[attr-defined]  # or it would keep them all
            if member.sparse is not None:
                raise tarfile.TarError("it holds files with holes (GNU sparse), which are not read")
            if not member.isreg():
                continue
            if member.offset_data + member.size > size:
                raise tarfile.TarError("it ends in the middle of a file, so it is truncated")
            inside = member.name.lower().endswith(".tar") and not is_hidden_path(member.name)
            if not depth or not inside:
                yield Member(member.name, member.offset_data, member.size)
                continue
            if depth == 1:
                raise tarfile.TarError(f"archives are nested more than {_DEEPEST} deep in it")
            content = archive.extractfile(member)
            assert content is not None
            for name, offset, length in _members(content, member.size, depth - 1):
                yield Member(f"{member.name}/{name}", member.offset_data + offset, length)
        # Python takes any header that is wrong for the end.
        stream.seek(archive.offset)
        mark = stream.read(tarfile.BLOCKSIZE)
        if len(mark) < tarfile.BLOCKSIZE:
            raise tarfile.TarError("it has no end mark, so it is truncated")
        if mark.strip(b"\0"):
            raise tarfile.TarError(f"it is damaged (no header at byte {archive.offset})")
        if archive.offset == 0 and size > _EMPTY:
            raise tarfile.TarError("it begins with zeros instead of a file")


class ArchiveSource(FileSource):
    """Images in uncompressed .tar files, each at a known place.

    Args:
        archives: the files.
        images: for each image the number of its archive, its place there, and its label.
        classes: names of the classes.
        left_out: what else the archives hold.
    """

    def __init__(
        self,
        archives: Sequence[Path],
        images: Sequence[tuple[int, Member, int]],
        classes: list[str],
        left_out: LeftOut,
    ) -> None:
        self.archives = archives
        place = [(number, member.offset, member.size) for number, member, _ in images]
        self.place = np.asarray(place, dtype=np.int64)
        names = [f"{archives[number]}/{member.name}" for number, member, _ in images]
        files = PathList(names, [label for _, _, label in images])
        super().__init__(classes, files, left_out)

    def read(self, index: int) -> tuple[bytes, int]:
        """The encoded image and its label."""
        number, offset, size = self.place[index].tolist()
        with open(self.archives[number], "rb") as file:
            file.seek(offset)
            return file.read(size), int(self.files.labels[index])


class TarSource(ArchiveSource):
    """Images of one .tar file with a folder for each class, or of a folder of one .tar a class.

    Archives in archives count as folders. Labels are numbered in natural order (2 before 10), and
    images ordered, as timm does.

    Raises:
        UserError: no image, or a damaged archive.
    """

    def __init__(self, place: Path) -> None:
        alone = place.is_file()
        archives = [place] if alone else _shown(place, "*.tar")
        left_out = LeftOut()
        found: list[tuple[int, Member, str]] = []
        for number, archive in enumerate(archives):
            for member in members(archive, nested=True):
                if is_hidden_path(member.name):
                    left_out.hidden += 1
                elif left_out.wants(member.name):
                    path = PurePosixPath("" if alone else archive.name, member.name)
                    if name := path.parent.name:
                        name = name[:-4] if name.lower().endswith(".tar") else name
                        found.append((number, member, name))
                    else:
                        left_out.others["outside of the class folders"] += 1
        if not found:
            raise UserError(
                f"There are no images ({', '.join(IMAGE_EXTENSIONS)}) in the .tar files of {place}."
            )
        classes = sorted({name for _, _, name in found}, key=natural_key)
        label = {name: i for i, name in enumerate(classes)}
        found.sort(key=lambda image: natural_key(image[1].name))
        images = [(number, member, label[name]) for number, member, name in found]
        super().__init__(archives, images, classes, left_out)


class ShardSource(ArchiveSource):
    """Samples `KEY.jpg` + `KEY.cls` (or `KEY.json` with a whole number `label`) in .tar shards.

    A sample's key is its name up to the first dot, and what follows is the field. The image is the
    one field that is an image's extension and nothing else: `KEY.seg.png` is not. Extensions may be
    in capitals; hidden files (`is_hidden`) are left out.

    Shards are those that `_info.json` / `info.json` lists for the split, else ROOT/train/*.tar,
    else ROOT/*train*.tar (`val`, `valid` or `validation` for validation). Reading shards as a
    stream, as the webdataset package does, has no positions; their headers are read once here (no
    image data), which makes the order seeded and resumable, and evaluation exact. `classes.txt` in
    ROOT, one name a line, names the classes; otherwise they are numbered up to the largest label.

    Raises:
        UserError: a remote address, no shards, a damaged shard, a sample without a label or with
            two images, or a name that occurs twice in a shard.
    """

    def __init__(self, data_path: str, split: str) -> None:
        if "://" in data_path or data_path.startswith("pipe:"):
            raise UserError(
                f"The shards at {data_path} are remote, and exact resuming needs them at hand: "
                "copy them to a disk and pass its folder as --data-path."
            )
        root = require_folder(data_path, "the folder that holds the .tar shards")
        shards = _find_shards(root, split)
        left_out = LeftOut()
        images = [
            (number, member, label)
            for number, shard in enumerate(shards)
            for member, label in _scan(shard, left_out)
        ]
        if not images:
            name = next((m.name for shard in shards for m in members(shard)), "")
            such = f" ({shown(name)} has {shown(_parts(name)[1])})" if name else ""
            raise UserError(
                f"The shards of {root} have no images ({', '.join(IMAGE_EXTENSIONS)}), a sample's "
                f"part behind the first dot of the name{such}: check --data-path and the names."
            )
        names = root / "classes.txt"
        classes = read_names(names) if names.is_file() else []
        self.numbered = not classes
        lowest, highest = (pick(label for _, _, label in images) for pick in (min, max))
        if self.numbered and highest < _MOST_CLASSES:
            classes = [str(i) for i in range(highest + 1)]
        if highest >= len(classes) or lowest < 0:
            most = f"classes.txt names {len(classes)} classes"
            if self.numbered:
                most = f"labels must be from 0 to {_MOST_CLASSES - 1}"
            raise UserError(
                f"The shards of {root} have the labels {lowest} to {highest}, but {most}."
            )
        super().__init__(shards, images, classes, left_out)


def _shown(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if not is_hidden(path.name))


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
            reason = cut(f"{type(error).__name__}: {error}")
            raise UserError(f"{info} does not list shards as timm writes it ({reason}).") from None
        for shard in shards:
            if not os.path.isfile(shard):  # Path.is_file raises for a name that is too long
                raise UserError(f"The shard {shard}, listed in {info.name}, is missing.")
        if shards:
            return shards
    for pattern in [f"{n}/*.tar" for n in names] + [f"*{n}*.tar" for n in names]:
        if shards := _shown(root, pattern):
            return shards
    raise UserError(
        f"There are no .tar shards for {split} in {root}: expected {split}/*.tar or *{split}*.tar "
        "(uncompressed)."
    )


def _parts(name: str) -> tuple[str, str]:
    """Key and field of a file in a shard."""
    folder, _, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return f"{folder}/{stem}", extension.lower()


def _scan(shard: Path, left_out: LeftOut) -> list[tuple[Member, int]]:
    """Place and label of each image of a shard; reads headers and label files only."""
    names: set[str] = set()
    keys: set[str] = set()
    images: dict[str, Member] = {}
    labels: dict[str, int] = {}
    with open(shard, "rb") as stream:
        for member in members(shard):
            name = member.name
            if is_hidden_path(name):
                left_out.hidden += 1
                continue
            if name in names:
                raise UserError(f"The shard {shard} holds {name} twice: write it again.")
            names.add(name)
            key, extension = _parts(name)
            keys.add(key)
            if f".{extension}" in IMAGE_EXTENSIONS:
                if key in images:
                    raise UserError(
                        f"A sample in {shard} has two images, {images[key].name} and {name}: give "
                        "the one that is not meant another field, such as KEY.seg.png."
                    )
                images[key] = member
            elif extension in ("cls", "json"):
                stream.seek(member.offset)
                try:
                    label = _label(stream.read(min(member.size, _LONGEST_LABEL + 1)), extension)
                except ValueError as error:
                    raise UserError(
                        f"The label {name} in {shard} cannot be read: {error}; write it again."
                    ) from None
                if label is not None and (extension == "cls" or key not in labels):
                    labels[key] = label
    for key, member in images.items():
        if key not in labels:
            raise UserError(
                f"The sample {member.name} in {shard} has no label: a .cls file, or a .json file "
                "with a whole number under label, must have the same name."
            )
    left_out.add("samples without an image", len(keys) - len(images))
    return [(member, labels[key]) for key, member in images.items()]


def _label(content: bytes, extension: str) -> int | None:
    """The number in a label file; None for a .json without one."""
    if len(content) > _LONGEST_LABEL:
        raise ValueError(f"it has more than {_LONGEST_LABEL:,} bytes")
    if extension == "cls":
        text = content.decode("utf-8-sig")
        try:
            return int(text)
        except ValueError:
            raise ValueError(f"it says {shown(text[:60])}, not the number of a class") from None
    value = parse_json(content)
    value = value.get("label") if isinstance(value, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
