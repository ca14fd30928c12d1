"""The one typed configuration of a training or evaluation run. Imports no torch.

Every option of the published training script is here under its own name, followed by ours; how
sections are declared and checked stands in `tcformer.sections`, what is read and augmented in
`tcformer.data.spec`. An option is honoured or refused with a reason; none is accepted and ignored.
`tests/training/test_options.py` watches which fields a run reads and fails on one that nobody does.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Literal

from tcformer.data.spec import DataSpec, MixSpec, TransformSpec
from tcformer.errors import UserError, nearest
from tcformer.sections import Off, Only, Options, Section, Within, documented, option

__all__ = ["TASKS", "TrainConfig", "option"]

TASKS = ("classification", "segmentation", "pose", "detection")
STRIDE = 4
"""Pixels of the input to a cell of the heat maps, a side."""

Share = Annotated[float, Within(0, 1)]
Number = Annotated[float, Within(0)]
Natural = Annotated[int, Within(0)]
Count = Annotated[int, Within(1)]


@dataclass(frozen=True)
class NetworkConfig(Section):
    """Which network, how it merges tokens, and what it starts from."""

    model: str = "tcformer"
    """tcformer, tcformer_nano, _light, _large; tcformerv2_nano, _light, _base, _large; timm's."""
    num_classes: Annotated[
        int | None, Within(1, 10_000_000), Only("classification", "segmentation")
    ] = None
    """Number of classes; None takes it from the data."""
    drop: Share = 0.0
    """Dropout after attention projections and in MLPs (timm's models: before the head), 0 to 1."""
    drop_path: Share = 0.1
    """Stochastic depth rate of the last block, 0 to 1."""
    keep_ratio: tuple[float, ...] | None = None
    """Share of the tokens that each merge leaves, above 0 to 1, one or three; None is 0.25."""
    num_clusters: tuple[int, ...] | None = None
    """Number of tokens that each merge leaves, one or three, instead of --keep-ratio."""
    k: int | None = None
    """Nearest neighbors in the clustering's density, the token itself included; None is 5."""
    part_grids: tuple[str, ...] | None = None
    """Windows inside which each merge clusters, such as 4x4 2x2 1x1; None is the model's own."""
    pretrained: bool = False
    """Start from the published ImageNet weights of the model."""
    finetune: str = ""
    """Path or URL of weights to start from; a classifier of another size is left out."""
    freeze: bool = False
    """Train the classifier alone (segmentation: neck and head) and leave the backbone as it is."""


@dataclass(frozen=True)
class ClassificationConfig(MixSpec):
    """One class for each image: mixing, and how often an image is seen."""

    repeated_aug: bool = False
    """Three augmented versions of each image of an epoch (the published runs had none)."""


@dataclass(frozen=True)
class NeckConfig(Section):
    """The MTA neck of dense tasks."""

    tasks = ("segmentation", "pose", "detection")

    neck_channels: Annotated[int, Within(1, 65_536)] = 256
    """Channels of the maps of the neck (MTA); a multiple of --neck-heads."""
    neck_heads: Annotated[int, Within(1, 1024)] = 4
    """Attention heads of the neck."""
    neck_reduction: str = "cluster_norm"
    """Keys of the neck's attention: conv, pool, cluster, cluster_linear, cluster_norm."""
    neck_mlp_ratio: Annotated[float, Within(0.01)] = 4.0
    """Hidden width of the neck's MLPs over its channels."""


@dataclass(frozen=True)
class SegmentationConfig(Section):
    """A class for each pixel."""

    tasks = ("segmentation",)

    head_channels: Annotated[int, Within(1, 65_536)] = 128
    """Channels inside the head."""
    scale: tuple[float, float] = (0.5, 2.0)
    """Least and greatest factor by which a training image is resized before it is cropped."""
    reduce_zero_label: bool = False
    """In the masks of --data-set folder 0 is unlabeled and the first class is 1, as in ADE20K."""
    steps_per_epoch: Natural = 0
    """Training steps that count as an epoch; 0 is one pass over the images."""


