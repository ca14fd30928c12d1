"""Train and measure torchvision's detectors over a TCFormer and MTA.

    python examples/detection.py configs/detection/mask_rcnn_shapes.py
    torchrun --nproc-per-node 8 examples/detection.py configs/detection/mask_rcnn_coco.py \\
        --data-path /path/to/coco --output-dir work_dirs/mask_rcnn

Without --data-path it draws pictures of shapes. `--help` explains every setting.
"""

from __future__ import annotations

import math
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads
from torchvision.models.detection.retinanet import RetinaNetHead

from detection_config import Detection, as_plain, parse
from detection_data import CocoFolder, average_precision, collate, results
from shapes import write_coco
from tcformer.errors import UserError, shown
from tcformer.files import atomic_write, make_folder, safe_torch_load
from tcformer.integrations.torchvision import (
    anchors,
    keypoint_rcnn,
    mask_rcnn,
    pyramid,
    retinanet,
)
from tcformer.models.checkpoints import load_checkpoint
from tcformer.models.fetch import file_sha256
from tcformer.runtime.distributed import World, gather_objects, guard, init_world, leave, shutdown
from tcformer.training.record import RunRecord, closing
from tcformer.training.retention import set_earlier_aside

KINDS = {
    "mask_rcnn": ("bbox", "segm"),
    "retinanet": ("bbox",),
    "keypoint_rcnn": ("bbox", "keypoints"),
}
SHAPES_SIZE = 64


def build(cfg: Detection, data: CocoFolder) -> nn.Module:
    """The detector that the settings describe, for the classes of the data."""
    features = pyramid(
        cfg.backbone,
        pretrained=cfg.pretrained,
        drop_path_rate=cfg.drop_path,
        out_channels=cfg.out_channels,
        num_outs=cfg.num_outs,
        start_level=cfg.start_level,
        num_heads=cfg.num_heads,
        mlp_ratios=cfg.mlp_ratio,
        reduction=cfg.reduction,
        add_extra_convs=False if cfg.extra == "pool" else cfg.extra,
    )
    if cfg.weights:
        print(load_checkpoint(features.body, cfg.weights, ema=None))
    options: dict[str, Any] = {"min_size": cfg.min_size, "max_size": cfg.max_size}
    if cfg.detector != "retinanet":
        options["rpn_post_nms_top_n_train"] = cfg.proposals
        options["rpn_post_nms_top_n_test"] = cfg.proposals // 2
        options["box_batch_size_per_image"] = cfg.rois
        options["box_detections_per_img"] = cfg.detections
    if cfg.head_layers and cfg.detector == "mask_rcnn":
        options["mask_head"] = MaskRCNNHeads(cfg.out_channels, (256,) * cfg.head_layers, 1)
    if cfg.head_layers and cfg.detector == "keypoint_rcnn":
        options["keypoint_head"] = KeypointRCNNHeads(cfg.out_channels, (512,) * cfg.head_layers)
    if cfg.head_norm:
        generator = anchors(features, cfg.anchor_scale, 3)
        options["anchor_generator"] = generator
        options["head"] = RetinaNetHead(
            cfg.out_channels,
            generator.num_anchors_per_location()[0],
            data.num_classes,
            norm_layer=partial(nn.GroupNorm, 16),
        )
    make = {
        "mask_rcnn": mask_rcnn,
        "retinanet": retinanet,
        "keypoint_rcnn": partial(keypoint_rcnn, num_keypoints=data.num_keypoints),
    }[cfg.detector]
    return make(features, data.num_classes, anchor_scale=cfg.anchor_scale, **options)


def rate(cfg: Detection, steps_per_epoch: int, step: int) -> float:
    """Share of the learning rate at a step: linear warm-up, then a tenth after each drop."""
    drops = sum(step >= epoch * steps_per_epoch for epoch in cfg.lr_drops)
    if step < cfg.warmup_steps:
        share = cfg.warmup_factor + (1 - cfg.warmup_factor) * step / cfg.warmup_steps
        return share * 0.1**drops
    return 0.1**drops


