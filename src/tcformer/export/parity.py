"""Does the exported model say what the network says? The same clusters, the same numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tcformer.errors import UserError
from tcformer.export.contract import NUM_STAGES, Contract, ExportedNetwork, Runner
from tcformer.models import TCFormer

TOLERANCE = 1e-4
"""Largest difference of a number, relative to the largest of its output in the batch."""

LARGEST_BATCH = 8


@dataclass
class Parity:
    """What was compared and how far it agrees.

    Attributes:
        batches: number of images of each batch, in order.
        cells: cells compared, at each stage.
        unequal: cells that belong to another token than in PyTorch, at each stage.
        images_unequal: images with such a cell at any stage.
        difference: output name -> largest absolute difference, over images of equal clusters.
        largest: output name -> largest absolute value of the network's.
    """

    batches: list[int] = field(default_factory=list)
    cells: list[int] = field(default_factory=lambda: [0] * NUM_STAGES)
    unequal: list[int] = field(default_factory=lambda: [0] * NUM_STAGES)
    images_unequal: int = 0
    difference: dict[str, float] = field(default_factory=dict)
    largest: dict[str, float] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """How many images were compared; one of them twice if the batches overlap."""
        return sum(self.batches)

    def lines(self) -> Iterator[str]:
        """The figures, for people."""
        if any(self.cells):
            stages = ", ".join(
                f"stage {stage}: {'equal' if not wrong else f'{wrong} of {cells} cells differ'}"
                for stage, (wrong, cells) in enumerate(
                    zip(self.unequal, self.cells, strict=True), start=1
                )
            )
            yield f"clusters  {stages}"
        for name, difference in self.difference.items():
            yield (
                f"{name:<9} largest difference {difference:.1e}, limit "
                f"{TOLERANCE * self.largest[name]:.1e} (largest value {self.largest[name]:.3g})"
            )

    def problem(self) -> str | None:
        """Why the exported model must not be used, as a clause; None if it may."""
        if self.images_unequal:
            return (
                f"{self.images_unequal} of {self.images} images are clustered differently, "
                f"{sum(self.unequal)} of {sum(self.cells)} cells over all stages"
            )
        for name, difference in self.difference.items():
            if not difference <= TOLERANCE * self.largest[name]:  # not even if it is NaN
                return (
                    f"{name} differs by {difference:.1e}, and the limit is "
                    f"{TOLERANCE * self.largest[name]:.1e}"
                )
        return None


def compare(
    network: TCFormer, contract: Contract, runner: Runner, images: NDArray[Any], into: Parity
) -> None:
    """Compare on one batch and add up in `into`.

    Args:
        network: in evaluation mode, on the CPU.
        contract: of the exported model.
        runner: the exported model.
        images: as the contract says, (B, ...).
        into: what was found so far.

    Raises:
        UserError: an output has another name, shape or type than the contract says.
    """
    with torch.inference_mode():
        expected = ExportedNetwork(network, contract)(torch.from_numpy(images))
    found = runner(images)
    into.batches.append(len(images))
    other = np.zeros(len(images), bool)
    for name, ours in zip(contract.output_names, expected, strict=True):
        theirs = found[name]
        if theirs.shape != tuple(ours.shape) or theirs.dtype != ours.numpy().dtype:
            raise UserError(
                f"the exported model gives {name} as {theirs.dtype} {theirs.shape} for "
                f"{len(images)} images, not as {ours.numpy().dtype} {tuple(ours.shape)}"
            )
        if name.startswith("tokens"):
            stage = int(name.removeprefix("tokens")) - 1
            wrong = (theirs != ours.numpy()).reshape(len(images), -1)
            into.cells[stage] += wrong.size
            into.unequal[stage] += int(wrong.sum())
            other |= wrong.any(axis=1)
    into.images_unequal += int(other.sum())
    _add_differences(contract, expected, found, ~other, into)


def _add_differences(
    contract: Contract,
    expected: Iterable[Tensor],
    found: dict[str, NDArray[Any]],
    counts: NDArray[np.bool_],
    into: Parity,
) -> None:
    for name, tensor in zip(contract.output_names, expected, strict=True):
        if name.startswith("tokens") or not counts.any():
            continue
        ours = tensor.numpy()[counts]
        # `max` of Python would drop a NaN.
        difference = float(np.abs(found[name][counts] - ours).max())
        into.difference[name] = float(np.maximum(into.difference.get(name, 0.0), difference))
        into.largest[name] = max(into.largest.get(name, 0.0), float(np.abs(ours).max()))


def batches(images: NDArray[Any], alone: int = 1) -> Iterator[NDArray[Any]]:
    """The first `alone` images one by one, then all in batches of more than one.

    The batch size is left open, and runtimes compute one image in other ways than a batch.
    """
    for number in range(min(alone, len(images))):
        yield images[number : number + 1]
    if len(images) == 1:
        yield np.repeat(images, 2, axis=0)
        return
    for start in range(0, len(images), LARGEST_BATCH):
        part = images[start : start + LARGEST_BATCH]
        # A single one at the end goes with the one before it.
        yield part if len(part) > 1 else images[start - 1 :]
