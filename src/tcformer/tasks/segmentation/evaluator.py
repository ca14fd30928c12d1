"""Mean intersection over union, exact over any number of processes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tcformer.data.loader import listed
from tcformer.errors import UserError
from tcformer.runtime.distributed import World
from tcformer.tasks.evaluator import Autocast, BaseEvaluator, renumbered
from tcformer.training.config import TrainConfig
from tcformer.training.metrics import MetricLogger

_CLASSES_AT_ONCE = 16  # scores of a photograph of 150 classes in full size would be gigabytes


class Evaluator(BaseEvaluator):
    """Pixels of each class taken for each class, at the size that the labels have.

    It measures "miou" and "pixel_acc" in percent. The counts are whole numbers, added up over the
    processes once.
    """

    meters = ("pixel_acc",)
    num_images = num_unfit = 0

    def __init__(self, dataset: Any, classes: Sequence[str], cfg: TrainConfig, world: World):
        super().__init__(dataset, cfg, world, listed)
        self.rename(classes)

    def empty(self) -> Tensor:
        """The confusion matrix, flat, then images, then images with scores that are not finite."""
        return torch.zeros(len(self.classes) * (len(self.classes) + 1) + 2, dtype=torch.int64)

    def add(
        self, found: Tensor, batch: Any, model: nn.Module, log: MetricLogger, autocast: Autocast
    ) -> None:
        """Segment a batch, neighbors of one shape at a time."""
        for first, last in runs_of_one_shape(batch.images):
            pixels = torch.stack(batch.images[first:last]).to(self.world.device)
            with torch.inference_mode(), autocast():
                scores = model(pixels)
            for score, labels in zip(scores, batch.targets[first:last], strict=True):
                labels = renumbered(labels, self.places).to(self.world.device)
                best = best_class(score, tuple(labels.shape))
                one = confusion(best, labels, len(self.classes))
                found[:-2] += one.flatten()
                found[-2:] += torch.tensor([1, int(one[:, -1].any())])
                if one.sum():
                    log.meters["pixel_acc"].update(MeanIoU(one).pixel_accuracy)

    def result(self, found: Tensor) -> dict[str, float]:
        """What the counts of all processes come to."""
        totals = self.over_processes(found)
        self.num_images, self.num_unfit = (int(n) for n in totals[-2:])
        self.confusion = totals[:-2].view(len(self.classes), -1)
        if not self.confusion.sum():
            raise UserError("no labelled pixel of the validation set could be read.")
        measured = MeanIoU(self.confusion)
        return {"miou": measured.mean, "pixel_acc": measured.pixel_accuracy}

    def report(self, result: Mapping[str, float]) -> list[str]:
        """Mean and accuracy, the number of images, and what each class reaches."""
        measured = MeanIoU(self.confusion)
        lines = [
            f"* mIoU {result['miou']:.3f} pixel accuracy {result['pixel_acc']:.3f}",
            f"Mean IoU of the network on the {self.num_images} test images: {result['miou']:.1f}%",
            "IoU of each class: "
            + ", ".join(
                f"{name} {value:.1f}"
                for name, value in zip(self.classes, measured.per_class, strict=True)
                if not math.isnan(value)
            ),
            *self.left_out_lines(),
        ]
        if self.num_unfit:
            lines.append(
                f"NOTICE: {self.num_unfit} images got scores that are infinite or NaN; those "
                "pixels count as wrong."
            )
        return lines


class MeanIoU:
    """What a confusion matrix says, in percent.

    Args:
        counts: (classes, classes or one more) int64, rows what the label says, columns what was
            found; the column more is for pixels without any.

    Attributes:
        per_class: intersection over union, NaN for a class that is neither labelled nor found.
        mean: over the other classes.
        pixel_accuracy: labelled pixels whose class was found.
    """

    def __init__(self, counts: Tensor) -> None:
        hits = counts.diagonal()
        union = counts[:, : len(counts)].sum(0) + counts.sum(1) - hits
        self.per_class = [
            100 * h / u if u else math.nan
            for h, u in zip(hits.tolist(), union.tolist(), strict=True)
        ]
        known = [value for value in self.per_class if not math.isnan(value)]
        self.mean = sum(known) / len(known) if known else math.nan
        total = int(counts.sum())
        self.pixel_accuracy = 100 * int(hits.sum()) / total if total else math.nan


def confusion(found: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Count pixels by (label, found), arrays of whole numbers of one shape.

    `num_classes` is no class among the found; labels of `num_classes` and above count nowhere.

    Returns:
        (num_classes, num_classes + 1) int64 on the CPU.
    """
    seen = labels < num_classes
    columns = num_classes + 1
    pairs = labels[seen].long() * columns + found[seen].long()
    return pairs.bincount(minlength=num_classes * columns).view(num_classes, columns).cpu()


def best_class(scores: Tensor, size: tuple[int, ...]) -> Tensor:
    """The class of the highest score at each pixel, the lowest number of several; int64.

    Where a score is not finite it is none of them: the number of classes.

    Args:
        scores: (classes, h, w) any float dtype; resized bilinearly, some classes at a time.
        size: height and width wanted.
    """
    best = torch.full(size, -math.inf, device=scores.device)
    found = torch.zeros(size, dtype=torch.int64, device=scores.device)
    fit = torch.ones(size, dtype=torch.bool, device=scores.device)
    for first in range(0, len(scores), _CLASSES_AT_ONCE):
        some = scores[None, first : first + _CLASSES_AT_ONCE].float()
        full = F.interpolate(some, size=size, mode="bilinear", align_corners=False)[0]
        highest, which = full.max(0)
        better = highest > best
        best = torch.where(better, highest, best)
        found = torch.where(better, which + first, found)
        # The sum is finite only if all of them are, or overflows where scores mean nothing.
        fit &= full.sum(0).isfinite()
    return torch.where(fit, found, len(scores))


def runs_of_one_shape(images: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Slices of neighbours that can be stacked, in order."""
    ends = [i for i in range(1, len(images)) if images[i].shape != images[i - 1].shape]
    return list(zip([0, *ends], [*ends, len(images)], strict=True))
