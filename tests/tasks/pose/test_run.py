"""Whole runs of the pose task: train, stop, resume, evaluate on two processes, fine-tune."""

from __future__ import annotations

import contextlib
import json
import re

import numpy as np
import pytest
import torch
from people import SMALL
from recorded import whole_record
from safetensors import safe_open

from tcformer import cli
from tcformer.errors import UserError
from tcformer.predict.pose import load_pose
from tcformer.runtime.distributed import World
from tcformer.tasks.pose.average_precision import evaluate_keypoints
from tcformer.tasks.pose.task import PoseTask
from tcformer.tasks.runner import run
from tcformer.training.metrics import MetricLogger
from tcformer.training.options import build
from tcformer.weights.metadata import save_weights
from tcformer.zoo import create_model

pytest.importorskip("pycocotools", reason="average precision needs pycocotools")
pytestmark = pytest.mark.xdist_group("pose runs")


@pytest.fixture(scope="module")
def trained(coco, tmp_path_factory):
    """A finished run: (configuration, result, folder)."""
    folder = tmp_path_factory.mktemp("posed")
    cfg = build({**SMALL, "data_path": str(coco), "output_dir": str(folder), "ema": True,
                 "ema_decay": 0.5, "warmup_steps": 3})  # fmt: skip
    return cfg, run(cfg), folder


def test_result_and_files(trained, coco, tmp_path):
    _, result, folder = trained
    assert re.fullmatch(r"\* AP -?\d+\.\d{3} AR -?\d+\.\d{3}", result.eval_lines[0])
    last = json.loads((folder / "log.txt").read_text().splitlines()[-1])
    assert {"train_loss", "test_ap", "test_ar", "test_face_ap", "test_body_ar"} <= last.keys()
    with safe_open(folder / "best.safetensors", "pt") as file:
        about = file.metadata()
    assert (about["task"], about["keypoints"]) == ("pose", "coco_wholebody")
    assert about["crop_size"] == "64x48"
    assert whole_record(folder / "record.json", "training")["best"]["ap"] == result.best
    # The results file that the run leaves says the same as the run.
    truth = coco / "annotations" / "coco_wholebody_val_v1.0.json"
    table = evaluate_keypoints(truth, folder / "keypoints.json")
    assert 100 * table["wholebody"]["AP"] == pytest.approx(last["test_ap"])
    words = [str(truth), str(folder / "keypoints.json"), "--record", str(tmp_path / "r.json")]
    assert cli.main(["evaluate-keypoints", *words]) == 0
    kept = whole_record(tmp_path / "r.json", "evaluation")
    assert kept["result"]["wholebody AP"] == table["wholebody"]["AP"]
    assert str(folder) not in (tmp_path / "r.json").read_text()


def test_use_of_the_weights(trained, small):
    _, _, folder = trained
    estimator = load_pose(folder / "best.safetensors")
    assert estimator.layout.name == "coco_wholebody"
    assert estimator.codec.input_size == (48, 64)
    assert not estimator.notes
    for name in ("best.pth", "best.safetensors"):
        again = load_pose(folder / name)
        inputs = torch.randn(1, 3, 64, 48)
        assert torch.equal(
            again.heatmaps(inputs, flip_test=True), estimator.heatmaps(inputs, flip_test=True)
        )


def test_resume_is_exact(small, resumes_exactly):
    """Shifts, flips, halves, scales, turns, drop path, warm-up, averaging, bf16."""
    on = {"drop_path": 0.3, "ema": True, "ema_decay": 0.9, "amp": "bf16", "warmup_steps": 5,
          "half_body_prob": 0.9, "shift_prob": 0.9, "eval_every": 2}  # fmt: skip
    losses, step = resumes_exactly(small(**on), stop_at=1)
    assert len(losses) >= 4
    assert step == 2


def test_two_processes_measure_the_same(trained, two_processes, tmp_path):
    cfg, _, folder = trained
    weights, kept = str(folder / "best.safetensors"), {}
    words = ["--resume", weights, "--output_dir", str(tmp_path / "2")]
    printed = two_processes("evaluate", str(folder / "config.json"), *words)
    assert "* AP" not in printed[1]
    alone = run(cfg.replace(eval=True, resume=weights, output_dir=str(tmp_path / "1")))
    assert printed[0].splitlines()[-len(alone.eval_lines) :] == alone.eval_lines
    for size in (1, 2):
        kept[size] = whole_record(tmp_path / str(size) / "evaluation.json", "evaluation", size)
    assert kept[1]["result"] == pytest.approx(kept[2]["result"])
    assert kept[1]["data"] == kept[2]["data"]


def test_finetune_keeps_all_but_the_heat_maps(trained, small):
    _, _, folder = trained
    sticks = PoseTask(small(data_set="sticks", boxes="", data_path="data"), World())
    head = sticks.model.keypoint_head.final_layer.weight.clone()
    sticks.finetune(str(folder / "best.safetensors"))
    assert torch.equal(sticks.model.keypoint_head.final_layer.weight, head)
    with safe_open(folder / "best.safetensors", "pt") as file:
        key = "neck.lateral_convs.0.conv.weight"
        assert torch.equal(sticks.model.state_dict()[key], file.get_tensor(key))


