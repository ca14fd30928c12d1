"""Top-down pose as a task of the training loop: data, model, loss, evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tcformer.data.keypoints import LAYOUTS, layout
from tcformer.data.keypoints.augment import PoseAugmentation
from tcformer.data.keypoints.codec import HeatmapCodec
from tcformer.data.keypoints.dataset import (
    KeypointBatch,
    KeypointDataset,
    build_keypoint_source,
    stacked,
)
from tcformer.errors import UserError
from tcformer.models.heads import STRIDE, TopDownPose
from tcformer.runtime.distributed import World
from tcformer.tasks.dense import DenseTask, build_dense
from tcformer.tasks.pose.evaluator import Evaluator
from tcformer.training.config import TrainConfig


class PoseTask(DenseTask[KeypointBatch]):
    """See `tcformer.tasks.base.BaseTask`.

    Attributes:
        layout: the keypoints of the data.
        metric: "ap" of the whole body, "nme" of faces, "pck" of stick figures.
    """

    outputs = "keypoint_head.final_layer.weight"
    head = "keypoint_head."
    found = "keypoints"
    kind = "pose model"
    items = "people"
    parts = "neck"

    def __init__(self, cfg: TrainConfig, world: World) -> None:
        super().__init__(cfg, world)
        self.codec = build_codec(cfg)
        source = build_keypoint_source(cfg.data.data_set, cfg.data.data_path, "val", cfg.pose.boxes)
        self.layout = source.layout
        val = KeypointDataset(source, self.codec, None, skip_corrupt=cfg.data.skip_corrupt)
        self.evaluator = evaluator = Evaluator(val, cfg, world)
        self.metric = evaluator.metric
        self.lower_is_better = self.metric == "nme"
        if not cfg.run.eval:
            augmentation = PoseAugmentation(
                shift_prob=cfg.pose.shift_prob,
                flip_prob=0.5 if cfg.augmentation.hflip is None else cfg.augmentation.hflip,
                half_body_prob=cfg.pose.half_body_prob,
                scale_spread=cfg.pose.scale_spread,
                rotation=cfg.pose.rotation,
            )
            source = build_keypoint_source(cfg.data.data_set, cfg.data.data_path, "train", "")
            train = KeypointDataset(source, self.codec, augmentation, skip_corrupt=True)
            self.use_training_set(train, collate=stacked)
        self.use_model(build_model(cfg, len(self.layout)))

    def batch_loss(self, model: nn.Module, batch: KeypointBatch) -> Tensor:
        """Mean squared error of the heat maps, unlabelled keypoints counted as right."""
        return keypoint_mse(model(batch.images), batch.targets, batch.weights)

    def facts(self) -> dict[str, str]:
        """What `--dry-run` shows of the data."""
        height, width = self.cfg.pose.crop_size
        return {
            **super().facts(),
            "keypoints": f"{len(self.layout)} ({self.layout.name})",
            "input": f"3 x {height} x {width}",
        }

    @property
    def input_shape(self) -> tuple[int, int]:
        """Height and width of the crops, pixels."""
        return self.cfg.pose.crop_size

    def follow(
        self, said: Mapping[str, Any], weights: Mapping[str, Tensor], where: str
    ) -> list[str]:
        """Refuse a file of other keypoints; tell of another way to read heat maps."""
        found = said.get("keypoints", self.layout.name)
        as_many = found in LAYOUTS and len(layout(str(found))) == len(self.layout)
        if found != self.layout.name and as_many:
            raise UserError(
                f"{where} finds the keypoints of {found}, but {self.cfg.data.data_set} has those "
                f"of {self.layout.name}; give data with the same keypoints, or train new heat maps "
                "with --finetune."
            )
        notes = super().follow(said, weights, where)
        return notes + self.changed(said, "codec", "heatmap_sigma")

    def about(self) -> dict[str, str]:
        """Model, keypoints, and how crops and heat maps are made."""
        cfg = self.cfg
        return {
            "task": "pose",
            "model": cfg.network.model,
            "keypoints": self.layout.name,
            "crop_size": "x".join(str(side) for side in cfg.pose.crop_size),
            "codec": cfg.pose.codec,
            "heatmap_sigma": str(cfg.pose.heatmap_sigma),
            **self.neck(),
        }

    def fake_batch(self, size: int) -> KeypointBatch:
        """Noise, and peaks in the middle."""
        columns, rows = self.codec.heatmap_size
        targets = torch.zeros((size, len(self.layout), rows, columns))
        targets[:, :, rows // 2, columns // 2] = 1
        images, weights = torch.randn((size, 3, *self.input_shape)), torch.ones(targets.shape[:2])
        return self.to_device(
            KeypointBatch(images, targets, weights, torch.arange(size), 0), epoch=0, number=0
        )


def build_codec(cfg: TrainConfig) -> HeatmapCodec:
    """The codec that the options name."""
    height, width = cfg.pose.crop_size
    cells = width // STRIDE, height // STRIDE
    try:
        return HeatmapCodec((width, height), cells, cfg.pose.heatmap_sigma, cfg.pose.codec)
    except ValueError as error:
        raise UserError(f"--heatmap-sigma or --codec cannot be used: {error}.") from error


def build_model(cfg: TrainConfig, num_keypoints: int) -> TopDownPose:
    """The network that the options name."""
    return build_dense(cfg, "find keypoints by", TopDownPose, num_keypoints=num_keypoints)


def keypoint_mse(heatmaps: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean squared error of heat maps (B, K, H, W), weighted by (B, K); float32 at least.

    A keypoint of weight zero adds nothing, but is counted in the mean, as published: with few
    labelled keypoints the loss is small.
    """
    difference = heatmaps.float() - target if heatmaps.element_size() < 4 else heatmaps - target
    return (difference.square() * weight[:, :, None, None]).mean()
