"""How a person is varied in training: the box moved, mirrored, halved, scaled and turned.

Random numbers come from NumPy's global generator, which `SeededDataset` seeds for each sample.
Source: the published recipe (section A.5), step by step in its order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, NamedTuple

import numpy as np

from tcformer.data.keypoints import Layout
from tcformer.data.keypoints.crop import Crop, shaped
from tcformer.sections import Section, Within

_SHIFT = 0.16  # of the box's size, on each axis
_HALF_PADDING = 1.5
_LEAST_VISIBLE = 8  # a person needs more keypoints than that to be halved
_LEAST_CHOSEN = 2  # a half needs more than that to be preferred, and at least that to be used


class Pose(NamedTuple):
    """A person in a photograph: where to look, and the keypoints."""

    crop: Crop
    points: np.ndarray  # (K, 2) float64, pixels of the photograph
    visible: np.ndarray  # (K,) float64, above zero where labeled


@dataclass(frozen=True)
class PoseAugmentation(Section):
    """Probabilities and strengths; the defaults are those of whole-body training."""

    shift_prob: Annotated[float, Within(0, 1)] = 0.3
    """Probability that the box moves, by up to 0.16 of its size on each axis."""
    flip_prob: Annotated[float, Within(0, 1)] = 0.5
    """Probability of mirroring."""
    half_body_prob: Annotated[float, Within(0, 1)] = 0.3
    """Probability that only the upper or the lower half is looked at, of people with more than
    eight labeled keypoints."""
    scale_spread: Annotated[float, Within(0, 0.999)] = 0.5
    """Standard deviation of the size factor; it is cut to 1 -+ this."""
    rotation: Annotated[float, Within(0, 90)] = 40.0
    """Standard deviation of the angle, degrees; it is cut to twice this."""
    rotation_prob: Annotated[float, Within(0, 1)] = 0.6
    """Probability of turning at all."""

    def __call__(self, pose: Pose, width: int, layout: Layout, aspect: float) -> tuple[Pose, bool]:
        """Vary one person; also returns whether the photograph has to be mirrored for it.

        Args:
            pose: as annotated.
            width: of the photograph, in pixels.
            layout: of the keypoints.
            aspect: width over height of the network's input.
        """
        crop = pose.crop
        if np.random.uniform() < self.shift_prob:
            moved = crop.center + np.random.uniform(-1, 1, 2) * _SHIFT * crop.size
            pose = pose._replace(crop=replace(crop, center=moved))
        flip = bool(np.random.uniform() < self.flip_prob)
        if flip:
            pose = mirrored(pose, width, layout.mirror)
        if (pose.visible > 0).sum() > _LEAST_VISIBLE and np.random.uniform() < self.half_body_prob:
            # The published code draws its coin from a normal distribution: heads in 69 %.
            pose = half_body(pose, layout.upper, np.random.randn() < 0.5, aspect)
        spread = self.scale_spread
        factor = np.clip(np.random.randn() * spread + 1, 1 - spread, 1 + spread)
        degrees = 0.0
        if np.random.uniform() < self.rotation_prob:
            limit = 2 * self.rotation
            degrees = float(np.clip(np.random.randn() * self.rotation, -limit, limit))
        crop = replace(pose.crop, size=pose.crop.size * factor, degrees=degrees)
        return pose._replace(crop=crop), flip


def mirrored(pose: Pose, width: int, mirror: np.ndarray) -> Pose:
    """The person in the mirrored photograph of this width; `mirror` (K,) changes left and right."""
    visible = pose.visible[mirror]
    points = pose.points[mirror].copy()
    points[:, 0] = width - 1 - points[:, 0]
    points[visible <= 0] = 0
    center = np.array([width - 1 - pose.crop.center[0], pose.crop.center[1]])
    return Pose(replace(pose.crop, center=center), points, visible)


def half_body(pose: Pose, upper: np.ndarray, prefer_upper: bool, aspect: float) -> Pose:
    """Look at the upper half (`upper`, (K,) bool) or the lower half of a person alone.

    Hands, face and feet belong to the lower half: the published table gives them no half, and
    what is not upper is lower. The person stays as it was if no half has two labeled keypoints.
    """
    seen = pose.visible > 0
    above, below = pose.points[seen & upper], pose.points[seen & ~upper]
    if prefer_upper and len(above) > _LEAST_CHOSEN:
        chosen = above
    else:
        chosen = below if len(below) > _LEAST_CHOSEN else above
    if len(chosen) < _LEAST_CHOSEN:
        return pose
    size = shaped(np.ptp(chosen, axis=0), aspect) * _HALF_PADDING
    if not (size > 0).all():
        return pose  # all in one place: there is nothing to look at
    return pose._replace(crop=replace(pose.crop, center=chosen.mean(0), size=size))
