"""The MLPs of the blocks: linear, depthwise 3x3 convolution with GELU, linear.

Attribute names are those of the published state dict, so that the authors' files load as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules import module

from tcformer.models.layers import Linear
from tcformer.ops import TokenMap, token_conv
from tcformer.ops.choose import is_exporting, why_not
from tcformer.ops.token_conv.pieces import by_pieces, token_mlp
from tcformer.tokens import Tokens

__all__ = ["DepthwiseTokenConv", "GridMlp", "TokenMlp"]


class DepthwiseTokenConv(nn.Conv2d):
    """A depthwise token convolution of stride 1, followed by GELU."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1, groups=channels)
        self.skip = nn.Conv1d(channels, channels, 1, groups=channels, bias=False)

    def forward(  # type: ignore[override]
        self, x: Tensor, plan: TokenMap, overwrite_from: int | None = None
    ) -> Tensor:
        """Convolve (B, N, C) tokens; arguments as in :func:`tcformer.ops.token_conv`."""
        return token_conv(x, plan, *self.weights(), gelu=True, overwrite_from=overwrite_from)

    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Weight, bias and skip."""
        assert self.bias is not None
        return self.weight, self.bias, self.skip.weight.flatten()


class _GridConv(nn.Module):
    """Holds the grid MLP's convolution under the doubled name it has in the published files."""

    def __init__(self, channels: int):
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor, plan: TokenMap, overwrite_from: int | None = None) -> Tensor:
        return token_conv(x, plan, *self.weights(), gelu=True, overwrite_from=overwrite_from)

    def weights(self) -> tuple[Tensor, Tensor, None]:
        assert self.dwconv.bias is not None
        return self.dwconv.weight, self.dwconv.bias, None


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
        if torch.compiler.is_compiling():
            fc1, fc2 = (self.fc1.weight, self.fc1.bias), (self.fc2.weight, self.fc2.bias)
            return token_mlp(x, plan, fc1, self.dwconv.weights(), fc2)
        return by_pieces(
            x,
            self.fc1.out_features,
            lambda part, first: self.fc2(self.dwconv(self.fc1(part), plan, first)),
        )

    def _suits_pieces(self, x: Tensor) -> bool:
        return (
            x.device.type == "cpu"
            and not torch.is_grad_enabled()
            and not (self.training and self.drop.p > 0)
            # What the first layer returns is written over: it must be nobody else's.
            and type(self.fc1) is Linear
            # Whoever looks on from outside expects whole batches.
            and not any(m._forward_hooks or m._forward_pre_hooks for m in self.modules())
            and not (module._global_forward_hooks or module._global_forward_pre_hooks)
            and (not torch.compiler.is_compiling() or self._suits_one_operator(x))
        )

    def _suits_one_operator(self, x: Tensor) -> bool:
        return (
            type(self.fc1) is type(self.fc2) is Linear
            and x.dtype == self.fc1.weight.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
            and not is_exporting()
            and why_not("native", "cpu") is None
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
