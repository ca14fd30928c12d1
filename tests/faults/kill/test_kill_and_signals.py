"""A handful of the trials of the campaigns kill, signals and workers: `make faults` runs many."""

from __future__ import annotations

import signal

import campaign_kill
import campaign_signals
import campaign_workers
import pytest
from runs import WHOLE

pytestmark = [pytest.mark.slow(seconds=10), pytest.mark.xdist_group("faults")]


@pytest.mark.parametrize(
    "kind", ["1 process, in a file", "2 processes", "one of 2 processes", WHOLE]
)
def test_a_killed_run_ends_like_one_that_was_not(references, kind):
    if kind.endswith("in a file") and not references.counts_files:
        pytest.skip("no C compiler here")
    done = campaign_kill.trial(references, kind, seed=1, times=1)
    assert not done.problem, done.what


def test_a_run_that_is_told_to_stop_ends_like_one_that_was_not(references):
    if not references.counts_files:
        pytest.skip("no C compiler here")
    done = campaign_signals.trial(references, "2 processes, in a file", seed=2, times=1)
    assert not done.problem, done.what


@pytest.mark.parametrize("place", ["training", "saving", "the end", "anywhere"])
def test_a_killed_worker_is_one_sentence_wherever_the_run_is(references, place):
    size = 2 if place == "saving" else 1
    done = campaign_workers.trial(references, f"{place}, {size} process(es)", seed=3)
    assert not done.problem, done.what


def test_killed_between_the_best_weights_and_the_log(references, tmp_path):
    """best.pth, best.safetensors and log.txt belong together: no moment between them may show."""
    if not references.counts_files:
        pytest.skip("no C compiler here")
    references.prepare(1)
    assert {"write checkpoint.pth", "fsync best.pth", "rename checkpoint_1.pth"} <= set(
        references.events[1]
    )
    at = str(references.events[1]["renamed best.safetensors"][0])
    running = references.start("", 1, tmp_path, FAULT_ROOT=str(tmp_path), FAULT_AT_0=at)
    assert running.wait()[0].status == -signal.SIGKILL
    assert references.finished("", 1, tmp_path) == ""
