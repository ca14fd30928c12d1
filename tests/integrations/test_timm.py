"""timm's `features_only`: maps at strides 4 to 32, any selection of them, one training step."""

import pytest
import timm
import torch
from one_step import train_one_step
from torch import nn

import tcformer


@pytest.mark.parametrize("name", tcformer.models.VARIANTS)
def test_every_variant_describes_its_maps(name):
    with torch.device("meta"):
        model = timm.create_model(name, features_only=True)
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    widths = [32, 64, 160, 256] if name.endswith("nano") else [64, 128, 320, 512]
    assert model.feature_info.channels() == widths


class Decoder(nn.Module):
    """The least that can be put on a pyramid: every map to one width, enlarged and added."""

    def __init__(self, out_indices=(0, 1, 2, 3)):
        super().__init__()
        self.features = timm.create_model(
            "tcformer_nano", features_only=True, out_indices=out_indices
        )
        widths = self.features.feature_info.channels()
        self.lateral = nn.ModuleList(nn.Conv2d(width, 4, 1) for width in widths)

    def forward(self, images):
        maps = [conv(m) for conv, m in zip(self.lateral, self.features(images), strict=True)]
        size = maps[0].shape[2:]
        return sum(nn.functional.interpolate(m, size=size) for m in maps)


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (1, 3)])
def test_one_step_reaches_every_parameter(out_indices):
    torch.manual_seed(0)
    model = Decoder(out_indices).train()
    images = torch.randn(2, 3, 64, 96)
    stride = 4 * 2 ** out_indices[0]
    labels = torch.randint(4, (2, 64 // stride, 96 // stride))
    train_one_step(model, lambda: nn.functional.cross_entropy(model(images), labels))
