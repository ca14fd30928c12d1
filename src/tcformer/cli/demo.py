"""`tcformer demo`: from nothing to a trained network and a picture of its tokens in minutes."""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

import tcformer
from tcformer.cli.parser import Parser
from tcformer.errors import UserError
from tcformer.files import check_writable, making_way
from tcformer.progress import progress_bar

if TYPE_CHECKING:
    from tcformer.tasks.runner import RunResult
    from tcformer.training.config import TrainConfig
    from tcformer.training.metrics import Progress

CONFIG = "configs/digits/tcformer_nano.py"

EXPECTED_ACCURACY = 97.0
"""Top-1 in percent that the whole recipe must reach; below it the demo exits with status 1."""

ROWS = 6
"""Test images on the picture."""

EDGE = (255, 120, 0)
"""Outlines: the digits are white on black, so neither will do."""

LOG = "demo.log"
"""The training's own output. The file also marks a folder as one that the demo may clear."""

_OURS = (
    *(LOG, "checkpoint*.pth", "best.pth", "best.safetensors"),
    *("log.txt", "config.json", "record.json", "tokens.png", "digits/*.png"),
)


def main(argv: list[str]) -> int:
    """Run the verb; see `tcformer demo --help`."""
    args = _parse(argv)
    folder = Path(args.output_dir)
    cfg = _configuration(args)
    _check(folder)
    epochs = cfg.optimization.epochs
    print(
        f"Training {cfg.network.model} for {epochs} epoch{'s' * (epochs > 1)} on scikit-learn's "
        "handwritten digits, here and now.",
        flush=True,
    )
    began = time.monotonic()

    # Torch takes seconds to import: only now that the first line is on the screen.
    from tcformer.runtime.signals import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
    from tcformer.training.loop import Interrupted, NotFinite

    try:
        with making_way(folder, _OURS) as aside:
            if aside is not None:
                print(f"The earlier demo waits in {aside} until this one is done.", flush=True)
            result = _train(cfg, folder, argv)
            picture = _draw(result, folder)
    except Interrupted:
        print(f"Stopped before the end; `{command()} demo` starts anew.")
        return EXIT_INTERRUPTED
    except NotFinite as problem:
        print(problem, file=sys.stderr)
        return EXIT_FAILED
    print(*result.eval_lines, sep="\n")
    print(f"All in {_clock(time.monotonic() - began)}.", end="\n\n")
    print(f"checkpoint  {result.checkpoint}")
    print(f"picture     {picture}   test images and their tokens after each stage")
    print(f"log         {folder / LOG}", end="\n\n")
    print("What to try next:", *(f"  {line}" for line in _next_steps(result, folder)), sep="\n")
    if args.epochs is None and result.best_acc1 < EXPECTED_ACCURACY:
        print(
            f"error: {result.best_acc1:.1f}% is less than the {EXPECTED_ACCURACY:.1f}% that this "
            "recipe should reach: please report it together with the output of `tcformer doctor`.",
            file=sys.stderr,
        )
        return EXIT_FAILED
    return EXIT_OK


def _parse(argv: list[str]) -> Namespace:
    parser = Parser(
        "demo",
        epilog="Needs no data and no GPU: the images are scikit-learn's (1437 to learn from, 360 "
        f"to test on). The recipe is {CONFIG}. Exits with status 1 when the accuracy stays below "
        f"{EXPECTED_ACCURACY:.0f} percent (not with --epochs).",
    )
    add = parser.add_argument
    add("--output_dir", "--output-dir", metavar="FOLDER", default="runs/demo", help="folder for "
        "checkpoint, picture and log; an earlier demo in it is replaced at the end")  # fmt: skip
    add("--epochs", metavar="N", type=int, help="epochs (default: the recipe's)")
    add("--seed", metavar="N", type=int, default=0, help="seed of the training")
    return parser.parse_args(argv)


def _configuration(args: Namespace) -> TrainConfig:
    from tcformer.training.options import build, load_config

    cfg = build(load_config(CONFIG), where=CONFIG)
    changed = {} if args.epochs is None else {"epochs": args.epochs}
    # One thread is enough for such small tensors, and several wait for each other at every
    # operation: where cores are busy or capped, that costs far more than it gains.
    changed |= {"seed": args.seed, "save_every": 0, "threads": cfg.run.threads or 1}
    return cfg.replace(output_dir=args.output_dir, **changed)


def _check(folder: Path) -> None:
    """Refuse what would end the demo later, and a folder with anything but an earlier demo."""
    from tcformer.data.builtin import require_digits

    require_digits()
    check_writable(folder / LOG)
    there = [path for pattern in _OURS for path in folder.glob(pattern)]
    if there and not (folder / LOG).is_file():
        raise UserError(
            f"{folder} holds {there[0].name}, which no demo wrote; name another --output_dir"
        )


