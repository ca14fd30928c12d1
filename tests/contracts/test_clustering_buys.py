"""docs/clustering_buys.md holds the figures of committed records, and judges them as they are."""

import copy
import io
import json
import re
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from pages import ROOT
from PIL import Image

DOCS = ROOT / "docs"


@pytest.fixture
def make(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    before = set(sys.modules)
    import make_clustering_buys

    yield make_clustering_buys
    for name in (
        "make_clustering_buys",
        "clustering_records",
        "token_sizes",
        "plots",
        "learning_records",
    ):
        if name not in before:
            sys.modules.pop(name, None)


def test_the_page_is_that_of_the_records(make):
    assert (DOCS / "clustering_buys.md").read_text() == make.page(), "run `make docs`"
    made = make.plots()
    for name, svg in made.items():
        assert (DOCS / "images" / name).read_text() == svg, "run `make docs`"
    there = {path.name for path in (DOCS / "images").glob("buys_*.svg")}
    assert there == set(made) == set(re.findall(r"images/(buys_\w+\.svg)", make.page()))


def test_the_picture_is_that_of_the_records(make):
    made = Image.open(io.BytesIO(make.drawing(make.records.looks())))
    committed = Image.open(DOCS / "images" / "buys_drawing.png")
    assert made.size == committed.size
    # Captions may come out otherwise on another machine.
    apart = np.abs(np.asarray(made).astype(int) - np.asarray(committed)).max(-1) > 8
    assert apart.mean() < 0.1


def test_every_record_is_on_the_page(make):
    text = make.page()
    folder = ROOT / "benchmarks" / "results" / "clustering"
    for path in folder.glob("*.json"):
        assert f"`benchmarks/results/clustering/{path.name}`" in text, path.name


CIRCUMSTANCES = {
    "command": "python benchmarks/x.py", "date": "2026-01-02", "commit": "abc", "changed": False,
    "machine": {"processor": "P"}, "versions": {"torch": "2.0"},
}  # fmt: skip


def spread(value):
    return {"median": value, "low": value - 0.01, "high": value + 0.01, "min": value}


def row(ratio, k, time, **more):
    return {
        "ratio": ratio, "k": k, "tokens": [64, 16, 4, 1], "neighbours": [k, k, min(k, 4)],
        "gflops": 1.5, "ratio_to_usual": spread(time), **more,
    }  # fmt: skip


def training(ratio, k, seed, accuracy, **changes):
    return {
        "form": "tcformer run 1", "kind": "training", "status": "finished", "seed": seed,
        "model": "tcformer_nano", "data": {"name": "digits"}, "processor_seconds": 90.0,
        "config": {"epochs": 1, "keep_ratio": [ratio], "k": k, "num_clusters": None},
        "epochs": [{"epoch": 0, "test_acc1": accuracy}], **changes,
    }  # fmt: skip


def summed(mean, sd=0.1, negative=90.0):
    return {"defined": 9, "mean": mean, "sd": sd, "negative": negative}


def network(own, other, weights):
    one = {"own": summed(own), "another_image": summed(other), "grid": {"defined": 0}}
    area = {"quantiles": list(range(16, 27)), "mean": 64.0, "one_cell": 25.0,
            "doublings": [0.5, 0.25, 0.25], "largest": summed(128.0)}  # fmt: skip
    stage = {
        "count": 16, "area": area,
        "correlation": {"tokens": one, "insides": one, "cells": one},
        "log2_area_by_tenth": [summed(8 - tenth / 3) for tenth in range(10)],
    }  # fmt: skip
    stages = [{"stage": number, **copy.deepcopy(stage)} for number in (2, 3, 4)]
    return {"model": "tcformer_nano", "weights": weights, "stages": stages, "drawing": []}


@pytest.fixture
def results(tmp_path):
    def write(name, record):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record))

    write("learning/digits-tcformer_nano-seed0.json", training(0.25, None, 0, 97.0))
    write("learning/digits-tcformer_nano-seed1.json", training(0.25, 5, 1, 99.0))
    write("clustering/digits-tcformer_nano-ratio0.5-k5-seed0.json", training(0.5, 5, 0, 97.5))
    write("clustering/digits-tcformer_nano-ratio0.5-k5-seed1.json", training(0.5, 5, 1, 99.5))
    write("clustering/digits-tcformer_nano-ratio0.25-k2-seed0.json", training(0.25, 2, 0, 95.0))
    stopped = training(0.25, 2, 1, 10.0, status="interrupted")
    write("clustering/digits-tcformer_nano-ratio0.25-k2-seed1.json", stopped)
    rows = [row(0.25, 5, 1.0), row(0.1, 5, 0.8), row(0.5, 5, 2.04), row(0.25, 12, 1.08)]
    sizes = [{"size": f"{side}x{side}", "rows": rows} for side in (32, 224)]
    times = {**CIRCUMSTANCES, "model": "tcformer_nano", "rounds": 3, "sizes": sizes}
    write("clustering/time.json", times)
    evaluated = {
        **CIRCUMSTANCES, "model": "tcformer_nano", "data": {"name": "CIFAR10"}, "images": 100,
        "size": "64x64", "epochs": 2, "of_epochs": 4,
        "rows": [
            row(ratio, k, 1.0, top1=top1, same_answer=50.0)
            for ratio, k, top1 in ((0.25, 5, 60.0), (0.1, 5, 20.0), (0.25, 12, 61.5))
        ],
    }  # fmt: skip
    write("clustering/evaluate-cifar10.json", evaluated)
    networks = [
        network(-0.5, 0.02, {"checkpoint": "a", "epochs": 2, "of_epochs": 4}),
        network(-0.3, 0.02, {"random": 0}),
        network(-0.2, 0.02, {"random": 1}),
    ]
    looked = {**CIRCUMSTANCES, "data": {"name": "CIFAR10"}, "images": 9, "size": "32x32",
              "networks": networks}  # fmt: skip
    write("clustering/tokens-cifar10.json", looked)
    return tmp_path


