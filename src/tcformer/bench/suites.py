"""The figures that the project has bounds for, in one command, with a verdict for each.

A suite is data: parts, the cases of each part, and the figures that are read off a case's row. Each
part stands alone: one that fails or runs out of its time is reported, and the rest goes on.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tcformer.bench import models, ops
from tcformer.runtime.timing import OutOfTime, time_limit

GPU_SECONDS = 450.0
"""For the whole GPU suite, the machine's start not counted: under eight minutes."""

CPU_THREADS = 2
"""What the bounds of the CPU suite were set for."""


@dataclass(frozen=True)
class Bound:
    """What a figure should be: `must`, and the `goal`; None where there is none."""

    text: str
    unit: str = ""
    must: float | None = None
    goal: float | None = None
    at_least: bool = False

    def judge(self, value: float | None) -> str:
        """Goal met, must met, missed, measured (no bound) or not run."""
        if value is None:
            return "not run"
        if self.must is None and self.goal is None:
            return "measured"
        for name in ("goal", "must"):
            bound = getattr(self, name)
            if bound is not None and (value >= bound if self.at_least else value <= bound):
                return f"{name} met"
        return "missed"


class Figure(NamedTuple):
    """How a figure is read off a row: the best over the models that are named.

    `how` is "time" (over that of `other`), "times" (the speed, over that of `other`), "images/s",
    "ms", "extra" (memory of a step, GB) or "memory" (with weights and inputs).
    """

    name: str
    how: str
    of: tuple[str, ...]
    other: str = ""

    def read(self, row: Mapping[str, Any]) -> list[float]:
        """The values of all models that ran."""
        found = []
        for label in self.of:
            one = row["models"].get(label)
            if one is None:
                continue
            extra = one.get("peak_extra_bytes")
            value: float | None
            if self.how == "time":
                value = models.ratio(dict(row), label, self.other)
            elif self.how == "times":
                value = models.ratio(dict(row), self.other, label)
            elif self.how == "images/s":
                value = one["images_per_second"]
            elif self.how == "ms":
                value = 1e3 * one["seconds"]["median"]
            else:
                more = one["weight_bytes"] + row["input_bytes"] if self.how == "memory" else 0
                value = None if extra is None else (extra + more) / 1e9
            found += [] if value is None else [value]
        return found


class Case(NamedTuple):
    """Models that take turns, the last one the baseline, in a setting.

    `changes` are fields of `models.Setting`, and `budget` and `with_phases`.
    """

    models: tuple[str, ...]
    changes: dict[str, Any]
    figures: tuple[Figure, ...] = ()


class Part(NamedTuple):
    """A piece of a suite. With `clustering` it times DPC-KNN at CTM 1 instead of cases."""

    name: str
    cases: tuple[Case, ...]
    limit: float = math.inf
    clustering: bool = False


@dataclass(frozen=True)
class Suite:
    """Parts and bounds; a figure's bound belongs to the first part that reads it."""

    parts: tuple[Part, ...]
    bounds: dict[str, Bound]
    rounds: int
    seconds: float
    turn: float | None = None
    backend: str = "inductor"


@dataclass
class Result:
    """What became of one part."""

    name: str
    state: str = "done"
    seconds: float = 0.0
    problem: str | None = None
    figures: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)


