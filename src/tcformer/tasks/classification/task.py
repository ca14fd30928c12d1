"""Classification as a task of the training loop: data, model, loss, evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, cast

import timm
import torch
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

import tcformer.zoo  # noqa: F401 - registers our variants with timm
from tcformer.data import (
    Batch,
    DataSpec,
    MixSpec,
    ResumableSampler,
    build_dataset,
    build_mixer,
    eval_transform,
    train_transform,
)
from tcformer.data.dataset import require_same_classes
from tcformer.errors import UserError
from tcformer.runtime.distributed import World
from tcformer.runtime.logger import logger
from tcformer.tasks.base import BaseTask, merging_of_options, naming, options_named
from tcformer.tasks.classification.evaluator import Evaluator
from tcformer.tasks.evaluator import renumbered
from tcformer.training.config import TrainConfig
from tcformer.weights.load import classifier_of, load_checkpoint, open_weights, renamed_for

REPEATS = 3  # versions of an image under --repeated-aug, as in DeiT


class TrainBatch(NamedTuple):
    """A batch of one process, on its device."""

    images: Tensor  # (B, C, S, S) float32
    targets: Tensor  # (B,) int64, or (B, classes) float32 when images are mixed
    indices: Tensor  # (B,) int64


class ClassificationTask(BaseTask[TrainBatch]):
    """See `tcformer.tasks.base.BaseTask`."""

    metric = "acc1"

    def __init__(self, cfg: TrainConfig, world: World) -> None:
        super().__init__(cfg, world)
        data = replace(cfg.data, fake_classes=cfg.network.num_classes or DataSpec.fake_classes)
        transforms = cfg.augmentation.for_data_set(data.data_set)
        val = build_dataset(data, "val", eval_transform(transforms))
        self.classes = list(val.classes)
        self.num_classes = _num_classes(cfg, len(self.classes))
        self.evaluator = Evaluator(val, cfg, world)
        self.mixer = build_mixer(
            cfg.classification, num_classes=self.num_classes, seed=cfg.run.seed
        )
        if not cfg.run.eval:
            train = build_dataset(data, "train", train_transform(transforms))
            require_same_classes(train, val)
            repeats = REPEATS if cfg.classification.repeated_aug else 1
            self.use_training_set(
                train, ResumableSampler(len(train), **self.share(), repeats=repeats)
            )
            for note in transforms.notes():
                logger.info(note)
        self.use_model(build_model(cfg, self.num_classes))
        self.criterion = _criterion(cfg.classification)

    def learning_parts(self) -> Sequence[nn.Module]:
        """The classifier."""
        return [cast(Any, self.model).get_classifier()]  # timm asks it of every model

    def to_device(self, batch: Batch, epoch: int, number: int) -> TrainBatch:
        """Images and labels, mixed."""
        moved = super().to_device(batch, epoch, number)
        images, targets = moved.images, renumbered(moved.targets, self.places)
        if self.mixer is not None:
            images, targets = self.mixer(
                images, targets, epoch=epoch, batch=number, rank=self.world.rank
            )
        return TrainBatch(images, targets, batch.indices)

    def batch_loss(self, model: nn.Module, batch: TrainBatch) -> Tensor:
        """Mean cross entropy of the batch."""
        try:
            # Under autocast on a CPU timm's losses would be summed and rounded in bfloat16.
            return self.criterion(model(batch.images).float(), batch.targets)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                f"--model {self.cfg.network.model} has batch norm, which cannot train on a batch "
                f"of {len(batch.images)} image(s) of {self.input_shape[0]} px: give a larger "
                "--batch-size or --input-size."
            ) from None

    def load_weights(self, model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
        """Strictly, with a sentence about what differs."""
        load_checkpoint(model, weights, where=where)

    def outputs_of(self, weights: Mapping[str, Tensor]) -> int | None:
        """Rows of the classifier."""
        named = renamed_for(self.model, weights)
        for place in classifier_of(self.model):
            saved = named.get(f"{place}weight")
            if saved is not None and saved.ndim:
                return len(saved)
        return None

    def resize_outputs(self, names: Sequence[str]) -> None:
        """A network of so many classes."""
        self.use_model(build_model(self.cfg, len(names)))

    def about(self) -> dict[str, Any]:
        """Model, size of the images, and names of the classes."""
        return {
            "task": "classification",
            "model": self.cfg.network.model,
            "input_size": self.cfg.augmentation.input_size,
            "in_chans": self.cfg.augmentation.in_chans,
            "classes": list(self.classes),
        }

    def finetune(self, path: str) -> str:
        """Start from other weights; a classifier of other classes is left out."""
        file = open_weights(path, self.average)
        with naming(path):
            weights = renamed_for(self.model, file.checkpoint.state_dict)
        outputs = self.outputs_of(weights)
        said = file.notes
        if outputs is not None:
            rows, note = self.classifier_rows(file.metadata.classes, outputs, path)
            said += [note] if note else []
            for key in [key for key in weights if key.startswith(classifier_of(self.model))]:
                if rows is None:
                    del weights[key]
                elif len(weights[key]) == len(rows):
                    weights[key] = weights[key][rows]
        report = load_checkpoint(self.model, weights, allow_head_mismatch=True, where=path)
        if any(note.startswith("classifier begins anew") for note in said):
            # It was taken out above, so that the report takes it for missing.
            notes = [note for note in report.notes if not note.startswith("classifier")]
            report = replace(report, missing=(), notes=tuple(notes))
        return "; ".join([str(report), *said])

    def facts(self) -> dict[str, str]:
        """What `--dry-run` shows of the data, with the images that an epoch leaves out."""
        used = self.steps_per_epoch * self.cfg.data.batch_size * self.world.size
        return {
            **super().facts(),
            "images": f"{self.train_size} to train on ({self.train_size - used} of them left out "
            f"of each epoch, less than a batch), {len(self.evaluator.dataset)} to evaluate on",
            "classes": str(self.num_classes),
            "input": " x ".join(map(str, (self.cfg.augmentation.in_chans, *self.input_shape))),
        }

    def fake_batch(self, size: int) -> TrainBatch:
        """Noise with labels, mixed like a real batch."""
        shape = (size, self.cfg.augmentation.in_chans, *self.input_shape)
        targets = torch.arange(size) % self.num_classes
        return self.to_device(Batch(torch.randn(shape), targets, torch.arange(size), 0), 0, 0)


def build_model(cfg: TrainConfig, num_classes: int) -> nn.Module:
    """The network by timm's name."""
    options = cfg.network
    if not timm.is_model(options.model):
        near = timm.list_models(f"*{options.model}*")[:3] or timm.list_models("tcformer*")
        raise UserError(f"--model {options.model} is not known; near are {', '.join(near)}.")
    # The published --drop acts inside attention and MLPs; other models know it before their head.
    drop = "proj_drop_rate" if options.model.startswith("tcformer") else "drop_rate"
    merging = merging_of_options(options)
    with options_named(options.model):
        return timm.create_model(
            options.model,
            pretrained=options.pretrained,
            num_classes=num_classes,
            in_chans=cfg.augmentation.in_chans,
            drop_path_rate=options.drop_path,
            **{drop: options.drop},
            **merging,
        )


def _num_classes(cfg: TrainConfig, in_data: int) -> int:
    wanted = cfg.network.num_classes
    if wanted is None:
        return in_data
    if wanted < in_data:
        raise UserError(
            f"--num-classes {wanted} is fewer than the {in_data} classes of the data; "
            "leave it out to take the number from the data."
        )
    return wanted


def _criterion(mixing: MixSpec) -> nn.Module:
    """Soft targets whenever images are mixed (the published code forgot CutMix without mixup)."""
    if mixing.active:
        return SoftTargetCrossEntropy()
    if mixing.smoothing > 0:
        return LabelSmoothingCrossEntropy(mixing.smoothing)
    return nn.CrossEntropyLoss()
