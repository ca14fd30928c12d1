"""Runs of the smallest model on a made-up COCO-WholeBody."""

from __future__ import annotations

import pytest
from people import SMALL, make_coco

from tcformer.runtime.signals import interrupt
from tcformer.training.options import build


@pytest.fixture(scope="session")
def coco(tmp_path_factory):
    return make_coco(tmp_path_factory.mktemp("people") / "coco")


@pytest.fixture
def own_coco(tmp_path):
    """One to be damaged."""
    return make_coco(tmp_path / "coco")


@pytest.fixture
def small(coco):
    """`small(option=...)` is a checked configuration on it."""
    interrupt.clear()
    yield lambda **changes: build({**SMALL, "data_path": str(coco), **changes})
    interrupt.clear()
