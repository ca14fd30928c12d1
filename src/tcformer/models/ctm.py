"""CTM, the clustering-based token merging between two stages."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tcformer.models.blocks import Source
from tcformer.models.layers import TokenConv
from tcformer.ops import TokenMap, dpc_knn, merge_tokens, plan_token_map
from tcformer.tokens import Tokens

__all__ = ["CTM"]

SAME = 1e-3
"""Tokens at this distance or less (features are of size 1 after the norm) count as equal.

Flat parts of an image are full of tokens that are equal but for rounding, and how a product is
rounded depends on the size of the batch. Without this the last bits would say which of them are
centres. A matrix product in float32 cannot tell such distances from zero, nor could the published
code: tests/models/test_backbone.py::test_nor_does_a_flat_image_or_a_half_flat_one.
"""


class CTM(nn.Module):
    """Clustering-based token merging.

    A strided token convolution changes the width, DPC-KNN groups the tokens, and each group is
    merged into one token by importance. The un-merged tokens live on as the keys of the next
    stage's first block.

    Args:
        in_dim: channels of the stage before.
        out_dim: channels of the stage after.
        keep_ratio: share of the tokens that are left, in (0, 1].
        k: neighbours in the density estimate.
        density_noise: amplitude of the uniform noise on densities that the published code draws
            (1e-6); 0, deterministic, unless you want to compare with it statistically.

    Source: TCFormer (CVPR 2022), section 3.2.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        keep_ratio: float = 0.25,
        k: int = 5,
        density_noise: float = 0.0,
    ):
        super().__init__()
        if not 0.0 < keep_ratio <= 1.0:
            raise ValueError(f"keep_ratio must lie in (0, 1], not {keep_ratio}.")
        if k < 1:
            raise ValueError(f"k must be at least 1 (the token itself), not {k}.")
        self.keep_ratio = keep_ratio
        self.k = k
        self.density_noise = density_noise
        self.conv = TokenConv(in_dim, out_dim, stride=2)
        self.norm = nn.LayerNorm(out_dim, eps=1e-5)
        self.score = nn.Linear(out_dim, 1)

    def num_clusters(self, num_tokens: int) -> int:
        """How many tokens are left of ``num_tokens``."""
        return max(math.ceil(num_tokens * self.keep_ratio), 1)

    def forward(self, tokens: Tokens, plan: TokenMap) -> tuple[Tokens, Source]:
        """Merge tokens.

        Args:
            tokens: N tokens (B, N, Cin), after the norm of their stage.
            plan: between these tokens and their stage's map.

        Returns:
            M merged tokens (B, M, Cout), and the N un-merged ones as a :class:`Source`.
        """
        layout = tokens.layout
        height, width = layout.map_size
        new_map = ((height + 1) // 2, (width + 1) // 2)
        source_plan = plan_token_map(layout, new_map, dtype=tokens.x.dtype)
        x = self.conv(tokens, plan, source_plan)
        # What decides the clusters, and the weights that are exponentiated, stay in float32.
        with torch.autocast(x.device.type, enabled=False):
            x = self.norm(x.to(torch.promote_types(x.dtype, self.norm.weight.dtype)))
            score = self.score(x).squeeze(-1)
            num_clusters = self.num_clusters(layout.num_tokens)
            clusters = dpc_knn(
                x.detach(),
                num_clusters,
                self.k,
                density_noise=self._noise(x),
                tolerance=SAME,
            )
            unmerged = Tokens(x, layout)
            merged = merge_tokens(unmerged, clusters.assignment, num_clusters, log_weight=score)
            merged = merged._replace(x=merged.x.to(x.dtype))
        return merged, Source(unmerged, score, source_plan)

    def _noise(self, x: Tensor) -> Tensor | None:
        if self.density_noise == 0.0:
            return None
        return torch.rand(x.shape[:2], device=x.device) * self.density_noise
