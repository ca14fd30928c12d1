"""What the loop asks of a thing that can be trained. The loop knows no task, a task no loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from tcformer.training.metrics import MetricLogger


class Task(Protocol):
    """A model, its data, its loss and its evaluation.

    Attributes:
        model: the network, on its device, not wrapped; the loop trains its parameters.
        steps_per_epoch: number of batches of an epoch, the same on every process.
        metric: key of `evaluate`'s result that decides which checkpoint is best.
        lower_is_better: whether a small value of it is good, as of an error.
    """

    model: nn.Module
    steps_per_epoch: int
    metric: str
    lower_is_better: bool

    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """The training batches of this process, from number `start` of `epoch` on, on the device.

        The batches must be a function of (seed, epoch, number) alone, and loading them must leave
        the global random generators alone: the loop saves those for an exact resume.
        """

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Mean loss of a batch, a scalar with a gradient. The loop has entered autocast."""

    def describe(self, batch: Any) -> list[str]:
        """The file of each item of a batch, for the record of a loss that is not finite."""

    def evaluate(
        self,
        model: nn.Module,
        log: MetricLogger,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> dict[str, float]:
        """Measure `model` on the validation set, together with the other processes.

        Every process returns the same numbers. `autocast()` is the context for each forward pass.
        """

    def report(self, result: Mapping[str, float]) -> list[str]:
        """Lines to print after an evaluation."""

    def epoch_facts(self) -> dict[str, float]:
        """Further numbers of the last epoch for the log, such as corrupt images met."""

    def about(self) -> dict[str, Any]:
        """What whoever uses the weights later needs to know, such as the names of the classes.

        Plain values: they are saved with the weights, and `tcformer.predict` reads them.
        """

    def facts_for_record(self) -> dict[str, Any]:
        """What the record of a run tells of model and data; plain values. Asked for once a run."""

    def follow(
        self, said: Mapping[str, Any], weights: Mapping[str, Tensor], where: str
    ) -> list[str]:
        """Number the classes as a checkpoint does that says `said` of itself (`about`).

        Returns sentences to be said; raises a UserError where the run would learn other classes.
        """

    def load_weights(self, model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
        """Copy weights into `model`, or raise a UserError that names `where` and what differs."""

    def fake_batch(self, size: int) -> Any:
        """A made-up training batch of `size` items, on the device."""

    def save_weights(self, state_dict: Mapping[str, Tensor], path: Path) -> None:
        """Write weights alone, in the format the package loads models from."""
