import sys
from collections import Counter

import numpy as np
import pytest

from tcformer.data import DataSpec, build_dataset
from tcformer.data.builtin import DigitsSource
from tcformer.errors import UserError


def test_digits_are_split_four_to_one_by_class():
    train, val = DigitsSource("train"), DigitsSource("val")
    assert (len(train), len(val)) == (1437, 360)
    assert sorted([*train.rows, *val.rows]) == list(range(1797))
    whole, part = Counter([*train.labels, *val.labels]), Counter(val.labels)
    assert all(abs(part[d] - whole[d] / 5) < 1 for d in range(10))
    # Fixed for ever: accuracies on another split would not compare.
    assert val.rows[:8].tolist() == [21, 24, 28, 34, 35, 37, 39, 42]


def test_a_digit_is_a_grey_rgb_image_of_32_pixels():
    data = build_dataset(DataSpec(data_set="digits"), "val")
    item = data[0]
    pixels = np.array(item.image)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert (pixels == pixels[:, :, :1]).all()
    assert pixels.max() > 200
    assert pixels.min() < 20
    assert data.classes == list("0123456789")
    assert "row" in data.describe(0)


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"tcformer\[demo\]"):
        build_dataset(DataSpec(data_set="digits"), "train")


def test_fake_images_are_the_same_every_time():
    spec = DataSpec(data_set="fake", fake_images=5, fake_classes=3)
    one, two = build_dataset(spec, "train"), build_dataset(spec, "train")
    assert len(one) == 5
    assert [one[i].target for i in range(5)] == [0, 1, 2, 0, 1]
    images = [np.array(one[i].image) for i in range(5)]
    assert all(np.array_equal(image, np.array(two[i].image)) for i, image in enumerate(images))
    assert images[0].shape == (256, 256, 3)
    assert len({image.tobytes() for image in images}) == 5
    assert not np.array_equal(images[0], np.array(build_dataset(spec, "val")[0].image))
    assert build_dataset(spec, "val").describe(1) == "fake val image 1"