@dataclass(frozen=True)
class PoseConfig(Section):
    """The keypoints of a person in a box."""

    tasks = ("pose",)

    crop_size: Annotated[tuple[int, int], Within(1, 2048)] = (256, 192)
    """Height and width of the network's input, pixels; multiples of 4."""
    codec: Literal["classic", "dark", "udp"] = "classic"
    """Keypoints to heat maps and back: as published, or with exact peaks (DARK, UDP)."""
    heatmap_sigma: float = 2.0
    """Spread of a peak, in cells of the heat map (4 pixels)."""
    boxes: str = ""
    """People to look for in evaluation: a file of boxes, or truth; empty is the published file."""
    flip_test: bool = True
    """In evaluation, average the heat maps with those of the mirrored person."""
    shift_prob: Annotated[float, Within(0, 1), Off(0)] = 0.3
    """Probability that a person's box is moved in training, 0 to 1."""
    half_body_prob: Annotated[float, Within(0, 1), Off(0)] = 0.3
    """Probability of looking at half a person in training, 0 to 1."""
    scale_spread: Annotated[float, Off(0)] = 0.5
    """Standard deviation of the box's size factor in training; cut to 1 -+ this."""
    rotation: Annotated[float, Off(0)] = 40.0
    """Standard deviation of the rotation in training, degrees; cut to twice this."""

    def validate(self) -> None:
        """Refuse a size that the network's heat maps do not divide."""
        height, width = self.crop_size
        if min(height, width) < 32 or height % STRIDE or width % STRIDE:
            raise UserError(
                f"--crop-size {height} {width} is not possible: both sides must be multiples of "
                f"{STRIDE}, and 32 pixels or more."
            )


@dataclass(frozen=True)
class DetectionConfig(Section):
    """Boxes of objects, and masks or keypoints in them."""

    tasks = ("detection",)

    detector: Literal["mask_rcnn", "retinanet", "keypoint_rcnn"] = "mask_rcnn"
    """What is built over the neck: torchvision's Mask R-CNN, RetinaNet or Keypoint R-CNN."""
    num_outs: Count = 5
    """Number of the neck's maps."""
    start_level: Natural = 0
    """First stage that the neck takes: 0 for stride 4, 1 for stride 8."""
    extra: Literal["pool", "on_input", "on_output"] = "pool"
    """How maps beyond the backbone's stages are made."""
    anchor_scale: Annotated[float, Within(0.01)] = 8.0
    """Side of a map's smallest anchor over its stride."""
    proposals: Annotated[int, Within(2)] = 2000
    """Regions that an R-CNN takes from its first stage for each image (half in evaluation)."""
    rois: Count = 512
    """Regions of an image that train the heads of an R-CNN."""
    head_layers: Natural = 0
    """Convolutions of a mask or keypoint head; 0 for torchvision's own number, 4 or 8."""
    head_norm: bool = False
    """Group norms in the head of RetinaNet, as in torchvision's second version of it."""
    detections: Count = 100
    """Objects that an R-CNN reports of an image at most."""
    min_size: Count = 800
    """Shorter side that images are resized to, pixels."""
    max_size: Count = 1333
    """Greatest longer side, pixels."""
    num_shapes: Count = 240
    """Images of --data-set shapes to train on; a fifth as many are drawn to evaluate on."""

    def validate(self) -> None:
        """Refuse what the detector has not, and sides that contradict each other."""
        if self.max_size < self.min_size:
            raise UserError(
                f"--max-size is {self.max_size}, but at least {self.min_size} is meant, as "
                "--min-size."
            )
        if self.head_norm and self.detector != "retinanet":
            raise UserError(f"--head-norm applies to retinanet, not to {self.detector}.")
        if self.head_layers and self.detector == "retinanet":
            raise UserError(
                "--head-layers applies to a mask or keypoint head; retinanet has neither."
            )


