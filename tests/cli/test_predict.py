"""`tcformer predict` as people call it."""

import csv
import io
import json
import os
import subprocess
import sys

import pytest

from tcformer import cli
from tcformer.predict import load


@pytest.fixture
def folder(tmp_path, save_picture, monkeypatch):
    """Three pictures in a folder, from which the command is called."""
    for name in ("a.png", "b/c.jpg", "d.png"):
        save_picture(tmp_path / "in" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(capsys, *args):
    status = cli.main(["predict", *map(str, args)])
    done = capsys.readouterr()
    return status, done.out, done.err


def test_as_a_process(folder, weights):
    (folder / "in" / "broken.png").write_bytes(b"\x89PNG nonsense")
    done = subprocess.run(
        [sys.executable, "-m", "tcformer", "predict", "in", "--checkpoint", weights],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: cannot read in/broken.png: it is not an image of a known format"
    ]
    lines = done.stdout.splitlines()
    assert [line for line in lines if line[0] != " "] == ["in/a.png", "in/b/c.jpg", "in/d.png"]
    assert len(lines) == 3 * 4
    best = load(checkpoint=weights).predict("in/a.png").best
    assert lines[1].split("%")[1].strip() == f"{best.name} ({best.index})"


def test_the_formats_say_the_same(folder, weights, capsys):
    common = ("in", "--checkpoint", weights, "--topk", 2, "--batch-size")
    status, text, _ = run(capsys, *common, 1, "--format", "json")
    whole = json.loads(text)
    assert status == 0
    assert [entry["image"] for entry in whole] == ["in/a.png", "in/b/c.jpg", "in/d.png"]
    for entry in whole:
        first, second = entry["predictions"]
        assert first.keys() == {"class", "name", "probability"}
        assert 1 >= first["probability"] >= second["probability"] > 0
    _, text, _ = run(capsys, *common, 2, "--format", "jsonl", "--workers", 0)
    assert [json.loads(line) for line in text.splitlines()] == whole
    _, text, _ = run(capsys, *common, 3, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == ["image", "rank", "class", "name", "probability"]
    flat = [(entry["image"], guess) for entry in whole for guess in entry["predictions"]]
    for row, (image, guess) in zip(rows, flat, strict=True):
        assert (row["image"], row["name"]) == (image, guess["name"])
        assert (int(row["class"]), float(row["probability"])) == (
            guess["class"],
            guess["probability"],
        )
    assert [row["rank"] for row in rows] == ["1", "2"] * 3


@pytest.mark.parametrize("ending", ["json", "csv", "txt"])
def test_a_file_has_what_the_screen_has(folder, weights, capsys, ending):
    form = {"txt": "table"}.get(ending, ending)
    _, shown, _ = run(capsys, "in", "--checkpoint", weights, "--format", form)
    status, text, _ = run(capsys, "in", "--checkpoint", weights, "--out", f"sub/out.{ending}")
    assert (status, text) == (0, f"wrote sub/out.{ending}: 3 images\n")
    assert (folder / "sub" / f"out.{ending}").read_text(encoding="utf-8") == shown
    assert os.listdir(folder / "sub") == [f"out.{ending}"]


def test_a_run_that_fails_leaves_the_old_file(folder, weights, capsys, monkeypatch):
    (folder / "out.json").write_text("old")
    import tcformer.predict.predict as predicting

    real = predicting._probabilities

    def failing(loaded, batch, *rest):
        yield from real(loaded, batch, *rest)
        if "in/b/c.jpg" in dict(batch):
            raise KeyboardInterrupt

    monkeypatch.setattr(predicting, "_probabilities", failing)
    args = ("in", "--checkpoint", weights, "--out", "out.json", "--batch-size", 1)
    status, _, _ = run(capsys, *args)
    assert status == 130
    assert (folder / "out.json").read_text() == "old"
    assert sorted(os.listdir(folder)) == ["in", "out.json"]


def test_names_can_come_from_a_list_and_an_image_through_a_pipe(
    folder, weights, capsys, monkeypatch
):
    (folder / "names.txt").write_bytes(b"in/d.png\r\n\nin/a.png\nin\n")
    args = ("--checkpoint", weights, "--format", "csv", "--topk", 1)
    _, text, _ = run(capsys, "--list", "names.txt", *args)
    rows = text.splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == [
        *("in/d.png", "in/a.png", "in/a.png", "in/b/c.jpg", "in/d.png"),
    ]
    piped = io.TextIOWrapper(io.BytesIO((folder / "in" / "d.png").read_bytes()))
    monkeypatch.setattr("sys.stdin", piped)
    _, text, _ = run(capsys, "-", *args)
    assert text.splitlines()[1] == rows[0].replace("in/d.png", "-")


@pytest.mark.parametrize(
    ("encoding", "piped"), [("utf-8-sig", True), ("utf-16", False), ("utf-16-be", True)]
)
def test_a_byte_order_mark_is_no_part_of_a_name(
    folder, weights, capsys, monkeypatch, encoding, piped
):
    os.rename(folder / "in" / "d.png", folder / "in" / "dé.png")
    mark = "\ufeff" * (encoding == "utf-16-be")
    content = f"{mark}in/dé.png\r\n\r\nin/a.png\r\n".encode(encoding)
    (folder / "names.txt").write_bytes(content)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(content))))
    args = ("--checkpoint", weights, "--format", "csv", "--topk", 1)
    status, text, _ = run(capsys, "--list", "-" if piped else "names.txt", *args)
    assert status == 0
    assert [row.split(",")[0] for row in text.splitlines()[1:]] == ["in/dé.png", "in/a.png"]


