"""Several real processes train as one: evaluation is exact, an interruption costs nothing."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import ROOT, Family, clean_env
from toy_task import ToyTask, config

from tcformer.runtime.distributed import World
from tcformer.training.loop import fit
from tcformer.weights.safe_torch import safe_torch_load

pytestmark = pytest.mark.xdist_group("training processes")

SCENARIOS = f"""
import sys
sys.path.append({str(Path(__file__).parent)!r})
from forked import main
main(sys.argv[1])
"""


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    parent = Family(tmp_path_factory.mktemp("family"), "tcformer.tasks.runner")
    yield parent
    parent.close()


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
    log = log_of(processes.folder)
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


# ------------------------------------------------------------------ whole runs

CONFIG = "configs/tcformer/tcformer_light.py"
# With two processes: 16 images = 2 steps an epoch. 9 to evaluate: the last batch is of one image.
OPTIONS = (
    *("--model", "tcformer_nano", "--input-size", "32", "--batch-size", "4", "--device", "cpu"),
    *("--num_workers", "0", "--warmup-epochs", "0", "--lr", "0.01", "--no-pin-mem"),
)
RUN = "import sys; from tcformer.cli import main; sys.exit(main(sys.argv[1:]))"
# The same, with a SIGTERM for process 0 after its first step.
STOPPED = f"""
import logging, os, signal
class Stop(logging.Handler):
    def emit(self, record):
        if record.getMessage().startswith("Epoch: [0]  [0/2]"):
            os.kill(os.getpid(), signal.SIGTERM)
if os.environ["RANK"] == "0":
    logging.getLogger("tcformer").addHandler(Stop())
{RUN}"""
EVAL_LINES = ("* Acc@1 ", "Accuracy of the network on the 9 test images: ")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    random = np.random.RandomState(0)
    for split, counts in {"train": (8, 5, 3), "val": (4, 3, 2)}.items():
        for label, count in enumerate(counts):
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = random.randint(0, 120, (36 + i, 40, 3)) + 60 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def trained(family, images, tmp_path_factory):
    """The folder of a run of two epochs in two processes that nobody interrupted."""
    folder = tmp_path_factory.mktemp("trained")
    ended = family.run(
        *(RUN, 2, "train", str(ROOT / CONFIG), *OPTIONS, "--data-path", str(images)),
        *("--epochs", "2", "--output_dir", str(folder)),
    )
    assert [process.status for process in ended] == [0, 0], ended[0].err
    return folder


def eval_lines(out: str) -> list[str]:
    return [line for line in out.splitlines() if line.startswith(EVAL_LINES)]


def log_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.txt").read_text().splitlines()]


def test_any_number_of_processes_measures_the_same(family, images, trained):
    for size in (1, 3):
        ended = family.run(
            *(RUN, size, "train", str(ROOT / CONFIG), *OPTIONS, "--data-path", str(images)),
            *("--resume", str(trained / "checkpoint.pth"), "--eval"),
        )
        assert [process.status for process in ended] == [0] * size, ended[0].err
        printed = [eval_lines(process.out) for process in ended]
        assert not any(printed[1:]), "only rank 0 prints"
        # The two processes of the run measured it as well.
        measured = log_of(trained)[-1]
        assert printed[0][0].startswith(f"* Acc@1 {measured['test_acc1']:.3f} Acc@5 ")
        assert f"loss {measured['test_loss']:.3f}" in printed[0][0]
        assert len(printed[0]) == 2


def test_sigterm_in_the_middle_of_an_epoch_changes_nothing(family, images, trained, tmp_path):
    """One process receives the signal; both stop, save once, and go on as if nothing had been."""
    command = ("train", str(ROOT / CONFIG), *OPTIONS, "--data-path", str(images))
    command = (*command, "--epochs", "2", "--output_dir", str(tmp_path))
    ended = family.run(STOPPED, 2, *command)
    assert [process.status for process in ended] == [75, 75], ended[0].err
    assert "Stopped by SIGTERM; saved" in ended[0].out
    assert "Traceback" not in ended[0].err + ended[1].err
    assert not (tmp_path / "log.txt").exists(), "the first epoch was not finished"

    ended = family.run(RUN, 2, *command, "--resume", "auto")
    assert [process.status for process in ended] == [0, 0], ended[0].err
    assert log_of(tmp_path) == log_of(trained)
    assert len(log_of(trained)) == 2


def test_a_mistake_is_told_once_by_the_script():
    done = subprocess.run(
        ["sh", "dist_train.sh", CONFIG, "2", *OPTIONS, "--no-such-option", "1"],
        cwd=ROOT,
        env=clean_env(PYTHON=sys.executable),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("error: ")


@pytest.mark.parametrize("wrong", [("--data-path", "/no/such/folder"), ("--device", "cuda")])
def test_a_mistake_found_late_is_told_once(family, wrong):
    if "cuda" in wrong and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    ended = family.run(RUN, 2, "train", str(ROOT / CONFIG), *OPTIONS, *wrong)
    assert [process.status for process in ended] == [2, 2]
    said = "".join(process.err for process in ended)
    assert len(said.splitlines()) == 1, said
    assert said.startswith("error: ")
