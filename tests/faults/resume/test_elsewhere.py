"""Going on with another number of loader workers or of processes."""

from __future__ import annotations

import json

import pytest
from processes import Family
from recorded import losses_of
from runs import make_images

from tcformer.training import checkpoint as ckpt
from tcformer.training.options import build

IMAGES = 34  # of the two classes together: four global batches of 8, and two images left over


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_images(tmp_path_factory.mktemp("elsewhere"), IMAGES, 3, classes=2)


SMALL = {
    "model": "tcformer_nano", "input_size": 32, "batch_size": 8, "epochs": 2, "warmup_epochs": 0,
    "device": "cpu", "save_every": 0, "threads": 1, "lr": 0.01,
}  # fmt: skip


@pytest.mark.slow(seconds=15)
def test_another_number_of_workers_changes_no_bit(data, tmp_path):
    """Drop path, mixup, RandAugment, erasing and averaging on; 3 workers, then 0, then 2."""
    on = {**SMALL, "data_path": str(data), "drop_path": 0.3, "ema": True, "ema_decay": 0.9}
    whole = build({**on, "output_dir": str(tmp_path / "whole"), "num_workers": 3})
    expected = losses_of(whole)
    assert len(expected) == 2 * (IMAGES // 8)
    found = []
    for workers, stop_at in ((0, 2), (2, 7), (1, None)):
        resume = "auto" if found else ""
        options = {"output_dir": str(tmp_path / "run"), "num_workers": workers, "resume": resume}
        found += losses_of(build({**on, **options}), stop_at)
    assert found == expected
    a, b = (ckpt.read(tmp_path / name / "checkpoint.pth") for name in ("whole", "run"))
    for kind in ("model", "model_ema"):
        assert all(a[kind][name].equal(value) for name, value in b[kind].items())
    assert (tmp_path / "whole/log.txt").read_text() == (tmp_path / "run/log.txt").read_text()


# What a process of the real command line does; every step it notes its images and its loss.
WATCHED = """
import json, os, signal, sys
from tcformer.tasks.classification.task import ClassificationTask
stop, notes = int(sys.argv.pop(1)), sys.argv.pop(1)
real, seen = ClassificationTask.loss, []
def watched(self, model, batch):
    loss = real(self, model, batch)
    if len(seen) == stop and os.environ["RANK"] == "0":
        os.kill(os.getpid(), signal.SIGTERM)
    seen.append([batch.indices.tolist(), loss.item()])
    with open(f"{notes}.{os.environ['RANK']}", "w") as stream:
        json.dump(seen, stream)
    return loss
ClassificationTask.loss = watched
from tcformer.cli import main
sys.exit(main(sys.argv[1:]))
"""


def global_steps(notes, size):
    """Per step the images in the order of the epoch, and the mean loss, over all processes."""
    each = [json.loads(notes.with_name(f"{notes.name}.{rank}").read_text()) for rank in range(size)]
    return [
        (
            [i for group in zip(*(indices for indices, _ in step), strict=True) for i in group],
            sum(loss for _, loss in step) / size,
        )
        for step in zip(*each, strict=True)
    ]


@pytest.mark.slow(seconds=15)
def test_another_number_of_processes_sees_the_same_images_in_order(data, tmp_path):
    """1, then 2 processes of the same global batch; without dropout the same losses."""
    plain = (
        *("train", "--model", "tcformer_nano", "--input-size", "32", "--data-path", str(data)),
        *("--device", "cpu", "--num_workers", "0", "--epochs", "2", "--warmup-epochs", "0"),
        *("--lr", "0.01", "--drop-path", "0", "--mixup", "0", "--cutmix", "0"),
    )
    family = Family(tmp_path, "tcformer.tasks.runner")
    try:
        steps = []
        for name, plan in {"whole": [(1, 99)], "moved": [(1, 2), (2, 99)]}.items():
            found = []
            for number, (size, stop) in enumerate(plan):
                notes = tmp_path / f"{name}{number}"
                ended = family.run(
                    *(WATCHED, size, str(stop), str(notes), *plain),
                    *("--batch-size", str(8 // size), "--output_dir", str(tmp_path / name)),
                    *("--resume", "auto"),
                )
                assert {p.status for p in ended} == {0 if stop == 99 else 75}, ended[0].err
                if number:
                    assert f"now there are {size}, so dropout" in ended[0].out
                found += global_steps(notes, size)
            steps.append(found)
    finally:
        family.close()
    (whole, moved), count = steps, 2 * (IMAGES // 8)
    assert len(whole) == len(moved) == count
    assert [images for images, _ in moved] == [images for images, _ in whole]
    assert [loss for _, loss in moved] == pytest.approx([loss for _, loss in whole], rel=1e-3)
    logs = [
        [json.loads(line) for line in (tmp_path / name / "log.txt").read_text().splitlines()]
        for name in ("whole", "moved")
    ]
    assert [row["train_loss"] for row in logs[1]] == pytest.approx(
        [row["train_loss"] for row in logs[0]], rel=1e-3
    )
