"""docs/results.md: what stands there is what the committed records say, and nothing else."""

from __future__ import annotations

import ast
import copy
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from pages import ROOT

FOLDER = ROOT / "benchmarks" / "results" / "learning"
RECORDS = sorted(FOLDER.glob("*.json"))

sys.path.append(str(ROOT / "docs"))
import learning_records  # noqa: E402
import make_results  # noqa: E402

EPOCHS = 3


def record(model: str, seed: int, accuracy: float, **changes: object) -> dict:
    """A whole record of a run that ended at `accuracy`."""
    session = {
        "status": "finished", "command": f"tcformer train c.py --seed {seed}", "commit": "abc123",
        "changed": False, "date": "2026-01-02", "time": "03:04 UTC",
        "ended": "2026-01-02 03:16 UTC", "settings": {"torch threads": 1},
        "machine": {"processor": "P", "capability": "AVX", "cores": 2, "memory_gib": 8.0,
                    "system": "Linux", "device": "cpu"},
        "versions": dict.fromkeys(
            ("python", "torch", "torchvision", "timm", "numpy", "pillow"), "1.0"),
    }  # fmt: skip
    images = {"train": {"images": 800, "sha256": "aa"}, "val": {"images": 400, "sha256": "bb"}}
    return {
        "kind": "training", "status": "finished", "model": model, "seed": seed,
        "parameters": 1_230_000, "data": {"name": "x", **images},
        "config": {"model": model, "seed": seed, "epochs": EPOCHS, "cooldown_epochs": 0,
                   "input_size": 48, "lr": 0.1, "part_grids": None},
        "epochs": [{"epoch": e, "test_acc1": accuracy - EPOCHS + 1 + e} for e in range(EPOCHS)],
        "wall_seconds": 700.0, "processor_seconds": 660.0,
        "peak_memory": {"host_bytes": 2**30}, "sessions": [session], **changes,
    }  # fmt: skip


def keep(folder, name="digits", **accuracies) -> None:
    for model, values in accuracies.items():
        for seed, value in enumerate(values):
            path = folder / f"{name}-{model}-seed{seed}.json"
            path.write_text(json.dumps(record(model, seed, value)))


def page(folder) -> str:
    return make_results.page(learning_records.read_runs(folder))


def test_the_page_and_its_plots_are_those_of_the_records():
    runs = learning_records.read_runs()
    assert (ROOT / "docs" / "results.md").read_text() == make_results.page(runs), "run `make docs`"
    drawn = make_results.plots(runs)
    images = ROOT / "docs" / "images"
    assert {path.name for path in images.glob("learning_*.svg")} == set(drawn), "run `make docs`"
    for name, text in drawn.items():
        assert (images / name).read_text() == text, "run `make docs`"
        ET.fromstring(text)


def test_every_record_stands_on_the_page():
    text = (ROOT / "docs" / "results.md").read_text()
    for path in RECORDS:
        content = json.loads(path.read_text())
        (row,) = re.findall(rf"^\| `{re.escape(path.name)}` \|.*$", text, re.M)
        for session in content["sessions"]:
            assert session["commit"] in row
            assert session["command"] in text
        assert content["data"]["val"]["sha256"] in text


