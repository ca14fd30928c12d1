"""Semantic segmentation as a task of the training loop: data, model, loss, evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcformer.data import ResumableSampler, SteppedSampler, build_loader
from tcformer.data.ade20k import IGNORE
from tcformer.data.fingerprint import fingerprint
from tcformer.data.pixelwise import (
    EvalPair,
    PixelBatch,
    PixelDataset,
    PixelSpec,
    TrainPair,
    build_pixel_source,
    stacked,
)
from tcformer.errors import UserError, nearest
from tcformer.models import VARIANTS, SemanticFPN, create_model
from tcformer.models.checkpoints import load_checkpoint, read_checkpoint, save_weights
from tcformer.models.freezing import freeze_all_but, rest_all_but
from tcformer.models.merging import merge_options, merging_note
from tcformer.models.mta import REDUCTIONS
from tcformer.tasks.segmentation.evaluation import Evaluator
from tcformer.training.config import TrainConfig, check_task
from tcformer.training.distributed import World, all_reduce_sums
from tcformer.training.metrics import MetricLogger

_CLASSIFIER = "decode_head.conv_seg.weight"


class SegmentationTask:
    """Implements `tcformer.training.task.Task`.

    Args:
        cfg: the options; with `eval` the training split is not opened.
        world: this process among all.

    Attributes:
        classes: class names of the data.
        num_classes: number of scores at each pixel.
    """

    metric = "miou"
    lower_is_better = False

    def __init__(self, cfg: TrainConfig, world: World) -> None:
        check_task(cfg)
        self.cfg, self.world = cfg, world
        self.spec = pixel_spec(cfg)
        source = build_pixel_source(cfg.data_set, cfg.data_path, "val", cfg.input_size)
        self.classes = list(source.classes)
        self.num_classes = _num_classes(cfg, len(self.classes))
        val = PixelDataset(source, EvalPair(self.spec), skip_corrupt=cfg.skip_corrupt)
        names = self.classes + [f"class {i}" for i in range(len(self.classes), self.num_classes)]
        self.evaluator = Evaluator(val, names, cfg, world)
        self._train: Any = None
        self.train_size = self.num_corrupt = 0
        self.steps_per_epoch = 0
        if not cfg.eval:
            self._open_training()
        self.model: nn.Module = build_model(cfg, self.num_classes).to(world.device)
        if cfg.freeze:
            freeze_all_but(self.model, self._head())

    def _head(self) -> list[nn.Module]:
        return [part for name, part in self.model.named_children() if name != "backbone"]

    def _open_training(self) -> None:
        cfg, world = self.cfg, self.world
        source = build_pixel_source(cfg.data_set, cfg.data_path, "train", cfg.input_size)
        train = PixelDataset(source, TrainPair(self.spec), skip_corrupt=True)
        self.train_size = len(train)
        share = {
            "batch_size": cfg.batch_size,
            "world_size": world.size,
            "rank": world.rank,
            "seed": cfg.seed,
        }
        self.sampler: ResumableSampler = (
            SteppedSampler(len(train), steps=cfg.steps_per_epoch, **share)
            if cfg.steps_per_epoch
            else ResumableSampler(len(train), **share)
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

    def batches(self, epoch: int, start: int) -> Iterator[PixelBatch]:
        """Training batches of this process, on the device."""
        self.sampler.set_epoch(epoch, start)
        for batch in self.loader:
            yield batch._replace(
                images=batch.images.to(self.world.device, non_blocking=True),
                targets=batch.targets.to(self.world.device, non_blocking=True),
            )
        skipped = torch.tensor([self.loader.num_corrupt])
        self.num_corrupt = int(all_reduce_sums(self.world, skipped).item())
        if self.num_corrupt and self.world.is_main:
            print(f"NOTICE: {self.num_corrupt} unreadable images were skipped in epoch {epoch}.")

    def loss(self, model: nn.Module, batch: PixelBatch) -> Tensor:
        """Mean cross entropy of the labelled pixels; zero where a batch has none."""
        if self.cfg.freeze:
            rest_all_but(self.model, self._head())
        scores = model(batch.images)
        size = batch.targets.shape[1:]
        full = F.interpolate(scores.float(), size=size, mode="bilinear", align_corners=False)
        total = F.cross_entropy(full, batch.targets, ignore_index=IGNORE, reduction="sum")
        return total / (batch.targets != IGNORE).sum().clamp(min=1)

    def describe(self, batch: PixelBatch) -> list[str]:
        """The files of a batch."""
        return [self._describe(i) for i in batch.indices.tolist()]

    def evaluate(
        self,
        model: nn.Module,
        log: MetricLogger,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> dict[str, float]:
        """Mean IoU and pixel accuracy on the validation set; see `Evaluator`."""
        return self.evaluator(model, log, autocast)

    def report(self, result: Mapping[str, float]) -> list[str]:
        """The lines of the evaluation."""
        return self.evaluator.report(result)

    def epoch_facts(self) -> dict[str, float]:
        """Unreadable images that the last epoch skipped, if any."""
        return {"corrupt": self.num_corrupt} if self.num_corrupt else {}

    def facts(self) -> dict[str, str]:
        """What `--dry-run` shows of the data."""
        return {
            "data": f"{self.cfg.data_set} {self.cfg.data_path}".strip(),
            "images": f"{self.train_size} to train on, {len(self.evaluator.dataset)} to evaluate "
            "on",
            "classes": str(self.num_classes),
            "input": f"3 x {self.cfg.input_size} x {self.cfg.input_size}",
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
        weights = read_checkpoint(local).state_dict
        if _CLASSIFIER not in weights:
            report = load_checkpoint(self.model.get_submodule("backbone"), local)
            return f"{report} (the backbone alone)"
        own = self.model.state_dict()
        fits = {k: v for k, v in weights.items() if not k.startswith("decode_head.conv_seg.")}
        if weights[_CLASSIFIER].shape == own[_CLASSIFIER].shape:
            fits = dict(weights)
        self._fit({**own, **fits}, path, self.model)
        return f"{len(fits)} tensors loaded from {path}"

    def facts_for_record(self) -> dict[str, Any]:
        """Model, data and metric; see `tcformer.training.record`."""
        sets = {"train": self._train, "val": self.evaluator.dataset}
        return {
            "task": self.cfg.task,
            "model": self.cfg.model,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "metric": self.metric,
            "data": {
                "name": self.cfg.data_set,
                **{
                    split: fingerprint(dataset, self.cfg.data_path)
                    for split, dataset in sets.items()
                    if dataset is not None
                },
            },
        }

    def load_weights(self, model: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
        """Strictly, with a sentence about what differs."""
        self._fit(weights, where, model)

    def _fit(self, weights: Mapping[str, Tensor], where: str, model: nn.Module) -> None:
        own = model.state_dict()
        saved = weights.get(_CLASSIFIER)
        if saved is None:
            raise UserError(
                f"{where} holds no segmentation model ({_CLASSIFIER} is not in it); weights of a "
                "classifier are for --finetune."
            )
        if saved.ndim == 4 and len(saved) != self.num_classes:
            raise UserError(
                f"{where} is for {len(saved)} classes, but the data ({self.cfg.data_set} at "
                f"{self.cfg.data_path!r}) has {self.num_classes}; give data with the same classes, "
                "or train new scores with --finetune."
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
                "the neck and head that it was trained with."
            )
        model.load_state_dict(weights)

    def save_weights(self, state_dict: Mapping[str, Tensor], path: Path) -> None:
        """As safetensors, with `about` and the way of merging in the header."""
        about = {**self.about(), "classes": "\n".join(self.classes)}
        save_weights(state_dict, path, {**merging_note(self.model), **about})

    def about(self) -> dict[str, Any]:
        """What whoever uses the weights needs to know; `tcformer.inference` reads it."""
        return {
            "task": "segmentation",
            "model": self.cfg.model,
            "input_size": self.cfg.input_size,
            "classes": list(self.classes),
        }

    def fake_batch(self, size: int) -> PixelBatch:
        """Noise with labels in stripes."""
        side, device = self.cfg.input_size, self.world.device
        stripes = torch.arange(side, device=device) % self.num_classes
        return PixelBatch(
            torch.randn((size, 3, side, side), device=device),
            stripes.expand(size, side, side).contiguous(),
            torch.arange(size),
            0,
        )


def pixel_spec(cfg: TrainConfig) -> PixelSpec:
    """How the options turn images and labels into tensors."""
    flips = 0.0 if cfg.data_set == "digits" else 0.5
    return PixelSpec(
        input_size=cfg.input_size,
        scale=cfg.scale,
        hflip=flips if cfg.hflip is None else cfg.hflip,
        color_jitter=cfg.color_jitter,
    )


def build_model(cfg: TrainConfig, num_classes: int) -> SemanticFPN:
    """The network that the options name."""
    if cfg.model not in VARIANTS:
        near = nearest(cfg.model, VARIANTS)
        hint = f"did you mean {near}?" if near else f"use one of {', '.join(VARIANTS)}."
        raise UserError(f"--model {cfg.model} gives no tokens to segment by; {hint}")
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
        return SemanticFPN(
            backbone,
            num_classes,
            neck_channels=cfg.neck_channels,
            neck_heads=cfg.neck_heads,
            neck_mlp_ratio=cfg.neck_mlp_ratio,
            reduction=cfg.neck_reduction,
            channels=cfg.head_channels,
        )
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(
            f"--model {cfg.model} cannot be built with these options: {str(error).rstrip('.')}."
        ) from error


def _num_classes(cfg: TrainConfig, in_data: int) -> int:
    """The number of scores: `--num-classes`, which must cover the data, or the data's."""
    if cfg.num_classes is None:
        return in_data
    if not in_data <= cfg.num_classes < IGNORE:
        raise UserError(
            f"--num-classes {cfg.num_classes} does not fit the {in_data} classes of the data (and "
            f"at most {IGNORE - 1}); leave it out to take the number from the data."
        )
    return cfg.num_classes
