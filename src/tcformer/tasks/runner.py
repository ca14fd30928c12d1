"""A whole run: meet the other processes, build the task, train or evaluate, leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tcformer.data import check_workers
from tcformer.errors import UserError
from tcformer.runtime.devices import out_of_memory
from tcformer.runtime.distributed import World, init_world, shutdown
from tcformer.runtime.failure import guard
from tcformer.runtime.logger import logger
from tcformer.runtime.signals import requeue_if_slurm
from tcformer.tasks.base import BaseTask
from tcformer.tasks.classification.task import ClassificationTask
from tcformer.tasks.detection.task import DetectionTask
from tcformer.tasks.pose.task import PoseTask
from tcformer.tasks.segmentation.task import SegmentationTask
from tcformer.training import checkpoint as ckpt
from tcformer.training.config import TrainConfig
from tcformer.training.dryrun import dry_run
from tcformer.training.loop import Interrupted, NotFinite, count_parameters, fit
from tcformer.training.metrics import MetricLogger, OnProgress
from tcformer.training.optim import build_precision
from tcformer.training.record import RunRecord, current, recording
from tcformer.weights.load import open_weights, place_of
from tcformer.weights.metadata import WEIGHTS, merging_of, size_note
from tcformer.weights.released import fetch_cached, file_sha256

AnyTask = BaseTask[Any]
_TASKS: dict[str, type[AnyTask]] = {
    "classification": ClassificationTask,
    "segmentation": SegmentationTask,
    "pose": PoseTask,
    "detection": DetectionTask,
}


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        best: the metric of the best evaluation (top-1, mean IoU), percent; NaN after a dry run.
        checkpoint: the best weights as safetensors (training), or the file that was evaluated;
            None if nothing was saved.
        output_dir: where the results are, or None.
        eval_lines: the two published lines of the best evaluation made in this run.
    """

    best: float
    checkpoint: Path | None
    output_dir: Path | None
    eval_lines: list[str]

    @property
    def best_acc1(self) -> float:
        """The same as `best`, by its name in classification."""
        return self.best


def run(
    cfg: TrainConfig,
    *,
    on_progress: OnProgress | None = None,
    command: Sequence[str] | None = None,
) -> RunResult:
    """Train as `cfg` says, or evaluate (`cfg.run.eval`), or only plan (`cfg.run.dry_run`).

    Args:
        cfg: see `TrainConfig`; `tcformer.training.options.build` makes one from plain values.
        on_progress: called after each step on the main process.
        command: the words of the command line, for the record of the run.

    Raises:
        UserError: an option, path or file is wrong.
        Interrupted: asked to stop; saved, and requeued where Slurm does that.
        NotFinite: the loss became infinite or NaN.
    """
    if cfg.run.threads:
        torch.set_num_threads(cfg.run.threads)
    world = init_world(cfg.run.device, cfg.run.dist_url)
    stopped: Interrupted | NotFinite | None = None
    result = RunResult(float("nan"), None, None, [])
    read = cfg.run.resume, cfg.network.finetune
    record = RunRecord(cfg.run, world, command, config=cfg.to_json(), made_from=read)
    with guard(world), recording(record):
        try:
            result = _run(cfg, world, on_progress)
        except (Interrupted, NotFinite) as error:
            stopped = error  # raised by every process at the same step: leave in good order
            record.close("interrupted" if isinstance(error, Interrupted) else "failed", str(error))
        except (RuntimeError, MemoryError) as error:
            if short := out_of_memory(error, world.device):
                raise UserError(f"process {world.rank} of {world.size} ran {short}") from error
            raise
        if isinstance(stopped, Interrupted) and world.is_main:
            requeue_if_slurm()
        shutdown(world)
    if stopped is not None:
        raise stopped
    return result


