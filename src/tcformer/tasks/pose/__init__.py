"""Keypoints of people and faces, by a TCFormer under MTA: top-down, with heat maps."""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "PoseTask": "task",
    "Evaluator": "evaluator",
    "evaluate_faces": "nme",
    "evaluate_keypoints": "average_precision",
    "normalized_mean_error": "nme",
    "object_keypoint_similarity": "results",
    "oks_nms": "results",
    "person_score": "results",
    "keypoint_mse": "task",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
