"""Register the models with timm as soon as timm is there, and not before.

``import tcformer`` must be cheap (the command line answers ``--help`` without torch) and yet
``import tcformer; timm.create_model("tcformer")`` must work in either order of the two imports.
So a finder stays in front of the others, lets them find timm, and has the models registered when
timm is executed. To be asked where timm is (transformers asks on import) changes nothing.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import itertools
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, cast

# By name, for the zoo stands above everything else; and at once, so that it is complete before timm
# is imported. It imports neither timm nor torch.
zoo = importlib.import_module("tcformer.zoo")


def register_when_timm_is_imported() -> None:
    """Register now if timm is imported already, otherwise whenever it is."""
    if not any(type(finder).__name__ == _TimmFinder.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _TimmFinder())
    timm = sys.modules.get("timm")  # None forbids its import
    if timm is not None and not hasattr(timm, _ThenRegister.MARK):
        zoo.register()


class _TimmFinder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "timm":
            return None
        others = itertools.dropwhile(lambda finder: finder is not self, tuple(sys.meta_path))
        for finder in itertools.islice(others, 1, None):
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = cast("importlib.abc.Loader", _ThenRegister(spec.loader))
                return spec
        return None


class _ThenRegister:
    """A loader that registers the models after its module was executed; otherwise as it was."""

    MARK = "_tcformer_registers_after_this_import"

    def __init__(self, loader: Any):
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader  # leave no trace: reload and resources work
        module.__loader__ = self._loader
        # Another thread that imports `tcformer` meanwhile must not wait for this one.
        setattr(module, self.MARK, True)
        self._loader.exec_module(module)
        delattr(module, self.MARK)
        zoo.register()
