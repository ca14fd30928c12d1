"""The sweep of the keep ratio: its script runs, its page is that of the newest record."""

import json
import runpy
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKE = ROOT / "docs" / "make_keep_ratio.py"


@pytest.fixture
def make(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return runpy.run_path(str(MAKE))


RECORD = {
    "file": "x.json", "command": "python benchmarks/keep_ratio.py", "date": "2026-01-02",
    "model": "tcformer_nano", "config": "c.py", "epochs": 3, "seeds": [0, 1], "torch_threads": 1,
    "machine": {"processor": "P"}, "versions": {"torch": "2.0"},
    "batches": {"32x32": 64, "224x224": 8},
    "ratios": [
        {
            "ratio": ratio, "accuracy": accuracy,
            "tokens": {"32x32": [64, 16], "224x224": [3136, 784]},
            "gflops": {"32x32": 0.1, "224x224": 1.4},
            "milliseconds": {"32x32": {"median": time}, "224x224": {"median": 10 * time}},
        }
        for ratio, time, accuracy in ((0.25, 2.0, [98.0, 99.0]), (0.5, 5.0, [99.0, 99.5]))
    ],
}  # fmt: skip


def test_table_and_plot_hold_the_figures(make):
    text = make["page"](RECORD)
    assert "| 0.25 | 64, 16 | 98.5 (98.0, 99.0) | x 1.00 | 3136, 784 | x 1.00 | 1.40 |" in text
    assert "| 0.5 | 64, 16 | 99.2 (99.0, 99.5) | x 2.50 | 3136, 784 | x 2.50 | 1.40 |" in text
    svg = ET.fromstring(make["plot"](RECORD))
    points = [node for node in svg.iter() if node.tag.endswith("circle")]
    assert len(points) == 2
    assert float(points[1].get("cx")) > float(points[0].get("cx"))
    assert float(points[1].get("cy")) < float(points[0].get("cy"))  # more accurate: higher up


def test_the_page_is_that_of_the_newest_record(make):
    record = make["newest_record"]()
    docs = ROOT / "docs"
    assert (docs / "keep_ratio.md").read_text() == make["page"](record), "run `make docs`"
    assert (docs / "images" / "keep_ratio.svg").read_text() == make["plot"](record)


@pytest.mark.slow
def test_the_script_makes_a_record(make, tmp_path, monkeypatch, capsys):
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    words = "--ratios 0.25 0.1 --seeds 0 --epochs 1 --rounds 1 --jobs 1 --output"
    monkeypatch.setattr(sys, "argv", ["keep_ratio.py", *words.split(), str(tmp_path)])
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import keep_ratio

    keep_ratio.main()
    (path,) = tmp_path.glob("*-keep-ratio-cpu.json")
    record = json.loads(path.read_text())
    assert [row["ratio"] for row in record["ratios"]] == [0.25, 0.1]
    assert record["ratios"][0]["tokens"]["32x32"] == [64, 16, 4, 1]
    assert str(tmp_path) not in path.read_text()
    text = make["page"]({"file": path.name, **record})
    assert "top-1" in text
