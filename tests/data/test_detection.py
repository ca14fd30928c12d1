"""The reader of COCO's boxes, masks and keypoints, and what torchvision gets of it."""

import pickle

import pytest
import torch
from detection import edit, write_coco
from PIL import Image
from torchvision.transforms.functional import to_tensor

from tcformer.data.detection import (
    CocoFolder,
    DetectionDataset,
    ShapesSource,
    build_detection_source,
)
from tcformer.errors import UserError

pytest.importorskip("pycocotools", reason="pycocotools is not installed")

# pycocotools hands NumPy arrays in a way that NumPy 2 announces the end of.
pytestmark = pytest.mark.filterwarnings("ignore:.*copy keyword:DeprecationWarning")


@pytest.fixture
def coco(tmp_path):
    return write_coco(tmp_path / "coco")


@pytest.mark.parametrize("keypoints", [False, True])
def test_masks_boxes_and_points_belong_together(coco, keypoints):
    source = CocoFolder(coco, "train", keypoints=keypoints)
    data, mirrored = DetectionDataset(source), DetectionDataset(source, flip=1.0)
    assert (len(data), source.num_classes) == (8, 4)
    for index in range(len(data)):
        image, target = data[index][:2]
        flipped, other = mirrored[index][:2]
        assert torch.equal(image.flip(-1), flipped)
        for number, (left, top, right, bottom) in enumerate(target["boxes"].tolist()):
            again = other["boxes"][number].tolist()
            assert again == pytest.approx([64 - right, top, 64 - left, bottom])
            if not keypoints:
                rows, columns = target["masks"][number].nonzero().T
                found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                assert [int(x) for x in found] == pytest.approx([left, top, right, bottom], abs=1.1)
                assert torch.equal(other["masks"][number], target["masks"][number].flip(-1))
            else:
                peak, first, last = other["keypoints"][number, :, :2].tolist()
                assert peak == pytest.approx([64 - (left + right) / 2, top], abs=1e-3)
                assert first[0] == pytest.approx(64 - right, abs=1e-3)  # left stays left
                assert last[0] == pytest.approx(64 - left, abs=1e-3)


def test_left_becomes_right_for_persons_too(coco):
    names = ["nose", "left_eye", "right_eye", "left_shoulder", "left_hip", "right_hip"]

    def people(content):
        content["categories"] = [{"id": 1, "name": "person", "keypoints": names}]
        for note in content["annotations"]:
            note |= {"category_id": 1, "keypoints": note["keypoints"] * 2}

    edit(coco, people, "person_keypoints")
    assert CocoFolder(coco, "val", keypoints=True).mirror == [0, 2, 1, 3, 5, 4]


def test_drawn_shapes_are_those_of_a_folder(coco):
    """The same images and objects, without a file; others in each split."""
    for split in ("train", "val"):
        drawn = DetectionDataset(ShapesSource(8, split, keypoints=False))
        files = DetectionDataset(CocoFolder(coco, split, keypoints=False))
        for index in range(len(drawn)):
            image, target = drawn[index][:2]
            same, too = files[index][:2]
            assert torch.equal(image, same)
            assert all(torch.equal(target[name], too[name]) for name in too)
    assert len(drawn) == 1  # a fifth as many
    assert pickle.loads(pickle.dumps(drawn))[0][1]["labels"].tolist() == target["labels"].tolist()


UNTURNED = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}


