"""`tcformer convert`: there and back without losing a bit."""

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

import tcformer
from tcformer.cli import main
from tcformer.inference.about import about_checkpoint
from tcformer.models.checkpoints import load_checkpoint, read_checkpoint, save_weights


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


def test_names_and_size_go_along(tmp_path, state):
    about = {"classes": list("abcdef"), "input_size": 96, "task": "classification"}
    torch.save({"model": state, "about": about}, tmp_path / "checkpoint.pth")
    assert run(tmp_path / "checkpoint.pth", tmp_path / "a.safetensors") == 0
    assert run(tmp_path / "a.safetensors", tmp_path / "b.safetensors") == 0
    for name in ("a", "b"):
        written = about_checkpoint(read_checkpoint(tmp_path / f"{name}.safetensors"))
        assert (written.classes, written.input_size) == (tuple("abcdef"), 96)
        assert written.task == "classification"


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


def test_wrappings_are_taken_off_and_said(tmp_path, capsys, state):
    wrapped = {f"module.backbone.{key}": value for key, value in state.items()}
    torch.save({"state_dict": wrapped}, tmp_path / "a.pth")
    assert run(tmp_path / "a.pth", tmp_path / "b.safetensors") == 0
    out = capsys.readouterr().out
    assert "'module.' removed" in out
    assert "'backbone.' removed" in out
    assert set(read_checkpoint(tmp_path / "b.safetensors").state_dict) == set(state)


def test_a_pose_model_keeps_its_other_parts(tmp_path, capsys, state):
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


def test_averaged_weights(tmp_path, capsys, state):
    averaged = {key: value + 1 for key, value in state.items()}
    torch.save({"model": state, "model_ema": averaged}, tmp_path / "last.pth")
    assert run(tmp_path / "last.pth", tmp_path / "ema.safetensors", "--ema") == 0
    written = read_checkpoint(tmp_path / "ema.safetensors").state_dict
    assert torch.equal(written["norm2.bias"], state["norm2.bias"] + 1)
    capsys.readouterr()
    save_weights(state, tmp_path / "plain.safetensors")
    assert "EMA" in refused(
        capsys, tmp_path / "plain.safetensors", tmp_path / "x.safetensors", "--ema"
    )


def test_an_existing_file_is_not_replaced_without_force(tmp_path, capsys, published):
    target = tmp_path / "there.safetensors"
    target.write_bytes(b"precious")
    text = refused(capsys, published, target)
    assert "--force" in text
    assert str(target) in text
    assert target.read_bytes() == b"precious"
    assert run(published, target, "--force") == 0
    assert read_checkpoint(target).format == "safetensors"


def test_in_place_with_force(tmp_path, published, state):
    assert run(published, published, "--force") == 0
    content = torch.load(published, weights_only=True)
    assert list(content) == ["model"]
    assert all(same(content["model"][key], value) for key, value in state.items())


@pytest.mark.parametrize(
    ("name", "options", "format"),
    [
        ("a.safetensors", [], "safetensors"),
        ("a.pth", [], "torch"),
        ("a.pt", [], "torch"),
        ("a.bin", ["--to", "published"], "torch"),
        ("a.bin", ["--to", "tcformer"], "safetensors"),
        ("a", ["--to", "safetensors"], "safetensors"),
    ],
)
def test_format_by_ending_or_option(tmp_path, published, name, options, format):
    assert run(published, tmp_path / name, *options) == 0
    assert read_checkpoint(tmp_path / name).format == format


def test_mistakes_are_one_sentence(tmp_path, capsys, published):
    assert "ending" in refused(capsys, published, tmp_path / "a.bin")
    assert "ending" in refused(capsys, published, tmp_path / "a.pth", "--to", "safetensors")
    assert "no such file" in refused(capsys, tmp_path / "absent.pth", tmp_path / "a.pth")
    assert "does not exist" in refused(capsys, published, tmp_path / "no" / "a.pth")
    assert "--to" in refused(capsys, published, tmp_path / "a.pth", "--to", "onnx")
    assert "--force" in refused(capsys, published, tmp_path / "a.pth", "--forse")
    assert "DST" in refused(capsys, published)
    (tmp_path / "text.pth").write_text("hello, this is a text\n" * 9)
    assert "a text file" in refused(capsys, tmp_path / "text.pth", tmp_path / "a.pth")
    cut = published.read_bytes()[:100_000]
    (tmp_path / "cut.pth").write_bytes(cut)
    assert "damaged or incomplete" in refused(capsys, tmp_path / "cut.pth", tmp_path / "a.pth")
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet.pth")
    text = refused(capsys, tmp_path / "resnet.pth", tmp_path / "a.pth")
    assert "resnet.pth" in text
    assert "another kind of network" in text
    assert not (tmp_path / "a.pth").exists()


def test_a_copy_that_reads_back_differently_is_reported(tmp_path, capsys, monkeypatch, published):
    real = save_weights

    def faulty(state, path, metadata):
        real({**state, "norm1.bias": state["norm1.bias"] + 1}, path, metadata)

    monkeypatch.setattr("tcformer.models.checkpoints.save_weights", faulty)
    kept = tmp_path / "a.safetensors"
    assert "norm1.bias" in refused(capsys, published, kept)
    assert not kept.exists()
    kept.write_bytes(b"old")
    assert "was not kept" in refused(capsys, published, kept, "--force")
    assert kept.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("verb", ["convert", "download"])
def test_help_needs_no_torch(verb):
    code = (
        "import sys; from tcformer.cli import main; "
        f"status = main([{verb!r}, '--help']); sys.exit(status or 'torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert f"tcformer {verb}" in done.stdout
