"""Signatures say shapes, and the tests check them where jaxtyping and beartype are installed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tcformer import shapes
from tcformer.shapes import Float, shaped


def pad(
    x: Float[Tensor, "b n"], much: int, other: Float[Tensor, "b n"] | None = None
) -> Float[Tensor, "b n"]:
    if much < 0:
        raise ValueError("less than nothing")
    return x


@pytest.mark.skipif(not shapes.CHECKED, reason="needs jaxtyping and beartype")
def test_what_runs_in_silence_with_another_shape_is_an_error():
    from jaxtyping import TypeCheckError

    checked, x = shaped(pad), torch.zeros(2, 3)
    assert checked(x, 1, x) is x
    assert checked(x, torch.tensor(1)) is x  # numbers are the function's own affair
    for wrong in (torch.zeros(3), torch.zeros(2, 3, dtype=torch.int64)):
        with pytest.raises(TypeCheckError):
            checked(wrong, 1)
    with pytest.raises(TypeCheckError):
        checked(x, 1, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="less than nothing"):
        checked(torch.zeros(3), -1)


def test_without_them_a_function_is_what_it_was(monkeypatch):
    monkeypatch.setattr(shapes, "CHECKED", False)
    assert shaped(pad) is pad
