"""A run and its folder: which checkpoints stay, an earlier run there, and room on the disk."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from tcformer import files
from tcformer.errors import UserError
from tcformer.files import make_folder, set_aside
from tcformer.runtime.logger import logger
from tcformer.training.checkpoint import BEST, BEST_WEIGHTS, LAST, TrainState, read
from tcformer.training.config import TrainConfig
from tcformer.training.log import require_tensorboard
from tcformer.weights.safe_torch import read_checkpoint

_NUMBERED = re.compile(r"checkpoint_(\d+)\.pth")
_OWN = re.compile(
    r"checkpoint(_\d+)?\.pth|best\.(pth|safetensors)|log\.txt|nonfinite_.*"
    r"|(config|record|evaluation)(-\d+)?\.json|keypoints\.json|events\.out\.tfevents\..*"
)


def numbered(folder: Path) -> dict[int, Path]:
    """The files checkpoint_N.pth of a folder by N."""
    found = {}
    for path in folder.glob("checkpoint_*.pth"):
        match = _NUMBERED.fullmatch(path.name)
        if match and path.is_file() and not path.is_symlink():
            found[int(match[1])] = path
    return found


def prepare_folder(cfg: TrainConfig, state: TrainState, source: str) -> None:
    """Make the folder of the results ready, after all that can be refused has been looked at.

    What killed processes left is cleared, and an earlier run that is not the one of `source` (the
    checkpoint that is resumed, or '') is set aside.
    """
    require_tensorboard(cfg)
    folder = make_folder(cfg.run.output_dir)
    for name in (LAST, BEST, BEST_WEIGHTS, "log.txt"):
        if (folder / name).is_dir():  # else it would be found at the end of the first epoch
            raise UserError(f"{folder / name} is a folder; the run must write a file there.")
    clear_leftovers(folder)
    prune(cfg, state)
    for note in (check_room(cfg, state.model), set_earlier_aside(folder, source)):
        if note:
            logger.info(f"NOTICE: {note}.")


def prune(cfg: TrainConfig, state: TrainState) -> None:
    """Delete all but the `--keep-last` newest checkpoint_N.pth (0: none).

    Those of later epochs are another run's and stay, as do checkpoint.pth and best.pth.
    """
    if keep := cfg.run.keep_last:
        found = numbered(Path(cfg.run.output_dir))
        for number in sorted((n for n in found if n <= state.epoch), reverse=True)[keep:]:
            spare([found[number]], state)
            try:
                found[number].unlink(missing_ok=True)
            except OSError:
                logger.info(f"NOTICE: {found[number]} could not be deleted (--keep-last).")


def spare(paths: Iterable[Path], state: TrainState) -> None:
    """Set aside what is about to be replaced or deleted, but cannot be read by this program.

    Each file is looked at once in a run: later it is the run's own.
    """
    for path in paths:
        if path not in state.own and path.is_file():
            try:
                read_checkpoint(path) if path.suffix == ".safetensors" else read(path)
            except UserError as error:
                kept = set_aside(path.parent, [path.name])
                logger.info(f"NOTICE: {path.name} is in {kept} now, for {error}")
        state.own.add(path)


def set_earlier_aside(folder: Path, source: str) -> str:
    """Move what an earlier run has left in a folder into earlier-1 (-2, ...) there, if any.

    A run that has written neither a checkpoint nor a line of its log has left nothing.

    A checkpoint `source`, which is resumed, is the same run's if it lies in `folder`. Returns a
    sentence that says where the earlier run is now, or ''.
    """
    if source and Path(source).resolve().parent == folder.resolve():
        return ""
    kept = [folder / name for name in (LAST, BEST, BEST_WEIGHTS, "log.txt")]
    if not (numbered(folder) or any(path.is_file() and path.stat().st_size for path in kept)):
        return ""
    own = (p.name for p in folder.iterdir() if _OWN.fullmatch(p.name) and p.is_file())
    return (
        f"{folder} holds an earlier run, which this one does not resume: its files are in "
        f"{set_aside(folder, sorted(own))} now (--resume goes on from a run)"
    )


def clear_leftovers(folder: Path) -> None:
    """Delete what a killed process left of files that it was writing."""
    files.clear_leftovers(folder, _OWN.fullmatch)


@dataclass(frozen=True)
class Room:
    """What a run needs on the disk, and what there is, in bytes."""

    weights: int
    checkpoint: int  # estimated: weights, two moments and, with --ema, the average
    kept: int  # checkpoints that a whole run leaves: the last, the best and the numbered ones
    free: int


def room(cfg: TrainConfig, model: nn.Module) -> Room:
    """How much of the disk of `--output_dir` a run fills."""
    weights = sum(v.numel() * v.element_size() for v in model.state_dict().values())
    epochs = cfg.optimization.epochs + cfg.optimization.cooldown_epochs
    kept = -(-epochs // cfg.run.save_every) if cfg.run.save_every else 0
    kept = min(kept, cfg.run.keep_last or kept)
    folder = Path(cfg.run.output_dir).absolute()
    free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
    return Room(weights, weights * (3 + bool(cfg.optimization.ema)), 2 + kept, free)


def check_room(cfg: TrainConfig, model: nn.Module) -> str:
    """A sentence if the disk may become full, or ''.

    Raises:
        UserError: not even the weights of one checkpoint fit.
    """
    needs, folder = room(cfg, model), Path(cfg.run.output_dir)
    if needs.free < needs.weights * (1 + bool(cfg.optimization.ema)):
        raise UserError(
            f"--output_dir {folder} has {size(needs.free)} free, too little for a checkpoint of "
            f"about {size(needs.checkpoint)}; free some space or name another folder."
        )
    # One more, for a file is written beside the one it replaces; those that are there count.
    there = [*numbered(folder).values(), folder / LAST, folder / BEST, folder / BEST_WEIGHTS]
    have = sum(path.stat().st_size for path in there if path.is_file())
    if needs.free + have >= needs.checkpoint * (needs.kept + 1) + needs.weights:
        return ""
    return (
        f"{folder} has {size(needs.free)} free, but this run leaves up to {needs.kept} "
        f"checkpoints of about {size(needs.checkpoint)}: free some space, or give --keep-last N "
        "or a larger --save-every"
    )


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
