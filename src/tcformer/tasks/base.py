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
from tcformer.errors import UserError, shown
from tcformer.predict.classes import Matching, match_names
from tcformer.runtime.distributed import World, all_reduce_sums
from tcformer.runtime.logger import logger
from tcformer.tasks.evaluator import BaseEvaluator, renumbered, say_left_out
from tcformer.training.config import NetworkConfig, TrainConfig
from tcformer.training.metrics import MetricLogger
from tcformer.weights.metadata import merge_options, merging_entry, names_of, save_weights

Batch = TypeVar("Batch", bound=Any)


class BaseTask(ABC, Generic[Batch]):
    """Implements `tcformer.training.task.Task` but for what makes a task this one.

    A task sets `evaluator` in its constructor, calls `use_training_set` unless it evaluates alone
    (`cfg.run.eval`), then `use_model`, and fills in the abstract methods. How to add one is told in
    docs/design.md.

    Args:
        cfg: the options; with `eval` the training split is not opened.
        world: this process among all.

    Attributes:
        model: the network, on its device.
        evaluator: measures it on the validation set.
        metric: key of the evaluation that decides which weights are best.
        lower_is_better: whether a small value of it is good, as of an error.
        classes: names of the classes in the order of the scores; empty where there are none.
        num_classes: number of scores.
        places: for each label of the data its number among the scores; None where they are equal.
        train_size: items of the training set.
        num_corrupt: unreadable images that the last epoch skipped.
        steps_per_epoch: batches of an epoch, the same on every process.
    """

    metric: str
    lower_is_better = False
    model: nn.Module
    evaluator: BaseEvaluator
    num_classes = 0

    def __init__(self, cfg: TrainConfig, world: World) -> None:
        self.cfg, self.world = cfg, world
        self.classes: list[str] = []
        self.places: Tensor | None = None
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

    @property
    def average(self) -> bool | None:
        """Which weights of other files are taken: the average where there is one, or not."""
        return False if self.cfg.optimization.ema is False else None

    @property
    def input_shape(self) -> tuple[int, int]:
        """Height and width of the network's input, pixels."""
        return self.cfg.augmentation.input_size, self.cfg.augmentation.input_size

    def outputs_of(self, weights: Mapping[str, Tensor]) -> int | None:
        """How many classes weights are for; None where it cannot be told, or does not matter."""
        return None

    def resize_outputs(self, names: Sequence[str]) -> None:
        """Measure over the scores of these classes from now on; only asked of an evaluation."""

    def follow(
        self, said: Mapping[str, Any], weights: Mapping[str, Tensor], where: str
    ) -> list[str]:
        """Number the classes as a file of weights does, by their names, before it is loaded.

        An evaluation takes all of the file's classes, of which the data may hold a part. A training
        that goes on must have the same ones.

        Args:
            said: what the file says of itself, as `about` does.
            weights: the file's.
            where: what to call it.

        Returns:
            What is to be said of it, sentences without their full stops.

        Raises:
            UserError: the data has a class that the file does not know, or a run would go on with
                other classes.
        """
        with naming(where):
            outputs, recorded = self.outputs_of(weights), names_of(said.get("classes"))
        if not self.classes or outputs is None:
            return []
        wanted = self.cfg.network.num_classes
        if self.cfg.run.eval and wanted not in (None, outputs):
            raise UserError(
                f"{where} is for {outputs} classes, but --num-classes is {wanted}; leave it out, "
                "the file says the number."
            )
        own = len(self.classes)
        matching = self._matched(recorded, outputs, where)
        if not self.cfg.run.eval and (
            outputs != self.num_classes or (recorded and len(recorded) > own)
        ):
            known = matching.names[: len(recorded or ())]
            lacking = [name for i, name in enumerate(known) if i not in matching.places]
            also = f" (it has no {shown(lacking[0])})" if lacking else ""
            raise UserError(
                f"{where} is for {outputs} classes, but the data ({self.data}) has {own}{also}; "
                "give data with the same classes, or train new scores with --finetune."
            )
        notes = [] if recorded else list(matching.notes)
        if recorded or outputs != own:
            self.classes = list(matching.names[: len(recorded or ())] or self.classes)
        if matching.places != tuple(range(own)):
            self.places = torch.tensor(matching.places)
            notes = [f"the classes of the data are matched with those of {where} by their names"]
            notes += matching.notes
        elif len(self.classes) > own:
            notes += matching.notes
        if outputs != self.num_classes:
            self.num_classes = outputs
            self.resize_outputs(matching.names)
        elif self.places is not None:
            self.evaluator.rename(matching.names)
        self.evaluator.places = self.places
        return notes

    @property
    def data(self) -> str:
        """The data, for messages."""
        return f"{self.cfg.data.data_set} at {self.cfg.data.data_path!r}"

    def _matched(self, recorded: Sequence[str] | None, outputs: int, where: str) -> Matching:
        """`match_names`; where the numbers differ, they are told first."""
        own = len(self.classes)
        try:
            return match_names(
                self.classes,
                recorded,
                outputs,
                weights=where,
                where=self.data,
                numbered=self.numbered,
            )
        except UserError as error:
            if own == outputs:
                raise
            if (
                not recorded and self.cfg.network.num_classes == outputs
            ):  # so many on purpose, by order
                return Matching(tuple(range(own)), tuple(map(str, range(outputs))), (), ())
            raise UserError(
                f"{where} is for {outputs} classes, but the data ({self.data}) has {own}; give "
                f"data with the same classes, or train new scores with --finetune: {error}"
            ) from None

    @property
    def numbered(self) -> bool:
        """Whether the data does not name its classes: they are numbers alone."""
        return bool(getattr(getattr(self.evaluator.dataset, "source", None), "numbered", False))

    def renumbered(self, labels: Tensor) -> Tensor:
        """Labels as the data has them -> numbers of the scores."""
        return renumbered(labels, self.places)

    def classifier_rows(
        self, recorded: Sequence[str] | None, outputs: int, where: str
    ) -> tuple[list[int] | None, str]:
        """Which row of a file's classifier is that of each class of the data, for fine-tuning.

        Returns:
            The rows in the data's order, or None if the classes are not the same ones, and what to
            say of it.
        """
        if not recorded or outputs != self.num_classes:
            by_order = self.classes and outputs == self.num_classes
            note = "it names no classes, so its classifier is kept by their order"
            return list(range(outputs)), note if by_order else ""
        own = len(self.classes)
        try:
            matching = self._matched(recorded, outputs, where)
        except UserError:
            unknown = next((name for name in self.classes if name not in recorded), None)
            named = f", such as {shown(unknown)}" if unknown else ""
            return None, f"classifier begins anew: the data has classes that are not its own{named}"
        if own != len(recorded):
            return None, "classifier begins anew: the data has a part of its classes"
        rows = [*matching.places, *range(own, outputs)]
        if rows == list(range(outputs)):
            return rows, ""
        return rows, "rows of the classifier put into the order of the data's classes"

    def learning_parts(self) -> Sequence[nn.Module]:
        """What learns under `--freeze`: by default all that is not the backbone."""
        return [part for name, part in self.model.named_children() if name != "backbone"]

    def share(self) -> dict[str, int]:
        """Arguments by which a `ResumableSampler` gives this process its share of the items."""
        return {
            "batch_size": self.cfg.data.batch_size,
            "world_size": self.world.size,
            "rank": self.world.rank,
            "seed": self.cfg.run.seed,
        }

    def use_training_set(
        self, dataset: Any, sampler: ResumableSampler, collate: Collate | None = None
    ) -> None:
        """Train on `dataset` in the order of `sampler`; `collate` as for `build_loader`."""
        self._train, self.sampler = dataset, sampler
        self.train_size = len(dataset)
        say_left_out("train", dataset)
        self.steps_per_epoch = sampler.batches_per_epoch
        self.loader = build_loader(
            dataset,
            sampler,
            num_workers=min(self.cfg.data.num_workers, self.steps_per_epoch),  # more would be idle
            pin_memory=self.cfg.data.pin_mem,
            collate=collate,
        )

    def use_model(self, model: nn.Module) -> None:
        """Train `model`, all of it or what `--freeze` leaves."""
        self.model = model.to(self.world.device)
        if self.cfg.network.freeze:
            freeze_all_but(self.model, self.learning_parts())

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Training batches of this process from number `start` on, on the device."""
        self.sampler.set_epoch(epoch, start)
        for number, batch in enumerate(self.loader, start):
            yield self.to_device(batch, epoch, number)
        skipped = torch.tensor([self.loader.num_corrupt])
        self.num_corrupt = int(all_reduce_sums(self.world, skipped).item())
        if self.num_corrupt:
            logger.info(
                f"NOTICE: {self.num_corrupt} unreadable images were skipped in epoch {epoch}."
            )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean loss of a batch; see `batch_loss`."""
        if self.cfg.network.freeze:
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
            split: fingerprint(dataset, self.cfg.data.data_path)
            for split, dataset in sets.items()
            if dataset is not None
        }
        return {
            "task": self.cfg.task,
            "model": self.cfg.network.model,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "metric": self.metric,
            "data": {"name": self.cfg.data.data_set, **prints},
        }

    def save_weights(self, state_dict: Mapping[str, Tensor], path: Path) -> None:
        """As safetensors, with `about` and the way of merging in the header."""
        about = {
            key: "\n".join(value) if isinstance(value, list) else value
            for key, value in self.about().items()
        }
        save_weights(state_dict, path, {**merging_entry(self.model), **about})


