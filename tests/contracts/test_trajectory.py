"""benchmarks/trajectory.py: trainings that differ by rounding alone."""

import json
import sys

import pytest
from pages import ROOT

sys.path.append(str(ROOT / "docs"))
import tables

BASE, SHIPPED, IMPOSED = "float64", "shipped", "imposed"


def test_the_newest_record_follows_the_published_losses():
    import golden

    newest = tables.newest("trajectory")
    assert not newest["changed"]
    assert set(newest["variants"]) >= {BASE, SHIPPED, "plain", "threads", "nudged", IMPOSED}
    for name in ("float32", "float64"):
        assert newest["published"][name] == golden.training_losses(name)
    for run in newest["variants"].values():
        theirs = newest["published"][run["dtype"]]
        gaps = [abs(a - b) for a, b in zip(run["losses"][:40], theirs, strict=True)]
        assert gaps == run["from_published"]
        assert max(gaps) == run["largest_from_published"] < 1e-3


@pytest.mark.slow
def test_the_script_makes_a_record(tmp_path, monkeypatch):
    from tcformer.ops import csrc

    if csrc.library() is None:
        pytest.skip(f"no C++ kernels: {csrc.unsupported_reason()}")
    work = tmp_path / "work"
    work.mkdir()
    words = ["--steps", "2", "--held-out", "1", "--output", str(tmp_path), "--work", str(work)]
    monkeypatch.setattr(sys, "argv", ["trajectory.py", *words, "--variants", "shipped", "imposed"])
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import trajectory

    trajectory.main()
    assert {path.stem for path in work.glob("*.json")} == {BASE, SHIPPED, IMPOSED}
    (path,) = tmp_path.glob("*-trajectory-cpu.json")
    assert str(tmp_path) not in path.read_text()
    found = json.loads(path.read_text())
    assert list(found["variants"]) == [BASE, SHIPPED, IMPOSED]
    for run in found["variants"].values():
        assert len(run["losses"]) == 2
        assert run["images_off"] == [0, 0]
        assert run["largest_from_published"] < 1e-4
    # Two updates with the same clusters: what is imposed is what would have been chosen.
    assert found["variants"][IMPOSED]["overruled"] == []
    assert found["variants"][IMPOSED]["losses"] == found["variants"][SHIPPED]["losses"]
    assert found["variants"][BASE]["losses"] != found["variants"][SHIPPED]["losses"]
    (one,) = (p for p in found["pairs"] if p["pair"] == [BASE, SHIPPED])
    assert one["first"]["1e-06"] == 1
    assert one["first"]["0.01"] is None
    assert one["first_flip"] == {"1": None, "2": None, "3": None}

    # Broken off and begun anew: what is complete is not trained again.
    def untouchable(*arguments, **options):
        raise AssertionError("a variant was trained twice")

    path.unlink()
    monkeypatch.setattr(trajectory.subprocess, "run", untouchable)
    monkeypatch.setattr(trajectory.record, "begin", lambda *_: {
        "date": "2026-01-02", "machine": {"device": "cpu"}})  # fmt: skip
    trajectory.main()
    (path,) = tmp_path.glob("*-trajectory-cpu.json")
    assert json.loads(path.read_text())["variants"] == found["variants"]
