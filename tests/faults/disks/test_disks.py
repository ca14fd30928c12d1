"""Disks that are full, read-only, limited or gone: the last good checkpoint stays, one sentence."""

from __future__ import annotations

import contextlib
import errno
import random
import shutil
import subprocess
import sys
import threading
import time

import pytest
from campaign_disks import WIDTH, FaultyDisk, broken, injected, may_mount, small_disk, train
from processes import Family, clean_env
from toy_task import ToyTask, config
from toy_task import train as train_toy

from tcformer.errors import UserError
from tcformer.runtime.distributed import World
from tcformer.runtime.signals import interrupt
from tcformer.training import checkpoint as ckpt
from tcformer.training import retention
from tcformer.training.log import RunLog
from tcformer.training.loop import Interrupted, fit
from tcformer.weights.safe_torch import safe_torch_load


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing happens to: its folder, its weights, its number of file operations."""
    folder = tmp_path_factory.mktemp("disks") / "whole"
    counting = FaultyDisk(stays=False)
    with counting.mounted():
        weights = train(folder)
    return folder, weights, counting.count


def names(folder):
    return {p.name for p in folder.iterdir()}


@pytest.mark.parametrize("seed", range(3))
def test_any_failing_operation_leaves_the_last_good_checkpoint(whole, tmp_path, seed):
    """Full, over quota, read-only, broken: at any write, sync, rename or creation of a file."""
    folder, weights, operations = whole
    what, problem = injected(random.Random(seed), tmp_path / "run", folder, weights, operations)
    assert not problem, what


def test_the_faulty_disk_really_fails(tmp_path):
    """Without it the test above could not fail."""
    with FaultyDisk(3, errno.ENOSPC, stays=False).mounted(), pytest.raises(UserError, match="full"):
        train(tmp_path / "run")


def during(epoch, action):
    """A toy task that does something to its disk at the beginning of an epoch."""

    class Meddling(ToyTask):
        def batches(self, now, start):
            if now == epoch:
                action()
            yield from super().batches(now, start)

    return Meddling


def test_a_folder_that_is_removed_while_the_run_writes(tmp_path):
    folder = tmp_path / "run"
    cfg = config(output_dir=str(folder))
    task = during(1, lambda: shutil.rmtree(folder))(cfg)
    with pytest.raises(UserError, match=r"cannot write .*run does not exist") as stopped:
        fit(task, cfg, World())
    assert "\n" not in str(stopped.value)
    assert len(task.losses) == 10  # found at the end of the epoch, when there is something to write
    assert not folder.exists()


def test_a_folder_that_becomes_a_file(tmp_path):
    folder = tmp_path / "run"

    def replace():
        folder.rename(tmp_path / "moved")
        folder.write_text("")

    cfg = config(output_dir=str(folder))
    with pytest.raises(UserError, match=r"cannot write .*run is not a folder"):
        fit(during(1, replace)(cfg), cfg, World())
    assert safe_torch_load(tmp_path / "moved/checkpoint.pth")["epoch"] == 0
    assert broken(tmp_path / "moved") == ""


def test_a_folder_that_cannot_be_made_is_told_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    cfg = config(output_dir=str(tmp_path / "file" / "run"))
    task = ToyTask(cfg)
    with pytest.raises(UserError, match=r"cannot create the folder .*a file is in the way"):
        fit(task, cfg, World())
    assert task.losses == []


def test_keep_last_keeps_the_newest(tmp_path):
    cfg = config(output_dir=str(tmp_path), epochs=10, save_every=3, keep_last=2, resume="auto")
    with pytest.raises(Interrupted):
        train_toy(cfg, steps=1, stop_at=1)
    ours = names(tmp_path)
    for foreign in ("checkpoint_99.pth", "checkpoint_old.pth", "checkpoint_2.pth.bak"):
        (tmp_path / foreign).write_text("of another run")
    (tmp_path / "checkpoint_1.pth").mkdir()
    foreign = names(tmp_path) - ours
    interrupt.clear()
    train_toy(cfg, steps=1)
    left = names(tmp_path) - foreign
    assert left == {
        "checkpoint.pth", "checkpoint_6.pth", "checkpoint_9.pth", "best.pth", "best.safetensors",
        "config.json", "log.txt",
    }  # fmt: skip
    assert foreign <= names(tmp_path)
    assert safe_torch_load(tmp_path / "checkpoint_9.pth")["epoch"] == 9


def test_keep_last_holds_while_the_run_goes_on(tmp_path):
    """Never more than N numbered files plus the one that was just written, and never fewer."""
    seen = []

    class Watching(ToyTask):
        def batches(self, epoch, start):
            seen.append(sorted(retention.numbered(tmp_path)))
            yield from super().batches(epoch, start)

    cfg = config(output_dir=str(tmp_path), epochs=5, save_every=1, keep_last=2)
    fit(Watching(cfg, steps=1), cfg, World())
    assert seen == [[], [0], [0, 1], [1, 2], [2, 3]]
    assert sorted(retention.numbered(tmp_path)) == [3, 4]


def test_zero_keeps_all_and_nothing_to_keep_is_refused(tmp_path):
    train_toy(config(output_dir=str(tmp_path), epochs=4, save_every=1), steps=1)
    assert sorted(retention.numbered(tmp_path)) == [0, 1, 2, 3]
    with pytest.raises(UserError, match="--keep-last does nothing with --save-every 0"):
        config(save_every=0, keep_last=2)
    with pytest.raises(UserError, match="--keep-last is -1, but at least 0"):
        config(keep_last=-1)


def test_what_killed_processes_left_is_cleared(tmp_path):
    ours = tmp_path / ".checkpoint.pth.1-0123abcd.tmp"
    foreign = tmp_path / ".notes.txt.1-0123abcd.tmp"
    for path in (ours, foreign):
        path.write_text("half")
    train_toy(config(output_dir=str(tmp_path), epochs=1))
    assert not ours.exists()
    assert foreign.exists()


@pytest.mark.parametrize(("free", "said"), [(10**9, ""), (4_000, "NOTICE"), (500, "refused")])
def test_the_room_is_looked_at_before_training(tmp_path, monkeypatch, capsys, free, said):
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(retention.shutil, "disk_usage", lambda _: usage)
    cfg = config(output_dir=str(tmp_path / "run"), epochs=3, save_every=1)
    task = ToyTask(cfg, steps=1)  # 99 numbers: about 1200 bytes a checkpoint, 5 of them
    if said == "refused":
        with pytest.raises(UserError, match=r"run has 0\.0 MiB free, too little for a checkpoint"):
            fit(task, config(output_dir=cfg.run.output_dir, ema=True, ema_decay=0.9), World())
        assert task.losses == []
        return
    fit(task, cfg, World())
    out = capsys.readouterr().out
    assert ("this run leaves up to 5 checkpoints" in out) == bool(said)
    assert ("--keep-last N" in out) == bool(said)


def test_output_that_cannot_be_printed_is_a_sentence():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "tcformer", "--help"],
            stdout=full, stderr=subprocess.PIPE, text=True, env=clean_env(), check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("error: the output cannot be written: the disk is full")


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))  # as a quota: the kernel says EFBIG
from tcformer.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow(seconds=5)
def test_a_limit_ends_all_processes_with_one_sentence(tmp_path):
    family = Family(tmp_path, "tcformer.tasks.runner")
    out = tmp_path / "run"
    try:
        began = time.monotonic()
        ended = family.run(
            *(LIMITED, 2, "train", "--model", "tcformer_nano", "--data-set", "fake"),
            *("--input-size", "32", "--batch-size", "64", "--device", "cpu", "--epochs", "1"),
            *("--num_workers", "0", "--output_dir", str(out), "--save-steps", "1"),
        )
        assert time.monotonic() - began < 60
    finally:
        family.close()
    assert ended[0].status == 2
    assert ended[1].status != 0  # 1 where the first was gone before it could be asked
    told = [process.err for process in ended if process.err.strip()]
    assert len(told) == 1, told
    assert told[0].startswith(f"error: cannot write {out / 'checkpoint.pth'}: the disk is full or")
    assert told[0].count("\n") == 1
    assert names(out) == {"config.json", "record.json"}  # no checkpoint, no temporary file


@pytest.fixture
def mountable(tmp_path):
    if not may_mount(tmp_path / "mount"):
        pytest.skip("mounting a file system needs root")


@pytest.mark.slow(seconds=5)
def test_a_disk_too_full_for_tensorboard(mountable, tmp_path, capfd):
    """It writes in a thread of its own, whose traceback must not reach anybody."""
    pytest.importorskip("tensorboard", reason="the events are TensorBoard's")
    folder = tmp_path / "run"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True)
    before = threading.excepthook
    try:
        cfg = config(output_dir=str(folder), tensorboard=True)
        log = RunLog(cfg, World(), first_epoch=0, resumed=False)
        log.write({"train_loss": 1.0, "epoch": 0})
        with open(folder / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(512))
        log.path = None  # the events alone

        def write():
            for epoch in range(1, 99):
                log.write({**{f"train_{n}": 1.0 for n in range(60)}, "epoch": epoch})

        with pytest.raises(UserError, match="cannot write the TensorBoard events: the disk is fu"):
            write()
        log.close()
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
    assert "Traceback" not in capfd.readouterr().err
    assert threading.excepthook == before


@pytest.mark.slow(seconds=5)
def test_a_disk_that_is_really_full(mountable, tmp_path):
    whole = tmp_path / "whole"
    weights = train(whole, WIDTH)
    for seed in (0, 4):
        folder = tmp_path / str(seed)
        what, problem = small_disk(random.Random(seed), folder, whole, weights)
        assert not problem, what


@pytest.mark.slow(seconds=5)
def test_a_disk_that_becomes_read_only(mountable, tmp_path):
    """As ext4 does after an error: every write fails from then on, deletions too."""
    folder = tmp_path / "run"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=True)
    try:
        cfg = config(output_dir=str(folder))
        command = ["mount", "-o", "remount,ro", str(folder)]
        task = during(1, lambda: subprocess.run(command, check=True))(cfg)
        ckpt.seed_everything(cfg.run.seed, 0)
        with pytest.raises(UserError, match=r"cannot write .*: no permission to write"):
            fit(task, cfg, World())
        assert safe_torch_load(folder / "checkpoint.pth")["epoch"] == 0
        assert broken(folder) == ""
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
        again = train_toy(config(output_dir=str(folder), resume="auto"))
        assert again.losses == train_toy(config()).losses[5:]
    finally:
        subprocess.run(["umount", str(folder)], check=True)
