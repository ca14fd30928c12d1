"""Networks side by side: one case is a mode, a batch size and an image size."""

from __future__ import annotations

import dataclasses
import gc
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from tcformer.bench import inputs, memory, phases, timing
from tcformer.bench.contenders import Contender, Ready, Setting, prepare

# Bytes a pixel of the batch, generous: what is plainly too large is not even tried.
_BYTES_A_PIXEL = {"inference": 1_500, "training": 7_000}
LONG_CALL = 3.0
"""Seconds of a call that needs no further warming up."""

_LIVE_DISTANCES = 5  # matrices of N x N that the published style holds at once


def expected_memory(contender: Contender, setting: Setting) -> int:
    """Bytes beyond the weights that a case may need, roughly."""
    pixels = setting.batch * setting.size**2
    need = _BYTES_A_PIXEL[setting.mode] * pixels
    if setting.dtype != "float32":
        need //= 2
    if "published" in contender.traits:
        tokens = math.ceil(setting.size / 4) ** 2
        need += _LIVE_DISTANCES * 4 * setting.batch * tokens**2
    return need


def compare(
    contenders: Sequence[Contender],
    baseline: str,
    setting: Setting,
    *,
    rounds: int = 10,
    warmup: int = 2,
    folder: Path | None = None,
    with_phases: bool = False,
    turn: float | None = None,
    budget: float = math.inf,
    keep_going: bool = False,
) -> dict[str, Any]:
    """Time some networks in turns.

    A contender that cannot be built or does not fit is left out and named with the reason; without
    the baseline there are no ratios. With `keep_going` any failure of a contender counts as that.

    Returns:
        A row of the record: the setting, `baseline`, `models` (label -> seconds, images a second,
        ratio, memory, compile time, phases) and `skipped` (label -> one sentence).
    """
    if any("compile" in contender.traits for contender in contenders):
        # Else a long sweep meets the limit of recompilations and runs eagerly, without a word.
        torch._dynamo.reset()
    pictures = inputs.batches(setting.batch, setting.size, folder=folder, device=setting.device)
    ready: dict[str, Ready] = {}
    skipped: dict[str, str] = {}
    peaks: dict[str, memory.Peak | None] = {}
    first_seconds: list[float] = []
    for contender in contenders:
        made = _make(contender, setting, pictures, warmup, keep_going)
        if isinstance(made, str):
            skipped[contender.label] = made
        else:
            ready[contender.label], peaks[contender.label], seconds_once = made
            first_seconds.append(seconds_once)
    if one_call_is_long(first_seconds, setting.device):
        turn = 0.0
    times = timing.interleaved(
        {label: one.step for label, one in ready.items()},
        device=setting.device,
        rounds=rounds,
        warmup=0,
        turn=turn,
        budget=budget,
    )
    ratios = timing.ratios(times, baseline) if baseline in times else {}
    rows = {}
    for label, seconds in times.items():
        contender = next(c for c in contenders if c.label == label)
        rows[label] = _row(seconds, setting, peaks[label], ready[label].compile_seconds)
        rows[label]["ratio"] = ratios.get(label)
        rows[label]["weight_bytes"] = _bytes(ready[label].model.parameters())
        if with_phases and setting.mode == "inference" and not contender.traits:
            one = ready[label]
            rows[label]["phases"] = phases.phase_times(
                one.model, one.step, device=setting.device, rounds=max(3, min(rounds, 10))
            )
    row = dataclasses.asdict(setting) | {"device": setting.device.type}
    row |= {"baseline": baseline, "models": rows, "skipped": skipped}
    row |= {"input_bytes": _bytes(pictures[:1])}
    row |= {"rounds": max(map(len, times.values()), default=0)}
    ready.clear()
    _clean(setting.device)
    return row


def _make(
    contender: Contender,
    setting: Setting,
    pictures: list[torch.Tensor],
    warmup: int,
    keep_going: bool,
) -> tuple[Ready, memory.Peak | None, float] | str:
    """Build, warm up and watch one contender: with its memory and the seconds of its last call.

    Or one sentence why that is not possible.
    """
    need, there = expected_memory(contender, setting), memory.free(setting.device)
    if need > memory.SHARE * there:
        return f"would need about {_gib(need)} and {_gib(there)} are free"
    try:
        one = prepare(contender, setting, pictures)
        once = 0.0
        for call in range(max(1, warmup)):
            if once > LONG_CALL:
                break  # minutes of warming up would change nothing
            once = timing.elapsed(one.step, call, 1, setting.device)
        if "graph" in contender.traits:  # what a graph needs was allocated when it was captured
            return one, None, once
        return one, memory.peak(setting.device, lambda: one.step(0)), once
    except Exception as error:
        if memory.is_out_of_memory(error):
            _clean(setting.device)
            return f"ran out of memory ({_gib(there)} were free)"
        if not keep_going:
            raise
        said = (str(error).strip().splitlines() or [""])[0][:300]
        return f"failed, {type(error).__name__}: {said}"


def one_call_is_long(seconds: Sequence[float], device: torch.device) -> bool:
    """Whether a turn of one call is long enough for everybody, so that none need be counted."""
    return device.type == "cpu" and min(seconds, default=0.0) > timing.TURN["cpu"]


def _row(
    seconds: list[float],
    setting: Setting,
    peak: memory.Peak | None,
    compile_seconds: float | None,
) -> dict[str, Any]:
    found = timing.spread(seconds)
    return {
        "seconds": found,
        "turns": seconds,
        "images_per_second": setting.batch / found["median"],
        "peak_extra_bytes": None if peak is None else peak.extra,
        "peak_bytes": None if peak is None else peak.total,
        "compile_seconds": compile_seconds,
    }


def ratio(row: dict[str, Any], label: str, other: str) -> dict[str, float] | None:
    """The time of one model over that of another, from the turns that a row keeps; None without."""
    if label not in row["models"] or other not in row["models"]:
        return None
    times = {name: row["models"][name]["turns"] for name in (label, other)}
    return timing.ratios(times, other)[label]


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _clean(device: torch.device) -> None:
    """Free what compiled models hold in circles. Half a second: only where memory is short."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def sweep(
    groups: Sequence[tuple[list[Contender], str]],
    settings: Sequence[Setting],
    *,
    report: Callable[[dict[str, Any]], None],
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """`compare` for every group at every setting; each row is reported as soon as it is there."""
    for contenders, baseline in groups:
        for setting in settings:
            row = compare(contenders, baseline, setting, **options)
            report(row)
            yield row
