"""Signals become requests; Slurm is asked to queue a job again when, and only when, it helps."""

from __future__ import annotations

import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tcformer.runtime import signals as module
from tcformer.runtime.signals import (
    Interrupt,
    interrupt,
    requeue_if_slurm,
    was_queued_again,
)

# Shared by the programs below: a run in small that notes what it was asked.
PROGRAM = """
import sys, time
from tcformer.runtime.signals import install_early, interrupt
import tcformer.runtime.launcher, tcformer.runtime.launch
install_early()
install_early()
assert "torch" not in sys.modules
print("ready", flush=True)
end = time.monotonic() + 20
while not interrupt.requested and time.monotonic() < end:
    time.sleep(0.02)
print("saved after", interrupt.reason, flush=True)
time.sleep(float(sys.argv[1]))
print("left", flush=True)
"""


def start(linger: float = 0) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(linger)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_becomes_a_request(name):
    process = start()
    process.send_signal(signal.SIGCONT)  # Slurm's companion of every signal
    process.send_signal(getattr(signal, name))
    out, _ = process.communicate(timeout=20)
    assert out == f"saved after {name}\nleft\n"
    assert process.returncode == 0


def test_a_signal_while_python_shuts_down_changes_no_status():
    program = (
        "import os, sys\n"
        "from tcformer.runtime.signals import ignore_from_now_on, install_early\n"
        "install_early()\n"
        "class Late:\n"
        "    def __init__(self, kill): self.kill = kill\n"
        "    def __del__(self): self.kill()\n"
        "late = Late(lambda kill=os.kill, pid=os.getpid(), number=15: kill(pid, number))\n"
        "sys.held = late\n"  # taken down last of all
        "del late\n"
        "if len(sys.argv) > 1: ignore_from_now_on()\n"
    )
    ends = [
        subprocess.run([sys.executable, "-c", program, *more], timeout=30).returncode
        for more in ([], ["ignore"])
    ]
    assert ends == [-signal.SIGTERM, 0]


def test_ctrl_c_twice_aborts_but_one_key_press_counts_once():
    process = start(linger=20)
    assert process.stdout is not None
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "saved after SIGINT\n"
    process.send_signal(signal.SIGINT)  # the launcher's copy of the same key press
    time.sleep(0.7)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) == -signal.SIGINT
    assert process.stderr is not None
    assert "Ctrl-C again" in process.stderr.read()


def test_a_requeue_is_not_forgotten_for_a_later_sigterm():
    asked = Interrupt()
    assert not asked.requested
    for name in ("SIGINT", "SIGUSR1", "SIGTERM"):
        asked.request(name)
    assert asked.reason == "SIGUSR1"
    with pytest.raises(ValueError, match="SIGKILL"):
        asked.request("SIGKILL")
    asked.clear()
    assert not asked.requested


# ------------------------------------------------------------------ requeue (pretended scontrol)

BATCH = "JobId=7 JobState=RUNNING Requeue=1 BatchFlag=1 PreemptTime=None"
PREEMPTED = BATCH.replace("=None", "=2026-11-22T13:08:08")
INTERACTIVE = BATCH.replace("BatchFlag=1", "BatchFlag=0")


@pytest.fixture
def slurm(monkeypatch, tmp_path):
    """Call with (signal, job line, status of `scontrol requeue`): the calls made and the answer."""

    def ask(reason: str, job: str = BATCH, status: int = 0) -> tuple[str, bool]:
        log = tmp_path / "log"
        log.write_text("")
        program = tmp_path / "scontrol"
        program.write_text(
            f'#!/bin/sh\necho "$*" >> {log}\n'
            f'case "$1" in show) echo "{job}";; *) echo no such luck >&2; exit {status};; esac\n'
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        interrupt.clear()
        if reason:
            interrupt.request(reason)
        done = requeue_if_slurm()
        return log.read_text(), done

    yield ask
    interrupt.clear()


@pytest.mark.parametrize(
    ("reason", "job", "again"),
    [
        ("SIGUSR1", BATCH, True),  # the time limit
        ("SIGTERM", PREEMPTED, True),
        ("", BATCH, False),
        ("SIGTERM", BATCH, False),
        ("SIGTERM", PREEMPTED.replace("RUNNING", "COMPLETING"), False),
        ("SIGINT", PREEMPTED, False),
        ("SIGUSR1", INTERACTIVE, False),
    ],
)
def test_a_job_is_queued_again_when_it_helps(slurm, capsys, reason, job, again):
    calls, done = slurm(reason, job)
    assert done == again == ("requeue 7\n" in calls)
    said = capsys.readouterr().out
    assert ("queue job 7 again" in said) == again
    assert ("--resume auto" in said) == (job == INTERACTIVE)


def test_the_last_task_of_an_array_requeues_itself_alone(slurm, monkeypatch):
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    calls, done = slurm("SIGUSR1")
    assert done
    assert calls == "show job -o 7_3\nrequeue 7_3\n"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "6")  # another task, or left over from another job
    assert slurm("SIGUSR1")[0] == "show job -o 7\nrequeue 7\n"


def test_an_inherited_count_of_restarts_is_no_restart(slurm, monkeypatch):
    slurm("")
    assert not was_queued_again()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert was_queued_again(), "where Slurm does not say"
    slurm("", BATCH + " Restarts=0")
    assert not was_queued_again()
    slurm("", BATCH + " Restarts=2")
    assert was_queued_again()


def test_a_refused_requeue_is_told(slurm, capsys):
    _, done = slurm("SIGUSR1", status=1)
    assert not done
    out = capsys.readouterr().out
    assert "no such luck" in out
    assert "--resume auto" in out


def test_outside_slurm_nothing_is_called(slurm, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    interrupt.request("SIGUSR1")
    monkeypatch.setattr(module.subprocess, "run", lambda *_, **__: pytest.fail("called"))
    assert not requeue_if_slurm()


def test_statuses_are_documented():
    page = (Path(__file__).parents[2] / "docs/training.md").read_text()
    for name, status in vars(module).items():
        assert not name.startswith("EXIT_") or f"\n| {status} | " in page
