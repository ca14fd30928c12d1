"""A small data set of coloured squares, and runs of the smallest model on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tcformer.runtime.signals import interrupt
from tcformer.tasks.runner import run
from tcformer.training.options import build

COLORS = {"blue": (30, 40, 220), "green": (20, 200, 60), "red": (220, 40, 30)}
SMALL = {
    "model": "tcformer_nano", "input_size": 32, "batch_size": 4, "num_workers": 0, "epochs": 2,
    "warmup_epochs": 0, "device": "cpu", "save_every": 0, "threads": 1,
}  # fmt: skip


def make_images(root: Path, per_class: dict[str, int]) -> Path:
    random = np.random.RandomState(0)
    for split, count in per_class.items():
        for name, color in COLORS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.array(color) + random.randint(-30, 31, (36, 40, 3))
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """3 classes; 14 images to train on (batches of 4: three), 11 to evaluate on."""
    root = make_images(tmp_path_factory.mktemp("images"), {"train": 5, "val": 4})
    (root / "train/red/4.png").unlink()
    (root / "val/red/3.png").unlink()
    return root


@pytest.fixture
def small(images):
    """`small(option=...)` is a checked configuration on those images."""
    interrupt.clear()
    yield lambda **changes: build({"data_path": str(images), **SMALL, **changes})
    interrupt.clear()


@pytest.fixture(scope="session")
def trained(images, tmp_path_factory):
    """A finished run: (configuration, result, folder)."""
    folder = tmp_path_factory.mktemp("trained")
    cfg = build({"data_path": str(images), **SMALL, "output_dir": str(folder), "ema": True,
                 "ema_decay": 0.5, "lr": 0.05})  # fmt: skip
    return cfg, run(cfg), folder
