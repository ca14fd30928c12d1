"""Every verb that writes: what lies there already stays, byte for byte, when the verb fails."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from people import as_prediction, make_annotations
from PIL import Image

from tcformer import cli
from tcformer.bench import record
from tcformer.export import making

SILENT = {"doctor", "flops", "serve"}
"""Verbs that write no file."""

NANO = ("--model", "tcformer_nano", "--device", "cpu")
QUICK = ("--quick", "--device", "cpu", "--size", "32", "--batch", "1", "--mode", "inference")
TRAIN = (*NANO, "--input-size", "32", "--batch-size", "2", "--num-workers", "0", "--epochs", "1")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, weights, pose_weights):
    """Pictures of three classes, weights for them, a pose network, keypoints, a record of times."""
    root = tmp_path_factory.mktemp("inputs")
    random = np.random.RandomState(0)
    for name in product(("train", "val"), ('"<b>"', "lilac, grün", "red"), "1"):
        path = root.joinpath("data", *name).with_suffix(".png")
        path.parent.mkdir(parents=True)
        Image.fromarray(random.randint(0, 256, (40, 36, 3)).astype(np.uint8)).save(path)
    (root / "best.safetensors").write_bytes(weights.read_bytes())
    (root / "pose.safetensors").write_bytes(pose_weights.read_bytes())
    notes = make_annotations()
    (root / "truth.json").write_text(json.dumps(notes))
    people = [as_prediction(entry, np.ones((133, 3))) for entry in notes["annotations"]]
    (root / "found.json").write_text(json.dumps(people))
    seconds = {"median": 0.1, "low": 0.1, "high": 0.1, "min": 0.1}
    times = {
        "form": record.FORM,
        "rows": [
            {
                "mode": "inference", "batch": 1, "size": size, "dtype": "float32", "device": "cpu",
                "models": {"tcformer": {"seconds": seconds, "images_per_second": 10}},
            }
            for size in (32, 48)
        ],
    }  # fmt: skip
    (root / "times.json").write_text(json.dumps(times))
    return root


def words(*parts: object) -> list[str]:
    return [str(part) for part in parts]


Case = Callable[[Path, Path], list[str]]
HUB, POSE = ("config.json", "model.safetensors", "README.md"), ("keypoints.json", "1.pose.png")
CONFUSION = ("confusion.json", "confusion.csv", "wrong.csv", "right.png", "wrong.png")
DEMO = ("demo.log", "best.safetensors", "checkpoint.pth", "log.txt", "tokens.png", "digits/0.png")
RUN = ("checkpoint.pth", "best.pth", "best.safetensors", "log.txt", "config.json", "record.json")

CASES: dict[str, tuple[tuple[str, ...], Case]] = {
    "predict": (("out.csv",), lambda i, o: words(
        "predict", i / "data/val", "--checkpoint", i / "best.safetensors", "--out", o / "out.csv")),
    "show": (("out.png",), lambda i, o: words(
        "show", i / "data/val/red/1.png", "--model", "tcformer_nano", "--out", o / "out.png")),
    "confusion": (CONFUSION, lambda i, o: words(
        "confusion", i / "data", "--checkpoint", i / "best.safetensors", "--out", o)),
    "pose": (POSE, lambda i, o: words(
        "pose", i / "data/val/red/1.png", "--checkpoint", i / "pose.safetensors", "--out", o)),
    "convert": (("out.pth",), lambda i, o: words(
        "convert", i / "best.safetensors", o / "out.pth", "--force")),
    "convert back": (("out.safetensors",), lambda i, o: words(
        "convert", i / "best.safetensors", o / "out.safetensors", "--force")),
    "hub": (HUB, lambda i, o: words("hub", i / "best.safetensors", o, "--force")),
    "export": (("out.pt2",), lambda i, o: words(
        "export", "--checkpoint", i / "best.safetensors", "--format", "pt2",
        "--out", o / "out.pt2")),
    "evaluate": (("out.json",), lambda i, o: words(
        "evaluate", *NANO, "--input-size", 32, "--num-workers", 0, "--data-path", i / "data",
        "--resume", i / "best.safetensors", "--record", o / "out.json")),
    "evaluate beside a run": ((*RUN, "evaluation.json"), lambda i, o: words(
        "evaluate", *NANO, "--input-size", 32, "--num-workers", 0, "--data-path", i / "data",
        "--resume", i / "best.safetensors", "--output_dir", o)),
    "evaluate-keypoints": (("out.json",), lambda i, o: words(
        "evaluate-keypoints", i / "truth.json", i / "found.json", "--out", o / "out.json")),
    "evaluate-keypoints --record": (("out.json",), lambda i, o: words(
        "evaluate-keypoints", i / "truth.json", i / "found.json", "--record", o / "out.json")),
    "bench": (("out.json",), lambda i, o: words(
        "bench", *QUICK, "--models", "tcformer_nano", "--output", o / "out.json")),
    "bench --plot": (("out.svg",), lambda i, o: words(
        "bench", "--plot", i / "times.json", "--output", o / "out.svg")),
    "demo": (DEMO, lambda i, o: words("demo", "--epochs", 1, "--output_dir", o)),
    "train": (RUN, lambda i, o: words(
        "train", *TRAIN, "--data-path", i / "data", "--output_dir", o)),
    "train --record": (("out.json",), lambda i, o: words(
        "train", *TRAIN, "--data-path", i / "data", "--record", o / "out.json")),
}  # fmt: skip
"""Verb -> what lies there already, and a call that would replace it."""


def test_every_verb_is_here():
    assert {name.split()[0] for name in CASES} | SILENT | {"download"} == set(cli.VERBS)


def earlier(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(f"earlier {name}".encode())
    return content(folder)


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_untouched(folder: Path, before: dict[str, bytes], name: str) -> None:
    after = content(folder)
    if name == "train":  # which writes as it goes, in the place of the earlier run
        aside = {k.removeprefix("earlier-1/"): v for k, v in after.items() if "/" in k}
        assert aside == before
        assert not [key for key in after if key.endswith(".tmp")]
        return
    assert after == before
    assert not [path for path in folder.rglob("*") if path.is_dir() and ".tmp" in path.name]


INTERRUPTED = ("predict", "confusion", "convert", "hub", "export", "evaluate", "demo", "train")
"""One for each way of writing."""


@pytest.mark.parametrize(
    ("name", "failure"),
    [*((name, "the disk is full") for name in CASES), *((name, "Ctrl-C") for name in INTERRUPTED)],
)
def test_a_failure_while_it_writes(name, failure, inputs, tmp_path, monkeypatch, capsys):
    names, call = CASES[name]
    if name == "demo":
        pytest.importorskip("sklearn", reason="the digits come with scikit-learn")
    if "plot" in name:
        pytest.importorskip("matplotlib", reason="drawing is an extra")
    if "keypoints" in name:
        pytest.importorskip("pycocotools", reason="average precision needs pycocotools")
    before = earlier(tmp_path / "out", names)

    def fsync(descriptor: int) -> None:
        if failure == "Ctrl-C":
            raise KeyboardInterrupt
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    # Tracing takes minutes on a busy machine; what comes of it is a file like any other.
    monkeypatch.setattr(making, "_make", lambda *args: args[3].write_bytes(b"made"))
    status = cli.main(call(inputs, tmp_path / "out"))
    told = capsys.readouterr()
    # Figures of `bench` that are printed and could not be kept: status 1.
    assert status == (130 if failure == "Ctrl-C" else 1 if name == "bench" else 2), told.err
    assert "Traceback" not in told.err
    if failure != "Ctrl-C":
        assert "disk is full" in told.err
    assert_untouched(tmp_path / "out", before, name)


BAD = {
    **dict.fromkeys(("predict", "confusion", "convert", "hub", "export"), "best.safetensors"),
    **dict.fromkeys(("evaluate", "evaluate beside a run"), "best.safetensors"),
    "pose": "pose.safetensors",
    **dict.fromkeys(("evaluate-keypoints", "evaluate-keypoints --record"), "found.json"),
    "bench --plot": "times.json",
}
"""Verb -> the input that is damaged."""


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_input(name, inputs, tmp_path, capsys):
    names, call = CASES[name]
    damaged = tmp_path / "in"
    damaged.mkdir()
    for path in inputs.iterdir():
        (damaged / path.name).symlink_to(path)
    (damaged / BAD[name]).unlink()
    (damaged / BAD[name]).write_bytes(b"damaged")
    before = earlier(tmp_path / "out", names)
    assert cli.main(call(damaged, tmp_path / "out")) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert content(tmp_path / "out") == before


def test_a_download_that_fails_leaves_what_was_kept(tmp_path, capsys):
    before = earlier(tmp_path, ("tcformer_light.safetensors",))
    nobody = "http://127.0.0.1:9"
    call = ["download", "tcformer_light", "--force", "--cache-dir", str(tmp_path)]
    call += ["--base-url", nobody]
    assert cli.main(call) == 2
    after = {key: value for key, value in content(tmp_path).items() if ".lock" not in key}
    assert after == before


OPEN_ENDED = ["predict", "show", "confusion", "pose", "export", "evaluate-keypoints", "evaluate",
              "bench", "bench --plot", "demo", "train", "train --record", "hub"]  # fmt: skip


@pytest.mark.parametrize("name", OPEN_ENDED)
def test_a_place_that_cannot_be_written_is_told_before_the_work(
    name, inputs, tmp_path, monkeypatch, capsys
):
    (tmp_path / "out").write_bytes(b"a file in the way")
    import tcformer.predict

    def work(*args, **kw):
        pytest.fail("the work was begun")

    if name not in ("hub", "export"):  # which ask the weights first whether they fit
        monkeypatch.setattr(tcformer.predict, "load", work)
    assert cli.main(CASES[name][1](inputs, tmp_path / "out")) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "out").read_bytes() == b"a file in the way"


MISSING = {
    "demo": ("sklearn", "demo"),
    "bench --plot": ("matplotlib", "bench"),
    "export": ("onnxruntime", "export"),
    "evaluate-keypoints": ("pycocotools", "pose"),
    "evaluate-keypoints --record": ("pycocotools", "pose"),
    "pose": ("av", "pose"),
    "train": ("tensorboard", "train"),
}


class Blocker:
    """An import hook: some packages are not there."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


@pytest.mark.parametrize("name", MISSING)
def test_a_package_that_is_missing(name, inputs, tmp_path, monkeypatch, capsys):
    package, extra = MISSING[name]
    names, call = CASES[name]
    for module in list(sys.modules):
        if module.partition(".")[0] == package or module == "torch.utils.tensorboard":
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Blocker(package), *sys.meta_path])
    before = earlier(tmp_path / "out", names)
    argv = call(inputs, tmp_path / "out")
    if name == "train":
        argv.append("--tensorboard")
    if name == "pose":
        (tmp_path / "film.mp4").write_bytes(b"a video")
        argv.insert(1, str(tmp_path / "film.mp4"))
    if name == "export":
        argv = [word.replace("pt2", "onnx") for word in argv]
    assert cli.main(argv) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert f"tcformer[{extra}]" in told.err
    assert content(tmp_path / "out") == before
