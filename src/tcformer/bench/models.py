"""Networks side by side: which take part, the step that is timed, and one row for each case.

A model is written NAME[+TRAIT...]: `tcformer`, `tcformer+compile`, `pvt_v2_b2+compile+graph`. Names
are ours or any of timm's. A case is a mode, a batch size and an image size (`Setting`).
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

from tcformer.bench import inputs
from tcformer.errors import UserError, nearest
from tcformer.models.sizes import V1, VARIANTS
from tcformer.runtime import timing
from tcformer.runtime.provenance import has_compiler, resident, total_memory

BASELINES = {
    "tcformer_nano": "pvt_v2_b0",
    "tcformer_light": "pvt_v2_b1",
    "tcformer": "pvt_v2_b2",
    "tcformer_large": "pvt_v2_b4",
    "tcformerv2_nano": "pvt_v2_b0",
    "tcformerv2_light": "pvt_v2_b1",
    "tcformerv2_base": "pvt_v2_b2",
    "tcformerv2_large": "pvt_v2_b4",
}
"""Ours -> the PVTv2 with the same widths and depths."""

TRAITS = ("compile", "cast", "graph", "tf32", "published")
MODES = ("inference", "training")
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CLASSES = 1000
SIZED = ("swin", "vit", "deit", "maxvit", "coatnet")
"""Families of timm that are built for one image size."""

BYTES_PER_PIXEL = {"inference": 1_500, "training": 7_000}
"""A generous estimate: what is plainly too large is not tried."""
FREE_SHARE = 0.8
"""Share of the free memory that a case may be expected to take."""
LONG_CALL = 3.0
"""Seconds of a call after which no further call warms up."""

Forward = Callable[[Tensor], Any]


@dataclass(frozen=True)
class Model:
    """A name with its traits, as it was asked for."""

    name: str
    traits: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The form in which it is asked for and reported."""
        return "+".join((self.name, *self.traits))


@dataclass(frozen=True)
class Setting:
    """What all models of a comparison share; `backend` is that of `torch.compile`."""

    device: torch.device
    mode: str = "inference"
    batch: int = 1
    size: int = 224
    dtype: str = "float32"
    channels_last: bool = False
    backend: str = "inductor"

    def __str__(self) -> str:
        layout = ", channels last" if self.channels_last else ""
        return f"{self.mode}, batch {self.batch}, {self.size} px, {self.dtype}{layout}"


class Peak(NamedTuple):
    """Bytes: beyond what was there before the step, and altogether."""

    extra: int
    total: int


@dataclass
class Ready:
    """A model that can run: its step, its network, and what building it has shown."""

    step: timing.Step
    model: nn.Module
    compile_seconds: float | None = None
    call_seconds: float = 0.0
    peak: Peak | None = None


# --- who takes part --------------------------------------------------------------------------


def check_name(name: str, known: Sequence[str], problem: str, mark: str = "") -> None:
    """Refuse an unknown name with the nearest known one.

    Raises:
        UserError: `problem`, the name and a hint.
    """
    if name not in known:
        guess = nearest(name, known)
        there = ", ".join(f"{mark}{one}" for one in known)
        hint = f"did you mean {mark}{guess}?" if guess else f"there are {there}."
        raise UserError(f"{problem} {name!r}; {hint}")


def parse(text: str) -> Model:
    """Read `NAME+TRAIT+TRAIT`.

    Raises:
        UserError: no such model or trait, or a trait that the model cannot have.
    """
    name, *traits = text.split("+")
    for trait in traits:
        check_name(trait, TRAITS, f"{text}: a model has no trait", "+")
    if not timm.is_model(name):
        known = [*VARIANTS, *BASELINES.values()]
        guess = nearest(name, known) or nearest(name, timm.list_models())
        hint = f"did you mean {guess}?" if guess else "`tcformer bench --help` names some."
        raise UserError(f"there is no model {name!r}, neither here nor in timm; {hint}")
    if "published" in traits and name not in V1:  # V2 was never published
        raise UserError(f"{text}: +published exists for {', '.join(V1)} only.")
    return Model(name, tuple(dict.fromkeys(traits)))


