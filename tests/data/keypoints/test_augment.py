"""How people are varied."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tcformer.data.keypoints import layout
from tcformer.data.keypoints.augment import Pose, PoseAugmentation, half_body, mirrored
from tcformer.data.keypoints.crop import Crop
from tcformer.errors import UserError
from tcformer.sections import option

WHOLE = layout("coco_wholebody")
STILL = PoseAugmentation(
    shift_prob=0, flip_prob=0, half_body_prob=0, scale_spread=0, rotation=0, rotation_prob=0
)


def person(visible=()):
    random = np.random.RandomState(0)
    shown = np.zeros(133)
    shown[list(visible)] = 2
    points = random.rand(133, 2) * [200, 400]
    points[shown == 0] = 0
    return Pose(Crop(np.array([100.0, 200.0]), np.array([300.0, 400.0])), points, shown)


def test_nothing_is_varied_without_strength():
    before = person(range(20))
    after, flip = STILL(before, 640, WHOLE, 0.75)
    assert not flip
    np.testing.assert_array_equal(after.points, before.points)
    np.testing.assert_array_equal(after.crop.size, before.crop.size)
    assert after.crop.degrees == 0


def test_mirroring_twice_changes_nothing():
    before = person([0, 5, 9, 17, 40, 91, 130])
    once = mirrored(before, 640, WHOLE.mirror)
    assert once.visible[[0, 6, 10, 20, 49, 112, 109]].all()
    assert (once.points[once.visible == 0] == 0).all()
    np.testing.assert_allclose(once.points[6], [639 - before.points[5, 0], before.points[5, 1]])
    twice = mirrored(once, 640, WHOLE.mirror)
    np.testing.assert_allclose(twice.points, before.points)
    np.testing.assert_allclose(twice.crop.center, before.crop.center)


def test_half_body():
    both = person([0, 1, 2, 11, 12, 50, 100])
    for prefer, chosen in ((True, [0, 1, 2]), (False, [11, 12, 50, 100])):
        half = half_body(both, WHOLE.upper, prefer, 0.75)
        inside = both.points[chosen]
        np.testing.assert_allclose(half.crop.center, inside.mean(0))
        w, h = np.ptp(inside, axis=0)
        np.testing.assert_allclose(
            half.crop.size, 1.5 * np.array([max(w, 0.75 * h)] * 2) / [1, 0.75]
        )
    # Two labeled points of the upper half are not enough to prefer it, but the best there is.
    few = person([0, 1, 12])
    np.testing.assert_allclose(
        half_body(few, WHOLE.upper, False, 0.75).crop.center, few.points[:2].mean(0)
    )
    alone = person([0, 12])
    assert half_body(alone, WHOLE.upper, True, 0.75) is alone


def test_ranges_and_frequencies():
    np.random.seed(0)
    augment = PoseAugmentation()
    before = person(range(133))
    factors, degrees, flips, halves = [], [], 0, 0
    for _ in range(1000):
        after, flip = dataclasses.replace(augment, half_body_prob=0)(before, 640, WHOLE, 0.75)
        factors.append(after.crop.size[0] / before.crop.size[0])
        degrees.append(after.crop.degrees)
        flips += flip
        halved, _ = dataclasses.replace(STILL, half_body_prob=0.3)(before, 640, WHOLE, 0.75)
        halves += halved.crop.size[0] != before.crop.size[0]
    assert min(factors) == 0.5
    assert max(factors) == 1.5
    assert max(map(abs, degrees)) == 80
    for found, expected in ((degrees.count(0), 0.4), (flips, 0.5), (halves, 0.3)):
        assert abs(found / 1000 - expected) < 0.04


@pytest.mark.parametrize(
    "setting", [{"shift_prob": 1.5}, {"rotation": 100}, {"scale_spread": 1}, {"flip_prob": -0.1}]
)
def test_refusals(setting):
    with pytest.raises(UserError, match=option(next(iter(setting)))):
        PoseAugmentation(**setting)
