"""The tables of the pages are those of the records, and the records can be trusted."""

from __future__ import annotations

import ast
import copy
import json
import re
import subprocess
import sys

import pytest
from pages import ROOT

sys.path.append(str(ROOT / "docs"))
import tables

RECORDS = sorted((ROOT / "benchmarks" / "results" / "learning").glob("*.json"))
DOCS = ROOT / "docs"


@pytest.mark.parametrize("page", tables.pages(), ids=lambda page: page.stem)
def test_every_table_is_that_of_its_record(page):
    assert tables.filled(page.read_text()) == page.read_text(), "run `make docs`"


def test_every_table_stands_on_one_page():
    texts = (page.read_text() for page in tables.pages())
    named = re.findall(r"<!-- ([\w -]+) -->\n\n\|", "".join(texts))
    assert sorted(named) == sorted(tables.TABLES)


def test_every_plot_is_on_a_page_and_can_be_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="plots are drawn by it")
    import plots

    plots.draw(tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    named = set(
        re.findall(r"\(images/([\w-]+\.svg)\)", "".join(p.read_text() for p in DOCS.glob("*.md")))
    )
    assert drawn == named == {path.name for path in (DOCS / "images").glob("*.svg")}
    assert all(path.read_text().count("<path") > 2 for path in tmp_path.glob("[!lp]*.svg"))


def test_what_people_wrote_follows_from_the_records():
    """The sentences of docs/results.md that judge figures, one after the other."""
    accuracy = {r["name"]: sum(r["accuracy"]) for r in tables.newest("finetuning")["runs"]}
    assert accuracy["full"] > accuracy["scratch"] > accuracy["frozen"]
    for kind, right in (("finetuning", 474), ("photographs", 54)):
        record = tables.newest(kind)
        counts = record["confusion"]["counts"]
        assert sum(row[i] for i, row in enumerate(counts)) == right
        (full,) = (row for row in record["runs"] if row["name"] == "full")
        total = sum(map(sum, counts))
        assert total == record["images"]["val"]
        assert full["accuracy"][0] == pytest.approx(100 * right / total, abs=0.01)
    means, spreads = [], []
    for runs in tables.trainings()["digits"].values():
        values = [tables.top1(run) for run in runs]
        means.append(tables.mean(values))
        spreads.append(tables.stdev(values))
    assert max(means) - min(means) < max(spreads), "no difference is shown"
    record = tables.newest("trajectory")
    free = [name for name in record["variants"] if name not in ("float64", "imposed")]
    flips = {name: tables.flip(record, name) for name in free}
    assert (min(flips.values()), max(flips.values())) == (71, 165)
    assert all(max(tables.gap(record, name)[:step]) < 1e-4 for name, step in flips.items())
    assert max(tables.gap(record, "imposed")) < 1e-4
    assert len(record["variants"]["imposed"]["overruled"]) == 7


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
    shallow = git("rev-parse", "--is-shallow-repository") != "false"
    for session in content["sessions"]:
        assert session["command"]
        assert session["machine"]["processor"]
        assert session["versions"]["torch"]
        assert "/" not in re.sub(r"configs/[\w/]+\.py", "", session["command"])
        known = shallow or git("merge-base", "--is-ancestor", session["commit"], "HEAD") is not None
        assert known, f"commit {session['commit']} is not in the history: measure again"


def git(*words: str) -> str | None:
    try:
        told = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
    except OSError:
        return None
    return told.stdout.strip() if told.returncode == 0 else None


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.py")), ids=lambda p: p.name)
def test_a_recipe_tells_of_no_figure_but_the_papers(path):
    """Figures of ours belong to records; a docstring would not notice that they have changed."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
    sentences = re.split(r"(?<=[.;:]) ", text)
    ours = [s for s in sentences if re.search(r"\d ?%|[Mm]easured|\d (s|min)\b", s)]
    for sentence in ours:
        before = text.partition(sentence)[0]
        assert "paper" in sentence or before.rstrip().endswith("The paper:"), sentence


def keep(folder, model: str, seed: int, **changes: object) -> dict:
    """A copy of the first record of the digits as one of another network."""
    content = copy.deepcopy(json.loads(RECORDS[-1].read_text()))
    content |= {"model": model, "seed": seed, **changes}
    content["config"] |= {"model": model, "seed": seed}
    (folder / f"digits-{model}-seed{seed}.json").write_text(json.dumps(content))
    return content


def test_only_whole_runs_count(tmp_path):
    keep(tmp_path, "tcformer_nano", 0)
    keep(tmp_path, "tcformer_nano", 1, status="interrupted")
    content = keep(tmp_path, "pvt_v2_b0", 0)
    content["epochs"].pop()
    (tmp_path / "digits-pvt_v2_b0-seed0.json").write_text(json.dumps(content))
    assert {m: len(r) for m, r in tables.trainings(tmp_path)["digits"].items()} == {
        "tcformer_nano": 1
    }
    assert "| `pvt_v2_b0` | - | not run |" in tables.learned("digits", tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: r["config"].update(lr=0.2), "differs from its set in lr"),
        (lambda r: r["data"]["val"].update(sha256="cc"), "on other data"),
        (lambda r: r.update(seed=7), "holds a run of pvt_v2_b0 with seed 7"),
        (lambda r: r.update(model="tcformer_light"), "holds a run of tcformer_light"),
        (lambda r: r.update(kind="evaluation"), "no training that"),
    ],
)
def test_what_would_make_the_comparison_unfair_is_refused(tmp_path, change, said):
    keep(tmp_path, "tcformer_nano", 0)
    content = keep(tmp_path, "pvt_v2_b0", 0)
    change(content)
    (tmp_path / "digits-pvt_v2_b0-seed0.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=said):
        tables.trainings(tmp_path)