def _run(cfg: TrainConfig, world: World, on_progress: OnProgress | None) -> RunResult:
    record = current()
    if cfg.run.world_size not in (1, world.size):
        raise UserError(
            f"--world_size {cfg.run.world_size} does not match the {world.size} process(es) that "
            "were started; leave it out, the launcher decides."
        )
    if world.device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    logger.info(str(cfg))
    # The same weights on every process from the start (averages are copied before DDP shares them),
    # then another stream of dropout for each.
    ckpt.seed_everything(cfg.run.seed, 0)
    logger.info(f"Creating model: {cfg.network.model}")
    task = _TASKS[cfg.task](cfg, world)
    ckpt.seed_everything(cfg.run.seed, world.rank)
    if cfg.run.resume.startswith(("http://", "https://")):
        cfg = cfg.replace(resume=str(fetch_cached(cfg.run.resume)))
    evaluates, plans = cfg.run.eval, cfg.run.dry_run
    measured = _load_for_evaluation(task, cfg) if evaluates and not plans else ""
    logger.info(f"number of params: {count_parameters(task.model)}")
    if record.path is None and not plans:  # before hours are spent on what leaves nothing behind
        lost = "record of this evaluation" if evaluates else "checkpoint, log or record"
        logger.info(
            f"NOTICE: no {lost} will be kept; name a folder with --output_dir, or a file with "
            f"--record{'' if evaluates else ' for the record alone'}."
        )
    if cfg.network.finetune and not evaluates:
        logger.info(f"finetune from {task.finetune(cfg.network.finetune)}")
        record.also |= _weights(cfg.network.finetune)
    if plans:
        if evaluates:
            raise UserError("--dry-run plans a training run; leave --eval out.")
        for line in dry_run(task, cfg, world, facts=task.facts()):
            logger.info(line)
        return RunResult(float("nan"), None, None, [])
    if evaluates:
        return _evaluate(task, cfg, world, on_progress, measured)
    outcome = fit(task, cfg, world, on_progress=on_progress)
    check_workers()  # after the last batch nobody else tells
    folder = Path(cfg.run.output_dir) if cfg.run.output_dir else None
    best = folder / ckpt.BEST_WEIGHTS if folder else None
    shown = outcome.best_result or outcome.last
    lines = task.report(shown)[:2] if shown else []
    return RunResult(outcome.best, best, folder, lines)


def _evaluate(
    task: AnyTask, cfg: TrainConfig, world: World, on_progress: OnProgress | None, source: str
) -> RunResult:
    record = current()
    if record.path is not None:
        record.also |= _weights(source) if source else {}
        record.begin({"weights": None, **task.facts_for_record()})
        logger.info(f"The record goes to {record.path}")
    if cfg.run.compile:
        task.model.compile()
    log = MetricLogger(world, on_progress, "test")
    result = task.evaluate(task.model, log, build_precision(cfg, world.device).autocast)
    check_workers()
    record.result(result)
    lines = task.report(result)
    for line in lines:
        logger.info(line)
    return RunResult(result[task.metric], Path(source) if source else None, None, lines)


def _weights(source: str) -> dict[str, str]:
    """For the record: which weights a run began with or measures."""
    if current().path is None:
        return {}
    file = place_of(source)
    file = file / WEIGHTS if file.is_dir() else file
    return {"weights": file.name, "weights_sha256": file_sha256(file)[:16]}


def _load_for_evaluation(task: AnyTask, cfg: TrainConfig) -> str:
    """Load `--resume` (or `--finetune`) into the model; '' if there are no weights to load."""
    source = cfg.run.resume or cfg.network.finetune
    if source == "auto":
        found = ckpt.find_latest(cfg.run.output_dir)
        if found is None:
            raise UserError(f"--resume auto found no checkpoint in {cfg.run.output_dir}.")
        source = str(found[0])
    if not source:
        if not cfg.network.pretrained:
            logger.info("NOTICE: no --resume given, so this measures a model with random weights.")
        return ""
    weights = open_weights(source, task.average)
    state = weights.checkpoint.state_dict
    logger.info(f"resume from{source}")
    notes = [
        *weights.notes,
        *size_note(weights.metadata.trained_at, *task.input_shape),
        *task.follow(weights.metadata.entries, state, source),
    ]
    if weights.merging != merging_of(task.model):
        notes.append(
            f"for all that {source} says, it was trained to merge tokens in another way (--model, "
            "--keep-ratio, --num-clusters, --k, --part-grids); if so, this measures a model that "
            "was not trained"
        )
    for note in notes:
        logger.info(f"NOTICE: {note}.")
    task.load_weights(task.model, state, source)
    return source
