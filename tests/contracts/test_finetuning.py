"""docs/finetuning.md holds the figures of a committed record, and the record its commands."""

import json
import runpy
import sys

import pytest
from pages import ROOT

PAGE = ROOT / "docs" / "finetuning.md"


@pytest.fixture
def make(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return runpy.run_path(str(ROOT / "docs" / "make_finetuning.py"))


def test_the_page_is_that_of_the_newest_record(make):
    text = PAGE.read_text()
    assert make["page"](text, make["newest"]("finetuning")) == text, "run `make docs`"


def test_what_was_measured_are_the_commands_of_the_page(make):
    commands = runpy.run_path(str(ROOT / "benchmarks" / "finetuning.py"))["commands"]()
    assert [row["command"] for row in make["newest"]("finetuning")["runs"]] == commands[1:]


def test_the_words_of_the_page_follow_from_the_figures(make):
    accuracy = {
        row["name"]: sum(row["accuracy"]) / len(row["accuracy"])
        for row in make["newest"]("finetuning")["runs"]
    }
    # "Training all of it gives more. Without weights to start from, the same steps reach less."
    assert accuracy["full"] > accuracy["frozen"]
    assert accuracy["full"] > accuracy["scratch"]


def test_the_table(make):
    runs = [{"name": "full", "accuracy": [90.0, 91.0, 95.0], "seconds": [7.0, 30.0, 8.4],
             "epochs": 20}]  # fmt: skip
    record = {
        "runs": runs, "images": {"train": 120, "val": 500}, "file": "x.json", "command": "c",
        "date": "2026-01-02", "machine": {"processor": "P"}, "versions": {"torch": "2.0"},
    }  # fmt: skip
    assert "| all of the digits' network | 92.0 % (90.0, 91.0, 95.0) | 8 s |" in make["table"](
        record
    )


@pytest.mark.slow
def test_the_script_makes_a_record(make, tmp_path, monkeypatch, capsys):
    import torch

    from tcformer import create_model, save_weights

    save_weights(create_model("tcformer_nano", num_classes=10), tmp_path / "start.safetensors")
    script = runpy.run_path(str(ROOT / "benchmarks" / "finetuning.py"))
    words = f"--seeds 3 --start {tmp_path}/start.safetensors --output {tmp_path}/record.json"
    monkeypatch.setattr(sys, "argv", ["finetuning.py", *words.split()])
    names = script["main"].__globals__
    draw, frozen, *_ = script["commands"]()
    names["commands"] = lambda: [draw, f"{frozen} --epochs 1 --warmup-epochs 0"]
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    script["main"]()
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["images"] == {"train": 120, "val": 500}
    (row,) = record["runs"]
    assert row["name"] == "frozen"
    assert 0 <= row["accuracy"][0] <= 100
    assert row["seconds"][0] > 1
    assert str(tmp_path) not in (tmp_path / "record.json").read_text()
