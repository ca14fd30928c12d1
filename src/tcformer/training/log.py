"""What a run leaves behind beside its weights: configuration, log.txt, TensorBoard events."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tcformer.errors import UserError
from tcformer.files import FULL, atomic_write, is_full, make_folder
from tcformer.runtime.distributed import World
from tcformer.training.config import TrainConfig


class RunLog:
    """One JSON object per epoch in OUTPUT/log.txt; silent off the main process or without OUTPUT.

    The configuration goes to OUTPUT/config.json. Where the run is `resumed`, lines of `first_epoch`
    or later at the end of the log belong to work that is about to be done again, and are taken off.
    """

    def __init__(self, cfg: TrainConfig, world: World, *, first_epoch: int, resumed: bool) -> None:
        self.path: Path | None = None
        self._board: Any = None
        self._board_failed = False
        self._excepthook = threading.excepthook
        if not (cfg.run.output_dir and world.is_main):
            return
        require_tensorboard(cfg)
        folder = make_folder(cfg.run.output_dir)
        text = json.dumps(cfg.to_json(), indent=2) + "\n"
        atomic_write(folder / "config.json", lambda stream: stream.write(text.encode()))
        self.path = folder / "log.txt"
        if resumed and self.path.is_file():
            self._take_off(first_epoch)
        if cfg.run.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder), purge_step=first_epoch)
            threading.excepthook = self._without_traceback

    def _take_off(self, first_epoch: int) -> None:
        assert self.path is not None
        before = self.path.read_bytes()
        lines = before.splitlines(keepends=True)
        for place in reversed(range(len(lines))):
            epoch, whole = _epoch_of(lines[place]), lines[place].endswith(b"\n")
            if epoch is None and whole:
                continue  # of another program
            if epoch is not None and epoch < first_epoch:
                lines[place] = lines[place].rstrip(b"\n") + b"\n"
                break
            del lines[place]
        if (after := b"".join(lines)) != before:
            atomic_write(self.path, lambda stream: stream.write(after))

    def write(self, numbers: Mapping[str, float]) -> None:
        """Append an epoch; the order of the keys is kept, and what is not finite becomes null."""
        if self.path is not None:
            whole = self.path.stat().st_size if self.path.is_file() else 0
            try:
                with self.path.open("a") as stream:
                    stream.write(json.dumps(finite_or_null(numbers)) + "\n")
                    stream.flush()
                    os.fsync(stream.fileno())
            except OSError as error:
                with contextlib.suppress(OSError):  # no part of a line, which JSON could not read
                    if self.path.stat().st_size > whole:
                        os.truncate(self.path, whole)
                why = FULL if is_full(error) else error.strerror
                raise UserError(f"cannot write {self.path}: {why}.") from error
        if self._board is not None:
            with self._board_errors():
                for name, value in numbers.items():
                    if name.startswith(("train_", "test_")):  # train_loss is the curve train/loss
                        curve = name.replace("_", "/", 1)
                        self._board.add_scalar(curve, value, int(numbers["epoch"]))
                self._board.flush()

    def close(self) -> None:
        """Finish the TensorBoard file."""
        if self._board is not None:
            board, self._board = self._board, None
            with contextlib.suppress(OSError) if self._board_failed else self._board_errors():
                board.close()
            threading.excepthook = self._excepthook

    @contextlib.contextmanager
    def _board_errors(self) -> Iterator[None]:
        """TensorBoard writes in a thread, whose failure the next call raises."""
        try:
            yield
        except OSError as error:
            self._board_failed = True
            why = FULL if is_full(error) else error.strerror
            raise UserError(f"cannot write the TensorBoard events: {why}.") from error

    def _without_traceback(self, args: threading.ExceptHookArgs) -> None:
        """What becomes of an error in a thread: TensorBoard's is told in words, by the above."""
        if not type(args.thread).__module__.startswith("tensorboard"):
            self._excepthook(args)


def finite_or_null(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers as JSON has them: None for what is not finite."""
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def plain_number(value: float) -> float | str:
    """The number, or its name ("nan", "inf", "-inf") where JSON has none."""
    return value if math.isfinite(value) else str(value)


def _epoch_of(line: bytes) -> float | None:
    """The epoch of a log line; None for one that a crash has cut, or of another program."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        return float(json.loads(line)["epoch"])
    return None


def require_tensorboard(cfg: TrainConfig) -> None:
    """Refuse --tensorboard where the package is missing."""
    try:
        if cfg.run.tensorboard:
            importlib.import_module("torch.utils.tensorboard")
    except ImportError:
        raise UserError(
            "--tensorboard needs the package tensorboard; install tcformer[train]."
        ) from None
