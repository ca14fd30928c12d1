import os

import numpy as np
import pytest
from PIL import Image
from timm.data.readers.reader import Reader
from torchvision.datasets import ImageFolder

from tcformer.data import DataSpec, ImageDataset, build_dataset
from tcformer.data.from_timm import TimmSource
from tcformer.errors import UserError


def build(root, name="folder", split="val"):
    return build_dataset(DataSpec(data_path=str(root), data_set=f"timm:{name}"), split)


def test_folders_are_numbered_in_natural_order_as_timm_does(folder):
    data = build(folder({"val": {"10": 1, "9": 2}}))
    assert data.classes == ["9", "10"]
    assert [data[i].target for i in range(3)] == [0, 0, 1]
    assert data.describe(2).endswith(os.path.join("10", "00.png"))
    assert data[0].image.size == (20, 14)


@pytest.mark.parametrize("layout", ["one", "folder"])
def test_tar_files(tmp_path, picture, encode, write_tar, layout):
    files = {c: [(f"{c}/{i}.png", encode(picture(i))) for i in range(2)] for c in ("cat", "dog")}
    if layout == "one":
        write_tar(tmp_path / "val.tar", [*files["cat"], *files["dog"]])
    else:
        for name, members in files.items():
            members = [(m.split("/")[1], content) for m, content in members]
            write_tar(tmp_path / "val" / f"{name}.tar", members)
    data = build(tmp_path, "tar")
    assert (len(data), data.classes) == (4, ["cat", "dog"])
    assert [data[i].target for i in range(4)] == [0, 0, 1, 1] or layout == "folder"
    pixels = {np.array(data[i].image).tobytes() for i in range(4)}
    assert pixels == {np.array(picture(i)).tobytes() for i in range(2)}


def test_tar_files_hold_archives_hidden_files_and_other_endings(
    tmp_path, picture, encode, write_tar
):
    inner = [("./9.JP2", encode(picture(9), "JPEG2000")), ("._9.jp2", b"x")]
    inner = write_tar(tmp_path / "inner.tar", inner).read_bytes()
    members = [("./c10/a.gif", encode(picture(1), "GIF")), ("c9.tar", inner)]
    members += [("__MACOSX/c10/._a.gif", b"x"), ("stray.png", b"x"), ("c10/a.txt", b"x")]
    write_tar(tmp_path / "val.tar", members)
    data = build(tmp_path, "tar")
    assert (data.classes, len(data)) == (["c9", "c10"], 2)
    assert sorted(data[i].target for i in range(2)) == [0, 1]
    assert all(data[i].image.size == (20, 14) for i in range(2))
    for part in ("2 hidden", ".txt 1", "1 outside"):
        assert part in str(data.source.left_out)


def test_unreadable_images_are_named_not_replaced(folder):
    root = folder({"val": {"a": 2}})
    (root / "val" / "a" / "00.png").write_bytes(b"junk")
    with pytest.raises(UserError, match=r"00.png: it is not an image"):
        build(root)[0]
    data = build_dataset(DataSpec(str(root), "timm:folder", skip_corrupt=True), "val")
    assert data[0].image is None
    assert data[1].image is not None


class Numbers(Reader):
    """A reader without class names, like a table of the Hub."""

    def iter_targets(self):
        return iter([0, 4])

    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise KeyError("column")

    def _filename(self, index, basename=False, absolute=False):
        raise NotImplementedError


def test_readers_without_names_are_numbered_and_their_errors_kept_in_bounds():
    source = TimmSource(type("Set", (), {"reader": Numbers(), "__len__": lambda s: 2})(), "hub")
    assert source.classes == list("01234")
    assert source.numbered
    assert ImageDataset(source, skip_corrupt=True)[1].reason == "'column'"
    assert source.describe(1) == "hub: image 1"


def test_torchvision_sets_that_read_files_give_them_to_our_reader(tmp_path, folder, monkeypatch):
    root = folder({"val": {"x": 1}})
    clear = Image.new("RGBA", (20, 14), (9, 9, 9, 0))
    clear.save(root / "val/x/00.png")
    monkeypatch.setattr("timm.data.create_dataset", lambda *_, **__: ImageFolder(root / "val"))
    data = build(tmp_path, "torch/imagenet")
    assert np.asarray(data[0].image).min() == 255


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("hfids/x", "a stream without positions"),
        ("tfds/x", "a stream without positions"),
        ("folders", "is not known"),
        ("s3/x", "is not known"),
        ("torch/nothing", "Unknown torchvision dataset nothing"),
        ("torch/cifar10", "timm cannot read the data set"),
        ("folder", "Neither"),
    ],
)
def test_refusals(tmp_path, name, says):
    with pytest.raises(UserError) as error:
        build(tmp_path, name)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_the_hub_needs_its_package(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UserError, match="pip install datasets"):
        build(tmp_path, "hfds/someone/something")


def test_a_validation_split_of_the_hub_is_found_under_its_usual_names(monkeypatch, tmp_path):
    asked = []

    def create_dataset(name, root, split, search_split):
        asked.append((name, split))
        if split != "test":
            raise ValueError(f'Unknown split "{split}".')
        return type("Set", (), {"reader": Numbers(), "__len__": lambda s: 2})()

    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    monkeypatch.setattr("timm.data.create_dataset", create_dataset)
    assert len(build(tmp_path, "hfds/A/b")) == 2
    assert asked == [("hfds/A/b", s) for s in ("validation", "val", "valid", "test")]
    with pytest.raises(UserError, match="Unknown split"):
        build(tmp_path, "hfds/A/b", "train")


@pytest.mark.parametrize("place", ["_val_tarinfos.pickle", "val/_val_tarinfos.pickle"])
def test_the_cache_of_a_tar_file_is_not_unpickled(
    tmp_path, picture, encode, write_tar, monkeypatch, place
):
    monkeypatch.setattr("os.path.getsize", lambda _: 1 << 40)  # timm keeps one of large archives
    write_tar(tmp_path / "val" / "a.tar", [("0.png", encode(picture(0)))])
    (tmp_path / place).write_bytes(b"no pickle at all")
    assert len(build(tmp_path, "tar")) == 1
