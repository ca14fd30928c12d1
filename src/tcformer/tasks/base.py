"""What every task does the same way: load, batch, freeze, evaluate, record and save."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from tcformer.data import ResumableSampler, build_loader
from tcformer.data.fingerprint import fingerprint
from tcformer.data.loader import Collate
from tcformer.errors import UserError
from tcformer.models.checkpoints import save_weights
from tcformer.models.freezing import freeze_all_but, rest_all_but
from tcformer.models.merging import merging_note
from tcformer.tasks.evaluating import Evaluation, say_left_out
from tcformer.training.config import TrainConfig, check_task
from tcformer.training.distributed import World, all_reduce_sums
from tcformer.training.metrics import MetricLogger

Batch = TypeVar("Batch", bound=Any)


class BaseTask(ABC, Generic[Batch]):
    """Implements `tcformer.training.task.Task` but for what makes a task this one.

    A task sets `evaluator` in its constructor, calls `use_training_set` unless it evaluates alone
    (`cfg.eval`), then `use_model`, and fills in the abstract methods. How to add one is told in
    docs/design.md.

    Args:
        cfg: the options; with `eval` the training split is not opened.
        world: this process among all.

    Attributes:
        model: the network, on its device.
        evaluator: measures it on the validation set.
        metric: key of the evaluation that decides which weights are best.
        lower_is_better: whether a small value of it is good, as of an error.
        train_size: items of the training set.
        num_corrupt: unreadable images that the last epoch skipped.
        steps_per_epoch: batches of an epoch, the same on every process.
    """

    metric: str
    lower_is_better = False
    model: nn.Module
    evaluator: Evaluation

    def __init__(self, cfg: TrainConfig, world: World) -> None:
        check_task(cfg)
        self.cfg, self.world = cfg, world
        self._train: Any = None
        self.train_size = self.num_corrupt = self.steps_per_epoch = 0

    @abstractmethod
    def to_device(self, batch: Any, epoch: int, number: int) -> Batch:
        """A batch as the loader gives it -> as `loss` takes it, on the device.

        Args:
            batch: of the loader.
            epoch: its epoch.
            number: its place among the epoch's batches of this process.
        """

    @abstractmethod
    def batch_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean loss of a batch, a scalar with a gradient."""

    @abstractmethod
    def facts(self) -> dict[str, str]:
        """What `--dry-run` shows of the data."""

    @abstractmethod
    def finetune(self, path: str) -> str:
        """Start from other weights; what does not fit the new data is left out.

        Returns:
            What was loaded, in words.
        """

    @abstractmethod
    def load_weights(self, model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
        """Strictly, with a sentence about what differs."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What whoever uses the weights needs to know; saved with them."""

    @abstractmethod
    def fake_batch(self, size: int) -> Batch:
        """A made-up training batch of `size` items, on the device."""

    def learning_parts(self) -> Sequence[nn.Module]:
        """What learns under `--freeze`: by default all that is not the backbone."""
        return [part for name, part in self.model.named_children() if name != "backbone"]

    def share(self) -> dict[str, int]:
        """Arguments by which a `ResumableSampler` gives this process its share of the items."""
        return {
            "batch_size": self.cfg.batch_size,
            "world_size": self.world.size,
            "rank": self.world.rank,
            "seed": self.cfg.seed,
        }

    def use_training_set(
        self, dataset: Any, sampler: ResumableSampler, collate: Collate | None = None
    ) -> None:
        """Train on `dataset` in the order of `sampler`; `collate` as for `build_loader`."""
        self._train, self.sampler = dataset, sampler
        self.train_size = len(dataset)
        say_left_out("train", dataset, self.world)
        self.steps_per_epoch = sampler.batches_per_epoch
        self.loader = build_loader(
            dataset,
            sampler,
            num_workers=min(self.cfg.num_workers, self.steps_per_epoch),  # more would be idle
            pin_memory=self.cfg.pin_mem,
            collate=collate,
        )

    def use_model(self, model: nn.Module) -> None:
        """Train `model`, all of it or what `--freeze` leaves."""
        self.model = model.to(self.world.device)
        if self.cfg.freeze:
            freeze_all_but(self.model, self.learning_parts())

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Training batches of this process from number `start` on, on the device."""
        self.sampler.set_epoch(epoch, start)
        for number, batch in enumerate(self.loader, start):
            yield self.to_device(batch, epoch, number)
        skipped = torch.tensor([self.loader.num_corrupt])
        self.num_corrupt = int(all_reduce_sums(self.world, skipped).item())
        if self.num_corrupt and self.world.is_main:
            print(f"NOTICE: {self.num_corrupt} unreadable images were skipped in epoch {epoch}.")

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean loss of a batch; see `batch_loss`."""
        if self.cfg.freeze:
            rest_all_but(self.model, self.learning_parts())
        return self.batch_loss(model, batch)

    def describe(self, batch: Batch) -> list[str]:
        """The files of a batch."""
        return [self._train.describe(i) for i in batch.indices.tolist()]

    def evaluate(
        self,
        model: nn.Module,
        log: MetricLogger,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> dict[str, float]:
        """Measure `model` on the validation set; see the task's evaluator."""
        return self.evaluator(model, log, autocast)

    def report(self, result: Mapping[str, float]) -> list[str]:
        """The lines of the evaluation."""
        return self.evaluator.report(result)

    def epoch_facts(self) -> dict[str, float]:
        """Unreadable images that the last epoch skipped, if any."""
        return {"corrupt": self.num_corrupt} if self.num_corrupt else {}

    def facts_for_record(self) -> dict[str, Any]:
        """Model, data and metric; see `tcformer.training.record`."""
        sets = {"train": self._train, "val": self.evaluator.dataset}
        prints = {
            split: fingerprint(dataset, self.cfg.data_path)
            for split, dataset in sets.items()
            if dataset is not None
        }
        return {
            "task": self.cfg.task,
            "model": self.cfg.model,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "metric": self.metric,
            "data": {"name": self.cfg.data_set, **prints},
        }

    def save_weights(self, state_dict: Mapping[str, Tensor], path: Path) -> None:
        """As safetensors, with `about` and the way of merging in the header."""
        about = {
            key: "\n".join(value) if isinstance(value, list) else value
            for key, value in self.about().items()
        }
        save_weights(state_dict, path, {**merging_note(self.model), **about})


@contextmanager
def options_named(cfg: TrainConfig) -> Iterator[None]:
    """Say of a network that cannot be built that it is the options that do not go together."""
    try:
        yield
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(
            f"--model {cfg.model} cannot be built with these options: {str(error).rstrip('.')}."
        ) from error
