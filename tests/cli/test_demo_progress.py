"""The demo's progress display, fed by hand."""

import io
import json

import pytest

from tcformer.cli.demo import show_progress
from tcformer.training.metrics import Progress


def feed(draw, log, *, epochs=3, steps=4):
    """What the training loop does: steps, an evaluation, then a line in log.txt."""
    for epoch in range(epochs):
        for step in range(1, steps + 1):
            draw(Progress("train", epoch, epochs, step, steps, {"loss": 2.0 - epoch, "lr": 1.0}))
        draw(Progress("test", epoch, epochs, 1, 1, {"acc1": 0.0}))
        with log.open("a") as file:
            file.write(json.dumps({"train_loss": 1.0, "test_acc1": 70.0 + 10 * epoch}) + "\n")


def test_elsewhere_than_on_a_terminal_each_epoch_is_one_line(tmp_path):
    stream, log = io.StringIO(), tmp_path / "log.txt"
    with show_progress(log, stream=stream) as draw:
        feed(draw, log)
    lines = stream.getvalue().splitlines()
    assert [line.rpartition("  eta ")[0] for line in lines] == [
        "epoch 1/3  loss 2.000  accuracy 70.0%",
        "epoch 2/3  loss 1.000  accuracy 80.0%",
        "epoch 3/3  loss 0.000  accuracy 90.0%",
    ]
    assert lines[-1].endswith("eta 0:00")


def test_on_a_terminal_a_bar_shows_epoch_loss_and_accuracy(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream, log = Terminal(), tmp_path / "log.txt"
    with show_progress(log, stream=stream) as draw:
        feed(draw, log)
    last = stream.getvalue().rpartition("epoch 3/3")[2]
    for words in ("12/12", "loss 0.000", "accuracy 90.0%"):
        assert words in last


@pytest.mark.parametrize("live", [False, True])
def test_a_run_that_fails_before_its_first_step_shows_its_own_error(tmp_path, live):
    with (
        pytest.raises(RuntimeError, match="no data"),
        show_progress(tmp_path / "log.txt", stream=io.StringIO(), live=live),
    ):
        raise RuntimeError("no data")