def cpu(*, quick: bool = False) -> Suite:
    """Ratios to PVTv2, memory, the cost curve. `quick` is tiny, to try the logic."""
    base = ("tcformer_nano", "pvt_v2_b0") if quick else ("tcformer", "pvt_v2_b2")
    light = base if quick else ("tcformer_light", "pvt_v2_b1")
    few, many, size, large = (1, 2, 64, 96) if quick else (1, 8, 224, 1024)
    seconds = 5.0 if quick else 90.0
    ours, pvt = base
    published = f"{ours}+published"
    bounds: dict[str, Bound] = {}

    def case(name: str, pair: Sequence[str], bound: Bound, **changes: Any) -> Case:
        bounds[name] = replace(bound, text=f"{bound.text}: {pair[0]} / {pair[-1]}")
        figure = Figure(name, "time", (pair[0],), pair[-1])
        return Case(tuple(pair), {"size": size, **changes}, (figure,))

    def pair(name: str, of: Sequence[str], limits: Mapping[int, tuple[float, float]]) -> Part:
        trait = "+compile" if "compiled" in name else ""
        named = [f"{one}{trait}" for one in of]
        return Part(
            name,
            tuple(
                case(
                    f"{name} {batch}",
                    named,
                    Bound(f"inference, batch {batch}", "", *limit),
                    batch=batch,
                    with_phases=not trait,
                )
                for batch, limit in zip((few, many), limits.values(), strict=True)
            ),
        )

    of_base = {1: (1.15, 1.0), 8: (1.35, 1.0)}
    of_light = {1: (1.8, 1.25), 8: (1.8, 1.25)}
    exact = f"{large} px, batch 1, exact"
    step = Bound(f"training step, batch {many}", "", 1.25)
    at_large = case("large", base, Bound(exact, "", 2.2), size=large, budget=2 * seconds)
    at_large = at_large._replace(figures=(*at_large.figures, Figure("large_gb", "extra", (ours,))))
    bounds["large_gb"] = Bound(f"{exact}: extra memory", "GB", 1.0)
    half = Bound(f"bf16 autocast, batch {many}", "", 1.6)
    parts = [
        pair("base", base, of_base),
        pair("light", light, of_light),
        Part("training", (case("training", base, step, mode="training", batch=many),)),
        Part("large", (at_large,)),
        Part("bf16", (case("bf16", base, half, batch=many, dtype="bf16"),)),
        Part(
            "published",
            tuple(
                Case(
                    (ours, published),
                    {"batch": batch, "size": size},
                    (Figure(f"published {batch}", "times", (ours,), published),),
                )
                for batch in (few, many)
            ),
        ),
    ]
    for batch in (few, many):
        text = f"inference, batch {batch}: times the published style"
        bounds[f"published {batch}"] = Bound(text, at_least=True)
    if not quick:
        parts += [pair("base compiled", base, of_base), pair("light compiled", light, of_light)]
    sides = (32, 64) if quick else (224, 384, 512, 768, 1024, 1536, 2048)
    curve = [Case((ours, published, pvt), {"size": s, "budget": seconds / 2}) for s in sides]
    parts.append(Part("curve", tuple(curve)))
    return Suite(tuple(parts), bounds, 2 if quick else 10, seconds, 0.0 if quick else None)


