"""The one typed configuration of a training or evaluation run.

Every option of the published training script is here under its own name, followed by ours. The
field names are the keys of a config file and, with hyphens or underscores, the options of the
command line. Nothing here imports torch: `tcformer train --help` must be quick.

An option is honoured or refused with a reason (`check`); none is accepted and ignored.
`tests/training/test_options.py` watches which fields a run reads and fails on one that nobody does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from tcformer.errors import UserError, nearest
from tcformer.training.magnitudes import check_magnitudes


# fmt: off
@dataclass(frozen=True)
class TrainConfig:
    """Options of `tcformer train` and `tcformer evaluate`; times are epochs unless said."""

    # Task
    task: str = "classification"
    """What is trained: classification, segmentation (a class for each pixel), pose (keypoints),
    detection (boxes, and masks or keypoints in them)."""

    # Model
    model: str = "tcformer"
    """tcformer, tcformer_nano, _light, _large; tcformerv2_nano, _light, _base, _large; timm's."""
    num_classes: int | None = None
    """Number of classes; None takes it from the data."""
    input_size: int = 224
    """Side of the square input, pixels."""
    in_chans: int = 3
    """Channels of the input: 3 (colour) or 1 (grey)."""
    drop: float = 0.0
    """Dropout after attention projections and in MLPs (timm's models: before the head), 0 to 1."""
    drop_path: float = 0.1
    """Stochastic depth rate of the last block, 0 to 1."""
    keep_ratio: tuple[float, ...] | None = None
    """Share of the tokens that each merge leaves, above 0 to 1, one or three; None is 0.25."""
    num_clusters: tuple[int, ...] | None = None
    """Number of tokens that each merge leaves, one or three, instead of --keep-ratio."""
    k: int | None = None
    """Nearest neighbours in the clustering's density, the token itself included; None is 5."""
    part_grids: tuple[str, ...] | None = None
    """Parts inside which each merge clusters, such as 4x4 2x2 1x1; None is the model's own."""
    pretrained: bool = False
    """Start from the published ImageNet weights of the model."""
    finetune: str = ""
    """Path or URL of weights to start from; a classifier of another size is left out."""
    freeze: bool = False
    """Train the classifier alone (segmentation: neck and head) and leave the backbone as it is."""

    # Data
    data_path: str = "data"
    """Folder that holds the data (ImageFolder: train/ and val/ with one folder a class)."""
    data_set: str = "IMNET"
    """IMNET (an ImageFolder), CIFAR (100 classes), CIFAR10, INAT, INAT19, digits, fake, timm:X;
    for segmentation ADE20K, folder (images and masks) or digits; for pose COCO-WholeBody, WFLW or
    sticks; for detection COCO (its layout of 2017) or shapes (drawn)."""
    inat_category: str = "name"
    """Label of INAT*: kingdom, phylum, class, order, supercategory, family, genus, name."""
    batch_size: int = 128
    """Images per process and step, in evaluation too."""
    num_workers: int = 10
    """Loader processes per training process; 0 loads in the training process."""
    pin_mem: bool = True
    """Load into pinned memory (only does anything with a GPU)."""
    decoder: Literal["pil", "torchvision"] = "pil"
    """Image reader: pil follows the recipe exactly, torchvision is faster."""
    skip_corrupt: bool = False
    """In evaluation, leave out unreadable images and count them; otherwise they are an error."""
    repeated_aug: bool = False
    """Three augmented versions of each image of an epoch (the published runs had none)."""
    use_mcloader: bool = False
    """Refused: it read a cache server of the authors' site."""
    cache_mode: bool = False
    """Refused: it cached nothing, it only changed which process read which image."""

    # Augmentation
    color_jitter: float | None = 0.4
    """Colour jitter strength; only used when --aa is None, and in segmentation always."""
    aa: str | None = "rand-m9-mstd0.5-inc1"
    """AutoAugment or RandAugment policy in timm's notation, or None."""
    crop_area: tuple[float, float] = (0.08, 1.0)
    """Least and greatest share of the image's area that the training crop takes, 0 to 1."""
    train_interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    """Interpolation of the training crop."""
    hflip: float | None = None
    """Probability of a horizontal flip in training, 0 to 1; None is 0.5, and 0 for digits."""
    reprob: float = 0.25
    """Probability of random erasing, 0 to 1."""
    remode: Literal["pixel", "const", "rand"] = "pixel"
    """What erased regions are filled with."""
    recount: int = 1
    """Greatest number of regions erased in an image."""
    resplit: bool = False
    """Refused: it is about the first of several augmentation splits, and there is only one."""
    smoothing: float = 0.1
    """Label smoothing, 0 to 1."""
    mixup: float = 0.8
    """Mixup alpha; 0 switches mixup off."""
    cutmix: float = 1.0
    """CutMix alpha; 0 switches CutMix off."""
    cutmix_minmax: tuple[float, float] | None = None
    """Least and greatest side of the CutMix box as a share of the image; replaces --cutmix."""
    mixup_prob: float = 1.0
    """Probability that a batch is mixed at all, 0 to 1."""
    mixup_switch_prob: float = 0.5
    """Probability of CutMix instead of mixup when both are on, 0 to 1."""
    mixup_mode: Literal["batch", "pair", "elem"] = "batch"
    """Whether lambda is drawn per batch, per pair or per image."""

    # Segmentation, pose and detection
    neck_channels: int = 256
    """Channels of the maps of the neck (MTA); a multiple of --neck-heads."""
    neck_heads: int = 4
    """Attention heads of the neck."""
    neck_reduction: str = "cluster_norm"
    """Keys of the neck's attention: conv, pool, cluster, cluster_linear, cluster_norm."""
    neck_mlp_ratio: float = 4.0
    """Hidden width of the neck's MLPs over its channels."""

    # Segmentation
    head_channels: int = 128
    """Channels inside the head."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Least and greatest factor by which a training image is resized before it is cropped."""
    reduce_zero_label: bool = False
    """In the masks of --data-set folder 0 is unlabeled and the first class is 1, as in ADE20K."""
    steps_per_epoch: int = 0
    """Training steps that count as an epoch; 0 is one pass over the images."""

    # Pose
    crop_size: tuple[int, int] = (256, 192)
    """Height and width of the network's input, pixels; multiples of 4."""
    codec: Literal["classic", "dark", "udp"] = "classic"
    """Keypoints to heat maps and back: as published, or with exact peaks (DARK, UDP)."""
    heatmap_sigma: float = 2.0
    """Spread of a peak, in cells of the heat map (4 pixels)."""
    boxes: str = ""
    """People to look for in evaluation: a file of boxes, or truth; empty is the published file."""
    flip_test: bool = True
    """In evaluation, average the heat maps with those of the mirrored person."""
    shift_prob: float = 0.3
    """Probability that a person's box is moved in training, 0 to 1."""
    half_body_prob: float = 0.3
    """Probability of looking at half a person in training, 0 to 1."""
    scale_spread: float = 0.5
    """Standard deviation of the box's size factor in training; cut to 1 -+ this."""
    rotation: float = 40.0
    """Standard deviation of the rotation in training, degrees; cut to twice this."""

    # Detection
    detector: Literal["mask_rcnn", "retinanet", "keypoint_rcnn"] = "mask_rcnn"
    """What is built over the neck: torchvision's Mask R-CNN, RetinaNet or Keypoint R-CNN."""
    num_outs: int = 5
    """Number of the neck's maps."""
    start_level: int = 0
    """First stage that the neck takes: 0 for stride 4, 1 for stride 8."""
    extra: Literal["pool", "on_input", "on_output"] = "pool"
    """How maps beyond the backbone's stages are made."""
    anchor_scale: float = 8.0
    """Side of a map's smallest anchor over its stride."""
    proposals: int = 2000
    """Regions that an R-CNN takes from its first stage for each image (half in evaluation)."""
    rois: int = 512
    """Regions of an image that train the heads of an R-CNN."""
    head_layers: int = 0
    """Convolutions of a mask or keypoint head; 0 for torchvision's own number, 4 or 8."""
    head_norm: bool = False
    """Group norms in the head of RetinaNet, as in torchvision's second version of it."""
    detections: int = 100
    """Objects that an R-CNN reports of an image at most."""
    min_size: int = 800
    """Shorter side that images are resized to, pixels."""
    max_size: int = 1333
    """Greatest longer side, pixels."""
    num_shapes: int = 240
    """Images of --data-set shapes to train on; a fifth as many are drawn to evaluate on."""

    # Optimisation
    epochs: int = 300
    """Number of epochs, without the cool-down."""
    start_epoch: int = 0
    """First epoch (0-based) of a run that does not resume."""
    opt: str = "adamw"
    """Optimiser, by timm's name."""
    opt_eps: float | None = 1e-8
    """Epsilon of the optimiser; None keeps the optimiser's own."""
    opt_betas: tuple[float, float] | None = None
    """Betas of Adam-like optimisers; None keeps the optimiser's own (0.9 0.999)."""
    momentum: float = 0.9
    """Momentum of SGD-like optimisers."""
    weight_decay: float = 0.05
    """Weight decay, on parameters of two or more dimensions that are not biases."""
    decay_all: bool = False
    """Decay biases and norms as well, as the published pose models do."""
    clip_grad: float | None = None
    """Greatest norm of the gradient; None does not clip."""
    accum: int = 1
    """Steps whose gradients are added for one update; counts in the batch that scales --lr."""
    sched: str = "cosine"
    """Learning rate schedule, by timm's name; set once an epoch."""
    lr: float = 5e-4
    """Learning rate for 512 images per update; scaled by (batch size x processes x accum) / 512."""
    warmup_lr: float = 1e-6
    """Learning rate the warm-up starts from (not scaled)."""
    warmup_epochs: int = 5
    """Epochs of linear warm-up; it does not shift the cosine."""
    warmup_steps: int = 0
    """Steps, over all epochs, in which the rate rises from a thousandth of what it would be."""
    min_lr: float = 1e-5
    """Learning rate the schedule ends at (not scaled)."""
    lr_noise: tuple[float, ...] | None = None
    """Share(s) of the training, 0 to 1, at which noise on the learning rate starts (and ends)."""
    lr_noise_pct: float = 0.67
    """Greatest noise, as a share of the learning rate."""
    lr_noise_std: float = 1.0
    """Standard deviation of the noise, as a share of the learning rate."""
    decay_epochs: float = 30
    """Epochs between two decays of --sched step."""
    decay_milestones: tuple[int, ...] = ()
    """Epochs (0-based) from which on --sched multistep decays."""
    decay_rate: float | None = None
    """Factor of a decay of --sched step and multistep (None is 0.1), power of --sched poly (None is
    0.9); also --dr."""
    skip_nonfinite: int = 0
    """Updates with an infinite or NaN loss or gradient to leave out before the run stops at one."""
    cooldown_epochs: int = 0
    """Epochs at --min-lr after --epochs (the published default of 10 never ran)."""
    patience_epochs: int = 10
    """Only for --sched plateau, which is refused: its state cannot be resumed exactly."""
    lr_schedule_compat: bool = False
    """Use the rate one epoch late, as the published script does."""
    ema: bool | None = None
    """Keep a moving average of the weights; it is what is evaluated and kept as best. Of a file
    that is evaluated or fine-tuned the average is taken where it has one, unless --no-ema."""
    ema_decay: float = 0.9998
    """Decay of the moving average per update."""

    # Precision and machine
    amp: Literal["auto", "off", "fp16", "bf16"] = "auto"
    """Mixed precision; auto is fp16 on a GPU (as published) and off on a CPU."""
    fp32_resume: bool = False
    """Full precision and no loss scaling for the first two epochs after the start."""
    compile: bool = False
    """Compile the model with torch.compile."""
    device: str = "auto"
    """Where to run: auto (a GPU if there is one), cpu, cuda, cuda:N or mps."""
    threads: int = 0
    """CPU threads per process; 0 leaves torch's choice."""
    seed: int = 0
    """Seed of everything random."""
    world_size: int = 1
    """Number of processes, checked against what the launcher started; 1 does not check."""
    dist_url: str = "env://"
    """Where the processes meet."""
    dist_eval: bool = True
    """Share the evaluation among the processes; off lets each evaluate everything."""

    # Run
    output_dir: str = ""
    """Folder for checkpoints, log and configuration; empty saves nothing."""
    record: str = ""
    """File for the record of the run (JSON); empty is record.json, or with --eval evaluation.json,
    in --output_dir."""
    resume: str = ""
    """Checkpoint to go on from: a path, a URL, or auto for the newest whole one in --output_dir."""
    eval: bool = False
    """Evaluate and stop."""
    dry_run: bool = False
    """Build everything, run one step on made-up images, print the plan, write nothing."""
    eval_every: int = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    save_every: int = 10
    """Epochs between checkpoints that are kept (checkpoint_N.pth); 0 keeps only last and best."""
    keep_last: int = 0
    """Newest checkpoint_N.pth that stay, older ones are deleted; 0 keeps all."""
    save_steps: int = 0
    """Steps between saves of checkpoint.pth inside an epoch; 0 saves at the end of each epoch."""
    tensorboard: bool = False
    """Also write TensorBoard events into --output_dir."""
