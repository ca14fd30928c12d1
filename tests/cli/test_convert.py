"""`tcformer convert`: there and back without losing a bit."""

import argparse
import itertools
from pathlib import Path

import pytest
import timm
import torch

import tcformer
from tcformer.cli import main
from tcformer.predict.pose import load_pose
from tcformer.runtime.distributed import World
from tcformer.tasks.pose.task import PoseTask
from tcformer.training.config import TrainConfig
from tcformer.weights.load import load_checkpoint
from tcformer.weights.metadata import checkpoint_metadata, merging_of, save_weights
from tcformer.weights.safe_torch import read_checkpoint


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = tcformer.create_model("tcformer_nano", num_classes=6)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    state["norm1.weight"][:3] = torch.tensor([float("nan"), -0.0, float("inf")])
    return state


@pytest.fixture
def published(tmp_path, state) -> Path:
    content = {"model": state, "epoch": 299, "args": argparse.Namespace(lr=1e-3), "optimizer": {}}
    torch.save(content, tmp_path / "authors.pth")
    return tmp_path / "authors.pth"


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    bits = [t.contiguous().view(-1).view(torch.uint8) for t in (a, b)]
    return a.shape == b.shape and torch.equal(*bits)


def run(*argv: object) -> int:
    return main(["convert", *map(str, argv)])


