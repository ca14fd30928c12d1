"""The heads on the pyramid of maps: a class for every pixel, a heat map for every keypoint."""

from __future__ import annotations

from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn

from tcformer.arguments import as_float, as_int, read_each
from tcformer.models.mta import MTA
from tcformer.models.tcformer import TCFormer
from tcformer.shapes import Float, shaped

__all__ = ["HeatmapHead", "SemanticFPN", "SemanticFPNHead", "TopDownPose"]

STRIDE = 4
"""Pixels of the input between two neighboring scores of a class or cells of a heat map."""


class _OnTokens(nn.Module):
    """A TCFormer (`backbone`) and MTA (`neck`); a subclass adds the head."""

    def __init__(
        self,
        backbone: nn.Module,
        num_outs: int | None,
        neck_channels: int = 256,
        neck_heads: int = 4,
        neck_mlp_ratio: float = 4.0,
        reduction: str = "pool",
    ) -> None:
        super().__init__()
        own = type(self).__name__
        if not hasattr(backbone, "forward_tokens"):
            raise ValueError(
                f"{own} needs a backbone that gives tokens, and {type(backbone).__name__} "
                "gives none; use one of the tcformer models."
            )
        neck_channels = as_int(f"{own}: neck_channels", neck_channels)
        neck_heads = as_int(f"{own}: neck_heads", neck_heads)
        if neck_channels % neck_heads:
            raise ValueError(
                f"{own}: {neck_channels} channels of the neck cannot be shared out to "
                f"{neck_heads} heads."
            )
        self.backbone = backbone
        self.neck = MTA(
            [info["num_chs"] for info in cast("TCFormer", backbone).feature_info],
            neck_channels,
            num_outs,
            num_heads=neck_heads,
            mlp_ratios=neck_mlp_ratio,
            reduction=reduction,
        )

    def maps(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) images -> the neck's maps (B, neck_channels, h, w), finest first."""
        maps: list[Tensor] = self.neck(cast("TCFormer", self.backbone).forward_tokens(images))
        return maps


class SemanticFPNHead(nn.Module):
    """Bring all levels of a pyramid to the finest one, add them, and score the classes.

    Level l is convolved and doubled in size l times (the finest is only convolved). The norms are
    over groups of channels, as in the source, not over the batch: an image's scores depend neither
    on its batch-mates nor on which process sees it.

    Args:
        in_channels: channels of every map.
        num_classes: classes to score.
        channels: channels inside the head.
        levels: number of maps.
        dropout: whole channels dropped before the scores, in training.

    Source: Kirillov et al., Panoptic Feature Pyramid Networks (CVPR 2019), section 3.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int = 128,
        levels: int = 4,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        in_channels, num_classes, channels, levels = read_each(
            "SemanticFPNHead",
            as_int,
            in_channels=in_channels,
            num_classes=num_classes,
            channels=channels,
            levels=levels,
        )
        dropout = as_float("SemanticFPNHead: dropout", dropout, 0.0, 1.0)
        self.in_channels, self.num_classes = in_channels, num_classes
        self.scale_heads = nn.ModuleList(
            nn.ModuleList(
                _ConvBlock(in_channels if n == 0 else channels, channels)
                for n in range(max(1, level))
            )
            for level in range(levels)
        )
        self.dropout = nn.Dropout2d(dropout)
        self.conv_seg = nn.Conv2d(channels, num_classes, 1)
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        if self.conv_seg.bias is not None:
            nn.init.zeros_(self.conv_seg.bias)

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Score the classes.

        Args:
            maps: (B, in_channels, H_l, W_l) float, finest first, each half the size of the one
                before (rounded up).

        Returns:
            (B, num_classes, H_0, W_0).

        Raises:
            ValueError: another number of maps than levels.
        """
        if len(maps) != len(self.scale_heads):
            raise ValueError(
                f"SemanticFPNHead has {len(self.scale_heads)} levels, but {len(maps)} maps came."
            )
        total: Tensor | None = None
        for level, (x, blocks) in enumerate(zip(maps, self.scale_heads, strict=True)):
            for n, block in enumerate(blocks.children()):
                x = block(x)
                if level:  # to the size of the next finer map, which doubles it, give or take one
                    size = maps[level - 1 - n].shape[2:]
                    x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
            total = x if total is None else total + x
        scores: Tensor = self.conv_seg(self.dropout(total))
        return scores


