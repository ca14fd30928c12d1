"""Lists, archives and folders that say what is in the images."""

from __future__ import annotations

import functools
import io
import json
import os
import random
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from hostile.images import hostile_bytes, sound
from hostile.kinds import TRACE, Kind, disturbed, mutated, strange_name
from tcformer.data import DataSpec, build_dataset
from tcformer.data.segmentation import (
    NOWHERE,
    EvalPair,
    PixelDataset,
    PixelSpec,
    build_pixel_source,
)
from tcformer.errors import UserError


def _odd(rng: random.Random) -> Any:
    return rng.choice(
        (
            None, True, -1, 0, 7, 10**30, 1.5, float("nan"), float("inf"), "", "abc", "\ud800", "a\nb",
            "x" * 10_000, [], [1], {}, {"a": 1}, "../../etc/passwd", "/etc/passwd", "a\0b", "~", ".",
            "train_val/../..", "-1", [[[[]]]],
        )
    )  # fmt: skip


def _text(rng: random.Random, value: Any) -> bytes:
    """JSON of a disturbed value; sometimes damaged as text as well."""
    for _ in range(rng.randint(1, 3)):
        value = disturbed(rng, value, _odd)
    data = json.dumps(value, skipkeys=True).encode()
    how = rng.random()
    if how < 0.2:
        return mutated(rng, data)
    if how < 0.25:
        return rng.choice((b"", b"[" * 200_000, b'{"a":' * 5000, b"\xff\xfe", data.decode().encode("utf-16"),
                           b"9" * 5000, b"null", b"\xef\xbb\xbf" + data))  # fmt: skip
    return data


def _png(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "PNG")
    return stream.getvalue()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


# ---------------------------------------------------------------- iNaturalist

_FILES = [f"train_val2018/Aves/{number}/{number}.jpg" for number in range(3)]
_LISTS = {
    "categories.json": [{"id": n, "name": f"s{n}", "genus": "g"} for n in range(3)],
    "train2018.json": {
        "images": [{"id": n, "file_name": file} for n, file in enumerate(_FILES)],
        "annotations": [{"id": n, "image_id": n, "category_id": n} for n in range(3)],
    },
}


def _make_inat(rng: random.Random, folder: Path) -> Path:
    lists: dict[str, Any] = {**_LISTS, "val2018.json": _LISTS["train2018.json"]}
    hit = rng.choice(list(lists))
    for name, value in lists.items():
        _write(folder / name, _text(rng, value) if name == hit else json.dumps(value).encode())
    for file in _FILES:
        _write(folder / file, sound()["jpeg"])
    return folder


def _read_inat(folder: Path) -> None:
    _all_items(build_dataset(DataSpec(str(folder), "INAT"), "val"))


def _all_items(data: Any) -> None:
    problems = []
    for index in range(min(len(data), 20)):
        data.describe(index)
        try:
            item = data[index]
        except UserError as refusal:
            problems.append(refusal)
        else:
            target = np.asarray(item.target)
            assert target.min() >= 0
            assert target[target != NOWHERE].max(initial=0) < 255
    if problems:
        raise problems[0]


# ---------------------------------------------------------------- ADE20K


def _make_ade(rng: random.Random, folder: Path) -> Path:
    root = folder / "ADEChallengeData2016" if rng.random() < 0.5 else folder
    labels = np.arange(23 * 37, dtype=np.uint8).reshape(23, 37) % 151
    files = {
        "images/validation/one.jpg": sound()["jpeg"],
        "annotations/validation/one.png": _png(labels),
        "objectInfo150.txt": b"Idx\tName\n" + b"".join(b"%d\tc%d\n" % (n, n) for n in range(150)),
    }
    hit = rng.choice(list(files))
    how = rng.random()
    if how < 0.15:
        del files[hit]
    elif how < 0.3:
        wrong = rng.choice(
            (labels[:5], labels + 60, labels.astype(np.uint16), labels[..., None].repeat(3, 2))
        )
        files["annotations/validation/one.png"] = _png(wrong)
    elif how < 0.5:
        files[hit] = hostile_bytes(rng)
    else:
        files[hit] = mutated(rng, files[hit])
    for name, data in files.items():
        _write(root / name, data)
    if how < 0.05 and root.is_dir():
        target = root / hit
        target.parent.mkdir(parents=True, exist_ok=True)
        rng.choice(
            (target.mkdir, lambda: os.mkfifo(target), lambda: target.symlink_to(target.name))
        )()
    return folder


