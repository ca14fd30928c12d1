"""timm's `features_only` as the encoder of a head of one's own: find shapes, pixel by pixel.

    python examples/features_only.py

The head is the least that can be put on a pyramid; the last line says how well it does.
"""

from __future__ import annotations

import argparse

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

import tcformer  # noqa: F401 - registers the models with timm
from shapes import mean_iou, segmentation_batch


class Decoder(nn.Module):
    """Every map to one width, enlarged to the finest and added; then one label a pixel."""

    def __init__(self, name: str, classes: int, width: int = 64):
        super().__init__()
        self.features = timm.create_model(name, features_only=True)
        channels = self.features.feature_info.channels()
        self.lateral = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.mix = nn.Conv2d(width, width, 3, padding=1)
        self.label = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, classes, H, W)."""
        maps = [conv(m) for conv, m in zip(self.lateral, self.features(images), strict=True)]
        size = maps[0].shape[2:]
        added = sum(interpolate(m, size=size, mode="bilinear") for m in maps)
        labels = self.label(self.mix(added).relu())
        return interpolate(labels, size=images.shape[2:], mode="bilinear")


def train(model: nn.Module, *, steps: int, size: int, batch: int = 8, lr: float = 1e-3) -> float:
    """Train on pictures that are never repeated; the mean IoU on 64 others, in percent."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    model.train()
    for step in range(steps):
        images, labels = segmentation_batch(step * batch, batch, size)
        loss = cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            print(f"step {step:4d}  loss {loss.item():.3f}")
    return measure(model, size)


@torch.no_grad()
def measure(model: nn.Module, size: int) -> float:
    """Mean IoU on 64 pictures of another seed, in percent."""
    images, labels = segmentation_batch(0, 64, size, seed=1)
    return mean_iou(model.eval()(images).argmax(1), labels)


def main() -> None:
    """Train, and print the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tcformer_nano", help="a tcformer by its timm name")
    parser.add_argument("--steps", type=int, default=80, help="training steps of 8 pictures")
    parser.add_argument("--size", type=int, default=64, help="side of the pictures, pixels")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = Decoder(options.model, classes=4)
    print(f"untrained: mean IoU {measure(model, options.size):.1f} %")
    print(f"trained: mean IoU {train(model, steps=options.steps, size=options.size):.1f} %")


if __name__ == "__main__":
    main()
