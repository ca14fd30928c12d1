"""Does the exported model say what the network says, and how fast is it beside it?"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tcformer.errors import UserError
from tcformer.export.contract import NUM_STAGES, Contract, ExportedNetwork, Runner
from tcformer.models import TCFormer
from tcformer.runtime import timing

TOLERANCE = 1e-4
"""Largest difference of a number, relative to the largest of its output in the batch."""

LARGEST_BATCH = 8

ROUNDS = 9

SETTLE = 0.15
"""Seconds of rest before a turn. A runtime's threads look for more work for a while, at the other's
cost: without the rest PyTorch took 92 ms beside onnxruntime where it takes 46.
"""


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
                f"{self.images_unequal} of {sum(self.batches)} images are clustered differently, "
                f"{sum(self.unequal)} of {sum(self.cells)} cells over all stages"
            )
        for name, difference in self.difference.items():
            limit = TOLERANCE * self.largest[name]
            if not difference <= limit:  # not even if it is NaN
                return f"{name} differs by {difference:.1e}, and the limit is {limit:.1e}"
        return None


def compare(
    network: TCFormer, contract: Contract, runner: Runner, images: NDArray[Any], into: Parity
) -> None:
    """Compare on one batch (B, ...) of images as the contract says, and add up in `into`.

    Raises:
        UserError: an output has another name, shape or type than the contract says.
    """
    with torch.inference_mode():
        outputs = ExportedNetwork(network, contract)(torch.from_numpy(images))
    expected = dict(zip(contract.output_names, (t.numpy() for t in outputs), strict=True))
    found = runner(images)
    into.batches.append(len(images))
    equal = np.ones(len(images), bool)
    for name, ours in expected.items():
        theirs = found[name]
        if theirs.shape != ours.shape or theirs.dtype != ours.dtype:
            raise UserError(
                f"the exported model gives {name} as {theirs.dtype} {theirs.shape} for "
                f"{len(images)} images, not as {ours.dtype} {ours.shape}"
            )
        if name.startswith("tokens"):
            stage = int(name.removeprefix("tokens")) - 1
            wrong = (theirs != ours).reshape(len(images), -1)
            into.cells[stage] += wrong.size
            into.unequal[stage] += int(wrong.sum())
            equal &= ~wrong.any(axis=1)
    into.images_unequal += int((~equal).sum())
    for name, ours in expected.items():
        if not name.startswith("tokens") and equal.any():
            # `max` of Python would drop a NaN.
            difference = float(np.abs(found[name][equal] - ours[equal]).max())
            into.difference[name] = float(np.maximum(into.difference.get(name, 0.0), difference))
            largest = float(np.abs(ours[equal]).max())
            into.largest[name] = max(into.largest.get(name, 0.0), largest)


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


@dataclass(frozen=True)
class Times:
    """Milliseconds of a batch, medians over rounds, and the quartiles of the ratio of a round.

    Attributes:
        batch: images of a batch.
        threads: of the processor, for both.
        network: PyTorch, as this package runs it.
        exported: the exported model.
        ratio: lower quartile, median and upper quartile of exported / network.
    """

    batch: int
    threads: int
    network: float
    exported: float
    ratio: tuple[float, float, float]

    def line(self) -> str:
        """The figures, for people."""
        low, middle, high = self.ratio
        return (
            f"time of {self.batch} image{'s' if self.batch > 1 else ''} on {self.threads} "
            f"thread{'s' if self.threads > 1 else ''}: exported {self.exported:.1f} ms, PyTorch "
            f"{self.network:.1f} ms, ratio {middle:.2f} ({low:.2f} to {high:.2f})"
        )


def measure(network: TCFormer, contract: Contract, runner: Runner, images: NDArray[Any]) -> Times:
    """Time both on a batch (B, ...) of images, in turns, so that a busy machine slows both."""
    eager, tensor = ExportedNetwork(network, contract), torch.from_numpy(images)

    def run_network(_: int) -> None:
        with torch.inference_mode():
            eager(tensor)

    times = timing.interleaved(
        {"network": run_network, "exported": lambda _: runner(images)},
        device=torch.device("cpu"),
        rounds=ROUNDS,
        warmup=0,
        turn=0.0,
        rest=SETTLE,
    )
    ratio = timing.ratios(times, "network")["exported"]
    ours, theirs = (1e3 * statistics.median(times[name]) for name in ("network", "exported"))
    quartiles = (ratio["low"], ratio["median"], ratio["high"])
    return Times(len(images), torch.get_num_threads(), ours, theirs, quartiles)
