"""Whole runs of the segmenter: train, stop, resume, evaluate on several processes, fine-tune."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from recorded import whole_record
from safetensors import safe_open

from tcformer.errors import UserError
from tcformer.runtime.distributed import World
from tcformer.tasks.runner import run
from tcformer.tasks.segmentation.task import SegmentationTask
from tcformer.training.options import build, load_config
from tcformer.weights.metadata import save_weights
from tcformer.zoo import create_model


def test_result_and_files(trained, ade):
    cfg, result, folder = trained
    assert 0 < result.best <= 100
    assert re.fullmatch(r"\* mIoU \d+\.\d{3} pixel accuracy \d+\.\d{3}", result.eval_lines[0])
    assert re.fullmatch(
        r"Mean IoU of the network on the 5 test images: \d+\.\d%", result.eval_lines[1]
    )
    assert build(json.loads((folder / "config.json").read_text())) == cfg
    last = json.loads((folder / "log.txt").read_text().splitlines()[-1])
    assert {"train_loss", "test_miou", "test_pixel_acc"} <= last.keys()
    assert whole_record(folder / "record.json", "training")["best"]["miou"] == result.best
    with safe_open(folder / "best.safetensors", "pt") as file:
        about = file.metadata()
    assert (about["task"], about["model"]) == ("segmentation", "tcformer_nano")
    assert len(about["classes"].split("\n")) == 150


def test_evaluation_repeats_the_result_of_the_training(trained, capsys):
    cfg, result, folder = trained
    for source in ("best.pth", "best.safetensors"):
        again = run(cfg.replace(eval=True, resume=str(folder / source), output_dir=""))
        assert again.eval_lines[:2] == result.eval_lines
        assert again.best == result.best
    assert result.eval_lines[0] in capsys.readouterr().out


def test_resume_is_exact(small, resumes_exactly):
    """Scaling, crops, flips, colors, drop path, dropout, averaging, bf16, epochs of 2 steps."""
    on = {"drop_path": 0.3, "drop": 0.2, "ema": True, "ema_decay": 0.9, "amp": "bf16",
          "steps_per_epoch": 2, "eval_every": 2}  # fmt: skip
    losses, step = resumes_exactly(small(**on))
    assert (len(losses), step) == (2 * 2, 1)


def test_two_processes_train_together(trained, small, two_processes, tmp_path):
    """They measure 5 images, an odd number, as one does: no buffer belongs to a process."""
    config, out = str(trained[2] / "config.json"), tmp_path / "two"
    words = ["--batch-size", "1", "--epochs", "1", "--output_dir", str(out)]
    printed = two_processes("train", config, *words)
    assert "mIoU" not in printed[1]
    said = [line for line in printed[0].splitlines() if line.startswith("* mIoU")]
    again = run(small(batch_size=1, eval=True, resume=str(out / "checkpoint.pth")))
    assert said == again.eval_lines[:1]


def test_finetune_takes_a_classifier_or_a_segmenter(trained, small, tmp_path):
    _, _, folder = trained
    torch.manual_seed(1)
    classifier = create_model("tcformer_nano", num_classes=7)
    save_weights(classifier, tmp_path / "classifier.safetensors")
    task = SegmentationTask(small(), World())
    said = task.finetune(str(tmp_path / "classifier.safetensors"))
    assert "the backbone alone" in said
    own = task.model.backbone.state_dict()
    assert all(torch.equal(own[k], v) for k, v in classifier.state_dict().items() if k in own)
    # Other classes: everything but the scores.
    other = SegmentationTask(small(data_set="digits"), World())
    scores = other.model.decode_head.conv_seg.weight.clone()
    assert "anew" in other.finetune(str(folder / "best.safetensors"))
    assert torch.equal(other.model.decode_head.conv_seg.weight, scores)
    with safe_open(folder / "best.safetensors", "pt") as file:
        key = "neck.lateral_convs.0.conv.weight"
        assert torch.equal(other.model.state_dict()[key], file.get_tensor(key))


def test_freeze_trains_neck_and_head_alone(trained, small):
    task = SegmentationTask(small(finetune="x", freeze=True), World())
    learn = {name.split(".")[0] for name, p in task.model.named_parameters() if p.requires_grad}
    assert learn == {"neck", "decode_head"}
    assert not any(p.requires_grad for p in task.model.backbone.parameters())
    task.loss(task.model.train(), task.fake_batch(2)).backward()
    assert not task.model.backbone.training
    assert task.model.neck.training


def test_dry_run_writes_nothing(small, tmp_path, capsys):
    run(small(dry_run=True, output_dir=str(tmp_path / "none"), steps_per_epoch=7))
    out = capsys.readouterr().out
    assert "classes: 150" in out
    assert "2 epochs of 7 steps" in out
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"task": "segmentaton"}, "--task segmentaton is not known; did you mean segmentation?"),
        ({"mixup": 0.5}, "--mixup is about classification"),
        ({"task": "classification"}, "--head-channels is about segmentation"),
        ({"data_set": "digit"}, "did you mean digits?"),
        ({"data_set": "IMNET"}, "--data-set IMNET is not for segmentation"),
        ({"model": "resnet18"}, "--model resnet18 gives no tokens"),
        ({"neck_reduction": "clusters"}, "--neck-reduction clusters is not known; did you mean"),
        ({"neck_heads": 3}, "16 channels of the neck cannot be shared out to 3 heads"),
        ({"scale": (2.0, 0.5)}, "it is 2 0.5"),
        ({"hflip": 2.0}, "--hflip"),
        ({"input_size": 16}, "--input-size is 16"),
        ({"num_classes": 3}, "--num-classes 3 does not fit the 150 classes"),
    ],
)
def test_mistakes_are_one_sentence(small, changes, part):
    with pytest.raises(UserError) as caught:
        run(small(**changes))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 320


def test_weights_that_do_not_fit_are_named(trained, small, tmp_path):
    _, _, folder = trained
    save_weights(create_model("tcformer_nano", num_classes=7), tmp_path / "c.safetensors")
    best = str(folder / "best.safetensors")
    for changes, part in [
        ({"resume": str(tmp_path / "c.safetensors")}, "holds no segmentation model"),
        ({"resume": best, "data_set": "digits"}, "is for 150 classes, but the data"),
        ({"resume": best, "head_channels": 16}, "it differs in decode_head"),
        ({"resume": best, "neck_reduction": "pool"}, "it has too much with neck.merge_blocks"),
        ({"resume": best, "model": "tcformer_light"}, "it differs in backbone."),
    ]:
        with pytest.raises(UserError) as caught:
            run(small(eval=True, **changes))
        assert part in str(caught.value)


@pytest.mark.slow(seconds=200)
def test_the_digits_are_learned(tmp_path, monkeypatch):
    """The default that needs no data; docs/segmentation.md says what it reaches."""
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    monkeypatch.chdir(tmp_path)
    result = run(build({**load_config("configs/segmentation/digits.py")}))
    assert result.best > 40


def draw_own(root, splits):
    """Blue above, red below; `splits` says which of the two classes each split shows."""
    (root / "classes.txt").parent.mkdir(parents=True)
    (root / "classes.txt").write_text("blue sky\nred ground\n")
    for split, numbers in splits.items():
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for i in range(4):
            labels = np.full((40, 36 + i), numbers[0], np.uint8)
            labels[18 + 2 * i :] = numbers[-1]
            colors = np.array([(30, 90, 220), (210, 40, 40)], np.uint8)
            Image.fromarray(colors[labels]).save(root / f"images/{split}/{i}.png")
            labels[0, :5] = 255
            mask = Image.fromarray(labels)
            mask.putpalette([9, 9, 9, 200, 200, 200])
            mask.save(root / f"annotations/{split}/{i}.png")
    return root


def test_two_classes_of_a_folder_are_learned_and_measured_by_name(small, tmp_path, capsys):
    root = draw_own(tmp_path / "own", {"train": (0, 1), "val": (0, 1)})
    cfg = small(data_set="folder", data_path=str(root), epochs=4, lr=0.6, head_channels=16,
                color_jitter=None, scale=(1.0, 1.0), output_dir=str(tmp_path / "run"))  # fmt: skip
    result = run(cfg)
    assert result.best > 80
    assert re.search(r"blue sky \d+\.\d, red ground \d+\.\d", capsys.readouterr().out)
    weights = tmp_path / "run/best.safetensors"
    with safe_open(weights, "pt") as file:
        assert file.metadata()["classes"].split("\n") == ["blue sky", "red ground"]
    sky = draw_own(tmp_path / "sky", {"val": (0,)})
    again = cfg.replace(eval=True, resume=str(weights), output_dir="")
    lines = run(again.replace(data_path=str(sky))).eval_lines
    assert "on the 4 test images" in lines[1]
    assert "blue sky" in lines[2]


def test_zero_may_be_unlabeled(small, tmp_path, capsys):
    """A file remembers it: numbered otherwise, masks show other classes."""
    root = draw_own(tmp_path / "own", {"train": (0, 1), "val": (0, 1)})
    (root / "classes.txt").write_text("ground\n")
    cfg = small(data_set="folder", data_path=str(root), epochs=1, reduce_zero_label=True)
    run(cfg.replace(output_dir=str(tmp_path / "run")))
    assert "IoU of each class: ground 100.0" in capsys.readouterr().out
    with pytest.raises(UserError, match="reduce-zero-label"):
        run(cfg.replace(data_set="digits"))
    again = cfg.replace(eval=True, resume=str(tmp_path / "run" / "best.safetensors"))
    run(again)
    assert "--reduce-zero-label" not in capsys.readouterr().out
    for file in (root / "annotations/val").iterdir():
        Image.fromarray(np.zeros_like(Image.open(file))).save(file)
    run(again.replace(reduce_zero_label=False))
    assert "trained with --reduce-zero-label" in capsys.readouterr().out
