"""The figures of docs/segmentation.md are those of the record that it names."""

from __future__ import annotations

import json
import re

from pages import ROOT


def test_the_table_is_that_of_the_record():
    page = (ROOT / "docs" / "segmentation.md").read_text()
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
    assert f"torch {record['sessions'][0]['versions']['torch'][:4]}, seed 0" in page
