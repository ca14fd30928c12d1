"""Evaluate a network on people: predict them all, on any number of processes, then measure."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tcformer.data.keypoints.annotations import Truth, pycocotools
from tcformer.data.keypoints.dataset import KeypointDataset, stacked
from tcformer.errors import UserError
from tcformer.files import atomic_write
from tcformer.predict.pose import find_heatmaps, require_finite
from tcformer.runtime.distributed import World, gather_objects
from tcformer.tasks.evaluator import BaseEvaluator
from tcformer.tasks.pose.average_precision import STATISTICS, WHOLE, evaluate_keypoints
from tcformer.tasks.pose.nme import evaluate_faces
from tcformer.tasks.pose.results import results_of_image
from tcformer.training.config import TrainConfig
from tcformer.training.metrics import MetricLogger

RESULTS = "keypoints.json"
"""What an evaluation with --output_dir leaves there: a results file of the last evaluation."""

PCK = 0.05
"""A stick figure's keypoint is right within this share of its box's longer side."""


class Evaluator(BaseEvaluator):
    """Predict the people of a data set and measure.

    Every process gathers all predictions and computes the same numbers.

    Attributes:
        metric: "ap", "nme" or "pck".
        results: the entries of the last evaluation's results file.
    """

    left_out = "people in unreadable images"

    def __init__(self, dataset: KeypointDataset, cfg: TrainConfig, world: World) -> None:
        super().__init__(dataset, cfg, world, stacked)
        self.flip_test, self.output_dir = cfg.pose.flip_test, cfg.run.output_dir
        kind = dataset.source.layout
        self.metric = "ap" if kind.sigmas is not None else "nme" if kind.norm else "pck"
        if self.metric == "ap":
            pycocotools("pose")  # now, not after an epoch
        self.results: list[dict[str, Any]] = []
        self.table: dict[str, dict[str, float]] = {}

    def __call__(
        self,
        model: nn.Module,
        log: MetricLogger,
        autocast: Callable[[], AbstractContextManager[None]],
    ) -> dict[str, float]:
        """Measure: the same numbers in percent on every process.

        Raises:
            Interrupted: on every process, when any was asked to stop.
            UserError: an unreadable image (without `--skip-corrupt`), none that can be read, or
                heat maps that are not finite.
        """
        model.eval()
        log.add("peak")
        mine: list[tuple[int, np.ndarray, np.ndarray]] = []
        for batch in self.batches(log):
            indices = batch.indices.tolist()
            crops = [self.dataset.crop(self.dataset.source.subject(i)) for i in indices]
            heatmaps = find_heatmaps(
                model,
                batch.images.to(self.world.device),
                self.dataset.codec,
                self.dataset.source.layout,
                flip_test=self.flip_test,
                autocast=autocast,
            )
            require_finite(heatmaps)
            points, scores = self.dataset.codec.decode(heatmaps, crops)
            mine += zip(indices, points.astype(np.float32), scores.astype(np.float32), strict=True)
            log.meters["peak"].update(float(scores.mean()), len(indices))
        shares = gather_objects(self.world, mine) if self.shared else [mine]
        self.over_processes(torch.zeros(0, dtype=torch.int64))
        found = {index: (points, scores) for share in shares for index, points, scores in share}
        if not found:
            raise UserError("no image of the validation set could be read.")
        result = self._measure(found)
        if self.results and self.output_dir and self.world.is_main:
            folder = Path(self.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.results).encode()
            atomic_write(folder / RESULTS, lambda file: file.write(text))
        return result

    def _measure(self, found: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
        source = self.dataset.source
        if self.metric == "pck":
            return {"pck": 100 * self._share_right(found)}
        assert source.truth is not None
        self.results = self._faces(found) if self.metric == "nme" else self._people(found)
        for entry in self.results:
            entry["category_id"] = source.truth.category
        truth = self._read(source.truth, found)
        if self.metric == "nme":
            errors = evaluate_faces(truth, self.results)
            self.table = {name: {"NME": value} for name, value in errors.items()}
            rest = {f"nme_{name}": 100 * v for name, v in errors.items() if name != "test"}
            return {"nme": 100 * errors["test"], **rest}
        self.table = evaluate_keypoints(truth, self.results) if self.results else {}
        if not self.table:
            parts = [*source.layout.parts, WHOLE]
            self.table = {part: dict.fromkeys(STATISTICS, 0.0) for part in parts}
        result = {"ap": 100 * self.table[WHOLE]["AP"], "ar": 100 * self.table[WHOLE]["AR"]}
        for part, values in self.table.items():
            result |= {f"{part}_ap": 100 * values["AP"], f"{part}_ar": 100 * values["AR"]}
        return result

    def _read(self, truth: Truth, found: Mapping[int, Any]) -> Truth:
        """The annotations without those in photographs that could not be read."""
        images: tuple[set[int], set[int]] = (set(), set())
        for i in range(len(self.dataset)):
            images[i in found].add(self.dataset.source.subject(i).image_id)
        unread = images[False] - images[True]
        return replace(
            truth,
            images=tuple(image for image in truth.images if image not in unread),
            annotations=tuple(n for n in truth.annotations if n["image_id"] not in unread),
        )

    def _share_right(self, found: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> float:
        right = labeled = 0
        for index, (points, _) in sorted(found.items()):
            subject = self.dataset.source.subject(index)
            far = np.linalg.norm(points - subject.points, axis=-1) / subject.box[2:].max()
            seen = subject.visible > 0
            right += int((far[seen] <= PCK).sum())
            labeled += int(seen.sum())
        return right / labeled if labeled else math.nan

    def _faces(self, found: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> list[dict[str, Any]]:
        entries = []
        for index, (points, scores) in sorted(found.items()):
            subject = self.dataset.source.subject(index)
            flat = np.concatenate([points, scores[:, None]], axis=1).ravel()
            entries.append(
                {
                    "id": subject.number,
                    "image_id": subject.image_id,
                    "category_id": 1,
                    "keypoints": flat.astype(float).tolist(),
                }
            )
        return entries

    def _people(self, found: Mapping[int, tuple[np.ndarray, np.ndarray]]) -> list[dict[str, Any]]:
        by_image: dict[int, list[int]] = {}
        for index in sorted(found):
            by_image.setdefault(self.dataset.source.subject(index).image_id, []).append(index)
        entries = []
        for image, indices in by_image.items():
            subjects = [self.dataset.source.subject(i) for i in indices]
            points = np.stack([found[i][0] for i in indices]).astype(np.float64)
            scores = np.stack([found[i][1] for i in indices]).astype(np.float64)
            areas = np.array([self.dataset.crop(s).area for s in subjects])
            entries += results_of_image(
                image,
                points,
                scores,
                areas,
                [s.score for s in subjects],
                self.dataset.source.layout,
            )
        return entries

    def report(self, result: Mapping[str, float]) -> list[str]:
        """The metric on its own line, then a table of the parts or subsets."""
        number = len(self.dataset) - self.num_corrupt
        if self.metric == "pck":
            lines = [
                f"* PCK@{PCK:g} {result['pck']:.3f}",
                f"{result['pck']:.1f}% of the keypoints of {number} figures are right.",
            ]
        elif self.metric == "nme":
            lines = [
                f"* NME {result['nme']:.3f}",
                f"Normalised mean error of the network on the {number} test faces: "
                f"{result['nme']:.2f}%",
            ]
            subsets = [f"{name} {100 * v['NME']:.2f}" for name, v in self.table.items()]
            lines += ["NME of " + ", ".join(subsets)] if len(subsets) > 1 else []
        else:
            lines = [
                f"* AP {result['ap']:.3f} AR {result['ar']:.3f}",
                f"Whole-body AP of the network on {number} boxes: {result['ap']:.1f}%",
            ]
            lines += [
                f"{part:<9} " + " ".join(f"{name} {value:.3f}" for name, value in values.items())
                for part, values in self.table.items()
            ]
        return lines + self.left_out_lines()