# fmt: on


def check(cfg: TrainConfig) -> None:
    """Raise `UserError` for the first option that is refused, out of range or contradictory.

    The options about data and augmentation are checked where they are used, by the specifications
    in `tcformer.data.spec`.
    """
    for refused, why in (
        (cfg.use_mcloader, "--use-mcloader is refused: it read a cache server that only existed at "
         "the authors' site; leave it out and give --data-path"),
        (cfg.cache_mode, "--cache_mode is refused: it cached nothing and only changed which "
         "process read which image; leave it out"),
        (cfg.resplit, "--resplit is refused: it spares the first of several augmentation splits "
         "from random erasing, and this recipe has only one split"),
        (cfg.sched.startswith("plateau"), "--sched plateau is refused: its state cannot be "
         "resumed exactly; use cosine, step or another schedule of the epoch"),
        (cfg.patience_epochs != 10, "--patience-epochs is refused: only --sched plateau would "
         "use it, and that cannot be resumed exactly"),
    ):  # fmt: skip
        if refused:
            raise UserError(why + ".")
    _check_ranges(cfg)
    check_task(cfg)
    mixes = cfg.task == "classification" and (
        cfg.mixup > 0 or cfg.cutmix > 0 or cfg.cutmix_minmax is not None
    )
    if mixes and cfg.batch_size % 2 and not cfg.eval:
        raise UserError(
            f"--batch-size {cfg.batch_size} is odd, but mixup and CutMix pair the images of a "
            "batch; use an even number or switch both off (--mixup 0 --cutmix 0)."
        )
    if cfg.start_epoch >= cfg.epochs + cfg.cooldown_epochs and not cfg.eval:
        raise UserError(
            f"--start_epoch {cfg.start_epoch} leaves nothing to do in {cfg.epochs} epochs; "
            "give a larger --epochs."
        )
    if cfg.freeze and not (cfg.finetune or cfg.pretrained or cfg.resume or cfg.eval):
        raise UserError(
            "--freeze would leave the backbone at random weights; name the ones to start from with "
            "--finetune or --pretrained."
        )
    if cfg.resume == "auto" and not cfg.output_dir:
        raise UserError("--resume auto looks in --output_dir, which is empty; give one.")
    if cfg.tensorboard and not cfg.output_dir:
        raise UserError("--tensorboard writes into --output_dir, which is empty; give one.")


