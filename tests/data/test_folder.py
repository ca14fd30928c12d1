import os

import pytest
from torchvision.datasets import ImageFolder

from tcformer.data import DataSpec, build_dataset
from tcformer.data.fingerprint import fingerprint
from tcformer.data.folder import FolderSource, PathList
from tcformer.errors import UserError


def refusal(path, split="val"):
    with pytest.raises(UserError) as error:
        FolderSource(str(path), split)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_indices_and_labels_are_those_of_torchvision(folder, encode, picture):
    root = folder({"train": {"b": 2, "a": 3, "B": 1, "10": 1, "9": 1}})
    (root / "train" / "linked").symlink_to(root / "train" / "b", target_is_directory=True)
    deep = root / "train" / "a" / "Deeper"
    deep.mkdir()
    (deep / "x.JPG").write_bytes(encode(picture(0), "JPEG"))
    (root / "train" / "a" / "notes.txt").write_text("not an image")
    source = FolderSource(str(root), "train")
    theirs = ImageFolder(root / "train")
    assert source.classes == theirs.classes == ["10", "9", "B", "a", "b", "linked"]
    ours = [(source.describe(i), source.read(i)[1]) for i in range(len(source))]
    assert ours == theirs.samples
    assert (os.path.join(str(deep), "x.JPG"), 3) in ours


JUNK = (
    "a/.ipynb_checkpoints/x.png", "a/._0.png", "a/.DS_Store", "a/Thumbs.db", "a/@eaDir/x.png",
    ".ipynb_checkpoints/x.png", "__MACOSX/a/x.png", "._a",
)  # fmt: skip


def add_junk(split):
    for name in JUNK:
        (split / name).parent.mkdir(parents=True, exist_ok=True)
        (split / name).write_bytes(b"no image")


@pytest.mark.parametrize("name", ["IMNET", "timm:folder", "timm:torch/image_folder"])
def test_what_systems_hide_is_neither_class_nor_image(folder, name):
    root = folder({"train": {"a": 1, "b": 1}, "val": {"a": 2, "b": 1}})
    place = root / "val" if "torch" in name else root
    before = build_dataset(DataSpec(str(place), name), "val")
    for split in ("train", "val"):
        add_junk(root / split)
    data = build_dataset(DataSpec(str(place), name), "val")
    assert (data.classes, len(data)) == (["a", "b"], 3)
    assert fingerprint(data, root) == fingerprint(before, root)
    assert build_dataset(DataSpec(str(root)), "train").classes == ["a", "b"]


@pytest.mark.parametrize("name", ["IMNET", "timm:folder"])
def test_every_ending_counts_and_the_rest_is_said(folder, encode, picture, name):
    root = folder({"val": {"a": 1}})
    for form, ending in (("GIF", "gif"), ("JPEG2000", "JP2"), ("JPEG", "jfif"), ("WEBP", "WebP")):
        (root / "val/a" / f"x.{ending}").write_bytes(encode(picture(1), form))
    assert str(build_dataset(DataSpec(str(root), name), "val").source.left_out) == ""
    for other in ("a/x.heic", "a/deep/y.txt", "a/z.TXT", "stray.png"):
        (root / "val" / other).parent.mkdir(exist_ok=True)
        (root / "val" / other).write_bytes(b"")
    data = build_dataset(DataSpec(str(root), name), "val")
    assert len(data) == 5
    said = str(data.source.left_out)
    for part in (".txt 2", ".heic 1", "1 outside"):
        assert part in said


def test_validation_needs_no_training_folder(folder):
    root = folder({"val": {"x": 2, "y": 1}})
    data = build_dataset(DataSpec(data_path=str(root)), "val")
    assert (len(data), data.classes, data.class_to_idx) == (3, ["x", "y"], {"x": 0, "y": 1})
    assert data[2].image.size == (20, 14)
    assert [data[i].target for i in range(3)] == [0, 0, 1]
    assert "train is missing" in refusal(root, "train")


def test_what_is_wrong_with_the_path(tmp_path, folder):
    assert "--data-path" in refusal("")
    assert "does not exist" in refusal(tmp_path / "nowhere")
    assert "cannot be read" in refusal("~nobody-of-that-name/x")
    file = tmp_path / "archive.zip"
    file.write_bytes(b"")
    assert "is a file, not a folder" in refusal(file)
    root = folder({"train": {"a": 1}})
    assert str(root / "val") in refusal(root)
    assert "holds train" in refusal(root)
    (root / "validation").mkdir()
    assert f"rename or link {root / 'validation'}" in refusal(root)


def test_empty_folders_are_named(folder):
    root = folder({"train": {"a": 1, "empty": 0}, "val": {}})
    assert str(root / "train" / "empty") in refusal(root, "train")
    (root / "val").mkdir()
    assert "no class folders" in refusal(root)
    (root / "val" / "a").mkdir()
    (root / "val" / "a" / "readme.md").write_text("")
    assert f"{root / 'val' / 'a'} has no image" in refusal(root)


def test_unreadable_folders_are_named(folder, monkeypatch):
    root = folder({"val": {"a": 1, "b": 1}})
    real = os.scandir

    def scandir(path):
        if os.fspath(path) == str(forbidden):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    for forbidden in (root / "val" / "b", root / "val"):
        text = refusal(root)
        assert str(forbidden) in text
        assert "Permission denied" in text
    monkeypatch.undo()
    monkeypatch.setattr(os, "listdir", lambda _: (_ for _ in ()).throw(OSError(5, "I/O error")))
    assert "cannot be read: I/O error" in refusal(root)


def test_training_refuses_other_classes_in_validation(folder):
    root = folder({"train": {"a": 1, "b": 1}, "val": {"a": 1, "c": 1}})
    assert "'b' is in train but not in val" in refusal(root, "train")
    assert FolderSource(str(root), "val").classes == ["a", "c"]


def test_paths_of_any_bytes_survive_packing():
    paths = ["a/b.png", "", "ü/日本.jpg", os.fsdecode(b"\xff\xfe.png")]
    packed = PathList(paths, [3, 1, 4, 1])
    assert [packed[i] for i in range(len(packed))] == paths
    assert packed.labels.tolist() == [3, 1, 4, 1]
    with pytest.raises(IndexError):
        packed[4]
    with pytest.raises(IndexError):
        packed[-1]


def test_links_that_lead_back_up_are_named(folder):
    root = folder({"val": {"a": 1}})
    (root / "val" / "a" / "up").symlink_to(root / "val")
    assert "leads back to a folder above it" in refusal(root)


def test_links_to_links_do_not_multiply_for_ever(folder):
    root = folder({"val": {"a": 1}})
    for level in range(30):  # 2**30 ways to the last one
        place = root / f"level{level}"
        place.mkdir()
        for name in ("x", "y"):
            (place / name).symlink_to(root / f"level{level + 1}")
    (root / "level30").mkdir()
    (root / "val" / "a" / "down").symlink_to(root / "level0")
    assert "more than 16 ways" in refusal(root)


def test_links_to_themselves_and_pipes_are_files_that_cannot_be_read(folder):
    root = folder({"val": {"a": 1}})
    for place in (root / "val" / "loop", root / "val" / "a" / "loop.png"):
        place.symlink_to(place.name)
    os.mkfifo(root / "val" / "a" / "pipe.png")
    source = FolderSource(str(root), "val")
    assert source.classes == ["a"]
    assert len(source) == 3
    for index, words in ((1, "symbolic links"), (2, "not an ordinary file")):
        with pytest.raises(OSError, match=words):
            source.read(index)
