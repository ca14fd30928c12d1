"""Pictures that are fed in."""

import numpy as np
import pytest
import torch
from PIL import Image

from tcformer.bench import inputs
from tcformer.drawn import photograph
from tcformer.errors import UserError


def test_drawn_pictures_have_calm_and_detailed_parts_and_repeat():
    spreads = []
    for seed in range(4):
        gray = photograph(seed, 128).mean(axis=-1)
        spreads.append(gray.reshape(16, 8, 16, 8).std(axis=(1, 3)).flatten())
    assert (np.concatenate(spreads) < 4).mean() > 0.2
    assert (np.concatenate(spreads) > 15).mean() > 0.1
    assert np.array_equal(photograph(3, 48), photograph(3, 48))
    assert not np.array_equal(photograph(3, 48), photograph(4, 48))


def test_more_pictures_than_the_pool_are_variants(monkeypatch):
    monkeypatch.setattr(inputs, "POOL", 2)
    found = inputs.pictures(16, 16)
    assert len({image.tobytes() for image in found}) == 16


def test_batches_rotate_and_are_normalized():
    batches = inputs.batches(2, 32, device=torch.device("cpu"))
    assert len(batches) == inputs.NUM_BATCHES >= 4
    assert all(batch.shape == (2, 3, 32, 32) for batch in batches)
    assert not torch.equal(batches[0], batches[1])
    assert -2.2 < float(batches[0].min()) < float(batches[0].max()) < 2.7


def test_a_folder_of_photographs(tmp_path):
    (tmp_path / "deep").mkdir()
    Image.new("RGB", (60, 40), (255, 0, 0)).save(tmp_path / "a.png")
    Image.new("RGB", (40, 60), (0, 255, 0)).save(tmp_path / "deep" / "b.jpg")
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    found = inputs.pictures(3, 20, tmp_path)
    assert found.shape == (3, 20, 20, 3)
    assert found[0].mean(axis=(0, 1)).tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", ["missing", "empty", "unreadable"])
def test_a_folder_without_photographs_is_a_sentence(tmp_path, kind):
    folder = tmp_path / "missing" if kind == "missing" else tmp_path
    if kind == "unreadable":
        (tmp_path / "c.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=str(folder)):
        inputs.pictures(1, 20, folder)
