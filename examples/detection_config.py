"""The settings of a detection run, and how a recipe in configs/detection sets them."""

from __future__ import annotations

import dataclasses
import sys
import typing
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from tcformer.errors import UserError, nearest
from tcformer.training.options import for_help, load_config


# fmt: off
@dataclass(frozen=True)
class Detection:
    """Settings of examples/detection.py."""

    detector: Literal["mask_rcnn", "retinanet", "keypoint_rcnn"] = "mask_rcnn"
    """What is built over the pyramid."""
    backbone: str = "tcformer_nano"
    """A tcformer by name."""
    pretrained: bool = False
    """Start from the published ImageNet weights of the backbone."""
    weights: str = ""
    """Path or address of backbone weights to start from."""
    drop_path: float = 0.0
    """Stochastic depth rate of the backbone's last block."""

    out_channels: int = 256
    """Channels of the pyramid's maps."""
    num_outs: int = 5
    """Number of the pyramid's maps."""
    start_level: int = 0
    """First stage of the pyramid: 0 for stride 4, 1 for stride 8."""
    num_heads: int = 4
    """Attention heads in the neck."""
    mlp_ratio: float = 4.0
    """Hidden width of the neck's MLPs over the channels."""
    reduction: Literal["conv", "pool", "cluster", "cluster_linear", "cluster_norm"] = "cluster"
    """How the neck's keys are made fewer."""
    extra: Literal["pool", "on_input", "on_output"] = "pool"
    """How levels beyond the backbone's are made."""
    anchor_scale: float = 8.0
    """Side of a level's smallest anchor over its stride."""

    proposals: int = 2000
    """Regions that an R-CNN takes from its first stage for each picture (half in evaluation)."""
    rois: int = 512
    """Regions of a picture that train the heads of an R-CNN."""

    head_layers: int = 0
    """Convolutions of a mask or keypoint head; 0 for torchvision's own number, 4 or 8."""
    head_norm: bool = False
    """Group norms in the head of RetinaNet, as in torchvision's second version of it."""
    detections: int = 100
    """Objects that an R-CNN reports of a picture at most."""

    data_path: str = ""
    """Folder in the layout of COCO 2017; empty draws pictures of shapes."""
    num_shapes: int = 240
    """Drawn pictures to train on, when there is no data_path; a fifth as many to measure on."""
    min_size: int = 800
    """Shorter side that pictures are resized to, pixels."""
    max_size: int = 1333
    """Greatest longer side, pixels."""
    flip: float = 0.5
    """Probability of a horizontal flip in training."""
    batch_size: int = 1
    """Pictures per process and step."""
    num_workers: int = 4
    """Loader processes per training process."""

    epochs: int = 12
    """Number of epochs."""
    lr: float = 1e-4
    """Learning rate of AdamW; not scaled by anything."""
    weight_decay: float = 1e-4
    """Weight decay, on all parameters."""
    lr_drops: tuple[int, ...] = (8, 11)
    """Epochs at which the learning rate falls to a tenth."""
    warmup_steps: int = 500
    """Steps of linear warm-up."""
    warmup_factor: float = 0.001
    """Share of the learning rate that the warm-up starts from."""

    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: int = 0
    """CPU threads per process; 0 leaves torch's choice."""
    seed: int = 0
    """Seed of weights, order and flips."""
    output_dir: str = ""
    """Folder for checkpoint.pth and record.json after every epoch; empty saves nothing."""
    record: str = ""
    """File for the record of the run (JSON); empty is record.json, or with --eval evaluation.json,
    in output_dir."""
    resume: str = ""
    """checkpoint.pth to go on from."""
    eval: bool = False
    """Measure and stop."""

    @property
    def dry_run(self) -> bool:
        """What `tcformer train` has and this has not."""
        return False

# fmt: on


def parse(argv: list[str] | None = None) -> Detection:
    """Settings of a command line: `CONFIG [options]`; the command line wins.

    Raises:
        UserError: no such file, an unknown key, a value of another type or out of range.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    values: dict[str, Any] = {}
    if words and not words[0].startswith("-"):
        values = _load(words.pop(0))
    default = for_help(Detection(**values), words)
    cfg = tyro.cli(
        type(default),
        prog="detection.py [CONFIG]",
        description="Train and measure a detector; CONFIG is a file of configs/detection.",
        default=default,
        args=words,
    )
    _check(cfg)
    return cfg


def _load(path: str) -> dict[str, Any]:
    cfg = load_config(path)
    known = typing.get_type_hints(Detection)
    for key, value in cfg.items():
        if key not in known:
            guess = nearest(key, known)
            hint = f"; the nearest one is {guess!r}" if guess else ""
            raise UserError(f"{path} sets {key!r}, which is not a setting{hint}.")
        choices = typing.get_args(known[key])
        if known[key] is float and type(value) is int:
            cfg[key] = float(value)
        elif typing.get_origin(known[key]) is Literal:
            if value not in choices:
                raise UserError(f"{path} sets {key} to {value!r}, but one of {choices} is meant.")
        elif not isinstance(value, typing.get_origin(known[key]) or known[key]):
            raise UserError(f"{path} sets {key} to {value!r}, which is of another type.")
    return cfg


def _check(cfg: Detection) -> None:
    least = {"num_workers": 0, "warmup_steps": 0, "head_layers": 0, "threads": 0, "lr": 0}
    least |= dict.fromkeys(["batch_size", "epochs", "num_shapes", "rois", "detections"], 1)
    least |= {"weight_decay": 0, "proposals": 2, "min_size": 1, "max_size": cfg.min_size}
    for name, low in least.items():
        if getattr(cfg, name) < low:
            raise UserError(f"{name} is {getattr(cfg, name)}, but at least {low} is meant.")
    for name in ("flip", "drop_path", "warmup_factor"):
        if not 0 <= getattr(cfg, name) <= 1:
            raise UserError(f"{name} is {getattr(cfg, name)}, but 0 to 1 is meant.")
    if cfg.pretrained and cfg.weights:
        raise UserError("pretrained and weights both say where to start; give one of them.")
    if cfg.head_norm and cfg.detector != "retinanet":
        raise UserError(f"head_norm is about the head of retinanet, not of {cfg.detector}.")
    if cfg.head_layers and cfg.detector == "retinanet":
        raise UserError("head_layers is about a mask or keypoint head; retinanet has neither.")
    if cfg.eval and not cfg.resume:
        raise UserError("eval measures a trained detector; name its checkpoint.pth with resume.")


def as_plain(cfg: Detection) -> dict[str, Any]:
    """The settings as plain values, to be kept in a checkpoint."""
    return dataclasses.asdict(cfg)
