"""A few hundred hostile inputs of every kind, and proof that the campaign would notice."""

import os

import campaign_inputs
import pytest
from hostile import images, keypoints, labels, weights, words
from hostile.crew import BY_NAME, KINDS, planned
from hostile.kinds import SECONDS, TRACE, Kind, attempt

from tcformer.errors import UserError

PICKLES = BY_NAME["pickles that call something"]
CONFIGS = BY_NAME["config files"]


def hold(kinds, count, folder, seed=2026):
    """Try inputs of these kinds; what failed, in words."""
    here = os.getcwd()
    failed = []
    try:
        for name, index in planned(count, kinds):
            if problem := attempt(BY_NAME[name], seed, index, folder / "input"):
                failed.append(f"{name}, number {index}: {problem}")
    finally:
        os.chdir(here)
    assert failed == []


def test_images_are_read_or_refused(tmp_path):
    hold(images.KINDS, 60, tmp_path)


def test_weights_are_read_as_they_were_written_or_refused(tmp_path):
    hold([kind for kind in weights.KINDS if kind is not PICKLES], 60, tmp_path)


def test_labels_and_archives_are_read_or_refused(tmp_path):
    hold([*labels.KINDS, *keypoints.KINDS], 60, tmp_path)


def test_pickles_do_nothing(tmp_path):
    hold([PICKLES], 40, tmp_path)


def test_configs_are_read_and_not_run(tmp_path):
    hold([CONFIGS], 100, tmp_path)


def test_command_lines_are_one_sentence(tmp_path):
    hold([kind for kind in words.KINDS if kind is not CONFIGS], 40, tmp_path)


def test_every_kind_is_in_the_plan():
    plan = planned(10_000)
    assert len(plan) == len(set(plan)) == 10_000
    assert {name for name, _ in plan} == {kind.name for kind in KINDS}


def refuse(words):
    raise UserError(words)


def leave_a_file(folder):
    (folder / "half.pth").write_bytes(b"half")
    refuse(f"{folder}/weights.file is bad")


def go_on_for_ever(_):
    while True:
        try:
            while True:
                pass
        except Exception:
            continue


@pytest.mark.parametrize(
    ("read", "words"),
    [
        (leave_a_file, "half.pth"),
        (lambda folder: (folder / TRACE).mkdir(), "code from the input was run"),
        (lambda folder: {}[folder], "KeyError"),
        (lambda _: refuse("Traceback (most recent call last):"), "with a traceback"),
        (lambda _: refuse(" "), "without a word"),
        (lambda _: refuse("x" * 5000), "characters: "),
        (lambda _: refuse("another.file is bad"), "without naming weights.file"),
        (lambda _: exit(0), "SystemExit"),
        (go_on_for_ever, "took more than"),
    ],
)
def test_what_must_not_happen_is_noticed(tmp_path, monkeypatch, read, words):
    monkeypatch.setattr("hostile.kinds.SECONDS", 0.2)
    assert SECONDS > 1
    kind = Kind("x", lambda _, folder: folder, read, names="weights.file")
    assert words in attempt(kind, 0, 0, tmp_path / "input")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow(seconds=15)
def test_the_campaign_tries_them_in_processes_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    trials = list(campaign_inputs.campaign(25, 7, tmp_path))
    assert [trial.problem for trial in trials if trial.problem] == []
    assert sum(trial.count for trial in trials) == 25