def _check_ranges(cfg: TrainConfig) -> None:
    """Bounds of the numbers, each with its option in the sentence."""
    check_magnitudes({option(name): value for name, value in vars(cfg).items()})
    at_least: dict[str, float] = {
        "batch_size": 1, "num_workers": 0, "epochs": 1, "start_epoch": 0, "weight_decay": 0,
        "accum": 1, "lr": 0, "warmup_lr": 0, "warmup_epochs": 0, "min_lr": 0,
        "cooldown_epochs": 0, "threads": 0, "world_size": 1,
        "eval_every": 1, "save_every": 0, "save_steps": 0, "lr_noise_pct": 0, "lr_noise_std": 0,
        "decay_epochs": 0, "seed": 0, "neck_channels": 1, "neck_heads": 1, "head_channels": 1,
        "steps_per_epoch": 0, "skip_nonfinite": 0, "keep_last": 0, "neck_mlp_ratio": 0.01,
        "warmup_steps": 0, "num_outs": 1, "start_level": 0, "anchor_scale": 0.01, "proposals": 2,
        "rois": 1, "head_layers": 0, "detections": 1, "min_size": 1, "max_size": cfg.min_size,
        "num_shapes": 1,
    }  # fmt: skip
    for name, least in at_least.items():
        if getattr(cfg, name) < least:
            raise UserError(
                f"{option(name)} is {getattr(cfg, name)}, but at least {least} is meant."
            )
    for name in ("drop", "drop_path", "ema_decay"):
        if not 0 <= getattr(cfg, name) <= 1:
            raise UserError(f"{option(name)} is {getattr(cfg, name)}, but 0 to 1 is meant.")
    cores = os.cpu_count() or 1
    if cfg.threads > cores:
        raise UserError(
            f"--threads is {cfg.threads}, but this machine has {cores} cores; 0 leaves torch's "
            "choice."
        )
    if cfg.num_classes is not None and cfg.num_classes < 1:
        raise UserError(f"--num-classes is {cfg.num_classes}, but at least 1 is meant.")
    if cfg.clip_grad is not None and cfg.clip_grad <= 0:
        raise UserError(f"--clip-grad is {cfg.clip_grad}; give a positive norm, or None.")
    if cfg.lr_noise is not None and len(cfg.lr_noise) not in (1, 2):
        raise UserError(f"--lr-noise takes one or two numbers, not {len(cfg.lr_noise)}.")
    if cfg.keep_last and not cfg.save_every:
        raise UserError("--keep-last does nothing with --save-every 0, which keeps none of them.")
    multistep = cfg.sched == "multistep"
    if multistep != bool(cfg.decay_milestones):
        raise UserError(
            "--sched multistep needs --decay-milestones, the epochs at which it decays."
            if multistep
            else f"--decay-milestones does nothing with --sched {cfg.sched}; leave it out."
        )
    if cfg.ema_decay != TrainConfig.ema_decay and not cfg.ema:
        raise UserError("--ema-decay does nothing without --ema; add it or leave both out.")


