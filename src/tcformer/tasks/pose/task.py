"""Top-down pose as a task of the training loop: data, model, loss, evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tcformer.data import ResumableSampler, build_loader
from tcformer.data.fingerprint import fingerprint
from tcformer.data.keypoints.augment import PoseAugmentation
from tcformer.data.keypoints.codec import HeatmapCodec
from tcformer.data.keypoints.dataset import (
    KeypointBatch,
    KeypointDataset,
    build_keypoint_source,
    stacked,
)
from tcformer.errors import UserError, nearest
from tcformer.models import VARIANTS, create_model
from tcformer.models.checkpoints import load_checkpoint, read_checkpoint, save_weights
from tcformer.models.freezing import freeze_all_but, rest_all_but
from tcformer.models.layouts import to_our_layout
from tcformer.models.merging import merge_options, merging_note
from tcformer.models.mta import REDUCTIONS
from tcformer.models.pose import STRIDE, TopDownPose
from tcformer.tasks.pose.loss import keypoint_mse
from tcformer.tasks.pose.measure import Evaluator
from tcformer.training.config import TrainConfig, check_task
from tcformer.training.distributed import World, all_reduce_sums
from tcformer.training.metrics import MetricLogger

_HEAD = "keypoint_head.final_layer.weight"


class PoseTask:
    """Implements `tcformer.training.task.Task`.

    Args:
        cfg: the options; with `eval` the training split is not opened.
        world: this process among all.

    Attributes:
        layout: the keypoints of the data.
        metric: "ap" of the whole body, "nme" of faces, "pck" of stick figures.
    """

    def __init__(self, cfg: TrainConfig, world: World) -> None:
        check_task(cfg)
        self.cfg, self.world = cfg, world
        self.codec = build_codec(cfg)
        source = build_keypoint_source(cfg.data_set, cfg.data_path, "val", cfg.boxes)
        self.layout = source.layout
        val = KeypointDataset(source, self.codec, None, skip_corrupt=cfg.skip_corrupt)
        self.evaluator = Evaluator(val, cfg, world)
        self.metric = self.evaluator.metric
        self.lower_is_better = self.metric == "nme"
        self._train: KeypointDataset | None = None
        self.train_size = self.num_corrupt = 0
        self.steps_per_epoch = 0
        if not cfg.eval:
            self._open_training()
        self.model: nn.Module = build_model(cfg, len(self.layout)).to(world.device)
        if cfg.freeze:
            freeze_all_but(self.model, self._head())

    def _head(self) -> list[nn.Module]:
        return [part for name, part in self.model.named_children() if name != "backbone"]

    def _open_training(self) -> None:
        cfg, world = self.cfg, self.world
        augmentation = PoseAugmentation(
            shift_prob=cfg.shift_prob,
            flip_prob=0.5 if cfg.hflip is None else cfg.hflip,
            half_body_prob=cfg.half_body_prob,
            scale_spread=cfg.scale_spread,
            rotation=cfg.rotation,
        )
        source = build_keypoint_source(cfg.data_set, cfg.data_path, "train", "")
        train = KeypointDataset(source, self.codec, augmentation, skip_corrupt=True)
        self.train_size = len(train)
        self.sampler = ResumableSampler(
            len(train),
            batch_size=cfg.batch_size,
            world_size=world.size,
            rank=world.rank,
            seed=cfg.seed,
        )
        self.steps_per_epoch = self.sampler.batches_per_epoch
        self.loader = build_loader(
            train,
            self.sampler,
            num_workers=min(cfg.num_workers, self.steps_per_epoch),
            pin_memory=cfg.pin_mem,
            collate=stacked,
        )
        self._describe, self._train = train.describe, train

    def batches(self, epoch: int, start: int) -> Iterator[KeypointBatch]:
        """Training batches of this process, on the device."""
        self.sampler.set_epoch(epoch, start)
        device = self.world.device
        for batch in self.loader:
            yield batch._replace(
                images=batch.images.to(device, non_blocking=True),
                targets=batch.targets.to(device, non_blocking=True),
                weights=batch.weights.to(device, non_blocking=True),
            )
        skipped = torch.tensor([self.loader.num_corrupt])
        self.num_corrupt = int(all_reduce_sums(self.world, skipped).item())
        if self.num_corrupt and self.world.is_main:
            print(f"NOTICE: {self.num_corrupt} unreadable images were skipped in epoch {epoch}.")

    def loss(self, model: nn.Module, batch: KeypointBatch) -> Tensor:
        """Mean squared error of the heat maps, unlabelled keypoints counted as right."""
        if self.cfg.freeze:
            rest_all_but(self.model, self._head())
        return keypoint_mse(model(batch.images), batch.targets, batch.weights)

    def describe(self, batch: KeypointBatch) -> list[str]:
        """The files of a batch."""
        return [self._describe(i) for i in batch.indices.tolist()]

    def evaluate(
        self,
        model: nn.Module,
        log: MetricLogger,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> dict[str, float]:
        """Average precision, error or share of right keypoints; see `Evaluator`."""
        return self.evaluator(model, log, autocast)

    def report(self, result: Mapping[str, float]) -> list[str]:
        """The lines of the evaluation."""
        return self.evaluator.report(result)

    def epoch_facts(self) -> dict[str, float]:
        """Unreadable images that the last epoch skipped, if any."""
        return {"corrupt": self.num_corrupt} if self.num_corrupt else {}

    def facts(self) -> dict[str, str]:
        """What `--dry-run` shows of the data."""
        height, width = self.cfg.crop_size
        return {
            "data": f"{self.cfg.data_set} {self.cfg.data_path}".strip(),
            "people": f"{self.train_size} to train on, {len(self.evaluator.dataset)} to evaluate "
            "on",
            "keypoints": f"{len(self.layout)} ({self.layout.name})",
            "input": f"3 x {height} x {width}",
        }

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

    def finetune(self, path: str) -> str:
        """Start from other weights: a backbone's (a classifier is left out), or all of these.

        Returns:
            What was loaded, in words.
        """
        local = path
        if path.startswith(("http://", "https://")):
            from tcformer.models.fetch import fetch_cached

            local = str(fetch_cached(path))
        weights = to_our_layout(read_checkpoint(local).state_dict, keep_other_parts=True)[0]
        if _HEAD not in weights:
            report = load_checkpoint(self.model.get_submodule("backbone"), local)
            return f"{report} (the backbone alone)"
        own = self.model.state_dict()
        if weights[_HEAD].shape != own[_HEAD].shape:
            weights = {k: v for k, v in weights.items() if not k.startswith("keypoint_head.")}
        self._fit({**own, **weights}, path, self.model)
        return f"{len(weights)} tensors loaded from {path}"

    def load_weights(self, model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
        """Strictly, in our layout or in that of the released files."""
        self._fit(to_our_layout(weights, keep_other_parts=True)[0], where, model)

    def _fit(self, weights: Mapping[str, Tensor], where: str, model: nn.Module) -> None:
        own = model.state_dict()
        saved = weights.get(_HEAD)
        if saved is None:
            raise UserError(
                f"{where} holds no pose model ({_HEAD} is not in it); weights of a classifier are "
                "for --finetune."
            )
        if len(saved) != len(self.layout):
            raise UserError(
                f"{where} finds {len(saved)} keypoints, but {self.cfg.data_set} has "
                f"{len(self.layout)}; give data with the same keypoints, or train new heat maps "
                "with --finetune."
            )
        for key in [*own, *weights]:
            have, want = weights.get(key), own.get(key)
            if have is not None and want is not None and have.shape == want.shape:
                continue
            problem = (
                "misses" if have is None else "has too much with" if want is None else "differs in"
            )
            raise UserError(
                f"{where} does not fit: it {problem} {key}; give the --model and the options of "
                "the neck that it was trained with."
            )
        model.load_state_dict(weights)

    def save_weights(self, state_dict: Mapping[str, Tensor], path: Path) -> None:
        """As safetensors, with all that `tcformer pose` needs in the header."""
        save_weights(state_dict, path, {**merging_note(self.model), **self.about()})

    def about(self) -> dict[str, str]:
        """What whoever uses the weights needs to know; `tcformer pose` reads it."""
        cfg = self.cfg
        return {
            "task": "pose",
            "model": cfg.model,
            "keypoints": self.layout.name,
            "crop_size": "x".join(str(side) for side in cfg.crop_size),
            "codec": cfg.codec,
            "heatmap_sigma": str(cfg.heatmap_sigma),
            "neck_channels": str(cfg.neck_channels),
            "neck_heads": str(cfg.neck_heads),
            "neck_mlp_ratio": str(cfg.neck_mlp_ratio),
            "neck_reduction": cfg.neck_reduction,
        }

    def fake_batch(self, size: int) -> KeypointBatch:
        """Noise, and peaks in the middle."""
        device = self.world.device
        height, width = self.cfg.crop_size
        columns, rows = self.codec.heatmap_size
        targets = torch.zeros((size, len(self.layout), rows, columns), device=device)
        targets[:, :, rows // 2, columns // 2] = 1
        return KeypointBatch(
            torch.randn((size, 3, height, width), device=device),
            targets,
            torch.ones(targets.shape[:2], device=device),
            torch.arange(size),
            0,
        )


def build_codec(cfg: TrainConfig) -> HeatmapCodec:
    """The codec that the options name."""
    height, width = cfg.crop_size
    if min(height, width) < 32 or height % STRIDE or width % STRIDE:
        raise UserError(
            f"--crop-size {height} {width} is not possible: both sides must be multiples of "
            f"{STRIDE}, and 32 pixels or more."
        )
    try:
        return HeatmapCodec(
            (width, height), (width // STRIDE, height // STRIDE), cfg.heatmap_sigma, cfg.codec
        )
    except ValueError as error:
        raise UserError(f"--heatmap-sigma or --codec cannot be used: {error}.") from error


def build_model(cfg: TrainConfig, num_keypoints: int) -> TopDownPose:
    """The network that the options name."""
    if cfg.model not in VARIANTS:
        near = nearest(cfg.model, VARIANTS)
        hint = f"did you mean {near}?" if near else f"use one of {', '.join(VARIANTS)}."
        raise UserError(f"--model {cfg.model} gives no tokens to find keypoints by; {hint}")
    if cfg.neck_reduction not in REDUCTIONS:
        near = nearest(cfg.neck_reduction, REDUCTIONS)
        hint = f"did you mean {near}?" if near else f"use one of {', '.join(REDUCTIONS)}."
        raise UserError(f"--neck-reduction {cfg.neck_reduction} is not known; {hint}")
    merging = merge_options(cfg.model, cfg.keep_ratio, cfg.k, cfg.num_clusters, cfg.part_grids)
    try:
        backbone = create_model(
            cfg.model,
            pretrained=cfg.pretrained,
            num_classes=0,
            drop_path_rate=cfg.drop_path,
            proj_drop_rate=cfg.drop,
            **merging,
        )
        return TopDownPose(
            backbone,
            num_keypoints,
            neck_channels=cfg.neck_channels,
            neck_heads=cfg.neck_heads,
            neck_mlp_ratio=cfg.neck_mlp_ratio,
            reduction=cfg.neck_reduction,
        )
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(
            f"--model {cfg.model} cannot be built with these options: {str(error).rstrip('.')}."
        ) from error
