"""What `tcformer bench` does with its options: check, measure, print, keep."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tcformer.bench import (
    ceilings,
    contenders,
    inputs,
    models,
    ops,
    pipeline,
    plot,
    record,
    suite_cpu,
    suite_gpu,
    suites,
    tables,
)
from tcformer.errors import UserError, nearest
from tcformer.ops import selfcheck
from tcformer.processor import usable_cores
from tcformer.runtime import provenance
from tcformer.runtime.devices import choose_device
from tcformer.runtime.launcher import LaunchEnvironment

EXIT_WRONG = 1
"""An op disagrees with its reference, or a record that was asked for could not be kept."""

RESOLUTIONS = (224, 384, 512, 768, 1024, 1536, 2048)
BATCHES = {"cpu": (1, 2, 4, 8, 16, 32), "cuda": (1, 8, 64, 128, 256, 512)}

QUICK_MODELS = ("tcformer_nano", "pvt_v2_b0")
QUICK_SIZE = 64


def run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Do what the options ask for; the exit status."""
    if options.plot is not None:
        return _plot(options)
    begin = time.monotonic()
    device = choose_device(options.device, LaunchEnvironment())
    _set_threads(options)
    record.check_place(None if options.output is None else Path(options.output))
    measure = _checked(options, device)
    kept = record.begin(arguments, device)
    _say(tables.header(kept))
    warning = provenance.busy_warning(kept["load_average_at_start"], usable_cores())
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
    options.spent = time.monotonic() - begin
    options.kept_at = None
    kind = measure(options, device, kept, wrong)
    status = EXIT_WRONG if wrong else 0
    return max(status, _keep(options, kept, kind))


def _checked(options: argparse.Namespace, device: torch.device) -> Any:
    """The function that measures what is asked for; refuses before minutes have gone by."""
    for folder in (options.images, options.data):
        if folder:
            inputs.image_files(Path(folder))
    if options.suite is not None:
        _check_suite(options, device)
        return _suite
    if options.data is not None:
        contenders.check_possible(*_fed(options, device))
        return _data
    if options.ops is not None:
        for name in options.ops:
            if name not in ops.NAMES:
                guess = nearest(name, ops.NAMES)
                hint = f"did you mean {guess}?" if guess else f"there are {', '.join(ops.NAMES)}."
                raise UserError(f"tcformer bench: there is no op {name!r}; {hint}")
        return _ops
    for chosen, _ in _groups(options):
        for one in chosen:
            for setting in _settings(options, device):
                contenders.check_possible(one, setting)
    return _models


def _say(lines: Iterable[str]) -> None:
    print("\n".join(lines), flush=True)


def _set_threads(options: argparse.Namespace) -> None:
    threads = options.threads
    if threads is None and options.suite == "cpu" and not options.quick:
        threads = min(suite_cpu.THREADS, usable_cores())
    if threads is None:
        return
    if threads < 1:
        raise UserError(f"--threads must be at least 1, not {threads}.")
    torch.set_num_threads(threads)


def _plot(options: argparse.Namespace) -> int:
    target = Path(options.output or "bench.svg")
    for title in plot.plot([Path(name) for name in options.plot], target):
        _say([f"drawn: {title}"])
    _say([f"picture: {target}"])
    return 0


def _write(options: argparse.Namespace, kept: dict[str, Any], kind: str) -> Path | None:
    """Write the record, or write it again where it was; None if nobody wants one.

    Raises:
        UserError: the place is missing or not writable.
    """
    if options.quick and options.output is None:
        return None  # a trial run proves that the command works, and its figures nothing
    if options.kept_at is None:
        target = None if options.output is None else Path(options.output)
        options.kept_at = record.keep(kept, kind, target)
    else:
        record.keep(kept, kind, options.kept_at)
    return Path(options.kept_at)


def _keep(options: argparse.Namespace, kept: dict[str, Any], kind: str) -> int:
    """Write the record; a failure is one sentence and a status."""
    try:
        path = _write(options, kept, kind)
    except UserError as problem:
        if options.output is None:
            print(f"note: {problem}", file=sys.stderr)
            return 0
        print(f"error: {problem}", file=sys.stderr)
        return EXIT_WRONG
    if path is not None:
        _say([f"\nrecord: {_from_here(path)}"])
    return 0