def gpu(device: torch.device, *, quick: bool = False) -> Suite:
    """What an H200 should reach, in less than eight minutes; the most important parts first."""
    ours, pvt = ("tcformer_nano", "pvt_v2_b0") if quick else ("tcformer", "pvt_v2_b2")
    batch, size, large = (2, 64, 96) if quick else (256, 224, 1024)
    dtype = "float32" if quick else "bf16"
    graphs = device.type == "cuda"
    cast = "" if quick else "+cast"  # it spares batch 1 some hundred small kernels
    published, compiled = f"{ours}+published", (f"{ours}+compile", f"{pvt}+compile")
    graph = f"{ours}+graph"

    def case(*names: str, figures: Sequence[Figure] = (), **changes: Any) -> Case:
        setting = {"batch": batch, "size": size, "dtype": dtype, **changes}
        kept = tuple(name for name in names if graphs or "+graph" not in name)
        return Case(kept, setting, tuple(figures))

    ways = (ours, graph)
    inference = case(
        ours, graph, published, f"{published}+tf32", pvt, with_phases=True,
        figures=[
            Figure("images_per_second", "images/s", ways),
            Figure("times_published", "times", ways, published),
            Figure("times_tf32", "times", ways, f"{published}+tf32"),
            Figure("inference_gb", "memory", (ours,)),
        ],
    )  # fmt: skip
    inference_compiled = case(
        compiled[0], published, compiled[1],
        figures=[
            Figure("of_compiled_pvt", "times", compiled[:1], compiled[1]),
            Figure("images_per_second", "images/s", compiled[:1]),
            Figure("times_published", "times", compiled[:1], published),
        ],
    )  # fmt: skip
    at_large = case(
        ours, graph, pvt, batch=1, size=large,
        figures=[Figure("large_ms", "ms", ways), Figure("large_gb", "extra", (ours,))],
    )  # fmt: skip
    captured = (f"{ours}{cast}+graph", graph)
    latency = case(
        *dict.fromkeys(captured), ours, f"{pvt}{cast}+graph", pvt, batch=1,
        figures=[Figure("latency_ms", "ms", captured)],
    )  # fmt: skip
    one = f"{ours}{cast}+compile+graph"
    latency_compiled = case(one, pvt, batch=1, figures=[Figure("latency_ms", "ms", (one,))])
    training = case(
        ours, published, pvt, mode="training",
        figures=[
            Figure("training_images_per_second", "images/s", (ours,)),
            Figure("training_times_published", "times", (ours,), published),
        ],
    )  # fmt: skip
    training_compiled = case(
        *compiled, mode="training",
        figures=[Figure("training_images_per_second", "images/s", compiled[:1])],
    )  # fmt: skip
    both = (compiled[0], f"{published}+compile")
    published_compiled = case(*both, figures=[Figure("times_compiled", "times", both[:1], both[1])])
    parts = (
        Part("inference", (inference,), 110),
        Part("inference compiled", (inference_compiled,), 180),
        Part("large", (at_large,), 60),
        Part("latency", (latency,), 60),
        Part("training", (training,), 90),
        Part("clustering", (case(ours, pvt),), 40, clustering=True),
        Part("latency compiled", (latency_compiled,), 120),
        Part("training compiled", (training_compiled,), 200),
        Part(
            "curve",
            tuple(
                case(ours, pvt, batch=1, size=side)
                for side in ((32, 64) if quick else (224, 384, 512, 768, 1024))
            ),
            60,
        ),
        Part("published compiled", (published_compiled,), 120),
    )
    fast: Any = {"at_least": True}
    bounds = {
        "images_per_second": Bound("inference, bf16, images/s (best way)", "", 6000, 10000, **fast),
        "times_published": Bound("inference: times the published style", "", 5, 9, **fast),
        "times_tf32": Bound("inference: times the published style in TF32", **fast),
        "inference_gb": Bound("inference: peak memory with weights and input", "GB", 6, 3),
        "of_compiled_pvt": Bound(
            "inference, compiled: share of compiled PVTv2's images/s", "", 0.35, 0.55, **fast
        ),
        "large_ms": Bound("1024 px, batch 1, exact: time", "ms", None, 12),
        "large_gb": Bound("1024 px, batch 1, exact: extra memory", "GB", None, 2),
        "latency_ms": Bound("batch 1 with CUDA graphs: latency", "ms", 1.5, 1.0),
        "training_images_per_second": Bound(
            "training, bf16, images/s (best way)", "", 2400, 3500, **fast
        ),
        "training_times_published": Bound(
            "training: times the published style, eager", "", 3.5, 5, **fast
        ),
        "dpc_knn_ms": Bound("DPC-KNN at CTM 1, whole batch: time", "ms", 8, 4),
        "times_compiled": Bound(
            "inference, compiled: times the published style compiled", "", 4, 6.5, **fast
        ),
    }
    backend = "eager" if quick else "inductor"
    turn = 0.0 if quick else None
    return Suite(parts, bounds, 2 if quick else 5, 5.0 if quick else 25.0, turn, backend)


