"""Suites: parts on their own, limits, verdicts; the logic of the GPU suite without a GPU."""

import dataclasses
import math
import time

import pytest
import torch

from tcformer.bench import models, suite_cpu, suite_gpu, suites
from tcformer.bench.suites import Bound, Part, Result

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("bound", "value", "state"),
    [
        (Bound("f", "t", "", 1.15, 1.0), 0.9, "goal met"),
        (Bound("f", "t", "", 1.15, 1.0), 1.1, "must met"),
        (Bound("f", "t", "", 1.15, 1.0), 1.2, "missed"),
        (Bound("f", "t", "", 6000, 10000, True), 12000, "goal met"),
        (Bound("f", "t", "", 6000, 10000, True), 7000, "must met"),
        (Bound("f", "t", "", 6000, 10000, True), 10, "missed"),
        (Bound("f", "t", "", None, 12), 13, "missed"),
        (Bound("f", "t"), 3, "measured"),
        (Bound("f", "t", "", 1), None, "not run"),
    ],
)
def test_judging(bound, value, state):
    assert bound.judge(value) == state
    assert state in suites.STATES


def test_a_part_that_fails_or_takes_too_long_does_not_stop_the_rest():
    def fail(result):
        result.figures["a"] = 1.0
        raise RuntimeError("no such kernel\nmore")

    def hang(result):
        time.sleep(30)

    def fine(result):
        result.figures["c"] = 3.0

    parts = [
        Part("fails", fail, [Bound("a", "a", "", 2), Bound("z", "z", "", 2)]),
        Part("hangs", hang, [Bound("b", "b")], limit=0.2),
        Part("fine", fine, [Bound("c", "c", "", 2)]),
    ]
    seen = []
    begin = time.monotonic()
    results = suites.run_parts(parts, report=seen.append)
    assert time.monotonic() - begin < 10
    assert [r.state for r in results] == ["failed", "out of time", "done"]
    assert [r.name for r in seen] == ["fails", "hangs", "fine"]
    assert "RuntimeError" in results[0].problem
    assert "\n" not in results[0].problem
    entries = suites.verdicts(parts, results)
    assert [e["verdict"] for e in entries] == ["must met", "failed", "out of time", "missed"]
    lines = suites.table(entries)
    assert lines[0][1:] == ["measured", "must", "goal", "verdict"]
    assert lines[1][1:] == ["1.00", "<= 2.00", "-", "must met"]


def test_a_limit_passes_through_handlers_of_exceptions():
    def stubborn(result):
        end = time.monotonic() + 30
        while time.monotonic() < end:
            try:
                time.sleep(1)
            except Exception:
                continue

    (result,) = suites.run_parts([Part("p", stubborn, [], limit=0.2)], report=lambda r: None)
    assert result.state == "out of time"


def test_no_time_left_for_the_last_parts():
    parts = [
        Part("a", lambda r: time.sleep(0.05), []),
        Part("b", lambda r: None, [Bound("b", "b")]),
    ]
    results = suites.run_parts(parts, seconds=0.01, report=lambda r: None)
    assert results[1].problem == "no time was left for it" or results[0].state == "out of time"
    assert suites.verdicts(parts, results)[0]["verdict"] == "out of time"


def test_the_best_of_several_ways_counts():
    bounds = [Bound("speed", "s", "", 5, 10, True), Bound("ms", "m", "", 5, 1)]
    parts = [Part("a", lambda r: None, bounds), Part("b", lambda r: None, [])]
    results = [
        Result("a", figures={"speed": 4.0, "ms": 3.0}),
        Result("b", figures={"speed": 11.0, "ms": 0.5}),
    ]
    assert [e["value"] for e in suites.verdicts(parts, results)] == [11.0, 0.5]


def figures_of(suite):
    return {bound.figure for part in suite.parts() for bound in part.bounds}


def test_the_gpu_suite_asks_for_every_figure_of_the_issue():
    suite = suite_gpu.Suite(CPU, suite_gpu.Scale())
    bounds = {b.figure: b for part in suite.parts() for b in part.bounds}
    goals = {name: bound.goal for name, bound in bounds.items()}
    assert goals["images_per_second"] == 10_000
    assert goals["of_compiled_pvt"] == 0.55
    assert bounds["times_published"].must == 5
    assert goals["training_images_per_second"] == 3_500
    assert goals["latency_ms"] == 1.0
    assert goals["inference_gb"] == 3
    assert goals["large_ms"] == 12
    assert goals["large_gb"] == 2
    assert suites.GPU_SECONDS < 8 * 60


