"""The networks: TCFormer, the neck (MTA), heads, their sizes as data, cost, and a look inside.

``create_model`` is here for code that was written when it was: :mod:`tcformer.zoo` has it.
"""

from typing import Any

import timm  # noqa: F401 - whole: another thread may be in its middle

from tcformer.models.heads import SemanticFPN, SemanticFPNHead
from tcformer.models.mta import MTA
from tcformer.models.sizes import VARIANTS
from tcformer.models.tcformer import TCFormer

__all__ = ["MTA", "VARIANTS", "SemanticFPN", "SemanticFPNHead", "TCFormer"]


def __getattr__(name: str) -> Any:
    if name == "create_model":
        import importlib

        return importlib.import_module("tcformer.zoo").create_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