def _read_ade(folder: Path) -> None:
    source = build_pixel_source("ADE20K", str(folder), "val", 32)
    _all_items(PixelDataset(source, EvalPair(PixelSpec(input_size=32))))


# ---------------------------------------------------------------- archives


@functools.cache
def _arrays() -> dict[str, np.ndarray]:
    data = sound()["jpeg"]
    return {
        "jpeg": np.frombuffer(data * 3, np.uint8),
        "offset": np.arange(4) * len(data),
        "label": np.array([0, 1, 1]),
        "classes": np.array(["a", "b"]),
    }


def _npy(rng: random.Random, values: np.ndarray) -> bytes:
    """An array's file, sometimes with a header that lies."""
    stream = io.BytesIO()
    np.save(stream, values, allow_pickle=False)
    data = stream.getvalue()
    if rng.random() < 0.3:
        shape = rng.choice(
            ("(10000000000000,)", "(-1,)", "()", "(2, 2, 2)", "'x'", "(1e9,)", "[1]")
        )
        kind = rng.choice(("|u1", "<i8", "|O", "<f8", "<U1000000000", "zzz", "<M8[ns]"))
        head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
        data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data[128:]
    return data


def _make_npz(rng: random.Random, folder: Path) -> Path:
    arrays = dict(_arrays())
    key = rng.choice(list(arrays))
    how = rng.random()
    if how < 0.15:
        del arrays[key]
    elif how < 0.5:
        arrays[key] = rng.choice(
            (np.zeros(3), np.array(5), np.zeros((3, 3), np.int64), np.array(["x"]), np.zeros(0, np.int64),
             np.array([-5, 9, 1 << 60, 3]), np.array([float("nan")] * 4), np.array([2, 1, 0, 9]),
             np.zeros(50_000_000, np.uint8), np.array([0, 1, 99]), np.array([-1, 0, 1]))
        )  # fmt: skip
    path = folder / "cifar10_test.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name, values in arrays.items():
            method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
            data = _npy(rng, values) if name == key else _npy(random.Random(1), values)
            archive.writestr(f"{name}.npy", data, compress_type=method)
    if rng.random() < 0.4:
        path.write_bytes(mutated(rng, path.read_bytes()))
    return folder


def _read_npz(folder: Path) -> None:
    _all_items(build_dataset(DataSpec(str(folder), "CIFAR10"), "val"))