# Options of some tasks alone, and the values besides the default that say "not at all".
_ONLY: dict[tuple[str, ...], dict[str, tuple[object, ...]]] = {
    ("classification",): {
        "in_chans": (), "inat_category": (), "decoder": (), "repeated_aug": (), "aa": (None,),
        "crop_area": (), "train_interpolation": (), "reprob": (0,), "remode": (), "recount": (),
        "smoothing": (0,), "mixup": (0,), "cutmix": (0,), "cutmix_minmax": (), "mixup_prob": (0,),
        "mixup_switch_prob": (), "mixup_mode": (),
    },
    ("segmentation",): {
        "head_channels": (), "scale": (), "reduce_zero_label": (), "steps_per_epoch": (),
    },
    ("segmentation", "pose", "detection"): {
        "neck_channels": (), "neck_heads": (), "neck_reduction": (), "neck_mlp_ratio": (),
    },
    ("classification", "segmentation"): {
        "input_size": (), "color_jitter": (None, 0), "num_classes": (),
    },
    ("pose",): {
        "crop_size": (), "codec": (), "heatmap_sigma": (), "boxes": (), "flip_test": (),
        "shift_prob": (0,), "half_body_prob": (0,), "scale_spread": (0,), "rotation": (0,),
    },
}  # fmt: skip

