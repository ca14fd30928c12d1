import io
import pickle

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100

from tcformer.data import DataSpec, build_dataset
from tcformer.data.cifar import cifar_source
from tcformer.errors import UserError


def write_npz(path, pictures, labels, classes=("plane", "car"), **changes):
    ends = np.cumsum([0] + [len(p) for p in pictures]).astype(np.int64)
    arrays = {
        "jpeg": np.frombuffer(b"".join(pictures), np.uint8),
        "offset": ends,
        "label": np.asarray(labels, np.int64),
        "classes": np.asarray(classes),
    }
    np.savez(path, **{**arrays, **changes})


@pytest.fixture
def pictures(picture, encode):
    return [encode(picture(i, (32, 32)), "JPEG") for i in range(3)]


def build(root, split="val", name="CIFAR10"):
    return build_dataset(DataSpec(data_path=str(root), data_set=name), split)


def test_npz_files_of_both_sets(tmp_path, pictures):
    write_npz(tmp_path / "cifar10_test.npz", pictures, [0, 1, 1])
    write_npz(tmp_path / "cifar100_train.npz", pictures[:1], [1])
    data = build(tmp_path)
    assert (len(data), data.classes) == (3, ["plane", "car"])
    assert [data[i].target for i in range(3)] == [0, 1, 1]
    assert data[1].image.size == (32, 32)
    assert data.describe(2) == f"{tmp_path / 'cifar10_test.npz'}, image 2"
    assert len(build(tmp_path, "train", "CIFAR")) == 1
    with pytest.raises(UserError, match=r"cifar10_train\.npz"):
        build(tmp_path, "train")


def test_a_damaged_entry_is_named(tmp_path, pictures):
    write_npz(tmp_path / "cifar10_test.npz", [pictures[0], b"junk"], [0, 1])
    with pytest.raises(UserError, match=r"cifar10_test.npz, image 1: it is not an image"):
        build(tmp_path)[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"offset": np.array([0, 5], np.int64)},
        {"offset": np.array([0, 9, 5, 10], np.int64)},
        {"offset": np.array([0, 1, 2, 1 << 40], np.int64)},
        {"label": np.array([0, 1, 2], np.int64)},
        {"label": np.array([0, -1, 0], np.int64)},
        {"jpeg": np.zeros(10)},
    ],
)
def test_arrays_that_contradict_each_other_are_refused(tmp_path, pictures, changes):
    write_npz(tmp_path / "cifar10_test.npz", pictures, [0, 1, 1], **changes)
    with pytest.raises(UserError, match="do not fit together"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("name", "reader", "folder", "key"),
    [
        ("CIFAR10", CIFAR10, "cifar-10-batches-py", "labels"),
        ("CIFAR", CIFAR100, "cifar-100-python", "fine_labels"),
    ],
)
def test_the_unpacked_batches(tmp_path, monkeypatch, name, reader, folder, key):
    root = tmp_path / folder
    root.mkdir()
    rows = np.random.RandomState(0).randint(0, 256, (2, 3072)).astype(np.uint8)
    files = [f for f, _ in reader.test_list]
    for file in files:
        (root / file).write_bytes(pickle.dumps({"data": rows, key: [1, 0]}))
    meta = {reader.meta["key"]: ["first", "second"]}
    (root / reader.meta["filename"]).write_bytes(pickle.dumps(meta))
    with pytest.raises(UserError, match="checksums differ"):
        build(tmp_path, name=name)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    for path in (tmp_path, root):
        data = build(path, name=name)
        assert data.classes == ["first", "second"]
        assert [data[i].target for i in range(2)] == [1, 0]
        expected = Image.fromarray(rows[1].reshape(3, 32, 32).transpose(1, 2, 0))
        assert data[1].image.tobytes() == expected.tobytes()
        assert data.describe(1).endswith("val image 1")


def test_nothing_there_says_what_to_put_there(tmp_path):
    with pytest.raises(UserError, match=r"cifar-100-python/ or the file cifar100_test.npz"):
        build(tmp_path, name="CIFAR")


def test_an_archive_that_grows_is_refused(tmp_path):
    file = tmp_path / "cifar10_test.npz"
    np.savez_compressed(file, jpeg=np.zeros(80_000_000, np.uint8), offset=[0], label=[], classes=[])
    assert file.stat().st_size < 100_000
    with pytest.raises(UserError, match="would grow to"):
        cifar_source(str(tmp_path), "val", classes=10)


def test_damaged_archives_are_one_sentence(tmp_path):
    file = tmp_path / "cifar10_test.npz"
    np.savez_compressed(file, jpeg=np.zeros(9, np.uint8), offset=[0, 9], label=[0], classes=["a"])
    whole = file.read_bytes()
    wrong = [whole[:place] + b"\xff" * 8 + whole[place + 8 :] for place in (30, 200)]
    wrong += [whole[:-30], b"", b"PK\x03\x04 broken", pickle.dumps({"jpeg": 1})]
    objects = io.BytesIO()
    np.savez(objects, jpeg=np.array([object()]), offset=[0], label=[0], classes=["a"])
    for content in (*wrong, objects.getvalue()):
        file.write_bytes(content)
        with pytest.raises(UserError, match="not a readable image archive"):
            build(tmp_path)
