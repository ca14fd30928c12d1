"""Object detection as a task of the training loop: data, model, loss, evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.retinanet import RetinaNetHead

from tcformer.data import Batch
from tcformer.data.detection import (
    CocoSource,
    DetectionDataset,
    Target,
    build_detection_source,
)
from tcformer.data.loader import listed
from tcformer.errors import UserError, shown
from tcformer.integrations import torchvision as detectors
from tcformer.models import TCFormer
from tcformer.runtime.distributed import World
from tcformer.tasks.dense import DenseTask, build_dense
from tcformer.tasks.detection.evaluator import Evaluator
from tcformer.training.config import TrainConfig
from tcformer.weights.metadata import names_of
from tcformer.weights.remap import strip_wrappers

KINDS = {
    "mask_rcnn": ("bbox", "segm"),
    "retinanet": ("bbox",),
    "keypoint_rcnn": ("bbox", "keypoints"),
}
"""What is measured of each detector; the last one decides which weights are best."""

_SCORES = "roi_heads.box_predictor."
# What depends on the categories and begins anew with others; the first parameter tells detectors.
_OUTPUTS = {
    "mask_rcnn": (f"{_SCORES}cls_score.weight", (_SCORES, "roi_heads.mask_predictor.mask_fcn_log")),
    "retinanet": (
        "head.classification_head.cls_logits.weight",
        ("head.classification_head.cls_logits.",),
    ),
    "keypoint_rcnn": (f"{_SCORES}cls_score.weight", (_SCORES, "roi_heads.keypoint_predictor.")),
}
_SHOWN = ("detector", "start_level", "num_outs", "extra", "anchor_scale", "min_size", "max_size")


class DetectionTask(DenseTask[Batch]):
    """See `tcformer.tasks.base.BaseTask`; `source` is the validation set as annotated."""

    backbone = "backbone.body"
    found = "categories"
    kind = "detector"
    parts = "detector and neck"
    unseen = (*DenseTask.unseen, "anchor_scale")

    def __init__(self, cfg: TrainConfig, world: World) -> None:
        super().__init__(cfg, world)
        if cfg.run.compile:
            raise UserError(
                "--compile is not for detection: compiling torchvision's detectors, whose shapes "
                "depend on the data, does not end within minutes; leave it out."
            )
        self.outputs, self.head = _OUTPUTS[cfg.detection.detector]
        self.metric = f"{KINDS[cfg.detection.detector][-1]} AP"
        self.source = source = self._source("val")
        if cfg.detection.detector == "mask_rcnn" and not source.masks:
            raise UserError("Mask R-CNN learns from masks, but not every object of val has one.")
        self.classes, self.num_classes = source.classes, source.num_classes
        val = DetectionDataset(source, skip_corrupt=cfg.data.skip_corrupt)
        self.evaluator = Evaluator(val, KINDS[cfg.detection.detector], cfg, world)
        if not cfg.run.eval:
            train = self._source("train")
            if train.categories != source.categories or train.masks != source.masks:
                raise UserError(
                    "train and val list different categories, or only one of them has masks."
                )
            flip = 0.5 if cfg.augmentation.hflip is None else cfg.augmentation.hflip
            dataset = DetectionDataset(train, flip=flip, skip_corrupt=True)
            self.use_training_set(dataset, collate=listed)
        self.use_model(build_model(cfg, source))

    def _source(self, split: str) -> CocoSource:
        data, chosen = self.cfg.data, self.cfg.detection
        return build_detection_source(
            data.data_set,
            data.data_path,
            split,
            keypoints=chosen.detector == "keypoint_rcnn",
            num_shapes=chosen.num_shapes,
            seed=self.cfg.run.seed,
        )

    def learning_parts(self) -> Sequence[nn.Module]:
        """All that is not the backbone: neck and detector."""
        return [self.model.get_submodule("backbone.neck"), *super().learning_parts()]

    def batch_loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """The sum of the detector's losses."""
        self.model.training = True  # --freeze rests it with its backbone, and it would detect
        losses: dict[str, Tensor] = model(batch.images, batch.targets)
        return torch.stack([loss.float() for loss in losses.values()]).sum()

    def facts(self) -> dict[str, str]:
        """What `--dry-run` shows of the data."""
        data, chosen = self.cfg.data, self.cfg.detection
        return {
            **super().facts(),
            "data": f"{data.data_set} {data.data_path if data.data_set == 'COCO' else ''}".strip(),
            "categories": str(len(self.classes)),
            "detector": chosen.detector,
            "input": f"short side {chosen.min_size}, long side at most {chosen.max_size}",
        }

    def facts_for_record(self) -> dict[str, Any]:
        """As every task, with the detector's name."""
        facts = super().facts_for_record()
        return {**facts, "model": f"{self.cfg.detection.detector} over {self.cfg.network.model}"}

    def in_our_names(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights without what wrappers put before their names."""
        return strip_wrappers(weights)[0]

    def classifier_rows(
        self, recorded: Sequence[str] | None, outputs: int, where: str
    ) -> tuple[list[int] | None, str]:
        """All rows where the categories are the same ones in the same order, otherwise None."""
        if recorded is None or list(recorded) == self.classes:
            return list(range(outputs)), ""
        return None, "its outputs begin anew: the data has other categories"

    def follow(
        self, said: Mapping[str, Any], weights: Mapping[str, Tensor], where: str
    ) -> list[str]:
        """Refuse a file of other categories; tell of other sizes of the images."""
        names, ids = names_of(said.get("classes")), names_of(said.get("category_ids"))
        own = {str(number): name for number, name in self.source.categories.items()}
        if names and ids:
            known = dict(zip(ids, names, strict=False))
            if known != own:
                raise UserError(
                    f"{where} knows the categories {shown(known)}, but the data ({self.data}) has "
                    f"{shown(own)}; give data with the same categories, or train new outputs with "
                    "--finetune."
                )
        notes = super().follow(said, weights, where)
        return notes + self.changed(said, "min_size", "max_size")

    def about(self) -> dict[str, Any]:
        """Model, categories, and the options of detector and neck."""
        return {
            "task": "detection",
            "model": self.cfg.network.model,
            "classes": list(self.classes),
            "category_ids": [str(number) for number in self.source.categories],
            **{name: str(getattr(self.cfg.detection, name)) for name in _SHOWN},
            **self.neck(),
        }

    def fake_batch(self, size: int) -> Batch:
        """Noise of the largest size, with one object in the middle."""
        height, width = self.cfg.detection.min_size, self.cfg.detection.max_size
        box = torch.tensor([[width / 4, height / 4, width * 3 / 4, height * 3 / 4]])
        target: Target = {"boxes": box, "labels": torch.tensor([1])}
        if self.source.masks:
            target["masks"] = torch.zeros((1, height, width), dtype=torch.uint8)
            target["masks"][:, height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = 1
        if self.source.keypoints:
            middle = torch.tensor([width / 2, height / 2, 1.0])
            target["keypoints"] = middle.expand(1, self.source.num_keypoints, 3)
        images = [torch.rand(3, height, width) for _ in range(size)]
        return self.to_device(
            Batch(images, [target] * size, torch.arange(size), 0), epoch=0, number=0
        )


def build_model(cfg: TrainConfig, source: CocoSource) -> nn.Module:
    """The detector that the options name, for the categories of the data."""
    return build_dense(cfg, "detect objects by", partial(_detector, cfg, source))


def _detector(
    cfg: TrainConfig, source: CocoSource, backbone: TCFormer, reduction: str, **_: Any
) -> nn.Module:
    chosen, channels = cfg.detection, cfg.neck.neck_channels
    features = detectors.pyramid(
        backbone,
        out_channels=channels,
        num_outs=chosen.num_outs,
        start_level=chosen.start_level,
        num_heads=cfg.neck.neck_heads,
        mlp_ratios=cfg.neck.neck_mlp_ratio,
        reduction=reduction,
        add_extra_convs=False if chosen.extra == "pool" else chosen.extra,
    )
    options: dict[str, Any] = {"min_size": chosen.min_size, "max_size": chosen.max_size}
    if chosen.detector != "retinanet":
        options["rpn_post_nms_top_n_train"] = chosen.proposals
        options["rpn_post_nms_top_n_test"] = chosen.proposals // 2
        options["box_batch_size_per_image"] = chosen.rois
        options["box_detections_per_img"] = chosen.detections
    make: Any = getattr(detectors, chosen.detector)
    if chosen.detector == "keypoint_rcnn":
        options["num_keypoints"] = source.num_keypoints
    if chosen.head_layers and chosen.detector == "mask_rcnn":
        options["mask_head"] = MaskRCNNHeads(channels, (256,) * chosen.head_layers, 1)
    if chosen.head_layers and chosen.detector == "keypoint_rcnn":
        options["keypoint_head"] = KeypointRCNNHeads(channels, (512,) * chosen.head_layers)
    if chosen.head_norm:
        generator = detectors.anchors(features, chosen.anchor_scale, 3)
        anchors = generator.num_anchors_per_location()[0]
        norm = partial(nn.GroupNorm, 16)
        options["anchor_generator"] = generator
        options["head"] = RetinaNetHead(channels, anchors, source.num_classes, norm_layer=norm)
    detector: nn.Module = make(
        features, source.num_classes, anchor_scale=chosen.anchor_scale, **options
    )
    return detector
