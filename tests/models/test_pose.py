"""The network for keypoints: shapes, the released files' keys, gradients."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tcformer.models.heads import HeatmapHead, TopDownPose
from tcformer.zoo import create_model

KEYS = Path(__file__).parents[1] / "golden" / "model" / "key_shapes.json"


def nano(name="tcformer_nano", **options):
    torch.manual_seed(0)
    settings = {"neck_channels": 16, "neck_heads": 2, **options}
    return TopDownPose(create_model(name, num_classes=0), 5, **settings)


@pytest.mark.parametrize("name", ["tcformer_nano", "tcformerv2_nano"])
@pytest.mark.parametrize("reduction", ["pool", "cluster_norm"])
def test_heat_maps_and_gradients(name, reduction):
    model = nano(name, reduction=reduction)
    images = torch.randn(2, 3, 64, 48)
    heatmaps = model(images)
    assert heatmaps.shape == (2, 5, 16, 12)
    heatmaps.square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None]
    assert without == []


@pytest.mark.parametrize(
    ("name", "parameters", "tensors"),
    [("tcformer_light", 16_419_080, 191), ("tcformer", 27_782_152, 354),
     ("tcformer_large", 65_006_344, 879)],
)  # fmt: skip
def test_published_sizes(name, parameters, tensors):
    with torch.device("meta"):
        model = TopDownPose(create_model(name, num_classes=0), 133)
    assert sum(p.numel() for p in model.parameters()) == parameters
    keys = model.state_dict()
    assert sum(k.startswith("backbone.") for k in keys) == tensors
    assert sum(k.startswith("neck.") for k in keys) == 59
    assert keys["keypoint_head.final_layer.weight"].shape == (133, 256, 1, 1)
    assert keys["neck.lateral_convs.3.conv.weight"].shape == (256, 512, 1, 1)
    assert keys["neck.merge_blocks.2.mlp.dwconv.weight"].shape == (1024, 1, 3, 3)
    assert keys["neck.merge_blocks.2.mlp.dwconv.skip.weight"].shape == (1024, 1, 1)


def test_backbone_keys_are_the_published_ones():
    published = json.loads(KEYS.read_text())["tcformer"]
    with torch.device("meta"):
        model = TopDownPose(create_model("tcformer", num_classes=0), 133)
    own = {
        key.removeprefix("backbone."): list(value.shape)
        for key, value in model.state_dict().items()
        if key.startswith("backbone.")
    }
    assert own == {k: list(v) for k, v in published.items() if not k.startswith("head.")}


def test_refusals():
    with pytest.raises(ValueError, match="gives tokens"):
        TopDownPose(torch.nn.Identity(), 5)
    with pytest.raises(ValueError, match="shared out"):
        nano(neck_heads=3)
    with pytest.raises(ValueError, match="num_keypoints must be an integer from 1"):
        HeatmapHead(8, 0)
