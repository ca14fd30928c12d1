"""What goes into an exported model and what comes out: the part that its users must know."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import tcformer

__all__ = ["INPUTS", "OUTPUTS", "Contract"]

INPUTS = ("normalised", "pixels")
"""Images as the network takes them, or as cameras and files give them."""

OUTPUTS = ("logits", "features", "tokens")
"""Scores of the classes; the map of every stage; which token covers each cell, at every stage."""

NUM_STAGES = 4


@dataclass(frozen=True)
class Contract:
    """The interface of an exported model.

    Attributes:
        model: what the network is called.
        size: (height, width) of the images, pixels; fixed, as it decides the number of tokens.
        input: "normalised" for (B, C, H, W) float32 with mean and std taken off, or "pixels" for
            (B, H, W, C) uint8, which the graph normalises itself.
        outputs: some of `OUTPUTS`.
        mean, std: one number a channel, for pixels scaled to 0..1.
        classes: the name of each class; empty without classifier.
        crop_pct, interpolation: how pictures are brought to the size before; see `Preprocessing`.
    """

    model: str
    size: tuple[int, int]
    input: str
    outputs: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    crop_pct: float = 1.0
    interpolation: str = "bicubic"

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """The shape of one image."""
        channels = len(self.mean)
        return (*self.size, channels) if self.input == "pixels" else (channels, *self.size)

    @property
    def output_names(self) -> tuple[str, ...]:
        """`logits` (B, classes) float32; `features1` ... `features4` (B, C, H, W) float32;
        `tokens1` ... `tokens4` (B, H0, W0) int64, the token of each cell of the grid.
        """
        names: list[str] = []
        for output in self.outputs:
            stages = [] if output == "logits" else range(1, NUM_STAGES + 1)
            names += [f"{output}{stage}" for stage in stages] or [output]
        return tuple(names)

    def metadata(self) -> dict[str, str]:
        """What the exported file says of itself; numbers and lists as JSON."""
        values: dict[str, Any] = {
            "size": self.size,
            "mean": self.mean,
            "std": self.std,
            "classes": self.classes,
            "crop_pct": self.crop_pct,
        }
        return {
            "model": self.model,
            "input": self.input,
            "interpolation": self.interpolation,
            "outputs": " ".join(self.output_names),
            "tcformer": tcformer.__version__,
            **{key: json.dumps(value) for key, value in values.items()},
        }