def refused(capsys, *argv: object) -> str:
    assert run(*argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    return captured.err


def test_to_safetensors_and_back(tmp_path, capsys, state, published):
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.pth"
    assert run(published, ours) == 0
    out = capsys.readouterr().out
    assert "tcformer_nano" in out
    assert "6 classes" in out
    assert "epoch 299" in out
    assert "193 tensors" in out
    assert "verified" in out
    written = read_checkpoint(ours)
    assert written.format == "safetensors"
    assert written.meta["model"] == "tcformer_nano"
    assert written.epoch == 299
    assert all(same(written.state_dict[key], value) for key, value in state.items())

    assert run(ours, back) == 0
    # What the reference loader does: no class is needed, `model` holds the plain keys in order.
    content = torch.load(back, map_location="cpu", weights_only=True)
    assert list(content) == ["model"]
    assert list(content["model"]) == list(state)
    assert all(same(content["model"][key], value) for key, value in state.items())
    model = tcformer.create_model("tcformer_nano", num_classes=6)
    model.load_state_dict(content["model"], strict=True)
    assert load_checkpoint(model, ours).complete


def test_wrappings_are_taken_off_and_said_and_a_pose_model_keeps_its_parts(tmp_path, capsys, state):
    wrapped = {f"module.backbone.{key}": value for key, value in state.items()}
    torch.save({"state_dict": wrapped}, tmp_path / "a.pth")
    assert run(tmp_path / "a.pth", tmp_path / "b.safetensors") == 0
    out = capsys.readouterr().out
    assert "'module.' removed" in out
    assert "'backbone.' removed" in out
    assert set(read_checkpoint(tmp_path / "b.safetensors").state_dict) == set(state)

    pose = {f"backbone.{key}": value for key, value in state.items() if key[:4] != "head"}
    old = "backbone.patch_embed1.projection.weight"
    pose[old] = pose.pop("backbone.patch_embed1.proj.weight")
    pose["neck.lateral_convs.0.conv.weight"] = torch.ones(2, 2, 1, 1)
    pose["keypoint_head.final_layer.bias"] = torch.ones(133)
    torch.save({"meta": {"epoch": 210}, "state_dict": pose}, tmp_path / "pose.pth")
    assert run(tmp_path / "pose.pth", tmp_path / "pose.safetensors") == 0
    out = capsys.readouterr().out
    assert "keypoint_head, neck" in out
    assert "left out" not in out
    assert "no classifier" in out
    written = read_checkpoint(tmp_path / "pose.safetensors").state_dict
    assert set(written) == {key.replace("projection", "proj") for key in pose}
    assert torch.equal(written["keypoint_head.final_layer.bias"], torch.ones(133))
    backbone = tcformer.create_model("tcformer_nano", num_classes=0)
    assert load_checkpoint(backbone, tmp_path / "pose.safetensors").complete


def test_an_existing_file_is_replaced_with_force_alone_even_in_place(
    tmp_path, capsys, published, state
):
    target = tmp_path / "there.safetensors"
    target.write_bytes(b"precious")
    text = refused(capsys, published, target)
    assert "--force" in text
    assert str(target) in text
    assert target.read_bytes() == b"precious"
    assert run(published, target, "--force") == 0
    assert read_checkpoint(target).format == "safetensors"
    assert run(published, published, "--force") == 0
    content = torch.load(published, weights_only=True)
    assert list(content) == ["model"]
    assert all(same(content["model"][key], value) for key, value in state.items())


@pytest.mark.parametrize(
    ("name", "options", "format"),
    [
        ("a.pt", [], "torch"),
        ("a.bin", ["--to", "published"], "torch"),
        ("a", ["--to", "tcformer"], "safetensors"),
    ],
)
def test_format_by_ending_or_option(tmp_path, published, name, options, format):
    assert run(published, tmp_path / name, *options) == 0
    assert read_checkpoint(tmp_path / name).format == format


def test_mistakes_are_one_sentence(tmp_path, capsys, published):
    (tmp_path / "text.pth").write_text("hello, this is a text\n" * 9)
    (tmp_path / "cut.pth").write_bytes(published.read_bytes()[:100_000])
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet.pth")
    for words, told in (
        ((published, tmp_path / "a.bin"), "ending"),
        ((published, tmp_path / "a.pth", "--to", "safetensors"), "ending"),
        ((tmp_path / "absent.pth", tmp_path / "a.pth"), "no such file"),
        ((published, tmp_path / "no" / "a.pth"), "does not exist"),
        ((published, tmp_path / "a.pth", "--to", "onnx"), "--to"),
        ((published, tmp_path / "a.pth", "--forse"), "--force"),
        ((published,), "DST"),
        ((tmp_path / "text.pth", tmp_path / "a.pth"), "a text file"),
        ((tmp_path / "cut.pth", tmp_path / "a.pth"), "damaged or incomplete"),
        ((tmp_path / "resnet.pth", tmp_path / "a.pth"), "resnet.pth holds the weights of another"),
    ):
        assert told in refused(capsys, *words)
    assert not (tmp_path / "a.pth").exists()


def test_a_copy_that_reads_back_differently_is_reported(tmp_path, capsys, monkeypatch, published):
    real = save_weights

    def faulty(state, path, metadata):
        real({**state, "norm1.bias": state["norm1.bias"] + 1}, path, metadata)

    monkeypatch.setattr("tcformer.weights.metadata.save_weights", faulty)
    kept = tmp_path / "a.safetensors"
    assert "norm1.bias" in refused(capsys, published, kept)
    assert not kept.exists()
    kept.write_bytes(b"old")
    assert "was not kept" in refused(capsys, published, kept, "--force")
    assert kept.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.fixture(scope="module")
def pose(tmp_path_factory) -> Path:
    """An untrained pose network whose every setting differs from the defaults."""
    options = {
        "task": "pose", "model": "tcformerv2_nano", "data_set": "sticks", "crop_size": (64, 48),
        "codec": "udp", "heatmap_sigma": 1.5, "neck_heads": 8, "neck_channels": 32,
        "neck_reduction": "pool", "device": "cpu", "num_workers": 0, "eval": True,
    }  # fmt: skip
    task = PoseTask(TrainConfig.build(options), World())
    torch.nn.init.normal_(task.model.keypoint_head.final_layer.weight)
    path = tmp_path_factory.mktemp("pose") / "best.safetensors"
    task.save_weights(task.model.state_dict(), path)
    content = {"model": task.model.state_dict(), "about": task.about(), "epoch": 3}
    torch.save({**content, "args": {"input_size": 224, "task": "pose"}}, path.with_suffix(".pth"))
    return path


def test_a_pose_network_keeps_how_it_is_used(tmp_path, pose):
    steps = (pose, tmp_path / "a.pth", tmp_path / "b.safetensors", tmp_path / "c.pt")
    for source, target in itertools.pairwise(steps):
        assert run(source, target) == 0
    assert run(pose.with_suffix(".pth"), tmp_path / "d.safetensors") == 0
    expected, inputs = load_pose(pose), torch.randn(1, 3, 64, 48)
    heatmaps = expected.heatmaps(inputs, flip_test=True)
    for path in (*steps[1:], pose.with_suffix(".pth"), tmp_path / "d.safetensors"):
        found = load_pose(path)
        assert (found.codec, found.layout.name) == (expected.codec, "sticks")
        assert torch.equal(found.heatmaps(inputs, flip_test=True), heatmaps)
        assert "crop_size" in checkpoint_metadata(read_checkpoint(path)).entries
        assert tcformer.load(checkpoint=path).trained_at == (64, 48)


@pytest.mark.parametrize("verb", ["hub", "export"])
def test_what_has_no_place_for_a_head_refuses_it(tmp_path, capsys, pose, verb):
    out = tmp_path / "x.onnx"
    words = {"hub": [str(pose), str(out)], "export": ["--checkpoint", str(pose), "--out", str(out)]}
    assert main([verb, *words[verb]]) == 2
    assert "keypoint_head and neck" in capsys.readouterr().err
    assert not out.exists()


def test_other_options_of_use_are_told(pose):
    notes = load_pose(pose, crop_size=(96, 64), codec="dark").notes
    assert "64 x 48 px" in notes[0]
    assert "96 x 64 px" in notes[0]
    assert "udp" in notes[1]


def test_everything_said_goes_along(tmp_path, state):
    told = {
        "classes": "\n".join("abcdef"), "input_size": "96", "mean": "0.5 0.25 0.5",
        "std": "0.5 0.5 0.5", "crop_pct": "0.9", "interpolation": "bilinear",
        "merging": '{"keep_ratio": [0.5, 0.5, 0.5], "k": 3}', "author": "somebody",
        "task": "classification",
    }  # fmt: skip
    half = {key: value.bfloat16() for key, value in state.items()}
    save_weights(half, tmp_path / "0.safetensors", told)
    names = [tmp_path / name for name in ("0.safetensors", "1.pth", "2.pth", "3.safetensors")]
    for source, target in itertools.pairwise(names):
        assert run(source, target) == 0
    loaded = [tcformer.load(checkpoint=path) for path in names]
    for one in loaded[1:]:
        assert (one.classes, one.preprocessing) == (loaded[0].classes, loaded[0].preprocessing)
        assert merging_of(one.network) == merging_of(loaded[0].network) != {}
    assert loaded[0].preprocessing.crop_pct == 0.9
    last = read_checkpoint(names[-1])
    assert last.meta["author"] == "somebody"
    assert last.meta["task"] == "classification"
    assert {value.dtype for value in last.state_dict.values()} == {torch.bfloat16}


def test_the_average_is_taken_and_told(tmp_path, capsys, state):
    averaged = {key: value + 1 for key, value in state.items()}
    torch.save({"model": state, "model_ema": averaged}, tmp_path / "last.pth")
    for options, more in (([], 1), (["--ema"], 1), (["--no-ema"], 0)):
        assert run(tmp_path / "last.pth", tmp_path / "a.safetensors", "--force", *options) == 0
        assert ("EMA" in capsys.readouterr().out) == bool(more)
        written = read_checkpoint(tmp_path / "a.safetensors").state_dict
        assert torch.equal(written["norm2.bias"], state["norm2.bias"] + more)
    save_weights(state, tmp_path / "plain.safetensors")
    plain = tmp_path / "plain.safetensors", tmp_path / "x.safetensors"
    assert "EMA" in refused(capsys, *plain, "--ema")