def _from_here(path: Path) -> Path:
    path = path.resolve()
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


Wrong = Sequence[selfcheck.Check]


def _models(
    options: argparse.Namespace, device: torch.device, kept: dict[str, Any], wrong: Wrong
) -> str:
    pairs = _groups(options)

    def report(row: dict[str, Any]) -> None:
        if wrong:
            hide_ratios(row)
        _say(["", *tables.models(row)])

    rows = models.sweep(
        pairs,
        _settings(options, device),
        report=report,
        rounds=options.rounds,
        warmup=options.warmup,
        folder=_folder(options),
        with_phases=options.phases,
        turn=_turn(options),
        budget=options.budget,
    )
    kept["rows"] = list(rows)
    return "models" if len(pairs) > 1 else pairs[0][0][0].label


def _groups(options: argparse.Namespace) -> list[tuple[list[contenders.Contender], str]]:
    names = options.models or ()
    if options.quick and options.against is None:
        names = names or QUICK_MODELS
    return contenders.groups(names, options.against, ["compile"] if options.compile else [])


def hide_ratios(row: dict[str, Any]) -> None:
    """Take the ratios of our models out of a row: an op that they use is wrong."""
    baseline_is_ours = row["baseline"].startswith("tcformer")
    for label, one in row["models"].items():
        if baseline_is_ours or label.startswith("tcformer"):
            one["ratio"] = None


def _folder(options: argparse.Namespace) -> Path | None:
    return None if options.images is None else Path(options.images)


def _turn(options: argparse.Namespace) -> float | None:
    return 0.0 if options.quick else None


def _sizes_and_batches(
    options: argparse.Namespace, device: torch.device, default: Sequence[int]
) -> tuple[Sequence[int], Sequence[int]]:
    sizes, batches = options.size, options.batch
    if options.sweep == "resolution":
        sizes, batches = sizes or RESOLUTIONS, batches or (1,)
    elif options.sweep == "batch":
        batches = batches or BATCHES.get(device.type, BATCHES["cpu"])
    if options.quick:
        sizes, batches = sizes or (QUICK_SIZE,), batches or (2,)
    return sizes or (224,), batches or default


def _settings(options: argparse.Namespace, device: torch.device) -> list[contenders.Setting]:
    """Every case: modes x sizes x batches, sweeps included."""
    sizes, batches = _sizes_and_batches(options, device, (1, 8))
    return [
        contenders.Setting(device, mode, batch, size, options.dtype, options.channels_last)
        for mode in options.mode or contenders.MODES
        for size in sizes
        for batch in batches
    ]


def _ops(
    options: argparse.Namespace, device: torch.device, kept: dict[str, Any], wrong: Wrong
) -> str:
    kept["ceilings"] = ceilings.ceilings(device, quick=options.quick)
    _say(["", *tables.ceilings(kept["ceilings"])])
    bad = {(one.op, one.impl) for one in wrong}
    kept["rows"] = []
    sizes, batches = _sizes_and_batches(options, device, (8,))
    directions = [
        direction
        for mode, direction in zip(contenders.MODES, ops.DIRECTIONS, strict=True)
        if mode in (options.mode or contenders.MODES)
    ]
    for size in sizes:
        for batch in batches:
            found = ops.boundaries(batch, size, device=device, folder=_folder(options))
            for direction in directions:
                names = options.ops or ops.NAMES
                for case in ops.cases(names, found, direction, with_published=True):
                    row = ops.measure(
                        case,
                        device=device,
                        rounds=options.rounds,
                        warmup=options.warmup,
                        turn=_turn(options),
                        budget=options.budget,
                    )
                    row |= {"batch": batch, "size": size, "direction": direction}
                    for impl, one in row["implementations"].items():
                        if (case.op, impl) in bad or (case.op, ops.BASELINE) in bad:
                            one["ratio"] = one["flops_per_second"] = None
                    kept["rows"].append(row)
                    _say(["", f"{direction}, batch {batch}, {size} px"])
                    _say(tables.op(row, kept["ceilings"]))
    return "ops"