_ONLY[("detection",)] = dict.fromkeys(
    (
        "detector", "num_outs", "start_level", "extra", "anchor_scale", "proposals", "rois",
        "head_layers", "head_norm", "detections", "min_size", "max_size", "num_shapes",
    ),
    (),
)  # fmt: skip

TASKS = ("classification", "segmentation", "pose", "detection")


def check_task(cfg: TrainConfig) -> None:
    """Refuse an unknown task, and options that are about another task than the one that runs."""
    if cfg.task not in TASKS:
        near = nearest(cfg.task, TASKS)
        hint = f"did you mean {near}?" if near else f"use one of {', '.join(TASKS)}."
        raise UserError(f"--task {cfg.task} is not known; {hint}")
    for tasks, options in _ONLY.items():
        for name, off in options.items():
            value = getattr(cfg, name)
            if cfg.task not in tasks and value != getattr(TrainConfig, name) and value not in off:
                raise UserError(
                    f"{option(name)} is about {' and '.join(tasks)} and would do nothing with "
                    f"--task {cfg.task}; leave it out."
                )


# The published script spelled most options with hyphens and these with underscores.
_UNDERSCORED = {
    "cache_mode", "output_dir", "start_epoch", "num_workers", "world_size", "dist_url",
}  # fmt: skip


def option(field: str) -> str:
    """The spelling of a field as an option: `batch_size` -> `--batch-size`."""
    return f"--{field}" if field in _UNDERSCORED else f"--{field.replace('_', '-')}"
