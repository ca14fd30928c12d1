"""Suites: parts on their own, limits, verdicts; the logic of the GPU suite without a GPU."""

import dataclasses
import math
import time

import pytest
import torch

from tcformer.bench import models, suites
from tcformer.bench.suites import Bound, Case, Figure, Part, Result, Suite

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("bound", "value", "state"),
    [
        (Bound("t", "", 1.15, 1.0), 0.9, "goal met"),
        (Bound("t", "", 1.15, 1.0), 1.1, "must met"),
        (Bound("t", "", 1.15, 1.0), 1.2, "missed"),
        (Bound("t", "", 6000, 10000, True), 12000, "goal met"),
        (Bound("t", "", 6000, 10000, True), 7000, "must met"),
        (Bound("t", "", 6000, 10000, True), 10, "missed"),
        (Bound("t", "", None, 12), 13, "missed"),
        (Bound("t"), 3, "measured"),
        (Bound("t", "", 1), None, "not run"),
    ],
)
def test_judging(bound, value, state):
    assert bound.judge(value) == state


def suite_of(**bounds):
    parts = [
        Part(name, (Case(("x",), {}, (Figure(name, "ms", ("x",)),)),), 0.2 if name == "b" else 9)
        for name in bounds
    ]
    return Suite(tuple(parts), bounds, 1, 1.0)


def test_a_part_that_fails_or_takes_too_long_does_not_stop_the_rest():
    def run(part, result):
        if part.name == "a":
            result.figures["a"] = 1.0
            raise RuntimeError("no such kernel\nmore")
        end = time.monotonic() + 30
        while part.name == "b" and time.monotonic() < end:
            try:  # a limit passes through handlers of exceptions
                time.sleep(1)
            except Exception:
                continue
        result.figures["c"] = 3.0

    suite = suite_of(a=Bound("a", "", 2), b=Bound("b"), c=Bound("c", "", 2))
    seen = []
    begin = time.monotonic()
    results = suites.run_parts(suite.parts, run, report=seen.append)
    assert time.monotonic() - begin < 10
    assert [r.state for r in results] == ["failed", "out of time", "done"]
    assert [r.name for r in seen] == ["a", "b", "c"]
    assert "RuntimeError" in results[0].problem
    assert "\n" not in results[0].problem
    entries = suites.verdicts(suite, suite.parts, results)
    assert [e["verdict"] for e in entries] == ["must met", "out of time", "missed"]
    assert suites.table(entries)[1] == ["a", "1.00", "<= 2.00", "-", "must met"]


def test_no_time_left_for_the_last_parts():
    suite = suite_of(a=Bound("a"), c=Bound("c"))
    run = lambda part, result: time.sleep(0.05)  # noqa: E731
    results = suites.run_parts(suite.parts, run, seconds=0.01, report=lambda r: None)
    assert results[1].problem == "no time was left for it" or results[0].state == "out of time"
    assert suites.verdicts(suite, suite.parts, results)[1]["verdict"] == "out of time"


def test_the_best_of_several_ways_counts():
    suite = suite_of(speed=Bound("s", "", 5, 10, True), ms=Bound("m", "", 5, 1))
    results = [
        Result("speed", figures={"speed": 4.0, "ms": 3.0}),
        Result("ms", figures={"speed": 11.0, "ms": 0.5}),
    ]
    assert [e["value"] for e in suites.verdicts(suite, suite.parts, results)] == [11.0, 0.5]


def test_the_bounds_are_those_that_were_asked_for():
    bounds = {name: (b.must, b.goal) for name, b in suites.cpu().bounds.items()}
    assert bounds["base 1"] == bounds["base compiled 1"] == (1.15, 1.0)
    assert bounds["base 8"] == bounds["base compiled 8"] == (1.35, 1.0)
    assert bounds["light 1"] == bounds["light 8"] == (1.8, 1.25)
    musts = {"training": 1.25, "large": 2.2, "large_gb": 1.0, "bf16": 1.6}
    assert {name: bounds[name][0] for name in musts} == musts
    assert [case.changes["size"] for case in suites.cpu().parts[-1].cases][::6] == [224, 2048]

    bounds = suites.gpu(torch.device("cuda")).bounds
    goals = {
        "images_per_second": 10_000, "of_compiled_pvt": 0.55, "training_images_per_second": 3_500,
        "latency_ms": 1.0, "inference_gb": 3, "large_ms": 12, "large_gb": 2,
    }  # fmt: skip
    assert {name: bounds[name].goal for name in goals} == goals
    assert bounds["times_published"].must == 5
    assert suites.GPU_SECONDS < 8 * 60


def run(suite, device=CPU, names=None):
    # No limits: the machine may be busy, and nothing is compiled.
    parts = [
        part._replace(limit=math.inf) for part in suite.parts if names is None or part.name in names
    ]
    results = suites.run_parts(
        parts, suites.measure(suite, device, None), report=lambda result: None
    )
    assert [(r.state, r.problem) for r in results] == [("done", None)] * len(parts)
    return results, {e["figure"]: e for e in suites.verdicts(suite, parts, results)}


def test_the_logic_of_the_gpu_suite_without_a_gpu():
    names = ("inference", "large", "latency", "clustering")
    _, entries = run(suites.gpu(CPU, quick=True), names=names)
    for figure in (
        "images_per_second",
        "times_published",
        "inference_gb",
        "large_ms",
        "dpc_knn_ms",
    ):
        assert entries[figure]["value"] > 0, figure
    assert entries["dpc_knn_ms"]["value"] > 0
    assert entries["latency_ms"]["verdict"] == "not run"  # CUDA graphs
    cases = [case for part in suites.gpu(torch.device("cuda")).parts for case in part.cases]
    assert sum("+graph" in name for case in cases for name in case.models) >= 4


@pytest.mark.slow
def test_the_whole_gpu_suite_without_a_gpu():
    results, entries = run(suites.gpu(CPU, quick=True))
    assert all(not row["skipped"] for row in results[1].rows)
    assert {figure for figure, e in entries.items() if e["value"] is None} == {"latency_ms"}


def test_the_logic_of_the_cpu_suite():
    suite = dataclasses.replace(suites.cpu(quick=True), turn=0.0)
    results, entries = run(suite)
    assert all(e["value"] is not None for e in entries.values() if e["figure"] != "large_gb")
    assert [row["size"] for row in results[-1].rows] == [32, 64]
    # Too few tokens for its five neighbors: named, and the rest goes on.
    assert "tcformer_nano+published" in results[-1].rows[0]["skipped"]


def test_the_slow_one_leaves_the_curve(monkeypatch):
    asked = []

    def compare(chosen, baseline, setting, **options):
        asked.append([model.label for model in chosen])
        rows = {model.label: {"seconds": {"median": 100.0}} for model in chosen}
        return {"models": rows, "baseline": baseline, "size": setting.size}

    monkeypatch.setattr(models, "compare", compare)
    suite = suites.cpu()
    suites.measure(suite, CPU, None)(suite.parts[-1], Result("curve"))
    assert any("published" in label for label in asked[0])
    assert not any("published" in label for row in asked[1:] for label in row)
