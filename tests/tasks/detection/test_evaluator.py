"""COCO's average precision: what is right scores a hundred, whatever ids a file has."""

import pytest
import torch
from detection import edit, write_coco

from tcformer.data.detection import CocoFolder
from tcformer.tasks.detection.evaluator import average_precision, results

pytest.importorskip("pycocotools", reason="pycocotools is not installed")

# pycocotools hands NumPy arrays in a way that NumPy 2 announces the end of.
pytestmark = pytest.mark.filterwarnings("ignore:.*copy keyword:DeprecationWarning")


def from_0(content):
    for number, note in enumerate(content["annotations"]):
        note["id"] = number


def no_ids(content):
    for note in content["annotations"]:
        del note["id"]


def far_categories(content):
    for entry in content["categories"]:
        entry["id"] = (entry["id"] - 2) * 10**12
    for note in content["annotations"]:
        note["category_id"] = (note["category_id"] - 2) * 10**12


def categories_from_0(content):
    content["categories"].reverse()
    for entry in content["categories"]:
        entry["id"] -= 1
    for note in content["annotations"]:
        note["category_id"] -= 1


def words_for_crowds(content):
    for note, no in zip(content["annotations"], ("0", False, 0) * 99):  # noqa: B905
        note["iscrowd"] = no


def as_published(content):
    """Nothing is changed."""


CHANGES = [as_published, from_0, no_ids, categories_from_0, far_categories, words_for_crowds]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("keypoints", "kind"), [(False, "segm"), (True, "keypoints")])
def test_the_truth_scores_a_hundred(tmp_path, keypoints, kind, change):
    coco = write_coco(tmp_path / "coco")
    name = "person_keypoints" if keypoints else "instances"
    content = edit(coco, change, name)
    source = CocoFolder(coco, "val", keypoints=keypoints)
    rows = []
    for index in range(len(source)):
        target = source.target(index)
        assert target["labels"].min() >= 1  # 0 is the background
        assert target["labels"].max() < source.num_classes == 4
        found = {**target, "scores": torch.ones(len(target["boxes"]))}
        if not keypoints:
            found["masks"] = target["masks"][:, None].float()
        rows += results(found, source.ids[index], list(source.categories))
    assert {row["category_id"] for row in rows} == {entry["id"] for entry in content["categories"]}
    for name in ("bbox", kind):
        assert average_precision(source, rows, name) == pytest.approx({"AP": 100, "AP50": 100})
        assert average_precision(source, rows[: len(rows) // 2], name)["AP"] < 80
        assert average_precision(source, [], name) == {"AP": 0.0, "AP50": 0.0}
        seen = source.ids[:2]
        some = [row for row in rows if row["image_id"] in seen]
        assert average_precision(source, some, name, seen)["AP"] == pytest.approx(100)
