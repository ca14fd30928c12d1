"""What goes into an exported model and what comes out, and the network as a graph that does so."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import tcformer
from tcformer.models import TCFormer
from tcformer.ops import tokens_to_map

__all__ = ["INPUTS", "OUTPUTS", "Contract", "ExportedNetwork", "Runner", "trace"]

Runner = Callable[[NDArray[Any]], dict[str, NDArray[Any]]]
"""How every exported file is called: a batch of images as the contract says -> outputs by name."""

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


class ExportedNetwork(nn.Module):
    """A network in evaluation mode, float32, on the CPU, behind the interface of a contract."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: TCFormer, contract: Contract) -> None:
        super().__init__()
        self.network = network
        self.contract = contract
        self.register_buffer("mean", torch.tensor(contract.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(contract.std).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images as the contract says -> its outputs, in the order of `output_names`."""
        if self.contract.input == "pixels":
            images = (images.permute(0, 3, 1, 2) / 255.0 - self.mean) / self.std
        stages = self.network.forward_tokens(images)
        found: list[Tensor] = []
        for output in self.contract.outputs:
            if output == "logits":
                found.append(self.network.forward_head(stages[-1].x))
            elif output == "features":
                found += [tokens_to_map(tokens).contiguous() for tokens in stages]
            else:
                grid = stages[0].layout.grid_size
                found += [t.layout.cell_to_token.reshape(-1, *grid) for t in stages]
        return tuple(found)


def trace(network: TCFormer, contract: Contract) -> torch.export.ExportedProgram:
    """The graph of a network behind its contract, for any batch from 1 on, without gradients."""
    module = ExportedNetwork(network, contract).eval()
    dtype = torch.uint8 if contract.input == "pixels" else torch.float32
    example = torch.zeros(2, *contract.input_shape, dtype=dtype)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about its own insides
        program = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
    for part in program.graph_module.modules():
        if isinstance(part, torch.fx.GraphModule):
            for node in part.graph.nodes:
                node.meta.pop("stack_trace", None)  # paths of this machine
    return program
