"""`tcformer confusion` as people call it."""

import csv
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image
from torch import nn

import tcformer.predict
from tcformer import cli
from tcformer.predict import Loaded, Preprocessing, load
from tcformer.training.record import read_record
from tcformer.weights.metadata import save_weights

NAMES = ("lilac, grün", "red", '"<b>"')
TABLES = ["classes.csv", "confusion.csv", "wrong.csv"]
PICTURES = ["confusion.png", "confusion.svg", "right.png", "wrong.png"]


@pytest.fixture
def folder(tmp_path, save_picture, monkeypatch):
    """Four pictures of two of the three classes, in a folder from which the command is called."""
    for name in ("red/a.png", "red/b.png", "lilac, grün/c.jpg", "lilac, grün/deep/d, e.png"):
        save_picture(tmp_path / "in" / "val" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *args):
    status = cli.main(["confusion", *map(str, args)])
    done = capsys.readouterr()
    return status, done.out, done.err


def rows(path):
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_all_that_is_printed_and_written(folder, weights, capsys):
    status, out, err = run(capsys, "in", "--checkpoint", weights, "--out", "report")
    assert status == 0
    assert err == f'note: 1 of the 3 classes of {weights} have no pictures in in/val: "<b>".\n'
    lines = out.splitlines()
    assert lines[0] == (
        "in/val: 4 pictures of 2 classes, 2 right: 50.0 % (15.0 to 85.0 %), "
        "mean over the classes 50.0 %"
    )
    assert lines[3].split()[:5] == ["lilac,", "grün", "2", "0", "0.0"]
    assert "  lilac, grün -> red: 2 of 2" in lines
    assert sorted(path.name for path in (folder / "report").iterdir()) == sorted(
        [*TABLES, *PICTURES, "confusion.json"]
    )

    # What is written is what `predict` says of the same pictures.
    loaded = load(checkpoint=weights)
    wrong = rows("report/wrong.csv")
    assert [row["image"] for row in wrong] == [
        "in/val/lilac, grün/c.jpg", "in/val/lilac, grün/deep/d, e.png"
    ]  # fmt: skip
    for row in wrong:
        guesses = {g.name: f"{g.probability:.4f}" for g in loaded.predict(row["image"]).guesses}
        assert (row["truth"], row["answer"]) == ("lilac, grün", "red")
        assert row["probability"] == guesses["red"]
        assert row["probability_of_truth"] == guesses["lilac, grün"]
    matrix = rows("report/confusion.csv")
    assert [row["red"] for row in matrix] == ["2", "2", "0"]
    assert [next(iter(row.values())) for row in matrix] == list(NAMES)
    classes = rows("report/classes.csv")
    assert classes[1]["recall"] == "1.0000"
    assert classes[1]["precision"] == "0.5000"
    assert classes[2]["recall"] == ""
    found = [text.text for text in ET.parse("report/confusion.svg").getroot().iter()]
    assert found.count("lilac, grün") == 2
    assert '"<b>"' not in found  # it is neither truth nor answer

    record = read_record("report/confusion.json")
    assert record["result"]["acc1"] == 50
    assert record["counts"] == [[0, 1, 2], [1, 1, 2]]
    assert record["classes"] == list(NAMES)
    (session,) = record["sessions"]
    assert session["command"].startswith("tcformer confusion in --checkpoint best.safetensors")
    assert {"commit", "machine", "versions", "processor_seconds"} <= session.keys()
    assert str(folder) not in (folder / "report/confusion.json").read_text()


def test_twice_the_same_whatever_the_batches(folder, weights, capsys):
    common = ("in/val", "--checkpoint", weights, "--pictures", 1, "--out")
    for name, *more in (("one", "--batch-size", 1), ("all", "--batch-size", 9, "--workers", 0)):
        assert run(capsys, *common, name, *more)[0] == 0
    for name in [*TABLES, *PICTURES]:
        assert (folder / "one" / name).read_bytes() == (folder / "all" / name).read_bytes(), name


