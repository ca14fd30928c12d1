"""transformers over a TCFormer: TimmBackbone inside UperNet, and TimmWrapper as a classifier.

    python examples/transformers_models.py

Both find the models by their timm names; importing tcformer is all that has to happen before.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

import tcformer  # noqa: F401 - registers the models with timm
from features_only import measure, train
from shapes import KINDS, classification_batch

try:
    from transformers import (
        TimmBackboneConfig,
        TimmWrapperConfig,
        TimmWrapperForImageClassification,
        UperNetConfig,
        UperNetForSemanticSegmentation,
    )
except ImportError as error:
    raise SystemExit(
        f"error: this example needs {error.name}; install it with: pip install 'tcformer[dense]'"
    ) from None


class Logits(nn.Module):
    """What the training of the other examples takes: images in, logits out."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> the logits of the wrapped model."""
        return self.model(pixel_values=images).logits


def segment(name: str, steps: int, size: int) -> None:
    """Train UperNet over the four maps of the backbone."""
    backbone = TimmBackboneConfig(
        backbone=name, use_pretrained_backbone=False, out_indices=[0, 1, 2, 3]
    )
    config = UperNetConfig(
        backbone_config=backbone, num_labels=4, hidden_size=64, use_auxiliary_head=False
    )
    model = Logits(UperNetForSemanticSegmentation(config))
    print(f"TimmBackbone in UperNet, untrained: mean IoU {measure(model, size):.1f} %")
    found = train(model, steps=steps, size=size)
    print(f"TimmBackbone in UperNet, trained: mean IoU {found:.1f} %")


def classify(name: str, steps: int, size: int) -> None:
    """Train the wrapped classifier to name the one shape of a picture."""
    config = TimmWrapperConfig(architecture=name, num_labels=len(KINDS))
    model = TimmWrapperForImageClassification(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    print(f"TimmWrapper, untrained: {accuracy(model, size):.1f} % right")
    model.train()
    for step in range(steps):
        images, labels = classification_batch(step * 16, 16, size)
        loss = model(pixel_values=images, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"TimmWrapper, trained: {accuracy(model, size):.1f} % right")


@torch.no_grad()
def accuracy(model: nn.Module, size: int) -> float:
    """Share of 64 pictures of another seed that are named right, in percent."""
    images, labels = classification_batch(0, 64, size, seed=1)
    return 100 * (model.eval()(images).logits.argmax(1) == labels).float().mean().item()


def main() -> None:
    """Train both, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tcformer_nano", help="a tcformer by its timm name")
    parser.add_argument("--steps", type=int, default=80, help="training steps of each model")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures, pixels")
    options = parser.parse_args()
    torch.manual_seed(0)
    segment(options.model, options.steps, options.size)
    classify(options.model, options.steps, options.size)


if __name__ == "__main__":
    main()
