"""Semantic segmentation: a class for each pixel, by a TCFormer under Semantic FPN."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {"SegmentationTask": "task", "Evaluator": "evaluator", "MeanIoU": "evaluator"}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
