"""`tcformer pose` and `tcformer evaluate-keypoints`: pictures, videos, files, mistakes."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from people import as_prediction, make_annotations
from PIL import Image
from processes import clean_env

from tcformer import cli
from tcformer.cli.pose_inputs import DETECTOR, Detector, read_boxes
from tcformer.data.keypoints.sticks import SticksSource
from tcformer.errors import UserError
from tcformer.tasks.pose import PoseTask
from tcformer.training.distributed import World
from tcformer.training.options import build


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """An untrained network of stick figures, 32 px."""
    torch.manual_seed(0)
    cfg = build(
        {"task": "pose", "data_set": "sticks", "model": "tcformer_nano", "crop_size": (32, 32),
         "neck_channels": 8, "neck_heads": 2, "device": "cpu", "eval": True}
    )  # fmt: skip
    task = PoseTask(cfg, World())
    # Peaks everywhere, so that there is something to draw.
    task.model.keypoint_head.final_layer.weight.data.normal_()
    path = tmp_path_factory.mktemp("weights") / "sticks.safetensors"
    task.save_weights(task.model.state_dict(), path)
    return path


@pytest.fixture
def figures(tmp_path):
    source = SticksSource("val")
    rows = []
    for i in range(2):
        subject = source.subject(i)
        source.read(i).save(tmp_path / f"figure{i}.png")
        row = {"file_name": f"figure{i}.png", "bbox": subject.box.tolist(), "score": 0.9}
        rows += [row, {**row, "bbox": [0, 0, 60, 90], "score": 0.4}][: i + 1]
    (tmp_path / "boxes.json").write_text(json.dumps(rows))
    return tmp_path


def test_pictures(weights, figures, capsys):
    words = ["pose", str(figures / "figure0.png"), str(figures / "figure1.png")]
    options = ["--checkpoint", str(weights), "--boxes", str(figures / "boxes.json")]
    out = figures / "out"
    assert cli.main([*words, *options, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "figure0.png: 1 person" in printed
    assert "figure1.png: 2 people" in printed
    content = json.loads((out / "keypoints.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["figure0.png", "figure1.png"]
    assert [note["image_id"] for note in content["annotations"]] == [1, 2, 2]
    assert all(len(note["keypoints"]) == 33 for note in content["annotations"])
    sheet = np.asarray(Image.open(out / "figure1.pose.png"))
    # A row with the picture and one for each person: the crop and three stages of tokens.
    assert sheet.shape[0] > 128 + 2 * 32 * 3
    before = (out / "figure0.pose.png").read_bytes()
    assert cli.main([*words, *options, "--out", str(out)]) == 0
    assert (out / "figure0.pose.png").read_bytes() == before
    assert cli.main([*words, *options, "--out", str(out), "--no-tokens", "--no-flip-test"]) == 0
    assert Image.open(out / "figure0.pose.png").size == (128, 128)


def test_video(weights, tmp_path, capsys):
    av = pytest.importorskip("av", reason="videos are read by the package av")
    source = SticksSource("val")
    path = tmp_path / "figures.mp4"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 128
        stream.pix_fmt = "yuv420p"
        for i in range(3):
            source.subject(i)
            frame = av.VideoFrame.from_ndarray(np.array(source.read(i)), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    out = tmp_path / "out"
    command = ["pose", str(path), "--checkpoint", str(weights), "--out", str(out)]
    assert cli.main(command) == 0
    assert "3 frames" in capsys.readouterr().out
    with av.open(str(out / "figures.pose.mp4")) as file:
        assert sum(1 for _ in file.decode(video=0)) == 3
    content = json.loads((out / "keypoints.json").read_text())
    assert [image["file_name"] for image in content["images"]][2] == "figures.mp4#2"
    assert sorted(p.name for p in out.iterdir()) == ["figures.pose.mp4", "keypoints.json"]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SystemExit):
        raise SystemExit(cli.main([*command[:-1], str(tmp_path / "other")]))
    assert "error: " in capsys.readouterr().err
    assert not list((tmp_path / "other").glob("*.mp4"))


def test_a_real_command_line_refuses_in_one_sentence(weights, figures):
    done = subprocess.run(
        [sys.executable, "-m", "tcformer", "pose", str(figures / "figure0.png"), "--detect",
         "--checkpoint", str(weights), "--out", str(figures / "out")],
        capture_output=True, text=True, env=clean_env(TORCH_HOME=str(figures)), check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: the detector needs torchvision's weights")
    assert len(done.stderr.splitlines()) == 1
    assert not (figures / "out").exists()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["none.png"], "none.png does not exist"),
        (["."], "is a folder"),
        (["figure0.png", "--threshold", "2"], "--threshold is 2.0"),
        (["figure0.png", "--detector-weights", "x"], "does nothing without --detect"),
        (["figure0.png", "--boxes", "none.json"], "none.json does not exist"),
        (["figure0.png", "figure0.png"], "would both be written to"),
        (["figure0.png", "--crop-size", "30", "30"], "multiples of 4"),
        (["boxes.json"], "boxes.json is not an image"),
    ],
)
def test_mistakes(weights, figures, monkeypatch, capsys, words, part):
    monkeypatch.chdir(figures)
    assert cli.main(["pose", *words, "--checkpoint", str(weights)]) == 2
    error = capsys.readouterr().err
    assert part in error
    assert error.startswith("error: ")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ([{"bbox": [1, 2, 3, 4]}], "which picture"),
        ([{"bbox": [1, 2, 0, 4], "file_name": "a"}], "no area"),
        ([{"bbox": [1, 2, 3], "file_name": "a"}], "needs 4 numbers"),
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


def test_boxes_in_the_format_of_coco(tmp_path):
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(make_annotations(people=1)))
    boxes = read_boxes(str(path))
    assert list(boxes) == [f"{i:012d}.jpg" for i in (1, 2, 3)]
    assert boxes["000000000001.jpg"].scores == (1.0,)


def test_the_detector_finds_what_its_network_says(tmp_path, monkeypatch):
    """Weights of torchvision's layout, a network that says what it sees."""
    import torchvision.models.detection as detection

    class Network(torch.nn.Linear):
        def __init__(self, **_):
            super().__init__(1, 1)

        def forward(self, images):
            assert images[0].shape == (3, 20, 30)
            assert images[0].max() <= 1
            boxes = torch.tensor([[1.0, 2, 11, 22], [0, 0, 5, 5], [3, 3, 9, 9], [4, 4, 4, 8]])
            return [{"boxes": boxes, "labels": torch.tensor([1, 2, 1, 1]),
                     "scores": torch.tensor([0.9, 0.9, 0.3, 0.8])}]  # fmt: skip

    monkeypatch.setattr(detection, "fasterrcnn_resnet50_fpn_v2", lambda **kw: Network())
    path = tmp_path / DETECTOR
    torch.save(Network().state_dict(), path)
    found = Detector(str(path), 0.5)(np.zeros((20, 30, 3), np.uint8))
    assert found.boxes.tolist() == [[1, 2, 10, 20]]
    assert found.scores == (pytest.approx(0.9),)
    torch.save({"other": torch.ones(1)}, path)
    with pytest.raises(UserError, match="does not hold the weights"):
        Detector(str(path), 0.5)


