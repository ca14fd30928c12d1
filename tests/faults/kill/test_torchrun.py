"""torchrun starts the processes of a run again after one was killed, and the run goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from campaign import differs
from processes import ROOT, clean_env, free_port
from runs import command, read

pytestmark = [
    pytest.mark.slow(seconds=20),
    pytest.mark.xdist_group("faults"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]


def process_of_rank(rank: int, agent: int) -> int:
    """The child of torchrun's agent that has this rank."""
    for pid in Path(f"/proc/{agent}/task/{agent}/children").read_text().split():
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if f"RANK={rank}".encode() in environment:
            return int(pid)
    raise AssertionError(f"torchrun has no process of rank {rank}")


def test_torchrun_restarts_a_run_whose_worker_was_killed(references, tmp_path):
    references.prepare(2)
    output = tmp_path / "run"
    # torchrun keeps one store for both attempts: a stale key there made the second one hang.
    where = ("--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}")
    argv = [word for word in command(references.images, output) if word not in ("--resume", "auto")]
    log = tmp_path / "said"
    with open(log, "wb") as said:
        agent = subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", *where),
                *("--nproc-per-node", "2", "--max-restarts", "1", "-m", "tcformer", *argv),
            ],
            cwd=ROOT,
            env=clean_env(),
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 120
        while not (output / "checkpoint_0.pth").exists():
            assert agent.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        os.kill(process_of_rank(0, agent.pid), signal.SIGKILL)
        agent.wait(timeout=150)
    finally:
        if agent.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(agent.pid, signal.SIGKILL)
            agent.wait()
    assert agent.returncode == 0, log.read_text()
    text = log.read_text()
    assert f"resume from{output}" in text
    assert differs(references.whole[2], read(output)) == ""
