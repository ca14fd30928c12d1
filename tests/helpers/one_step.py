"""Train a model for one step and look at every parameter's gradient."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from torch import Tensor, nn

INERT = re.compile(r"ctm([1-3])\.score\.bias$")
"""Adding the same number to all scores changes neither a merge nor an attention (docs/numerics.md).
Their true gradient is 0; what is left is rounding and the 1e-6 in the merge's denominator."""


def train_one_step(model: nn.Module, loss: Callable[[], Tensor], learning_rate: float = 1e-4):
    """Check that every parameter gets a finite gradient, that it matters, and that a step works."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    value = loss()
    value.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    for name, gradient in gradients.items():
        assert gradient.isfinite().all(), name
        largest = gradient.abs().max()
        if INERT.search(name):
            weight = gradients[name.removesuffix("bias") + "weight"].abs().max()
            assert largest <= 1e-3 * weight, f"{name}: {largest}, its weight {weight}"
        else:
            assert largest > 0, name
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name
        assert INERT.search(name) or not torch.equal(parameter, before[name]), name
    assert loss().isfinite()
