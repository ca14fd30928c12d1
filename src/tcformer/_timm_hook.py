"""Register the models with timm as soon as timm is there, and not before.

``import tcformer`` must be cheap (the command line answers ``--help`` without torch) and yet
``import tcformer; timm.create_model("tcformer")`` must work in either order of the two imports.
So when timm is not imported yet, a finder waits for it, steps aside to let the ordinary
machinery load it, and registers the models right after.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType


def register_when_timm_is_imported() -> None:
    """Register now if timm is imported already, otherwise when it is."""
    if "timm" in sys.modules:
        importlib.import_module("tcformer.models")
    elif not any(isinstance(finder, _TimmFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TimmFinder())


class _TimmFinder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "timm":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _ThenRegister(spec.loader)
        return spec


class _ThenRegister(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader):
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader  # leave no trace: reload and resources work
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        importlib.import_module("tcformer.models")
