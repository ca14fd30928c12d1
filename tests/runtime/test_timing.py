"""Turns, quartiles and ratios."""

import time

import pytest
import torch

from tcformer.runtime import timing

CPU = torch.device("cpu")


def test_steps_take_turns_with_the_same_inputs():
    calls = []
    steps = {
        "a": lambda i: (calls.append(("a", i)), time.sleep(0.002)),
        "b": lambda i: (calls.append(("b", i)), time.sleep(0.001)),
    }
    times = timing.interleaved(steps, device=CPU, rounds=3, warmup=1, turn=0.0)
    assert [len(times[name]) for name in "ab"] == [3, 3]
    measured = calls[-6:]  # before that: one warm-up of each
    assert measured == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2), ("b", 2)]
    assert len(calls) == 6 + 2
    assert min(times["a"]) >= 0.002


def test_short_steps_are_called_several_times_a_turn():
    calls = []
    timing.interleaved({"a": calls.append}, device=CPU, rounds=1, warmup=0, turn=0.001)
    assert len(calls) > 2


def test_a_budget_ends_the_rounds_but_not_before_three():
    steps = {"a": lambda i: time.sleep(0.002)}
    times = timing.interleaved(steps, device=CPU, rounds=50, warmup=0, turn=0.0, budget=0.0)
    assert len(times["a"]) == timing.FEWEST_ROUNDS


def test_ratios_are_taken_round_by_round():
    # A machine that gets ten times slower in the second round changes no ratio.
    times = {"ours": [2.0, 20.0, 2.0], "theirs": [1.0, 10.0, 1.0]}
    found = timing.ratios(times, "theirs")
    assert found == {"ours": {"median": 2.0, "low": 2.0, "high": 2.0, "min": 2.0}}


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0], (3.0, 3.0, 3.0)), ([1.0, 2.0, 3.0, 4.0, 5.0], (2.0, 3.0, 4.0))],
)
def test_quartiles(values, expected):
    assert timing.quartiles(values) == expected
    assert timing.spread(values)["min"] == min(values)
