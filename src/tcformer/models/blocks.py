"""The transformer blocks of the backbone: on the grid (stage 1) and on tokens (stages 2 to 4)."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from tcformer.models.layers import Attention, LayerNorm
from tcformer.models.mlp import GridMlp, TokenMlp
from tcformer.ops import TokenMap, tokens_to_map
from tcformer.tokens import Tokens

__all__ = ["Block", "GridBlock", "Source", "TokenBlock"]


class Source(NamedTuple):
    """What a stage's first block attends to: the tokens before they were merged.

    Attributes:
        tokens: N_old tokens with their old layout, (B, N_old, C).
        score: (B, N_old) float, their importance.
        plan: between these tokens and the map of the new stage.
    """

    tokens: Tokens
    score: Tensor
    plan: TokenMap


class Block(nn.Module):
    """What all blocks hold: norm, attention, norm, MLP, and stochastic depth on both branches."""

    mlp_class: ClassVar[type[GridMlp] | type[TokenMlp]]

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        sr_ratio: int,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        norm_eps: float = 1e-6,
    ):
        super().__init__()
        self.norm1 = LayerNorm(dim, eps=norm_eps)
        self.attn = Attention(dim, num_heads, sr_ratio, qkv_bias, attn_drop, proj_drop)
        self.norm2 = LayerNorm(dim, eps=norm_eps)
        self.mlp = self.mlp_class(dim, int(dim * mlp_ratio), proj_drop)
        self.drop_path = DropPath(drop_path) if drop_path > 0.0 else nn.Identity()


class GridBlock(Block):
    """Transformer block of the first stage, where a token is a cell of the grid."""

    mlp_class = GridMlp

    def forward(self, x: Tensor, grid_size: tuple[int, int]) -> Tensor:
        """(B, H0*W0, C) -> the same shape."""
        keys = queries = self.norm1(x)
        if self.attn.sr_ratio > 1:
            picture = queries.view(x.shape[0], *grid_size, x.shape[2]).permute(0, 3, 1, 2)
            keys = self.attn.reduce(picture)
        x = x + self.drop_path(self.attn(queries, keys))
        return x + self.drop_path(self.mlp(self.norm2(x), grid_size))


class TokenBlock(Block):
    """Transformer block on tokens of any shape.

    The first block of a stage takes its keys from the tokens before the merge (:class:`Source`),
    whose importance is added to the attention scores; the others take them from their own tokens.

    Source: TCFormer (CVPR 2022), section 3.3, figure 4.
    """

    mlp_class = TokenMlp

    def forward(self, tokens: Tokens, plan: TokenMap, source: Source | None = None) -> Tensor:
        """Return the new features (B, N, C) of the tokens.

        Args:
            tokens: N tokens with their layout.
            plan: between these tokens and the stage's map.
            source: the un-merged tokens, for the first block of a stage.
        """
        x = tokens.x
        queries = self.norm1(x)
        if source is None:
            keys, bias = self._keys(tokens._replace(x=queries), plan), None
        else:
            normed = source.tokens._replace(x=self.norm1(source.tokens.x))
            keys, bias = self._keys(normed, source.plan), self._bias(source)
        x = x + self.drop_path(self.attn(queries, keys, bias))
        return x + self.drop_path(self.mlp(tokens._replace(x=self.norm2(x)), plan))

    def _keys(self, tokens: Tokens, plan: TokenMap) -> Tensor:
        if self.attn.sr_ratio == 1:
            return tokens.x
        return self.attn.reduce(tokens_to_map(tokens, plan=plan))

    def _bias(self, source: Source) -> Tensor:
        if self.attn.sr_ratio == 1:
            return source.score
        # The score is averaged as it is, not as exp(score): the released weights expect it.
        score = source.tokens._replace(x=source.score.unsqueeze(-1))
        window = self.attn.window(source.plan.map_size)
        return F.avg_pool2d(tokens_to_map(score, plan=source.plan), window).flatten(1)
