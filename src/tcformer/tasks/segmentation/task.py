"""Semantic segmentation as a task of the training loop: data, model, loss, evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcformer.data import Batch, SteppedSampler
from tcformer.data.loader import stacked
from tcformer.data.segmentation import (
    NOWHERE,
    EvalPair,
    PixelDataset,
    PixelSource,
    PixelSpec,
    TrainPair,
    build_pixel_source,
)
from tcformer.errors import UserError
from tcformer.models import SemanticFPN
from tcformer.runtime.distributed import World
from tcformer.tasks.dense import DenseTask, build_dense
from tcformer.tasks.evaluator import renumbered
from tcformer.tasks.segmentation.evaluator import Evaluator
from tcformer.training.config import TrainConfig


class SegmentationTask(DenseTask[Batch]):
    """See `tcformer.tasks.base.BaseTask`."""

    metric = "miou"
    outputs = "decode_head.conv_seg.weight"
    head = "decode_head.conv_seg."
    kind = "segmentation model"
    parts = "neck and head"

    def __init__(self, cfg: TrainConfig, world: World) -> None:
        super().__init__(cfg, world)
        self.spec = pixel_spec(cfg)
        source = self._source("val")
        self.classes = list(source.classes)
        self.num_classes = _num_classes(cfg, len(self.classes))
        val = PixelDataset(source, EvalPair(self.spec), skip_corrupt=cfg.data.skip_corrupt)
        names = self.classes + [f"class {i}" for i in range(len(self.classes), self.num_classes)]
        self.evaluator = Evaluator(val, names, cfg, world)
        if not cfg.run.eval:
            source = self._source("train")
            train = PixelDataset(source, TrainPair(self.spec, source.ignore), skip_corrupt=True)
            steps = cfg.segmentation.steps_per_epoch
            sampler = SteppedSampler(len(train), steps=steps, **self.share()) if steps else None
            self.use_training_set(train, sampler, stacked)
        self.use_model(build_model(cfg, self.num_classes))

    def _source(self, split: str) -> PixelSource:
        data, side = self.cfg.data, self.cfg.augmentation.input_size
        zero = self.cfg.segmentation.reduce_zero_label
        return build_pixel_source(
            data.data_set, data.data_path, split, side, reduce_zero_label=zero
        )

    def to_device(self, batch: Batch, epoch: int, number: int) -> Batch:
        """Images and labels, by the numbers of the scores."""
        moved = super().to_device(batch, epoch, number)
        return moved._replace(targets=renumbered(moved.targets, self.places))

    def batch_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean cross entropy of the labelled pixels; zero where a batch has none."""
        scores = model(batch.images)
        size = batch.targets.shape[1:]
        full = F.interpolate(scores.float(), size=size, mode="bilinear", align_corners=False)
        total = F.cross_entropy(full, batch.targets, ignore_index=NOWHERE, reduction="sum")
        return total / (batch.targets != NOWHERE).sum().clamp(min=1)

    def facts(self) -> dict[str, str]:
        """What `--dry-run` shows of the data."""
        side = self.cfg.augmentation.input_size
        return {
            **super().facts(),
            "classes": str(self.num_classes),
            "input": f"3 x {side} x {side}",
        }

    def outputs_of(self, weights: Mapping[str, Tensor]) -> int | None:
        """Scores at each pixel."""
        saved = self.in_our_names(weights).get(self.outputs)
        return len(saved) if saved is not None and saved.ndim == 4 else None

    def resize_outputs(self, names: Sequence[str]) -> None:
        """A network of so many classes."""
        self.use_model(build_model(self.cfg, len(names)))
        self.evaluator.rename(names)

    def follow(
        self, said: Mapping[str, Any], weights: Mapping[str, Tensor], where: str
    ) -> list[str]:
        """As every dense task; says where masks were numbered otherwise in training."""
        notes = super().follow(said, weights, where)
        now = str(self.cfg.segmentation.reduce_zero_label)
        if self.cfg.data.data_set == "folder" and str(said.get("reduce_zero_label", now)) != now:
            here, there = ("with", "without") if now == "True" else ("without", "with")
            notes.append(
                f"{where} was trained {there} --reduce-zero-label, and is used {here} it now: the "
                "same number in a mask is another class"
            )
        return notes

    def about(self) -> dict[str, Any]:
        """Model, sizes, names of the classes, and how masks are numbered."""
        masks = {"reduce_zero_label": str(self.cfg.segmentation.reduce_zero_label)}
        return {
            **(masks if self.cfg.data.data_set == "folder" else {}),
            "task": "segmentation",
            "model": self.cfg.network.model,
            "input_size": self.cfg.augmentation.input_size,
            "classes": list(self.classes),
            **self.neck(),
        }

    def fake_batch(self, size: int) -> Batch:
        """Noise with labels in stripes."""
        side = self.cfg.augmentation.input_size
        stripes = (torch.arange(side) % self.num_classes).expand(size, side, side).contiguous()
        images = torch.randn((size, 3, side, side))
        return self.to_device(Batch(images, stripes, torch.arange(size), 0), 0, 0)


def pixel_spec(cfg: TrainConfig) -> PixelSpec:
    """How the options turn images and labels into tensors."""
    flips = 0.0 if cfg.data.data_set == "digits" else 0.5
    return PixelSpec(
        input_size=cfg.augmentation.input_size,
        scale=cfg.segmentation.scale,
        hflip=flips if cfg.augmentation.hflip is None else cfg.augmentation.hflip,
        color_jitter=cfg.augmentation.color_jitter,
    )


def build_model(cfg: TrainConfig, num_classes: int) -> SemanticFPN:
    """The network that the options name."""
    channels = cfg.segmentation.head_channels
    return build_dense(cfg, "segment by", SemanticFPN, num_classes=num_classes, channels=channels)


def _num_classes(cfg: TrainConfig, in_data: int) -> int:
    """The number of scores: `--num-classes`, which must cover the data, or the data's."""
    if cfg.network.num_classes is None:
        return in_data
    if not in_data <= cfg.network.num_classes < NOWHERE:
        raise UserError(
            f"--num-classes {cfg.network.num_classes} does not fit the {in_data} classes of the "
            f"data (and at most {NOWHERE - 1}); leave it out to take the number from the data."
        )
    return cfg.network.num_classes
