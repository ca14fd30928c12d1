"""The exported model's time beside the network's, in turns, so that a busy machine slows both."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from tcformer.export.contract import Contract, ExportedNetwork, Runner
from tcformer.models import TCFormer
from tcformer.runtime import timing

ROUNDS = 9

SETTLE = 0.15
"""Seconds of rest before a turn. A runtime's threads look for more work for a while, at the other's
cost: without the rest PyTorch took 92 ms beside onnxruntime where it takes 46.
"""


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

    def run_network(_: int) -> None:
        with torch.inference_mode():
            eager(tensor)

    times = timing.interleaved(
        {"network": run_network, "exported": lambda _: runner(images)},
        device=torch.device("cpu"),
        rounds=rounds,
        warmup=0,
        turn=0.0,
        rest=SETTLE,
    )
    ratio = timing.ratios(times, "network")["exported"]
    return Times(
        len(images),
        torch.get_num_threads(),
        1e3 * statistics.median(times["network"]),
        1e3 * statistics.median(times["exported"]),
        (ratio["low"], ratio["median"], ratio["high"]),
    )
