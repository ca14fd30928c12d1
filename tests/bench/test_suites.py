"""Suites: bounds, verdicts, and their logic without a GPU."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tcformer.bench import suites, tables
from tcformer.bench.suites import Bound, Case


@pytest.mark.parametrize(
    ("bound", "value", "state"),
    [
        (Bound("t", "time", 1.15, 1.0), 0.9, "goal met"),
        (Bound("t", "time", 1.15, 1.0), 1.1, "must met"),
        (Bound("t", "time", 1.15, 1.0), 1.2, "missed"),
        (Bound("t", "images/s", 6000, 10000), 12000, "goal met"),
        (Bound("t", "images/s", 6000, 10000), 7000, "must met"),
        (Bound("t", "images/s", 6000, 10000), 10, "missed"),
        (Bound("t", "ms", None, 12), 13, "missed"),
        (Bound("t", "times"), 3, "measured"),
        (Bound("t", "ms", 1), None, "not run"),
    ],
)
def test_judging(bound, value, state):
    assert bound.judge(value) == state


def test_what_is_read_off_a_row():
    one = {
        "turns": [2.0, 2.0], "seconds": {"median": 2.0}, "images_per_second": 4.0,
        "peak_extra_bytes": 1e9, "weight_bytes": 2e9,
    }  # fmt: skip
    row = {"models": {"a": one, "b": one | {"turns": [1.0, 1.0]}}, "input_bytes": 3e9}
    hows = ("time", "times", "images/s", "ms", "extra", "memory")
    case = Case("p", ("a", "b"), {}, tuple(Bound(how, how) for how in hows))
    found = suites.verdicts(case, row)
    assert [entry["value"] for entry in found] == [2.0, 0.5, 4.0, 2000.0, 1.0, 6.0]
    assert tables.verdicts(found)[4] == ["ms", "2,000 ms", "-", "-", "measured"]
    assert suites.verdicts(case, {"models": {}})[0]["verdict"] == "not run"


def test_the_bounds_are_those_that_were_asked_for():
    bounds = {b.text: (b.must, b.goal) for case in suites.cpu() for b in case.bounds}
    expected = {
        "inference, batch 1: tcformer / pvt_v2_b2": (1.15, 1.0),
        "inference, batch 8: tcformer+compile / pvt_v2_b2+compile": (1.35, 1.0),
        "inference, batch 8: tcformer_light / pvt_v2_b1": (1.8, 1.25),
        "training step, batch 8: tcformer / pvt_v2_b2": (1.25, None),
        "1024 px, batch 1, exact: tcformer / pvt_v2_b2": (2.2, None),
        "1024 px, batch 1, exact: extra memory": (1.0, None),
        "bf16 autocast, batch 8: tcformer / pvt_v2_b2": (1.6, None),
    }
    assert expected.items() <= bounds.items()
    assert [c.changes["size"] for c in suites.cpu() if c.part == "curve"][::6] == [224, 2048]
    goals = {b.text: b.goal for case in suites.gpu() for b in case.bounds}
    assert {10_000, 0.55, 3_500, 1.0, 3, 12, 2} <= set(goals.values())
    assert suites.GPU_SECONDS < 8 * 60
    assert sum("+graph" in name for case in suites.gpu() for name in case.models) >= 4
    for case in suites.gpu():
        setting = suites.models.Setting(torch.device("cuda"), **case.changes)
        for name in case.models:
            suites.models.check_possible(suites.models.parse(name), setting)


@pytest.mark.slow(seconds=60)
def test_a_build_beside_a_commit():
    """benchmarks/compare.py, which checks out the commit and removes it again."""
    root = Path(__file__).parents[2]
    git = ["git", "-C", str(root)]
    try:
        subprocess.run([*git, "worktree", "list"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("the history is not here")
    words = ["--commit", "HEAD", "--turns", "1", "--rounds", "1", "tcformer_nano/pvt_v2_b0:1,32"]
    script = str(root / "benchmarks" / "compare.py")
    done = subprocess.run([sys.executable, script, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"new \d+\.\d+, old \d+\.\d+, new / old \d+\.\d+$", done.stdout.strip())
    assert (
        b"/compare-" not in subprocess.run([*git, "worktree", "list"], capture_output=True).stdout
    )
    done = subprocess.run([sys.executable, script, "--commit", "nobody"], capture_output=True)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: ")
