"""The loss of heat maps."""

from __future__ import annotations

from torch import Tensor


def keypoint_mse(heatmaps: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error over all cells, keypoints and people; a scalar.

    A keypoint of weight zero adds nothing, but is counted in the mean, as published: with few
    labelled keypoints the loss is small.

    Args:
        heatmaps: (B, K, H, W), any float dtype; the sum is in float32 at least.
        target: (B, K, H, W).
        weight: (B, K).
    """
    difference = heatmaps.float() - target if heatmaps.element_size() < 4 else heatmaps - target
    return (difference.square() * weight[:, :, None, None]).mean()