def test_one_seed_has_no_scatter(make, results):
    (results / "learning" / "digits-tcformer_nano-seed1.json").unlink()
    assert "one seed of it, so its scatter is not known" in make.page(results)


def test_tables_and_sentences_are_computed(make, results):
    text = make.page(results)
    assert "| keep ratio 0.5 | 98.50 (97.5, 99.5) | +0.50 | 1.5 |" in text
    assert "| the usual: 0.25, k = 5 | 98.00 (97.0, 99.0) |  | 1.5 |" in text
    assert (
        "| k = 2 | 95.00 (95.0) | -2.00 | 1.5 |" in text
    )  # the seed that was stopped is not there
    assert "between -2.0 (k = 2) and +0.5 points (keep ratio 0.5) of the usual one" in text
    assert "scatters by 1.41 over 2 seeds" in text
    assert "x 0.80 of the usual time with keep ratio 0.1 and x 2.04 with 0.5" in text
    assert (
        "| keep ratio 0.1 | x 0.80 (0.79 to 0.81) | x 0.80 (0.79 to 0.81) | 64, 16, 4, 1 |" in text
    )
    assert "with the keep ratio by -40.0 at 0.1 points. k costs nothing" in text
    assert "the weights after epoch 2 of 4" in text
    assert "| k = 12 | 64, 16, 4, 1 | 12, 12, 4 | 61.50 | 50.0 | x 1.00 |" in text
    assert "**Detail clearly gets the smaller tokens** (CIFAR-10, `tcformer_nano`, trained)" in text
    assert "random weights -0.25 ± 0.10, negative in 90 %" in text
    assert "Training strengthens what is there before it." in text
    start = "| CIFAR-10 | `tcformer_nano`, random weights | 1 |"
    assert f"{start} 16 | 64 | 25 % | 17, 21, 25, 26 |" in text
    assert f"{start} -0.25 ± 0.10 | 90 % | -0.25 ± 0.10 | -0.25 ± 0.10 | +0.02 ± 0.10 |" in text
    assert "defined for none of the images" in text


def test_points_of_the_plots_are_the_figures(make, results):
    svgs = make.plots(results)
    assert {"buys_time_k.svg", "buys_accuracy_ratio.svg", "buys_tenths_cifar10.svg"} <= set(svgs)
    marks = [
        (float(c.get("cx")), float(c.get("cy")))
        for c in ET.fromstring(svgs["buys_accuracy_ratio.svg"]).iter()
        if c.tag.endswith("circle")
    ]
    _, usual, half = marks[:3]  # the first is the legend's
    assert usual[0] < half[0]
    assert usual[1] > half[1]  # more accurate: higher up


@pytest.mark.parametrize(
    ("own", "beyond", "share", "words"),
    [
        (-0.5, -0.5, 1, "clearly gets the smaller tokens"),
        (-0.3, -0.2, 0.6, "tends to get the smaller tokens"),
        (-0.15, -0.1, 1, "hardly gets the smaller tokens"),
        (-0.5, 0.01, 1, "neither"),
        (0.05, 0.05, 1, "neither"),
        (0.4, 0.3, 1, "clearly gets the larger tokens"),
        (-0.5, -0.5, 0.4, "In most images all tokens are of one size"),
    ],
)
def test_what_a_correlation_means(make, own, beyond, share, words):
    assert words in sys.modules["token_sizes"].answer(own, beyond, share)


def test_without_records_nothing_is_claimed(make, tmp_path):
    text = make.page(tmp_path)
    assert text.count("not run.") == 4
    assert "![" not in text
    assert make.plots(tmp_path) == {}