def batches(data: CocoFolder, cfg: Detection, world: World, epoch: int) -> DataLoader[Any]:
    """The batches of this process; order and flips depend on (seed, epoch) alone."""
    generator = torch.Generator().manual_seed(cfg.seed * 100_003 + epoch)
    order = torch.randperm(len(data), generator=generator).tolist()
    whole = cfg.batch_size * world.size
    # Every process takes the same number of batches: what does not fill one is left out.
    order = order[: len(order) // whole * whole][world.rank :: world.size]
    generator.manual_seed((cfg.seed * 100_003 + epoch) * 1009 + world.rank)
    return DataLoader(
        data,
        cfg.batch_size,
        sampler=order,
        num_workers=cfg.num_workers,
        collate_fn=collate,
        generator=generator,
    )


def train_one_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: CocoFolder,
    cfg: Detection,
    world: World,
    epoch: int,
) -> dict[str, float]:
    """One pass over the pictures; means of the loss, on this process, and the last rate."""
    model.train()
    torch.manual_seed((cfg.seed * 100_003 + epoch) * 1009 + world.rank)
    loader = batches(data, cfg, world, epoch)
    steps, total, factor = len(loader), 0.0, 0.0
    for number, (images, targets) in enumerate(loader):
        factor = rate(cfg, steps, epoch * steps + number)
        for group in optimizer.param_groups:
            group["lr"] = cfg.lr * factor
        images = [image.to(world.device) for image in images]
        targets = [{key: value.to(world.device) for key, value in t.items()} for t in targets]
        losses = model(images, targets)
        loss = sum(losses.values())
        if not math.isfinite(loss.item()):
            raise UserError(f"the loss became {loss.item()} in step {number} of epoch {epoch}.")
        total += loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if number % 20 == 0 or number == steps - 1:
            parts = "  ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            print(f"epoch {epoch} [{number:4d}/{steps}]  lr {cfg.lr * factor:.2e}  {parts}")
    return {"train_loss": total / steps, "train_lr": cfg.lr * factor}


@torch.no_grad()
def evaluate(model: nn.Module, data: CocoFolder, cfg: Detection, world: World) -> dict[str, float]:
    """AP of boxes and of masks or keypoints, in percent, the same on every process."""
    model.eval()
    mine = list(range(world.rank, len(data), world.size))
    loader = DataLoader(
        data, cfg.batch_size, sampler=mine, num_workers=cfg.num_workers, collate_fn=collate
    )
    rows: list[dict[str, Any]] = []
    for images, targets in loader:
        rows += results(model([image.to(world.device) for image in images]), targets)
    everything = [row for part in gather_objects(world, rows) for row in part]
    return {
        f"{kind} {name}": value
        for kind in KINDS[cfg.detector]
        for name, value in average_precision(data, everything, kind).items()
    }


