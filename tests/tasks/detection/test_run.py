"""Whole runs of the detection task: recipes, training, stopping, resuming, two processes."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from detection import SMALL, edit, write_coco
from PIL import Image
from recorded import whole_record
from safetensors import safe_open

from tcformer import cli
from tcformer.data.detection import ShapesSource
from tcformer.errors import UserError
from tcformer.predict import load
from tcformer.runtime.distributed import World
from tcformer.tasks.detection.task import DetectionTask, build_model
from tcformer.tasks.runner import run
from tcformer.training.options import build, load_config, parse
from tcformer.weights.load import load_checkpoint
from tcformer.weights.metadata import save_weights
from tcformer.weights.safe_torch import safe_torch_load
from tcformer.zoo import create_model

pytest.importorskip("pycocotools", reason="pycocotools is not installed")

pytestmark = [
    pytest.mark.xdist_group("detection runs"),
    # pycocotools hands NumPy arrays in a way that NumPy 2 announces the end of.
    pytest.mark.filterwarnings("ignore:.*copy keyword:DeprecationWarning"),
]

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "configs" / "detection").glob("*.py"))


def small(**changes):
    return build({**SMALL, **changes})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run: (configuration, result, folder)."""
    folder = tmp_path_factory.mktemp("detected")
    cfg = small(output_dir=str(folder))
    return cfg, run(cfg), folder


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_builds_its_detector(path):
    cfg = build(load_config(path))
    with torch.device("meta"):
        model = build_model(
            cfg, ShapesSource(5, "val", keypoints=cfg.detection.detector == "keypoint_rcnn")
        )
    assert type(model).__name__.lower() == cfg.detection.detector.replace("_", "")
    features = model.backbone
    assert features.neck.out_channels == cfg.neck.neck_channels
    assert features.neck.reduction == cfg.neck.neck_reduction
    assert features.strides[0] == 4 * 2**cfg.detection.start_level
    assert len(features.strides) == cfg.detection.num_outs
    assert hasattr(features.neck, "extra_convs") == (cfg.detection.extra != "pool")


def test_the_coco_recipes_are_the_known_ones():
    recipe = {
        name: build(load_config(ROOT / f"configs/detection/{name}_coco.py")).flat()
        for name in ("mask_rcnn", "retinanet")
    }
    same = {
        "epochs": 12, "sched": "multistep", "decay_milestones": (8, 11), "decay_rate": 0.1,
        "warmup_steps": 500, "warmup_epochs": 0, "weight_decay": 1e-4, "decay_all": True,
        "batch_size": 1, "hflip": 0.5, "min_size": 800, "max_size": 1333, "clip_grad": None,
        "ema": None, "neck_channels": 256, "neck_heads": 4, "neck_mlp_ratio": 4.0,
        "extra": "on_input", "num_outs": 5, "amp": "off",
    }  # fmt: skip
    for options in recipe.values():
        assert {name: options[name] for name in same} == same
    # The rate is for 512 images; theirs was for 8.
    assert recipe["mask_rcnn"]["lr"] * 8 / 512 == pytest.approx(1.43e-4, rel=1e-2)
    assert recipe["retinanet"]["lr"] * 8 / 512 == pytest.approx(1e-4)
    assert recipe["mask_rcnn"]["start_level"] == 0
    assert recipe["retinanet"]["start_level"] == 1


def test_the_rate_and_the_optimizer(monkeypatch):
    """Warm-up from a thousandth, a tenth from each milestone on, decay of all parameters."""
    seen = []
    real = torch.optim.AdamW.step

    def step(self, *args, **kwargs):
        seen.append([(group["lr"], group["weight_decay"]) for group in self.param_groups])
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    run(small(warmup_steps=3, sched="multistep", decay_milestones=(1,), decay_all=True,
              weight_decay=1e-4, detector="retinanet", head_layers=0, eval_every=2))  # fmt: skip
    full = 0.064 * 2 / 512
    rates = [full * 1e-3, full * (1 - 0.999 * 2 / 3), full * 0.1 * (1 - 0.999 / 3), full * 0.1]
    assert [groups[0][0] for groups in seen] == pytest.approx(rates)
    assert all([decay for _, decay in groups] == [1e-4] for groups in seen)


