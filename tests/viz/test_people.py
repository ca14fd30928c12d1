"""People beside their tokens: where the captions and frames look."""

from __future__ import annotations

import numpy as np
import torch

from tcformer.data.keypoints import layout
from tcformer.data.keypoints.codec import HeatmapCodec
from tcformer.models import create_model
from tcformer.viz import people as module
from tcformer.viz.people import detail, frame, people_sheet
from tcformer.viz.skeleton import PART_COLOURS

WHOLE = layout("coco_wholebody")


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
    monkeypatch.setattr(module, "contact_sheet", lambda given, **_: rows.extend(given))
    people_sheet(picture, picture, [(crop, points, scores, tokens)], WHOLE, codec)
    panels = rows[1].panels
    chosen = (scores > 0.2) & ~np.isin(np.arange(133), range(17, 23))
    cells = crop.to_input(points[chosen], 48, 64)
    for panel, stage in zip(panels[1:], tokens[1:], strict=True):
        assert panel.caption.endswith(detail(stage, cells, (64, 48), "the face and hands"))
        for part in ("face", "lefthand", "righthand", "foot"):
            framed = (np.asarray(panel.picture) == PART_COLOURS[part]).all(axis=2).any()
            assert framed == (part in ("face", "righthand")), part


def test_a_frame_stays_inside_the_picture():
    picture = np.zeros((20, 30, 3), np.uint8)
    frame(picture, np.array([[-50.0, -50.0], [400.0, 400.0]]), (9, 9, 9))
    assert (picture[0] == 9).all()
    assert (picture[-1] == 9).all()
    assert not picture[5:-5, 5:-5].any()
    before = picture.copy()
    frame(picture, np.zeros((0, 2)), (1, 1, 1))
    assert (picture == before).all()
