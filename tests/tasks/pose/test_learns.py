"""The embedded set is learned."""

from __future__ import annotations

import pytest

from tcformer.tasks.runner import run
from tcformer.training.options import build, load_config


@pytest.mark.slow(seconds=90)
def test_stick_figures_are_learned(tmp_path):
    """The shipped recipe, less of it: nine of ten keypoints within a twentieth of the figure."""
    cfg = build(load_config("configs/pose/sticks.py"))
    result = run(cfg.replace(epochs=3, threads=1, output_dir=str(tmp_path)))
    assert result.best > 90
