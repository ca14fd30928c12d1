"""The pictures in docs/images are what docs/make_pictures.py makes."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCS = Path(__file__).parents[2] / "docs"

sys.path.append(str(DOCS))
import make_pictures  # noqa: E402


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


@pytest.mark.slow
def test_the_script_makes_the_committed_pictures(tmp_path):
    make_pictures.draw(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(make_pictures.NAMES)
    for name in make_pictures.NAMES:
        made, committed = (pixels(folder / name) for folder in (tmp_path, DOCS / "images"))
        assert made.shape == committed.shape
        # Captions and near ties of the clustering may come out otherwise on another machine.
        assert (np.abs(made - committed).max(-1) > 8).mean() < 0.1


def test_the_committed_scene_is_the_one_that_the_script_draws():
    assert np.abs(pixels(DOCS / "images" / "scene.png") - make_pictures.house()).mean() < 1


def test_committed_pictures_are_small():
    images = DOCS / "images"
    files = {path.name for path in (*images.glob("*.png"), *images.glob("*.webp"))}
    assert files >= set(make_pictures.NAMES)
    for name in files:
        size = (DOCS / "images" / name).stat().st_size
        assert size < 500_000, name


def test_the_moving_picture_shows_every_stage_long_enough_to_be_read():
    with Image.open(DOCS / "images" / "merging.webp") as moving:
        durations = []
        for frame in range(moving.n_frames):
            moving.seek(frame)
            moving.load()
            durations.append(moving.info["duration"])
    assert sum(duration >= 1000 for duration in durations) == 5  # the image and four stages
