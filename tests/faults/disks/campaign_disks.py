"""Training on a disk that fails: at a chosen operation, or because it is really full.

What must hold after the failure, whatever it was: one sentence, every file that has the name of a
checkpoint is whole, no temporary file is left, and once the disk works again the same command ends
with the weights and the log of a run that nothing happened to.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from campaign import Trial
from toy_task import ToyTask, config

from tcformer import files
from tcformer.errors import UserError
from tcformer.runtime.distributed import World
from tcformer.runtime.signals import interrupt
from tcformer.training import checkpoint as ckpt
from tcformer.training.loop import fit

TRIALS = 300
WIDTH = 20000  # of a network with a megabyte of weights
Weights = dict[str, torch.Tensor]
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES)
OPTIONS: dict[str, Any] = {
    "epochs": 3, "save_steps": 2, "save_every": 1, "keep_last": 2, "ema": True, "ema_decay": 0.9,
    "skip_nonfinite": 1,
}  # fmt: skip


class FaultyDisk:
    """Counts what a run does to its files and lets number `fail_at` fail, or all from there on."""

    def __init__(self, fail_at: int | None = None, error: int = errno.ENOSPC, *, stays: bool):
        self.fail_at, self.error, self.stays = fail_at, error, stays
        self.count = 0

    def _check(self) -> None:
        number, self.count = self.count, self.count + 1
        if self.fail_at is not None and (
            number >= self.fail_at if self.stays else number == self.fail_at
        ):
            raise OSError(self.error, os.strerror(self.error))

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """Put the disk under everything this process writes."""
        real_write = files._RememberingFile.write

        def checked(name: str) -> Any:
            real = getattr(os, name)

            def call(*args: Any, **options: Any) -> Any:
                if name != "open" or args[1] & os.O_CREAT:
                    self._check()
                return real(*args, **options)

            return mock.patch.object(os, name, call)

        def write(raw: Any, data: Any) -> int:
            if raw.error is None:
                try:
                    self._check()
                except OSError as error:
                    raw.error = error
            return real_write(raw, data)

        with (
            checked("fsync"), checked("replace"), checked("open"),
            mock.patch.object(files._RememberingFile, "write", write),
        ):  # fmt: skip
            yield


class WideToy(ToyTask):
    """A megabyte of weights, so that a disk of some megabytes can be full; one bad batch."""

    width = 8

    def __init__(self, cfg: Any, **options: Any) -> None:
        super().__init__(cfg, **options)
        if self.width != 8:
            self.model[0] = torch.nn.Linear(6, self.width)
            self.model[1] = torch.nn.LayerNorm(self.width)
            self.model[4] = torch.nn.Linear(self.width, 3)

    def batches(self, epoch: int, start: int) -> Iterator[Any]:
        """The second batch of epoch 1 is skipped, which writes a file as well."""
        for number, (x, y) in enumerate(super().batches(epoch, start), start):
            if (epoch, number) == (1, 1):
                x[0, 0] = float("nan")
            yield x, y


def train(folder: Path, width: int = 8) -> Weights:
    """Train, from a new process's point of view, or go on; the final weights."""
    interrupt.clear()
    cfg = config(output_dir=str(folder), resume="auto", **OPTIONS)
    kind = type("Toy", (WideToy,), {"width": width})
    task = kind(cfg)
    ckpt.seed_everything(cfg.run.seed, 0)
    fit(task, cfg, World())
    return {name: value.clone() for name, value in task.model.state_dict().items()}


def broken(folder: Path) -> str:
    """What a failure has left that it must not leave; '' if nothing."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix == ".tmp":
            return f"{path.name} is left"
        if path.suffix == ".pth":
            try:
                ckpt.read(path)
            except UserError as error:
                return f"{path.name} is not whole: {error}"
    return ""


def goes_on(folder: Path, whole: Path, weights: Weights, width: int = 8) -> str:
    """How the run that goes on differs from the one that nothing happened to; '' if it does not."""
    again = train(folder, width)
    if any(not torch.equal(again[name], value) for name, value in weights.items()):
        return "the final weights differ"
    if (folder / "log.txt").read_text() != (whole / "log.txt").read_text():
        return "the log differs"
    if names(folder) != names(whole):
        return "the files differ"
    return broken(folder)


def sentence(folder: Path, width: int = 8) -> tuple[str, str]:
    """The sentence a run ends with ('' if it does not fail), and what is wrong with the ending."""
    try:
        train(folder, width)
    except UserError as error:
        said = str(error)
        wrong = "" if "\n" not in said and str(folder) in said else f"it said {said!r}"
        return said, wrong
    except Exception as error:
        return "", f"it ended with {type(error).__name__}: {error}"
    return "", ""


def injected(
    draw: random.Random, folder: Path, whole: Path, weights: Weights, operations: int
) -> tuple[str, str]:
    """One failing operation: what it was, and what promise it broke."""
    number, error = draw.randrange(operations), draw.choice(ERRORS)
    stays = draw.random() < 0.5
    what = f"{errno.errorcode[error]} at operation {number}" + (" and after" if stays else "")
    with FaultyDisk(number, error, stays=stays).mounted():
        _, wrong = sentence(folder)
    return what, wrong or broken(folder) or goes_on(folder, whole, weights)


def small_disk(draw: random.Random, folder: Path, whole: Path, weights: Weights) -> tuple[str, str]:
    """A tmpfs too small for the run: what size, and what promise was broken. Needs root."""
    kilobytes = draw.randrange(200, 9000)
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], check=True
    )
    try:
        said, wrong = sentence(folder, WIDTH)
        problem = wrong or broken(folder)
        if not problem:
            subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
            problem = goes_on(folder, whole, weights, WIDTH)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    return f"a disk of {kilobytes} KiB: {said or 'enough'}", problem


def may_mount(folder: Path) -> bool:
    """Whether this process may mount a file system."""
    folder.mkdir(exist_ok=True)
    if shutil.which("mount") is None:
        return False
    command = ["mount", "-t", "tmpfs", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


def names(folder: Path) -> set[str]:
    """Of the files; not of the record of a skipped step, for want of which no run ends."""
    return {p.name for p in folder.iterdir() if not p.name.startswith("nonfinite")}


def campaign(trials: int, seed: int, folder: Path) -> Iterator[Trial]:
    """Two of three trials fail at a drawn operation, the third is a small disk (as root)."""
    counting = FaultyDisk(stays=False)
    with contextlib.redirect_stdout(io.StringIO()):
        with counting.mounted():
            weights = train(folder / "whole")
        wide = train(folder / "whole_wide", WIDTH)
    root = may_mount(folder / "mounted")
    for number in range(trials):
        draw = random.Random(f"{seed}/{number}")
        place = folder / str(number)
        with contextlib.redirect_stdout(io.StringIO()):
            if root and number % 3 == 2:
                kind = "tmpfs too small"
                what, problem = small_disk(draw, place, folder / "whole_wide", wide)
            else:
                kind = "failing operation"
                what, problem = injected(draw, place, folder / "whole", weights, counting.count)
        shutil.rmtree(place)
        yield Trial(kind, f"seed {seed}, trial {number}: {what}", problem)