@dataclass(frozen=True)
class OptimizationConfig(Section):
    """How long, at which rate, in which precision; times are epochs unless said."""

    epochs: Count = 300
    """Number of epochs, without the cool-down."""
    start_epoch: Natural = 0
    """First epoch (0-based) of a run that does not resume."""
    opt: str = "adamw"
    """Optimizer, by timm's name."""
    opt_eps: float | None = 1e-8
    """Epsilon of the optimizer; None keeps the optimizer's own."""
    opt_betas: tuple[float, float] | None = None
    """Betas of Adam-like optimizers; None keeps the optimizer's own (0.9 0.999)."""
    momentum: float = 0.9
    """Momentum of SGD-like optimizers."""
    weight_decay: Number = 0.05
    """Weight decay, on parameters of two or more dimensions that are not biases."""
    decay_all: bool = False
    """Decay biases and norms as well, as the published pose models do."""
    clip_grad: float | None = None
    """Greatest norm of the gradient; None does not clip."""
    accum: Annotated[int, Within(1, 1_000_000)] = 1
    """Steps whose gradients are added for one update; counts in the batch that scales --lr."""
    sched: str = "cosine"
    """Learning rate schedule, by timm's name; set once an epoch."""
    lr: Number = 5e-4
    """Learning rate for 512 images per update; scaled by (batch size x processes x accum) / 512."""
    warmup_lr: Number = 1e-6
    """Learning rate the warm-up starts from (not scaled)."""
    warmup_epochs: Natural = 5
    """Epochs of linear warm-up; it does not shift the cosine."""
    warmup_steps: Natural = 0
    """Steps, over all epochs, in which the rate rises from a thousandth of what it would be."""
    min_lr: Number = 1e-5
    """Learning rate the schedule ends at (not scaled)."""
    lr_noise: tuple[float, ...] | None = None
    """Share(s) of the training, 0 to 1, at which noise on the learning rate starts (and ends)."""
    lr_noise_pct: Number = 0.67
    """Greatest noise, as a share of the learning rate."""
    lr_noise_std: Number = 1.0
    """Standard deviation of the noise, as a share of the learning rate."""
    decay_epochs: Number = 30
    """Epochs between two decays of --sched step."""
    decay_milestones: tuple[int, ...] = ()
    """Epochs (0-based) from which on --sched multistep decays."""
    decay_rate: float | None = None
    """Factor of a decay of --sched step and multistep (None is 0.1), power of --sched poly (None is
    0.9); also --dr."""
    skip_nonfinite: Natural = 0
    """Updates with an infinite or NaN loss or gradient to leave out before the run stops at one."""
    cooldown_epochs: Natural = 0
    """Epochs at --min-lr after --epochs (the published default of 10 never ran)."""
    lr_schedule_compat: bool = False
    """Use the rate one epoch late, as the published script does."""
    ema: bool | None = None
    """Keep a moving average of the weights; it is what is evaluated and kept as best. Of a file
    that is evaluated or fine-tuned the average is taken where it has one, unless --no-ema."""
    ema_decay: Share = 0.9998
    """Decay of the moving average per update."""
    amp: Literal["auto", "off", "fp16", "bf16"] = "auto"
    """Mixed precision; auto is fp16 on a GPU (as published) and off on a CPU."""
    fp32_resume: bool = False
    """Full precision and no loss scaling for the first two epochs after the start."""

    def validate(self) -> None:
        """Refuse settings of which one would do nothing, or that cannot be resumed."""
        if self.sched.startswith("plateau"):
            raise UserError(
                "--sched plateau is refused: its state cannot be resumed exactly; use cosine, step "
                "or another schedule of the epoch."
            )
        if self.clip_grad is not None and self.clip_grad <= 0:
            raise UserError(f"--clip-grad is {self.clip_grad}; give a positive norm, or None.")
        if self.lr_noise is not None and len(self.lr_noise) not in (1, 2):
            raise UserError(f"--lr-noise takes one or two numbers, not {len(self.lr_noise)}.")
        multistep = self.sched == "multistep"
        if multistep != bool(self.decay_milestones):
            raise UserError(
                "--sched multistep needs --decay-milestones, the epochs at which it decays."
                if multistep
                else f"--decay-milestones does nothing with --sched {self.sched}; leave it out."
            )
        if self.ema_decay != OptimizationConfig.ema_decay and not self.ema:
            raise UserError("--ema-decay does nothing without --ema; add it or leave both out.")


@dataclass(frozen=True)
class RunConfig(Section):
    """Where a run computes, and what it leaves behind."""

    compile: bool = False
    """Compile the model with torch.compile."""
    device: str = "auto"
    """Where to run: auto (a GPU if there is one), cpu, cuda, cuda:N or mps."""
    threads: Natural = 0
    """CPU threads per process; 0 leaves torch's choice."""
    seed: Annotated[int, Within(0, 2**62)] = 0
    """Seed of everything random."""
    world_size: Count = 1
    """Number of processes, checked against what the launcher started; 1 does not check."""
    dist_url: str = "env://"
    """Where the processes meet."""
    dist_eval: bool = True
    """Share the evaluation among the processes; off lets each evaluate everything."""
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
    eval_every: Count = 1
    """Epochs between evaluations; the last epoch is always evaluated."""
    save_every: Natural = 10
    """Epochs between checkpoints that are kept (checkpoint_N.pth); 0 keeps only last and best."""
    keep_last: Natural = 0
    """Newest checkpoint_N.pth that stay, older ones are deleted; 0 keeps all."""
    save_steps: Natural = 0
    """Steps between saves of checkpoint.pth inside an epoch; 0 saves at the end of each epoch."""
    tensorboard: bool = False
    """Also write TensorBoard events into --output_dir."""

    def validate(self) -> None:
        """Refuse what this machine lacks, and files that have no folder to go to."""
        cores = os.cpu_count() or 1
        if self.threads > cores:
            raise UserError(
                f"--threads is {self.threads}, but this machine has {cores} cores; 0 leaves "
                "torch's choice."
            )
        if self.keep_last and not self.save_every:
            raise UserError(
                "--keep-last does nothing with --save-every 0, which keeps none of them."
            )
        if self.resume == "auto" and not self.output_dir:
            raise UserError("--resume auto looks in --output_dir, which is empty; give one.")
        if self.tensorboard and not self.output_dir:
            raise UserError("--tensorboard writes into --output_dir, which is empty; give one.")


