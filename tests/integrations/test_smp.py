"""segmentation-models-pytorch finds the backbones as `tu-NAME`."""

import pytest
import torch
from one_step import train_one_step
from torch.nn.functional import cross_entropy

import tcformer  # noqa: F401 - registers the models with timm

smp = pytest.importorskip(
    "segmentation_models_pytorch", reason="segmentation-models-pytorch is not installed"
)


@pytest.mark.parametrize("decoder", ["FPN", "UPerNet"])
def test_one_step_reaches_every_parameter(decoder):
    torch.manual_seed(0)
    model = getattr(smp, decoder)("tu-tcformer_nano", encoder_weights=None, classes=5).train()
    images, labels = torch.randn(2, 3, 64, 96), torch.randint(5, (2, 64, 96))
    assert model(images).shape == (2, 5, 64, 96)
    train_one_step(model, lambda: cross_entropy(model(images), labels))


@pytest.mark.parametrize("decoder", ["Unet", "Segformer"])
@torch.no_grad()
def test_oblong_images(decoder):
    model = getattr(smp, decoder)("tu-tcformer_nano", encoder_weights=None, classes=2).eval()
    assert model(torch.randn(1, 3, 32, 160)).shape == (1, 2, 32, 160)


def test_fpn_says_which_sizes_it_takes():
    model = smp.FPN("tu-tcformer_nano", encoder_weights=None, classes=2).eval()
    with pytest.raises(RuntimeError, match="divisible by"):
        model(torch.randn(1, 3, 50, 64))
