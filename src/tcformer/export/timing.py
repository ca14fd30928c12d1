"""The exported model's time beside the network's, in turns, so that a busy machine slows both."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from tcformer.export.contract import Contract
from tcformer.export.program import ExportedNetwork
from tcformer.export.runner import Runner
from tcformer.models import TCFormer

ROUNDS = 15


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


def measure(
    network: TCFormer,
    contract: Contract,
    runner: Runner,
    images: NDArray[Any],
    rounds: int = ROUNDS,
) -> Times:
    """Time both on one batch (B, ...) of images as the contract says."""
    eager, tensor = ExportedNetwork(network, contract), torch.from_numpy(images)
    times: dict[str, list[float]] = {"network": [], "exported": []}
    for turn in range(rounds + 1):
        start = time.perf_counter()
        with torch.inference_mode():
            eager(tensor)
        middle = time.perf_counter()
        runner(images)
        stop = time.perf_counter()
        if turn:  # the first warms up
            times["network"].append(1e3 * (middle - start))
            times["exported"].append(1e3 * (stop - middle))
    ratios = [b / a for a, b in zip(times["network"], times["exported"], strict=True)]
    low, centre, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Times(
        len(images),
        torch.get_num_threads(),
        statistics.median(times["network"]),
        statistics.median(times["exported"]),
        (low, centre, high),
    )