def run_parts(
    parts: Sequence[Part],
    run: Callable[[Part, Result], None],
    *,
    seconds: float = math.inf,
    report: Callable[[Result], None],
) -> list[Result]:
    """Run the parts one after the other, each within its own limit and all within `seconds`."""
    begin = time.monotonic()
    results = []
    for part in parts:
        result = Result(part.name)
        results.append(result)
        left = min(part.limit, seconds - (time.monotonic() - begin))
        start = time.monotonic()
        try:
            if left <= 0:
                raise OutOfTime
            with time_limit(left):
                run(part, result)
        except OutOfTime:
            said = f"stopped after {left:.0f} s" if left > 0 else "no time was left for it"
            result.state, result.problem = "out of time", said
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            first = (str(error).strip().splitlines() or [""])[0][:300]
            place = f"{last.filename.rpartition('/')[2]}:{last.lineno}"
            result.state = "failed"
            result.problem = f"{type(error).__name__} at {place}: {first}"
        result.seconds = time.monotonic() - start
        report(result)
    return results


def measure(suite: Suite, device: torch.device, folder: Path | None) -> Callable[..., None]:
    """What `run_parts` calls: rows and figures go into the result as they come."""

    def run(part: Part, result: Result) -> None:
        slow: set[str] = set()
        for case in part.cases:
            changes = dict(case.changes)
            options = {
                "budget": changes.pop("budget", suite.seconds),
                "rounds": suite.rounds,
                "turn": suite.turn,
            }
            if part.clustering:
                _clustering(result, device, folder, changes, options)
                continue
            phases = changes.pop("with_phases", False)
            chosen = [models.parse(name) for name in case.models if name not in slow]
            row = models.compare(
                chosen,
                chosen[-1].label,
                models.Setting(device, backend=suite.backend, **changes),
                folder=folder,
                with_phases=phases,
                keep_going=True,
                **options,
            )
            result.rows.append(row)
            for figure in case.figures:
                values = figure.read(row)
                if values:
                    best = max if suite.bounds[figure.name].at_least else min
                    result.figures[figure.name] = best(values)
            for label, one in row["models"].items():
                # At the next size of the curve it would take the rest of the day.
                if "+published" in label and one["seconds"]["median"] > suite.seconds / 10:
                    slow.add(label)

    return run


def _clustering(
    result: Result,
    device: torch.device,
    folder: Path | None,
    changes: Mapping[str, Any],
    options: dict[str, Any],
) -> None:
    """DPC-KNN alone, at the first CTM."""
    found = ops.boundaries(changes["batch"], changes["size"], device=device, folder=folder)
    for case in ops.cases(["dpc_knn"], found[:1], "forward", with_published=True):
        row = ops.measure(case, device=device, warmup=2, **options)
        result.rows.append(row)
        ours = [one for name, one in row["implementations"].items() if name != "published"]
        if ours:
            result.figures["dpc_knn_ms"] = 1e3 * min(one["seconds"]["median"] for one in ours)


def verdicts(
    suite: Suite, parts: Sequence[Part], results: Sequence[Result]
) -> list[dict[str, Any]]:
    """One entry a figure: what it should be, what it is, and the verdict.

    Where several parts measured a figure in different ways, the best one counts.
    """
    found: dict[str, dict[str, Any]] = {}
    for part, result in zip(parts, results, strict=True):
        names = [figure.name for case in part.cases for figure in case.figures]
        for name in names + (["dpc_knn_ms"] if part.clustering else []):
            if name in found:
                continue
            bound = suite.bounds[name]
            values = [one.figures[name] for one in results if name in one.figures]
            value = None if not values else max(values) if bound.at_least else min(values)
            state = bound.judge(value)
            if value is None and result.state != "done":
                state = result.state
            entry = {"figure": name, **asdict(bound), "part": part.name}
            found[name] = {**entry, "value": value, "verdict": state}
    return list(found.values())


def table(entries: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The verdicts as rows of text, the heading first."""
    rows = [["figure", "measured", "must", "goal", "verdict"]]
    for entry in entries:
        sign = ">= " if entry["at_least"] else "<= "
        limits = [
            "-" if entry[kind] is None else f"{sign}{_number(entry[kind])}"
            for kind in ("must", "goal")
        ]
        value = "-" if entry["value"] is None else f"{_number(entry['value'])} {entry['unit']}"
        rows.append([entry["text"], value.strip(), *limits, entry["verdict"]])
    return rows


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.2f}" if value >= 0.095 else f"{value:.3g}"
