"""The table of docs/export.md is the newest record of benchmarks/export.py."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_time_is_recorded():
    page = (ROOT / "docs" / "export.md").read_text()
    name = re.search(r"`benchmarks/results/(\S+-export-\S+\.json)`", page).group(1)
    newest = max((ROOT / "benchmarks" / "results").glob("*-export-cpu*.json"))
    assert newest.name == name
    record = json.loads(newest.read_text())
    rows = []
    for entry in record["export"]:
        low, middle, high = entry["ratio"]
        rows.append(
            f"| `{entry['model']}`, {entry['format']} | {entry['batch']} | "
            f"{entry['exported_ms']:.0f} ms | {entry['network_ms']:.0f} ms | "
            f"{middle:.2f} ({low:.2f} to {high:.2f}) |"
        )
        assert (entry["size"], entry["threads"], entry["rounds"]) == ([224, 224], 2, 5)
    assert re.findall(r"^\| `tcformer.*ms \|.*$", page, re.M) == rows
    for package in ("onnxruntime", "openvino"):
        assert record["versions"][package] in page
