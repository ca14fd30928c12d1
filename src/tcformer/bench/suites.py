"""The figures that the project has bounds for: cases of `models.compare` and their bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tcformer.bench import models

GPU_SECONDS = 450.0
"""After this no further case of the GPU suite begins; all of it takes less than eight minutes."""

CPU_THREADS = 2
"""What the bounds of the CPU suite were set for."""


class Bound(NamedTuple):
    """What a case should give.

    `how` is "time" (over that of the last model), "times" (the speed, over that of the last model),
    "images/s", "ms", "extra" (GB of a step beyond what was there) or "memory" (GB with weights and
    inputs); all of the first model. `must` and `goal` may be None.
    """

    text: str
    how: str
    must: float | None = None
    goal: float | None = None

    @property
    def at_least(self) -> bool:
        """Whether larger is better."""
        return self.how in ("times", "images/s")

    def judge(self, value: float | None) -> str:
        """Goal met, must met, missed, measured (no bound) or not run."""
        if value is None:
            return "not run"
        if self.must is None and self.goal is None:
            return "measured"
        for name, bound in (("goal", self.goal), ("must", self.must)):
            if bound is not None and (value >= bound if self.at_least else value <= bound):
                return f"{name} met"
        return "missed"


class Case(NamedTuple):
    """Models that take turns, the last one the baseline; `changes` are fields of a `Setting`."""

    part: str
    models: tuple[str, ...]
    changes: dict[str, Any]
    bounds: tuple[Bound, ...] = ()


def cpu(quick: bool = False) -> list[Case]:
    """Ratios to PVTv2, memory, the cost curve. `quick` is tiny, to try the logic."""
    base = ("tcformer_nano", "pvt_v2_b0") if quick else ("tcformer", "pvt_v2_b2")
    light = base if quick else ("tcformer_light", "pvt_v2_b1")
    few, many, size, large = (1, 2, 64, 96) if quick else (1, 8, 224, 1024)

    def case(
        part: str, pair: Sequence[str], text: str, must: float, goal: float | None, **changes: Any
    ) -> Case:
        bound = Bound(f"{text}: {pair[0]} / {pair[-1]}", "time", must, goal)
        return Case(part, tuple(pair), {"size": size} | changes, (bound,))

    def inferences(ending: str, trait: str) -> list[Case]:
        found = []
        for batch, must in ((few, 1.15), (many, 1.35)):
            for part, pair, bounds in (("base", base, (must, 1.0)), ("light", light, (1.8, 1.25))):
                named = [f"{name}{trait}" for name in pair]
                text = f"inference, batch {batch}"
                found.append(case(f"{part}{ending}", named, text, *bounds, batch=batch))
        return found

    exact = f"{large} px, batch 1, exact"
    exactly = case("large", base, exact, 2.2, None, size=large)
    memory = Bound(f"{exact}: extra memory", "extra", 1.0)
    bf16 = {"batch": many, "dtype": "bf16"}
    train = {"batch": many, "mode": "training"}
    found = [
        *inferences("", ""),
        case("training", base, f"training step, batch {many}", 1.25, None, **train),
        exactly._replace(bounds=(*exactly.bounds, memory)),
        case("bf16", base, f"bf16 autocast, batch {many}", 1.6, None, **bf16),
    ]
    published = f"{base[0]}+published"
    for batch in (few, many):
        bound = Bound(f"inference, batch {batch}: times the published style", "times")
        setting = {"batch": batch, "size": size}
        found.append(Case("published", (base[0], published), setting, (bound,)))
    if not quick:
        found += inferences(" compiled", "+compile")
    for side in (32, 64) if quick else (224, 384, 512, 768, 1024, 1536, 2048):
        # Beyond, the published style would take the rest of the day.
        also = (published,) if side <= 384 else ()
        found.append(Case("curve", (base[0], *also, base[1]), {"size": side}))
    return found


def gpu(quick: bool = False) -> list[Case]:
    """What an H200 should reach, in less than eight minutes; the most important parts first."""
    ours, pvt = ("tcformer_nano", "pvt_v2_b0") if quick else ("tcformer", "pvt_v2_b2")
    cast = "" if quick else "+cast"  # it spares batch 1 some hundred small kernels
    whole = {"batch": 2, "size": 64} if quick else {"batch": 256, "size": 224, "dtype": "bf16"}
    one = whole | {"batch": 1}
    large = one | {"size": 96 if quick else 1024}
    train = whole | {"mode": "training"}
    published, fast, graph = f"{ours}+published", f"{ours}+compile", f"{ours}+graph"
    speed = Bound("inference, bf16, images/s", "images/s", 6000, 10000)
    learn = Bound("training, bf16, images/s", "images/s", 2400, 3500)
    latency = Bound("batch 1 with CUDA graphs: latency", "ms", 1.5, 1.0)
    exact = "1024 px, batch 1, exact"
    found = [
        Case("inference", (ours, pvt), whole, (speed,
            Bound("inference: peak memory with weights and input", "memory", 6, 3))),
        Case("inference", (graph, pvt), whole, (speed,)),
        Case("inference", (ours, published), whole, (
            Bound("inference: times the published style", "times", 5, 9),)),
        Case("inference", (ours, f"{published}+tf32"), whole, (
            Bound("inference: times the published style in TF32", "times"),)),
        Case("inference compiled", (fast, f"{pvt}+compile"), whole, (
            speed, Bound("share of compiled PVTv2's images/s", "times", 0.35, 0.55))),
        Case("large", (ours, pvt), large, (
            Bound(f"{exact}: time", "ms", None, 12),
            Bound(f"{exact}: extra memory", "extra", None, 2))),
        Case("latency", (f"{ours}{cast}+graph", f"{pvt}{cast}+graph"), one, (latency,)),
        Case("training", (ours, pvt), train, (learn,)),
        Case("training", (ours, published), train, (
            Bound("training: times the published style", "times", 3.5, 5),)),
        Case("latency compiled", (f"{ours}{cast}+compile+graph", pvt), one, (latency,)),
        Case("training compiled", (fast, f"{pvt}+compile"), train, (learn,)),
        *(Case("curve", (ours, pvt), one | {"size": side})
          for side in ((32, 64) if quick else (224, 384, 512, 768, 1024))),
        Case("published compiled", (fast, f"{published}+compile"), whole, (
            Bound("compiled: times the published style compiled", "times", 4, 6.5),)),
    ]  # fmt: skip
    return found


def verdicts(case: Case, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One entry of the record for each bound of a case."""
    found = []
    for bound in case.bounds:
        value = _value(bound.how, case, dict(row))
        found.append(
            {
                **bound._asdict(),
                "unit": {"ms": "ms", "extra": "GB", "memory": "GB"}.get(bound.how, ""),
                "at_least": bound.at_least,
                "part": case.part,
                "value": value,
                "verdict": bound.judge(value),
            }
        )
    return found


def _value(how: str, case: Case, row: dict[str, Any]) -> float | None:
    ours, baseline = case.models[0], case.models[-1]
    one = row["models"].get(ours)
    if one is None:
        return None
    if how == "images/s":
        return float(one["images_per_second"])
    if how == "ms":
        return 1e3 * float(one["seconds"]["median"])
    if how in ("extra", "memory"):
        extra = one["peak_extra_bytes"]
        more = one["weight_bytes"] + row["input_bytes"] if how == "memory" else 0
        return None if extra is None else (extra + more) / 1e9
    pair = (ours, baseline) if how == "time" else (baseline, ours)
    return models.ratio(row, *pair)
