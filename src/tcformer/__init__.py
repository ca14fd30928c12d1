"""TCFormer: the Token Clustering Transformer for today's PyTorch.

Importing this package registers ``tcformer_nano``, ``tcformer_light``, ``tcformer``,
``tcformer_large`` and the sizes of ``tcformerv2_*`` with timm. It imports neither torch nor timm
itself: both are loaded when a name below is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import tcformer._early  # noqa: F401 - first: Ctrl-C in one of the imports below is one line
from tcformer._timm_hook import register_when_timm_is_imported
from tcformer.errors import UserError

if TYPE_CHECKING:
    from tcformer import models, ops
    from tcformer.models import TCFormer
    from tcformer.predict import load, push_to_hub, save_pretrained
    from tcformer.tokens import Layout, Tokens
    from tcformer.weights.load import load_checkpoint
    from tcformer.weights.metadata import save_weights
    from tcformer.zoo import create_model

__version__ = "0.1.0.dev0"

_LAZY = {
    "Layout": "tcformer.tokens",
    "TCFormer": "tcformer.models",
    "Tokens": "tcformer.tokens",
    "create_model": "tcformer.zoo",
    "load": "tcformer.predict",
    "load_checkpoint": "tcformer.weights.load",
    "models": "",
    "ops": "",
    "push_to_hub": "tcformer.predict",
    "save_pretrained": "tcformer.predict",
    "save_weights": "tcformer.weights.metadata",
}

__all__ = [
    "Layout",
    "TCFormer",
    "Tokens",
    "UserError",
    "__version__",
    "create_model",
    "load",
    "load_checkpoint",
    "models",
    "ops",
    "push_to_hub",
    "save_pretrained",
    "save_weights",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    source = _LAZY[name]
    if not source:
        return importlib.import_module(f"tcformer.{name}")
    value = getattr(importlib.import_module(source), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_when_timm_is_imported()