def test_files_in_the_released_layout(small, tmp_path):
    """As MMPose wrote them: meta beside state_dict, the stem under another name."""
    task = PoseTask(small(eval=True), World())
    state = {
        key.replace("patch_embed1.proj.", "patch_embed1.projection."): value
        for key, value in task.model.state_dict().items()
    }
    path = tmp_path / "released.pth"
    torch.save({"meta": {"epoch": 210}, "state_dict": state}, path)
    result = run(small(eval=True, resume=str(path)))
    assert result.eval_lines
    estimator = load_pose(path, crop_size=(64, 48))
    inputs = torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        want = task.model.eval()(inputs)
    # The file does not say how many heads the neck has: those of the release, four, are assumed.
    assert estimator.heatmaps(inputs, flip_test=False).shape == want.shape
    assert "assumed" in load_pose(path).notes[0]
    del state["neck.merge_blocks.1.norm1.weight"]
    torch.save({"state_dict": state}, path)
    with pytest.raises(UserError, match=r"misses neck.merge_blocks.1.norm1.weight"):
        run(small(eval=True, resume=str(path)))
    with pytest.raises(UserError, match="does not fit"):
        load_pose(path)


def test_weights_of_a_training_that_went_astray(small):
    task = PoseTask(small(eval=True, data_set="sticks", boxes="", data_path="data"), World())
    task.model.keypoint_head.final_layer.bias.data.fill_(float("nan"))
    with pytest.raises(UserError, match="heat maps are not finite"):
        task.evaluate(task.model, MetricLogger(World()), contextlib.nullcontext)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"codec": "dork"}, "codec"),
        ({"crop_size": (30, 48)}, "multiples of 4"),
        ({"heatmap_sigma": -1.0}, "--heatmap-sigma"),
        ({"data_set": "stick"}, "did you mean sticks?"),
        ({"rotation": 200.0}, "--rotation is 200"),
        ({"input_size": 64}, "--input-size is about classification and segmentation"),
        ({"sched": "multistep"}, "--decay-milestones"),
        ({"decay_milestones": (3,)}, "does nothing with --sched cosine"),
    ],
)
def test_mistakes_are_one_sentence(small, changes, part):
    with pytest.raises(UserError) as caught:
        run(small(**changes))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_of_another_kind(trained, small, tmp_path):
    _, _, folder = trained
    save_weights(create_model("tcformer_nano", num_classes=7), tmp_path / "c.safetensors")
    torch.save({"keypoint_head.final_layer.weight": torch.tensor(1.0)}, tmp_path / "one.pth")
    best = str(folder / "best.safetensors")
    for changes, part in [
        ({"resume": str(tmp_path / "c.safetensors")}, "holds no pose model"),
        ({"resume": str(tmp_path / "one.pth")}, "holds no pose model"),
        ({"resume": best, "data_set": "sticks", "boxes": "", "data_path": "data"},
         "has 133 outputs, but the keypoints of the data (sticks at 'data') need 11"),
        ({"resume": best, "neck_channels": 32}, "it differs in neck."),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=re.escape(part)):
            run(small(eval=True, **changes))
    with pytest.raises(UserError, match="holds no pose network"):
        load_pose(tmp_path / "c.safetensors")


def test_files_of_other_hands_in_training(own_coco, small):
    """Ids and categories from 0; photographs that cannot be read cost nothing, their people too."""
    path = own_coco / "annotations" / "coco_wholebody_val_v1.0.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": 0, "name": "person"}, {"id": 1, "name": "dog"}]
    for number, note in enumerate(content["annotations"]):
        note |= {"id": number, "category_id": 0, "iscrowd": str(note["iscrowd"])}
    dogs = [{"id": 99, "image_id": note["image_id"], "category_id": 1}
            for note in content["annotations"]]  # fmt: skip
    path.write_text(json.dumps({**content, "annotations": [*dogs, *content["annotations"]]}))
    evaluator = PoseTask(small(data_path=str(own_coco), eval=True), World()).evaluator
    source = evaluator.dataset.source
    assert source.left_out.others["annotations of other categories"] == len(dogs)
    subjects = {i: source.subject(i) for i in range(len(source))}
    unread = subjects[0].image_id
    found = {
        i: (s.points.astype(np.float32), np.ones(133, np.float32))
        for i, s in subjects.items()
        if s.image_id != unread
    }
    result = evaluator.measure(found)
    assert result["body_ap"] == pytest.approx(100)
    assert {entry["category_id"] for entry in evaluator.results} == {0}
    wrong = subjects[0].points.astype(np.float32) + 500
    everybody = evaluator.measure(found | {0: (wrong, np.ones(133, np.float32))})
    assert everybody["body_ap"] < result["body_ap"]
