"""A tiny ADE20K of drawn pictures, and runs of the smallest model on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tcformer.runtime.signals import interrupt
from tcformer.tasks.runner import run
from tcformer.training.options import build

SMALL = {
    "task": "segmentation", "data_set": "ADE20K", "model": "tcformer_nano", "input_size": 32,
    "batch_size": 2, "num_workers": 0, "epochs": 2, "warmup_epochs": 0, "device": "cpu",
    "save_every": 0, "threads": 1, "neck_channels": 16, "neck_heads": 2, "head_channels": 8,
}  # fmt: skip
SIZES = [(40, 36), (36, 50), (64, 40), (40, 36), (40, 36)]


def make_ade(root: Path) -> Path:
    """Coloured halves, labelled 3 and 150, with a corner of label 0 (nothing)."""
    random = np.random.RandomState(0)
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for i, (width, height) in enumerate(SIZES):
            labels = np.full((height, width), 3, np.uint8)
            labels[:, random.randint(8, width - 8) :] = 150
            labels[:5, :5] = 0
            colors = np.where((labels == 150)[..., None], (200, 40, 60), (30, 160, 220))
            pixels = (colors + random.randint(-30, 31, colors.shape)).clip(0, 255)
            name = f"ADE_{i:08d}"
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(root / "images" / split / f"{name}.jpg", quality=95)
            Image.fromarray(labels).save(root / "annotations" / split / f"{name}.png")
    return root


@pytest.fixture(scope="session")
def ade(tmp_path_factory):
    return make_ade(tmp_path_factory.mktemp("ade") / "ADEChallengeData2016")


@pytest.fixture
def own_ade(tmp_path):
    """One to be damaged."""
    return make_ade(tmp_path / "ADEChallengeData2016")


@pytest.fixture
def small(ade):
    """`small(option=...)` is a checked configuration on it."""
    interrupt.clear()
    yield lambda **changes: build({**SMALL, "data_path": str(ade), **changes})
    interrupt.clear()


@pytest.fixture(scope="session")
def trained(ade, tmp_path_factory):
    """A finished run: (configuration, result, folder)."""
    folder = tmp_path_factory.mktemp("segmented")
    cfg = build({**SMALL, "data_path": str(ade.parent), "output_dir": str(folder), "ema": True,
                 "ema_decay": 0.5, "lr": 0.5})  # fmt: skip
    return cfg, run(cfg), folder