def groups(
    names: Sequence[str], against: str | None, extra: Sequence[str] = ()
) -> list[tuple[list[Model], str]]:
    """Lists of models, each with the label of its baseline.

    Without names: the base and the light model, each beside its PVTv2. With names: one group. The
    baseline is `against`, else the PVTv2 of the first of ours, else the last one named; it joins
    the group. All models get the traits in `extra`, such as "compile".

    Raises:
        UserError: a name is unknown, or a model has nothing to be compared with.
    """

    def read(text: str) -> Model:
        return parse("+".join((text, *extra)))

    if not names and against is None:
        pairs = [[read(n) for n in (o, BASELINES[o])] for o in ("tcformer", "tcformer_light")]
        return [(pair, pair[1].label) for pair in pairs]
    chosen = [read(name) for name in names or ["tcformer"]]
    base = _baseline(chosen) if against is None else read(against)
    chosen = list(dict.fromkeys([*chosen, base]))
    if len(chosen) == 1:
        raise UserError(f"there is nothing to compare {base.label} with; name a second model.")
    return [(chosen, base.label)]


def _baseline(chosen: list[Model]) -> Model:
    ours = next((model for model in chosen if model.name in BASELINES), None)
    if ours is None:
        return chosen[-1]
    name = BASELINES[ours.name]
    for model in chosen:
        if model.name == name:
            return model
    if len({model.name for model in chosen}) == 1 and len(chosen) > 1:
        return chosen[-1]  # one model in several ways, such as compiled and not
    return Model(name, tuple(t for t in ours.traits if t != "published"))


def check_possible(model: Model, setting: Setting) -> None:
    """Refuse what cannot run.

    Raises:
        UserError: CUDA graphs without CUDA or in training, traits that exclude each other, or no
            compiler for `torch.compile`.
    """
    reason = None
    if "graph" in model.traits:
        if setting.device.type != "cuda":
            reason = "CUDA graphs need --device cuda"
        elif setting.mode != "inference":
            reason = "+graph is for inference; leave it or training"
        elif "tf32" in model.traits:
            reason = "a graph keeps its own precision; leave +tf32 or it"
    if "cast" in model.traits and (setting.mode != "inference" or setting.dtype == "float32"):
        reason = "+cast is for inference in bf16 or fp16"
    if reason is None and "compile" in model.traits and setting.device.type == "cpu":
        reason = has_compiler()
    if reason:
        raise UserError(f"{model.label}: {reason}.")


# --- the step that is timed ------------------------------------------------------------------


def prepare(model: Model, setting: Setting, images: list[Tensor]) -> Ready:
    """Build a network, with the same seed for all, and the step that is timed.

    The weights are as initialized: speed hardly depends on them, clusters do.
    """
    check_possible(model, setting)
    network = create(model, setting)
    if setting.channels_last:
        network = network.to(memory_format=torch.channels_last)
        images = [batch.contiguous(memory_format=torch.channels_last) for batch in images]
    if "cast" in model.traits:
        cast_weights(network, DTYPES[setting.dtype])
    forward: Forward = network
    if "compile" in model.traits:
        forward = torch.compile(network, dynamic=False, backend=setting.backend)
    if setting.mode == "training":
        step = _training(forward, network, setting, images)
    else:
        step = _inference(forward, setting, images)
    if "tf32" in model.traits:
        step = _with_tf32(step)
    seconds = None
    if "compile" in model.traits:
        seconds = timing.elapsed(step, 0, 1, setting.device)
    if "graph" in model.traits:
        step = _graph(forward, setting, images)
    return Ready(step, network, seconds)


