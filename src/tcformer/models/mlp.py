"""The MLPs of the blocks: linear, depthwise 3x3 convolution with GELU, linear.

Attribute names are those of the published state dict, so that the authors' files load as they are.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcformer.models.layers import Linear, conv_with_skip, convolve_tokens, is_plain
from tcformer.ops import TokenMap, token_conv
from tcformer.ops.dispatch import is_exporting, unsupported_reason
from tcformer.ops.token_conv.chunked import by_pieces, token_mlp
from tcformer.tokens import Tokens

__all__ = ["GridMlp", "TokenMlp"]


class _Mlp(nn.Module):
    dwconv: Any  # a module

    def __init__(self, dim: int, hidden: int, conv: nn.Module, drop: float = 0.0):
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.dwconv = conv
        self.fc2 = Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def _weights(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Weight, bias and skip of the convolution; on the grid it has none."""
        skip = getattr(self.dwconv, "skip", None)
        conv = self.dwconv.dwconv if skip is None else self.dwconv
        return conv.weight, conv.bias, None if skip is None else skip.weight.flatten()

    def _mix(self, x: Tensor, plan: TokenMap, overwrite_from: int | None = None) -> Tensor:
        """Convolution and GELU; `overwrite_from` as in :func:`tcformer.ops.token_conv`."""
        if all(is_plain(layer) for layer in self.dwconv.modules()):
            weights = self._weights()
            return token_conv(x, plan, *weights, gelu=True, overwrite_from=overwrite_from)
        return F.gelu(convolve_tokens(self.dwconv, x, plan, plan))

    def _run(self, x: Tensor, plan: TokenMap) -> Tensor:
        if not self._suits_pieces(x):
            return self.drop(self.fc2(self.drop(self._mix(self.fc1(x), plan))))
        if torch.compiler.is_compiling():
            fc1, fc2 = (self.fc1.weight, self.fc1.bias), (self.fc2.weight, self.fc2.bias)
            return token_mlp(x, plan, fc1, self._weights(), fc2)
        return by_pieces(
            x,
            self.fc1.out_features,
            lambda part, first: self.fc2(self._mix(self.fc1(part), plan, first)),
        )

    def _suits_pieces(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and not torch.is_grad_enabled()
            and not (self.training and self.drop.p > 0)
            # Whoever looks on from outside expects whole batches, and what another layer returns
            # may be somebody else's: it must not be written over.
            and all(is_plain(m) for m in (self.fc1, *self.dwconv.modules(), self.fc2))
            and not (self.drop._forward_hooks or self.drop._forward_pre_hooks)
            and (not torch.compiler.is_compiling() or self._suits_one_operator(x))
        )

    def _suits_one_operator(self, x: Tensor) -> bool:
        return (
            x.dtype == self.fc1.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and not is_exporting()
            and unsupported_reason("cpp", "cpu") is None
        )


class GridMlp(_Mlp):
    """MLP of the first stage: its convolution runs on the grid itself."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0):
        conv = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        # Under the doubled name that it has in the published files.
        super().__init__(dim, hidden, nn.Sequential(OrderedDict(dwconv=conv)), drop)

    def forward(self, x: Tensor, grid_size: tuple[int, int]) -> Tensor:
        """(B, H0*W0, C) -> the same shape."""
        return self._run(x, TokenMap(grid_size, None, None))


class TokenMlp(_Mlp):
    """MLP of the dynamic stages: its convolution runs on tokens."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0):
        super().__init__(dim, hidden, conv_with_skip(hidden, hidden, groups=hidden), drop)

    def forward(self, tokens: Tokens, plan: TokenMap) -> Tensor:
        """(B, N, C) features of the tokens -> the same shape."""
        return self._run(tokens.x, plan)
