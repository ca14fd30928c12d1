"""log.txt across resumes, TensorBoard, and the progress bar."""

from __future__ import annotations

import errno
import json
import sys

import pytest
import torch
from toy_task import config, train

from tcformer.errors import UserError
from tcformer.runtime.distributed import World
from tcformer.training.log import RunLog
from tcformer.training.metrics import MetricLogger, Progress, SmoothedValue
from tcformer.training.progress import progress_bar


def epochs_of(folder):
    return [json.loads(line)["epoch"] for line in (folder / "log.txt").read_text().splitlines()]


def test_a_resume_takes_off_what_is_done_again_and_no_more(tmp_path):
    file = tmp_path / "log.txt"
    rows = [{"epoch": e} for e in (0, 1, 2, 3, 0, 1, 2)]  # an older run, then this one
    file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"epoch": 3, "tra')
    RunLog(config(output_dir=str(tmp_path)), World(), first_epoch=1, resumed=True)
    assert epochs_of(tmp_path) == [0, 1, 2, 3, 0]


def test_a_new_run_leaves_an_old_log_to_its_run(tmp_path):
    (tmp_path / "log.txt").write_text('{"epoch": 5}\n')
    train(config(output_dir=str(tmp_path), epochs=1))
    assert epochs_of(tmp_path / "earlier-1") == [5]
    assert epochs_of(tmp_path) == [0]


def test_a_log_that_cannot_be_written_is_a_sentence(tmp_path):
    log = RunLog(config(output_dir=str(tmp_path)), World(), first_epoch=0, resumed=False)
    (tmp_path / "log.txt").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*log\.txt: Is a directory"):
        log.write({"epoch": 0})


def test_no_part_of_a_line_stays_where_the_disk_is_full(tmp_path, monkeypatch):
    """A later run adds to the log: what it adds must not continue half a line."""

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    log = RunLog(config(output_dir=str(tmp_path)), World(), first_epoch=0, resumed=False)
    log.write({"epoch": 0})
    with monkeypatch.context() as patch:
        patch.setattr("tcformer.training.log.os.fsync", full)
        with pytest.raises(UserError, match=r"cannot write .*log\.txt: the disk is full"):
            log.write({"epoch": 1})
    log.write({"epoch": 2})
    assert epochs_of(tmp_path) == [0, 2]


def test_tensorboard_gets_the_curves(tmp_path):
    pytest.importorskip("tensorboard", reason="the curves are TensorBoard's")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(config(output_dir=str(tmp_path), epochs=2, tensorboard=True))
    events = EventAccumulator(str(tmp_path)).Reload()
    names = ["test/acc1", "test/acc5", "test/loss", "train/loss", "train/lr"]
    assert sorted(events.Tags()["scalars"]) == names
    assert [event.step for event in events.Scalars("train/loss")] == [0, 1]


def test_missing_tensorboard_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"install tcformer\[train\]"):
        train(config(output_dir=str(tmp_path), epochs=1, tensorboard=True))


def test_smoothed_value_by_hand():
    series = SmoothedValue("{median} {avg} {global_avg} {value}", window=4)
    for value in (9.0, 1.0, 4.0, 2.0, 3.0):
        series.update(value)
    assert str(series) == "2.0 2.5 3.8 3.0"  # median of an even number: the lower, as published
    weighted = SmoothedValue()
    weighted.update(1.0, n=3)
    weighted.update(5.0, n=1)
    assert weighted.global_avg == 2.0
    again = SmoothedValue()
    again.load_state_dict(json.loads(json.dumps(weighted.state_dict())))
    again.update(2.0)
    weighted.update(2.0)
    assert (str(again), again.total, again.count) == (str(weighted), weighted.total, weighted.count)


def test_lines_start_where_the_run_resumed(capsys):
    log = MetricLogger(World(device=torch.device("cpu")))
    log.add("loss")
    for step, _ in log.log_every(range(3), 105, "Epoch: [2]", start=102):
        log.meters["loss"].update(step)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Epoch: [2]  [104/105]  eta: 0:00:00  loss: ")
    assert lines[1].startswith("Epoch: [2] Total time: ")


def test_the_bar_shows_where_the_run_is(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar(wanted=True) as draw:
        draw(Progress("train", 2, 15, 7, 22, {"lr": 0.001, "loss": 1.25}))
        draw(Progress("test", 2, 15, 1, 6, {"acc1": 50.0}))
        print("a line above the bar")
        draw(Progress("test", -1, 0, 6, 6, {"acc1": 75.0}))
    out = capsys.readouterr().out
    assert "a line above the bar" in out
    assert "evaluation" in out
    assert "6/6" in out
    assert "acc1 75" in out