def test_result_and_files(trained, capsys, tmp_path):
    _, result, folder = trained
    assert re.fullmatch(r"(bbox|segm) AP .* %", result.eval_lines[0])
    with safe_open(folder / "best.safetensors", "pt") as file:
        about = file.metadata()
    assert (about["task"], about["detector"]) == ("detection", "mask_rcnn")
    assert about["classes"].split("\n") == ["disc", "square", "triangle"]
    record = whole_record(folder / "record.json", "training")
    assert record["model"] == "mask_rcnn over tcformer_nano"
    assert record["metric"] == "segm AP"
    assert {"train_loss", "train_lr", "test_bbox AP50"} <= record["epochs"][1].keys()
    assert record["data"]["train"]["images"] == 4
    words = [str(folder / "config.json"), "--record", str(tmp_path / "r.json")]
    best = json.loads((folder / "log.txt").read_text().splitlines()[int(record["best"]["epoch"])])
    for name in ("best.safetensors", "best.pth"):
        capsys.readouterr()
        assert cli.main(["evaluate", *words, "--resume", str(folder / name)]) == 0
        assert result.eval_lines[0] in capsys.readouterr().out
        measured = whole_record(tmp_path / "r.json", "evaluation")
        assert measured["weights"] == name
        assert measured["data"]["val"] == record["data"]["val"]
        assert all(best[f"test_{key}"] == value for key, value in measured["result"].items())
        (tmp_path / "r.json").unlink()
    assert math.isfinite(result.best)


def test_resume_is_exact(resumes_exactly):
    """Flips, sampled regions, drop path, warm-up, averaging; stopped in the middle of an epoch."""
    on = {"drop_path": 0.3, "ema": True, "ema_decay": 0.9, "eval_every": 2, "warmup_steps": 3}
    losses, step = resumes_exactly(small(**on))
    assert (len(losses), step) == (4, 1)


def test_boxes_alone_and_what_is_left_out(tmp_path, capsys):
    """What has no masks trains RetinaNet; what is left out is said."""
    coco = write_coco(tmp_path / "coco", 5, 2)

    def without_masks(content):
        first = content["images"][0]["id"]
        content["annotations"] = [
            {k: v for k, v in note.items() if k != "segmentation"}
            for note in content["annotations"]
            if note["image_id"] != first
        ]

    for split in ("train", "val"):
        edit(coco, without_masks, split=split)
    on = {"data_set": "COCO", "data_path": str(coco), "epochs": 1}
    with pytest.raises(UserError, match="masks"):
        run(small(**on))
    run(small(**on, detector="retinanet", head_layers=0))
    assert "NOTICE: the train set left out 1 pictures without" in capsys.readouterr().out


def test_an_unreadable_image_is_not_measured(tmp_path):
    coco = write_coco(tmp_path / "coco", 2, 3)
    cfg = small(data_set="COCO", data_path=str(coco), eval=True)
    next((coco / "val2017").glob("*.png")).write_bytes(b"no image")
    with pytest.raises(UserError, match="Cannot read the image"):
        run(cfg)
    lines = run(cfg.replace(skip_corrupt=True)).eval_lines
    assert "on the 2 test images" in lines[1]
    assert lines[2] == "1 unreadable images were left out."


def test_other_categories_and_settings(trained, tmp_path, capsys):
    _, _, folder = trained
    weights = str(folder / "best.safetensors")
    coco = write_coco(tmp_path / "coco", 2, 2)

    def rename(content):
        content["categories"][0]["name"] = "ring"

    for split in ("train", "val"):
        edit(coco, rename, split=split)
    other = {"data_set": "COCO", "data_path": str(coco)}
    for how in ({"eval": True}, {}):
        with pytest.raises(UserError, match=r"knows the categories .*disc.*ring.*same categories"):
            run(small(**other, **how, resume=str(folder / "checkpoint.pth")))
    with pytest.raises(UserError, match=r"trained with --anchor-scale 4\.0, but it is 3\.0 now"):
        run(small(eval=True, resume=weights, anchor_scale=3.0))
    with pytest.raises(UserError, match=r"holds no detector"):
        run(small(eval=True, resume=weights, detector="retinanet", head_layers=0))
    run(small(eval=True, resume=weights, min_size=48))
    assert "trained with --min-size 64, and now it is 48" in capsys.readouterr().out


def test_finetune(trained, tmp_path):
    """From a classifier the backbone; from a detector all but the outputs of other categories."""
    _, _, folder = trained
    classifier = create_model("tcformer_nano", num_classes=7)
    save_weights(classifier, tmp_path / "classifier.safetensors")
    task = DetectionTask(small(), World())
    assert "the backbone alone" in task.finetune(str(tmp_path / "classifier.safetensors"))
    own = task.model.backbone.body.state_dict()
    assert all(torch.equal(own[k], v) for k, v in classifier.state_dict().items() if k in own)
    saved = safe_torch_load(folder / "best.pth")["model"]
    task.finetune(str(folder / "best.pth"))
    assert all(torch.equal(v, saved[k]) for k, v in task.model.state_dict().items())
    coco = write_coco(tmp_path / "coco", 2, 2)
    for split in ("train", "val"):
        edit(coco, lambda c: c["categories"].append({"id": 9, "name": "star"}), split=split)
    more = DetectionTask(small(data_set="COCO", data_path=str(coco)), World())
    scores = more.model.roi_heads.box_predictor.cls_score.weight.clone()
    assert "outputs begin anew" in more.finetune(str(folder / "best.pth"))
    state = more.model.state_dict()
    assert torch.equal(state["roi_heads.box_predictor.cls_score.weight"], scores)
    for key in ("backbone.neck.lateral_convs.0.conv.weight", "rpn.head.cls_logits.weight"):
        assert torch.equal(state[key], saved[key])