def test_evaluate_keypoints(tmp_path, capsys):
    pytest.importorskip("pycocotools", reason="average precision needs pycocotools")
    from tcformer.data.keypoints.annotations import read_truth
    from tcformer.data.keypoints.people import all_points

    truth, found = tmp_path / "truth.json", tmp_path / "found.json"
    truth.write_text(json.dumps(make_annotations()))
    real = read_truth(truth)
    entries = [as_prediction(n, all_points(n, real.kind)) for n in real.annotations]
    found.write_text(json.dumps(entries))
    out = tmp_path / "numbers.json"
    assert cli.main(["evaluate-keypoints", str(truth), str(found), "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        "AP",
        "AP50",
        "AP75",
        "APm",
        "APl",
        "AR",
        "AR50",
        "AR75",
        "ARm",
        "ARl",
    ]
    assert [line.split()[0] for line in lines[1:7]] == [
        "body", "foot", "face", "lefthand", "righthand", "wholebody",
    ]  # fmt: skip
    assert json.loads(out.read_text())["wholebody"]["AP"] == pytest.approx(1)
    entries[0]["keypoints"][3] = float("nan")
    found.write_text(json.dumps(entries))
    assert cli.main(["evaluate-keypoints", str(truth), str(found)]) == 2
    assert "number 3 of `keypoints` is nan" in capsys.readouterr().err
