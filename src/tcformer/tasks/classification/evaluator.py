"""Exact evaluation: every image once, whatever the number of processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tcformer.errors import UserError
from tcformer.tasks.evaluator import Autocast, BaseEvaluator, renumbered
from tcformer.training.metrics import MetricLogger


class Evaluator(BaseEvaluator):
    """Cross entropy ("loss"), and top-1 and top-5 ("acc1", "acc5") in percent.

    Sums are float64 and counts whole, added up over the processes once and divided last.
    """

    meters = ("loss", "acc1", "acc5")
    num_images = num_unfit = 0  # of the last evaluation; unfit are scores that were not finite

    def empty(self) -> Tensor:
        """Sums as `batch_sums` gives them."""
        return torch.zeros(5, dtype=torch.float64)

    def add(
        self, found: Tensor, batch: Any, model: nn.Module, log: MetricLogger, autocast: Autocast
    ) -> None:
        """Classify a batch."""
        with torch.inference_mode(), autocast():
            logits = model(batch.images.to(self.world.device, non_blocking=True))
        targets = renumbered(batch.targets, self.places)
        sums = batch_sums(logits, targets.to(self.world.device))
        found += sums
        for name, value in _means(sums).items():
            log.meters[name].update(value, int(sums[3]))

    def result(self, found: Tensor) -> dict[str, float]:
        """Means over all processes."""
        sums = self.over_processes(found)
        self.num_images, self.num_unfit = int(sums[3]), int(sums[4])
        if not self.num_images:
            raise UserError("no image of the validation set could be read.")
        return _means(sums)

    def report(self, result: Mapping[str, float]) -> list[str]:
        """The two published lines, and one about images left out."""
        lines = [
            f"* Acc@1 {result['acc1']:.3f} Acc@5 {result['acc5']:.3f} loss {result['loss']:.3f}",
            f"Accuracy of the network on the {self.num_images} test images: {result['acc1']:.1f}%",
            *self.left_out_lines(),
        ]
        if self.num_unfit:
            lines.append(
                f"NOTICE: {self.num_unfit} images got scores that are infinite or NaN and count as "
                "wrong; the weights or, with --amp, their precision are at fault."
            )
        return lines


def _means(sums: Tensor) -> dict[str, float]:
    loss, top1, top5, images, _ = sums.tolist()
    return {"loss": loss / images, "acc1": 100 * top1 / images, "acc5": 100 * top5 / images}


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
