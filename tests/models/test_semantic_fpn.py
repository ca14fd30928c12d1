"""Semantic FPN: shapes at any size, gradients everywhere, nothing depends on the batch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from one_step import train_one_step

from tcformer.models import SemanticFPN, SemanticFPNHead
from tcformer.zoo import create_model


def small(name="tcformer_nano", **options):
    torch.manual_seed(0)
    backbone = create_model(name, num_classes=0)
    return SemanticFPN(backbone, 5, neck_channels=16, neck_heads=2, channels=8, **options)


@pytest.mark.parametrize("name", ["tcformer_nano", "tcformerv2_nano"])
@pytest.mark.parametrize("reduction", ["cluster_norm", "pool"])
def test_one_step_reaches_every_parameter(name, reduction):
    model = small(name, reduction=reduction).train()
    images, labels = torch.randn(2, 3, 64, 96), torch.randint(0, 5, (2, 16, 24))
    train_one_step(model, lambda: F.cross_entropy(model(images), labels))


@pytest.mark.parametrize("size", [(50, 70), (33, 65), (32, 32)])
def test_any_size(size):
    scores = small().eval()(torch.randn(1, 3, *size))
    assert scores.shape[2:] == (-(-size[0] // 4), -(-size[1] // 4))


def test_an_image_does_not_see_its_batch_mates():
    model = small().eval()
    images = torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(model(images)[1:2], model(images[1:2]), atol=1e-5)


def test_the_head_by_hand():
    """Two levels: each is convolved, the coarse one doubled, and the sum is scored."""
    torch.manual_seed(0)
    head = SemanticFPNHead(6, 3, channels=4, levels=2).eval()
    fine, coarse = torch.randn(1, 6, 8, 8), torch.randn(1, 6, 4, 4)

    def block(level, x):
        part = head.scale_heads[level][0]
        x = F.conv2d(x, part.conv.weight, padding=1)
        return F.group_norm(x, 1, part.norm.weight, part.norm.bias).relu()

    up = F.interpolate(block(1, coarse), scale_factor=2, mode="bilinear", align_corners=False)
    total = block(0, fine) + up
    expected = F.conv2d(total, head.conv_seg.weight, head.conv_seg.bias)
    assert torch.allclose(head([fine, coarse]), expected, atol=1e-6)


def test_blocks_of_each_level():
    head = SemanticFPNHead(256, 150)
    assert [len(level) for level in head.scale_heads] == [1, 1, 2, 3]
    assert head.state_dict()["scale_heads.3.1.conv.weight"].shape == (128, 128, 3, 3)


def test_mistakes_are_sentences():
    with pytest.raises(ValueError, match="Identity gives none"):
        SemanticFPN(torch.nn.Identity(), 3)
    with pytest.raises(ValueError, match="cannot be shared out to 3 heads"):
        SemanticFPN(create_model("tcformer_nano", num_classes=0), 3, neck_channels=16, neck_heads=3)
    with pytest.raises(ValueError, match="num_classes must be an integer from 1"):
        SemanticFPNHead(6, 0)
    with pytest.raises(ValueError, match="has 4 levels, but 1 maps came"):
        SemanticFPNHead(6, 3)([torch.zeros(1, 6, 4, 4)])