@dataclass(frozen=True)
class RefusedConfig(Section):
    """Options of the published script that only exist to be refused; the texts say why."""

    use_mcloader: bool = False
    """Refused: it read a cache server at the authors' site; leave it out and give --data-path."""
    cache_mode: bool = False
    """Refused: it cached nothing and only changed which process read which image; leave it out."""
    resplit: bool = False
    """Refused: it spares the first of several augmentation splits from random erasing, and this
    recipe has only one split."""
    patience_epochs: int = 10
    """Refused: only --sched plateau would use it, and that cannot be resumed exactly."""

    def validate(self) -> None:
        """Refuse whatever is set."""
        for name, default in self.options().items():
            if getattr(self, name) != default:
                why = documented(type(self))[name].removeprefix("Refused")
                raise UserError(f"{option(name)} is refused{why}")


@dataclass(frozen=True, repr=False)
class TrainConfig(Options):
    """Options of `tcformer train` and `tcformer evaluate`.

    Raises:
        UserError: for the first option that is refused, out of range or contradictory.
    """

    task: str = "classification"
    """What is trained: classification, segmentation (a class for each pixel), pose (keypoints),
    detection (boxes, and masks or keypoints in them)."""
    network: NetworkConfig = NetworkConfig()
    data: DataSpec = DataSpec()  # noqa: RUF009 - frozen
    augmentation: TransformSpec = TransformSpec()  # noqa: RUF009
    classification: ClassificationConfig = ClassificationConfig()
    segmentation: SegmentationConfig = SegmentationConfig()
    pose: PoseConfig = PoseConfig()
    detection: DetectionConfig = DetectionConfig()
    neck: NeckConfig = NeckConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    run: RunConfig = RunConfig()
    refused: RefusedConfig = RefusedConfig()

    def __post_init__(self) -> None:
        self._check_task()
        batch_size, run = self.data.batch_size, self.run
        mixes = self.task == "classification" and self.classification.active and not run.eval
        if mixes and batch_size % 2:
            raise UserError(
                f"--batch-size {batch_size} is odd, but mixup and CutMix pair the images of a "
                "batch; use an even number or switch both off (--mixup 0 --cutmix 0)."
            )
        start, epochs = self.optimization.start_epoch, self.optimization.epochs
        if start >= epochs + self.optimization.cooldown_epochs and not run.eval:
            raise UserError(
                f"--start_epoch {start} leaves nothing to do in {epochs} epochs; give a larger "
                "--epochs."
            )
        begins = self.network.finetune or self.network.pretrained or run.resume or run.eval
        if self.network.freeze and not begins:
            raise UserError(
                "--freeze would leave the backbone at random weights; name the ones to start from "
                "with --finetune or --pretrained."
            )

    def _check_task(self) -> None:
        """Refuse an unknown task, and options of another task than the one that runs."""
        if self.task not in TASKS:
            near = nearest(str(self.task), TASKS)
            hint = f"did you mean {near}?" if near else f"use one of {', '.join(TASKS)}."
            raise UserError(f"--task {self.task} is not known; {hint}")
        for section, kind in self.sections().items():
            for name in kind.options():
                value = getattr(getattr(self, section), name)
                if about := kind.foreign(name, value, self.task):
                    tasks = " and ".join(filter(None, (", ".join(about[:-1]), about[-1])))
                    raise UserError(
                        f"{option(name)} is about {tasks} and would do nothing with "
                        f"--task {self.task}; leave it out."
                    )
