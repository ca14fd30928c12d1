"""Who takes part: a model by name, how it is run, and the step that is timed.

A contender is written NAME[+TRAIT...]: `tcformer`, `tcformer+compile`, `pvt_v2_b2+compile+graph`,
`tcformer+published`. Names are ours or any of timm's.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn

from tcformer.bench.timing import synchronise
from tcformer.errors import UserError, nearest
from tcformer.models.sizes import V1, VARIANTS
from tcformer.runtime.provenance import has_compiler

RIVALS = ("pvt_v2_b2", "pvt_v2_b1", "swin_tiny_patch4_window7_224", "resnet50")
"""timm's models of the same class, which the documentation compares with."""

PARTNERS = {
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

TRAITS = {
    "compile": "torch.compile",
    "cast": "weights of linear layers and dense convolutions in half precision beforehand",
    "graph": "replayed from a CUDA graph (inference)",
    "tf32": "float32 matrix products in TF32 on a GPU",
    "published": "ours, written the way the published code computes it",
}

MODES = ("inference", "training")
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

LEARNING_RATE = 1e-5
CLASSES = 1000
SIZED = ("swin", "vit", "deit", "maxvit", "coatnet")
"""Families of timm that are built for one image size."""


@dataclass(frozen=True)
class Contender:
    """A name with its traits, as it was asked for."""

    name: str
    traits: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The form in which it is asked for and reported."""
        return "+".join((self.name, *self.traits))

    @property
    def is_ours(self) -> bool:
        """Whether the network is one of this package."""
        return self.name.startswith("tcformer")


@dataclass(frozen=True)
class Setting:
    """What all contenders of a comparison have in common.

    `backend` is that of `torch.compile`: "eager" only traces, for a quick trial.
    """

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


@dataclass
class Ready:
    """A contender that can run: its step, its network, and what it cost to get there."""

    step: Callable[[int], Any]
    model: nn.Module
    compile_seconds: float | None = None


def parse(text: str) -> Contender:
    """Read `NAME+TRAIT+TRAIT`.

    Raises:
        UserError: no such model or trait, or a trait that the model cannot have.
    """
    name, *traits = text.split("+")
    for trait in traits:
        if trait not in TRAITS:
            guess = nearest(trait, TRAITS)
            hint = f"did you mean +{guess}?" if guess else f"there are +{', +'.join(TRAITS)}."
            raise UserError(f"{text}: a model has no trait {trait!r}; {hint}")
    if not timm.is_model(name):
        known = [*VARIANTS, *RIVALS, *PARTNERS.values()]
        guess = nearest(name, known) or nearest(name, timm.list_models())
        hint = f"did you mean {guess}?" if guess else "`tcformer bench --help` names some."
        raise UserError(f"there is no model {name!r}, neither here nor in timm; {hint}")
    contender = Contender(name, tuple(dict.fromkeys(traits)))
    if "published" in traits and name not in V1:  # V2 was never published
        raise UserError(
            f"{text}: +published exists for {', '.join(V1)} only: it is the way in which "
            "TCFormer was first written."
        )
    return contender


def groups(
    names: Sequence[str], against: str | None, extra: Sequence[str] = ()
) -> list[tuple[list[Contender], str]]:
    """Who is compared with whom: lists of contenders, each with the label of its baseline.

    Without names: the base and the light model, each beside its PVTv2. With names: one group; the
    baseline is `against`, else the PVTv2 of the first of ours, else the last one named. A baseline
    that is not among the names joins them.

    Args:
        names: NAME[+TRAIT...].
        against: the baseline, likewise.
        extra: traits that all of them get, such as "compile".
    """
    if not names and against is None:
        return [
            ([_with(parse(ours), extra), _with(parse(PARTNERS[ours]), extra)], _label(ours, extra))
            for ours in ("tcformer", "tcformer_light")
        ]
    chosen = [_with(parse(name), extra) for name in names or ["tcformer"]]
    if against is not None:
        base = _with(parse(against), extra)
    else:
        base = _default_baseline(chosen)
    if base not in chosen:
        chosen.append(base)
    if len(set(chosen)) == 1:
        raise UserError(f"there is nothing to compare {base.label} with; name a second model.")
    return [(list(dict.fromkeys(chosen)), base.label)]


def _label(ours: str, extra: Sequence[str]) -> str:
    return _with(parse(PARTNERS[ours]), extra).label


def _default_baseline(chosen: list[Contender]) -> Contender:
    ours = next((c for c in chosen if c.is_ours and c.name in PARTNERS), None)
    if ours is None:
        return chosen[-1]
    partner = PARTNERS[ours.name]
    already = [c for c in chosen if c.name == partner]
    if already:
        return already[0]
    if len({c.name for c in chosen}) == 1 and len(chosen) > 1:
        return chosen[-1]  # one model in several ways, such as compiled and not
    return Contender(partner, tuple(t for t in ours.traits if t != "published"))


def _with(contender: Contender, extra: Sequence[str]) -> Contender:
    missing = [trait for trait in extra if trait not in contender.traits]
    return Contender(contender.name, (*contender.traits, *missing))


def check_possible(contender: Contender, setting: Setting) -> None:
    """Refuse what cannot run.

    Raises:
        UserError: CUDA graphs without CUDA or in training, or no compiler for `torch.compile`.
    """
    if "graph" in contender.traits:
        if setting.device.type != "cuda":
            raise UserError(f"{contender.label}: CUDA graphs need --device cuda.")
        if setting.mode != "inference":
            raise UserError(f"{contender.label}: +graph is for inference; leave it or training.")
    if {"tf32", "graph"} <= set(contender.traits):
        raise UserError(f"{contender.label}: a graph keeps its own precision; leave +tf32 or it.")
    if "cast" in contender.traits and (setting.mode != "inference" or setting.dtype == "float32"):
        raise UserError(f"{contender.label}: +cast is for inference in bf16 or fp16.")
    if "compile" in contender.traits and setting.device.type == "cpu":
        why = has_compiler()
        if why:
            raise UserError(f"{contender.label}: {why}.")


def prepare(contender: Contender, setting: Setting, inputs: list[Tensor]) -> Ready:
    """Build a model with the same seed for all, and the step that is to be timed.

    The weights are as initialised: speed hardly depends on them, clusters do.
    """
    check_possible(contender, setting)
    model = create(contender, setting)
    if setting.channels_last:
        model = model.to(memory_format=torch.channels_last)
        inputs = [batch.contiguous(memory_format=torch.channels_last) for batch in inputs]
    if "cast" in contender.traits:
        cast_weights(model, DTYPES[setting.dtype])
    run: Callable[..., Any] = model
    compiled = "compile" in contender.traits
    if compiled:
        run = torch.compile(model, dynamic=False, backend=setting.backend)
    if setting.mode == "inference":
        step = _inference(run, setting, inputs)
    else:
        step = _training(run, model, setting, inputs)
    if "tf32" in contender.traits:
        step = _with_tf32(step)
    seconds = None
    if compiled:
        begin = time.perf_counter()
        step(0)
        synchronise(setting.device)
        seconds = time.perf_counter() - begin
    if "graph" in contender.traits:
        step = _graph(run, setting, inputs)
    return Ready(step, model, seconds)


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Do once what autocast does at every call; the numbers stay the same.

    Left alone are the scores of our CTMs, which are computed in float32 whatever autocast says,
    and depthwise convolutions: small, and ours may keep their weights in float32.
    """
    for name, module in model.named_modules():
        dense = isinstance(module, (nn.Conv1d, nn.Conv2d)) and module.groups == 1
        scores = name.startswith("ctm") and name.endswith("score")
        if dense or (isinstance(module, nn.Linear) and not scores):
            module.to(dtype)


def create(contender: Contender, setting: Setting) -> nn.Module:
    """The network on its device, in the mode of the setting."""
    torch.manual_seed(0)
    options: dict[str, Any] = {"num_classes": CLASSES}
    if contender.name.startswith(SIZED):
        options["img_size"] = setting.size
    model: nn.Module = timm.create_model(contender.name, **options)
    if "published" in contender.traits:
        from tcformer.bench.published import PublishedStyle

        model = PublishedStyle(model)
    return model.to(setting.device).train(setting.mode == "training")


def _precision(setting: Setting) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    dtype = DTYPES[setting.dtype]
    if dtype is torch.float32:
        return contextlib.nullcontext
    return lambda: torch.autocast(setting.device.type, dtype=dtype)


def _inference(
    run: Callable[..., Any], setting: Setting, inputs: list[Tensor]
) -> Callable[[int], Any]:
    precision = _precision(setting)

    def step(call: int) -> Tensor:
        with torch.inference_mode(), precision():
            out: Tensor = run(inputs[call % len(inputs)])
        return out

    return step


def _training(
    run: Callable[..., Any], model: nn.Module, setting: Setting, inputs: list[Tensor]
) -> Callable[[int], Any]:
    """Forward, loss, backward and an AdamW step, as the recipe makes them."""
    precision = _precision(setting)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    scaler = torch.amp.GradScaler(setting.device.type, enabled=setting.dtype == "fp16")
    labels = torch.arange(setting.batch, device=setting.device) % CLASSES

    def step(call: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        with precision():
            logits = run(inputs[call % len(inputs)])
            loss = nn.functional.cross_entropy(logits, labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def _with_tf32(step: Callable[[int], Any]) -> Callable[[int], Any]:
    """The published distances are float32 products under autocast, too: let them be fast."""

    def faster(call: int) -> Any:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        try:
            return step(call)
        finally:
            torch.set_float32_matmul_precision(before)

    return faster


def _graph(run: Callable[..., Any], setting: Setting, inputs: list[Tensor]) -> Callable[[int], Any]:
    """Capture one forward pass; a call copies its input in and replays."""
    precision = _precision(setting)
    static = inputs[0].clone()

    def forward() -> Tensor:
        # As in `_inference`: a compiled model would be compiled once more for another mode.
        with torch.inference_mode(), precision():
            out: Tensor = run(static)
        return out

    aside = torch.cuda.Stream(setting.device)
    aside.wait_stream(torch.cuda.current_stream(setting.device))
    with torch.cuda.stream(aside):
        for _ in range(3):
            forward()
    torch.cuda.current_stream(setting.device).wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = forward()

    def step(call: int) -> Tensor:
        static.copy_(inputs[call % len(inputs)])
        graph.replay()
        return out

    return step
