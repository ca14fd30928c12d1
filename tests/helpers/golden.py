"""Weights, images and training batches behind the golden values in tests/golden/model."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

FOLDER = Path(__file__).parents[1] / "golden" / "model"
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@cache
def values() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "procedural.npz") as archive:
        return dict(archive)


def key_shapes(model: str) -> dict[str, list[int]]:
    return json.loads((FOLDER / "key_shapes.json").read_text())[model]


def training_losses(dtype: str = "float32") -> list[float]:
    """The published code's loss before each of 40 updates."""
    return json.loads((FOLDER / "training_losses.json").read_text())[dtype]


def fill(model: nn.Module, mode: str = "") -> nn.Module:
    """Give a model the weights that its key names stand for.

    The values of V2 were recorded with two other scales, "std" and "fan".
    """
    state = {}
    norm = 0.02 if mode else 0.1
    for key, value in model.state_dict().items():
        shape = tuple(value.shape)
        normal = np.random.RandomState(zlib.crc32(key.encode())).standard_normal(shape)
        if key.endswith("bias"):
            normal = 0.02 * normal
        elif "score.weight" in key:
            normal = 0.2 * normal
        elif len(shape) == 1:
            normal = 1 + norm * normal
        elif mode == "std":
            normal = 0.02 * normal
        else:
            normal = normal / np.sqrt(np.prod(shape[1:]))
        state[key] = torch.tensor(normal, dtype=torch.float32)
    model.load_state_dict(state)
    return model


def normalize(pictures: np.ndarray) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32, as for ImageNet."""
    return (torch.tensor(pictures).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD


def training_batch(step: int) -> tuple[Tensor, Tensor]:
    """Coarse random colours with noise; the label says which colours prevail."""
    random = np.random.RandomState(1000 + step)
    base = random.randint(0, 256, (8, 8, 8, 3))
    fine = base.repeat(8, axis=1).repeat(8, axis=2) + random.randint(-20, 21, (8, 64, 64, 3))
    red, green, blue = (base[..., channel].mean((1, 2)) for channel in range(3))
    label = (red > blue) + 2 * (green > 127.5)
    return normalize(fine.clip(0, 255).astype(np.uint8)), torch.tensor(label.astype(np.int64))


def train(model: nn.Module, steps: int) -> Iterator[float]:
    """The recorded training, in the model's own precision: yields the loss before each update.

    The update of a step is made when the next one is asked for, and the last one with the end.
    """
    dtype = next(model.parameters()).dtype
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4)
    model.train()
    for step in range(steps):
        images, labels = training_batch(step)
        loss = F.cross_entropy(model(images.to(dtype)), labels)
        yield loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def by_first_appearance(partition: np.ndarray) -> np.ndarray:
    """Renumber every image's labels in the order in which they first occur."""
    renumbered = np.empty_like(partition)
    for b, row in enumerate(partition):
        _, first, inverse = np.unique(row, return_index=True, return_inverse=True)
        renumbered[b] = np.argsort(np.argsort(first))[inverse.reshape(-1)]
    return renumbered
