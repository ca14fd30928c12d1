"""A few hundred hostile inputs of every kind, and proof that the campaign would notice."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hostile.everything import KINDS, planned
from hostile.kinds import SECONDS, TRACE, Kind, attempts

from tcformer.errors import UserError

BY_NAME = {kind.name: kind for kind in KINDS}
IMAGES = ("image files", "image files that are none")
WEIGHTS = (
    "checkpoints, damaged",
    "checkpoints of the older format, damaged",
    "safetensors, damaged",
    "safetensors, hostile headers",
    "checkpoints with odd contents",
    "weights of a network with odd contents",
    "weights with odd notes",
)
LABELS = (
    "lists of iNaturalist",
    "labels of ADE20K",
    "archives of NumPy",
    "WebDataset shards",
    "tar files for timm",
    "class folders",
    "keypoints and boxes",
)
PICKLES = ("pickles that call something",)
CONFIGS = ("config files",)
WORDS = ("command lines of train", "command lines of every verb")


def hold(names, count, folder, seed=2026):
    """Try inputs of these kinds; what failed, in words."""
    kinds = [BY_NAME[name] for name in names]
    here = os.getcwd()
    failed = []
    try:
        for name, index in planned(count, kinds):
            for number, problem in attempts(BY_NAME[name], seed, range(index, index + 1), folder):
                if problem:
                    failed.append(f"{name}, number {number}: {problem}")
    finally:
        os.chdir(here)
    assert failed == []


def test_images_are_read_or_refused(tmp_path):
    hold(IMAGES, 60, tmp_path)


def test_weights_are_read_as_they_were_written_or_refused(tmp_path):
    hold(WEIGHTS, 60, tmp_path)


def test_labels_and_archives_are_read_or_refused(tmp_path):
    hold(LABELS, 60, tmp_path)


def test_pickles_do_nothing(tmp_path):
    hold(PICKLES, 40, tmp_path)


def test_configs_are_read_and_not_run(tmp_path):
    hold(CONFIGS, 100, tmp_path)


def test_command_lines_are_one_sentence(tmp_path):
    hold(WORDS, 60, tmp_path)


def test_every_kind_is_in_a_test_and_in_the_plan():
    assert {*IMAGES, *WEIGHTS, *LABELS, *PICKLES, *CONFIGS, *WORDS} == set(BY_NAME)
    plan = planned(10_000)
    assert len(plan) == len(set(plan)) == 10_000
    assert {name for name, _ in plan} == set(BY_NAME)


def wrong(_: random.Random, folder: Path) -> Path:
    return folder


def leaves_a_file(folder: Path) -> None:
    (folder / "half.pth").write_bytes(b"half")
    raise UserError(f"{folder} is bad")


def leaves_a_trace(folder: Path) -> None:
    (folder / TRACE).mkdir()


def raises_another(folder: Path) -> None:
    raise KeyError(folder)


def tells_a_traceback(folder: Path) -> None:
    raise UserError("Traceback (most recent call last):")


def says_nothing(folder: Path) -> None:
    raise UserError(" ")


def says_too_much(folder: Path) -> None:
    raise UserError("x" * 5000)


def ends_the_process(folder: Path) -> None:
    raise SystemExit(0)


def goes_on_for_ever(folder: Path) -> None:
    while True:
        try:
            while True:
                pass
        except Exception:
            continue


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (leaves_a_file, "half.pth"),
        (leaves_a_trace, "code from the input was run"),
        (raises_another, "KeyError"),
        (tells_a_traceback, "with a traceback"),
        (says_nothing, "without a word"),
        (says_too_much, "characters"),
        (ends_the_process, "SystemExit"),
        (goes_on_for_ever, "took more than"),
    ],
)
def test_what_must_not_happen_is_noticed(tmp_path, monkeypatch, read, words):
    monkeypatch.setattr("hostile.kinds.SECONDS", 0.2)
    assert SECONDS > 1
    ((_, problem),) = attempts(Kind("x", wrong, read), 0, range(1), tmp_path)
    assert words in problem
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_names_its_file(tmp_path):
    kind = Kind("x", wrong, says_too_much, names="weights.file")
    ((_, problem),) = attempts(kind, 0, range(1), tmp_path)
    assert problem
    (_, problem), *_ = attempts(BY_NAME["safetensors, damaged"], 0, range(1), tmp_path)
    assert not problem


@pytest.mark.slow
def test_the_campaign_tries_them_in_processes_of_their_own(tmp_path):
    script = Path(__file__).parents[1] / "run.py"
    done = subprocess.run(
        [sys.executable, str(script), "inputs", "--trials", "1000", "--seed", "7"],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert "inputs: 1000 trials, 0 failures" in done.stdout
