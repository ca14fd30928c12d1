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


def time_limit(slurm, job: str) -> None:
    """What Slurm sends before a time limit, without waiting for one (a minute at least)."""
    slurm.run("scancel", "--signal=USR1", job)


def preemption(slurm, job: str) -> None:
    urgent = ("sbatch", "--partition=high", "--exclusive", "--nodes=2", "--output=/dev/null")
    slurm.run(*urgent, "--wrap=sleep 1")


def node_failure(slurm, job: str) -> None:
    slurm.fail("tcfnode1")
    try:
        wait_for(lambda: slurm.job(job).get("Restarts") == "1", 60)
    finally:
        slurm.restore("tcfnode1")


@pytest.fixture(scope="module")
def whole(running_slurm, tmp_path_factory):
    """The log of the run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    done = train(running_slurm, folder)
    assert done.returncode == 0, done.stderr
    assert "| distributed init (rank 1): env://" in done.stdout
    assert done.stdout.count("* Acc@1 ") == 2, "one line an epoch: only rank 0 prints"
    return log_of(folder)


@pytest.mark.parametrize("event", [time_limit, preemption, node_failure])
def test_a_requeued_job_ends_like_an_uninterrupted_one(slurm, whole, tmp_path, event):
    submitted = train(slurm, tmp_path, "--save-steps", "1", SBATCH="1")
    assert submitted.returncode == 0, submitted.stderr
    job = submitted.stdout.split()[-1]
    out = tmp_path / f"slurm-{job}.out"
    wait_for(lambda: out.exists() and "Epoch: [0]  [0/5]" in out.read_text(), 200)
    wait_for((tmp_path / "checkpoint.pth").exists, 60)
    event(slurm, job)
    wait_for(lambda: slurm.job(job).get("Restarts") == "1", 60)
    fields = slurm.wait_for(job, "COMPLETED", "FAILED", timeout=300)
    said = out.read_text()
    assert fields["JobState"] == "COMPLETED", said
    assert "Traceback" not in said
    assert f"resume from{tmp_path}" in said
    assert log_of(tmp_path) == whole
