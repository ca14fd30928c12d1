"""The options reach the data, the model and the loss."""

from __future__ import annotations

import pytest
import torch
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from tcformer.errors import UserError
from tcformer.runtime.distributed import World
from tcformer.tasks.classification.task import ClassificationTask, build_model


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, SoftTargetCrossEntropy),
        ({"mixup": 0.0}, SoftTargetCrossEntropy),  # CutMix alone: the published code fails here
        ({"cutmix": 0.0}, SoftTargetCrossEntropy),
        ({"mixup": 0.0, "cutmix": 0.0}, LabelSmoothingCrossEntropy),
        ({"mixup": 0.0, "cutmix": 0.0, "cutmix_minmax": (0.3, 0.6)}, SoftTargetCrossEntropy),
        ({"mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0}, nn.CrossEntropyLoss),
    ],
)
def test_loss_and_gradient_of_each_kind(small, changes, kind):
    task = ClassificationTask(small(**changes), World())
    assert type(task.criterion) is kind
    batch = next(task.batches(0, 0))
    assert (batch.targets.ndim == 2) == (kind is SoftTargetCrossEntropy)
    loss = task.loss(task.model, batch)
    loss.backward()
    assert loss.ndim == 0
    assert task.model.head.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("changes", [{}, {"mixup": 0.0, "cutmix": 0.0}])
def test_the_loss_is_not_rounded_under_autocast(small, changes):
    """Of scores that bfloat16 holds exactly, the loss is that of float32."""
    task = ClassificationTask(small(**changes), World())
    batch = next(task.batches(0, 0))
    logits = (torch.randn(len(batch.images), task.num_classes) * 4).bfloat16()
    exact = task.criterion(logits.float(), batch.targets).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = task.batch_loss(lambda _: logits, batch)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact, rel=1e-6)


def test_batches_start_anywhere(small):
    """And loading them leaves the random generators alone."""
    task = ClassificationTask(small(), World())
    assert task.steps_per_epoch == 3
    before = torch.get_rng_state()
    whole = list(task.batches(1, 0))
    rest = list(task.batches(1, 2))
    assert len(whole) == 3
    assert len(rest) == 1
    assert all(torch.equal(a, b) for a, b in zip(whole[2], rest[0], strict=True))
    assert torch.equal(before, torch.get_rng_state())


def test_repeated_augmentation_shows_images_three_times(small):
    task = ClassificationTask(small(repeated_aug=True, batch_size=6), World())
    indices = torch.cat([b.indices for b in task.batches(0, 0)]).tolist()
    assert len(indices) == 12
    assert {indices.count(i) for i in indices} == {3}


def test_options_reach_the_model(small):
    task = ClassificationTask(small(drop=0.3, drop_path=0.2, in_chans=1), World())
    assert task.model.patch_embed1.proj.weight.shape[1] == 1
    rates = {m.drop_prob for m in task.model.modules() if type(m).__name__ == "DropPath"}
    assert max(rates) == pytest.approx(0.2)
    assert 0.3 in {m.p for m in task.model.modules() if isinstance(m, nn.Dropout)}


def test_options_of_the_merges_reach_the_model(small):
    options = {"keep_ratio": (0.5,), "k": 3, "part_grids": ("2x2", "1", "1")}
    task = ClassificationTask(small(model="tcformerv2_nano", **options), World())
    rules = [task.model.get_submodule(f"ctm{i}").rule for i in (1, 2, 3)]
    assert [(r.keep_ratio, r.k, r.grids[0]) for r in rules] == [
        (0.5, 3, (2, 2)), (0.5, 3, (1, 1)), (0.5, 3, (1, 1)),
    ]  # fmt: skip
    counts = [t.layout.num_tokens for t in task.model.forward_tokens(torch.zeros(1, 3, 32, 32))]
    assert counts == [64, 32, 16, 8]
    task = ClassificationTask(small(num_clusters=(20, 10, 5)), World())
    counts = [t.layout.num_tokens for t in task.model.forward_tokens(torch.zeros(1, 3, 32, 32))]
    assert counts == [64, 20, 10, 5]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keep_ratio": (1.5,)}, "--model tcformer_nano cannot be built .*keep_ratio must lie in"),
        ({"keep_ratio": (0.5,), "num_clusters": (3,)}, "keep_ratio and num_clusters both say"),
        ({"k": 0}, "k must be an integer from 1"),
        ({"num_clusters": (0,)}, "num_clusters must be an integer from 1"),
        ({"part_grids": ("4x4", "3x3", "1x1")}, "3x3 does not divide the one before it, 4x4"),
        ({"part_grids": ("0", "0", "0")}, "two positive integers"),
        ({"part_grids": ("4 by 4",)}, "--part-grids is given '4 by 4'"),
        ({"model": "resnet18", "k": 3}, "--k is about the merging of tokens, and resnet18"),
        ({"model": "tcformerv2_nano", "pretrained": True}, "no released weights for tcformerv2_"),
    ],
)
def test_impossible_merges_are_one_sentence(small, changes, words):
    with pytest.raises(UserError, match=words) as error:
        build_model(small(**changes), 2)
    assert "\n" not in str(error.value)


def test_fake_batches_look_like_real_ones(small):
    task = ClassificationTask(small(), World())
    real, fake = next(task.batches(0, 0)), task.fake_batch(4)
    for a, b in zip(real, fake, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
