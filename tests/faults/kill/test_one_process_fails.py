"""One process of two fails: both end within seconds, and one sentence tells the cause."""

from __future__ import annotations

import signal

import pytest
from runs import make_images

pytestmark = [pytest.mark.slow(seconds=5), pytest.mark.xdist_group("faults")]

# Inside one process, in its second step.
IN_THE_LOSS = """
from tcformer.tasks.classification.task import ClassificationTask as Task
import torch
real, count = Task.loss, [0]
def loss(self, model, batch):
    count[0] += 1
    if count[0] == 2:
        {fault}
    return real(self, model, batch)
Task.loss = loss
"""
IN_A_WORKER = """
from tcformer.data.dataset import ImageDataset
def fail(self, index):
    {fault}
ImageDataset.__getitem__ = fail
"""

FAULTS = {
    "MemoryError": (
        IN_THE_LOSS.format(fault="raise MemoryError"),
        "error: process 1 of 2 ran out of memory on the CPU; use a smaller --batch-size",
        2,
    ),
    # Nobody has a pebibyte: torch's own words for it.
    "torch out of memory": (
        IN_THE_LOSS.format(fault="torch.empty(2**50)"),
        "error: process 1 of 2 ran out of memory on the CPU when it asked for 4503599627370496",
        2,
    ),
    "memory of a worker": (
        IN_A_WORKER.format(fault="raise MemoryError"),
        "error: process 1 of 2 ran out of memory on a data worker; use fewer --num_workers.",
        2,
    ),
    "a defect": (
        IN_THE_LOSS.format(fault="raise ZeroDivisionError('a defect')"),
        "ZeroDivisionError: a defect",
        1,
    ),
}


@pytest.mark.parametrize(
    ("fault", "failing"), [(fault, number % 2) for number, fault in enumerate(FAULTS)]
)
def test_a_failure_inside_one_process_ends_both_with_one_cause(
    references, tmp_path, fault, failing
):
    patch, said, status = FAULTS[fault]
    workers = ("--num_workers", "1" if "worker" in fault else "0")
    running = references.start("", 2, tmp_path / "run", *workers, patches={failing: patch})
    ended = running.wait(timeout=60)
    err = "".join(one.err for one in ended)
    assert err.count(said.replace("process 1", f"process {failing}")) == 1, err
    assert len(err.strip().splitlines()) == 1 or fault == "a defect", err
    assert err.count("Traceback") == (fault == "a defect")
    assert [one.status for one in ended] == [status] * 2
    assert abs(ended[0].seconds - ended[1].seconds) < 5


def test_an_unreadable_image_that_one_process_meets(references, tmp_path):
    """In training it is left out; in the evaluation it ends the run unless --skip-corrupt."""
    images = make_images(tmp_path / "images")
    bad = images / "val" / "class1" / "001.png"
    bad.write_bytes(bad.read_bytes()[:60])
    running = references.start("", 2, tmp_path / "run", "--data-path", str(images))
    ended = running.wait(timeout=60)
    err = "".join(one.err for one in ended)
    assert err.count(str(bad)) == 1, err
    assert [one.status for one in ended] == [2, 2]
    assert len(err.splitlines()) == 1, err


def test_a_killed_process_without_a_launcher(references, tmp_path):
    running = references.start("", 2, tmp_path / "run")
    running.wait_for(lambda: "Epoch: [0]  [0/2]" in running.out())
    running.kill(index=0)
    ended = running.wait(timeout=30)
    assert ended[1].status == 1
    assert ended[1].err == (
        "error: process 0 of 2 is gone without a word (killed, or the machine failed); the "
        "others end, and --resume auto goes on from the last checkpoint.\n"
    )
    assert ended[1].seconds - ended[0].seconds < 10


def test_a_stopped_process_is_given_up_after_the_timeout(references, tmp_path):
    running = references.start("", 2, tmp_path / "run", TCFORMER_TIMEOUT="3")
    running.wait_for(lambda: "Epoch: [0]  [0/2]" in running.out())
    running.kill(signal.SIGSTOP, 1)
    running.wait_for(lambda: running.poll()[0] is not None, timeout=30)
    running.kill()
    ended = running.wait()
    assert ended[0].status == 1
    assert ended[0].err == (
        "error: process 1 of 2 has not answered for 3 s (stopped, hanging, or out of "
        "reach; TCFORMER_TIMEOUT sets the seconds); the others end, and --resume auto goes on from "
        "the last checkpoint.\n"
    )
