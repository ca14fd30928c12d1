"""Top-down pose: a heat map for every keypoint of the one person in the picture."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from tcformer.arguments import as_int
from tcformer.models.backbone import TCFormer
from tcformer.models.mta import MTA

__all__ = ["HeatmapHead", "TopDownPose"]

STRIDE = 4
"""Pixels of the input between two neighbouring cells of a heat map."""


class HeatmapHead(nn.Module):
    """One 1x1 convolution from features to heat maps.

    Args:
        in_channels: of the features.
        num_keypoints: heat maps.
    """

    def __init__(self, in_channels: int, num_keypoints: int) -> None:
        super().__init__()
        in_channels = as_int("HeatmapHead: in_channels", in_channels)
        num_keypoints = as_int("HeatmapHead: num_keypoints", num_keypoints)
        self.final_layer = nn.Conv2d(in_channels, num_keypoints, 1)
        nn.init.normal_(self.final_layer.weight, std=0.001)
        if self.final_layer.bias is not None:
            nn.init.zeros_(self.final_layer.bias)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, num_keypoints, H, W)."""
        heatmaps: Tensor = self.final_layer(features)
        return heatmaps


class TopDownPose(nn.Module):
    """A TCFormer, MTA and a 1x1 convolution: the crop of a person in, heat maps out.

    The parts are `backbone`, `neck` and `keypoint_head`, and so begin the names of the parameters,
    which are those of the released files (of MMPose's after their stem is renamed).

    Args:
        backbone: a network with `forward_tokens`; its classifier must have been left out
            (`num_classes=0`).
        num_keypoints: heat maps.
        neck_channels, neck_heads, neck_mlp_ratio, reduction: of the neck, see
            :class:`~tcformer.models.MTA`. The published whole-body models have 256, 4, 4 and
            "pool".

    Raises:
        ValueError: the backbone gives no tokens, or settings do not belong together.

    Source: TCFormer (CVPR 2022), sections 3.4 and 4.1.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_keypoints: int,
        *,
        neck_channels: int = 256,
        neck_heads: int = 4,
        neck_mlp_ratio: float = 4.0,
        reduction: str = "pool",
    ) -> None:
        super().__init__()
        if not hasattr(backbone, "forward_tokens"):
            raise ValueError(
                f"TopDownPose needs a backbone that gives tokens, and {type(backbone).__name__} "
                "gives none; use one of the tcformer models."
            )
        neck_channels = as_int("TopDownPose: neck_channels", neck_channels)
        neck_heads = as_int("TopDownPose: neck_heads", neck_heads)
        if neck_channels % neck_heads:
            raise ValueError(
                f"TopDownPose: {neck_channels} channels of the neck cannot be shared out to "
                f"{neck_heads} heads."
            )
        self.backbone = backbone
        widths = [info["num_chs"] for info in cast("TCFormer", backbone).feature_info]
        # The head reads the finest map; the coarser ones would be made for nothing.
        self.neck = MTA(
            widths,
            neck_channels,
            1,
            num_heads=neck_heads,
            mlp_ratios=neck_mlp_ratio,
            reduction=reduction,
        )
        self.keypoint_head = HeatmapHead(neck_channels, num_keypoints)

    def forward(self, images: Tensor) -> Tensor:
        """Find the keypoints.

        Args:
            images: (B, 3, H, W) float32, normalised.

        Returns:
            Heat maps (B, num_keypoints, ceil(H / 4), ceil(W / 4)).
        """
        tokens = cast("TCFormer", self.backbone).forward_tokens(images)
        heatmaps: Tensor = self.keypoint_head(self.neck(tokens)[0])
        return heatmaps
