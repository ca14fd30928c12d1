"""A run and its folder: which checkpoints stay, an earlier run there, and room on the disk."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from tcformer.errors import UserError
from tcformer.files import leftovers, set_aside
from tcformer.runtime.logger import logger
from tcformer.training.checkpoint import BEST, BEST_WEIGHTS, LAST, TrainState, read
from tcformer.training.config import TrainConfig
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


def prune(folder: Path, keep: int, state: TrainState) -> list[Path]:
    """Delete all but the `keep` newest checkpoint_N.pth (0: none) once the epoch's is whole.

    Those of later epochs are another run's and stay, as do checkpoint.pth and best.pth.

    Returns:
        What could not be deleted.
    """
    kept = []
    if keep:
        ours = sorted((n for n in numbered(folder) if n <= state.epoch), reverse=True)
        for number in ours[keep:]:
            path = folder / f"checkpoint_{number}.pth"
            spare([path], state)
            try:
                path.unlink(missing_ok=True)
            except OSError:
                kept.append(path)
    return kept


def spare(paths: Iterable[Path], state: TrainState) -> None:
    """Set aside what is about to be replaced or deleted, but cannot be read by this program.

    Each file is looked at once in a run: later it is the run's own.

    Raises:
        UserError: a file cannot be moved.
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

    Args:
        folder: of the results.
        source: the checkpoint that is resumed, or ''; one in `folder` is the same run's.

    Returns:
        A sentence that says where it is now; '' if nothing was moved.

    Raises:
        UserError: it cannot be moved.
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
    for path, name in leftovers(folder):
        if _OWN.fullmatch(name):
            with contextlib.suppress(OSError):
                path.unlink()


def checkpoint_bytes(cfg: TrainConfig, model: nn.Module) -> int:
    """Estimated size of a checkpoint: weights, two moments and, with --ema, the average."""
    return _weight_bytes(model) * (3 + bool(cfg.optimization.ema))


def num_kept(cfg: TrainConfig) -> int:
    """Checkpoints that a whole run leaves: the last, the best and the numbered ones."""
    each = (
        -(-(cfg.optimization.epochs + cfg.optimization.cooldown_epochs) // cfg.run.save_every)
        if cfg.run.save_every
        else 0
    )
    return 2 + (min(each, cfg.run.keep_last) if cfg.run.keep_last else each)


def check_room(cfg: TrainConfig, model: nn.Module) -> str:
    """A sentence if the disk may become full, or ''.

    Raises:
        UserError: not even the weights of one checkpoint fit.
    """
    folder = Path(cfg.run.output_dir).absolute()
    free = shutil.disk_usage(next(p for p in (folder, *folder.parents) if p.exists())).free
    if free < _weight_bytes(model) * (1 + bool(cfg.optimization.ema)):
        raise UserError(
            f"--output_dir {cfg.run.output_dir} has {size(free)} free, too little for a checkpoint "
            f"of about {size(checkpoint_bytes(cfg, model))}; free some space or name another "
            "folder."
        )
    one = checkpoint_bytes(cfg, model)
    # One more, for a file is written beside the one it replaces; those that are there count.
    there = [*numbered(folder).values(), folder / LAST, folder / BEST, folder / BEST_WEIGHTS]
    have = sum(path.stat().st_size for path in there if path.is_file())
    wanted = one * (num_kept(cfg) + 1) + _weight_bytes(model)
    if free + have >= wanted:
        return ""
    return (
        f"{cfg.run.output_dir} has {size(free)} free, but this run leaves up to {num_kept(cfg)} "
        f"checkpoints of about {size(one)}: free some space, or give --keep-last N or a larger "
        "--save-every"
    )


def _weight_bytes(model: nn.Module) -> int:
    return sum(v.numel() * v.element_size() for v in model.state_dict().values())


def size(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