def freeze_all_but(model: nn.Module, parts: Sequence[nn.Module]) -> None:
    """Let no parameter of ``model`` learn except those of ``parts``, which are modules inside it.

    A frozen parameter has no gradient, so no activations are kept for it: a step takes about the
    time and memory of inference.
    """
    model.requires_grad_(False)
    for part in parts:
        part.requires_grad_(True)


def rest_all_but(model: nn.Module, parts: Sequence[nn.Module]) -> None:
    """Put ``model`` into evaluation mode and ``parts`` into training mode.

    Frozen weights under dropout or stochastic depth would give other features in training than in
    use, and batch norms would go on counting.
    """
    model.eval()
    for part in parts:
        part.train()


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Put the name of a file before what is wrong with its keys."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where} cannot be used: {error}") from None


def merging_of_options(options: NetworkConfig) -> dict[str, Any]:
    """The arguments of a network that say how it merges tokens."""
    return merge_options(
        options.model,
        options.keep_ratio,
        options.k,
        options.num_clusters,
        options.part_grids,
    )


@contextmanager
def options_named(model: str) -> Iterator[None]:
    """Say of a network that cannot be built that it is the options that do not go together."""
    try:
        yield
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(
            f"--model {model} cannot be built with these options: {str(error).rstrip('.')}."
        ) from error
