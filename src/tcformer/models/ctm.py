"""CTM, the clustering-based token merging between two stages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tcformer.arguments import as_float, as_int
from tcformer.models.blocks import Source
from tcformer.models.layers import LayerNorm, conv_with_skip, convolve_tokens
from tcformer.ops import TokenMap, cluster_parts, merge_tokens, plan_token_map
from tcformer.ops.local import Nest, cut, nest_of, usable_nest
from tcformer.tokens import Layout, Tokens

__all__ = ["CTM", "MergeRule"]

SAME = 1e-3
"""Tokens at this distance or less (features are of size 1 after the norm) count as equal.

Flat parts of an image are full of tokens that are equal but for rounding, and how a product is
rounded depends on the size of the batch. Without this the last bits would say which of them are
centres. A matrix product in float32 cannot tell such distances from zero, nor could the published
code: tests/models/test_backbone.py::test_nor_does_a_flat_image_or_a_half_flat_one.
"""


@dataclass(frozen=True)
class MergeRule:
    """What a merge does, apart from its parameters.

    Attributes:
        keep_ratio: share of the tokens that are left, in (0, 1].
        k: neighbours in the density estimate, the token itself included.
        num_clusters: how many tokens are left, instead of a share; no more than there are.
        nest: the grid (rows, columns) of parts inside which tokens are clustered, then those of
            later merges, down to (1, 1). Where an image is too small for one the next is taken.

    Raises:
        ValueError: a value out of range.
        TypeError: one that is no number of its kind.
    """

    keep_ratio: float = 0.25
    k: int = 5
    num_clusters: int | None = None
    nest: Nest = ((1, 1),)

    def __post_init__(self) -> None:
        ratio = as_float("keep_ratio", self.keep_ratio, 0.0, 1.0, above=True)
        count = self.num_clusters
        count = None if count is None else as_int("num_clusters", count)
        read = {"keep_ratio": ratio, "k": as_int("k", self.k), "num_clusters": count}
        self.__dict__.update(read)  # frozen: nothing is set from now on

    def num_kept(self, num_tokens: int) -> int:
        """How many tokens are left of ``num_tokens``, before rounding down to equal parts."""
        if self.num_clusters is not None:
            return min(self.num_clusters, num_tokens)
        # 0.55 * 100 is a little more than 55: such a trifle makes no cluster.
        return max(math.ceil(num_tokens * self.keep_ratio - 1e-9), 1)

    def plan(self, layout: Layout) -> tuple[Nest, int, int]:
        """For these tokens: the usable part grids, the number of parts, the clusters of each."""
        num_kept = self.num_kept(layout.num_tokens)
        nest = usable_nest(layout, self.nest, num_kept)
        num_parts = nest[0][0] * nest[0][1]
        return nest, num_parts, num_kept // num_parts


class CTM(nn.Module):
    """Clustering-based token merging.

    A strided token convolution changes the width, DPC-KNN groups the tokens, and each group is
    merged into one token by importance. The un-merged tokens live on as the keys of the next
    stage's first block.

    With part grids (Local CTM, V2) tokens are grouped inside P parts of the image only, which
    leaves one P-th of the distances. No parameter is added.

    Args:
        in_dim: channels of the stage before.
        out_dim: channels of the stage after.
        keep_ratio: share of the tokens that are left, in (0, 1].
        k: neighbours in the density estimate.
        num_clusters: how many tokens are left, instead of a share; no more than there are.
        part_grids: the grid (rows, columns) of parts of this merge, then those of later ones.
            Each divides the one before. On an image too small for a grid the next one is taken.
        density_noise: amplitude of the uniform noise on densities that the published code draws
            (1e-6); 0, deterministic, unless you want to compare with it statistically.

    Source: TCFormer (CVPR 2022), section 3.2; Local CTM: TCFormerV2 (TPAMI 2024).
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        keep_ratio: float = 0.25,
        k: int = 5,
        density_noise: float = 0.0,
        num_clusters: int | None = None,
        part_grids: Sequence[Sequence[int]] = (),
    ):
        super().__init__()
        self.rule = MergeRule(keep_ratio, k, num_clusters, nest_of(part_grids))
        self.density_noise = as_float("density_noise", density_noise)
        self.conv = conv_with_skip(in_dim, out_dim, stride=2)
        self.norm = LayerNorm(out_dim, eps=1e-5)
        self.score = nn.Linear(out_dim, 1)

    def forward(self, tokens: Tokens, plan: TokenMap) -> tuple[Tokens, Source]:
        """Merge tokens.

        Args:
            tokens: N tokens (B, N, Cin), after the norm of their stage.
            plan: between these tokens and their stage's map.

        Returns:
            M merged tokens (B, M, Cout), and the N un-merged ones as a :class:`Source`. With P
            parts M is a multiple of P, rounded down, and the tokens of a part follow each other.
        """
        layout = tokens.layout
        height, width = layout.map_size
        new_map = ((height + 1) // 2, (width + 1) // 2)
        source_plan = plan_token_map(layout, new_map, dtype=tokens.x.dtype)
        x = convolve_tokens(self.conv, tokens.x, plan, source_plan)
        # What decides the clusters, and the weights that are exponentiated, stay in float32.
        with torch.autocast(x.device.type, enabled=False):
            x = self.norm(x.to(torch.promote_types(x.dtype, next(self.norm.parameters()).dtype)))
            score = self.score(x).squeeze(-1)
            nest, num_parts, share = self.rule.plan(layout)
            clusters = cluster_parts(
                x.detach(),
                cut(layout, nest),
                share,
                self.rule.k,
                density_noise=self._noise(x),
                tolerance=SAME,
            )
            unmerged = Tokens(x, layout)
            count = num_parts * share
            merged = merge_tokens(unmerged, clusters.assignment, count, log_weight=score)
        merged = Tokens(merged.x.to(x.dtype), merged.layout._replace(part_grids=nest))
        return merged, Source(unmerged, score, source_plan)

    def _noise(self, x: Tensor) -> Tensor | None:
        if self.density_noise == 0.0:
            return None
        return torch.rand(x.shape[:2], device=x.device) * self.density_noise
