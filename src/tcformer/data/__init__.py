"""Data sets, transforms, samplers and loaders.

Importing this package, or `tcformer.data.spec`, does not import torch: every name below is looked
up on first use, so that a command line can be parsed and refused in milliseconds.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "DataSpec": "spec",
    "TransformSpec": "spec",
    "MixSpec": "spec",
    "build_dataset": "dataset",
    "ImageDataset": "dataset",
    "require_same_classes": "dataset",
    "Item": "dataset",
    "train_transform": "transforms",
    "eval_transform": "transforms",
    "ResumableSampler": "sampler",
    "SteppedSampler": "sampler",
    "exact_eval_indices": "sampler",
    "SeededDataset": "seeding",
    "preserved_rng": "seeding",
    "Batch": "loader",
    "BatchLoader": "loader",
    "build_loader": "loader",
    "check_workers": "loader",
    "Mixer": "mixing",
    "build_mixer": "mixing",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
