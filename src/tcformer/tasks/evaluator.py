"""One pass over a validation set, exact over any number of processes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from tcformer.data import build_loader, exact_eval_indices
from tcformer.data.loader import Collate, stacked
from tcformer.errors import UserError
from tcformer.runtime.distributed import World, all_reduce_sums, gather_objects, interrupt_reason
from tcformer.runtime.logger import logger
from tcformer.runtime.signals import interrupt
from tcformer.training.config import TrainConfig
from tcformer.training.loop import Interrupted
from tcformer.training.metrics import MetricLogger

Autocast = Callable[[], AbstractContextManager[None]]


class BaseEvaluator(ABC):
    """Each item counts once and meets the same batch-mates whatever the number of processes.

    (`exact_eval_indices`.) A subclass fills in `empty`, `add` and `result`, which calls
    `over_processes` once; or it is a `GatheringEvaluator`.

    Args:
        dataset: the validation set.
        cfg: batch size, workers, and whether the processes share the work (`dist_eval`).
        world: this process among all.
        collate: as for `build_loader`.

    Attributes:
        meters: names of the series that the progress lines show.
        shared: whether every process has a share of the items, or each has all of them.
        steps: batches of this process.
        left_out: what `num_corrupt` counts, in words.
        num_corrupt: unreadable images that the last evaluation left out, over all processes.
        places: for each label of the data its number among the scores; None where they are equal.
    """

    meters: tuple[str, ...] = ()
    left_out = "unreadable images"

    def __init__(
        self, dataset: Any, cfg: TrainConfig, world: World, collate: Collate = stacked
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

    def __call__(self, model: nn.Module, log: MetricLogger, autocast: Autocast) -> dict[str, float]:
        """Measure `model`: the same numbers on every process.

        Raises:
            Interrupted: on every process, when any was asked to stop.
            UserError: an unreadable image (without `--skip-corrupt`), or nothing to measure by.
        """
        model.eval()
        for name in self.meters:
            log.add(name)
        found = self.empty()
        for _, batch in log.log_every(self._loader, self.steps, "Test:"):
            self.add(found, batch, model, log, autocast)
            if interrupt.requested:
                break  # whoever else has batches left goes on, and hears of it at the end
        return self.result(found)

    @abstractmethod
    def empty(self) -> Any:
        """What is known before the first batch: sums of zero, or an empty list."""

    @abstractmethod
    def add(
        self, found: Any, batch: Any, model: nn.Module, log: MetricLogger, autocast: Autocast
    ) -> None:
        """Apply `model` to a batch, and add what comes out to `found`, in place."""

    @abstractmethod
    def result(self, found: Any) -> dict[str, float]:
        """The numbers, from what each process found."""

    @abstractmethod
    def report(self, result: Mapping[str, float]) -> list[str]:
        """The lines to print; the first two are what a run comes to."""

    def rename(self, names: Sequence[str]) -> None:
        """Call the scores so, one name each."""
        self.classes = list(names)

    def over_processes(self, sums: Tensor) -> Tensor:
        """Add up sums over the processes, and leave together if any was asked to stop.

        Args:
            sums: any shape, float64 or int64; added as float64, exact for counts below 2**53.

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


class GatheringEvaluator(BaseEvaluator):
    """Every process gathers what is found in all items, and computes the same numbers.

    `add` appends pairs of an item's index and what was found there.
    """

    def empty(self) -> list[tuple[int, Any]]:
        """Nothing is found yet."""
        return []

    def result(self, found: list[tuple[int, Any]]) -> dict[str, float]:
        """Measure all items that any process could read."""
        shares = gather_objects(self.world, found) if self.shared else [found]
        self.over_processes(torch.zeros(0, dtype=torch.int64))
        everything = dict(pair for share in shares for pair in share)
        if not everything:
            raise UserError("no image of the validation set could be read.")
        return self.measure({index: everything[index] for index in sorted(everything)})

    @abstractmethod
    def measure(self, found: Mapping[int, Any]) -> dict[str, float]:
        """The numbers, from what was found by the items' indices, in their order."""


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
