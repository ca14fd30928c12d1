"""Trainings that differ by rounding: the script makes a record, the page is the newest one's."""

import json
import sys
import xml.etree.ElementTree as ET

import pytest
from pages import ROOT

sys.path.append(str(ROOT / "docs"))
import make_trajectory as make

BASE, SHIPPED, IMPOSED = "float64", "shipped", "imposed"
STEPS, FLIP = 60, 45


def run(losses, **changes):
    """What a record holds of one variant."""
    return {
        "words": "W", "dtype": "float32", "losses": losses, "processor_seconds": 5.0,
        "held_out": {"loss": 1.0, "accuracy": 70.0, "images": 400}, "weights_apart": 0.125,
        "from_published": [1e-6, 2e-5], "largest_from_published": 2e-5, **changes,
    }  # fmt: skip


def pair(a, b, first_flip=None, **first):
    levels = {"1e-06": 0, "1e-05": None, "0.0001": None, "0.001": None, "0.01": None}
    return {"pair": [a, b], "largest": 1.0, "first": {**levels, **first},
            "first_flip": first_flip or dict.fromkeys("123")}  # fmt: skip


@pytest.fixture
def record():
    """A run that parts at its flip, and one that may not flip."""
    base = [1.0 + 0.25 * (step % 2) for step in range(STEPS)]
    near = [loss + 2e-6 for loss in base]
    # Further away on one side, then on the other: no worse in the mean.
    parted = near[:FLIP] + [loss + 0.1 * (-1) ** i for i, loss in enumerate(base[FLIP:])]
    words = "float32 as it comes, one thread"
    flips = {"1": None, "2": 45, "3": 45}
    return {
        "file": "x.json", "command": "python benchmarks/trajectory.py", "date": "2026-01-02",
        "model": "tcformer_light", "steps": STEPS, "versions": {"torch": "2.0"},
        "machine": {"processor": "P", "capability": "AVX2"},
        "published": {"float32": [1.0, 2.0], "float64": [1.0, 2.00001]},
        "variants": {
            BASE: run(base, words=BASE, dtype=BASE, largest_from_published=1e-7,
                      from_published=[1e-7, 0.0]),
            SHIPPED: run(parted, words=words),
            IMPOSED: run(near, words="I", overruled=[[45, 2, 3, "centre"], [50, 1, 0, "member"]]),
        },
        "pairs": [
            pair(BASE, SHIPPED, flips, **{"0.0001": 45, "0.001": 45, "0.01": 45}),
            pair(BASE, IMPOSED), pair(SHIPPED, IMPOSED),
        ],
    }  # fmt: skip


def test_the_page_holds_the_figures(record):
    text = make.page(record)
    assert "| float64 | float64 | 1e-7 | 0 |" in text
    assert "| float32 as it comes, one thread | float32 | 2e-5 | 1 |" in text
    assert "Every run stays within the 1e-3" in text
    row = "| float32 as it comes, one thread | 0 | never | 45 | 45 | 45 | 45 | 2 | 2e-6 | 1e-1 |"
    assert row in text
    assert "| I | 0 | never | never | never | never | never |  | 2e-6 |  |" in text
    assert "**Trainings part by a flip, not before it.**" in text
    assert "2e-6 or less in the first 20 steps" in text
    assert "rounding that decides no cluster did not part them" in text
    assert "once in 720 partitions (2 of 1,440; another token as a centre:\n1, " in text
    assert "One float32 run alone has no spread" in text
    assert "| 1.0000 | 70.0 | 12 % |" in text
    page = make.numerics("a\n<!-- trajectory -->\nold\n<!-- end -->\nb", record)
    assert "are followed to 2e-5 in float32 and to\n1e-7 in float64" in page
    assert "old" not in page


def test_the_words_follow_from_the_figures(record):
    losses = record["variants"][SHIPPED]["losses"]
    losses[10] += 0.01  # before the flip
    assert "Trainings part before any flip: float32 as it comes" in make.parting(record)
    record["pairs"][0]["first_flip"] = dict.fromkeys("123")
    record["variants"][SHIPPED]["losses"] = record["variants"][IMPOSED]["losses"]
    assert "No partition differed in 60 steps, and no run parted." in make.parting(record)
    record["variants"][IMPOSED]["losses"] = [loss + 1 for loss in losses]
    assert "parted them as well" in make.parting(record)
    record["variants"][SHIPPED]["largest_from_published"] = 2e-3
    assert "NOT every run stays" in make.forty(record)


def test_float64_is_compared_with_the_spread_of_float32(record):
    runs = record["variants"]
    losses = runs[BASE]["losses"]
    for name, shift in zip(("plain", "threads", SHIPPED), (-0.01, 0.0, 0.02), strict=True):
        runs[name] = {**runs[SHIPPED], "losses": [loss + shift for loss in losses]}
    assert "Chaos, not error" in make.meaning(record)
    assert "lies between 1.1150 and 1.1450, float64's is 1.1250 (t = 0.2;" in make.meaning(record)
    runs[BASE]["losses"] = [loss - 0.1 for loss in losses]
    assert "NOT all runs end alike" in make.meaning(record)
    runs[BASE]["losses"] = losses
    runs["plain"] = {**runs["plain"], "held_out": {"accuracy": 50.0}}
    assert "NOT all runs end alike" in make.meaning(record)


def test_a_repeated_run_is_compared_bit_for_bit(record):
    runs = record["variants"]
    runs["again"] = {**runs[SHIPPED], "words": "A"}
    assert "gave all 60 losses again, bit for bit" in make.again(record)
    runs["again"]["losses"] = [*runs[SHIPPED]["losses"][:-1], 7.0]
    assert "differed by up to" in make.again(record)


def test_the_plots_hold_the_figures(record):
    losses, differences, long = map(ET.fromstring, make.plots(record).values())
    assert len([node for node in losses.iter() if node.get("d", "").endswith("h7v7h-7z")]) == 3
    words = {node.text for node in differences if node.tag.endswith("text")}
    assert {"asked for: 1e-3", "theirs, float32 from float64"} <= words
    signs = [node for node in long.iter() if node.tag.endswith("circle") or "l5 5" in
             node.get("d", "")]  # fmt: skip
    assert len(signs) == 1  # the one run that flips


def test_page_and_plots_are_those_of_the_newest_record():
    newest, docs = make.newest("trajectory"), ROOT / "docs"
    assert (docs / "trajectory.md").read_text() == make.page(newest), "run `make docs`"
    for name, svg in make.plots(newest).items():
        assert (docs / "images" / f"{name}.svg").read_text() == svg, name
    numerics = (docs / "numerics.md").read_text()
    assert make.numerics(numerics, newest) == numerics, "run `make docs`"


def test_the_newest_record_follows_the_published_losses():
    import golden

    newest = make.newest("trajectory")
    assert not newest["changed"]
    assert set(newest["variants"]) >= {BASE, SHIPPED, "plain", "threads", "nudged", IMPOSED}
    for name in ("float32", "float64"):
        assert newest["published"][name] == golden.training_losses(name)
    for run in newest["variants"].values():
        theirs = newest["published"][run["dtype"]]
        gaps = [abs(a - b) for a, b in zip(run["losses"][:40], theirs, strict=True)]
        assert gaps == run["from_published"]
        assert max(gaps) == run["largest_from_published"] < make.ASKED


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
    text = make.page({"file": path.name, **found})
    assert "Every run stays within" in text

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
