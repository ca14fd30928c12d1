"""A handful of the trials of the campaigns `kill` and `signals`: `make faults` runs many."""

from __future__ import annotations

import random
import signal

import campaign_kill
import campaign_signals
import campaign_workers
import pytest
from reference import WHOLE

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faults")]


@pytest.mark.parametrize("kind", campaign_kill.KINDS)
def test_a_killed_run_ends_like_one_that_was_not(references, kind):
    if kind.endswith("in a file") and not references.zygote.counts_files:
        pytest.skip("no C compiler here")
    done = campaign_kill.trial(references, kind, seed=1, times=1)
    assert not done.problem, done.what


@pytest.mark.parametrize("kind", ["2 processes, in a file", f"{WHOLE}, to everything"])
def test_a_run_that_is_told_to_stop_ends_like_one_that_was_not(references, kind):
    if kind.endswith("in a file") and not references.zygote.counts_files:
        pytest.skip("no C compiler here")
    done = campaign_signals.trial(references, kind, seed=2, times=1)
    assert not done.problem, done.what


@pytest.mark.parametrize("kind", [*campaign_workers.PLACES, campaign_workers.ANYWHERE])
def test_a_killed_worker_is_one_sentence_wherever_the_run_is(references, kind):
    size = 2 if kind in ("saving", "the end") else 1
    done = campaign_workers.trial(references, kind, size, seed=3)
    assert not done.problem, done.what


def test_killed_between_the_best_weights_and_the_log(references, tmp_path):
    """best.pth, best.safetensors and log.txt belong together: no moment between them may show."""
    if not references.zygote.counts_files:
        pytest.skip("no C compiler here")
    references.prepare(1)
    events = references.events[1]
    names = ("renamed best.pth", "renamed best.safetensors", "write log.txt")
    moments = [events[name][0] for name in names]
    for at in moments:
        output = tmp_path / str(at)
        running = references.start("", 1, output, FAULT_ROOT=str(output), FAULT_AT_0=str(at))
        assert running.wait()[0].status == -signal.SIGKILL
        assert references.finished("", 1, output) == ""


def test_moments_are_drawn_from_the_seed(references):
    references.prepare(1)
    if references.zygote.counts_files:
        drawn = [references.an_event(1, random.Random("a 1")) for _ in range(2)]
        assert drawn[0] == drawn[1]
        assert {"write checkpoint.pth", "fsync best.pth", "rename checkpoint_1.pth"} <= set(
            references.events[1]
        )
