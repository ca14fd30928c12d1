"""docs/results.md holds the figures of a committed record, and the record its commands."""

import hashlib
import json
import runpy
import sys

import pytest
from pages import ROOT

from tcformer.errors import UserError

sys.path.append(str(ROOT / "docs"))
import tables

PAGE = ROOT / "docs" / "results.md"


@pytest.fixture
def records():
    return tables.newest("finetuning"), tables.newest("photographs")


@pytest.fixture
def script(monkeypatch):
    """A script of benchmarks, as its names."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return lambda name: runpy.run_path(str(ROOT / "benchmarks" / f"{name}.py"))


def test_the_pictures_are_those_of_the_run(records):
    letters, photographs = records
    digests = letters["confusion"]["pictures"]
    assert set(digests) == {"letters-right.png", "letters-wrong.png"}
    for name, digest in digests.items():
        content = (PAGE.parent / "images" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest()[:16] == digest
        assert len(content) < 300_000
        assert f"(images/{name})" in PAGE.read_text()
    for name in photographs["confusion"]["pictures"]:
        assert not (PAGE.parent / "images" / name).exists(), "photographs are not published"


def test_what_was_measured_are_the_commands_of_the_page(records, script):
    letters, photographs = records
    names = script("finetuning")
    assert [row["command"] for row in letters["runs"]] == names["commands"]()[1:]
    assert letters["confusion"]["command"] == names["examination"]("letters")
    lines = names["commands"]("## With photographs", "<!-- photographs -->")
    assert lines[-1] == names["examination"]("pictures")
    assert [row["command"] for row in photographs["runs"]] == lines[:-1]
    assert photographs["confusion"]["command"] == lines[-1]


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
    record = records[1]
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


@pytest.mark.slow
def test_the_script_makes_a_record(tmp_path, monkeypatch, capsys):
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
