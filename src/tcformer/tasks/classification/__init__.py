"""Image classification: `run(cfg)` trains or evaluates, `main(argv)` is the command line.

Importing this module does not import torch.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOME = {
    "ClassificationTask": "tcformer.tasks.classification.task",
    "RunResult": "tcformer.tasks.runner",
    "run": "tcformer.tasks.runner",
    "main": "tcformer.tasks.command",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
