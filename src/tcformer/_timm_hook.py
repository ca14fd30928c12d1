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
import threading
import time
from collections.abc import Sequence
from types import ModuleType
from typing import Any, cast


def register_when_timm_is_imported() -> None:
    """Register now if timm is imported already, otherwise whenever it is."""
    if not any(type(finder).__name__ == _TimmFinder.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _TimmFinder())
    if sys.modules.get("timm") is not None:  # None forbids its import
        _register()


def _register() -> None:
    if not _registered():
        # Another thread imports a part of tcformer, holds that part's lock and waits for
        # `tcformer`, whose lock is ours. Let it go on, and come back without a lock.
        threading.Thread(target=_register_later, name="tcformer registers with timm").start()


def _register_later() -> None:
    while not _registered():
        time.sleep(0.01)


def _registered() -> bool:
    """Register, unless that would wait for a thread that waits for this one."""
    # The statement, not `import_module`: Python resolves two threads that wait for each other's
    # module if it is begun, for statements alone. A module that is not begun it refuses.
    try:
        # First the whole package of networks: the zoo begins with one of its modules, whose lock
        # it would hold while another thread, in the middle of the package, waits for that module.
        __import__("tcformer.models")
        __import__("tcformer.zoo")
    except RuntimeError as error:
        if type(error).__name__ != "_DeadlockError":
            raise
        return False
    variants = sys.modules.get("tcformer.zoo")
    # Complete, and yet not there: timm was removed from `sys.modules` and imported afresh.
    if hasattr(variants, "create_model") and not sys.modules["timm"].is_model("tcformer"):
        importlib.reload(cast("ModuleType", variants))
    return True


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

    def __init__(self, loader: Any):
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader  # leave no trace: reload and resources work
        module.__loader__ = self._loader
        self._loader.exec_module(module)
        _register()
