"""Where `tcformer pose` is told people are: files of boxes, and what is wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from people import make_annotations

from tcformer.errors import UserError
from tcformer.predict.boxes import read_boxes


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ([{"bbox": [1, 2, 3, 4]}], "which picture"),
        ([{"bbox": [1, 2, 0, 4], "file_name": "a"}], "no area"),
        ([{"bbox": [1, 2, 3], "file_name": "a"}], "needs 4 numbers"),
        ([{"bbox": [1, 2, 3, 4], "file_name": "a", "iscrowd": "no"}], "iscrowd"),
        ([{"bbox": [1, 2, 3, 4], "file_name": "a", "category_id": "1"}], "category_id"),
        ([3], "not an object"),
        ({}, "holds no boxes"),
        ([], "holds no boxes"),
    ],
)
def test_wrong_boxes(tmp_path, content, part):
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=part):
        read_boxes(str(path))


def test_boxes_of_a_detector_by_number(tmp_path):
    """Results in COCO's format, whose pictures are called by their numbers."""
    rows = [{"image_id": 785, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5},
            {"image_id": 785, "category_id": 18, "bbox": [1, 2, 0, 4], "score": 0.5},
            {"image_id": 99, "category_id": 18, "bbox": [1, 2, 3, 4], "score": 0.5}]  # fmt: skip
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(rows))
    known = read_boxes(str(path))
    assert known.of(Path("x/000000000785.jpg")).boxes.tolist() == [[1, 2, 3, 4]]
    assert known.of(Path("99.png")).boxes.shape == (0, 4)  # a dog alone
    assert known.of(Path("100.png")) is None
    assert not known.knows(Path("dog.png"))


def test_boxes_of_crowds_and_animals_are_nobodys(tmp_path):
    content = make_annotations(people=2)
    content["annotations"][0]["iscrowd"] = "1"
    content["annotations"][1]["iscrowd"] = "0"
    content["annotations"][2]["category_id"] = 2
    content["categories"].append({"id": 2, "name": "dog"})
    content["images"].append({"id": 4, "file_name": "nobody.jpg"})
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(content))
    boxes = read_boxes(str(path))
    assert list(boxes) == [*(f"{i:012d}.jpg" for i in (1, 2, 3)), "nobody.jpg"]
    assert [len(boxes[name].boxes) for name in boxes] == [1, 1, 2, 0]
    assert boxes["000000000001.jpg"].scores == (1.0,)
    assert boxes.left_out.others == {"crowds": 1, "boxes of other categories": 1}
    assert boxes.of(Path("nobody.jpg")).scores == ()
    for person in ({"name": "Person"}, {"name": "human", "keypoints": ["nose"]}):
        content["categories"][0] = {"id": 1, **person}
        path.write_text(json.dumps(content))
        assert read_boxes(str(path)).left_out.others == boxes.left_out.others
    content["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="call one category person"):
        read_boxes(str(path))
    del content["categories"], content["annotations"][2]
    for note in content["annotations"]:
        note["category_id"] = 7
    path.write_text(json.dumps(content))
    assert read_boxes(str(path)).left_out.others == {"crowds": 1}


def test_pictures_of_the_same_name(tmp_path):
    rows = [{"file_name": f"{folder}/a.jpg", "bbox": [1, 2, size, 4]}
            for folder, size in (("x", 1), ("y", 2))]  # fmt: skip
    path = tmp_path / "boxes.json"
    path.write_text(json.dumps(rows))
    known = read_boxes(str(path))
    assert known.of(tmp_path / "y" / "a.jpg").boxes.tolist() == [[1, 2, 2, 4]]
    with pytest.raises(UserError, match="several pictures called"):
        known.of(Path("z/a.jpg"))
