"""docs/finetuning.md holds the figures of a committed record, and the record its commands."""

import hashlib
import json
import runpy
import sys

import pytest
from pages import ROOT

from tcformer.errors import UserError

PAGE = ROOT / "docs" / "finetuning.md"


@pytest.fixture
def make(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return runpy.run_path(str(ROOT / "docs" / "make_finetuning.py"))


@pytest.fixture
def records(make):
    return make["measured"]()


@pytest.fixture
def script(monkeypatch):
    """A script of benchmarks, as its names."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return lambda name: runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"))


def test_the_page_and_its_matrices_are_those_of_the_newest_records(make, records):
    text = PAGE.read_text()
    assert make["page"](text, *records) == text, "run `make docs`"
    for name, content in make["plots"](*records).items():
        assert (PAGE.parent / "images" / name).read_text() == content, "run `make docs`"


def test_the_pictures_are_those_of_the_run(records):
    letters, photographs = records
    digests = letters["confusion"]["pictures"]
    assert set(digests) == {"letters-right.png", "letters-wrong.png"}
    for name, digest in digests.items():
        content = (PAGE.parent / "images" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest()[:16] == digest
        assert len(content) < 300_000
        assert f"(images/{name})" in PAGE.read_text()
    for name in photographs["confusion"]["pictures"] if photographs else ():
        assert not (PAGE.parent / "images" / name).exists(), "photographs are not published"


def test_what_was_measured_are_the_commands_of_the_page(records, script):
    letters, photographs = records
    names = script("finetuning")
    assert [row["command"] for row in letters["runs"]] == names["commands"]()[1:]
    assert letters["confusion"]["command"] == names["examination"]("letters")
    lines = names["commands"]("## With photographs", "<!-- photographs -->")
    assert lines[-1] == names["examination"]("pictures")
    if photographs is None:
        return
    assert [row["command"] for row in photographs["runs"]] == lines[:-1]
    assert photographs["confusion"]["command"] == lines[-1]


def test_what_is_examined_is_the_second_network_of_the_first_seed(make, records):
    for record in filter(None, records):
        (full,) = [row for row in record["runs"] if row["name"] == "full"]
        found = make["confusion"](record)
        assert found.pictures == record["images"]["val"]
        assert full["accuracy"][0] == pytest.approx(100 * found.accuracy, abs=0.01)


def test_photographs_are_split_without_overlap(records, script):
    names = script("photographs")
    groups = {name: names["numbers"](text) for name, text in names["GROUPS"].items()}
    everything = [number for numbers in groups.values() for number in numbers]
    assert len(set(everything)) == len(everything)
    assert 0 <= min(everything) <= max(everything) < 1000
    chosen = names["chosen"]()
    drawn = [number for numbers in chosen.values() for number in numbers]
    assert len(set(drawn)) == len(drawn) == 6 * 59
    for (split, name), numbers in chosen.items():
        assert len(numbers) == {"train": 40, "val": 19}[split]
        assert set(numbers) <= set(groups[name])
    if (record := records[1]) is None:
        return
    assert record["images"] == {"train": 240, "val": 114}
    assert record["groups"] == names["GROUPS"]
    assert record["constant"] == pytest.approx(100 / 6, abs=0.01)
    assert record["confusion"]["classes"] == sorted(groups)


def test_a_folder_of_photographs(script, tmp_path, save_picture, monkeypatch):
    from timm.data import ImageNetInfo

    names = script("photographs")
    synsets = ImageNetInfo("imagenet-1k").label_names()
    chosen = {("train", "bird"): [7, 9], ("val", "bird"): [8], ("val", "dog"): [151]}
    globals_ = names["make_folder"].__globals__
    monkeypatch.setitem(globals_, "chosen", lambda: chosen)
    for number in (7, 8, 9):
        for file in ("b.JPEG", "a.JPEG", "notes.txt"):
            save_picture(tmp_path / "in" / synsets[number] / file, format="jpeg")
    with pytest.raises(UserError, match=f"{synsets[151]} has no photograph"):
        names["make_folder"](tmp_path / "in", tmp_path / "half")
    del chosen["val", "dog"]
    names["make_folder"](tmp_path / "in", tmp_path / "out")
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.JPEG"))
    assert found == [
        f"train/bird/{synsets[7]}.JPEG", f"train/bird/{synsets[9]}.JPEG",
        f"val/bird/{synsets[8]}.JPEG",
    ]  # fmt: skip
    first = (tmp_path / "in" / synsets[8] / "a.JPEG").read_bytes()
    assert (tmp_path / "out/val/bird" / f"{synsets[8]}.JPEG").read_bytes() == first


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
        "date": "2026-01-02", "machine": {"processor": "P", "cores": 2},
        "versions": {"torch": "2.0"}, "load_average_at_start": 2.0,
    }  # fmt: skip
    assert "| all of the digits' network | 92.0 % (90.0, 91.0, 95.0) | 8 s |" in make["table"](
        record
    )
    assert "busy" not in make["table"](record)
    assert "(a load of 9 on 2 cores)" in make["table"](record | {"load_average_at_start": 9.2})


def test_the_photographs_table(make):
    runs = [{"name": name, "accuracy": [40.0, 50.0], "seconds": [9.0, 8.0], "epochs": 20}
            for name in ("frozen", "full", "scratch")]  # fmt: skip
    record = {
        "runs": runs, "images": {"train": 4, "val": 3}, "file": "x.json", "command": "c",
        "date": "2026-01-02", "machine": {"processor": "P", "cores": 2},
        "versions": {"torch": "2.0"}, "load_average_at_start": None, "constant": 66.67,
        "start": {"about": "nothing"},
        "confusion": {"classes": ["cat", "dog"], "counts": [[2, 0], [1, 0]]},
    }  # fmt: skip
    text = make["photographs"](record)
    assert "| all of the network | 45.0 % (40.0, 50.0) | 8 s |" in text
    assert "| nothing: always the same answer | 66.7 % | |" in text
    assert "2 of 3 are right: 66.7 %" in text
    assert "dog for cat (1 of 1)" in text
    assert "No record" in make["photographs"](None)


@pytest.mark.slow
def test_the_script_makes_a_record(make, tmp_path, monkeypatch, capsys):
    import torch

    from tcformer import create_model, save_weights

    save_weights(create_model("tcformer_nano", num_classes=10), tmp_path / "start.safetensors")
    script = runpy.run_path(str(ROOT / "benchmarks" / "finetuning.py"))
    words = f"--seeds 3 --start {tmp_path}/start.safetensors --output {tmp_path}/record.json"
    words += f" --images {tmp_path}"
    monkeypatch.setattr(sys, "argv", ["finetuning.py", *words.split()])
    names = script["main"].__globals__
    draw, frozen, *_ = script["commands"]()
    short = "--epochs 1 --warmup-epochs 0"
    frozen = frozen.replace("--output_dir", f"{short} --output_dir")
    names["commands"] = lambda: [draw, frozen]
    look = "tcformer confusion letters --checkpoint runs/letters-frozen/checkpoint.pth --out out"
    names["examination"] = lambda _: look
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    script["main"]()
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["images"] == {"train": 120, "val": 500}
    (row,) = record["runs"]
    assert row["name"] == "frozen"
    assert 0 <= row["accuracy"][0] <= 100
    assert row["seconds"][0] > 1
    counts = record["confusion"]["counts"]
    assert sum(map(sum, counts)) == 500
    assert sum(counts[i][i] for i in range(10)) == pytest.approx(5 * row["accuracy"][0])
    for name, digest in record["confusion"]["pictures"].items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest().startswith(digest)
    assert str(tmp_path) not in (tmp_path / "record.json").read_text()
