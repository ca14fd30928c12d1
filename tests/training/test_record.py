"""The record of a run: what it tells, through interruptions, resumes and failures."""

from __future__ import annotations

import json

import pytest
import torch
from toy_task import ToyTask, config

from tcformer.errors import UserError
from tcformer.runtime.distributed import World
from tcformer.runtime.signals import interrupt
from tcformer.training import record as module
from tcformer.training.loop import Interrupted, fit
from tcformer.training.record import RunRecord, read_record, recording


def new(cfg, world=None, command=None):
    return RunRecord(cfg.run, world or World(), command, config=cfg.to_json())


def train(cfg, world=None, command=("train", "config.py"), **options):
    interrupt.clear()
    world = world or World()
    with recording(new(cfg, world, command)) as record:
        try:
            return fit(ToyTask(cfg, **options), cfg, world)
        except Interrupted as stop:
            record.close("interrupted", str(stop))


def test_a_record_tells_what_its_figures_depend_on(tmp_path):
    cfg = config(output_dir=str(tmp_path), seed=5, finetune="/somewhere/private/weights.pth")
    command = ["train", "/private/somebody/c.py", "--output_dir=/private/somebody/out"]
    result = train(cfg, command=command)
    text = (tmp_path / "record.json").read_text()
    kept = read_record(tmp_path / "record.json")
    assert "somebody" not in text
    assert "/somewhere" not in text
    assert str(tmp_path) not in text
    assert (kept["kind"], kept["status"], kept["seed"]) == ("training", "finished", 5)
    assert kept["config"]["finetune"] == "weights.pth"
    assert kept["best"] == {"epoch": result.best_epoch, "acc1": result.best}
    log = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    for entry, line in zip(kept["epochs"], log, strict=True):
        assert entry.pop("seconds") >= 0
        assert entry == line
    (session,) = kept["sessions"]
    assert session["command"] == "tcformer train c.py --output_dir=out"
    assert session["versions"]["torch"] == torch.__version__
    assert session["machine"]["device"] == "cpu"
    assert {"commit", "changed", "settings", "processes", "launcher", "ended"} <= session.keys()
    assert kept["wall_seconds"] == session["wall_seconds"] > 0
    assert kept["processor_seconds"] == session["processor_seconds"] > 0
    assert kept["peak_memory"]["host_bytes"] > 10_000_000
    assert kept["peak_memory"]["gpu_bytes"] is None


def test_a_run_in_parts_has_one_record_of_several_sessions(tmp_path):
    whole, parts = (config(output_dir=str(tmp_path / n), resume="auto") for n in ("a", "b"))
    train(whole)
    train(parts, stop_at=2)  # before anything is finished
    first = read_record(tmp_path / "b" / "record.json")
    assert (first["status"], first["epochs"], first["best"]) == ("interrupted", [], None)
    assert "Stopped by SIGTERM" in first["sessions"][0]["reason"]
    assert str(tmp_path) not in first["sessions"][0]["reason"]
    train(parts, stop_at=6)
    train(parts)
    one, several = (read_record(tmp_path / n / "record.json") for n in ("a", "b"))
    for entry in one["epochs"] + several["epochs"]:
        del entry["seconds"]
    assert several["epochs"] == one["epochs"]
    assert several["best"] == one["best"]
    sessions = several["sessions"]
    assert [s["status"] for s in sessions] == ["interrupted", "interrupted", "finished"]
    began = [(s["resumed"], s["first_epoch"]) for s in sessions]
    assert began == [(False, 0), (True, 0), (True, 1)]
    for name in ("wall_seconds", "processor_seconds"):
        assert several[name] == pytest.approx(sum(s[name] for s in sessions))


def test_a_session_that_died_without_a_word_is_killed(tmp_path, monkeypatch):
    cfg = config(output_dir=str(tmp_path), resume="auto", epochs=2)
    record = new(cfg)
    record.begin({"metric": "acc1"})
    train(cfg)
    assert [s["status"] for s in read_record(tmp_path / "record.json")["sessions"]] == [
        "killed", "finished",
    ]  # fmt: skip


def test_another_run_in_the_same_folder_leaves_the_first_record(tmp_path):
    for seed in range(3):
        train(config(output_dir=str(tmp_path), epochs=1, seed=seed))
    places = {str(p.relative_to(tmp_path)): p for p in tmp_path.rglob("record*.json")}
    assert {name: read_record(path)["seed"] for name, path in places.items()} == {
        "earlier-1/record.json": 0,
        "earlier-2/record.json": 1,
        "record.json": 2,
    }
    assert len(read_record(tmp_path / "record.json")["sessions"]) == 1


def test_a_failure_is_recorded_with_its_reason(tmp_path):
    class Broken(ToyTask):
        def evaluate(self, *_):
            raise OSError("cannot read /data/private/a.png")

    cfg = config(output_dir=str(tmp_path))
    with pytest.raises(OSError), recording(new(cfg)):
        fit(Broken(cfg), cfg, World())
    kept = read_record(tmp_path / "record.json")
    assert (kept["status"], kept["sessions"][0]["status"]) == ("failed", "failed")
    assert kept["sessions"][0]["reason"] == "OSError: cannot read a.png"


def test_only_the_main_process_writes_and_only_where_it_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert new(config()).path is None
    assert new(config(output_dir="out"), World(rank=1, size=2)).path is None
    assert new(config(output_dir="out", dry_run=True)).path is None
    assert str(new(config(output_dir="out", eval=True)).path) == "out/evaluation.json"
    train(config(record="sub/mine.json", epochs=1))
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.*")] == ["sub/mine.json"]
    with recording(new(config(output_dir="never"))):
        pass  # refused before it began
    assert not (tmp_path / "never").exists()


def test_numbers_that_json_lacks_become_null(tmp_path):
    record = new(config(record=str(tmp_path / "r.json")))
    record.begin({"metric": "acc1"})
    record.epoch({"epoch": 0, "test_acc1": float("nan"), "train_loss": float("inf")})
    record.epoch({"epoch": 1, "test_acc1": 3.0})
    kept = read_record(tmp_path / "r.json")
    assert kept["epochs"][0]["test_acc1"] is kept["epochs"][0]["train_loss"] is None
    assert kept["best"] == {"epoch": 1, "acc1": 3.0}


@pytest.mark.parametrize("cause", [KeyError("the cause"), None])
def test_the_cause_of_a_failure_is_not_hidden_by_its_record(tmp_path, monkeypatch, cause):
    def full(*_):
        raise UserError("the disk is full")

    record = new(config(record=str(tmp_path / "r.json")))
    record.begin({})
    monkeypatch.setattr(module, "atomic_write", full)

    def end():
        with recording(record):
            if cause:
                raise cause

    with pytest.raises(KeyError if cause else UserError):
        end()


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"form": 1}', '{"form": "tcformer run 1"}',
     '{"form": "tcformer run 1", "epochs": [1], "sessions": []}',
     '{"form": "tcformer run 1", "epochs": [{}], "sessions": [{}]}'],
)  # fmt: skip
def test_what_is_no_record_is_refused_and_set_aside(tmp_path, content, capsys):
    path = tmp_path / "record.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"record\.json"):
        read_record(path)
    record = new(config(output_dir=str(tmp_path)))
    record.begin({}, resumed=True)
    assert "the record begins anew" in capsys.readouterr().out
    assert (tmp_path / "record-1.json").read_text() == content
    assert read_record(path)["epochs"] == []
