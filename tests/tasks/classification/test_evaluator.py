"""Evaluation is exact: each image once, in the same batches, for any number of processes."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest
import torch
from PIL import Image

from tcformer.errors import UserError
from tcformer.tasks.classification import run
from tcformer.tasks.classification.evaluator import batch_sums


def test_sums_by_hand():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 5.0, 1.0]])
    loss, top1, top5, images, unfit = batch_sums(logits, torch.tensor([0, 2, 1])).tolist()
    rows = torch.log_softmax(logits.double(), 1)
    assert loss == pytest.approx(-float(rows[0, 0] + rows[1, 2] + rows[2, 1]), rel=1e-6)
    assert (top1, top5, images, unfit) == (2, 3, 3, 0)  # three classes: top-5 is all of them


def test_top5_needs_the_label_among_five():
    logits = torch.arange(7.0).repeat(7, 1)
    assert batch_sums(logits, torch.arange(7)).tolist()[1:] == [1, 5, 7, 0]


# Imports once, then forks: the processes are real, but cost no further seconds of importing.
FORKS = """
import os, sys
from tcformer.tasks import runner
from tcformer.cli import main

folder, ports, words = sys.argv[1], sys.argv[2:4], sys.argv[4:]
for size, port in zip((2, 3), ports):
    for rank in range(size):
        if os.fork() == 0:
            os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size),
                              MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
            file = os.open(f"{folder}/{size}.{rank}", os.O_WRONLY | os.O_CREAT)
            os.dup2(file, 1)
            status = main(words)
            sys.stdout.flush()
            os._exit(status)
    for rank in range(size):
        assert os.wait()[1] == 0
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_any_number_of_processes_prints_the_same_lines(trained, small, tmp_path):
    """11 images in batches of 2: six batches, the last of one image, for 1, 2 and 3 processes."""
    _, _, folder = trained
    cfg = small(resume=str(folder / "best.safetensors"), eval=True, batch_size=2)
    expected = run(cfg).eval_lines
    words = ["evaluate"]
    for name in ("model", "data_path", "input_size", "batch_size", "num_workers", "device",
                 "resume", "threads"):  # fmt: skip
        words += [f"--{name}", str(getattr(cfg, name))]
    command = [sys.executable, "-c", FORKS, str(tmp_path), free_port(), free_port(), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    for size in (2, 3):
        lines = (tmp_path / f"{size}.0").read_text().splitlines()
        assert [x for x in lines if x.startswith(("* Acc", "Accuracy"))] == expected
        for rank in range(1, size):
            assert "Acc@1" not in (tmp_path / f"{size}.{rank}").read_text()


def with_a_broken_image(tmp_path, images):
    for name in ("blue", "green", "red"):
        folder = tmp_path / "val" / name
        folder.mkdir(parents=True)
        Image.open(images / "val" / name / "0.png").save(folder / "0.png")
    file = tmp_path / "val/green/broken.png"
    file.write_bytes((images / "val/green/0.png").read_bytes()[:60])
    return file


def test_a_corrupt_image_is_an_error_or_is_counted(trained, small, images, tmp_path, capsys):
    _, _, folder = trained
    file = with_a_broken_image(tmp_path, images)
    cfg = {"data_path": str(tmp_path), "resume": str(folder / "best.safetensors"), "eval": True}
    with pytest.raises(UserError, match=r"broken\.png.*--skip-corrupt"):
        run(small(**cfg))
    lines = run(small(**cfg, skip_corrupt=True)).eval_lines
    assert lines[1].startswith("Accuracy of the network on the 3 test images")
    assert lines[2] == "1 unreadable images were left out."
    assert str(file) in capsys.readouterr().err


def test_unshared_evaluation_gives_the_same(trained, small):
    _, result, folder = trained
    cfg = small(resume=str(folder / "best.safetensors"), eval=True, dist_eval=False)
    assert run(cfg).eval_lines == result.eval_lines
