"""COCO's average precision of boxes, masks and keypoints, exact over any number of processes."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tcformer.data.detection import CocoSource, DetectionDataset
from tcformer.data.keypoints.annotations import pycocotools
from tcformer.data.loader import listed
from tcformer.runtime.distributed import World
from tcformer.tasks.evaluator import Autocast, GatheringEvaluator
from tcformer.training.config import TrainConfig
from tcformer.training.metrics import MetricLogger

PERSON = 17  # keypoints of a person, for whose sizes pycocotools has its own constants
SIGMA = 0.05  # of any other keypoint


class Evaluator(GatheringEvaluator):
    """Detect objects and measure them by COCO's protocol: "bbox AP", "bbox AP50" ..., percent.

    Args:
        dataset: the validation set.
        kinds: what is measured: "bbox", "segm", "keypoints".
        cfg: see `BaseEvaluator`.
        world: this process among all.
    """

    meters = ("objects",)

    def __init__(
        self, dataset: DetectionDataset, kinds: Sequence[str], cfg: TrainConfig, world: World
    ) -> None:
        super().__init__(dataset, cfg, world, listed)
        self.kinds = tuple(kinds)

    def add(
        self, found: Any, batch: Any, model: nn.Module, log: MetricLogger, autocast: Autocast
    ) -> None:
        """Detect the objects of a batch."""
        source = self.dataset.source
        images = [image.to(self.world.device) for image in batch.images]
        # Not inference mode: the anchors that torchvision keeps would be of no use in training.
        with torch.no_grad(), autocast():
            detected = model(images)
        for index, one in zip(batch.indices.tolist(), detected, strict=True):
            found.append((index, results(one, source.ids[index], list(source.categories))))
        log.meters["objects"].update(float(np.mean([len(rows) for _, rows in found])))

    def measure(self, found: Mapping[int, list[dict[str, Any]]]) -> dict[str, float]:
        """COCO's numbers, of the images that could be read."""
        source = self.dataset.source
        rows = [row for some in found.values() for row in some]
        images = [source.ids[index] for index in found]
        return {
            f"{kind} {name}": value
            for kind in self.kinds
            for name, value in average_precision(source, rows, kind, images).items()
        }

    def report(self, result: Mapping[str, float]) -> list[str]:
        """Each average precision on one line, then the one that decides."""
        number = len(self.dataset) - self.num_corrupt
        return [
            "  ".join(f"{name} {value:.1f} %" for name, value in result.items()),
            f"Average precision of the network on the {number} test images: "
            + ", ".join(f"{kind} {result[f'{kind} AP']:.1f}%" for kind in self.kinds),
            *self.left_out_lines(),
        ]


def results(
    found: Mapping[str, Tensor], image: int, categories: Sequence[int]
) -> list[dict[str, Any]]:
    """What a detector found in an image, as rows of COCO's format.

    Args:
        found: `boxes` (N, 4) as x0, y0, x1, y1, `scores` (N,), `labels` (N,) from 1, and `masks`
            (N, 1, H, W) of probabilities or `keypoints` (N, K, 3) where there are some.
        image: its id.
        categories: the id of each label, beginning with that of 1.
    """
    boxes = found["boxes"].cpu().clone()
    boxes[:, 2:] -= boxes[:, :2]
    rows: list[dict[str, Any]] = []
    for i, (score, label) in enumerate(
        zip(found["scores"].tolist(), found["labels"].tolist(), strict=True)
    ):
        row = {
            "image_id": image,
            "category_id": categories[label - 1],
            "bbox": boxes[i].tolist(),
            "score": score,
        }
        if "masks" in found:
            mask = (found["masks"][i, 0] >= 0.5).cpu().numpy().astype(np.uint8)
            row["segmentation"] = pycocotools("dense").mask.encode(np.asfortranarray(mask))
        if "keypoints" in found:
            row["keypoints"] = found["keypoints"][i].flatten().tolist()
        rows.append(row)
    return rows


def average_precision(
    source: CocoSource,
    rows: list[dict[str, Any]],
    kind: str,
    images: Sequence[int] | None = None,
) -> dict[str, float]:
    """COCO's AP over IoU 0.5 to 0.95 (or OKS) and AP at 0.5, in percent.

    Args:
        source: the annotations.
        rows: from `results`, of all images.
        kind: bbox, segm or keypoints.
        images: ids of the images to measure on; None for all.
    """
    if not rows:
        return {"AP": 0.0, "AP50": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports on what it does
        run = pycocotools("dense").COCOeval(source.coco, source.coco.loadRes(rows), kind)
        if images is not None:
            run.params.imgIds = sorted(images)
        if kind == "keypoints" and source.num_keypoints != PERSON:
            run.params.kpt_oks_sigmas = np.full(source.num_keypoints, SIGMA)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return {"AP": 100 * float(run.stats[0]), "AP50": 100 * float(run.stats[1])}
