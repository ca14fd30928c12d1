"""`tcformer pose` and `tcformer evaluate-keypoints`: pictures, videos, files, mistakes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from people import as_prediction, make_annotations
from PIL import Image
from safetensors.torch import load_file

from tcformer import cli
from tcformer.data.keypoints import layout
from tcformer.data.keypoints.sticks import SticksSource
from tcformer.errors import UserError
from tcformer.predict.boxes import DETECTOR, Detector
from tcformer.predict.pose import load_pose, usual_size
from tcformer.predict.video import Video, VideoWriter

HEAD, BIAS = "keypoint_head.final_layer.weight", "keypoint_head.final_layer.bias"


@pytest.fixture
def weights(pose_weights):
    return pose_weights


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


def run(weights, *words):
    return cli.main(["pose", *map(str, words), "--checkpoint", str(weights)])


def test_pictures(weights, figures, capsys):
    words = [figures / "figure0.png", figures / "figure1.png", "--boxes", figures / "boxes.json"]
    out = figures / "out"
    words += ["--out", out]
    assert run(weights, *words) == 0
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
    assert run(weights, *words) == 0
    assert (out / "figure0.pose.png").read_bytes() == before
    assert run(weights, *words, "--no-tokens", "--no-flip-test") == 0
    assert Image.open(out / "figure0.pose.png").size == (128, 128)


def test_the_file_is_one_for_the_tools_of_coco(weights, figures):
    pytest.importorskip("pycocotools", reason="it is COCO's tools that read the file here")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    out = figures / "out"
    assert run(weights, figures / "figure0.png", "--no-tokens", "--out", out) == 0
    data = COCO(str(out / "keypoints.json"))
    (category,) = data.loadCats(data.getCatIds())
    (note,) = data.loadAnns(data.getAnnIds())
    assert len(category["keypoints"]) == len(note["keypoints"]) // 3 == 11
    assert min(min(pair) for pair in category["skeleton"]) == 1  # COCO counts from one
    assert max(max(pair) for pair in category["skeleton"]) <= 11
    assert note["num_keypoints"] == sum(v > 0 for v in note["keypoints"][2::3])
    found = COCOeval(data, data.loadRes([dict(note)]), "keypoints")
    found.params.kpt_oks_sigmas = np.full(11, 0.1)
    found.evaluate()
    found.accumulate()
    found.summarize()
    assert found.stats[0] == pytest.approx(1)


def test_a_file_that_cannot_be_read_costs_only_itself(weights, figures, capsys):
    (figures / "bad.png").write_bytes(b"no picture")
    (figures / "bad.mp4").write_bytes(b"no video")
    Image.open(figures / "figure0.png").convert("P").save(figures / "still.gif")  # a picture
    out = figures / "out"
    names = [figures / name for name in ("bad.png", "bad.mp4", "still.gif")]
    assert run(weights, *names, "--out", out, "--no-tokens") == 1
    printed = capsys.readouterr()
    assert [line.split(": ")[0] for line in printed.err.splitlines()] == ["error", "error"]
    content = json.loads((out / "keypoints.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["still.gif"]
    assert sorted(p.name for p in out.iterdir()) == ["keypoints.json", "still.pose.png"]
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert run(weights, *names[:2], "--out", out) == 2
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_boxes_of_any_size(weights, figures):
    boxes = ([0, 0, 1e12, 1e12], [1e12, -1e12, 5, 5], [3, 3, 1e-9, 1e-9])
    rows = [{"file_name": "figure0.png", "bbox": box} for box in boxes]
    (figures / "boxes.json").write_text(json.dumps(rows))
    words = (figures / "figure0.png", "--boxes", figures / "boxes.json", "--out", figures / "out")
    assert run(weights, *words) == 0
    assert np.asarray(Image.open(figures / "out" / "figure0.pose.png")).any()


def make_video(path, rate=5, rotation=0):
    """Three figures; the second one is drawn on white paper."""
    av = pytest.importorskip("av", reason="videos are read by the package av")
    source = SticksSource("val")
    with av.open(str(path), "w") as file:
        stream = file.add_stream("gif" if path.suffix == ".gif" else "mpeg4", rate=rate)
        stream.width, stream.height = 128, 96
        stream.pix_fmt = "rgb8" if path.suffix == ".gif" else "yuv420p"
        for i in range(3):
            source.subject(i)
            pixels = np.array(source.read(i))[:96]
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def test_video(weights, tmp_path, capsys):
    """Boxes are named as keypoints.json names them: people of a run can be given to the next."""
    av = pytest.importorskip("av", reason="videos are read by the package av")
    path = make_video(tmp_path / "clip.mp4")
    rows = [{"file_name": "clip.mp4#0", "bbox": [0, 0, 50, 60]},
            {"file_name": "clip.mp4#2", "bbox": [5, 6, 70, 80]}]  # fmt: skip
    boxes, out = tmp_path / "boxes.json", tmp_path / "out"
    boxes.write_text(json.dumps(rows))
    for _ in range(2):
        assert run(weights, path, "--boxes", boxes, "--out", out) == 0
        assert "3 frames" in capsys.readouterr().out
        content = json.loads((out / "keypoints.json").read_text())
        assert [note["image_id"] for note in content["annotations"]] == [1, 3]
        assert content["annotations"][1]["bbox"] == [5, 6, 70, 80]
        assert content["images"][2]["file_name"] == "clip.mp4#2"
        boxes.write_text(json.dumps(content))
    with av.open(str(out / "clip.pose.mp4")) as file:
        assert sum(1 for _ in file.decode(video=0)) == 3
    assert sorted(p.name for p in out.iterdir()) == ["clip.pose.mp4", "keypoints.json"]
    path.write_bytes(path.read_bytes()[:200])
    assert run(weights, path, "--out", tmp_path / "other") == 2
    assert "error: " in capsys.readouterr().err
    assert not list((tmp_path / "other").glob("*.mp4"))


def test_a_slow_video_and_a_turned_one(tmp_path, monkeypatch):
    av = pytest.importorskip("av", reason="videos are read by the package av")
    from fractions import Fraction

    path = make_video(tmp_path / "slow.gif", rate=Fraction(1, 4))
    video = Video(path)
    writer = VideoWriter(tmp_path / "out.mp4", video.rate)
    frames = list(video)
    for frame in [*frames, frames[0][:50, :40]]:  # a frame of another size is no reason to fail
        writer.write(frame)
    writer.finish()
    with av.open(str(tmp_path / "out.mp4")) as file:
        assert file.streams.video[0].average_rate == Fraction(1, 4)
    for rate in (Fraction(120000, 1001), Fraction(1, 5000), Fraction(10**6)):
        writer = VideoWriter(tmp_path / "out.mp4", rate)
        writer.write(frames[0])
        writer.finish()

    class Turned:
        rotation = -90  # degrees counter-clockwise, as telephones note it

        def to_ndarray(self, format):
            return frames[0]

    video._file = SimpleNamespace(decode=lambda stream: [Turned()], close=video.close)
    (upright,) = video
    np.testing.assert_array_equal(upright, np.rot90(frames[0], -1))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["none.png"], "none.png does not exist"),
        (["."], "is a folder"),
        (["figure0.png", "--threshold", "2"], "'2' is not a number from 0 to 1"),
        (["figure0.png", "--detector-weights", "x"], "does nothing without --detect"),
        (["figure0.png", "--detector-threshold", "0.5"], "does nothing without --detect"),
        (["figure0.png", "--crop-size", "100000", "100000"], "from 32 to 2048 pixels"),
        (["figure0.png", "--boxes", "none.json"], "none.json does not exist"),
        (["figure0.png", "figure0.png"], "would both be written to"),
        (["figure0.png", "--crop-size", "30", "30"], "multiples of 4"),
        (["boxes.json"], "cannot read boxes.json: it is not an image"),
        (["figure0.png", "--detect"], "the detector needs torchvision's weights"),
    ],
)
def test_mistakes(weights, figures, monkeypatch, capsys, words, part):
    monkeypatch.chdir(figures)
    monkeypatch.setenv("TORCH_HOME", str(figures))
    assert run(weights, *words) == 2
    error = capsys.readouterr().err
    assert part in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (figures / "pose" / "keypoints.json").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("neck.lateral_convs.0.conv.bias"), "no pose network of ours"),
        (lambda state: state.update({HEAD: torch.tensor(1.0)}), "is a single number"),
        (lambda state: state.update({BIAS: torch.tensor(1.0)}), "does not fit"),
        (lambda state: state[BIAS].fill_(float("nan")), "not finite numbers"),
    ],
)
def test_weights_that_are_no_network(weights, figures, capsys, change, words):
    state = load_file(weights)
    change(state)
    torch.save(state, figures / "weights.pth")
    options = ("--crop-size", 32, 32, "--out", figures / "out")
    assert run(figures / "weights.pth", figures / "figure0.png", *options) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_crops_of_files_that_do_not_say_theirs():
    """The released whole-body files: base at 256 x 192, large at 384 x 288."""
    whole, face = layout("coco_wholebody"), layout("wflw")
    assert usual_size(whole, "tcformer") == (256, 192)
    assert usual_size(whole, "tcformer_large") == (384, 288)
    assert usual_size(face, "tcformer_light") == (256, 256)


def test_boxes_in_python(weights):
    estimator = load_pose(weights)
    picture = np.zeros((40, 30, 3), np.uint8)
    assert estimator(picture, []) == []
    assert len(estimator(picture, [[1, 2, 3, 4]], box_scores=[0.5])) == 1
    for boxes in (
        [[1, 2, 3, 4, 5]] * 4,
        [1, 2, 3, 4],
        [[1, 2, 3]],
        [["a", 2, 3, 4]],
        [[1], [2, 3]],
    ):
        with pytest.raises(UserError, match="rows of four numbers"):
            estimator(picture, boxes)
    with pytest.raises(UserError, match="2 are given for 1"):
        estimator(picture, [[1, 2, 3, 4]], box_scores=[1, 1])


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
    parts = ["body", "foot", "face", "lefthand", "righthand", "wholebody"]
    assert [line.split()[0] for line in lines[1:7]] == parts
    assert json.loads(out.read_text())["wholebody"]["AP"] == pytest.approx(1)
    blank = sum(not all_points(n, real.kind)[:, 2].any() for n in real.annotations)
    assert lines[7].startswith(f"Measured on {8 - blank} people; left out 1 crowds")
    content = make_annotations()
    content["categories"].append({"id": 2, "name": "dog"})
    content["annotations"] += [{"image_id": 1, "category_id": 2}] * 3
    truth.write_text(json.dumps(content))
    others = [{"image_id": 1, "category_id": 2}] * 2
    found.write_text(json.dumps([*others, *(e for e in entries if e["image_id"] != 2)]))
    assert cli.main(["evaluate-keypoints", str(truth), str(found)]) == 0
    told = capsys.readouterr().out
    assert "3 annotations of other categories, 2 results of other categories" in told
    assert "1 of 3 images have no results" in told
    entries[0]["keypoints"][3] = float("nan")
    found.write_text(json.dumps(entries))
    assert cli.main(["evaluate-keypoints", str(truth), str(found)]) == 2
    assert "number 3 of `keypoints` is nan" in capsys.readouterr().err
