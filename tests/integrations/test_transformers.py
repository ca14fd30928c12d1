"""transformers wraps the backbones by their timm names: TimmBackbone and TimmWrapper."""

import pytest
import torch
from one_step import train_one_step

import tcformer  # noqa: F401 - registers the models with timm

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def backbone_config():
    return transformers.TimmBackboneConfig(
        backbone="tcformer_nano", use_pretrained_backbone=False, out_indices=[0, 1, 2, 3]
    )


def test_backbone():
    torch.manual_seed(0)
    model = transformers.TimmBackbone(backbone_config()).train()
    assert model.channels == [32, 64, 160, 256]
    maps = model(IMAGES).feature_maps
    assert [tuple(m.shape) for m in maps] == [
        (2, 32, 16, 16),
        (2, 64, 8, 8),
        (2, 160, 4, 4),
        (2, 256, 2, 2),
    ]
    # Not the mean square: it is nearly constant after the norms.
    train_one_step(
        model, lambda: sum((m.sigmoid() ** 2).mean() for m in model(IMAGES).feature_maps)
    )


def test_backbone_of_upernet(tmp_path):
    torch.manual_seed(0)
    config = transformers.UperNetConfig(
        backbone_config=backbone_config(), num_labels=5, hidden_size=32, use_auxiliary_head=False
    )
    model = transformers.UperNetForSemanticSegmentation(config).train()
    labels = torch.randint(5, (2, 64, 64))
    assert model(IMAGES).logits.shape == (2, 5, 64, 64)
    train_one_step(model, lambda: model(IMAGES, labels=labels).loss)
    model.save_pretrained(tmp_path)
    again = transformers.UperNetForSemanticSegmentation.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = model.eval()(IMAGES).logits
        torch.testing.assert_close(again(IMAGES).logits, expected, rtol=1e-5, atol=1e-5)


def test_wrapper_classifies(tmp_path):
    torch.manual_seed(0)
    config = transformers.TimmWrapperConfig(architecture="tcformer_nano", num_labels=7)
    model = transformers.TimmWrapperForImageClassification(config).train()
    labels = torch.tensor([1, 2])
    output = model(IMAGES, labels=labels, output_hidden_states=True)
    assert output.logits.shape == (2, 7)
    assert [h.shape[1] for h in output.hidden_states] == [32, 64, 160, 256]
    train_one_step(model, lambda: model(IMAGES, labels=labels).loss)
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = model.eval()(IMAGES).logits
        torch.testing.assert_close(again(IMAGES).logits, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_wrapper_without_a_classifier():
    config = transformers.TimmWrapperConfig(architecture="tcformer_nano")
    output = transformers.TimmWrapperModel(config).eval()(IMAGES)
    assert output.last_hidden_state.shape == (2, 4, 256)
    assert output.pooler_output.shape == (2, 256)
