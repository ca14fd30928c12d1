"""The tables of figures in the README come from records, from the code, or from the paper."""

from __future__ import annotations

import json
import re

from pages import ROOT

README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"


def test_pictures_are_made_by_our_own_scripts():
    makers = "".join(path.read_text() for path in (ROOT / "docs").glob("make_*.py"))
    for name in re.findall(r"docs/images/([\w.-]+)\)", README):
        assert f'"{name}"' in makers, f"{name}: a picture that nobody can make again"


def test_the_papers_figures_are_those_that_its_authors_report():
    from tcformer.weights.released import RELEASED

    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\| ([\d.]+) % \|", README, re.M))
    reported = {
        entry.architecture: re.search(r"[\d.]+", entry.paper).group()
        for entry in RELEASED.values()
        if "ImageNet" in entry.task
    }
    assert rows == reported


def test_every_record_that_is_named_tells_where_it_is_from():
    for name in re.findall(r"`benchmarks/results/([\w.-]+\.json)`", README):
        record = json.loads((RESULTS / name).read_text())
        assert record["changed"] is False, f"{name}: made by sources that were never committed"
        assert record["command"]
        assert record["machine"]["processor"]