def test_the_cpu_suite_asks_for_every_figure_of_the_issue():
    suite = suite_cpu.Suite(CPU, suite_cpu.Scale())
    bounds = {b.figure: (b.must, b.goal) for part in suite.parts() for b in part.bounds}
    assert bounds["base 1"] == (1.15, 1.0)
    assert bounds["base 8"] == (1.35, 1.0)
    assert bounds["light 1"] == bounds["light 8"] == (1.8, 1.25)
    assert bounds["base compiled 8"] == (1.35, 1.0)
    assert bounds["training"][0] == 1.25
    assert bounds["large"][0] == 2.2
    assert bounds["large_gb"][0] == 1.0
    assert bounds["bf16"][0] == 1.6
    assert suite_cpu.Scale().curve[0] == 224
    assert suite_cpu.Scale().curve[-1] == 2048


FAST = ("inference", "large", "latency", "clustering")


def run(suite, names=None):
    # No limits: the machine may be busy, and nothing is compiled.
    parts = [
        dataclasses.replace(part, limit=math.inf)
        for part in suite.parts()
        if names is None or part.name in names
    ]
    return parts, suites.run_parts(parts, report=lambda result: None)


def test_the_logic_of_the_gpu_suite_without_a_gpu():
    parts, results = run(suite_gpu.Suite(CPU, suite_gpu.QUICK), FAST)
    assert [r.state for r in results] == ["done"] * len(FAST)
    entries = {e["figure"]: e for e in suites.verdicts(parts, results)}
    for figure in (
        "images_per_second",
        "times_published",
        "inference_gb",
        "large_ms",
        "dpc_knn_ms",
    ):
        assert entries[figure]["value"] > 0, figure
    assert entries["latency_ms"]["verdict"] == "not run"  # CUDA graphs


@pytest.mark.slow
def test_the_whole_gpu_suite_without_a_gpu():
    parts, results = run(suite_gpu.Suite(CPU, suite_gpu.QUICK))
    assert [(r.state, r.problem) for r in results] == [("done", None)] * len(parts)
    assert all(not row["skipped"] for row in results[1].rows)
    entries = {e["figure"]: e for e in suites.verdicts(parts, results)}
    missing = {figure for figure, e in entries.items() if e["value"] is None}
    assert missing == {"latency_ms"}


def test_the_logic_of_the_cpu_suite():
    scale = suite_cpu.Scale(
        ("tcformer_nano", "pvt_v2_b0"), ("tcformer_nano", "pvt_v2_b0"), (1, 2), 64, 96, (32, 64),
        rounds=2, seconds=5.0, turn=0.0, compiled=False,
    )  # fmt: skip
    names = ("base", "training", "large", "bf16", "published", "curve")
    parts, results = run(suite_cpu.Suite(CPU, scale), names)
    assert [r.state for r in results] == ["done"] * len(parts)
    entries = suites.verdicts(parts, results)
    memory = [e for e in entries if e["figure"] == "large_gb"]
    assert all(e["value"] is not None for e in entries if e not in memory)
    (row,) = next(r for r in results if r.name == "bf16").rows
    assert row["clustered_dtypes"] == ["torch.float32"]
    sizes = [row["size"] for row in results[-1].rows]
    assert sizes == [32, 64]
    # Too few tokens for its five neighbours: named, and the rest goes on.
    assert "tcformer_nano+published" in results[-1].rows[0]["skipped"]


def test_the_slow_one_leaves_the_curve(monkeypatch):
    asked = []

    def compare(contenders, baseline, setting, **options):
        asked.append([c.label for c in contenders])
        rows = {c.label: {"seconds": {"median": 100.0}} for c in contenders}
        return {"models": rows, "baseline": baseline, "size": setting.size}

    monkeypatch.setattr(models, "compare", compare)
    suite = suite_cpu.Suite(CPU, suite_cpu.Scale())
    next(part for part in suite.parts() if part.name == "curve").run(Result("curve"))
    assert any("published" in label for label in asked[0])
    assert not any("published" in label for row in asked[1:] for label in row)
