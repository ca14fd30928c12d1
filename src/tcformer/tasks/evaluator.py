"""One pass over a validation set, exact over any number of processes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from tcformer.data import build_loader, exact_eval_indices
from tcformer.data.loader import Collate
from tcformer.runtime.distributed import World, all_reduce_sums, interrupt_reason
from tcformer.runtime.logger import logger
from tcformer.runtime.signals import interrupt
from tcformer.training.config import TrainConfig
from tcformer.training.loop import Interrupted
from tcformer.training.metrics import MetricLogger


class BaseEvaluator(ABC):
    """Each item counts once and meets the same batch-mates whatever the number of processes.

    (`exact_eval_indices`.) A subclass goes through `batches`, then calls `over_processes` once.

    Args:
        dataset: the validation set.
        cfg: batch size, workers, and whether the processes share the work (`dist_eval`).
        world: this process among all.
        collate: as for `build_loader`.

    Attributes:
        shared: whether every process has a share of the items, or each has all of them.
        steps: batches of this process.
        num_corrupt: unreadable images that the last evaluation left out, over all processes.
        places: for each label of the data its number among the scores; None where they are equal.
    """

    left_out = "unreadable images"
    """What `num_corrupt` counts, in words."""

    def __init__(
        self, dataset: Any, cfg: TrainConfig, world: World, collate: Collate | None = None
    ) -> None:
        self.dataset, self.world = dataset, world
        say_left_out("val", dataset)
        self.places: Tensor | None = None
        self.classes: list[str] = []
        self.shared = cfg.run.dist_eval and world.size > 1
        rank, size = (world.rank, world.size) if self.shared else (0, 1)
        indices = exact_eval_indices(len(dataset), cfg.data.batch_size, size, rank)
        self.steps = math.ceil(len(indices) / cfg.data.batch_size)
        self._loader = build_loader(
            dataset,
            indices,
            batch_size=cfg.data.batch_size,
            num_workers=min(cfg.data.num_workers, self.steps),  # more would have nothing to do
            pin_memory=cfg.data.pin_mem,
            collate=collate,
        )
        self.num_corrupt = 0

    @abstractmethod
    def __call__(
        self,
        model: nn.Module,
        log: MetricLogger,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> dict[str, float]:
        """Measure: the same numbers on every process.

        Raises:
            Interrupted: on every process, when any was asked to stop.
            UserError: an unreadable image (without `--skip-corrupt`), or nothing to measure by.
        """

    @abstractmethod
    def report(self, result: Mapping[str, float]) -> list[str]:
        """The lines to print; the first two are what a run comes to."""

    def rename(self, names: Sequence[str]) -> None:
        """Call the scores so, one name each."""
        self.classes = list(names)

    def batches(self, log: MetricLogger) -> Iterator[Any]:
        """The batches of this process, until one of them was told to stop."""
        for _, batch in log.log_every(self._loader, self.steps, "Test:"):
            yield batch
            if interrupt.requested:
                return  # whoever else has batches left goes on, and hears of it at the end

    def over_processes(self, sums: Tensor) -> Tensor:
        """Add up sums over the processes, and leave together if any was asked to stop.

        Args:
            sums: any shape, float64 or int64; added as float64, exact for counts below 2**53.

        Returns:
            The same shape and dtype.

        Raises:
            Interrupted: on every process.
        """
        corrupt = torch.tensor([self._loader.num_corrupt], dtype=sums.dtype)
        totals = torch.cat([sums.flatten(), corrupt])
        if self.shared:
            totals = all_reduce_sums(self.world, totals).to(sums.dtype)
        # Processes have different numbers of batches, so they agree to stop only here.
        if interrupt_reason(self.world):
            raise Interrupted(f"Stopped by {interrupt.reason} during the evaluation.")
        self.num_corrupt = int(totals[-1].item())
        return totals[:-1].view(sums.shape)

    def left_out_lines(self) -> list[str]:
        """A line about what could not be read, if there was any."""
        return [f"{self.num_corrupt} {self.left_out} were left out."] if self.num_corrupt else []


def say_left_out(split: str, dataset: Any) -> None:
    """Tell what the search for a data set's files passed by, if anything."""
    left_out = str(getattr(getattr(dataset, "source", None), "left_out", ""))
    if left_out:
        logger.info(f"NOTICE: the {split} set {left_out}.")


def renumbered(labels: Tensor, places: Tensor | None) -> Tensor:
    """Labels of the data, any integer dtype -> int64 numbers of the scores, by `places`.

    What `places` does not reach (255, which counts nowhere) stays as it is.
    """
    if places is None:
        return labels
    labels = labels.long()
    known = labels < len(places)
    there = places.to(labels.device)[labels.clamp(max=len(places) - 1)]
    return torch.where(known, there, labels)
