"""Long runs: nothing that a run holds grows, and its log survives rotation."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import shutil
import threading

import pytest
from runs import make_images
from toy_task import ToyTask, config, train

from tcformer.runtime.distributed import World
from tcformer.runtime.signals import interrupt
from tcformer.tasks.runner import run
from tcformer.training.loop import fit
from tcformer.training.options import build

psutil = pytest.importorskip("psutil", reason="psutil looks at a run from outside")
from campaign_long import MIB, Sample, grown, watch  # noqa: E402 - needs psutil as well


def epochs_in(*files):
    return [json.loads(line)["epoch"] for file in files for line in file.read_text().splitlines()]


def rotated_after(epoch, rotate):
    """A task whose log is rotated before the given epoch, as a timer would."""

    class Rotating(ToyTask):
        def batches(self, now, start):
            if now == epoch:
                rotate()
            yield from super().batches(now, start)

    return Rotating


@pytest.mark.parametrize("way", ["rename", "copytruncate", "delete"])
def test_the_log_goes_on_after_rotation(tmp_path, way):
    """logrotate's two ways, and a log that somebody deleted: no line is lost, none is torn."""
    log, old = tmp_path / "log.txt", tmp_path / "log.txt.1"

    def rotate():
        shutil.copy(log, old)
        if way == "rename":
            log.replace(old)
        elif way == "copytruncate":
            os.truncate(log, 0)
        else:
            log.unlink()

    cfg = config(output_dir=str(tmp_path), epochs=5)
    fit(rotated_after(2, rotate)(cfg, steps=1), cfg, World())
    assert epochs_in(old) == [0, 1]
    assert epochs_in(log) == [2, 3, 4]
    assert b"\0" not in log.read_bytes()  # a file that was kept open would have a hole


def test_a_run_resumes_beside_a_rotated_log(tmp_path):
    cfg = config(output_dir=str(tmp_path), epochs=2)
    train(cfg, steps=1)
    (tmp_path / "log.txt").rename(tmp_path / "log.txt.1")
    train(cfg.replace(epochs=4, resume="auto"), steps=1)
    assert epochs_in(tmp_path / "log.txt") == [1, 2, 3]  # 1 was evaluated again: it may stand twice
    assert epochs_in(tmp_path / "log.txt.1") == [0, 1]


def test_a_leak_would_be_seen():
    """Without it the tests below could not fail."""
    flat = [Sample(10 * n, 800 * MIB, 400 * MIB, 12, 2, 1) for n in range(100)]
    assert grown(flat, 200)[1] == ""
    for name, each in {"memory": MIB // 10, "workers": MIB // 10, "files": 1, "threads": 1}.items():
        leaking = [
            dataclasses.replace(s, **{name: getattr(s, name) + s.step // 10 * each}) for s in flat
        ]
        assert grown(leaking, 200)[1].startswith(f"{name} grew")


@pytest.mark.slow(seconds=20)
def test_memory_files_and_processes_of_a_run_stay_flat(tmp_path):
    """`make faults` watches 2,000 steps in the same way."""
    told, problem = grown(watch(tmp_path, 160, 16), 48)
    assert not problem
    assert "from step 48 to 159" in told


@pytest.mark.slow(seconds=10)
def test_nothing_is_left_after_a_run(tmp_path):
    """Of three runs in one process, the third leaves no more files, threads or processes."""
    data = make_images(tmp_path / "data", 8, 6, classes=2)
    held = []
    for number in range(3):
        interrupt.clear()
        options = {
            "model": "tcformer_nano", "input_size": 32, "batch_size": 2, "epochs": 2,
            "num_workers": 2, "warmup_epochs": 0, "device": "cpu", "threads": 1,
            "data_path": str(data), "output_dir": str(tmp_path / str(number)),
        }  # fmt: skip
        run(build(options))
        gc.collect()
        this = psutil.Process()
        held.append((this.num_fds(), threading.active_count(), len(this.children(recursive=True))))
    assert held[2] == held[1]
    assert held[2][2] == held[0][2]
