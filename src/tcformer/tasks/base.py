"""What every task does the same way: load, batch, freeze, evaluate, record and save."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from tcformer.data import ResumableSampler, build_loader
from tcformer.data.fingerprint import fingerprint
from tcformer.data.loader import Collate, stacked
from tcformer.errors import UserError, shown
from tcformer.predict.classes import Matching, match_names
from tcformer.runtime.distributed import World, all_reduce_sums
from tcformer.runtime.logger import logger
from tcformer.tasks.evaluator import Autocast, BaseEvaluator, say_left_out
from tcformer.training.config import NetworkConfig, TrainConfig
from tcformer.training.metrics import MetricLogger
from tcformer.weights.metadata import merge_options, merging_entry, names_of, save_weights

Batch = TypeVar("Batch", bound=Any)


class BaseTask(ABC, Generic[Batch]):
    """Implements `tcformer.training.task.Task` but for what makes a task this one.

    A task sets `evaluator` in its constructor, calls `use_training_set` unless it evaluates alone
    (`cfg.run.eval`), then `use_model`, and fills in the abstract methods (docs/design.md).

    Args:
        cfg: the options; with `eval` the training split is not opened.
        world: this process among all.

    Attributes:
        model: the network, on its device.
        evaluator: measures it on the validation set.
        metric: key of the evaluation that decides which weights are best.
        lower_is_better: whether a small value of it is good, as of an error.
        items: what the data consists of, in words.
        classes: names of the classes in the order of the scores; empty where there are none.
        num_classes: number of scores.
        places: for each label of the data its number among the scores; None where they are equal.
        train_size: items of the training set.
        num_corrupt: unreadable images that the last epoch skipped.
        steps_per_epoch: batches of an epoch, the same on every process.
    """

    metric: str
    lower_is_better = False
    items = "images"
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
    def batch_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean loss of a batch, a scalar with a gradient."""

    @abstractmethod
    def finetune(self, path: str) -> str:
        """Start from other weights without what does not fit the new data; says what it loaded."""

    @abstractmethod
    def load_weights(self, model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
        """Strictly, with a sentence about what differs."""

    @abstractmethod
    def about(self) -> dict[str, Any]:
        """What whoever uses the weights needs to know; `tcformer.predict` reads it."""

    @abstractmethod
    def fake_batch(self, size: int) -> Batch:
        """A made-up training batch of `size` items, on the device."""

    def to_device(self, batch: Any, epoch: int, number: int) -> Batch:
        """The batch `number` of an `epoch`, as the loader gives it -> as `loss` takes it."""
        moved: Batch = on_device(batch, self.world.device)
        return moved

    def facts(self) -> dict[str, str]:
        """What `--dry-run` shows of the data."""
        data = self.cfg.data
        return {
            "data": f"{data.data_set} {data.data_path}".strip(),
            self.items: f"{self.train_size} to train on, {len(self.evaluator.dataset)} to evaluate "
            "on",
        }

    @property
    def average(self) -> bool | None:
        """Which weights of other files are taken: the average where there is one, or not."""
        return False if self.cfg.optimization.ema is False else None

    @property
    def input_shape(self) -> tuple[int, int]:
        """Height and width of the network's input, pixels."""
        return self.cfg.augmentation.input_size, self.cfg.augmentation.input_size

    @property
    def data(self) -> str:
        """The data, for messages."""
        return f"{self.cfg.data.data_set} at {self.cfg.data.data_path!r}"

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
        known = matching.names[: len(recorded or ())]
        if not self.cfg.run.eval and (outputs != self.num_classes or len(recorded or ()) > own):
            lacking = [name for i, name in enumerate(known) if i not in matching.places]
            why = f"the data has no {shown(lacking[0])}" if lacking else ""
            raise self._other_number(outputs, where, why)
        notes = [] if recorded else list(matching.notes)
        if recorded or outputs != own:
            self.classes = list(known or self.classes)
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

    def _other_number(self, outputs: int, where: str, why: str) -> UserError:
        return UserError(
            f"{where} is for {outputs} classes, but the data ({self.data}) has "
            f"{len(self.classes)}; give data with the same classes, or train new scores with "
            f"--finetune{f': {why}' if why else '.'}"
        )

    def _matched(self, recorded: Sequence[str] | None, outputs: int, where: str) -> Matching:
        """`match_names`; where the numbers differ, they are told first."""
        own = len(self.classes)
        # Whether the data does not name its classes: they are numbers alone.
        numbered = getattr(getattr(self.evaluator.dataset, "source", None), "numbered", False)
        try:
            return match_names(
                self.classes,
                recorded,
                outputs,
                weights=where,
                where=self.data,
                numbered=bool(numbered),
            )
        except UserError as error:
            if own == outputs:
                raise
            if not recorded and self.cfg.network.num_classes == outputs:  # on purpose, by order
                return Matching(tuple(range(own)), tuple(map(str, range(outputs))), (), ())
            raise self._other_number(outputs, where, str(error)) from None

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
        self, dataset: Any, sampler: ResumableSampler | None = None, collate: Collate = stacked
    ) -> None:
        """Train on `dataset` in the order of `sampler`; `collate` as for `build_loader`."""
        self._train = dataset
        self.sampler = sampler or ResumableSampler(len(dataset), **self.share())
        self.train_size = len(dataset)
        say_left_out("train", dataset)
        self.steps_per_epoch = self.sampler.batches_per_epoch
        self.loader = build_loader(
            dataset,
            self.sampler,
            num_workers=min(self.cfg.data.num_workers, self.steps_per_epoch),  # more would be idle
            pin_memory=self.cfg.data.pin_mem,
            collate=collate,
        )

    def use_model(self, model: nn.Module) -> None:
        """Train `model`, all of it or what `--freeze` leaves.

        A frozen parameter has no gradient, so no activations are kept for it: a step takes about
        the time and memory of inference.
        """
        self.model = model.to(self.world.device)
        if self.cfg.network.freeze:
            self.model.requires_grad_(False)
            for part in self.learning_parts():
                part.requires_grad_(True)

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
            # Under dropout or stochastic depth frozen weights would give other features than in
            # use, and batch norms would go on counting.
            self.model.eval()
            for part in self.learning_parts():
                part.train()
        return self.batch_loss(model, batch)

    def describe(self, batch: Batch) -> list[str]:
        """The files of a batch."""
        return [self._train.describe(i) for i in batch.indices.tolist()]

    def evaluate(self, model: nn.Module, log: MetricLogger, autocast: Autocast) -> dict[str, float]:
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


def on_device(value: Any, device: torch.device) -> Any:
    """Tensors on the device, inside whatever batches, lists and dicts."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {key: on_device(one, device) for key, one in value.items()}
    if isinstance(value, list):
        return [on_device(one, device) for one in value]
    if hasattr(value, "_replace"):  # a batch; where its items are in the data set stays here
        names = value._asdict().items()
        return value._replace(**{n: on_device(one, device) for n, one in names if n != "indices"})
    return value


@contextmanager
def naming(where: str) -> Iterator[None]:
    """Put the name of a file before what is wrong with its keys."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{where} cannot be used: {error}") from None


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


def merging_of_options(options: NetworkConfig) -> dict[str, Any]:
    """The arguments of a network that say how it merges tokens."""
    return merge_options(
        options.model, options.keep_ratio, options.k, options.num_clusters, options.part_grids
    )
