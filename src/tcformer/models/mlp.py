"""The MLPs of the blocks: linear, depthwise 3x3 convolution with GELU, linear.

Attribute names are those of the published state dict, so that the authors' files load as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tcformer.models.layers import Linear
from tcformer.ops import TokenMap, token_conv
from tcformer.tokens import Tokens

__all__ = ["DepthwiseTokenConv", "GridMlp", "TokenMlp"]

PIECE = 8 * 2**20
"""Bytes of hidden features that inference on a CPU holds at a time (more with many threads).

They are the largest tensors of the model. In pieces they stay in the cache, and in memory that the
process has already: what is larger than 32 MiB glibc takes anew from the system at every call, and
touching it for the first time costs more than computing with it.
"""


class DepthwiseTokenConv(nn.Conv2d):
    """A depthwise token convolution of stride 1, followed by GELU."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1, groups=channels)
        self.skip = nn.Conv1d(channels, channels, 1, groups=channels, bias=False)

    def forward(  # type: ignore[override]
        self, x: Tensor, plan: TokenMap, overwrite_from: int | None = None
    ) -> Tensor:
        """Convolve (B, N, C) tokens; arguments as in :func:`tcformer.ops.token_conv`."""
        assert self.bias is not None
        skip = self.skip.weight.flatten()
        return token_conv(
            x, plan, self.weight, self.bias, skip, gelu=True, overwrite_from=overwrite_from
        )


class _GridConv(nn.Module):
    """Holds the grid MLP's convolution under the doubled name it has in the published files."""

    def __init__(self, channels: int):
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor, plan: TokenMap, overwrite_from: int | None = None) -> Tensor:
        conv = self.dwconv
        assert conv.bias is not None
        return token_conv(x, plan, conv.weight, conv.bias, gelu=True, overwrite_from=overwrite_from)


class _Mlp(nn.Module):
    def __init__(
        self, dim: int, hidden: int, conv: DepthwiseTokenConv | _GridConv, drop: float = 0.0
    ):
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.dwconv = conv
        self.fc2 = Linear(hidden, dim)
        self.drop = nn.Dropout(drop)

    def _run(self, x: Tensor, plan: TokenMap) -> Tensor:
        if not self._suits_pieces(x):
            return self.drop(self.fc2(self.drop(self.dwconv(self.fc1(x), plan))))
        image = x.shape[1] * self.fc1.out_features * x.element_size()
        size = max(max(PIECE, torch.get_num_threads() * 2**20) // max(image, 1), 1)
        pieces = [
            self.fc2(self.dwconv(self.fc1(x[first : first + size]), plan, first))
            for first in range(0, x.shape[0], size)
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def _suits_pieces(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and not torch.is_grad_enabled()
            and not torch.compiler.is_compiling()
            and not (self.training and self.drop.p > 0)
            # Whoever looks on from outside expects whole batches.
            and not any(m._forward_hooks or m._forward_pre_hooks for m in self.children())
        )


class GridMlp(_Mlp):
    """MLP of the first stage: its convolution runs on the grid itself."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0):
        super().__init__(dim, hidden, _GridConv(hidden), drop)

    def forward(self, x: Tensor, grid_size: tuple[int, int]) -> Tensor:
        """(B, H0*W0, C) -> the same shape."""
        return self._run(x, TokenMap(grid_size, None, None))


class TokenMlp(_Mlp):
    """MLP of the dynamic stages: its convolution runs on tokens."""

    def __init__(self, dim: int, hidden: int, drop: float = 0.0):
        super().__init__(dim, hidden, DepthwiseTokenConv(hidden), drop)

    def forward(self, tokens: Tokens, plan: TokenMap) -> Tensor:
        """(B, N, C) features of the tokens -> the same shape."""
        return self._run(tokens.x, plan)
