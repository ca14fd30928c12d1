"""What `tcformer bench` does with its options: check, measure, print, keep."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tcformer.bench import inputs, models, ops, pipeline, plot, record, suites, tables
from tcformer.errors import UserError
from tcformer.ops import cases
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
        target = Path(options.output or "bench.svg")
        for title in plot.plot([Path(name) for name in options.plot], target):
            print(f"drawn: {title}")
        print(f"picture: {target}")
        return 0
    device = choose_device(options.device, LaunchEnvironment())
    return Bench(options, device).run(arguments)


class Bench:
    """One run of the command: its options, the device, and the record that it keeps."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self.options, self.device = options, device
        self.kept: dict[str, Any] = {}
        self.place: Path | None = None  # of the record, once it is written
        self.wrong: list[cases.Check] = []  # implementations that disagree with their references
        self.folder = None if options.images is None else Path(options.images)
        self.timing = {name: getattr(options, name) for name in ("rounds", "warmup", "budget")}
        self.timing["turn"] = 0.0 if options.quick else None
        self.begun = time.monotonic()

    def run(self, arguments: Sequence[str]) -> int:
        """Check, measure, print, keep; the exit status."""
        threads = self.options.threads
        if threads is None and self.options.suite == "cpu" and not self.options.quick:
            threads = min(suites.CPU_THREADS, usable_cores())
        if threads is not None:
            torch.set_num_threads(threads)
        if self.options.output is not None:
            record.check_place(Path(self.options.output))
        measure = self._checked()
        self.kept = record.begin(arguments, self.device)
        _say(tables.header(self.kept))
        warning = provenance.busy_warning(self.kept["load_average_at_start"], usable_cores())
        if warning:
            print(warning, file=sys.stderr)
        self.wrong = cases.failures(self.device)
        self.kept["self_check"] = [one._asdict() for one in self.wrong]
        for one in self.wrong:
            print(
                f"error: {one.op} ({one.impl}) disagrees with its reference, {one.problem}: "
                "no ratio that depends on it is printed.",
                file=sys.stderr,
            )
        kind = measure()
        return max(EXIT_WRONG if self.wrong else 0, self._keep(kind))

    def _checked(self) -> Callable[[], str]:
        """The method that measures what is asked for; refuses before minutes have gone by."""
        options = self.options
        for folder in (options.images, options.data):
            if folder:
                inputs.image_files(Path(folder))
        if options.suite is not None:
            known = list(dict.fromkeys(case.part for case in self._cases()))
            for name in options.part or []:
                models.check_name(name, known, "tcformer bench: the suite has no part")
            return self._suite
        if options.data is not None:
            models.check_possible(*self._fed())
            return self._data
        if options.ops is not None:
            for name in options.ops:
                models.check_name(name, ops.NAMES, "tcformer bench: there is no op")
            return self._ops
        for chosen, _ in self._groups():
            for one, setting in itertools.product(chosen, self._settings()):
                models.check_possible(one, setting)
        return self._models

    def _write(self, kind: str) -> None:
        """Write the record, or write it again where it was; a trial run keeps none unasked."""
        output = self.options.output
        if not self.options.quick or output is not None:
            target = self.place or (None if output is None else Path(output))
            self.place = record.keep(self.kept, kind, target)

    def _keep(self, kind: str) -> int:
        """Write the record; a failure is one sentence and a status."""
        try:
            self._write(kind)
        except UserError as problem:
            asked = self.options.output is not None
            print(f"{'error' if asked else 'note'}: {problem}", file=sys.stderr)
            return EXIT_WRONG if asked else 0
        if self.place is not None:
            path, here = self.place.resolve(), Path.cwd()
            _say(f"\nrecord: {path.relative_to(here) if path.is_relative_to(here) else path}")
        return 0

    # Models

    def _models(self) -> str:
        pairs = self._groups()
        self.kept["rows"] = []
        for (chosen, baseline), setting in itertools.product(pairs, self._settings()):
            self._compare(chosen, baseline, setting, with_phases=self.options.phases, **self.timing)
        return "models" if len(pairs) > 1 else pairs[0][0][0].label

    def _compare(self, *what: Any, **options: Any) -> dict[str, Any]:
        """Keep and print a row; without ratios of our models where an op that they use is wrong."""
        row = models.compare(*what, folder=self.folder, **options)
        for label, one in row["models"].items():
            if self.wrong and (row["baseline"].startswith("tcformer") or label[:2] == "tc"):
                one["ratio"] = None
        self.kept["rows"].append(row)
        _say("", *tables.models(row))
        return row

    def _groups(self) -> list[tuple[list[models.Model], str]]:
        options, names = self.options, self.options.models or ()
        if options.quick and options.against is None:
            names = names or QUICK_MODELS
        return models.groups(names, options.against, ["compile"] if options.compile else [])

    def _sizes_and_batches(self, default: Sequence[int]) -> tuple[Sequence[int], Sequence[int]]:
        options, sizes, batches = self.options, self.options.size, self.options.batch
        if options.sweep == "resolution":
            sizes, batches = sizes or RESOLUTIONS, batches or (1,)
        elif options.sweep == "batch":
            batches = batches or BATCHES.get(self.device.type, BATCHES["cpu"])
        if options.quick:
            sizes, batches = sizes or (QUICK_SIZE,), batches or (2,)
        return sizes or (224,), batches or default

    def _settings(self) -> list[models.Setting]:
        """Every case: modes x sizes x batches, sweeps included."""
        options = self.options
        how = (options.dtype, options.channels_last)
        every = itertools.product(options.mode or models.MODES, *self._sizes_and_batches((1, 8)))
        return [models.Setting(self.device, mode, n, size, *how) for mode, size, n in every]

    # Ops

    def _ops(self) -> str:
        self.kept |= {"ceilings": ops.ceilings(self.device, quick=self.options.quick), "rows": []}
        _say("", tables.ceilings(self.kept["ceilings"]))
        bad = {(one.op, one.impl) for one in self.wrong}
        names, modes = self.options.ops or ops.NAMES, self.options.mode or models.MODES
        directions = [d for d, m in zip(ops.DIRECTIONS, models.MODES, strict=True) if m in modes]
        for size, batch in itertools.product(*self._sizes_and_batches((8,))):
            found = ops.boundaries(batch, size, device=self.device, folder=self.folder)
            for direction in directions:
                for case in ops.cases(names, found, direction, with_published=True):
                    row = ops.measure(case, device=self.device, **self.timing)
                    row |= {"batch": batch, "size": size, "direction": direction}
                    for impl, one in row["implementations"].items():
                        if (case.op, impl) in bad or (case.op, ops.BASELINE) in bad:
                            one["ratio"] = one["flops_per_second"] = None
                    self.kept["rows"].append(row)
                    _say("", f"{direction}, batch {batch}, {size} px")
                    _say(*tables.op(row, self.kept["ceilings"]))
        return "ops"

    # The input pipeline

    def _fed(self) -> tuple[models.Model, models.Setting]:
        """The model that the pipeline is to feed, and its training step."""
        options, quick = self.options, self.options.quick
        (name,) = options.models or ["tcformer_nano" if quick else "tcformer"]
        (size,) = options.size or [QUICK_SIZE if quick else 224]
        (batch,) = options.batch or [2 if quick else 256 if self.device.type == "cuda" else 8]
        setting = models.Setting(self.device, "training", batch, size, options.dtype)
        return models.parse(name), setting

    def _data(self) -> str:
        model, setting = self._fed()
        step = models.compare([model], model.label, setting, **self.timing)
        one = step["models"].get(model.label)
        with pipeline.files(Path(self.options.data) if self.options.data else None) as source:
            row = pipeline.measure(
                source,
                size=setting.size,
                rounds=self.options.rounds,
                images=4 if self.options.quick else 32,
                needed=None if one is None else one["images_per_second"],
                model=f"{model.label} ({setting})",
            )
        self.kept |= {"pipeline": row, "rows": [step]}
        _say("", *tables.pipeline(row))
        return "data"

    # Suites

    def _cases(self) -> list[suites.Case]:
        options = self.options
        if options.suite == "cpu":
            if self.device.type != "cpu":
                raise UserError("tcformer bench --suite cpu needs --device cpu.")
            return suites.cpu(options.quick)
        if self.device.type != "cuda" and not options.quick:
            raise UserError(
                "tcformer bench --suite gpu needs a GPU that torch can use, see `tcformer doctor`; "
                "--device cpu --quick runs its logic without one."
            )
        return suites.gpu(options.quick)

    def _suite(self) -> str:
        options, kind = self.options, f"suite-{self.options.suite}"
        quick, on_gpu = options.quick, self.device.type == "cuda"
        limit = suites.GPU_SECONDS if options.suite == "gpu" and not quick else float("inf")
        self.kept |= {"rows": [], "verdicts": []}
        # A file that is there is replaced by a whole record only.
        early = not Path(options.output or "").is_file()
        for case in self._cases():
            if options.part and case.part not in options.part:
                continue
            row: dict[str, Any] = {"models": {}}
            if time.monotonic() - self.begun > limit:
                _say("", f"{case.part}: left out, no time is left for it")
            else:
                row = self._compare(
                    [models.parse(name) for name in case.models],
                    case.models[-1],
                    models.Setting(
                        self.device, backend="eager" if quick else "inductor", **case.changes
                    ),
                    rounds=2 if quick else 5 if on_gpu else 10,
                    turn=self.timing["turn"],
                    budget=25.0 if on_gpu else 90.0,
                    keep_going=True,
                )
            found = suites.verdicts(case, row)
            if self.wrong:
                found = [entry | {"value": None, "verdict": "refused"} for entry in found]
            self.kept["verdicts"] += found
            # A suite is long, and what interrupts it should not take the first cases along.
            if early:
                with contextlib.suppress(UserError):  # said once, at the end
                    self._write(kind)
        _say("", *tables.columns(tables.verdicts(self.kept["verdicts"])))
        if quick:
            _say("", "quick: tiny sizes, so the verdicts mean nothing")
        if options.suite == "gpu" and not on_gpu:
            self.kept["note"] = "not run on a GPU: only the logic of the suite was tried"
            _say("", self.kept["note"])
        return kind


def _say(*lines: str) -> None:
    print("\n".join(lines), flush=True)
