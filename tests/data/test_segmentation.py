"""Images with labels: the ADE20K reader, the digit scenes, and transforms of both at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from image_kinds import encode, held, png, tiff
from PIL import Image

from tcformer.data import SteppedSampler, build_loader
from tcformer.data.builtin import DigitScenesSource
from tcformer.data.loader import stacked
from tcformer.data.segmentation import (
    NOWHERE,
    Ade20kSource,
    EvalPair,
    MaskFolderSource,
    PixelDataset,
    PixelSpec,
    TrainPair,
)
from tcformer.data.spec import IMAGENET_MEAN, IMAGENET_STD
from tcformer.errors import UserError
from tcformer.images import NotLabelsError, decode_labels


def make(root, sizes=((40, 30), (30, 44)), split="training"):
    for kind in ("images", "annotations"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    for i, (width, height) in enumerate(sizes):
        labels = np.arange(width * height, dtype=np.int64).reshape(height, width) % 151
        image = np.stack([labels, labels, labels], 2).astype(np.uint8)
        Image.fromarray(image).save(root / f"images/{split}/a{i}.jpg")
        Image.fromarray(labels.astype(np.uint8)).save(root / f"annotations/{split}/a{i}.png")
    return root


@pytest.fixture
def ade(tmp_path):
    return make(tmp_path / "ADEChallengeData2016")


def test_labels_start_at_zero_and_nothing_is_255(ade):
    for path in (ade, ade.parent):
        source = Ade20kSource(str(path), "train")
        assert len(source) == 2
        assert len(source.classes) == 150
        image, labels = source.read(1)
        assert image.size == (30, 44)
        raw = np.asarray(Image.open(ade / "annotations/training/a1.png")).astype(int)
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, np.where(raw == 0, 255, raw - 1))


def test_class_names_come_from_the_table(ade):
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName"]
    rows += [f"{i + 1}\t0.1\t1\t1\t0\tthing {i}, other" for i in range(150)]
    (ade / "objectInfo150.txt").write_text("\ufeff" + "\r\n".join(rows), newline="")
    assert Ade20kSource(str(ade), "train").classes[:2] == ["thing 0", "thing 1"]


def put(file, array):
    Image.fromarray(array).save(file)


def cut(file):
    file.write_bytes(file.read_bytes()[:100])


DAMAGE = {
    "size": (lambda f: put(f, np.ones((30, 39), np.uint8)), r"a0\.png has 39 x 30 labels.*a0\.jpg"),
    "range": (lambda f: put(f, np.full((30, 40), 151, np.uint8)), r"a0\.png holds the label 151"),
    "cut": (cut, r"a0\.jpg: its labels .*a0\.png cannot be read"),
    "gone": (lambda f: f.unlink(), r"a0\.png cannot be read \(No such file"),
    "image": (lambda f: cut(f.parents[2] / "images/training/a0.jpg"), r"Cannot read .*a0\.jpg"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_sentence_that_names_the_file(ade, kind):
    spoil, part = DAMAGE[kind]
    data = PixelDataset(Ade20kSource(str(ade), "train"), EvalPair(PixelSpec(32)))
    spoil(ade / "annotations/training/a0.png")
    with pytest.raises(UserError, match=part) as caught:
        data[0]
    assert "\n" not in str(caught.value)
    assert data[1].image is not None


def test_what_cannot_be_read_is_skipped_in_training_and_named(ade):
    cut(ade / "annotations/training/a0.png")
    said = []
    data = PixelDataset(
        Ade20kSource(str(ade), "train"), TrainPair(PixelSpec(32)), skip_corrupt=True
    )
    sampler = SteppedSampler(2, steps=1, batch_size=2, world_size=1, rank=0, seed=0)
    (batch,) = build_loader(data, sampler, report=said.append, collate=stacked)
    assert batch.images.shape == (1, 3, 32, 32)
    assert batch.num_corrupt == 1
    assert "a0.jpg" in said[0]


def test_missing_parts_are_named(ade, tmp_path):
    with pytest.raises(UserError, match=r"validation is missing: --data-path must be"):
        Ade20kSource(str(ade), "val")
    (ade / "annotations/training/a1.png").unlink()
    with pytest.raises(UserError, match=r"a1\.png is missing, the labels of .*\(1 of 2"):
        Ade20kSource(str(ade), "train")
    for file in (ade / "images/training").iterdir():
        file.unlink()
    with pytest.raises(UserError, match="has no image"):
        Ade20kSource(str(ade), "train")
    with pytest.raises(UserError, match="does not exist"):
        Ade20kSource(str(tmp_path / "nowhere"), "train")


def smooth_pair(width, height):
    """An image whose red is the column and green the row; labels: 15 x 10 pixel fields."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x, y, np.zeros_like(x)], 2).astype(np.uint8)
    labels = (x // 15 + 20 * (y // 10)).astype(np.uint8)
    return Image.fromarray(image), labels


def test_image_and_labels_stay_together():
    """Where a pixel came from can be read off its color, and gives its label."""
    image, labels = smooth_pair(120, 90)
    spec = PixelSpec(64, scale=(0.5, 2.0), hflip=0.5, color_jitter=None)
    flipped = 0
    for seed in range(12):
        np.random.seed(seed)
        pixels, targets = TrainPair(spec)(image, labels)
        assert pixels.shape == (3, 64, 64)
        assert targets.shape == (64, 64)
        inside = targets != 255
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        colors = (pixels * std + mean) * 255
        x, y = colors[0][inside], colors[1][inside]
        expected = (x.round() // 15 + 20 * (y.round() // 10)).long()
        # Resampling blurs the borders of the fields, nothing else.
        assert (expected == targets[inside]).float().mean() > 0.8
        assert (pixels[:, ~inside] == 0).all()
        flipped += bool(colors[0][0, 0] > colors[0][0, 5])
    assert 0 < flipped < 12


def test_crops_are_seldom_of_one_class():
    image = Image.fromarray(np.zeros((64, 256, 3), np.uint8))
    labels = np.zeros((64, 256), np.uint8)
    labels[:, 100:140] = 1
    crop = TrainPair(PixelSpec(64, scale=(1.0, 1.0)))
    shares = []
    for seed in range(20):
        np.random.seed(seed)
        shares.append((crop(image, labels)[1] == 0).float().mean().item())
    assert sum(share < 0.75 for share in shares) >= 16


def test_evaluation_keeps_the_labels_and_rounds_the_sides_up():
    image, labels = smooth_pair(120, 90)
    pixels, targets = EvalPair(PixelSpec(64))(image, labels)
    assert pixels.shape == (3, 64, 96)
    assert np.array_equal(targets.numpy(), labels)
    # Four times as long as wide and more: the long side decides.
    assert EvalPair(PixelSpec(64))(*smooth_pair(250, 25))[0].shape == (3, 32, 256)


def test_distortion_changes_colors_and_can_be_left_out():
    image, labels = smooth_pair(40, 40)
    seen = {strength: set() for strength in (0.5, 0.0)}
    for strength, found in seen.items():
        change = TrainPair(PixelSpec(40, (1.0, 1.0), 0.0, strength))
        for seed in range(12):
            np.random.seed(seed)
            found.add(change(image, labels)[0].numpy().tobytes())
    assert len(seen[0.5]) > 6
    assert len(seen[0.0]) == 1


def test_digit_scenes():
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    val = DigitScenesSource("val", 64)
    train = DigitScenesSource("train", 64)
    assert not set(val.digits.rows) & set(train.digits.rows)
    seen = np.zeros(11, int)
    for index in range(40):
        image, labels = val.read(index)
        assert image.size == (64, 64)
        assert labels.shape == (64, 64)
        assert np.array_equal(labels, val.read(index)[1])
        seen += np.bincount(labels.ravel(), minlength=11)
    assert (seen > 0).all()
    assert 0.6 < seen[0] / seen.sum() < 0.95
    assert val.classes == ["background", *"0123456789"]


def make_own(root, labels, names=("sky", "road", "car"), form="png", split="train"):
    """A folder of one image and its mask."""
    for kind in ("images", "annotations"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(names))
    height, width = labels.shape[:2]
    Image.new("RGB", (width, height)).save(root / f"images/{split}/a.webp")
    mask = labels if isinstance(labels, Image.Image) else Image.fromarray(labels)
    mask.save(root / f"annotations/{split}/a.{form}")
    return root


NUMBERS = np.array([[0, 1, 2], [255, 2, 0]])


@pytest.mark.parametrize("kind", ["8 bit", "16 bit", "palette", "32 bit TIFF"])
def test_masks_of_own_classes(tmp_path, kind):
    form = "tif" if kind == "32 bit TIFF" else "png"
    dtype = {"16 bit": np.uint16, "32 bit TIFF": np.int32}.get(kind, np.uint8)
    root = make_own(tmp_path, NUMBERS.astype(dtype), form=form)
    if kind == "palette":
        image = Image.fromarray(NUMBERS.astype(np.uint8))
        image.putpalette([255 - n // 3 for n in range(768)])
        image.save(root / "annotations/train/a.png")
    source = MaskFolderSource(str(root), "train")
    assert source.classes == ["sky", "road", "car"]
    assert np.array_equal(source.read(0)[1], NUMBERS)
    image, target, *_ = PixelDataset(source, EvalPair(PixelSpec(32)))[0]
    assert target.tolist() == [[0, 1, 2], [NOWHERE, 2, 0]]


def test_the_first_class_may_be_one(tmp_path):
    root = make_own(tmp_path, np.array([[0, 1], [3, 255]], np.uint8))
    source = MaskFolderSource(str(root), "train", reduce_zero_label=True)
    assert source.read(0)[1].tolist() == [[255, 0], [2, 255]]
    with pytest.raises(UserError, match=r"holds the label 3, but .* 0 to 2"):
        MaskFolderSource(str(root), "train").read(0)


def test_more_classes_than_eight_bits_hold(tmp_path):
    labels = np.array([[0, 255], [299, 65535]], np.uint16)
    root = make_own(tmp_path, labels, [f"c{i}" for i in range(300)])
    source = MaskFolderSource(str(root), "train")
    data = PixelDataset(source, TrainPair(PixelSpec(32, (1.0, 1.0), 0.0), source.ignore))
    np.random.seed(0)
    assert set(data[0].target.unique().tolist()) == {0, 255, 299, NOWHERE}
    put(root / "annotations/train/a.png", np.full((2, 2), 300, np.uint16))
    with pytest.raises(UserError, match="300"):
        source.read(0)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_numbers_of_few_bits_are_not_stretched(bits):
    labels = np.arange(16).reshape(4, 4) % 2**bits
    assert np.array_equal(decode_labels(png(labels, bits, ())), labels)
    assert np.array_equal(decode_labels(tiff(labels, bits)), labels)


@pytest.mark.parametrize("most", [1, 3, 20, 200, 254, 255, 300, 4095, 65535])
def test_the_largest_value_of_a_netpbm_file_stretches_no_number(most):
    labels = np.linspace(0, most, 12).round().astype(">u2").reshape(3, 4)
    head = f"4 3 {most}\n".encode()
    raw = labels.astype(np.uint8) if most < 256 else labels
    plain = " ".join(map(str, labels.ravel())).encode()
    for data in (b"P5 " + head + raw.tobytes(), b"P2 " + head + plain):
        assert np.array_equal(decode_labels(data), labels)


@pytest.mark.parametrize("form", ["JPEG", "JPEG2000", "GIF", "TIFF"])
def test_files_that_change_numbers_are_no_masks(form):
    options = {"compression": "jpeg"} if form == "TIFF" else {}
    with pytest.raises(NotLabelsError, match="PNG"):
        decode_labels(encode(np.full((32, 32), 7, np.uint8), form, **options))


def test_a_turned_image_has_a_mask_as_it_is_seen(tmp_path):
    root = make_own(tmp_path, np.array([[0, 1], [2, 0], [1, 1]], np.uint8))
    stored = Image.new("RGB", (3, 2))
    stored.save(root / "images/train/a.webp", exif=held(6), lossless=True)
    source = MaskFolderSource(str(root), "train")
    assert source.read(0)[0].size == (2, 3)
    mask = Image.fromarray(np.array([[1, 2, 0], [1, 0, 1]], np.uint8))
    mask.save(root / "annotations/train/a.png", exif=held(6))
    assert np.array_equal(source.read(0)[1], [[1, 1], [0, 2], [1, 0]])
    mask.save(root / "annotations/train/a.png")
    with pytest.raises(UserError, match=r"3 x 2 labels.*EXIF"):
        source.read(0)


OWN_DAMAGE = {
    "range": (lambda m: put(m, np.full((2, 3), 7, np.uint8)), r"a\.png holds the label 7.*3 class"),
    "colors": (lambda m: put(m, np.ones((2, 3, 3), np.uint8)), r"a\.png holds no labels.*RGB"),
    "size": (lambda m: put(m, np.ones((2, 2), np.uint8)), r"2 x 2 labels"),
    "JPEG": (lambda m: m.rename(m.with_suffix(".old")) and put(m.with_suffix(".jpg"),
             np.ones((2, 3), np.uint8)), r"a\.jpg holds no labels.*JPEG"),
    "none": (lambda m: m.unlink(), r"a\.png is missing, the labels of .*a\.webp"),
    "two": (lambda m: put(m.with_suffix(".tif"), np.ones((2, 3), np.uint8)), "have the same name"),
    "names": (lambda m: (m.parents[2] / "classes.txt").unlink(), r"classes\.txt is missing"),
    "no names": (lambda m: (m.parents[2] / "classes.txt").write_text("\n"), "0 classes"),
    "no split": (lambda m: m.parents[2].joinpath("images/train").rename(m.parents[2] / "x"),
                 "images/training is missing"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OWN_DAMAGE)
def test_wrong_masks_are_one_sentence_in_training_too(tmp_path, kind):
    spoil, part = OWN_DAMAGE[kind]
    root = make_own(tmp_path, np.zeros((2, 3), np.uint8))
    spoil(root / "annotations/train/a.png")
    with pytest.raises(UserError, match=part) as caught:
        PixelDataset(
            MaskFolderSource(str(root), "train"), TrainPair(PixelSpec(32)), skip_corrupt=True
        )[0]
    assert "\n" not in str(caught.value)


def test_black_and_white_masks_are_refused(tmp_path):
    root = make_own(tmp_path, np.array([[0, 255], [255, 0]], np.uint8), ("ground", "cat"))
    with pytest.raises(UserError, match=r"number 1 \(cat\)"):
        MaskFolderSource(str(root), "train")
    make_own(tmp_path, np.array([[0, 255], [0, 0]], np.uint8), ("ground", "cat"), split="val")
    val = MaskFolderSource(str(root), "val")  # nothing but ground may be seen there
    assert len(val) == 1
    assert "1 masks' pixels of 255 (none has 1, cat)" in str(val.left_out)
    put(root / "annotations/train/a.png", np.array([[0, 255], [1, 0]], np.uint8))
    assert len(MaskFolderSource(str(root), "train")) == 1


def test_folders_in_folders_and_what_is_left_out(tmp_path):
    root = make_own(tmp_path, np.ones((2, 3), np.uint8))
    for kind, ending in (("images", "png"), ("annotations", "PNG")):
        (root / kind / "train/deep").mkdir()
        put(root / kind / f"train/deep/b.{ending}", np.zeros((2, 3), np.uint8))
    (root / "images/train/._a.webp").write_bytes(b"x")
    (root / "images/train/notes.txt").write_bytes(b"x")
    put(root / "annotations/train/c.png", np.zeros((2, 3), np.uint8))
    source = MaskFolderSource(str(root), "train")
    assert [int(source.read(i)[1].max()) for i in range(2)] == [1, 0]
    for part in (".txt 1", "1 hidden", "1 masks without"):
        assert part in str(source.left_out)
