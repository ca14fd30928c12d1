"""`slurm_train.sh` trains on a real Slurm, is queued again, and comes to the same end."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
from processes import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("slurm"), pytest.mark.timeout(600)]

CONFIG = "configs/digits/tcformer_nano.py"
# 1437 images in steps of 2 x 128: 5 an epoch.
OPTIONS = (
    *("--data-set", "digits", "--device", "cpu", "--epochs", "2", "--batch-size", "128"),
    *("--num_workers", "1"),
)


def train(slurm, folder: Path, *options: str, **variables: str):
    if not slurm.names_resolve():
        pytest.skip("the nodes' names do not resolve and /etc/hosts cannot be written")
    env = {
        "PYTHON": sys.executable,
        "GPUS": "2",
        "GPUS_PER_NODE": "1",  # so two nodes take part
        "CPUS_PER_TASK": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [str(ROOT / "slurm_train.sh"), "low", "digits", CONFIG, str(folder), *OPTIONS]
    return slurm.run(*command, *options, timeout=500, **env | variables)


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]


def wait_for(condition, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_a_job_queued_again_twice_ends_like_an_uninterrupted_one(slurm, tmp_path):
    """By a preemption, which asks it to stop, and by a node that fails, which does not."""
    whole = tmp_path / "whole"
    done = train(slurm, whole)
    assert done.returncode == 0, done.stderr
    assert "| distributed init (rank 1): env://" in done.stdout
    assert done.stdout.count("* Acc@1 ") == 2, "one line an epoch: only rank 0 prints"

    folder = tmp_path / "queued again"
    submitted = train(slurm, folder, "--save-steps", "1", SBATCH="1")
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.split()[-1]
    out = folder / f"slurm-{job}.out"
    wait_for(lambda: out.exists() and "Epoch: [0]  [0/5]" in out.read_text(), 200)
    wait_for((folder / "checkpoint.pth").exists, 60)
    urgent = ("sbatch", "--partition=high", "--exclusive", "--nodes=2", "--output=/dev/null")
    slurm.run(*urgent, "--wrap=sleep 1")
    wait_for(lambda: out.read_text().count(f"resume from{folder}") == 1, 200)
    slurm.fail("tcfnode1")
    try:
        wait_for(lambda: slurm.job(job).get("Restarts") == "2", 60)
    finally:
        slurm.restore("tcfnode1")
    fields = slurm.wait_for(job, "COMPLETED", "FAILED", timeout=300)
    said = out.read_text()
    assert fields["JobState"] == "COMPLETED", said
    assert "Traceback" not in said
    assert said.count(f"resume from{folder}") == 2
    assert log_of(folder) == log_of(whole)