def create(model: Model, setting: Setting) -> nn.Module:
    """The network on its device, in the mode of the setting."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"num_classes": CLASSES}
    if model.name.startswith(SIZED):
        options["img_size"] = setting.size
    network: nn.Module = timm.create_model(model.name, **options)
    if "published" in model.traits:
        from tcformer.bench.published import PublishedStyle

        network = PublishedStyle(network)
    return network.to(setting.device).train(setting.mode == "training")


def cast_weights(network: nn.Module, dtype: torch.dtype) -> None:
    """Do once what autocast does at every call; the numbers stay the same.

    The scores of our CTMs stay in float32, as under autocast. So do depthwise convolutions: they
    are small, and ours may keep their weights in float32.
    """
    for name, module in network.named_modules():
        dense = isinstance(module, (nn.Conv1d, nn.Conv2d)) and module.groups == 1
        scores = name.startswith("ctm") and name.endswith("score")
        if dense or (isinstance(module, nn.Linear) and not scores):
            module.to(dtype)


def _autocast(setting: Setting) -> contextlib.AbstractContextManager[Any]:
    if setting.dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(setting.device.type, dtype=DTYPES[setting.dtype])


def _inference(forward: Forward, setting: Setting, images: list[Tensor]) -> timing.Step:
    def step(call: int) -> Any:
        with torch.inference_mode(), _autocast(setting):
            return forward(images[call % len(images)])

    return step


def _training(
    forward: Forward, network: nn.Module, setting: Setting, images: list[Tensor]
) -> timing.Step:
    """Forward, loss, backward and an AdamW step, as the recipe makes them."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5, weight_decay=0.05)
    scaler = torch.amp.GradScaler(setting.device.type, enabled=setting.dtype == "fp16")
    labels = torch.arange(setting.batch, device=setting.device) % CLASSES

    def step(call: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        with _autocast(setting):
            loss = nn.functional.cross_entropy(forward(images[call % len(images)]), labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def _with_tf32(step: timing.Step) -> timing.Step:
    """The published distances are float32 products under autocast, too: let them be fast."""

    def faster(call: int) -> object:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            return step(call)
        finally:
            torch.set_float32_matmul_precision(before)

    return faster


def _graph(forward: Forward, setting: Setting, images: list[Tensor]) -> timing.Step:
    """Capture one forward pass; a call copies its input in and replays."""
    static = images[0].clone()
    # The same mode as before: a compiled model would be compiled once more for another one.
    run = _inference(forward, setting, [static])
    aside = torch.cuda.Stream(setting.device)
    aside.wait_stream(torch.cuda.current_stream(setting.device))
    with torch.cuda.stream(aside):
        for call in range(3):
            run(call)
    torch.cuda.current_stream(setting.device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run(0)

    def step(call: int) -> object:
        static.copy_(images[call % len(images)])
        graph.replay()
        return out

    return step


# --- memory ----------------------------------------------------------------------------------


def peak(device: torch.device, step: Callable[[], object]) -> Peak | None:
    """Run a step that has run before and watch its memory; None where the system does not tell.

    On a GPU what torch allocated (weights and inputs are in `total`); on Linux the resident memory
    of this process.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        highest = torch.cuda.max_memory_allocated(device)
        return Peak(highest - before, highest)
    if device.type != "cpu":
        return None
    with contextlib.suppress(OSError, AttributeError):
        # Freed memory that is kept would hide what the step asks for (glibc only).
        ctypes.CDLL(None).malloc_trim(0)
    resting = resident("VmRSS")
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark begins anew
    except OSError:
        return None
    step()
    reached = resident("VmHWM")
    if resting is None or reached is None:
        return None
    return Peak(max(0, reached - resting), reached)


def free_memory(device: torch.device) -> int:
    """Bytes that could be had now."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = next(line for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return total_memory() // 2
    taken = resident("VmRSS") or 0
    return min(int(available.split()[1]) * 1024, max(0, total_memory() - taken))


def expected_memory(model: Model, setting: Setting) -> int:
    """Bytes beyond the weights that a case may need, roughly."""
    need = BYTES_PER_PIXEL[setting.mode] * setting.batch * setting.size**2
    if setting.dtype != "float32":
        need //= 2
    if "published" in model.traits:  # five matrices of N x N at once
        need += 5 * 4 * setting.batch * math.ceil(setting.size / 4) ** 4
    return need


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch (or Python) could not get memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = ("out of memory", "not enough memory", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


# --- phases ----------------------------------------------------------------------------------

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


def phase_times(
    network: nn.Module, step: timing.Step, *, device: torch.device, rounds: int = 5
) -> dict[str, float]:
    """Median seconds of each phase of an eager forward pass; empty for networks without phases.

    A phase lasts until the next one begins, so phases add up to the whole. On a GPU events take the
    time, and nothing waits between phases.
    """
    modules = dict(network.named_modules())
    named = {phase: [n for n in names if n in modules] for phase, names in _STARTS.items()}
    begins = {phase: modules[names[0]] for phase, names in named.items() if names}
    if "stem" not in begins or len(begins) < 3:
        return {}
    marks: list[tuple[str, Any]] = []

    def mark(phase: str) -> None:
        if device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            marks.append((phase, event))
        else:
            timing.synchronize(device)
            marks.append((phase, time.perf_counter()))

    hooks = [
        module.register_forward_pre_hook(lambda *_, phase=phase: mark(phase))
        for phase, module in begins.items()
    ]
    found: list[dict[str, float]] = []
    try:
        for number in range(-1, rounds):
            marks.clear()
            step(number)
            mark("end")
            timing.synchronize(device)
            total = dict.fromkeys(begins, 0.0)
            for (phase, begin), (_, end) in itertools.pairwise(marks):
                gap = begin.elapsed_time(end) / 1e3 if device.type == "cuda" else end - begin
                total[phase] += gap
            found.append(total)
    finally:
        for hook in hooks:
            hook.remove()
    return {phase: statistics.median(one[phase] for one in found[1:]) for phase in begins}


# --- one case --------------------------------------------------------------------------------


def compare(
    chosen: Sequence[Model],
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

    A model that cannot be built or does not fit is left out and named with the reason; without the
    baseline there are no ratios. With `keep_going` any failure of a model counts as that.

    Returns:
        A row of the record: the setting, `baseline`, `models` (label -> seconds, images a second,
        ratio, memory, compile time, phases) and `skipped` (label -> one sentence).
    """
    if any("compile" in model.traits for model in chosen):
        # Else a long sweep meets the limit of recompilations and runs eagerly, without a word.
        torch._dynamo.reset()
    images = inputs.batches(setting.batch, setting.size, folder=folder, device=setting.device)
    ready: dict[str, Ready] = {}
    skipped: dict[str, str] = {}
    for model in chosen:
        made = _make(model, setting, images, warmup, keep_going)
        if isinstance(made, str):
            skipped[model.label] = made
        else:
            ready[model.label] = made
    shortest = min((one.call_seconds for one in ready.values()), default=0.0)
    if setting.device.type == "cpu" and shortest > timing.TURN["cpu"]:
        turn = 0.0  # one call is a turn long enough for everybody
    steps = {label: one.step for label, one in ready.items()}
    times = timing.interleaved(
        steps, device=setting.device, rounds=rounds, warmup=0, turn=turn, budget=budget
    )
    ratios = timing.ratios(times, baseline) if baseline in times else {}
    rows = {}
    for label, seconds_of in times.items():
        one, found = ready[label], timing.spread(seconds_of)
        rows[label] = {
            "seconds": found,
            "turns": seconds_of,
            "images_per_second": setting.batch / found["median"],
            "peak_extra_bytes": one.peak and one.peak.extra,
            "peak_bytes": one.peak and one.peak.total,
            "compile_seconds": one.compile_seconds,
            "ratio": ratios.get(label),
            "weight_bytes": _bytes(one.model.parameters()),
        }
        if with_phases and setting.mode == "inference" and "+" not in label:
            rows[label]["phases"] = phase_times(
                one.model, one.step, device=setting.device, rounds=max(3, min(rounds, 10))
            )
    ready.clear()
    steps.clear()
    _clean(setting.device)
    return {
        **dataclasses.asdict(setting),
        "device": setting.device.type,
        "baseline": baseline,
        "models": rows,
        "skipped": skipped,
        "input_bytes": _bytes(images[:1]),
        "rounds": max(map(len, times.values()), default=0),
    }


def _make(
    model: Model, setting: Setting, images: list[Tensor], warmup: int, keep_going: bool
) -> Ready | str:
    """Build, warm up and watch one model, or say in one sentence why that is not possible."""
    need, there = expected_memory(model, setting), free_memory(setting.device)
    if need > FREE_SHARE * there:
        return f"would need about {need / 2**30:.1f} GiB and {there / 2**30:.1f} GiB are free"
    try:
        one = prepare(model, setting, images)
        for call in range(max(1, warmup)):
            if one.call_seconds > LONG_CALL:
                break  # minutes of warming up would change nothing
            one.call_seconds = timing.elapsed(one.step, call, 1, setting.device)
        if "graph" not in model.traits:  # a graph has allocated all when it was captured
            one.peak = peak(setting.device, lambda: one.step(0))
        return one
    except Exception as error:
        if is_out_of_memory(error):
            _clean(setting.device)
            return f"ran out of memory ({there / 2**30:.1f} GiB were free)"
        if not keep_going:
            raise
        first = (str(error).strip().splitlines() or [""])[0][:300]
        return f"failed, {type(error).__name__}: {first}"


def ratio(row: dict[str, Any], label: str, other: str) -> float | None:
    """The median time of one model over that of another, round by round; None without both."""
    if label not in row["models"] or other not in row["models"]:
        return None
    times = {name: row["models"][name]["turns"] for name in (label, other)}
    return timing.ratios(times, other)[label]["median"]


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _clean(device: torch.device) -> None:
    """Free what compiled models hold in circles. Half a second: only where memory is short."""
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
