"""Where a forward pass spends its time: stem, stage 1, merge 1 (our CTM), stage 2, ..., head.

A phase begins when its first module is called and lasts until the next phase begins, so the phases
add up to the whole and what happens between modules belongs to the phase before it.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from tcformer.bench.timing import synchronise

# Phase -> module whose call begins it. The first one that a network has counts.
_STARTS: dict[str, tuple[str, ...]] = {
    "stem": ("patch_embed1", "patch_embed", "conv1"),
    "stage 1": ("block1.0", "stages.0", "layers.0", "layer1"),
    "CTM 1": ("ctm1", "stages.1.downsample", "layers.1.downsample"),
    "stage 2": ("block2.0", "stages.1.blocks.0", "layers.1.blocks.0", "layer2"),
    "CTM 2": ("ctm2", "stages.2.downsample", "layers.2.downsample"),
    "stage 3": ("block3.0", "stages.2.blocks.0", "layers.2.blocks.0", "layer3"),
    "CTM 3": ("ctm3", "stages.3.downsample", "layers.3.downsample"),
    "stage 4": ("block4.0", "stages.3.blocks.0", "layers.3.blocks.0", "layer4"),
    "head": ("head_drop", "head", "global_pool"),
}

PHASES = tuple(_STARTS)
"""In a PVT or Swin, "CTM i" is the convolution or merging of patches that stands in its place."""


def starts(model: nn.Module) -> dict[str, nn.Module]:
    """The phases that a network has, each with the module that begins it."""
    modules = dict(model.named_modules())
    found = {}
    for phase, candidates in _STARTS.items():
        name = next((name for name in candidates if name in modules), None)
        if name is not None:
            found[phase] = modules[name]
    return found


def phase_times(
    model: nn.Module,
    step: Callable[[int], object],
    *,
    device: torch.device,
    rounds: int = 5,
) -> dict[str, float]:
    """Median seconds of each phase of an eager forward pass; empty for networks without phases.

    Args:
        model: what `step` runs; hooks are put on it and taken off again.
        step: one forward pass.
        device: whose clock counts; events on a GPU, so nothing waits between phases.
        rounds: forward passes that are timed, after one that is not.
    """
    begins = starts(model)
    if "stem" not in begins or len(begins) < 3:
        return {}
    marks: list[tuple[str, Any]] = []
    hooks = [
        module.register_forward_pre_hook(_marker(marks, phase, device))
        for phase, module in begins.items()
    ]
    found: dict[str, list[float]] = {phase: [] for phase in begins}
    try:
        step(0)
        for number in range(rounds):
            marks.clear()
            step(number)
            marks.append(("end", _mark(device)))
            synchronise(device)
            for phase, seconds in _differences(marks, device).items():
                found[phase].append(seconds)
    finally:
        for hook in hooks:
            hook.remove()
    return {phase: statistics.median(values) for phase, values in found.items() if values}


def _marker(marks: list[tuple[str, Any]], phase: str, device: torch.device) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any) -> None:
        marks.append((phase, _mark(device)))

    return hook


def _mark(device: torch.device) -> Any:
    if device.type != "cuda":
        synchronise(device)
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _differences(marks: list[tuple[str, Any]], device: torch.device) -> Mapping[str, float]:
    total: dict[str, float] = {}
    for (phase, begin), (_, end) in itertools.pairwise(marks):
        seconds = begin.elapsed_time(end) / 1e3 if device.type == "cuda" else end - begin
        total[phase] = total.get(phase, 0.0) + seconds
    return total
