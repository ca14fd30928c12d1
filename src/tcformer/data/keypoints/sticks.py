"""Keypoints that need no files: one stick figure on a textured canvas, seen from the front."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from tcformer.data.keypoints import layout
from tcformer.data.keypoints.annotations import Truth
from tcformer.data.keypoints.people import Subject
from tcformer.drawn import canvas, grained, stream
from tcformer.images import LeftOut

TRAIN_FIGURES, VAL_FIGURES = 1024, 128
SIZE = 128
_VAL_STREAM = 0x5354
_FINER = 3  # drawn so much larger, then made smaller: smooth lines

# Lengths in units of the figure, and angles from straight down in degrees, of the limbs of the left
# side, which lies to the right as we see it; those of the right side are mirrored.
_TORSO, _HEAD, _NECK = 1.0, 0.25, 0.3
_ARM, _FOREARM, _THIGH, _SHIN = 0.55, 0.5, 0.6, 0.6
_ARM_RANGE, _BEND, _THIGH_RANGE, _KNEE = (15, 150), (-60, 60), (5, 55), (-25, 25)


class SticksSource:
    """Canvases of 128 x 128 pixels with a stick figure of eleven keypoints.

    Training draws each figure anew; those to validate on are the same for ever. Left and right can
    be told by where the limbs are, so a mirrored figure is as good as any.
    """

    padding = 1.25

    def __init__(self, split: str) -> None:
        self.layout = layout("sticks")
        self.classes = list(self.layout.names)
        self.truth: Truth | None = None
        self.left_out = LeftOut()
        self.split = split
        self._drawn: tuple[int, Image.Image] | None = None

    def __len__(self) -> int:
        return TRAIN_FIGURES if self.split == "train" else VAL_FIGURES

    def describe(self, index: int) -> str:
        """Which figure."""
        return f"{self.split} figure {index} of sticks"

    def subject(self, index: int) -> Subject:
        """The figure; in training another one at each call, and `read` gives its picture."""
        draw = stream(self.split, _VAL_STREAM, index)
        points, unit = _figure(draw)
        self._drawn = (index, _picture(draw, points, unit))
        margin = 0.3 * unit
        low, high = points.min(0) - margin, points.max(0) + margin
        box = np.concatenate([low, high - low])
        return Subject(index, index, box, points, np.full(len(points), 2.0), 1.0)

    def read(self, index: int) -> Image.Image:
        """The picture of the figure that `subject` gave last for this index."""
        if self._drawn is None or self._drawn[0] != index:
            self.subject(index)
        assert self._drawn is not None
        return self._drawn[1]


def _figure(draw: np.random.RandomState) -> tuple[np.ndarray, float]:
    """Keypoints (11, 2) in pixels, and the length of the torso."""

    def limb(start: np.ndarray, length: float, degrees: float) -> np.ndarray:
        turn = np.deg2rad(degrees)
        return start + length * np.array([np.sin(turn), np.cos(turn)])

    neck = np.zeros(2)
    hip = limb(neck, _TORSO, 0)
    head = limb(neck, _NECK + _HEAD, 180)
    ends: dict[str, np.ndarray] = {}
    for side, sign in (("left", 1), ("right", -1)):
        arm = draw.uniform(*_ARM_RANGE)
        ends[f"{side}_elbow"] = limb(neck, _ARM, sign * arm)
        bent = np.clip(arm + draw.uniform(*_BEND), 0, 175)
        ends[f"{side}_hand"] = limb(ends[f"{side}_elbow"], _FOREARM, sign * bent)
        thigh = draw.uniform(*_THIGH_RANGE)
        ends[f"{side}_knee"] = limb(hip, _THIGH, sign * thigh)
        shin = max(thigh + draw.uniform(*_KNEE), 0)
        ends[f"{side}_foot"] = limb(ends[f"{side}_knee"], _SHIN, sign * shin)
    ends |= {"head": head, "neck": neck, "hip": hip}
    points = np.stack([ends[name] for name in layout("sticks").names])
    lean = np.deg2rad(draw.uniform(-20, 20))
    points = points @ np.array([[np.cos(lean), -np.sin(lean)], [np.sin(lean), np.cos(lean)]])
    extent = np.ptp(points, axis=0).max() + 2 * _HEAD
    unit = draw.uniform(0.55, 0.95) * SIZE / extent
    points *= unit
    room = SIZE - np.ptp(points, axis=0) - 2 * _HEAD * unit
    corner = draw.uniform(0, 1, 2) * room + _HEAD * unit
    return points - points.min(0) + corner, unit


def _picture(draw: np.random.RandomState, points: np.ndarray, unit: float) -> Image.Image:
    """The figure in a light color on a dark canvas."""
    mask = Image.new("L", (SIZE * _FINER, SIZE * _FINER))
    pen = ImageDraw.Draw(mask)
    width = max(1, round(draw.uniform(0.08, 0.14) * unit * _FINER))

    def fine(point: np.ndarray) -> tuple[float, float]:
        return float(point[0] * _FINER), float(point[1] * _FINER)

    for a, b in layout("sticks").links["body"]:
        pen.line([fine(points[a]), fine(points[b])], fill=255, width=width)
    x, y = fine(points[0])
    radius = _HEAD * unit * _FINER
    pen.ellipse([x - radius, y - radius, x + radius, y + radius], fill=255)
    share = np.asarray(mask.resize((SIZE, SIZE), Image.Resampling.BOX), np.float64)[..., None] / 255
    picture = canvas(draw, SIZE)
    picture += share * (draw.uniform(150, 255, 3) - picture)
    return grained(draw, picture)
