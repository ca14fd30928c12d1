"""What is known of a run, whatever was run: what its record must hold, and its losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tcformer.runtime.signals import interrupt
from tcformer.tasks.base import BaseTask
from tcformer.tasks.runner import run
from tcformer.training.loop import Interrupted
from tcformer.training.record import read_record


def whole_record(path: Path, kind: str, processes: int = 1) -> dict[str, Any]:
    """The record at `path`, after looking for everything that its figures depend on."""
    record = read_record(path)
    assert (record["kind"], record["status"]) == (kind, "finished")
    assert record["config"]
    assert "seed" in record
    splits = [split for name, split in record["data"].items() if name != "name"]
    assert splits
    assert all(len(split["sha256"]) == 16 for split in splits)
    if kind == "training":
        assert record["epochs"]
        assert all(f"test_{record['metric']}" in entry for entry in record["epochs"])
        assert all({"train_loss", "seconds"} <= entry.keys() for entry in record["epochs"])
    else:
        assert record["result"]
        if record["model"] is not None:
            assert len(record["weights_sha256"]) == 16
    assert record["wall_seconds"] > 0
    assert record["processor_seconds"] >= 0  # the clock of processes has steps of 10 ms
    assert record["peak_memory"]["host_bytes"] > 0
    for session in record["sessions"]:
        assert {"commit", "changed", "machine", "versions", "settings"} <= session.keys()
        assert session["machine"]["processor"]
        assert session["versions"]["torch"]
        assert session["processes"] == processes
    return record


def losses_of(cfg, stop_at=None):
    """Run a configuration; its losses. `stop_at` asks the run to stop while it computes that."""
    seen = []
    real = BaseTask.loss

    def watched(self, model, batch):
        loss = real(self, model, batch)
        if len(seen) == stop_at:
            interrupt.request("SIGTERM")
        seen.append(loss.item())
        return loss

    interrupt.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseTask, "loss", watched)
        try:
            run(cfg)
        except Interrupted:
            assert stop_at is not None
    interrupt.clear()
    return seen
