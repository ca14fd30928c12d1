"""The networks for segmentation and keypoints: shapes, the released files' keys, gradients."""

import pytest
import torch
import torch.nn.functional as F
from one_step import train_one_step

import golden
from tcformer.models import SemanticFPN, SemanticFPNHead
from tcformer.models.heads import HeatmapHead, TopDownPose
from tcformer.zoo import create_model


def small(kind, name="tcformer_nano", **options):
    torch.manual_seed(0)
    settings = {"neck_channels": 16, "neck_heads": 2, **options}
    if kind is SemanticFPN:
        settings["channels"] = 8
    return kind(create_model(name, num_classes=0), 5, **settings)


@pytest.mark.parametrize(
    ("kind", "name", "reduction"),
    [
        (SemanticFPN, "tcformerv2_nano", "cluster_norm"),
        (SemanticFPN, "tcformer_nano", "pool"),
        (TopDownPose, "tcformer_nano", "cluster_norm"),
        (TopDownPose, "tcformerv2_nano", "pool"),
    ],
)
def test_one_step_reaches_every_parameter(kind, name, reduction):
    model = small(kind, name, reduction=reduction).train()
    images, labels = torch.randn(2, 3, 64, 96), torch.randint(0, 5, (2, 16, 24))
    train_one_step(model, lambda: F.cross_entropy(model(images), labels))


@pytest.mark.parametrize("kind", [SemanticFPN, TopDownPose])
@torch.inference_mode()
def test_any_size_and_no_image_sees_its_batch_mates(kind):
    model = small(kind).eval()
    for size in ((50, 70), (33, 65), (32, 32)):
        images = torch.randn(3, 3, *size)
        found = model(images)
        assert found.shape == (3, 5, -(-size[0] // 4), -(-size[1] // 4))
        torch.testing.assert_close(found[1:2], model(images[1:2]), rtol=0, atol=1e-5)


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
    expected = F.conv2d(block(0, fine) + up, head.conv_seg.weight, head.conv_seg.bias)
    assert torch.allclose(head([fine, coarse]), expected, atol=1e-6)
    published = SemanticFPNHead(256, 150)
    assert [len(level) for level in published.scale_heads] == [1, 1, 2, 3]
    assert published.state_dict()["scale_heads.3.1.conv.weight"].shape == (128, 128, 3, 3)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("tcformer_light", 16_419_080),
        ("tcformer", 27_782_152),
        ("tcformer_large", 65_006_344),
    ],
)
def test_published_networks_for_keypoints(name, parameters):
    with torch.device("meta"):
        model = TopDownPose(create_model(name, num_classes=0), 133)
    assert sum(p.numel() for p in model.parameters()) == parameters
    keys = {key: list(value.shape) for key, value in model.state_dict().items()}
    own = {k.removeprefix("backbone."): v for k, v in keys.items() if k.startswith("backbone.")}
    published = golden.key_shapes(name)
    assert own == {k: list(v) for k, v in published.items() if not k.startswith("head.")}
    assert sum(k.startswith("neck.") for k in keys) == 59
    assert keys["keypoint_head.final_layer.weight"] == [133, 256, 1, 1]
    assert keys["neck.lateral_convs.3.conv.weight"] == [256, 512, 1, 1]
    assert keys["neck.merge_blocks.2.mlp.dwconv.weight"] == [1024, 1, 3, 3]
    assert keys["neck.merge_blocks.2.mlp.dwconv.skip.weight"] == [1024, 1, 1]


@pytest.mark.parametrize("kind", [SemanticFPN, TopDownPose])
def test_mistakes_are_sentences(kind):
    with pytest.raises(ValueError, match="Identity gives none"):
        kind(torch.nn.Identity(), 3)
    with pytest.raises(ValueError, match="cannot be shared out to 3 heads"):
        small(kind, neck_heads=3)
    with pytest.raises(ValueError, match="num_classes must be an integer from 1"):
        SemanticFPNHead(6, 0)
    with pytest.raises(ValueError, match="num_keypoints must be an integer from 1"):
        HeatmapHead(8, 0)
    with pytest.raises(ValueError, match="has 4 levels, but 1 maps came"):
        SemanticFPNHead(6, 3)([torch.zeros(1, 6, 4, 4)])
