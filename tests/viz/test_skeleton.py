"""Skeletons on pictures; people beside their tokens."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tcformer.data.keypoints import layout
from tcformer.data.keypoints.codec import HeatmapCodec
from tcformer.errors import UserError
from tcformer.viz import skeleton
from tcformer.viz.skeleton import PART_COLORS, draw_skeleton, people_sheet
from tcformer.zoo import create_model

STICKS = layout("sticks")
WHOLE = layout("coco_wholebody")
GRAY = np.full((60, 80, 3), 50, np.uint8)


def drawn(points, scores, **options):
    return draw_skeleton(GRAY, points, scores, STICKS.links, parts=STICKS.parts, **options)


def figure():
    random = np.random.RandomState(0)
    return random.uniform(10, 50, (1, 11, 2)), np.ones((1, 11))


def test_the_lines_are_where_the_keypoints_are():
    points, scores = figure()
    picture = drawn(points, scores)
    assert picture.shape == GRAY.shape
    assert (GRAY == 50).all()  # the picture itself is not drawn on
    for x, y in points[0].round().astype(int):
        np.testing.assert_allclose(picture[y, x], PART_COLORS["body"], atol=60)
    middle = ((points[0, 0] + points[0, 1]) / 2).round().astype(int)
    assert picture[middle[1], middle[0], 1] > 150
    assert (drawn(points, scores) == picture).all()


def test_what_is_left_out():
    points, scores = figure()
    assert (drawn(points, scores * 0.2, threshold=0.2) == GRAY).all()
    assert (drawn(points + 500, scores) == GRAY).all()
    points[0, 3] = np.nan
    points[0, 0] = [-30, -30]  # partly outside
    assert (drawn(points, scores) != GRAY).any()
    assert (drawn(points[:0], scores[:0]) == GRAY).all()


def test_keypoints_far_beyond_the_picture():
    """Lines to them are drawn, and none of them covers the picture."""
    points, scores = figure()
    points[0, 3:] *= 1e12
    picture = drawn(points, scores)
    assert 0 < (picture != GRAY).any(axis=2).mean() < 0.5


def test_shapes_are_checked():
    points, scores = figure()
    with pytest.raises(UserError, match="skeletons need points"):
        drawn(points[0], scores)
    with pytest.raises(UserError, match="skeletons need points"):
        drawn(points, scores[:, :5])


def test_face_and_hands_are_framed_and_feet_are_not_counted(monkeypatch):
    torch.manual_seed(0)
    codec = HeatmapCodec((48, 64), (12, 16))
    picture = np.full((128, 96, 3), 90, np.uint8)
    crop = codec.crop(np.array([0.0, 0.0, 96 / 1.25, 128 / 1.25]))
    tokens = create_model("tcformer_nano", num_classes=0).forward_tokens(torch.randn(1, 3, 64, 48))
    points = np.random.RandomState(0).uniform(30, 50, (133, 2))
    scores = np.zeros(133)
    for part in ("face", "righthand", "foot"):
        scores[WHOLE.slice(part)] = 1
    points[WHOLE.slice("foot")] = [60, 90]
    rows = []
    monkeypatch.setattr(skeleton, "contact_sheet", lambda given, **_: rows.extend(given))
    people_sheet(picture, picture, [(crop, points, scores, tokens)], WHOLE, codec)
    panels = rows[1].panels
    chosen = (scores > 0.2) & ~np.isin(np.arange(133), range(17, 23))
    columns, rows_of = (crop.to_input(points[chosen], 48, 64) // 4).astype(int).T
    for panel, stage in zip(panels[1:], tokens[1:], strict=True):
        cells = stage.layout.cell_to_token[0].numpy()
        sizes = np.bincount(cells)
        under = sizes[cells.reshape(16, 12)[rows_of, columns]].mean()
        means = f", {under:.1f} cells on the face and hands, {sizes.mean():.1f} on average"
        assert panel.caption.endswith(means)
        for part in ("face", "lefthand", "righthand", "foot"):
            framed = (np.asarray(panel.picture) == PART_COLORS[part]).all(axis=2).any()
            assert framed == (part in ("face", "righthand")), part
