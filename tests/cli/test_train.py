"""The verbs train and evaluate: parse, run, exit statuses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tcformer import cli
from tcformer.cli import evaluate, train
from tcformer.runtime.signals import EXIT_FAILED, EXIT_INTERRUPTED
from tcformer.tasks import runner
from tcformer.training.loop import Interrupted, NotFinite


@pytest.fixture
def seen(monkeypatch):
    """What would be run."""
    configurations = []
    monkeypatch.setattr(runner, "run", lambda cfg, **_: configurations.append(cfg))
    return configurations


def test_evaluate_is_train_with_eval(seen):
    words = ["configs/tcformer/tcformer.py", "--data-path", "D"]
    assert train.main([*words, "--eval"]) == 0
    assert evaluate.main(words) == 0
    assert seen[0] == seen[1]
    assert seen[0].run.eval


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Interrupted("Stopped by SIGTERM."), EXIT_INTERRUPTED),
        (NotFinite("Loss is nan"), EXIT_FAILED),
    ],
)
def test_exit_statuses(monkeypatch, capsys, error, status):
    def stop(cfg, **_):
        raise error

    monkeypatch.setattr(runner, "run", stop)
    assert train.main([]) == status
    captured = capsys.readouterr()
    assert str(error) in captured.out + captured.err


def test_a_mistake_exits_with_2_and_one_line():
    command = [sys.executable, "-m", "tcformer", "train", "--bath-size", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --bath-size is not an option")
    assert done.stderr.count("\n") == 1


def test_sigterm_saves_and_the_run_goes_on(tmp_path, capsys):
    """A real process, stopped by a real signal in the middle of an epoch, then resumed here."""
    command = [
        sys.executable, "-m", "tcformer", "train", "--model", "tcformer_nano", "--data-set", "fake",
        "--output_dir", str(tmp_path), "--epochs", "1", "--batch-size", "16", "--threads", "1",
        "--input-size", "32", "--device", "cpu", "--num_workers", "0",
    ]  # fmt: skip
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Epoch: [0]  [ 0/16]"):
            process.send_signal(signal.SIGTERM)
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == EXIT_INTERRUPTED, err
    assert f"Stopped by SIGTERM; saved {tmp_path / 'checkpoint.pth'}." in out
    assert cli.main([*command[3:], "--resume", "auto"]) == 0
    out = capsys.readouterr().out
    assert f"resume from{tmp_path / 'checkpoint.pth'}" in out
    assert "Accuracy of the network on the 256 test images:" in out
