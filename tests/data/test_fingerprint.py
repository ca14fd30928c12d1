"""A fingerprint is that of the data, wherever it lies, and changes with it."""

import shutil
from types import SimpleNamespace

import pytest
from PIL import Image

from tcformer.data import DataSpec, build_dataset
from tcformer.data import fingerprint as module
from tcformer.data.fingerprint import fingerprint


def mark(root, split="train"):
    return fingerprint(build_dataset(DataSpec(data_path=str(root)), split), root)


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "val"):
        for number, name in enumerate(("cat", "dog", "cat2")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(3):
                size = (8 + number, 8 + i)
                Image.new("RGB", size).save(tmp_path / "data" / split / name / f"{i}.bmp")
    return tmp_path / "data"


def test_it_is_the_same_wherever_the_data_lies(folder, tmp_path, monkeypatch):
    known = mark(folder)
    assert known == {"classes": 3, "images": 9, "sha256": known["sha256"]}
    assert len(known["sha256"]) == 16
    assert known == mark(folder, "val") | {"sha256": known["sha256"]}
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert mark(tmp_path / "elsewhere") == known
    monkeypatch.chdir(tmp_path)
    assert mark("data") == mark("./elsewhere/") == known


def test_it_changes_with_names_sizes_and_numbers(folder):
    one = folder / "train" / "cat" / "1.bmp"
    seen = {mark(folder)["sha256"]}
    one.rename(one.with_name("1b.bmp"))
    seen.add(mark(folder)["sha256"])
    Image.new("RGB", (30, 30)).save(one.with_name("1b.bmp"))
    seen.add(mark(folder)["sha256"])
    one.with_name("1b.bmp").unlink()
    seen.add(mark(folder)["sha256"])
    for split in ("train", "val"):
        (folder / split / "cat").rename(folder / split / "car")
    seen.add(mark(folder)["sha256"])
    assert len(seen) == 5


def test_few_files_are_asked_for_their_size(folder, monkeypatch):
    asked = []
    real = module._size
    monkeypatch.setattr(module, "SIZES", 4)
    monkeypatch.setattr(module, "_size", lambda name: (asked.append(name), real(name))[1])
    mark(folder)
    assert len(asked) == 3  # of nine, every third


def test_sets_without_files_have_one_too():
    first, again, other = (
        fingerprint(build_dataset(DataSpec(data_set="fake", fake_images=n), "val"))
        for n in (4, 4, 5)
    )
    assert first == again != other


def test_what_lies_beside_the_images_counts(folder, tmp_path):
    """The keypoints of people in one file; the labels of an image's pixels in another image."""
    data = build_dataset(DataSpec(data_path=str(folder)), "train")
    notes, labels = tmp_path / "notes.json", tmp_path / "labels.png"

    class Source:
        classes, describe = data.source.classes, data.source.describe
        annotations_file = notes
        beside = staticmethod(lambda _: str(labels))
        __len__ = staticmethod(lambda: 9)

    dataset = SimpleNamespace(source=Source())
    seen = set()
    for content, size in (("[1]", 8), ("[2]", 8), ("[2]", 9)):
        notes.write_text(content)
        labels.write_bytes(bytes(size))
        seen.add(fingerprint(dataset, folder)["sha256"])
        assert fingerprint(dataset, folder)["sha256"] in seen
    assert len(seen) == 3
