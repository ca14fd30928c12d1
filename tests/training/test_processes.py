"""Several real processes train as one."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from toy_task import ToyTask, config

from tcformer.runtime.distributed import World
from tcformer.training.loop import fit
from tcformer.weights.safe_torch import safe_torch_load

pytestmark = pytest.mark.xdist_group("whole runs")

SCENARIOS = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
from forked import main
main(sys.argv[1])
"""


@pytest.fixture(scope="module")
def processes(family, tmp_path_factory):
    """`processes(scenario)`: what two processes, forked once for all scenarios, came to."""
    folder = tmp_path_factory.mktemp("processes")
    ended = family.run(SCENARIOS, 2, str(folder))
    assert [process.status for process in ended] == [0, 0], ended[0].err + ended[1].err

    def read(scenario):
        return [json.loads((folder / f"{scenario}.{rank}.json").read_text()) for rank in range(2)]

    read.folder = folder
    return read


def test_a_signal_to_one_process_stops_and_resumes_all(processes):
    results = processes("resume")
    for result in results:
        assert result["reason"] == "SIGUSR1"
        whole, second = result["whole"], result["second"]
        assert len(result["first"]) == 7  # 5 steps of epoch 0, the 2 of a group of epoch 1
        assert result["first"] + second["losses"] == whole["losses"]
        assert second["weights"] == whole["weights"]
    a, b = results
    assert a["whole"]["weights"] == b["whole"]["weights"]
    assert a["whole"]["losses"] != b["whole"]["losses"]
    log = [json.loads(line) for line in (processes.folder / "log.txt").read_text().splitlines()]
    assert [row["epoch"] for row in log] == [0, 1, 2]
    mean = sum(a["whole"]["losses"][:5] + b["whole"]["losses"][:5]) / 10
    assert log[0]["train_loss"] == pytest.approx(mean)


def test_a_loss_that_is_not_finite_stops_all_at_the_same_step(processes):
    a, b = processes("not_finite")
    assert a["steps"] == b["steps"] == 3
    assert a["said"] == b["said"]
    assert "epoch 0, step 2" in a["said"]
    assert a["weights"] == b["weights"]
    folder = processes.folder / "not_finite"
    assert "process 1, files" in a["said"]
    assert str(folder / "nonfinite_epoch0_step2.json") in a["said"]
    facts = json.loads((folder / "nonfinite_epoch0_step2.json").read_text())
    assert [isinstance(r["loss"], str) for r in facts["ranks"]] == [False, True]
    assert [r.get("batch") for r in facts["ranks"]] == [None, "nonfinite_epoch0_step2.rank1.pt"]
    batch = safe_torch_load(folder / "nonfinite_epoch0_step2.rank1.pt")["batch"]
    assert batch["0"][0, 0].isnan()
    assert not (folder / "nonfinite_epoch0_step2.rank0.pt").exists()
    assert len(safe_torch_load(folder / "nonfinite_epoch0_step2.pth")["ranks"]) == 2


def test_a_step_that_is_bad_on_one_process_is_skipped_by_all(processes):
    a, b = processes("skipping")
    assert a["seen"] == b["seen"] == 5  # six steps; the second of the dropped group is not computed
    assert a["numbers"]["weights"] == b["numbers"]["weights"]
    assert all(math.isfinite(w) for w in a["numbers"]["weights"])
    folder = processes.folder / "skipping"
    assert json.loads((folder / "nonfinite_epoch0_step2.json").read_text())["skipped"]
    assert safe_torch_load(folder / "checkpoint.pth")["skips"]["nonfinite"] == 1
    assert json.loads((folder / "log.txt").read_text())["skipped_nonfinite"] == 1


def test_gradients_are_those_of_the_whole_batch(processes):
    a, b = processes("mean_gradient")
    assert a["weights"] == b["weights"]

    class Joined(ToyTask):
        def batches(self, epoch, start):
            for number in range(self.steps_per_epoch):
                parts = []
                for rank in range(2):
                    generator = torch.Generator().manual_seed(10 * number + rank)
                    x = torch.randn(4, 6, generator=generator)
                    parts.append((x, torch.randn(4, 3, generator=generator)))
                yield tuple(torch.cat(pair) for pair in zip(*parts, strict=True))

    cfg = config(epochs=1, warmup_epochs=0, batch_size=8)
    task = Joined(cfg, steps=3)
    task.model[2] = torch.nn.Identity()
    fit(task, cfg, World())
    alone = [p.double().sum().item() for p in task.model.parameters()]
    assert alone == pytest.approx(a["weights"], rel=1e-4, abs=1e-5)
