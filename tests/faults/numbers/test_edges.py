"""Numbers and sizes at the edge: what happens is defined, whatever comes in."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from processes import Family
from runs import RUN, make_images
from toy_task import ToyTask, config, train

from tcformer.errors import UserError
from tcformer.runtime.distributed import World
from tcformer.runtime.signals import interrupt
from tcformer.tasks.classification.evaluator import batch_sums
from tcformer.tasks.runner import run
from tcformer.tasks.segmentation.evaluator import MeanIoU, best_class, confusion
from tcformer.training.loop import NotFinite, fit
from tcformer.training.options import build
from tcformer.weights.metadata import save_weights
from tcformer.weights.safe_torch import safe_torch_load
from tcformer.zoo import create_model

SMALL = {
    "model": "tcformer_nano", "input_size": 32, "batch_size": 2, "num_workers": 0, "epochs": 1,
    "warmup_epochs": 0, "device": "cpu", "save_every": 0, "threads": 1,
}  # fmt: skip


def small(**options):
    interrupt.clear()
    return build({**SMALL, **options})


def folder_of(root, train=4, val=2, **options):
    """Two classes of noise."""
    return str(make_images(root, train, val, classes=2, **options))


def logged(folder):
    return [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return create_model("tcformer_nano", num_classes=3)


def assert_finite(model, images, *, finite=True):
    """The scores and the norm of the gradient are finite (or the scores are not)."""
    model.zero_grad()
    scores = model(images)
    assert bool(scores.isfinite().all()) == finite
    if finite:
        scores.square().sum().backward()
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        assert math.isfinite(torch.nn.utils.get_total_norm(grads))


@pytest.mark.parametrize("score", [1e3, -1e30, 1e30])
def test_importance_scores_do_not_overflow(network, score):
    """exp(s) is infinite from 89 on; the merge and the attention only use differences."""
    model = copy.deepcopy(network)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("score.weight"):
                parameter.mul_(score)
            elif name.endswith("score.bias"):
                parameter.fill_(score)
    assert_finite(model, torch.randn(2, 3, 32, 32))


def test_an_infinite_score_is_not_hidden(network):
    """It must come out as NaN, where the loop looks, and not as some plausible number."""
    model = copy.deepcopy(network)
    with torch.no_grad():
        model.ctm1.score.bias.fill_(math.inf)
    assert_finite(model, torch.randn(2, 3, 32, 32), finite=False)


@pytest.mark.parametrize("value", [0.0, -1e4, 1e6])
def test_constant_images(network, value):
    assert_finite(network, torch.full((2, 3, 32, 32), value))


@pytest.mark.parametrize("side", [(1, 1), (2, 3), (1, 50), (33, 7)])
def test_images_smaller_than_a_patch(network, side):
    """The stem looks at 7 x 7 pixels and steps by 4."""
    assert_finite(network, torch.randn(2, 3, *side))


@pytest.mark.parametrize("data", [{"size": (1, 1)}, {"color": 0}], ids=["one pixel", "black"])
def test_training_on_flat_images(tmp_path, data):
    path = folder_of(tmp_path / "data", **data)
    run(small(data_path=path, output_dir=str(tmp_path / "out"), input_size=8))
    (row,) = logged(tmp_path / "out")
    assert math.isfinite(row["train_loss"])
    assert math.isfinite(row["test_loss"])
    assert 0 <= row["test_acc1"] <= 100


# ---- pixels of few classes


def ade_of(root, labels):
    """ADE20K of one image a split with these labels (1 to 150; 0 is nothing)."""
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        noise = np.random.RandomState(1).randint(0, 256, (*labels.shape, 3)).astype(np.uint8)
        Image.fromarray(noise).save(root / "images" / split / "a.jpg")
        Image.fromarray(labels).save(root / "annotations" / split / "a.png")
    return str(root)


def one_pixel(value):
    labels = np.full((40, 36), 5, np.uint8)
    labels[20, 10] = value
    return labels


@pytest.mark.slow(seconds=5)
@pytest.mark.parametrize(
    "labels",
    [np.full((1, 1), 3, np.uint8), np.where(one_pixel(0) == 0, 7, 0)],
    ids=["an image of one pixel", "one pixel has a label"],
)
def test_segmentation_of_single_pixels(tmp_path, labels):
    options = {
        "task": "segmentation", "data_set": "ADE20K", "neck_channels": 16, "neck_heads": 2,
        "head_channels": 8, "steps_per_epoch": 2, "batch_size": 1,
    }  # fmt: skip
    path = ade_of(tmp_path / "data", labels.astype(np.uint8))
    result = run(small(data_path=path, output_dir=str(tmp_path / "out"), **options))
    assert 0 <= result.best <= 100
    (row,) = logged(tmp_path / "out")
    assert math.isfinite(row["train_loss"])


def test_a_class_of_one_pixel_counts_as_much_as_any():
    labels = torch.zeros(10, 10, dtype=torch.uint8)
    labels[3, 3] = 1
    measured = MeanIoU(confusion(torch.zeros(10, 10).long(), labels, 3))
    assert measured.per_class[:2] == [99.0, 0.0]
    assert measured.mean == 49.5
    assert math.isnan(measured.per_class[2])


# ---- few images


def test_fewer_images_than_a_batch_is_refused(tmp_path):
    path = folder_of(tmp_path)
    with pytest.raises(UserError, match=r"has 4 images, fewer than one batch of 6 .* 4 or less"):
        run(small(data_path=path, batch_size=6))


def test_a_batch_of_one_cannot_be_mixed(tmp_path):
    with pytest.raises(UserError, match=r"--batch-size 1 is odd, but mixup and CutMix pair"):
        run(small(data_path=folder_of(tmp_path), batch_size=1))


def test_a_batch_that_shrinks_to_one_image_is_trained_on_unmixed(tmp_path):
    path = folder_of(tmp_path / "data")
    (tmp_path / "data/train/class0/000.png").write_bytes(b"not an image")
    run(small(data_path=path, output_dir=str(tmp_path / "out")))
    (row,) = logged(tmp_path / "out")
    assert row["corrupt"] == 1
    assert math.isfinite(row["train_loss"])


def test_batch_norm_of_one_value_is_a_sentence(tmp_path):
    path = folder_of(tmp_path)
    options = {"model": "resnet10t", "batch_size": 1, "mixup": 0.0, "cutmix": 0.0}
    with pytest.raises(UserError, match=r"resnet10t has batch norm, .* a batch of 1 image\(s\)"):
        run(small(data_path=path, **options))


@pytest.mark.slow(seconds=15)
def test_fewer_images_than_processes(tmp_path):
    """Two images are evaluated by three processes as by one; training on them is refused."""
    path = folder_of(tmp_path / "data", train=2, val=2)
    command = (
        *("train", "--model", "tcformer_nano", "--input-size", "32", "--data-path", path),
        *("--batch-size", "1", "--device", "cpu", "--num_workers", "2"),
        *("--mixup", "0", "--cutmix", "0"),
    )
    family = Family(tmp_path, "tcformer.tasks.runner")
    try:
        lines = []
        for size in (1, 3):
            ended = family.run(RUN, size, *command, "--eval")
            assert [p.status for p in ended] == [0] * size, ended[0].err
            lines.append([line for line in ended[0].out.splitlines() if line.startswith("* Acc")])
        assert lines[0] == lines[1] != []
        refused = family.run(RUN, 3, *command, "--epochs", "1")
        assert all(p.status for p in refused)
        told = [p.err for p in refused if p.err]
        assert len(told) == 1, told
        assert (
            "has 2 images, fewer than one batch of 1 on each of 3 processes: use fewer" in told[0]
        )
    finally:
        family.close()


# ---- scores, weights and options that are not finite


def test_scores_that_are_not_finite_are_never_right():
    scores = torch.eye(4)
    scores[1, 2] = math.nan
    scores[2] = math.inf
    loss, top1, top5, images, unfit = batch_sums(scores, torch.arange(4)).tolist()
    assert math.isnan(loss)
    assert (top1, top5, images, unfit) == (2, 2, 4, 2)


def test_pixels_without_a_finite_score_are_never_right():
    scores = torch.zeros(3, 4, 4)
    scores[:, 0] = math.nan
    scores[1, 1] = math.inf
    found = best_class(scores, (4, 4))
    assert found[:2].eq(3).all()
    assert found[2:].eq(0).all()
    counts = confusion(found, torch.zeros(4, 4, dtype=torch.uint8), 3)
    measured = MeanIoU(counts)
    assert measured.pixel_accuracy == 50
    assert measured.per_class[0] == 50
    assert all(
        math.isnan(value) for value in measured.per_class[1:]
    )  # not charged to another class


def test_an_evaluation_of_unfit_weights_says_so(tmp_path, capsys):
    path = folder_of(tmp_path)
    model = create_model("tcformer_nano", num_classes=2)
    with torch.no_grad():
        model.head.bias[0] = math.nan
    save_weights(model.state_dict(), tmp_path / "unfit.safetensors")
    result = run(small(data_path=path, eval=True, resume=str(tmp_path / "unfit.safetensors")))
    assert result.best == 0
    assert "NOTICE: 2 images got scores that are infinite or NaN" in capsys.readouterr().out


def test_weights_that_are_not_finite_replace_no_checkpoint(tmp_path):
    """The last update of an epoch makes them; its loss and gradient were finite."""
    options = {"output_dir": str(tmp_path), "opt": "sgd", "warmup_epochs": 0}
    train(config(epochs=1, **options), steps=1)
    cfg = config(epochs=2, lr=1e35, resume="auto", **options)
    task = ToyTask(cfg, steps=1)
    for parameter in task.model.parameters():
        parameter.register_hook(lambda gradient: gradient * 1e10)
    with pytest.raises(NotFinite, match=r"The weights are not finite any more.*lower --lr"):
        fit(task, cfg, World())
    assert math.isfinite(task.losses[0])
    kept = safe_torch_load(tmp_path / "checkpoint.pth")
    assert kept["epoch"] == 0
    assert all(value.isfinite().all() for value in kept["model"].values())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr", math.nan),
        ("weight_decay", math.inf),
        ("clip_grad", math.inf),
        ("drop_path", math.nan),
    ],
)
def test_options_that_are_not_finite_are_refused(name, value):
    with pytest.raises(UserError, match=rf"--{name.replace('_', '-')} is (nan|inf), but a finite"):
        config(**{name: value})
