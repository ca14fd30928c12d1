"""Evaluation is exact; in several processes: tests/training/test_processes.py."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from tcformer.errors import UserError
from tcformer.tasks.classification.evaluator import batch_sums
from tcformer.tasks.runner import run


def test_sums_by_hand():
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 3.0, 1.0], [0.0, 5.0, 1.0]])
    loss, top1, top5, images, unfit = batch_sums(logits, torch.tensor([0, 2, 1])).tolist()
    rows = torch.log_softmax(logits.double(), 1)
    assert loss == pytest.approx(-float(rows[0, 0] + rows[1, 2] + rows[2, 1]), rel=1e-6)
    assert (top1, top5, images, unfit) == (2, 3, 3, 0)  # three classes: top-5 is all of them


def test_top5_needs_the_label_among_five():
    logits = torch.arange(7.0).repeat(7, 1)
    assert batch_sums(logits, torch.arange(7)).tolist()[1:] == [1, 5, 7, 0]


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
