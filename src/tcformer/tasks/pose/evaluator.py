"""Evaluate a network on people: predict them all, on any number of processes, then measure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from tcformer.data.keypoints.annotations import Truth, pycocotools
from tcformer.data.keypoints.dataset import KeypointDataset, stacked
from tcformer.files import atomic_write
from tcformer.predict.pose import find_heatmaps, require_finite
from tcformer.runtime.distributed import World
from tcformer.tasks.evaluator import Autocast, GatheringEvaluator
from tcformer.tasks.pose.average_precision import STATISTICS, WHOLE, evaluate_keypoints
from tcformer.tasks.pose.nme import evaluate_faces
from tcformer.tasks.pose.results import results_of_image
from tcformer.training.config import TrainConfig
from tcformer.training.metrics import MetricLogger

RESULTS = "keypoints.json"
"""What an evaluation with --output_dir leaves there: a results file of the last evaluation."""

PCK = 0.05
"""A stick figure's keypoint is right within this share of its box's longer side."""

Found = Mapping[int, tuple[np.ndarray, np.ndarray]]
"""Points (K, 2) and scores (K,) of each person by its index, in the order of the indices."""


class Evaluator(GatheringEvaluator):
    """Predict the people of a data set and measure, in percent.

    Attributes:
        metric: "ap", "nme" or "pck".
        results: the entries of the last evaluation's results file.
        table: the numbers of each part or subset.
    """

    left_out = "people in unreadable images"
    meters = ("peak",)

    def __init__(self, dataset: KeypointDataset, cfg: TrainConfig, world: World) -> None:
        super().__init__(dataset, cfg, world, stacked)
        self.flip_test, self.output_dir = cfg.pose.flip_test, cfg.run.output_dir
        self.layout, self.subject = dataset.source.layout, dataset.source.subject
        self.metric = (
            "ap" if self.layout.sigmas is not None else "nme" if self.layout.norm else "pck"
        )
        if self.metric == "ap":
            pycocotools("pose")  # now, not after an epoch
        self.results: list[dict[str, Any]] = []
        self.table: dict[str, dict[str, float]] = {}

    def add(
        self, found: Any, batch: Any, model: nn.Module, log: MetricLogger, autocast: Autocast
    ) -> None:
        """Predict the people of a batch; a UserError if heat maps are not finite."""
        indices = batch.indices.tolist()
        codec = self.dataset.codec
        heatmaps = find_heatmaps(
            model,
            batch.images.to(self.world.device),
            codec,
            self.layout,
            flip_test=self.flip_test,
            autocast=autocast,
        )
        require_finite(heatmaps)
        points, scores = codec.decode(
            heatmaps, [self.dataset.crop(self.subject(i)) for i in indices]
        )
        pairs = zip(points.astype(np.float32), scores.astype(np.float32), strict=True)
        found += zip(indices, pairs, strict=True)
        log.meters["peak"].update(float(scores.mean()), len(indices))

    def measure(self, found: Found) -> dict[str, float]:
        """The metric and its parts; the results file is written on the main process."""
        if self.metric == "pck":
            return {"pck": 100 * self._share_right(found)}
        everybody = self.dataset.source.truth
        assert everybody is not None
        self.results = self._faces(found) if self.metric == "nme" else self._people(found)
        for entry in self.results:
            entry["category_id"] = everybody.category
        truth = self._readable(everybody, found)
        if self.metric == "nme":
            errors = evaluate_faces(truth, self.results)
            self.table = {name: {"NME": value} for name, value in errors.items()}
            result = {"nme" if n == "test" else f"nme_{n}": 100 * v for n, v in errors.items()}
        else:
            self.table = evaluate_keypoints(truth, self.results) if self.results else {}
            if not self.table:
                parts = [*self.layout.parts, WHOLE]
                self.table = {part: dict.fromkeys(STATISTICS, 0.0) for part in parts}
            result = {"ap": 100 * self.table[WHOLE]["AP"], "ar": 100 * self.table[WHOLE]["AR"]}
            for part, values in self.table.items():
                result |= {f"{part}_ap": 100 * values["AP"], f"{part}_ar": 100 * values["AR"]}
        if self.results and self.output_dir and self.world.is_main:
            folder = Path(self.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(self.results).encode()
            atomic_write(folder / RESULTS, lambda file: file.write(text))
        return result

    def _readable(self, truth: Truth, found: Found) -> Truth:
        """The annotations without those in photographs that could not be read."""
        read = {self.subject(i).image_id for i in found}
        unread = {self.subject(i).image_id for i in range(len(self.dataset))} - read
        return replace(
            truth,
            images=tuple(image for image in truth.images if image not in unread),
            annotations=tuple(n for n in truth.annotations if n["image_id"] not in unread),
        )

    def _share_right(self, found: Found) -> float:
        right = labeled = 0
        for index, (points, _) in found.items():
            subject = self.subject(index)
            far = np.linalg.norm(points - subject.points, axis=-1) / subject.box[2:].max()
            seen = subject.visible > 0
            right += int((far[seen] <= PCK).sum())
            labeled += int(seen.sum())
        return right / labeled if labeled else math.nan

    def _faces(self, found: Found) -> list[dict[str, Any]]:
        entries = []
        for index, (points, scores) in found.items():
            face = self.subject(index)
            flat = np.concatenate([points, scores[:, None]], axis=1).ravel().astype(float).tolist()
            ids = {"id": face.number, "image_id": face.image_id, "category_id": 1}
            entries.append({**ids, "keypoints": flat})
        return entries

    def _people(self, found: Found) -> list[dict[str, Any]]:
        by_image: dict[int, list[int]] = {}
        for index in found:
            by_image.setdefault(self.subject(index).image_id, []).append(index)
        entries = []
        for image, indices in by_image.items():
            subjects = [self.subject(i) for i in indices]
            points, scores = (
                np.stack([found[i][which] for i in indices]).astype(np.float64) for which in (0, 1)
            )
            areas = np.array([self.dataset.crop(s).area for s in subjects])
            boxes = [s.score for s in subjects]
            entries += results_of_image(image, points, scores, areas, boxes, self.layout)
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
