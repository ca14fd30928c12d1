"""Keypoints of people and faces, by a TCFormer under MTA: top-down, with heat maps."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "PoseTask": "task",
    "Evaluator": "measure",
    "evaluate_faces": "nme",
    "evaluate_keypoints": "evaluation",
    "normalised_mean_error": "nme",
    "object_keypoint_similarity": "oks",
    "oks_nms": "oks",
    "person_score": "oks",
    "keypoint_mse": "loss",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
