"""Train a few parts of a network and leave the rest exactly as it is."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

__all__ = ["freeze_all_but", "rest_all_but"]


def freeze_all_but(model: nn.Module, parts: Sequence[nn.Module]) -> None:
    """Let no parameter of ``model`` learn except those of ``parts``, which are modules inside it.

    A frozen parameter has no gradient, so no activations are kept for it: a step takes about the
    time and memory of inference.
    """
    model.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)


def rest_all_but(model: nn.Module, parts: Sequence[nn.Module]) -> None:
    """Put ``model`` into evaluation mode and ``parts`` into training mode.

    Frozen weights under dropout or stochastic depth would give other features in training than in
    use, and batch norms would go on counting.
    """
    model.eval()
    for part in parts:
        part.train()
