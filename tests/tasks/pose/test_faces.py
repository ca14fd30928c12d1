"""A whole run on faces: the error, its subsets, the lowest kept as best."""

from __future__ import annotations

import json

import numpy as np
import pytest
from people import SMALL
from PIL import Image

from tcformer import cli
from tcformer.data.keypoints.people import read_wflw_list
from tcformer.runtime.distributed import World
from tcformer.tasks.pose.nme import evaluate_faces
from tcformer.tasks.pose.task import PoseTask
from tcformer.tasks.runner import run
from tcformer.training.options import build, load_config


@pytest.fixture
def wflw(tmp_path):
    """WFLW as its authors give it out: six faces, each in a subset of its own."""
    random = np.random.RandomState(0)
    root = tmp_path / "WFLW"
    lists = root / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    lists.mkdir(parents=True)
    (root / "WFLW_images" / "0--Parade").mkdir(parents=True)
    lines = []
    for i in range(6):
        name = f"0--Parade/face{i}.jpg"
        pixels = random.randint(0, 256, (90, 100, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "WFLW_images" / name)
        numbers = [*random.uniform(20, 70, 196).round(3), 20, 20, 70, 70]
        lines.append(" ".join([*map(str, numbers), *map(str, np.eye(6, dtype=int)[i]), name]))
    for split in ("train", "test"):
        (lists / f"list_98pt_rect_attr_{split}.txt").write_text("\n".join(lines))
    return root


LESS = {k: v for k, v in SMALL.items() if k not in ("boxes", "data_set")}


def test_a_run(wflw, tmp_path, capsys):
    recipe = load_config("configs/wflw/tcformer_light_256x256.py")
    less = {k: v for k, v in LESS.items() if k != "neck_reduction"}
    out = tmp_path / "out"
    smaller = {"data_path": str(wflw), "crop_size": (64, 64), "output_dir": str(out),
               "eval_every": 1, "sched": "cosine", "decay_milestones": (), "lr": 0.2}  # fmt: skip
    result = run(build({**recipe, **less, **smaller}))
    printed = capsys.readouterr().out
    logged = [json.loads(line)["test_nme"] for line in (out / "log.txt").read_text().splitlines()]
    assert len(logged) == 2
    assert result.best == pytest.approx(min(logged))
    assert f"Min nme: {min(logged):.2f}%" in printed
    assert "make-up" in printed
    lists = wflw / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    truth, _ = read_wflw_list(lists / "list_98pt_rect_attr_test.txt")
    errors = evaluate_faces(truth, out / "keypoints.json")
    assert 100 * errors["test"] == pytest.approx(logged[-1])
    assert len(errors) == 7


def test_faces_that_cannot_be_read_are_left_out(wflw):
    """The others are measured, as --skip-corrupt says."""
    face = wflw / "WFLW_images" / "0--Parade" / "face1.jpg"
    face.write_bytes(b"no picture")
    small = {**LESS, "data_set": "WFLW", "data_path": str(wflw), "crop_size": (64, 64)}
    cfg = build({**small, "eval": True, "skip_corrupt": True})
    evaluator = PoseTask(cfg, World()).evaluator
    kept = evaluator.dataset.source.truth.annotations
    found = {
        i: (np.array(note["keypoints"], np.float32).reshape(-1, 3)[:, :2], np.ones(98, np.float32))
        for i, note in enumerate(kept)
        if i != 1
    }
    result = evaluator.measure(found)
    assert result["nme"] == pytest.approx(0, abs=1e-4)
    assert len(evaluator.results) == 5
    assert "nme_expression" not in result


def test_faces_that_are_left_out_are_counted(wflw, tmp_path, capsys):
    """The error is that of the faces that are measured, and it says of how many."""
    lists = wflw / "WFLW_annotations" / "list_98pt_rect_attr_train_test"
    truth, names = read_wflw_list(lists / "list_98pt_rect_attr_test.txt")
    notes = [dict(note) for note in truth.annotations]
    notes[0]["iscrowd"] = "1"
    notes[1]["keypoints"] = [0] * 294
    notes[2]["keypoints"] = list(notes[2]["keypoints"])
    notes[2]["keypoints"][3 * 60 : 3 * 61] = [0, 0, 0]  # an outer eye corner
    images = [{"id": i, "file_name": n, "width": 100, "height": 90} for i, n in names.items()]
    (wflw / "annotations").mkdir()
    (wflw / "WFLW_images").rename(wflw / "images")
    for split in ("train", "test"):
        path = wflw / "annotations" / f"face_landmarks_wflw_{split}.json"
        path.write_text(json.dumps({"images": images, "annotations": notes}))
    small = {**LESS, "data_set": "WFLW", "data_path": str(wflw), "crop_size": (64, 64)}
    run(build({**small, "eval": True, "output_dir": str(tmp_path)}))
    told = capsys.readouterr().out
    assert "on the 3 test faces" in told
    assert "1 crowds, 1 faces without labelled landmarks, 1 faces without a distance" in told
    assert cli.main(["evaluate-keypoints", str(path), str(tmp_path / "keypoints.json")]) == 0
    assert "Measured on 3 faces; left out 1 crowds" in capsys.readouterr().out
    PoseTask(build(small), World())
    assert (
        "the train set left out 1 crowds, 1 faces without labelled landmarks."
        in capsys.readouterr().out
    )
