"""Annotation files of people and faces, the boxes of detectors, and what is wrong with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from people import WHOLE, make_annotations, make_coco
from PIL import Image

from tcformer.data.keypoints import LAYOUTS, layout
from tcformer.data.keypoints.augment import PoseAugmentation
from tcformer.data.keypoints.codec import HeatmapCodec
from tcformer.data.keypoints.dataset import KeypointDataset, build_keypoint_source, stacked
from tcformer.data.keypoints.people import DETECTIONS, WflwSource, WholeBodySource
from tcformer.data.keypoints.sticks import SticksSource
from tcformer.errors import UserError


@pytest.fixture
def coco(tmp_path):
    return make_coco(tmp_path / "coco")


def notes_of(coco, split="train"):
    path = coco / "annotations" / f"coco_wholebody_{split}_v1.0.json"
    return path, json.loads(path.read_text())


def test_layouts():
    assert [len(layout(name)) for name in LAYOUTS] == [133, 98, 11]
    for name in LAYOUTS:
        kind = layout(name)
        np.testing.assert_array_equal(kind.mirror[kind.mirror], np.arange(len(kind)))
        assert sum(end - first for first, end in kind.parts.values()) == len(kind)
        linked = {k for pairs in kind.links.values() for pair in pairs for k in pair}
        assert linked <= set(range(len(kind)))
    assert (WHOLE.mirror != np.arange(133)).sum() == 2 * 61
    assert (layout("wflw").mirror != np.arange(98)).sum() == 2 * 44
    assert WHOLE.names[17:19] == ("left_big_toe", "left_small_toe")
    assert WHOLE.sigmas[54] == 0.012
    assert WHOLE.sigmas[58] == 0.010  # the published table is not symmetric
    assert WHOLE.upper.sum() == 11
    with pytest.raises(UserError, match="did you mean wflw"):
        layout("wlfw")
    with pytest.raises(ValueError, match="read-only"):
        WHOLE.mirror[0] = 1


def test_who_is_trained_on(coco):
    path, content = notes_of(coco)
    size = content["images"][0]
    changed = content["annotations"]
    changed[0]["bbox"] = [-10, 5, 50, 500]
    changed[1]["area"] = 0
    changed[3]["keypoints"] = [0] * 51
    changed[3]["num_keypoints"] = 5  # not what decides
    path.write_text(json.dumps(content))
    source = WholeBodySource(str(coco), "train")
    numbers = [source.subject(i).number for i in range(len(source))]
    blank = [i for i, n in enumerate(changed) if max(n["keypoints"]) == 0]
    assert numbers == [i for i in range(len(changed)) if i not in {1, 2, *blank}]
    assert source.left_out.others == {
        "crowds": 1, "people without area": 1, "people without body keypoints": len(blank)
    }  # fmt: skip
    np.testing.assert_allclose(source.subject(0).box, [0, 5, 50, size["height"] - 1 - 5])
    assert source.truth is None


def test_detected_boxes(coco):
    _, content = notes_of(coco, "val")
    rows = [
        {"bbox": [1.5, 2, 30, 40], "category_id": 1, "image_id": 1, "score": 0.7},
        {"bbox": [-9, 2, 30, 40], "category_id": 1, "image_id": 2, "score": 0.1},
        {"bbox": [1, 2, 30, 40], "category_id": 3, "image_id": 1, "score": 0.7},
        {"bbox": [1, 2, 0, 40], "category_id": 1, "image_id": 1, "score": 0.7},
    ]
    folder = coco / "person_detection_results"
    folder.mkdir()
    (folder / DETECTIONS).write_text(json.dumps(rows))
    source = WholeBodySource(str(coco), "val")
    assert [source.subject(i).number for i in range(len(source))] == [0, 1]
    assert source.subject(1).box.tolist() == [-9, 2, 30, 40]  # not clipped
    assert sum(source.left_out.others.values()) == 3
    assert source.left_out.others["images with people and without a box"] == 1
    assert not source.subject(0).visible.any()
    assert len(source.truth.annotations) == len(content["annotations"])
    truth = WholeBodySource(str(coco), "val", "truth")
    assert truth.subject(0).score == 1

    for change, words in (
        ({"image_id": 99}, "image 99"),
        ({"bbox": [1, 2, 3]}, "needs 4 numbers"),
        ({"score": float("nan")}, "`score` is nan"),
    ):
        other = coco / "boxes.json"
        other.write_text(json.dumps([{**rows[0], **change}]))
        with pytest.raises(UserError, match=words):
            WholeBodySource(str(coco), "val", str(other))


def test_missing_files(coco):
    with pytest.raises(UserError, match=r"--boxes truth"):
        WholeBodySource(str(coco), "val")
    (coco / "train2017").rename(coco / "elsewhere")
    with pytest.raises(UserError, match="photographs, is missing"):
        WholeBodySource(str(coco), "train")
    with pytest.raises(UserError, match=r"coco_wholebody_train_v1.0.json does not exist"):
        WholeBodySource(str(coco / "elsewhere"), "train")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["annotations"][2].pop("foot_kpts"), "annotation 2 of .* no `foot_kpts`"),
        (lambda c: c["annotations"][2].pop("area"), "no `area`"),
        (lambda c: c["annotations"][2]["bbox"].append(3), "`bbox` needs 4 numbers"),
        (lambda c: c["annotations"][2].update(image_id=9), "on image 9, which `images` does not"),
        (lambda c: c["images"][2].update(id=c["images"][1]["id"]), "an earlier one has"),
        (lambda c: c["annotations"][2].update(iscrowd="no"), "is 'no', not 0 or 1"),
        (lambda c: c["annotations"][2].update(area=-1.0), "below 0"),
        (lambda c: c["annotations"][2].update(image_id=2**63), "64 bits"),
        (lambda c: c["annotations"][2].update(category_id=3), "which `categories` does not list"),
        (lambda c: c["categories"].append({"id": 2, "name": "person"}), "unclear which are people"),
        (lambda c: c["images"][1].pop("file_name"), "`file_name` is None"),
        (lambda c: c["images"][1].update(file_name="../../etc/passwd"), "not a name below"),
        (lambda c: c.update(annotations=[]), "holds no annotations"),
        (lambda c: c.pop("images"), "the lists `images` and `annotations`"),
        (lambda c: [a.pop("face_kpts") for a in c["annotations"]], "COCO-WholeBody"),
        (lambda c: c["annotations"][0].update(keypoints=[1] * 7), "known set of keypoints"),
    ],
)
def test_damaged_annotations(coco, change, words):
    path, content = notes_of(coco)
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=words) as error:
        WholeBodySource(str(coco), "train")
    assert "\n" not in str(error.value)


def face(random):
    points = random.uniform(10, 90, (98, 2)).round(6)
    return points, [*points.ravel(), 10, 10, 90, 90]


@pytest.fixture
def wflw(tmp_path):
    """Both layouts with the same faces."""
    random = np.random.RandomState(0)
    lines, notes = [], []
    for i in range(4):
        points, numbers = face(random)
        flags = [int(b) for b in np.binary_repr(i * 13 + 1, 6)]
        lines.append(
            " ".join([*map(str, numbers), *map(str, flags), f"{i // 2}--Parade/f{i // 2}.jpg"])
        )
        notes.append(
            {"id": i + 1, "image_id": i // 2 + 1, "category_id": 1, "iscrowd": 0,
             "keypoints": np.c_[points, np.ones(98)].ravel().tolist()}
        )  # fmt: skip
    listed, converted = tmp_path / "listed", tmp_path / "converted"
    lists = listed / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    lists.mkdir(parents=True)
    (converted / "annotations").mkdir(parents=True)
    images = [{"id": i + 1, "file_name": f"{i}--Parade/f{i}.jpg", "width": 100, "height": 100}
              for i in range(2)]  # fmt: skip
    for split in ("train", "test"):
        (lists / f"list_98pt_rect_attr_{split}.txt").write_bytes(
            ("\ufeff" + "\r\n".join(lines) + "\r\n").encode()  # as an editor on Windows does
        )
        content = {"images": images, "annotations": notes}
        (converted / "annotations" / f"face_landmarks_wflw_{split}.json").write_text(
            json.dumps(content)
        )
    for folder in (listed / "WFLW_images", converted / "images"):
        for i in range(2):
            (folder / f"{i}--Parade").mkdir(parents=True)
            Image.new("RGB", (100, 100), (i * 50, 9, 9)).save(folder / f"{i}--Parade" / f"f{i}.jpg")
    return listed, converted


def test_faces(wflw):
    sources = [WflwSource(str(folder), "val") for folder in wflw]
    for i in range(4):
        one, two = (source.subject(i) for source in sources)
        np.testing.assert_array_equal(one.points, two.points)
        np.testing.assert_array_equal(one.box, two.box)
        low, high = np.floor(one.points.min(0)), np.ceil(one.points.max(0))
        np.testing.assert_allclose(one.box[:2] + one.box[2:] / 2, (low + high) / 2)
        assert one.box[2] == one.box[3] == (high - low).max()
        assert [source.read(i).size for source in sources] == [(100, 100)] * 2
    assert sources[0].truth.annotations[3]["attributes"] == [1, 0, 1, 0, 0, 0]


def test_subsets_of_the_conversion(wflw):
    folder = wflw[1] / "annotations"
    content = json.loads((folder / "face_landmarks_wflw_test.json").read_text())
    chosen = [{**content["annotations"][i], "id": 70 + i} for i in (1, 3)]
    for word in ("blur", "makeup"):
        part = {"images": content["images"], "annotations": chosen[: 2 if word == "blur" else 1]}
        (folder / f"face_landmarks_wflw_test_{word}.json").write_text(json.dumps(part))
    source = WflwSource(str(wflw[1]), "val")
    found = [note.get("attributes", []) for note in source.truth.annotations]
    assert found == [[], ["make-up", "blur"], [], ["blur"]]
    chosen[0]["keypoints"][0] += 1
    part = {"images": content["images"], "annotations": chosen}
    (folder / "face_landmarks_wflw_test_blur.json").write_text(json.dumps(part))
    with pytest.raises(UserError, match="two files of the same conversion"):
        WflwSource(str(wflw[1]), "val")


def test_faces_with_landmarks_that_are_not_labeled(wflw):
    """Those lie at (0, 0), which must not widen the face; nobody looks for a crowd or a blank."""
    path = wflw[1] / "annotations" / "face_landmarks_wflw_test.json"
    content = json.loads(path.read_text())
    whole = WflwSource(str(wflw[1]), "val").subject(0).box
    notes = content["annotations"]
    order = np.argsort(np.array(notes[0]["keypoints"]).reshape(-1, 3)[:, 0])
    hidden = int(order[50])  # not one at the face's edge
    notes[0]["keypoints"][3 * hidden : 3 * hidden + 3] = [0, 0, 0]
    notes[1]["iscrowd"] = 1
    notes[2]["keypoints"] = [0] * 294
    path.write_text(json.dumps(content))
    source = WflwSource(str(wflw[1]), "val")
    assert len(source) == len(notes) - 2
    np.testing.assert_array_equal(source.subject(0).box, whole)
    assert [note["id"] for note in source.truth.annotations] == [
        note["id"] for i, note in enumerate(notes) if i not in (1, 2)
    ]
    for note in notes:
        note["keypoints"] = [0] * 294
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="no face with labeled landmarks"):
        WflwSource(str(wflw[1]), "val")


def test_photographs_are_turned_as_they_are_seen(coco):
    """As OpenCV reads them for the published code: boxes are drawn on what people see."""
    source = WholeBodySource(str(coco), "train")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.new("RGB", (50, 30), "red").save(source.describe(0), exif=exif)
    assert source.read(0).size == (30, 50)


@pytest.mark.parametrize(
    ("line", "words"),
    [("1 2 3", "207 fields, but it has 3"), (" ".join(["x"] * 207), "text where numbers"),
     (" ".join(["nan"] * 206 + ["f.jpg"]), "not finite"), ("", "lists no faces")],
)  # fmt: skip
def test_damaged_list(wflw, line, words):
    lists = wflw[0] / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    (lists / "list_98pt_rect_attr_train.txt").write_text(line)
    with pytest.raises(UserError, match=words):
        WflwSource(str(wflw[0]), "train")


def test_figures_to_validate_on_are_always_the_same():
    one, two = SticksSource("val"), SticksSource("val")
    subject = one.subject(5)
    np.testing.assert_array_equal(subject.points, two.subject(5).points)
    np.testing.assert_array_equal(np.asarray(one.read(5)), np.asarray(two.read(5)))
    x, y, w, h = subject.box
    assert ((subject.points >= [x, y]) & (subject.points <= [x + w, y + h])).all()
    left = [i for i, name in enumerate(one.layout.names) if name.startswith("left")]
    assert (subject.points[left, 0] > subject.points[one.layout.mirror[left], 0]).mean() > 0.5


def test_items_and_batches():
    codec = HeatmapCodec((64, 96), (16, 24), sigma=1.0)
    np.random.seed(0)
    train = KeypointDataset(SticksSource("train"), codec, PoseAugmentation())
    batch = stacked([train[0], train[1]], 0)
    assert batch.images.shape == (2, 3, 96, 64)
    assert batch.targets.shape == (2, 11, 24, 16)
    assert batch.weights.shape == (2, 11)
    assert batch.targets[batch.weights == 0].sum() == 0
    val = KeypointDataset(SticksSource("val"), codec, None)
    assert torch.equal(val[3].image, val[3].image)
    # The person lies in the middle of the crop.
    crop = val.crop(val.source.subject(3))
    inside = crop.to_input(val.source.subject(3).points, 64, 96)
    assert (inside > 0).all()
    assert (inside < [64, 96]).all()


def test_sources_by_name(coco):
    with pytest.raises(UserError, match="did you mean sticks"):
        build_keypoint_source("stick", "", "val", "")
    with pytest.raises(UserError, match="no effect on sticks"):
        build_keypoint_source("sticks", "", "val", "truth")
    assert len(build_keypoint_source("COCO-WholeBody", str(coco), "val", "truth")) > 0
    assert make_annotations()["images"]
