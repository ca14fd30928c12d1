"""What `tcformer bench` does with its options: check, measure, print, keep."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from tcformer.bench import contenders, machine, models, record, tables
from tcformer.errors import UserError
from tcformer.ops import selfcheck
from tcformer.training.devices import choose_device
from tcformer.training.environment import LaunchEnvironment

EXIT_WRONG = 1
"""An op disagrees with its reference, or a record that was asked for could not be kept."""

RESOLUTIONS = (224, 384, 512, 768, 1024, 1536, 2048)
BATCHES = {"cpu": (1, 2, 4, 8, 16, 32), "cuda": (1, 8, 64, 128, 256, 512)}

QUICK_MODELS = ("tcformer_nano", "pvt_v2_b0")
QUICK_SIZE = 64


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Measure what the options ask for; the exit status."""
    device = choose_device(options.device, LaunchEnvironment())
    _set_threads(options.threads)
    kept = record.begin(arguments, device)
    _say(tables.header(kept))
    warning = machine.busy_warning(kept["load_average_at_start"], machine.usable_cores())
    if warning:
        print(warning, file=sys.stderr)
    wrong = selfcheck.failures(device)
    kept["self_check"] = [one._asdict() for one in wrong]
    for one in wrong:
        print(
            f"error: {one.op} ({one.impl}) disagrees with its reference, {one.problem}: "
            "no ratio that depends on it is printed.",
            file=sys.stderr,
        )
    kind, figures = _models(options, device, blocked=bool(wrong))
    kept["rows"] = list(figures)
    status = EXIT_WRONG if wrong else 0
    return max(status, _keep(options, kept, kind))


def _say(lines: Iterable[str]) -> None:
    print("\n".join(lines), flush=True)


def _set_threads(threads: int | None) -> None:
    if threads is None:
        return
    if threads < 1:
        raise UserError(f"--threads must be at least 1, not {threads}.")
    torch.set_num_threads(threads)


def _keep(options: argparse.Namespace, kept: dict[str, Any], kind: str) -> int:
    """Write the record unless nobody wants it; a failure is one sentence and a status."""
    if options.quick and options.output is None:
        return 0  # a trial run proves that the command works, and its figures nothing
    target = None if options.output is None else Path(options.output)
    try:
        path = record.keep(kept, kind, target)
    except UserError as problem:
        if options.output is None:
            print(f"note: {problem}", file=sys.stderr)
            return 0
        print(f"error: {problem}", file=sys.stderr)
        return EXIT_WRONG
    _say([f"\nrecord: {_from_here(path)}"])
    return 0


def _from_here(path: Path) -> Path:
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _models(
    options: argparse.Namespace, device: torch.device, *, blocked: bool
) -> tuple[str, Iterable[dict[str, Any]]]:
    names = options.models or (QUICK_MODELS if options.quick else ())
    pairs = contenders.groups(names, options.against, ["compile"] if options.compile else [])
    settings = _settings(options, device)
    for chosen, _ in pairs:
        for one in chosen:
            for setting in settings:
                contenders.check_possible(one, setting)

    def report(row: dict[str, Any]) -> None:
        if blocked:
            hide_ratios(row)
        _say(["", *tables.models(row)])

    rows = models.sweep(
        pairs,
        settings,
        report=report,
        rounds=options.rounds,
        warmup=options.warmup,
        folder=_folder(options),
        with_phases=options.phases,
        turn=0.0 if options.quick else None,
        budget=options.budget,
    )
    return "models" if len(pairs) > 1 else pairs[0][0][0].label, rows


def hide_ratios(row: dict[str, Any]) -> None:
    """Take the ratios of our models out of a row: an op that they use is wrong."""
    baseline_is_ours = row["baseline"].startswith("tcformer")
    for label, one in row["models"].items():
        if baseline_is_ours or label.startswith("tcformer"):
            one["ratio"] = None


def _folder(options: argparse.Namespace) -> Path | None:
    return None if options.images is None else Path(options.images)


def _settings(options: argparse.Namespace, device: torch.device) -> list[contenders.Setting]:
    """Every case: modes x sizes x batches, sweeps included."""
    sizes, batch_sizes = options.size, options.batch
    if options.sweep == "resolution":
        sizes, batch_sizes = sizes or RESOLUTIONS, batch_sizes or (1,)
    elif options.sweep == "batch":
        batch_sizes = batch_sizes or BATCHES.get(device.type, BATCHES["cpu"])
    if options.quick:
        sizes, batch_sizes = sizes or (QUICK_SIZE,), batch_sizes or (2,)
    return [
        contenders.Setting(device, mode, batch, size, options.dtype, options.channels_last)
        for mode in options.mode or contenders.MODES
        for size in sizes or (224,)
        for batch in batch_sizes or (1, 8)
    ]