def _train(cfg: TrainConfig, folder: Path, argv: list[str]) -> RunResult:
    """Train with a progress bar on the screen and everything else in the log."""
    from tcformer.tasks.runner import run

    with (
        open(folder / LOG, "w", encoding="utf-8") as log,
        show_progress(folder / "log.txt") as on_progress,
        contextlib.redirect_stdout(log),
    ):
        return run(cfg, on_progress=on_progress, command=["demo", *argv])


@contextlib.contextmanager
def show_progress(
    log: Path, *, stream: TextIO | None = None, live: bool | None = None
) -> Iterator[Callable[[Progress], None]]:
    """Yield a callback for the training loop: a live bar on a terminal, else a line an epoch.

    `log` is the run's log.txt, where the accuracy of finished epochs is read. The stream is the
    standard output as it is now: it may be redirected while the training prints its own lines.
    """
    stream = stream or sys.stdout
    live = stream.isatty() if live is None else live
    began, finished, epochs, loss = time.monotonic(), 0, 0, ""

    def numbers() -> str:  # the accuracy of an epoch is known when the next one begins
        accuracy = ""
        with contextlib.suppress(OSError, IndexError, ValueError, KeyError):
            last = json.loads(log.read_text(encoding="utf-8").splitlines()[-1])
            accuracy = f"  accuracy {last['test_acc1']:.1f}%"
        return loss + accuracy

    def line() -> None:
        nonlocal finished
        finished += 1
        left = int((time.monotonic() - began) / finished * (epochs - finished))
        clock = f"eta {left // 60}:{left % 60:02d}"
        print(f"epoch {finished}/{epochs}  {numbers()}  {clock}", file=stream, flush=True)

    with progress_bar(label="preparing", stream=stream, wanted=live, transient=False) as update:

        def draw(now: Progress) -> None:
            nonlocal epochs, loss
            epochs = now.epochs
            if now.phase != "train":
                return
            if now.epoch > finished and not live:
                line()
            loss = f"loss {now.values['loss']:.3f}" if "loss" in now.values else ""
            update(
                description=f"epoch {now.epoch + 1}/{now.epochs}",
                total=now.epochs * now.steps,
                completed=now.epoch * now.steps + now.step,
                numbers=numbers() if live else "",
            )

        yield draw
        if live:
            update(numbers=numbers())
        elif epochs:
            line()


def _draw(result: RunResult, folder: Path) -> Path:
    """tokens.png: for six test images of different digits, the image and its four stages."""
    import torch

    from tcformer.data import DataSpec, build_dataset
    from tcformer.predict import load
    from tcformer.viz import Row, contact_sheet, layout_maps, token_row, write_png

    loaded = load(None, result.checkpoint)
    images = build_dataset(DataSpec(data_set="digits"), "val")
    rows: dict[int, Row] = {}
    for index in range(len(images)):
        image, label = images.load(index)
        if label in rows or len(rows) == ROWS:
            continue
        picture = np.asarray(image)
        write_png(folder / "digits" / f"{label}.png", picture)
        with torch.inference_mode():
            answer = int(loaded.network(loaded.preprocessing.normalize(picture)).argmax())
        title = f"a {images.classes[label]}, read as {images.classes[answer]}"
        maps = layout_maps(loaded.tokens(picture))
        rows[label] = token_row(picture, maps, title=title, edge_color=EDGE, panel_size=192)
    write_png(folder / "tokens.png", contact_sheet(list(rows.values())))
    return folder / "tokens.png"


def _next_steps(result: RunResult, folder: Path) -> list[str]:
    """Commands that work as they stand; tests/cli/test_demo.py runs every one."""
    call, weights = command(), result.checkpoint
    digit = next(iter(sorted((folder / "digits").glob("*.png"))))
    return [
        f"{call} show {digit} --checkpoint {weights} --out {folder / 'digit.png'}",
        f"{call} evaluate {CONFIG} --resume {weights}",
        f"{call} train {CONFIG} --output_dir runs/digits",
        f"{call} doctor",
    ]


def command() -> str:
    """How to call this `tcformer` from the current folder, as short as possible."""
    python, script = Path(sys.executable), Path(sys.executable).with_name("tcformer")
    try:
        metadata.distribution("tcformer")
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        source = Path(tcformer.__file__).parents[1]
        return f"PYTHONPATH={_from_here(source)} {_from_here(python)} -m tcformer"
    return _from_here(script) if script.is_file() else f"{_from_here(python)} -m tcformer"


def _from_here(path: Path) -> str:
    """The name of a program that is found by it, else the path from the current folder."""
    path, found = path.absolute(), shutil.which(path.name)
    if found is not None and Path(found).absolute() == path:
        return path.name
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d} minutes"
