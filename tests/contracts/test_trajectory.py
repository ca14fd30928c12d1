"""Trainings that differ by rounding: the script makes a record, the page is the newest one's."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_script_makes_a_record(tmp_path, monkeypatch):
    from tcformer.ops import _native

    if _native.library() is None:
        pytest.skip(f"no native kernels: {_native.reason()}")
    words = "--steps 2 --held-out 1 --variants shipped imposed --output"
    monkeypatch.setattr(sys, "argv", ["trajectory.py", *words.split(), str(tmp_path)])
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import trajectory

    trajectory.main()
    (path,) = tmp_path.glob("*-trajectory-cpu.json")
    assert str(tmp_path) not in path.read_text()
    record = json.loads(path.read_text())
    assert list(record["variants"]) == ["float64", "shipped", "imposed"]
    for row in record["variants"].values():
        assert len(row["losses"]) == 2
        assert row["images_off"] == [0, 0]
        assert row["largest_from_published"] < 1e-4
    # Two updates with the same clusters: what is imposed is what would have been chosen.
    assert record["variants"]["imposed"]["overruled"] == []
    assert record["variants"]["imposed"]["losses"] == record["variants"]["shipped"]["losses"]
    assert record["variants"]["float64"]["losses"] != record["variants"]["shipped"]["losses"]
    (pair,) = (p for p in record["pairs"] if p["pair"] == ["float64", "shipped"])
    assert pair["first"]["1e-06"] == 1
    assert pair["first"]["0.01"] is None
    assert pair["first_flip"] == {"1": None, "2": None, "3": None}
