"""Person scores, OKS-NMS, the loss, and the error of faces."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tcformer.data.keypoints import layout
from tcformer.errors import UserError
from tcformer.tasks.pose.nme import evaluate_faces, normalized_mean_error
from tcformer.tasks.pose.results import object_keypoint_similarity, oks_nms, person_score
from tcformer.tasks.pose.task import keypoint_mse


def noise(n):
    """The golden numbers' generator: two rounds of a hash, scaled to 0..1."""
    x = n & 0xFFFFFFFF
    for _ in range(2):
        x = ((x >> 16) ^ x) * 0x45D9F3B & 0xFFFFFFFF
    return ((x >> 16) ^ x) / 2**32


def test_published_loss():
    count = 2 * 5 * 8 * 6
    maps = [
        torch.tensor([noise(start + i) for i in range(count)], dtype=torch.float32)
        for start in (11_000_000, 12_000_000)
    ]
    found, target = (m.view(2, 5, 8, 6) for m in maps)
    weight = torch.tensor([[1, 0, 0.5, 1, 1], [0, 1, 1, 0.5, 1]])
    assert keypoint_mse(found, target, weight).item() == pytest.approx(0.114382282, abs=1e-8)
    even = torch.ones(2, 5)
    assert keypoint_mse(found, target, even).item() == pytest.approx(0.164100021, abs=1e-8)
    half = keypoint_mse(found.bfloat16(), target, weight)
    assert half.dtype == torch.float32


def test_person_score():
    assert person_score(0.5, np.array([0.2, 0.4, 0.6])) == pytest.approx(0.25)  # 0.2 is not above
    assert person_score(0.5, np.array([0.1, -1.0])) == 0


def test_nms_keeps_the_best_of_those_alike():
    random = np.random.RandomState(0)
    sigmas = layout("coco_wholebody").sigmas
    base = random.rand(133, 2) * 200
    people = np.stack([base, base + 0.5, base + 300, base + np.array([0.0, 60.0])])
    areas = np.full(4, 200.0 * 200)
    scores = np.array([0.5, 0.9, 0.4, 0.3])
    assert oks_nms(people, scores, areas, sigmas) == [1, 2, 3]
    assert oks_nms(people, scores, areas, sigmas, threshold=1.0) == [1, 0, 2, 3]
    # Of equal scores the last is looked at first, as in the published code.
    assert oks_nms(people, np.ones(4), areas, sigmas) == [3, 2, 1]
    assert oks_nms(people[:0], scores[:0], areas[:0], sigmas) == []


def test_similarity():
    sigmas = np.array([0.1, 0.2])
    one, other = np.zeros((2, 2)), np.array([[[3.0, 4.0], [0.0, 0.0]]])
    found = object_keypoint_similarity(one, other, 90.0, np.array([110.0]), sigmas)
    assert found[0] == pytest.approx((np.exp(-25 / 0.04 / 100 / 2) + 1) / 2)


def test_error_of_faces():
    random = np.random.RandomState(0)
    truth = random.rand(3, 98, 2) * 100
    found = truth + 2
    truth[2, 72] = truth[2, 60]  # no unit: left out
    found[2] += 50
    units = np.linalg.norm(truth[:2, 60] - truth[:2, 72], axis=-1)
    visible = np.ones((3, 98))
    error = normalized_mean_error(found, truth, visible, (60, 72))
    assert error == pytest.approx((2 * np.sqrt(2) / units).mean())
    visible[0, :97] = 0  # pooled over the landmarks, not over faces
    error = normalized_mean_error(found, truth, visible, (60, 72))
    want = (2 * np.sqrt(2) / units * [1, 98]).sum() / 99
    assert error == pytest.approx(want)
    assert np.isnan(normalized_mean_error(found, truth, visible * 0, (60, 72)))


@pytest.fixture
def faces(tmp_path):
    random = np.random.RandomState(0)
    notes = [
        {"id": i, "image_id": 1, "keypoints": np.c_[random.rand(98, 2) * 90, np.ones(98)]
         .ravel().tolist(), "attributes": ["pose"] if i == 2 else [0, 0, 0, 1, 0, 0]}
        for i in range(3)
    ]  # fmt: skip
    path = tmp_path / "truth.json"
    path.write_text(json.dumps({"images": [{"id": 1}], "annotations": notes}))
    found = [{"id": n["id"], "image_id": 1, "keypoints": n["keypoints"]} for n in notes]
    return path, notes, found


def test_subsets(faces):
    path, notes, found = faces
    moved = np.array(notes[2]["keypoints"]).reshape(-1, 3) + np.array([3, 4, 0])
    unit = np.linalg.norm((moved[60] - moved[72])[:2])
    found[2] = {**found[2], "keypoints": moved.ravel().tolist()}
    errors = evaluate_faces(path, found)
    assert set(errors) == {"test", "pose", "make-up"}
    assert errors["make-up"] == 0
    assert errors["pose"] == pytest.approx(5 / unit)
    assert errors["test"] == pytest.approx(5 / unit / 3)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found.pop(), "1 of 3 faces .* have no prediction"),
        (lambda found: found.append(found[0]), "entry 3 .* for face 0, as an earlier one is"),
        (lambda found: found[1].update(id=7), "face 7, which is not on image 1"),
        (lambda found: found[1].update(keypoints=[1.0] * 51), "needs 294 numbers"),
    ],
)
def test_wrong_faces(faces, change, words):
    path, _, found = faces
    change(found)
    with pytest.raises(UserError, match=words):
        evaluate_faces(path, found)


@pytest.mark.parametrize("given", [["nose"], [[1], 0, 0, 0, 0, 0], [[]], "blur", 3, [2] * 6])
def test_wrong_attributes(faces, given):
    path, notes, found = faces
    notes[0]["attributes"] = given
    path.write_text(json.dumps({"images": [{"id": 1}], "annotations": notes}))
    with pytest.raises(UserError, match="lists names out of"):
        evaluate_faces(path, found)