def _fed(
    options: argparse.Namespace, device: torch.device
) -> tuple[contenders.Contender, contenders.Setting]:
    """The model that the pipeline is to feed, and its training step."""
    name = (options.models or ["tcformer_nano" if options.quick else "tcformer"])[0]
    size = (options.size or [QUICK_SIZE if options.quick else 224])[0]
    batch = (options.batch or [2 if options.quick else 256 if device.type == "cuda" else 8])[0]
    setting = contenders.Setting(device, "training", batch, size, options.dtype)
    return contenders.parse(name), setting


def _data(
    options: argparse.Namespace, device: torch.device, kept: dict[str, Any], wrong: Wrong
) -> str:
    contender, setting = _fed(options, device)
    step = models.compare(
        [contender],
        contender.label,
        setting,
        rounds=options.rounds,
        warmup=options.warmup,
        turn=_turn(options),
        budget=options.budget,
    )
    one = step["models"].get(contender.label)
    with pipeline.files(Path(options.data) if options.data else None) as source:
        row = pipeline.measure(
            source,
            size=setting.size,
            rounds=options.rounds,
            images=4 if options.quick else 32,
            needed=None if one is None else one["images_per_second"],
            model=f"{contender.label} ({setting})",
        )
    kept["pipeline"] = row
    kept["rows"] = [step]
    _say(["", *tables.pipeline(row), *pipeline.verdict(row)])
    return "data"


def _check_suite(options: argparse.Namespace, device: torch.device) -> None:
    if options.suite == "gpu" and device.type != "cuda" and not options.quick:
        raise UserError(
            "tcformer bench --suite gpu needs a GPU that torch can use, see `tcformer doctor`; "
            "--device cpu --quick runs its logic without one."
        )
    if options.suite == "cpu" and device.type != "cpu":
        raise UserError("tcformer bench --suite cpu needs --device cpu.")
    known = [part.name for part in _parts(options, device)]
    for name in options.part or []:
        if name not in known:
            guess = nearest(name, known)
            hint = f"did you mean {guess!r}?" if guess else f"there are {', '.join(known)}."
            raise UserError(f"tcformer bench: the suite has no part {name!r}; {hint}")


def _parts(options: argparse.Namespace, device: torch.device) -> list[suites.Part]:
    folder = _folder(options)
    if options.suite == "gpu":
        scale = suite_gpu.QUICK if options.quick else suite_gpu.Scale()
        return suite_gpu.Suite(device, scale, folder).parts()
    cpu_scale = suite_cpu.QUICK if options.quick else suite_cpu.Scale()
    return suite_cpu.Suite(device, cpu_scale, folder).parts()


def _suite(
    options: argparse.Namespace, device: torch.device, kept: dict[str, Any], wrong: Wrong
) -> str:
    parts = [p for p in _parts(options, device) if not options.part or p.name in options.part]
    kept["ceilings"] = ceilings.ceilings(device, quick=options.quick)
    _say(["", *tables.ceilings(kept["ceilings"])])

    def report(result: suites.Result) -> None:
        _say(["", f"== {result.name}: {result.state}, {result.seconds:.0f} s"])
        for row in result.rows:
            if "models" in row:
                if wrong:
                    hide_ratios(row)
                _say(tables.models(row))
            else:
                _say(tables.op(row, kept["ceilings"]))
        if result.problem:
            _say([f"{result.name}: {result.problem}"])
        # A suite is long, and what interrupts it should not take the first parts along.
        kept["parts"] = [*kept.get("parts", []), asdict(result)]
        # A file that is there is replaced by a whole record only.
        if options.kept_at or not Path(options.output or "").is_file():
            with contextlib.suppress(UserError):  # said once, at the end
                _write(options, kept, kind)

    kind = f"suite-{options.suite}"
    # The kernels that the check of the ops compiled have taken their share.
    limit = suites.GPU_SECONDS - options.spent if options.suite == "gpu" else float("inf")
    results = suites.run_parts(parts, seconds=limit, report=report)
    entries = suites.verdicts(parts, results)
    if wrong:
        entries = [entry | {"value": None, "verdict": "refused"} for entry in entries]
    kept["verdicts"] = entries
    _say(["", *tables.columns(suites.table(entries))])
    if options.quick:
        _say(["", "quick: tiny sizes, so the verdicts mean nothing"])
    if options.suite == "gpu" and device.type != "cuda":
        kept["note"] = "not run on a GPU: only the logic of the suite was tried"
        _say(["", kept["note"]])
    return kind
