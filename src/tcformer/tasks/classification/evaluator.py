"""Exact evaluation: every image once, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tcformer.errors import UserError
from tcformer.runtime.distributed import World
from tcformer.tasks.evaluator import BaseEvaluator, renumbered
from tcformer.training.config import TrainConfig
from tcformer.training.metrics import MetricLogger


class Evaluator(BaseEvaluator):
    """Cross entropy, top-1 and top-5 of a model on a data set.

    Sums are float64 and counts whole, added up over the processes once and divided last.
    """

    def __init__(self, dataset: Any, cfg: TrainConfig, world: World) -> None:
        super().__init__(dataset, cfg, world)
        self.num_images = len(dataset)  # counted in the last evaluation
        self.num_unfit = 0  # images whose scores were not finite

    def __call__(
        self,
        model: nn.Module,
        log: MetricLogger,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> dict[str, float]:
        """Measure: loss, acc1 and acc5 (percent), the same numbers on every process.

        Raises:
            Interrupted: on every process, when any was asked to stop.
            UserError: an unreadable image (without `--skip-corrupt`), or no image at all.
        """
        model.eval()
        for name in ("loss", "acc1", "acc5"):
            log.add(name)
        sums = torch.zeros(5, dtype=torch.float64)  # loss, top-1, top-5, images, unfit
        for batch in self.batches(log):
            with torch.inference_mode(), autocast():
                logits = model(batch.images.to(self.world.device, non_blocking=True))
            targets = renumbered(batch.targets, self.places)
            measured = batch_sums(logits, targets.to(self.world.device))
            sums += measured
            loss, top1, top5, images, _ = measured.tolist()
            log.meters["loss"].update(loss / images, int(images))
            log.meters["acc1"].update(100 * top1 / images, int(images))
            log.meters["acc5"].update(100 * top5 / images, int(images))
        loss, top1, top5, images, unfit = self.over_processes(sums).tolist()
        self.num_images, self.num_unfit = int(images), int(unfit)
        if not images:
            raise UserError("no image of the validation set could be read.")
        return {"loss": loss / images, "acc1": 100 * top1 / images, "acc5": 100 * top5 / images}

    def report(self, result: Mapping[str, float]) -> list[str]:
        """The two published lines, and one about images left out."""
        lines = [
            f"* Acc@1 {result['acc1']:.3f} Acc@5 {result['acc5']:.3f} loss {result['loss']:.3f}",
            f"Accuracy of the network on the {self.num_images} test images: {result['acc1']:.1f}%",
            *self.left_out_lines(),
        ]
        if self.num_unfit:
            lines.append(unfit_line(self.num_unfit))
        return lines


def unfit_line(images: int) -> str:
    """What to say of images whose scores were not finite."""
    return (
        f"NOTICE: {images} images got scores that are infinite or NaN and count as wrong; the "
        "weights or, with --amp, their precision are at fault."
    )


def batch_sums(logits: Tensor, targets: Tensor) -> Tensor:
    """Sums over a batch: cross entropy, top-1 hits, top-5 hits, images, unfit images.

    Unfit are those with a score that is not finite. They are never a hit.

    Args:
        logits: (B, classes) any float dtype; with fewer than 5 classes, top-5 uses what there is.
        targets: (B,) int64.

    Returns:
        (5,) float64 on the CPU.
    """
    logits = logits.float()
    loss = cross_entropy(logits, targets, reduction="none").double().sum()
    best = logits.topk(min(5, logits.shape[1]), dim=1).indices
    fit = logits.isfinite().all(dim=1)
    hits = (best == targets[:, None]) & fit[:, None]
    images = torch.full_like(loss, len(targets))
    return torch.stack([loss, hits[:, 0].sum(), hits.sum(), images, (~fit).sum()]).cpu()