class _ConvBlock(nn.Sequential):
    """3x3 convolution, norm over groups of channels, ReLU."""

    def __init__(self, in_channels: int, channels: int) -> None:
        # 32 of them where each has four channels: one of a single value would be normalized to 0.
        groups = next(g for g in (32, 16, 8, 4, 2, 1) if g == 1 or channels % (4 * g) == 0)
        conv = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        super().__init__()
        self.add_module("conv", conv)
        self.add_module("norm", nn.GroupNorm(groups, channels))
        self.add_module("relu", nn.ReLU())


class SemanticFPN(_OnTokens):
    """A TCFormer, MTA and the head of Semantic FPN: images in, scores of the classes out.

    The parts are `backbone`, `neck` and `decode_head`, and so begin the names of the parameters.

    Args:
        backbone: a network with `forward_tokens`, without classifier (`num_classes=0`).
        num_classes: classes to score.
        reduction, neck_channels, neck_heads, neck_mlp_ratio: of the neck, see
            :class:`~tcformer.models.MTA`; by default "cluster_norm", 256, 4 and 4.
        channels: inside the head.
        dropout: before the scores.

    Raises:
        ValueError: the backbone gives no tokens, or settings do not belong together.
    """

    def __init__(
        self,
        backbone: nn.Module,
        num_classes: int,
        *,
        reduction: str = "cluster_norm",
        channels: int = 128,
        dropout: float = 0.1,
        **neck: Any,
    ) -> None:
        super().__init__(backbone, None, reduction=reduction, **neck)
        levels = len(self.neck.in_channels)
        self.decode_head = SemanticFPNHead(
            self.neck.out_channels, num_classes, channels, levels, dropout
        )

    @shaped
    def forward(self, images: Float[Tensor, "b cin hi wi"]) -> Float[Tensor, "b out h w"]:
        """Score the classes at every fourth pixel.

        Args:
            images: (B, 3, H, W) float32, normalized.

        Returns:
            (B, num_classes, ceil(H / 4), ceil(W / 4)); resize bilinearly for a score per pixel.
        """
        scores: Tensor = self.decode_head(self.maps(images))
        return scores


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

    @shaped
    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        """(B, in_channels, H, W) to (B, num_keypoints, H, W)."""
        heatmaps: Tensor = self.final_layer(features)
        return heatmaps


class TopDownPose(_OnTokens):
    """A TCFormer, MTA and a 1x1 convolution: the crop of a person in, heat maps out.

    The parts are `backbone`, `neck` and `keypoint_head`, and so begin the names of the parameters,
    which are those of the released files (of MMPose's after their stem is renamed).

    Args:
        backbone: a network with `forward_tokens`, without classifier (`num_classes=0`).
        num_keypoints: heat maps.
        neck_channels, neck_heads, neck_mlp_ratio, reduction: of the neck, see
            :class:`~tcformer.models.MTA`; by default 256, 4, 4 and "pool", as the published
            whole-body models have.

    Raises:
        ValueError: the backbone gives no tokens, or settings do not belong together.

    Source: TCFormer (CVPR 2022), sections 3.4 and 4.1.
    """

    def __init__(self, backbone: nn.Module, num_keypoints: int, **neck: Any) -> None:
        # The head reads the finest map; the coarser ones would be made for nothing.
        super().__init__(backbone, 1, **neck)
        self.keypoint_head = HeatmapHead(self.neck.out_channels, num_keypoints)

    @shaped
    def forward(self, images: Float[Tensor, "b cin hi wi"]) -> Float[Tensor, "b out h w"]:
        """Find the keypoints: (B, 3, H, W) to heat maps (B, num_keypoints, H/4, W/4), rounded up.

        The images are float32, normalized.
        """
        heatmaps: Tensor = self.keypoint_head(self.maps(images)[0])
        return heatmaps
