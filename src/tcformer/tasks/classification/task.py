"""Classification as a task of the training loop: data, model, loss, evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    TransformSpec,
    build_dataset,
    build_mixer,
    eval_transform,
    train_transform,
)
from tcformer.data.dataset import ImageDataset, require_same_classes
from tcformer.errors import UserError
from tcformer.runtime.distributed import World
from tcformer.tasks.base import BaseTask, naming, options_named
from tcformer.tasks.classification.evaluator import Evaluator
from tcformer.training.config import TrainConfig
from tcformer.weights.load import classifier_of, load_checkpoint, open_weights, renamed_for
from tcformer.weights.metadata import merge_options

REPEATS = 3  # versions of an image under --repeated-aug, as in DeiT


class TrainBatch(NamedTuple):
    """A batch of one process, on its device."""

    images: Tensor  # (B, C, S, S) float32
    targets: Tensor  # (B,) int64, or (B, classes) float32 when images are mixed
    indices: Tensor  # (B,) int64


class ClassificationTask(BaseTask[TrainBatch]):
    """See `tcformer.tasks.base.BaseTask`.

    Attributes:
        classes: class names of the data.
        num_classes: width of the classifier.
    """

    metric = "acc1"

    def __init__(self, cfg: TrainConfig, world: World) -> None:
        super().__init__(cfg, world)
        self.data_spec, transforms = data_spec(cfg), transform_spec(cfg)
        mixing = mix_spec(cfg)
        val = build_dataset(self.data_spec, "val", eval_transform(transforms))
        self.classes = list(val.classes)
        self.num_classes = _num_classes(cfg, len(self.classes))
        self.evaluator = Evaluator(val, cfg, world)
        self.mixer = build_mixer(mixing, num_classes=self.num_classes, seed=cfg.seed)
        if not cfg.eval:
            self._open_training(train_transform(transforms), val)
            if world.is_main:
                print(*transforms.notes(), sep="\n", end="\n" if transforms.notes() else "")
        self.use_model(build_model(cfg, self.num_classes))
        self.criterion = _criterion(mixing)

    def learning_parts(self) -> Sequence[nn.Module]:
        """The classifier."""
        return [cast(Any, self.model).get_classifier()]  # timm asks it of every model

    def _open_training(self, transform: Callable[..., Tensor], val: ImageDataset) -> None:
        train = build_dataset(self.data_spec, "train", transform)
        require_same_classes(train, val)
        repeats = REPEATS if self.cfg.repeated_aug else 1
        self.use_training_set(train, ResumableSampler(len(train), **self.share(), repeats=repeats))

    def to_device(self, batch: Batch, epoch: int, number: int) -> TrainBatch:
        """Images and labels, mixed."""
        images = batch.images.to(self.world.device, non_blocking=True)
        targets = self.renumbered(batch.targets).to(self.world.device, non_blocking=True)
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
                f"--model {self.cfg.model} has batch norm, which cannot train on a batch of "
                f"{len(batch.images)} image(s) of {self.cfg.input_size} px: give a larger "
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
        """What whoever uses the weights needs to know; `tcformer.predict` reads it."""
        return {
            "task": "classification",
            "model": self.cfg.model,
            "input_size": self.cfg.input_size,
            "in_chans": self.cfg.in_chans,
            "classes": list(self.classes),
        }

    def finetune(self, path: str) -> str:
        """Start from other weights; a classifier of other classes is left out.

        Returns:
            What was loaded, in words.
        """
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
        """What `--dry-run` shows of the data."""
        left_over = self.train_size - self.steps_per_epoch * self.cfg.batch_size * self.world.size
        return {
            "data": f"{self.data_spec.data_set} {self.data_spec.data_path}".strip(),
            "images": f"{self.train_size} to train on ({left_over} of them left out of each epoch, "
            f"less than a batch), {len(self.evaluator.dataset)} to evaluate on",
            "classes": str(self.num_classes),
            "input": f"{self.cfg.in_chans} x {self.cfg.input_size} x {self.cfg.input_size}",
        }

    def fake_batch(self, size: int) -> TrainBatch:
        """Noise with labels, mixed like a real batch."""
        shape = (size, self.cfg.in_chans, self.cfg.input_size, self.cfg.input_size)
        images = torch.randn(shape, device=self.world.device)
        targets = torch.arange(size, device=self.world.device) % self.num_classes
        if self.mixer is not None:
            images, targets = self.mixer(images, targets, epoch=0, batch=0, rank=self.world.rank)
        return TrainBatch(images, targets, torch.arange(size))


def data_spec(cfg: TrainConfig) -> DataSpec:
    """Which data the options name."""
    return DataSpec(
        data_path=cfg.data_path,
        data_set=cfg.data_set,
        inat_category=cfg.inat_category,
        decoder=cfg.decoder,
        skip_corrupt=cfg.skip_corrupt,
        fake_classes=cfg.num_classes or DataSpec.fake_classes,
    )


def transform_spec(cfg: TrainConfig) -> TransformSpec:
    """How the options turn images into tensors."""
    return TransformSpec(
        input_size=cfg.input_size,
        color_jitter=cfg.color_jitter,
        aa=cfg.aa,
        crop_area=cfg.crop_area,
        train_interpolation=cfg.train_interpolation,
        reprob=cfg.reprob,
        remode=cfg.remode,
        recount=cfg.recount,
        hflip=cfg.hflip,
        in_chans=cfg.in_chans,
    ).for_data_set(cfg.data_set)


def mix_spec(cfg: TrainConfig) -> MixSpec:
    """How the options mix images and smooth labels."""
    return MixSpec(
        mixup=cfg.mixup,
        cutmix=cfg.cutmix,
        cutmix_minmax=cfg.cutmix_minmax,
        mixup_prob=cfg.mixup_prob,
        mixup_switch_prob=cfg.mixup_switch_prob,
        mixup_mode=cfg.mixup_mode,
        smoothing=cfg.smoothing,
    )


def build_model(cfg: TrainConfig, num_classes: int) -> nn.Module:
    """The network by timm's name."""
    if not timm.is_model(cfg.model):
        near = timm.list_models(f"*{cfg.model}*")[:3] or timm.list_models("tcformer*")
        raise UserError(f"--model {cfg.model} is not known; near are {', '.join(near)}.")
    # The published --drop acts inside attention and MLPs; other models know it before their head.
    drop = "proj_drop_rate" if cfg.model.startswith("tcformer") else "drop_rate"
    merging = merge_options(cfg.model, cfg.keep_ratio, cfg.k, cfg.num_clusters, cfg.part_grids)
    with options_named(cfg):
        return timm.create_model(
            cfg.model,
            pretrained=cfg.pretrained,
            num_classes=num_classes,
            in_chans=cfg.in_chans,
            drop_path_rate=cfg.drop_path,
            **{drop: cfg.drop},
            **merging,
        )


def _num_classes(cfg: TrainConfig, in_data: int) -> int:
    """The classifier's width: `--num-classes`, which must cover the data, or the data's."""
    if cfg.num_classes is None:
        return in_data
    if cfg.num_classes < in_data:
        raise UserError(
            f"--num-classes {cfg.num_classes} is fewer than the {in_data} classes of the data; "
            "leave it out to take the number from the data."
        )
    return cfg.num_classes


def _criterion(mixing: MixSpec) -> nn.Module:
    """Soft targets whenever images are mixed (the published code forgot CutMix without mixup)."""
    if mixing.active:
        return SoftTargetCrossEntropy()
    if mixing.smoothing > 0:
        return LabelSmoothingCrossEntropy(mixing.smoothing)
    return nn.CrossEntropyLoss()
