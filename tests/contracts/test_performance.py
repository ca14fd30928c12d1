"""docs/performance.md holds the figures of committed records."""

import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "docs"))
MAKE = runpy.run_path(str(ROOT / "docs" / "make_performance.py"))


def test_the_page_is_that_of_the_newest_records():
    text = (ROOT / "docs" / "performance.md").read_text()
    assert MAKE["page"](text) == text, "run `make docs`"


def test_tables_hold_the_figures():
    spread = {"median": 0.623, "low": 0.6, "high": 0.7}
    common = {
        "file": "x.json", "command": "c", "date": "2026-01-02",
        "machine": {"processor": "P", "capability": "AVX2"},
        "versions": {"torch": "2.0", "timm": "1.0"},
    }  # fmt: skip
    rows = [{"mode": "training", "batch": 8, "ratios": {"plain": spread}, "seconds": {}}]
    table = MAKE["ladder"]({**common, "ladder": rows})
    assert "| | training, batch 8 |" in table
    assert "| plain | 0.62 (0.60 to 0.70) |" in table
    verdict = {"text": "t", "value": 1.234, "unit": "GB", "must": 2.0, "goal": None,
               "at_least": False}  # fmt: skip
    assert "| t | 1.23 GB | - | <= 2.00 | - |" in MAKE["suite"]({**common, "verdicts": [verdict]})
    models = {
        "ours": {"seconds": {"median": 0.5}, "peak_extra_bytes": 2e6, "ratio": spread},
        "theirs": {"seconds": {"median": 1.5}, "peak_extra_bytes": 3e6, "ratio": None},
    }
    table = MAKE["resolution"]({**common, "rows": [{"size": 512, "models": models}]})
    assert "| 512 | **0.62**; 500 ms, 2 MB | 1,500 ms, 3 MB |" in table
