"""The figures of docs/pose.md are those of its record."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_ceilings_and_speed():
    page = (ROOT / "docs" / "pose.md").read_text()
    record = json.loads(
        sorted((ROOT / "benchmarks" / "results").glob("*-pose-cpu.json"))[-1].read_text()
    )
    for name, values in record["ceilings"].items():
        figures = [f"{100 * value:.1f}" for value in values.values()]
        row = f"| {name.replace('x', ' x ')} | {' | '.join(figures)} |"
        assert row in page or ("classic" not in name and set(figures) == {"100.0"})
    for value in record["crops_per_second"].values():
        assert f"{value:.0f}" in page
        assert value >= 150  # what a process must deliver