def test_an_unreadable_picture(folder, weights, capsys):
    (folder / "in/val/red/0.png").write_bytes(b"\x89PNG nonsense")
    (folder / "report").mkdir()
    (folder / "report/wrong.csv").write_text("of an earlier run")
    status, _, err = run(capsys, "in", "--checkpoint", weights, "--out", "report")
    assert status == 2
    assert "error: cannot read in/val/red/0.png: it is not an image" in err
    assert "--skip-corrupt" in err
    assert [path.read_text() for path in (folder / "report").iterdir()] == ["of an earlier run"]
    status, out, err = run(
        capsys, "in", "--checkpoint", weights, "--skip-corrupt", "--out", "report", "--pictures", 0
    )
    assert status == 0
    assert "left out in/val/red/0.png: it is not an image" in err
    assert "1 picture that cannot be read left out" in out
    assert json.loads((folder / "report/confusion.json").read_text())["result"]["left_out"] == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["in"], "give the weights to ask"),
        (["missing", "--model", "tcformer_nano"], "there is no folder missing"),
        (["in", "--checkpoint", "W", "--pictures", "-1"], "from 0 to 100"),
        (["in", "--checkpoint", "W", "--out", "in/val/report"], "lies among the pictures"),
        (["in", "--checkpoint", "W", "--out", "in/val"], "lies among the pictures"),
        (["in", "--checkpoint", "W", "--out", "/dev/null/report"], "not a folder"),
        (["in", "--checkpoint", "W", "--batch-size", "0"], "at least 1"),
        (["in/val/red", "--checkpoint", "W"], "no class folders"),
        (["other", "--checkpoint", "W"], "'rad'; did you mean 'red'"),
    ],
)
def test_mistakes_are_one_sentence(folder, weights, save_picture, capsys, words, told):
    save_picture(folder / "other/rad/1.png")
    status, out, err = run(capsys, *(str(weights) if word == "W" else word for word in words))
    assert status == 2
    (error,) = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert error.startswith("error: ")
    assert told in error
    assert out == ""
    assert not (folder / "in/val/report").exists()


def test_all_right_says_so_and_leaves_no_older_picture(folder, weights, capsys):
    (folder / "report").mkdir()
    (folder / "report/wrong.png").write_bytes(b"of an earlier run")
    for path in sorted((folder / "in/val/lilac, grün").rglob("*.*")):
        path.rename(folder / "in/val/red" / path.name)
    (folder / "in/val/lilac, grün/deep").rmdir()
    (folder / "in/val/lilac, grün").rmdir()
    status, out, _ = run(capsys, "in", "--checkpoint", weights, "--out", "report", "--pictures", 1)
    assert status == 0
    assert "There is no wrong answer." in out
    assert not (folder / "report/wrong.png").exists()
    assert (folder / "report/wrong.csv").read_text().count("\n") == 1


class Thousand(nn.Module):
    """Says of every picture class 7, as sure of it as of 8, and of all others less."""

    def forward(self, images):
        scores = images.new_zeros(len(images), 1000)
        scores[:, 7:9] = 9
        return scores


def test_a_thousand_classes_ties_and_a_network_without_tokens(tmp_path, monkeypatch, capsys):
    names = tuple(f"kind {i:04d}" for i in range(1000))
    loaded = Loaded(
        Thousand(), "thousand", "classification", Preprocessing(8), names, named=True,
        recorded=names, source="thousand.pth",
    )  # fmt: skip
    monkeypatch.setattr(tcformer.predict, "load", lambda *_, **__: loaded)
    for name in names:
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "in" / name / "1.bmp")
    monkeypatch.chdir(tmp_path)
    status, out, _ = run(
        capsys, "in", "--checkpoint", "x", "--out", "o", "--pictures", 3, "--batch-size", 500,
        "--workers", 0,
    )  # fmt: skip
    assert status == 0
    assert "1000 pictures of 1000 classes, 1 right: 0.1 % " in out
    assert "The 20 of 1000 classes with the lowest recall:" in out
    assert "  kind 0000 -> kind 0007: 1 of 1" in out
    assert "  and 989 other pairs" in out
    assert "thousand merges no tokens" in out
    assert len(out.splitlines()) < 50
    with Image.open("o/confusion.png") as picture:
        assert min(picture.size) > 1000
    with open("o/confusion.csv") as stream:
        assert sum(1 for _ in stream) == 1001
    first, second, *_ = rows("o/wrong.csv")
    assert (first["image"], second["truth"]) == ("in/kind 0000/1.bmp", "kind 0001")
    assert float(first["probability"]) == pytest.approx(0.4711, abs=1e-3)
    assert np.asarray(Image.open("o/wrong.png")).shape[1] > 3 * 192


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tcformerv2_nano", "resnet18"])
def test_other_networks(folder, tmp_path, name, capsys):
    import timm

    import tcformer.models  # noqa: F401

    network = timm.create_model(name, num_classes=3)
    path = tmp_path / "other.safetensors"
    save_weights(network, path, {"model": name, "classes": "\n".join(NAMES), "input_size": 64})
    status, out, _ = run(capsys, "in", "--checkpoint", path, "--out", "report")
    assert status == 0
    assert ("merges no tokens" in out) is (name == "resnet18")
    drawn = [*(folder / "report").glob("right.png"), *(folder / "report").glob("wrong.png")]
    width = max(Image.open(path).width for path in drawn)
    # Cards of four panels, or up to four cards of one.
    assert width > (700 if name != "resnet18" else 192)