def test_every_file_that_a_row_names_is_there():
    text = (ROOT / "docs" / "results.md").read_text()
    for stem, seeds in re.findall(r"`([\w-]+-seed)\{?([\d,]+)\}?\.json`", text):
        for seed in seeds.split(","):
            assert (FOLDER / f"{stem}{seed}.json").is_file()


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_committed_record_is_whole(path):
    from tcformer.training.record import read_record

    content = read_record(path)
    assert content["status"] == "finished", "do not commit records of runs that go on"
    wanted = content["config"]["epochs"] + content["config"]["cooldown_epochs"]
    assert [entry["epoch"] for entry in content["epochs"]] == list(range(wanted))
    assert all("test_acc1" in entry and "train_loss" in entry for entry in content["epochs"])
    assert content["wall_seconds"] > 0
    assert content["peak_memory"]["host_bytes"] > 0
    for session in content["sessions"]:
        assert session["command"]
        assert session["machine"]["processor"]
        assert session["versions"]["torch"]
        assert "/" not in re.sub(r"configs/[\w/]+\.py", "", session["command"])


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_the_sources_of_a_record_can_be_had(path):
    if git("rev-parse", "--is-shallow-repository") != "false":
        pytest.skip("the history is not here (no git, no clone, or a shallow one)")
    for session in json.loads(path.read_text())["sessions"]:
        assert session["commit"], "the run did not know its commit"
        assert git("merge-base", "--is-ancestor", session["commit"], "HEAD") is not None, (
            f"commit {session['commit']} is not in the history: merge it (git merge -s ours), or "
            "measure again"
        )


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.py")), ids=lambda p: p.name)
def test_a_recipe_tells_of_no_figure_but_the_papers(path):
    """Figures of ours belong to records; a docstring would not notice that they have changed."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
    sentences = re.split(r"(?<=[.;:]) ", text)
    ours = [s for s in sentences if re.search(r"\d ?%|[Mm]easured|\d (s|min)\b", s)]
    for sentence in ours:
        before = text.partition(sentence)[0]
        assert "paper" in sentence or before.rstrip().endswith("The paper:"), sentence


def git(*words: str) -> str | None:
    try:
        told = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    except OSError:
        return None
    return told.stdout.strip() if told.returncode == 0 else None


OTHERS = (r"PVTv2|\bV2\b|CIFAR-10|cifar10|64 px|of 2025|92\.84 %|93\.94 %|94\.18 %|94\.2 %|top-1"
          r"|Top-1|tcformerv2_\w+|pvt_v2_b\d|not run: [\d, ]+")  # fmt: skip
"""Names, the published figures and the goal: all that may stand there without a record."""


def test_without_records_there_are_no_figures(tmp_path):
    text = re.sub(OTHERS, "", page(tmp_path))
    assert re.findall(r".{0,30}\d.{0,30}", text) == []
    assert text.count("| not run |") == 15 + 3
    assert "above" not in text.replace("above the grid twin by more than the spread", "")


def test_mean_and_spread(tmp_path):
    keep(tmp_path, tcformer_nano=[97.0, 98.0, 99.0], pvt_v2_b0=[96.0, 96.5])
    text = page(tmp_path)
    assert (
        "| `tcformer_nano` | 1.23 M | 98.00 ± 1.00 (97.00 to 99.00) | 97.00, 98.00, 99.00 "
        "(seeds 0, 1, 2); not run: 3, 4 | 11 min | `digits-tcformer_nano-seed{0,1,2}.json` |"
    ) in text
    assert "| 96.25 ± 0.35 (96.00 to 96.50) |" in text
    assert "| `tcformerv2_nano` | - | not run | not run: 0, 1, 2, 3, 4 | - | - |" in text
    assert "800 images to learn from, 400 to measure on, 48 px, 3 epochs" in text
    assert "One image is 0.25 points" in text
    assert "by 1.75 points, more than the spread of 1.00." in text
    assert "no run of `tcformerv2_nano` is finished" in text
    assert "abc123" in text
    assert "* `tcformer train c.py --seed 2`\n" in text


@pytest.mark.parametrize(
    ("ours", "twin", "sentence"),
    [
        ([98.0, 99.0], [95.0, 96.0], "is above its grid twin `pvt_v2_b0` by 3.00 points, more "
         "than the spread of 0.71."),
        ([98.0, 99.0], [98.0, 98.4], "is above its grid twin `pvt_v2_b0` by 0.30 points, not "
         "more than the spread of 0.71: no difference is shown."),
        ([98.0, 98.4], [98.0, 99.0], "is below its grid twin `pvt_v2_b0` by 0.30 points, not "
         "more than the spread of 0.71: no difference is shown."),
        ([95.0, 96.0], [98.0, 99.0], "is below its grid twin `pvt_v2_b0` by 3.00 points, more "
         "than the spread of 0.71: here merging tokens costs accuracy."),
        ([98.0, 99.0], [98.5, 98.5], "and its grid twin `pvt_v2_b0` come to the same, not more "
         "than the spread of 0.71: no difference is shown."),
        ([99.0], [90.0, 91.0], "by 8.50 points. Without several seeds of both there is no "
         "spread to hold against it; the test images alone leave it uncertain by 1.55"),
    ],
)  # fmt: skip
def test_the_sentence_that_judges_follows_from_the_figures(tmp_path, ours, twin, sentence):
    keep(tmp_path, tcformer_nano=ours, pvt_v2_b0=twin)
    assert f"* `tcformer_nano` {sentence}" in page(tmp_path) or sentence in page(tmp_path)


@pytest.mark.parametrize(
    ("ours", "twin", "said"),
    [
        ([94.3, 94.4, 94.5], [93.0, 93.1, 93.2], "the goal is **reached**. 94.40 % is at least"),
        ([94.1, 94.0, 94.2], [93.0, 93.1, 93.2], "is **not reached**. 94.10 % is less than"),
        ([94.3, 94.4, 94.5], [94.3, 94.4, 94.5], "is **not reached**. 94.40 % is at least"),
        ([94.3, 94.5], [93.0, 93.1, 93.2], "**reached** so far, without the seeds that are"),
        ([94.3], [93.0], "is **not reached** so far"),
        ([94.3], [], "**not run**, so the goal is not tested"),
    ],
)
def test_the_goal_is_judged_by_the_records(tmp_path, ours, twin, said):
    keep(tmp_path, "cifar10-full", tcformer_nano=ours, pvt_v2_b0=twin)
    text = page(tmp_path)
    assert said in text
    mean = sum(ours) / len(ours)
    assert re.search(rf"\| token clustering \| 93\.94 % \| `tcformer_nano` {mean:.2f}", text)


def test_what_is_not_finished_does_not_count(tmp_path):
    keep(tmp_path, tcformer_nano=[97.0, 98.0], pvt_v2_b0=[96.0])
    path = tmp_path / "digits-tcformer_nano-seed1.json"
    stopped = {**record("tcformer_nano", 1, 98.0), "status": "interrupted"}
    cut = record("tcformer_nano", 1, 98.0)
    cut["epochs"].pop()
    for content, told in ((stopped, "interrupted"), (cut, "cut short")):
        path.write_text(json.dumps(content))
        text = page(tmp_path)
        assert "| 97.00, one seed | 97.00 (seed 0); unfinished: 1; not run: 2, 3, 4 |" in text
        assert f"| `{path.name}` | {told} | - |" in text
    (tmp_path / "digits-pvt_v2_b0-seed0.json").write_text(
        json.dumps({**record("pvt_v2_b0", 0, 96.0), "status": "running"})
    )
    assert "| `pvt_v2_b0` | - | not finished | unfinished: 0; not run" in page(tmp_path)


def test_changed_sources_are_shown(tmp_path):
    keep(tmp_path, tcformer_nano=[97.0])
    path = tmp_path / "digits-tcformer_nano-seed0.json"
    for changed, told in ((True, "yes"), (None, "not known")):
        content = record("tcformer_nano", 0, 97.0)
        content["sessions"].append({**content["sessions"][0], "changed": changed})
        path.write_text(json.dumps(content))
        text = page(tmp_path)
        assert "`digits-tcformer_nano-seed0.json` (changed sources) |" in text
        assert f"| `abc123` | no, {told} | 2026-01-02 03:04 UTC, 2 sessions |" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["config"].update(lr=0.2), "differ in lr: 0.2 and 0.1"),
        (lambda r: r["data"]["val"].update(sha256="cc"), "of different data"),
        (lambda r: r.update(seed=7), "holds a run of pvt_v2_b0 with seed 7"),
        (lambda r: r.update(model="tcformer_light"), "holds a run of tcformer_light"),
        (lambda r: r.update(kind="evaluation"), "the record of an evaluation"),
    ],
)
def test_what_would_make_the_comparison_unfair_is_refused(tmp_path, change, said):
    keep(tmp_path, tcformer_nano=[97.0], pvt_v2_b0=[96.0])
    content = copy.deepcopy(record("pvt_v2_b0", 0, 96.0))
    change(content)
    (tmp_path / "digits-pvt_v2_b0-seed0.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said):
        page(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [("other.json", "SET-MODEL-seedN"), ("letters-tcformer_nano-seed0.json", "no such set"),
     ("digits-tcformer_light-seed0.json", "no such set or network")],
)  # fmt: skip
def test_a_record_that_belongs_nowhere_is_refused(tmp_path, name, said):
    model = "tcformer_light" if "light" in name else "tcformer_nano"
    (tmp_path / name).write_text(json.dumps(record(model, 0, 97.0)))
    with pytest.raises(ValueError, match=said):
        page(tmp_path)


def test_what_one_seed_cost(tmp_path):
    models = ("tcformer_nano", "tcformerv2_nano", "pvt_v2_b0")
    keep(tmp_path, "cifar10", **{model: [80.0] for model in models})
    text = page(tmp_path)
    assert "The [full schedule](#the-full-schedule) has 300 epochs, not 3.\n" in text
    assert "took 33 minutes of processor time, which is 16 on 2 cores" in text
    assert "do nothing else: half an hour or less. Beside other work it took 12 minutes" in text
    for model in models:
        path = tmp_path / f"cifar10-{model}-seed0.json"
        path.write_text(json.dumps(record(model, 0, 80.0, processor_seconds=1900.0)))
    assert "which is 48 on 2 cores that do nothing else: more than half an hour" in page(tmp_path)


def test_a_plot_has_a_line_and_a_band_for_each_network(tmp_path):
    keep(tmp_path, tcformer_nano=[97.0, 99.0], pvt_v2_b0=[90.0])
    (svg,) = make_results.plots(learning_records.read_runs(tmp_path)).values()
    text = "".join(ET.fromstring(svg).itertext())
    assert "tcformer_nano (2 seeds)" in text
    assert "pvt_v2_b0 (1 seed)" in text
    assert "tcformerv2_nano" not in text
