"""Reading images for display, undoing normalisation, writing PNG."""

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from tcformer.errors import UserError
from tcformer.viz import read_image, resize_image, unnormalise, write_png

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def test_bad_files_are_named_with_the_reason(tmp_path):
    (tmp_path / "notes.png").write_text("not an image")
    whole = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole, "JPEG")
    (tmp_path / "half.jpg").write_bytes(whole.getvalue()[: whole.tell() // 2])
    for name, words in {
        "nowhere.png": "there is no such file",
        "": "it is a folder",
        "notes.png": "not an image of a known format",
        "half.jpg": "truncated",
    }.items():
        with pytest.raises(UserError, match=f"cannot read .*{name}: .*{words}"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("batch", [(), (2,)])
def test_unnormalise_undoes_normalisation(channels, batch):
    pixels = RNG.integers(0, 256, (*batch, 5, 7, channels), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406)[:channels], (0.229, 0.224, 0.225)[:channels]
    inputs = torch.from_numpy(np.moveaxis(pixels / 255.0, -1, -3).astype(np.float32))
    inputs = (inputs - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    expected = np.repeat(pixels, 3, axis=-1) if channels == 1 else pixels
    np.testing.assert_array_equal(unnormalise(inputs, mean=mean, std=std), expected)


def test_unnormalise_clips_and_takes_half_precision():
    inputs = torch.tensor([-3.0, 0.5, 9.0], dtype=torch.bfloat16).expand(3, 1, 3)
    assert unnormalise(inputs)[0, :, 0].tolist() == [0, 128, 255]


def test_unnormalise_refuses_what_is_no_network_input():
    with pytest.raises(UserError, match="network inputs"):
        unnormalise(np.zeros((4, 4, 3)))
    with pytest.raises(UserError, match="2 values for 3 channels"):
        unnormalise(np.zeros((3, 4, 4)), mean=(0.5, 0.5))


def test_png_is_written_with_its_folders_and_exactly(tmp_path):
    path = tmp_path / "a" / "b" / "picture.png"
    write_png(path, PICTURE)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), PICTURE)
    first = path.read_bytes()
    write_png(path, PICTURE)
    assert path.read_bytes() == first
    assert os.listdir(path.parent) == ["picture.png"]


def test_other_formats_and_blocked_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"must end in \.png"):
        write_png(tmp_path / "picture.jpg", PICTURE)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a folder"):
        write_png(tmp_path / "file" / "picture.png", PICTURE)


def test_resize_gives_the_size_asked_for():
    assert resize_image(PICTURE, (11, 5)).shape == (11, 5, 3)
    np.testing.assert_array_equal(resize_image(PICTURE, (6, 9)), PICTURE)
