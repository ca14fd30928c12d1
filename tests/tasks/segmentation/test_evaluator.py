"""The metric against loops, and the scores brought to the size of the labels."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tcformer.tasks.segmentation.evaluator import MeanIoU, best_class, confusion, runs_of_one_shape


def test_mean_iou_against_a_loop():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 6, (9, 7), generator=generator).to(torch.uint8)
    found = torch.randint(0, 6, (9, 7), generator=generator)
    labels[labels == 4] = 2  # class 4 is only found, class 5 neither
    found[found == 5], labels[labels == 5] = 1, 255
    counts = confusion(found, labels, 6)
    assert counts.dtype == torch.int64
    pairs = [
        (a, b)
        for a, b in zip(labels.flatten().tolist(), found.flatten().tolist(), strict=True)
        if a != 255
    ]
    assert counts.sum() == len(pairs) < 63
    expected = []
    for c in range(6):
        union = sum(a == c or b == c for a, b in pairs)
        if union:
            expected.append(100 * sum(a == b == c for a, b in pairs) / union)
    measured = MeanIoU(counts)
    assert measured.mean == pytest.approx(sum(expected) / len(expected), rel=1e-12)
    assert len(expected) == 5
    assert measured.per_class[4] == 0
    assert math.isnan(measured.per_class[5])
    right = sum(a == b for a, b in pairs)
    assert measured.pixel_accuracy == pytest.approx(100 * right / len(pairs), rel=1e-12)


def test_nothing_counted_is_not_a_number():
    assert math.isnan(MeanIoU(torch.zeros(3, 3, dtype=torch.int64)).mean)


@pytest.mark.parametrize("classes", [1, 16, 37])
def test_best_class_is_that_of_all_scores_at_once(classes):
    scores = torch.randn(classes, 5, 6, generator=torch.Generator().manual_seed(classes))
    full = F.interpolate(scores[None], size=(21, 17), mode="bilinear", align_corners=False)[0]
    assert torch.equal(best_class(scores, (21, 17)), full.argmax(0))


def test_of_equal_scores_the_lowest_class_is_taken():
    assert not best_class(torch.ones(40, 2, 2), (4, 4)).any()


def test_neighbours_of_one_shape_are_batched():
    images = [torch.zeros(3, n, 4) for n in (2, 2, 3, 2, 2, 2)]
    assert runs_of_one_shape(images) == [(0, 2), (2, 3), (3, 6)]
    assert runs_of_one_shape(images[:1]) == [(0, 1)]
