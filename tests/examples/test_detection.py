"""The detection example: its recipes, its reader, its metric, and a run that goes on."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from recorded import whole_record
from torchvision.transforms.functional import to_tensor

from tcformer.errors import UserError

pytest.importorskip("pycocotools", reason="pycocotools is not installed")

# pycocotools hands NumPy arrays in a way that NumPy 2 announces the end of.
pytestmark = pytest.mark.filterwarnings("ignore:.*copy keyword:DeprecationWarning")

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "configs" / "detection").glob("*.py"))


@pytest.fixture
def coco(tmp_path):
    from shapes import write_coco

    write_coco(tmp_path / "coco", {"train": 8, "val": 6}, 64)
    return tmp_path / "coco"


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_builds_its_detector(path, coco):
    from detection import build
    from detection_config import parse
    from detection_data import CocoFolder

    cfg = parse([str(path)])
    data = CocoFolder(coco, "val", keypoints=cfg.detector == "keypoint_rcnn")
    with torch.device("meta"):
        model = build(cfg, data)
    assert type(model).__name__.lower() == cfg.detector.replace("_", "")
    features = model.backbone
    assert features.neck.out_channels == cfg.out_channels
    assert features.neck.reduction == cfg.reduction
    assert features.strides[0] == 4 * 2**cfg.start_level
    assert len(features.strides) == cfg.num_outs
    assert hasattr(features.neck, "extra_convs") == (cfg.extra != "pool")


def test_the_coco_recipes_are_the_known_ones():
    from detection_config import parse

    recipe = {
        name: parse([f"configs/detection/{name}_coco.py"]) for name in ("mask_rcnn", "retinanet")
    }
    for cfg in recipe.values():
        assert (cfg.epochs, cfg.lr_drops) == (12, (8, 11))
        assert (cfg.warmup_steps, cfg.warmup_factor) == (500, 0.001)
        assert (cfg.weight_decay, cfg.batch_size, cfg.flip) == (1e-4, 1, 0.5)
        assert (cfg.min_size, cfg.max_size) == (800, 1333)
        assert (cfg.out_channels, cfg.num_heads, cfg.mlp_ratio, cfg.num_outs) == (256, 4, 4.0, 5)
        assert cfg.extra == "on_input"
    assert recipe["mask_rcnn"].lr == pytest.approx(1.43e-4, rel=1e-2)
    assert recipe["retinanet"].lr == 1e-4
    assert recipe["mask_rcnn"].start_level == 0
    assert recipe["retinanet"].start_level == 1


def test_the_learning_rate():
    from detection import rate
    from detection_config import parse

    cfg = parse(["configs/detection/mask_rcnn_coco.py"])
    steps = 1000
    assert rate(cfg, steps, 0) == 0.001
    assert rate(cfg, steps, 250) == pytest.approx(0.5005)
    assert rate(cfg, steps, 500) == rate(cfg, steps, 7999) == 1
    assert rate(cfg, steps, 8000) == pytest.approx(0.1)
    assert rate(cfg, steps, 11_000) == pytest.approx(0.01)


def test_masks_boxes_and_points_belong_together(coco):
    from detection_data import CocoFolder

    for keypoints in (False, True):
        data = CocoFolder(coco, "train", keypoints=keypoints, flip=0.0)
        mirrored = CocoFolder(coco, "train", keypoints=keypoints, flip=1.0)
        assert len(data) == 8
        assert data.num_classes == 4
        for index in range(len(data)):
            image, target = data[index]
            flipped, other = mirrored[index]
            assert torch.equal(image.flip(-1), flipped)
            for number, (left, top, right, bottom) in enumerate(target["boxes"].tolist()):
                again = other["boxes"][number].tolist()
                assert again == pytest.approx([64 - right, top, 64 - left, bottom])
                if not keypoints:
                    rows, columns = target["masks"][number].nonzero().T
                    found = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                    assert [int(x) for x in found] == pytest.approx(
                        [left, top, right, bottom], abs=1.1
                    )
                    assert torch.equal(other["masks"][number], target["masks"][number].flip(-1))
                else:
                    peak, first, last = other["keypoints"][number, :, :2].tolist()
                    assert peak == pytest.approx([64 - (left + right) / 2, top], abs=1e-3)
                    assert first[0] == pytest.approx(64 - right, abs=1e-3)  # left stays left
                    assert last[0] == pytest.approx(64 - left, abs=1e-3)


def test_left_becomes_right_for_persons_too(coco):
    from detection_data import CocoFolder

    names = ["nose", "left_eye", "right_eye", "left_shoulder", "left_hip", "right_hip"]
    path = coco / "annotations" / "person_keypoints_val2017.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": 1, "name": "person", "keypoints": names}]
    for note in content["annotations"]:
        note |= {"category_id": 1, "keypoints": note["keypoints"] * 2}
    path.write_text(json.dumps(content))
    assert CocoFolder(coco, "val", keypoints=True).mirror == [0, 2, 1, 3, 5, 4]


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
def test_the_truth_scores_a_hundred(coco, keypoints, kind, change):
    from detection_data import CocoFolder, average_precision, results

    for path in (coco / "annotations").glob("*_val2017.json"):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    data = CocoFolder(coco, "val", keypoints=keypoints)
    found, targets = [], []
    for index in range(len(data)):
        target = data[index][1]
        assert target["labels"].min() >= 1  # 0 is the background
        assert target["labels"].max() < data.num_classes == 4
        result = {**target, "scores": torch.ones(len(target["boxes"]))}
        if not keypoints:
            result["masks"] = target["masks"][:, None].float()
        found.append(result)
        targets.append(target)
    rows = results(found, targets)
    ids = {entry["id"] for entry in content["categories"]}
    assert {row["category_id"] for row in rows} == ids
    for name in ("bbox", kind):
        assert average_precision(data, rows, name) == pytest.approx({"AP": 100, "AP50": 100})
        assert average_precision(data, rows[: len(rows) // 2], name)["AP"] < 80
        assert average_precision(data, [], name) == {"AP": 0.0, "AP50": 0.0}


UNTURNED = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
            5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
            8: Image.Transpose.ROTATE_270}  # fmt: skip


@pytest.mark.parametrize("turn", UNTURNED)
def test_photographs_are_turned_as_they_are_seen(coco, turn):
    """Boxes and masks are about what people see, not about how the file holds it."""
    from detection_data import CocoFolder

    path = coco / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    for entry in content["images"]:
        entry["width"] = 80
    path.write_text(json.dumps(content))
    exif = Image.Exif()
    exif[0x0112] = turn
    seen = []
    for entry in content["images"]:
        file = coco / "val2017" / entry["file_name"]
        wide = Image.new("RGB", (80, 64), "white")
        wide.paste(Image.open(file), (0, 0))
        seen.append(to_tensor(wide))
        wide.transpose(UNTURNED[turn]).save(file, exif=exif)
    data = CocoFolder(coco, "val", keypoints=False)
    for index in range(len(data)):
        image, target = data[index]
        assert torch.equal(image, seen[index])
        assert target["masks"].shape[1:] == (64, 80)
    if turn >= 5:  # one that is annotated as the file holds it
        content["images"][0] |= {"width": 64, "height": 80}
        path.write_text(json.dumps(content))
        with pytest.raises(UserError, match=r"80 x 64 pixels, turned .* about 64 x 80"):
            CocoFolder(coco, "val", keypoints=False)[0]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["annotations"][0].update(iscrowd="no"), "`iscrowd` is 'no'"),
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
    ],
)
def test_damaged_annotations(coco, change, words):
    from detection_data import CocoFolder

    path = coco / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=words):
        CocoFolder(coco, "val", keypoints=False)[0]


def test_boxes_alone_and_objects_of_others(coco, capsys):
    """What has no masks trains RetinaNet; what is left out is said."""
    from detection import main
    from detection_data import CocoFolder

    for path in (coco / "annotations").glob("instances_*.json"):
        content = json.loads(path.read_text())
        content["annotations"] = [
            {k: v for k, v in note.items() if k != "segmentation"}
            for note in content["annotations"]
            if note["image_id"] != content["images"][0]["id"]
        ]
        path.write_text(json.dumps(content))
    words = [*QUICK, "--data-path", str(coco), "--epochs", "1"]
    assert main(["configs/detection/mask_rcnn_shapes.py", *words]) == 2
    assert "masks" in capsys.readouterr().err
    assert main(["configs/detection/retinanet_shapes.py", *words]) == 0
    assert "NOTICE: the train set left out 1 pictures without" in capsys.readouterr().out
    path = coco / "annotations" / "person_keypoints_val2017.json"
    content = json.loads(path.read_text())
    del content["categories"][1]["keypoints"]
    for note in content["annotations"]:
        del note["num_keypoints"]
    path.write_text(json.dumps(content))
    data = CocoFolder(coco, "val", keypoints=True)
    assert list(data.categories) == [1, 3]
    others = sum(note["category_id"] == 2 for note in content["annotations"])
    assert data.left_out.others["annotations of other categories"] == others > 0
    assert sum(len(data[i][1]["labels"]) for i in range(len(data))) == (
        len(content["annotations"]) - others
    )


@pytest.mark.parametrize(
    "box", [[64, 9, 20, 20], [-30, 9, 20, 20], [63.5, 9, 9, 9], [9, 9, -8, -8]]
)
def test_a_box_outside_of_its_picture_is_left_out_and_counted(coco, box):
    from detection_data import CocoFolder

    path = coco / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    before = len(CocoFolder(coco, "val", keypoints=False)[0][1]["boxes"])
    first = content["images"][0]["id"]
    next(a for a in content["annotations"] if a["image_id"] == first)["bbox"] = box
    path.write_text(json.dumps(content))
    data = CocoFolder(coco, "val", keypoints=False)
    assert len(data[0][1]["boxes"]) == len(data[0][1]["masks"]) == before - 1
    assert sum(data.left_out.others.values()) == 1


QUICK = (
    *("--num-shapes", "4", "--batch-size", "2", "--epochs", "2", "--out-channels", "16"),
    *("--proposals", "8", "--rois", "4", "--lr-drops", "1", "--warmup-steps", "1"),
)


def assert_recorded(folder, measured, last):
    straight, resumed = (
        whole_record(folder / name, "training") for name in ("earlier-1/record.json", "record.json")
    )
    for record in (straight, resumed):
        assert record["seed"] == 0
        for entry in record["epochs"]:
            del entry["seconds"]
    assert [session["resumed"] for session in resumed["sessions"]] == [False, True]
    assert resumed["epochs"][1] == straight["epochs"][1]
    assert {"train_loss", "train_lr", "test_segm AP"} <= resumed["epochs"][1].keys()
    assert straight["data"]["train"]["images"] == 4
    record = whole_record(measured, "evaluation")
    assert record["weights"] == "checkpoint.pth"
    assert record["data"]["val"] == straight["data"]["val"]
    assert [f"{name} {value:.1f} %" for name, value in record["result"].items()] == last.split("  ")
    assert record["sessions"][0]["command"].startswith("python examples/detection.py configs/")


def test_a_run_goes_on_where_it_stopped(tmp_path, capsys):
    from detection import main

    recipe = "configs/detection/mask_rcnn_shapes.py"
    folder = tmp_path / "run"
    assert main([recipe, *QUICK, "--output-dir", str(folder)]) == 0
    straight = torch.load(folder / "checkpoint.pth", weights_only=True)
    assert straight["epoch"] == 1
    assert main([recipe, *QUICK, "--output-dir", str(folder), "--epochs", "1"]) == 0
    checkpoint = str(folder / "checkpoint.pth")
    assert main([recipe, *QUICK, "--output-dir", str(folder), "--resume", checkpoint]) == 0
    resumed = torch.load(checkpoint, weights_only=True)
    for key, value in straight["model"].items():
        assert torch.equal(value, resumed["model"][key]), key
    last = capsys.readouterr().out.strip().splitlines()[-1]
    assert main([recipe, *QUICK, "--resume", checkpoint]) == 2
    assert "has finished its 2 epochs" in capsys.readouterr().err
    straight["categories"] = {1: "disc", 2: "triangle", 3: "square"}
    torch.save(straight, tmp_path / "other.pth")
    assert main([recipe, *QUICK, "--eval", "--resume", str(tmp_path / "other.pth")]) == 2
    assert "knows the categories" in capsys.readouterr().err
    measured = str(tmp_path / "measured.json")
    assert main([recipe, *QUICK, "--eval", "--resume", checkpoint, "--record", measured]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == last
    assert_recorded(folder, Path(measured), last)
    assert math.isfinite(sum(float(word) for word in last.split() if word[0].isdigit()))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["configs/detection/none.py"], "does not exist"),
        (["--data-path", "/nowhere"], "is missing; data_path must be a folder in the layout"),
        (["--eval"], "name its checkpoint.pth with resume"),
        (["--detector", "retinanet", "--head-layers", "2"], "retinanet has neither"),
        (["--head-norm"], "is about the head of retinanet"),
        (["--min-size", "0"], "min_size is 0, but at least 1 is meant"),
        (["--backbone", "tcformer_nan0"], "did you mean tcformer_nano"),
        (["--flip", "2"], "flip is 2.0, but 0 to 1 is meant"),
        (["--num-shapes", "2", "--batch-size", "4"], "fewer than one batch"),
    ],
)
def test_mistakes_are_told_in_a_sentence(words, message, capsys):
    from detection import main

    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_config_is_checked(tmp_path):
    from detection_config import parse

    path = tmp_path / "own.py"
    for line, message in (
        ("dict(detektor='retinanet')", "sets 'detektor', .* the nearest one is 'detector'"),
        ("dict(detector='yolo')", "sets detector to 'yolo', but one of"),
        ("dict(epochs='3')", "sets epochs to '3', which is of another type"),
    ):
        path.write_text(f"cfg = {line}")
        with pytest.raises(UserError, match=message):
            parse([str(path)])


@pytest.mark.slow
def test_two_processes_measure_what_one_does(tmp_path):
    def run(*launcher):
        result = subprocess.run(
            [sys.executable, *launcher, "examples/detection.py", *settings],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert result.returncode == 0, result.stderr
        return [line for line in result.stdout.splitlines() if line.startswith("bbox AP")]

    settings = ["configs/detection/retinanet_shapes.py", *QUICK]
    alone = run()
    shared = run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    assert len(alone) == len(shared) == 3
    assert alone[0] == shared[0]  # before any training: the same weights, the same figures
