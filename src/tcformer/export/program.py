"""A network as one graph of PyTorch's operators, the batch size left open."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from tcformer.export.contract import Contract
from tcformer.models import TCFormer
from tcformer.ops import tokens_to_map

__all__ = ["ExportedNetwork", "trace"]


class ExportedNetwork(nn.Module):
    """A network behind the interface of a contract.

    Args:
        network: a TCFormer in evaluation mode, float32, on the CPU.
        contract: what goes in and comes out.
    """

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
