"""Which implementation of an op runs, and why another one does not."""

from __future__ import annotations

import importlib
from typing import NamedTuple

__all__ = ["Availability", "check_impl", "report"]


class Availability(NamedTuple):
    """One implementation of one op on this machine; ``reason`` is None when it can run."""

    op: str
    impl: str
    reason: str | None


def check_impl(op: str, impl: str, implementations: tuple[str, ...]) -> str:
    """Resolve "auto" to the fastest implementation; an explicit request is never replaced.

    Args:
        op: name of the op, for the message.
        impl: "auto" or one of ``implementations``.
        implementations: the names that exist, fastest first.

    Raises:
        ValueError: ``impl`` names none of them.
    """
    if impl == "auto":
        return implementations[0]
    if impl not in implementations:
        names = ", ".join(("auto", *implementations))
        raise ValueError(f"{op}: there is no implementation {impl!r}; choose one of {names}.")
    return impl


def report() -> list[Availability]:
    """List every implementation of every op, with the reason where it cannot run here."""
    # By path: as attributes of `tcformer.ops` these names are the functions.
    modules = {
        op: importlib.import_module(f"tcformer.ops.{op}")
        for op in ("regroup", "dpc_knn", "attend", "merge")
    }
    return [
        Availability(op, impl, None)
        for op, module in modules.items()
        for impl in module.IMPLEMENTATIONS
    ]