def test_its_backbone_can_be_used(trained):
    """What takes a backbone takes that of a detector; what names classes says what the file is."""
    _, _, folder = trained
    path = folder / "best.safetensors"
    with safe_open(path, "pt") as file:
        weight = file.get_tensor("backbone.body.norm4.weight")
    network = create_model("tcformer_nano", num_classes=0)
    assert "left out neck, roi_heads, rpn" in str(load_checkpoint(network, path))
    assert torch.equal(network.state_dict()["norm4.weight"], weight)
    loaded = load(path)
    assert loaded.task == "detection"
    with pytest.raises(UserError, match="is a detector"):
        loaded.predict(Image.new("RGB", (32, 32)))


def test_freeze(trained):
    """The backbone stays as it is, and the detector learns."""
    _, _, folder = trained
    task = DetectionTask(small(freeze=True, finetune=str(folder / "best.pth")), World())
    before = {key: value.clone() for key, value in task.model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in task.model.parameters() if p.requires_grad], 0.1)
    for _, batch in zip(range(1), task.batches(0, 0), strict=False):
        task.loss(task.model, batch).backward()
    optimizer.step()
    moved = {k for k, v in task.model.state_dict().items() if not torch.equal(v, before[k])}
    assert {"rpn.head.cls_logits.bias", "backbone.neck.lateral_convs.0.conv.weight"} <= moved
    assert not [key for key in moved if key.startswith("backbone.body.")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data-set COCO --data-path /nowhere", "--data-path must be a folder in the layout"),
        ("--detector retinanet --head-layers 2", "retinanet has neither"),
        ("--head-norm", "applies to retinanet"),
        ("--compile", "--compile is not for detection"),
        ("--max-size 9", "--max-size is 9, but at least 64 is meant"),
        ("--model tcformer_nan0", "did you mean tcformer_nano"),
        ("--num-shapes 2 --batch-size 4", "fewer than one batch"),
        ("--task pose --data-set sticks", "is about detection"),
    ],
)
def test_mistakes_are_told_in_a_sentence(tmp_path, words, message):
    (tmp_path / "c.json").write_text(json.dumps(SMALL))
    words = [str(tmp_path / "c.json"), "--head-layers", "0", *words.split()]
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        run(parse(words, prog="tcformer train", description=""))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("detector", ["mask_rcnn", "retinanet", "keypoint_rcnn"])
def test_dry_run(tmp_path, capsys, detector):
    cfg = small(detector=detector, head_layers=0, dry_run=True, output_dir=str(tmp_path / "out"))
    run(cfg)
    assert f"detector: {detector}" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_two_processes(trained, two_processes, tmp_path):
    """They train together, and measure what one does."""
    cfg, _, folder = trained
    out = tmp_path / "two"
    words = [str(folder / "config.json"), "--epochs", "1", "--output_dir", str(out)]
    two_processes("train", *words)
    last = whole_record(out / "record.json", "training", 2)["epochs"][0]
    again = run(cfg.replace(eval=True, resume=str(out / "checkpoint.pth"), output_dir=""))
    assert again.best == last["test_segm AP"]


@pytest.mark.slow(seconds=60)
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("mask_rcnn", {"bbox AP50": 35, "segm AP50": 35}),
        ("retinanet", {"bbox AP50": 40}),
        ("keypoint_rcnn", {"bbox AP50": 40, "keypoints AP50": 20}),
    ],
)
def test_it_learns(two_processes, tmp_path, name, least):
    """Untrained it is at 1 % of AP50 or below. Two processes measure what one does."""
    config = str(ROOT / f"configs/detection/{name}_shapes.py")
    cfg = build({**load_config(config), "output_dir": str(tmp_path), "threads": 1})
    run(cfg)
    last = whole_record(tmp_path / "record.json", "training")["epochs"][-1]
    for key, bound in least.items():
        assert last[f"test_{key}"] >= bound
    weights, folder = str(tmp_path / "checkpoint.pth"), tmp_path / "again"
    two_processes("evaluate", config, "--resume", weights, "--output_dir", str(folder))
    again = whole_record(folder / "evaluation.json", "evaluation", 2)["result"]
    assert again == {key: last[f"test_{key}"] for key in again}
