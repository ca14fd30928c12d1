"""The figures that people wrote into pages, beside the records that they come from."""

from __future__ import annotations

import hashlib
import json
import re
import sys

import pytest
from pages import ROOT, commands

sys.path.append(str(ROOT / "docs"))
import tables

RESULTS = ROOT / "benchmarks" / "results"
TEXTS = {path.stem: path.read_text() for path in tables.pages()}


def test_export():
    record = tables.newest("export")
    rows = []
    for entry in record["export"]:
        low, middle, high = entry["ratio"]
        rows.append(
            f"| `{entry['model']}`, {entry['format']} | {entry['batch']} | "
            f"{entry['exported_ms']:.0f} ms | {entry['network_ms']:.0f} ms | "
            f"{middle:.2f} ({low:.2f} to {high:.2f}) |"
        )
        assert (entry["size"], entry["threads"], entry["rounds"]) == ([224, 224], 2, 5)
    assert re.findall(r"^\| `tcformer.*ms \|.*$", TEXTS["export"], re.M) == rows
    for words in (record["file"], *(record["versions"][k] for k in ("onnxruntime", "openvino"))):
        assert words in TEXTS["export"]


def test_pose():
    record = tables.newest("pose")
    for name, values in record["ceilings"].items():
        figures = [f"{100 * value:.1f}" for value in values.values()]
        row = f"| {name.replace('x', ' x ')} | {' | '.join(figures)} |"
        assert row in TEXTS["pose"] or ("classic" not in name and set(figures) == {"100.0"})
    for value in record["crops_per_second"].values():
        assert f"{value:.0f}" in TEXTS["pose"]


def test_segmentation():
    page = TEXTS["segmentation"]
    (name,) = re.findall(r"`(benchmarks/results/[\w.-]+\.json)`", page)
    record = json.loads((ROOT / name).read_text())
    assert (record["status"], record["seed"]) == ("finished", 0)
    assert record["sessions"][0]["changed"] is False
    rows = re.findall(
        r"^\| after (\d+)(?: of 14 epochs)? \| ([\d.]+) % \| ([\d.]+) % \|$", page, re.M
    )
    measured = [entry for entry in record["epochs"] if "test_miou" in entry]
    assert rows == [
        (str(e["epoch"] + 1), f"{e['test_miou']:.1f}", f"{e['test_pixel_acc']:.1f}")
        for e in measured
    ]
    assert f": {record['processor_seconds']:.0f} s of processor time" in page


def test_the_table_of_detection_recipes_names_every_one():
    recipes = {path.name for path in (ROOT / "configs" / "detection").glob("*_coco.py")}
    assert set(re.findall(r"`(\w+_coco\.py)`", TEXTS["dense"])) == recipes


def test_fine_tuning():
    """The records hold the page's commands, and its pictures are those of the run."""
    page = commands(TEXTS["results"])
    for kind in ("finetuning", "photographs"):
        record = tables.newest(kind)
        assert {row["command"] for row in record["runs"]} < set(page)
        assert record["confusion"]["command"] in page
        for name, digest in record["confusion"]["pictures"].items():
            picture = ROOT / "docs" / "images" / name
            if kind == "photographs":
                assert not picture.exists(), "photographs are not published"
            else:
                assert hashlib.sha256(picture.read_bytes()).hexdigest().startswith(digest)
                assert f"(images/{name})" in TEXTS["results"]
    assert record["images"] == {"train": 240, "val": 114}
    assert record["constant"] == pytest.approx(100 / 6, abs=0.01)
    assert record["confusion"]["classes"] == sorted(record["groups"])


def test_the_trajectory_follows_the_published_losses():
    import golden

    newest = tables.newest("trajectory")
    assert not newest["changed"]
    for name in ("float32", "float64"):
        assert newest["published"][name] == golden.training_losses(name)
    for run in newest["variants"].values():
        theirs = newest["published"][run["dtype"]]
        gaps = [abs(a - b) for a, b in zip(run["losses"][:40], theirs, strict=True)]
        assert gaps == run["from_published"]
        assert max(gaps) == run["largest_from_published"] < 1e-3


def test_pictures_are_made_by_our_own_scripts():
    makers = "".join(path.read_text() for path in (ROOT / "docs").glob("make_*.py"))
    for name in re.findall(r"docs/images/([\w.-]+)\)", TEXTS["README"]):
        assert f'"{name}"' in makers, f"{name}: a picture that nobody can make again"


def test_the_papers_figures_are_those_that_its_authors_report():
    from tcformer.weights.released import RELEASED

    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\| ([\d.]+) % \|", TEXTS["README"], re.M))
    reported = {
        entry.architecture: re.search(r"[\d.]+", entry.paper).group()
        for entry in RELEASED.values()
        if "ImageNet" in entry.task
    }
    assert rows == reported


def test_every_record_that_the_readme_names_tells_where_it_is_from():
    for name in re.findall(r"`benchmarks/results/([\w.-]+\.json)`", TEXTS["README"]):
        record = json.loads((RESULTS / name).read_text())
        assert record["changed"] is False, f"{name}: made by sources that were never committed"
        assert record["command"]
        assert record["machine"]["processor"]