def run(cfg: Detection, world: World, folder: Path, record: RunRecord) -> dict[str, float]:
    """Train on `folder` as the settings say, measure after every epoch; the last figures."""
    if cfg.threads:
        torch.set_num_threads(cfg.threads)
    keypoints = cfg.detector == "keypoint_rcnn"
    val = CocoFolder(folder, "val", keypoints=keypoints)
    if cfg.detector == "mask_rcnn" and not val.masks:
        raise UserError("Mask R-CNN learns from masks, but not every object of val has one.")
    torch.manual_seed(cfg.seed)
    model = build(cfg, val).to(world.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.lr, weight_decay=cfg.weight_decay)
    first = _resume(cfg, val.categories, model, optimizer) if cfg.resume else 0
    if cfg.eval:
        record.begin(facts(cfg, model, val=val))
        figures = _told(evaluate(model, val, cfg, world))
        record.result(figures)
        return figures
    train = CocoFolder(folder, "train", keypoints=keypoints, flip=cfg.flip)
    if train.categories != val.categories or train.masks != val.masks:
        raise UserError("train and val list other categories, or only one of them has masks.")
    for name, data in (("train", train), ("val", val)):
        if world.is_main and str(data.left_out):
            print(f"NOTICE: the {name} set {data.left_out}.")
    if len(train) < cfg.batch_size * world.size:
        raise UserError(f"{len(train)} pictures are fewer than one batch on every process.")
    if first >= cfg.epochs:
        raise UserError(f"{cfg.resume} has finished its {first} epochs; give more, or eval.")
    keeps = bool(cfg.output_dir) and world.is_main
    if keeps and (moved := set_earlier_aside(make_folder(cfg.output_dir), cfg.resume)):
        print(f"NOTICE: {moved}.", flush=True)
    wrapped = DistributedDataParallel(model) if world.size > 1 else model
    record.begin(
        facts(cfg, model, train=train, val=val), resumed=bool(cfg.resume), first_epoch=first
    )
    figures: dict[str, float] = {}
    if not cfg.data_path and not first:
        _told(evaluate(model, val, cfg, world))  # quick, and shows afterwards what was learnt
    for epoch in range(first, cfg.epochs):
        trained = train_one_epoch(wrapped, optimizer, train, cfg, world, epoch)
        figures = _told(evaluate(model, val, cfg, world))
        if keeps:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "epoch": epoch,
                "config": as_plain(cfg),
                "categories": val.categories,
            }
            path = make_folder(cfg.output_dir) / "checkpoint.pth"
            atomic_write(path, partial(torch.save, state))
        measured = {f"test_{name}": value for name, value in figures.items()}
        record.epoch({"epoch": epoch, **trained, **measured})
    return figures


def facts(cfg: Detection, model: nn.Module, **splits: CocoFolder) -> dict[str, Any]:
    """What the record of the run begins with: network, data, and the file it goes on from."""
    start = cfg.resume or (cfg.weights if Path(cfg.weights).is_file() else "")
    return {
        "task": "detection",
        "model": f"{cfg.detector} over {cfg.backbone}",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "metric": f"{KINDS[cfg.detector][-1]} AP",
        "data": {"name": Path(cfg.data_path).name or "drawn shapes"}
        | {name: data.fingerprint() for name, data in splits.items()},
        "weights": Path(start).name or None,
        "weights_sha256": file_sha256(Path(start))[:16] if start else None,
    }


def _resume(
    cfg: Detection,
    categories: dict[int, str],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
) -> int:
    content = safe_torch_load(cfg.resume)
    try:
        known = content.get("categories", categories)
        if known != categories:
            raise ValueError(f"it knows the categories {shown(known)}, not {shown(categories)}")
        model.load_state_dict(content["model"])
        optimizer.load_state_dict(content["optimizer"])
        return int(content["epoch"]) + 1
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{cfg.resume} does not fit these settings: {reason}.") from error


def _told(figures: dict[str, float]) -> dict[str, float]:
    print("  ".join(f"{name} {value:.1f} %" for name, value in figures.items()), flush=True)
    return figures


def _folder(cfg: Detection, world: World) -> Iterator[Path]:
    """The data: what is named, or pictures drawn into a folder that is removed afterwards."""
    if cfg.data_path:
        yield Path(cfg.data_path)
        return
    with tempfile.TemporaryDirectory() as folder:
        # Each process draws its own copy; they are the same.
        counts = {"train": cfg.num_shapes, "val": max(cfg.num_shapes // 5, 1)}
        write_coco(Path(folder), counts, SHAPES_SIZE, seed=cfg.seed)
        yield Path(folder)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; the exit status."""
    try:
        cfg = parse(argv)
        world = init_world(cfg.device)
        words = sys.argv[1:] if argv is None else argv
        record = RunRecord(cfg, world, words, program="python examples/detection.py")
        if record.path is None and world.is_main:
            print("NOTICE: nothing will be kept; --output-dir keeps checkpoint and record.")
        with guard(world), closing(record):
            for folder in _folder(cfg, world):
                run(cfg, world, folder, record)
        shutdown(world)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return leave(0)


if __name__ == "__main__":
    sys.exit(main())