def test_odd_names_stay_one_record(folder, weights, capsys):
    for name in (b"new\nline.png", b'\xff,".png', "ü\x1b[31m.png".encode()):
        os.link(folder / "in" / "a.png", os.fsencode(folder / "in") + b"/" + name)
    args = ("in", "--checkpoint", weights, "--topk", 1, "--format")
    _, text, _ = run(capsys, *args, "jsonl")
    names = {json.loads(line)["image"] for line in text.splitlines()}
    assert {os.fsencode(name) for name in names} >= {b"in/new\nline.png", b'in/\xff,".png'}
    _, text, _ = run(capsys, *args, "csv")
    assert len(list(csv.reader(io.StringIO(text)))) == 1 + 6
    _, text, _ = run(capsys, *args, "table")
    assert len(text.splitlines()) == 12
    assert "\x1b" not in text


def test_the_status_says_whether_some_or_none_could_be_read(folder, weights, capsys):
    (folder / "text.png").write_text("no image")
    args = ("--checkpoint", weights, "--format", "json")
    status, text, errors = run(capsys, "text.png", "in", "gone.png", *args)
    assert (status, len(json.loads(text))) == (1, 3)
    assert errors.splitlines() == [
        "error: cannot read text.png: it is not an image of a known format",
        "error: cannot read gone.png: there is no such file",
        "error: 2 of 5 could not be read",
    ]
    status, text, errors = run(capsys, "text.png", *args)
    assert (status, json.loads(text)) == (2, [])
    (folder / "out.csv").write_text("of an earlier run")
    status, _, _ = run(capsys, "text.png", "--checkpoint", weights, "--out", "out.csv")
    assert (status, (folder / "out.csv").read_text()) == (2, "of an earlier run")
    (folder / "empty").mkdir()
    status, _, errors = run(capsys, "empty", *args)
    assert status == 2
    assert "empty: the folder holds no image (.jpg" in errors


def test_random_weights_are_named(folder, capsys):
    status, _, errors = run(
        capsys, "in/a.png", "--model", "tcformer_nano", "--topk", 1, "--input-size", 32
    )
    assert status == 0
    assert errors == "note: no checkpoint is given, so the weights are random.\n"


def test_a_bar_is_drawn_where_asked_for(folder, weights, capsys):
    args = ("in/a.png", "in/d.png", "--checkpoint", weights, "--out", "o.csv")
    _, _, errors = run(capsys, *args)
    assert errors == ""
    _, _, errors = run(capsys, *args, "--progress")
    assert "2/2" in errors


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "name an image or a folder"),
        (["gone.png"], "no such file"),
        (["in", "--topk", "4"], "knows 3 classes"),
        (["in", "--topk", "many"], "--topk"),
        (["in", "--format", "xml"], "--format"),
        (["in", "--batch-size", "0"], "--batch-size"),
        (["in", "--workers", "65"], "--workers"),
        (["in", "--threads", "9999"], "--threads"),
        (["in", "--device", "abacus"], "--device"),
        (["in", "--amp", "fp8"], "--amp"),
        (["in", "--chekpoint", "x"], "did you mean --checkpoint"),
        (["in", "--out", "in"], "is a folder"),
        (["in/a.png", "--out", "in/a.png"], "would overwrite"),
        (["in", "--out", "in/a.png/x.json"], "is not a folder"),
        (["in", "--list", "gone.txt"], "gone.txt cannot be read"),
        (["-", "--list", "-"], "not both"),
    ],
)
def test_bad_calls_are_one_sentence(folder, weights, capsys, args, words):
    before = (folder / "in" / "a.png").read_bytes()
    rest = [] if "--checkpoint" in args else ["--checkpoint", weights]
    status, _, errors = run(capsys, *args, *rest)
    assert status == 2
    assert errors.startswith("error: ")
    assert words in errors
    assert errors.count("\n") == 1
    assert (folder / "in" / "a.png").read_bytes() == before