def _tar(rng: random.Random) -> bytes:
    stream = io.BytesIO()
    form = rng.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT))
    with tarfile.open(fileobj=stream, mode="w", format=form) as tar:
        for number in range(3):
            prefix = rng.choice(("", "", "", "a/", "../../", "/", "x/" * 60, "\n", "./"))
            label = rng.choice((b"1", b"0", b"2", b"2", b"-1", b"x", b"9" * 40, b"", b"1 "))
            members = [
                (f"{prefix}s{number}.jpg", sound()["jpeg"]),
                (f"{prefix}s{number}.cls", label),
            ]
            if rng.random() < 0.3:
                members[1] = (f"{prefix}s{number}.json", _text(rng, {"label": 1}))
            if rng.random() < 0.2:
                members.append((f"{prefix}{strange_name(rng)}.tar", stream.getvalue()))
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                info.type = rng.choice((tarfile.REGTYPE,) * 12 + (tarfile.SYMTYPE, tarfile.LNKTYPE,
                                       tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE))  # fmt: skip
                info.linkname = rng.choice(("/etc/passwd", "../x", f"{prefix}s0.jpg"))
                if form == tarfile.PAX_FORMAT and rng.random() < 0.1:
                    info.pax_headers = {rng.choice(("size", "path", "GNU.sparse.major", "mtime")):
                                        rng.choice(("-1", "-512", "99999999999", "x", "1"))}  # fmt: skip
                tar.addfile(info, io.BytesIO(data))
    data = bytearray(stream.getvalue())
    if rng.random() < 0.5:  # a field of a header, with its sum put right
        start = rng.randrange(len(data) // 512) * 512
        place, length = rng.choice(((124, 12), (156, 1), (0, 100), (345, 155), (257, 8), (148, 8)))
        data[start + place : start + place + length] = rng.choice(
            (b"\xff" * length, b"\x80" + b"\xff" * (length - 1), b"0" * length, b"7" * length,
             b"-1".ljust(length, b"\0"), b"S"[:length].ljust(length, b"\0"), rng.randbytes(length))
        )  # fmt: skip
        data[start + 148 : start + 156] = b" " * 8
        data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    return mutated(rng, bytes(data)) if rng.random() < 0.5 else bytes(data)


def _make_shards(rng: random.Random, folder: Path) -> Path:
    _write(folder / "val" / "val-0.tar", _tar(rng))
    if rng.random() < 0.3:
        names = _text(rng, {"splits": {"validation": {"filenames": ["val/val-0.tar"]}}})
        _write(folder / rng.choice(("info.json", "_info.json")), names)
    if rng.random() < 0.3:
        _write(
            folder / "classes.txt", rng.choice((b"a\nb\nc\n", b"", b"\xff", b"a\n" * 5, b"\n\n"))
        )
    return folder


def _read_shards(folder: Path) -> None:
    _all_items(build_dataset(DataSpec(str(folder), "timm:wds/x"), "val"))


def _make_timm_tar(rng: random.Random, folder: Path) -> Path:
    name = rng.choice(("val.tar", "val/a.tar"))
    _write(folder / name, _tar(rng))
    if rng.random() < 0.3:  # timm would once have unpickled this
        import pickle

        class Evil:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(folder / TRACE),)

        for place in ("_val_tarinfos.pickle", "val/_val_tarinfos.pickle"):
            _write(folder / place, pickle.dumps(Evil()))
    return folder


def _read_timm_tar(folder: Path) -> None:
    _all_items(build_dataset(DataSpec(str(folder), "timm:tar"), "val"))


# ---------------------------------------------------------------- folders


def _make_tree(rng: random.Random, folder: Path) -> Path:
    """Class folders with odd names, links and things in them."""
    root = folder / "set"
    for split in ("train", "val"):
        for number in range(rng.randint(0, 3)):
            name = strange_name(rng) if rng.random() < 0.2 else f"c{number}"
            place = root / split / name
            if place.exists():
                continue
            place.mkdir(parents=True)
            for image in range(rng.randint(0, 2)):
                (place / f"{image}.png").write_bytes(sound()["png"])
    root.mkdir(exist_ok=True)
    folders = [Path(where) for where, _, _ in os.walk(root)]
    for _ in range(rng.randint(0, 4)):
        place = rng.choice(folders) / (strange_name(rng) + rng.choice(("", ".jpg", ".png")))
        if os.path.lexists(place):
            continue
        target = rng.choice((".", "..", "../..", place.name, str(root), "nowhere"))
        rng.choice(
            (
                lambda p=place, t=target: p.symlink_to(t),
                place.mkdir,
                place.touch,
                lambda p=place: os.mkfifo(p),
            )
        )()
    return root


def _read_tree(root: Path) -> None:
    refusals = []
    for name in ("IMNET", "timm:folder"):
        for split in ("train", "val"):
            try:
                data = build_dataset(DataSpec(str(root), name, skip_corrupt=True), split)
                for index in range(min(len(data), 20)):
                    data[index]
            except UserError as refusal:
                refusals.append(refusal)
    if refusals:
        raise refusals[0]


KINDS = [
    Kind("lists of iNaturalist", _make_inat, _read_inat, 8),
    Kind("labels of ADE20K", _make_ade, _read_ade, 4),
    Kind("archives of NumPy", _make_npz, _read_npz, 6),
    Kind("WebDataset shards", _make_shards, _read_shards, 10),
    Kind("tar files for timm", _make_timm_tar, _read_timm_tar, 6),
    Kind("class folders", _make_tree, _read_tree, 4),
]