@pytest.mark.parametrize("turn", UNTURNED)
def test_photographs_are_turned_as_they_are_seen(coco, turn):
    """Boxes and masks are about what people see, not about how the file holds it."""
    content = edit(coco, lambda c: [entry.update(width=80) for entry in c["images"]])
    exif = Image.Exif()
    exif[0x0112] = turn
    seen = []
    for entry in content["images"]:
        file = coco / "val2017" / entry["file_name"]
        wide = Image.new("RGB", (80, 64), "white")
        wide.paste(Image.open(file), (0, 0))
        seen.append(to_tensor(wide))
        wide.transpose(UNTURNED[turn]).save(file, exif=exif)
    data = DetectionDataset(CocoFolder(coco, "val", keypoints=False))
    for index in range(len(data)):
        image, target = data[index][:2]
        assert torch.equal(image, seen[index])
        assert target["masks"].shape[1:] == (64, 80)
    if turn >= 5:  # one that is annotated as the file holds it
        edit(coco, lambda c: c["images"][0].update(width=64, height=80))
        with pytest.raises(UserError, match=r"80 x 64 pixels after .* says 64 x 80"):
            DetectionDataset(CocoFolder(coco, "val", keypoints=False))[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["annotations"][0].update(iscrowd="no"), "is 'no', not 0 or 1"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, None, 4]), "number 2 of `bbox` is None"),
        (lambda c: c["annotations"][0].pop("area"), "has no `area`"),
        (lambda c: c["annotations"][0].update(category_id="1"), "`category_id` is '1'"),
        (lambda c: c["annotations"][0].update(category_id=9), "`categories` does not list"),
        (lambda c: c["annotations"][0].update(segmentation=[[1, 2]]), "annotation 0 .* no mask"),
        (
            lambda c: c["annotations"][0].update(
                segmentation={"size": [9, 64], "counts": [9 * 64]}
            ),
            "of 64 x 9 pixels",
        ),
        (lambda c: c["images"][0].pop("width"), "has no `width`"),
        (lambda c: c["images"][0].update(file_name="none.png"), "Cannot read the image"),
        (lambda c: c["images"][0].update(file_name="../x.png"), "not a name below its folder"),
    ],
)
def test_damaged_annotations(coco, change, words):
    edit(coco, change)
    with pytest.raises(UserError, match=words):
        DetectionDataset(CocoFolder(coco, "val", keypoints=False))[0]


def test_objects_of_other_categories(coco):
    def without(content):
        del content["categories"][1]["keypoints"]
        for note in content["annotations"]:
            del note["num_keypoints"]

    content = edit(coco, without, "person_keypoints")
    data = CocoFolder(coco, "val", keypoints=True)
    assert list(data.categories) == [1, 3]
    others = sum(note["category_id"] == 2 for note in content["annotations"])
    assert data.left_out.others["annotations of other categories"] == others > 0
    labels = sum(len(data.target(i)["labels"]) for i in range(len(data)))
    assert labels == len(content["annotations"]) - others


@pytest.mark.parametrize(
    "box", [[64, 9, 20, 20], [-30, 9, 20, 20], [63.5, 9, 9, 9], [9, 9, -8, -8]]
)
def test_a_box_outside_of_its_picture_is_left_out_and_counted(coco, box):
    before = len(CocoFolder(coco, "val", keypoints=False).target(0)["boxes"])

    def move(content):
        first = content["images"][0]["id"]
        next(a for a in content["annotations"] if a["image_id"] == first)["bbox"] = box

    edit(coco, move)
    data = CocoFolder(coco, "val", keypoints=False)
    assert len(data.target(0)["boxes"]) == len(data.target(0)["masks"]) == before - 1
    assert sum(data.left_out.others.values()) == 1


@pytest.mark.parametrize(
    ("data_set", "words"),
    [("COCO", "is missing; --data-path must be"), ("COC0", "did you mean COCO"), ("x", "use one")],
)
def test_what_there_is_not(data_set, words):
    with pytest.raises(UserError, match=words):
        build_detection_source(data_set, "/no", "val", keypoints=False, num_shapes=4, seed=0)


def test_unreadable_images_are_left_out_or_named(coco):
    source = CocoFolder(coco, "val", keypoints=False)
    next((coco / "val2017").glob("*.png")).write_bytes(b"no image")
    bad = next(i for i in range(6) if DetectionDataset(source, skip_corrupt=True)[i].image is None)
    with pytest.raises(UserError, match=r"Cannot read the image .*\.png: .* --skip-corrupt"):
        DetectionDataset(source)[bad]
