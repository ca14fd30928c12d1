"""Whole runs of the classifier: train, stop, resume, evaluate, fine-tune, plan."""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from recorded import whole_record
from safetensors import safe_open

from tcformer.errors import UserError
from tcformer.predict import Preprocessing, load
from tcformer.runtime.distributed import World
from tcformer.runtime.signals import interrupt
from tcformer.tasks import evaluator
from tcformer.tasks.classification import task
from tcformer.tasks.classification.task import ClassificationTask
from tcformer.tasks.runner import run
from tcformer.training.loop import Interrupted, NotFinite
from tcformer.training.metrics import MetricLogger
from tcformer.training.options import build, load_config
from tcformer.training.record import read_record
from tcformer.weights.released import file_sha256
from tcformer.weights.safe_torch import safe_torch_load

PUBLISHED = [
    r"\* Acc@1 \d+\.\d{3} Acc@5 100\.000 loss \d+\.\d{3}",
    r"Accuracy of the network on the 11 test images: \d+\.\d%",
]


def test_result_and_files(trained):
    cfg, result, folder = trained
    assert result.output_dir == folder
    assert result.checkpoint == folder / "best.safetensors"
    assert 0 <= result.best_acc1 <= 100
    for line, pattern in zip(result.eval_lines, PUBLISHED, strict=True):
        assert re.fullmatch(pattern, line)
    assert build(json.loads((folder / "config.json").read_text())) == cfg
    assert load_config(folder / "config.json")["model"] == "tcformer_nano"
    with safe_open(folder / "best.safetensors", "pt") as file:
        assert file.metadata()["classes"].split("\n") == ["blue", "green", "red"]
    for name in ("best.safetensors", "best.pth", "checkpoint.pth"):
        loaded = load(checkpoint=folder / name)
        assert loaded.classes == ("blue", "green", "red")
        assert loaded.preprocessing == Preprocessing(cfg.augmentation.input_size)
        assert ["EMA" in note for note in loaded.notes] == [True] * name.endswith(".pth")


@pytest.mark.parametrize("source", ["best.pth", "best.safetensors"])
def test_evaluation_repeats_the_result_of_the_training(trained, capsys, source):
    """And notices weights that were trained to merge otherwise."""
    cfg, result, folder = trained
    again = cfg.replace(eval=True, resume=str(folder / source), output_dir="")
    assert run(again).eval_lines == result.eval_lines
    out = capsys.readouterr().out
    assert f"resume from{folder / source}" in out
    assert "Creating model: tcformer_nano" in out
    assert "number of params: " in out
    assert "trained to merge" not in out
    run(again.replace(keep_ratio=(0.5,)))
    assert "trained to merge tokens in another way" in capsys.readouterr().out


def test_predictions_are_as_often_right_as_the_evaluation_says(trained, images):
    _, result, folder = trained
    model = load(checkpoint=folder / "best.safetensors")
    right = [
        prediction.best.name == Path(prediction.image).parent.name
        for prediction in model.predict_each(images / "val", batch_size=4)
    ]
    assert len(right) == 11
    assert 100 * sum(right) / 11 == pytest.approx(result.best)


def test_training_and_evaluation_leave_records(trained, tmp_path, capsys):
    cfg, result, folder = trained
    kept = whole_record(folder / "record.json", "training")
    assert kept["task"] == "classification"
    assert (kept["model"], kept["best"]["acc1"]) == ("tcformer_nano", result.best)
    assert [kept["data"][split]["images"] for split in ("train", "val")] == [14, 11]
    weights = str(folder / "best.safetensors")
    place = tmp_path / "measured.json"
    run(cfg.replace(eval=True, resume=weights, output_dir="", record=str(place)))
    said = capsys.readouterr().out.splitlines()
    assert not any("NOTICE: no record" in line for line in said)
    assert f"The record goes to {place}" in said[:-2]  # the published lines come last
    measured = whole_record(place, "evaluation")
    assert (measured["kind"], measured["weights"]) == ("evaluation", "best.safetensors")
    assert measured["weights_sha256"] == file_sha256(folder / "best.safetensors")[:16]
    assert measured["result"]["acc1"] == result.best
    assert measured["data"] == {"name": "IMNET", "val": kept["data"]["val"]}
    for _ in range(2):  # beside the results of the training, which stay as they are
        run(cfg.replace(eval=True, resume=weights))
    assert read_record(folder / "evaluation.json")["status"] == "finished"
    assert read_record(folder / "evaluation-1.json")["status"] == "finished"
    assert read_record(folder / "record.json") == kept


def test_what_keeps_nothing_says_so(small, capsys, recwarn):
    run(small(eval=True))
    said = capsys.readouterr().out
    assert "NOTICE: no record of this evaluation will be kept" in said
    assert "random weights" in said
    run(small(epochs=1, num_workers=3))  # more than a small machine has, and no reason to warn
    assert [w for w in recwarn if "worker" in str(w.message)] == []
    assert "NOTICE: no checkpoint, log or record will be kept" in capsys.readouterr().out


def test_only_val_is_needed_to_evaluate(trained, small, tmp_path, images):
    _, result, folder = trained
    (tmp_path / "val").symlink_to(images / "val")
    cfg = small(data_path=str(tmp_path), eval=True, resume=str(folder / "best.safetensors"))
    assert run(cfg).eval_lines == result.eval_lines


def test_resume_is_exact_with_everything_on(small, resumes_exactly):
    """Mixup, CutMix, RandAugment, erasing, drop path, dropout, averaging, bf16, accumulation.

    And another number of loader workers; tests/faults/resume has more of them.
    """
    on = {"drop_path": 0.3, "drop": 0.2, "ema": True, "ema_decay": 0.9, "amp": "bf16", "accum": 2}
    _, step = resumes_exactly(small(**on), num_workers=2)
    assert step == 2


def test_a_worker_that_is_killed_in_the_middle_of_a_step_is_a_sentence(small):
    def kill_one(_):
        for worker in multiprocessing.active_children()[:1]:
            os.kill(worker.pid, signal.SIGKILL)
        time.sleep(2)  # torch's handler of SIGCHLD raises here, not where batches are awaited

    with pytest.raises(UserError, match=r"A data worker died .*fewer --num_workers"):
        run(small(num_workers=2), on_progress=kill_one)


@pytest.mark.parametrize("how", ["eval", "dry_run"])
def test_compile_is_not_for_training_alone(small, monkeypatch, how):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    run(small(compile=True, **{how: True}))
    assert len(compiled) == 1


def test_interrupted_evaluation_stops(trained, capsys):
    cfg, _, folder = trained
    interrupt.request("SIGTERM")
    with pytest.raises(Interrupted, match="SIGTERM"):
        run(cfg.replace(eval=True, resume=str(folder / "best.pth")))
    interrupt.clear()


def test_a_process_of_several_stops_evaluating_at_once(trained, monkeypatch):
    cfg, _, _ = trained
    monkeypatch.setattr(evaluator, "all_reduce_sums", lambda world, sums: sums)
    monkeypatch.setattr(evaluator, "interrupt_reason", lambda world: interrupt.reason)
    both = ClassificationTask(cfg.replace(eval=True, batch_size=1), World(size=2))
    batches = []
    both.model.register_forward_hook(lambda *_: batches.append(1))
    interrupt.request("SIGUSR1")
    with pytest.raises(Interrupted, match="SIGUSR1"):
        both.evaluate(both.model, MetricLogger(World()), contextlib.nullcontext)
    assert both.evaluator.steps == 6
    assert len(batches) == 1
    interrupt.clear()


def test_another_number_of_classes_is_a_sentence(trained, small, capsys):
    _, _, folder = trained
    for source in ("best.pth", "best.safetensors"):
        cfg = small(data_set="fake", eval=True, resume=str(folder / source))
        with pytest.raises(UserError, match=r"is for 3 classes, but the data .* has 10"):
            run(cfg)
    with pytest.raises(UserError, match="is for 3 classes"):
        run(small(data_set="fake", resume=str(folder / "best.pth")))


def test_finetune_trains_a_new_classifier_in_train_mode(trained, small, monkeypatch):
    source = trained[2] / "best.pth"
    modes, start = [], {}
    real = ClassificationTask.loss

    def watched(self, model, batch):
        if not modes:
            start.update({k: v.clone() for k, v in model.state_dict().items()})
        modes.append(model.training)
        return real(self, model, batch)

    monkeypatch.setattr(ClassificationTask, "loss", watched)
    run(small(num_classes=5, finetune=str(source), epochs=1, eval_every=2))
    assert set(modes) == {True}
    assert start["head.weight"].shape[0] == 5
    key = "block1.0.mlp.fc1.weight"
    assert torch.equal(start[key], safe_torch_load(source)["model_ema"][key])


def test_freeze_trains_the_classifier_alone(trained, small, tmp_path):
    source = trained[2] / "best.pth"
    before = safe_torch_load(source)["model_ema"]
    # Stochastic depth would show: the frozen part rests in evaluation mode.
    cfg = small(
        num_classes=5, finetune=str(source), freeze=True, drop_path=0.9, output_dir=str(tmp_path),
        epochs=1,
    )  # fmt: skip
    run(cfg)
    kept = whole_record(tmp_path / "record.json", "training")
    assert kept["weights_sha256"] == file_sha256(source)[:16]
    after = safe_torch_load(tmp_path / "checkpoint.pth")["model"]
    moved = {key for key in after if not torch.equal(after[key], before[key])}
    assert moved == {"head.weight", "head.bias"}
    again = ClassificationTask(cfg, World())
    batch = again.fake_batch(4)
    first, second = (again.loss(again.model.train(), batch).item() for _ in range(2))
    assert first == second


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"eval": True, "resume": "/nowhere/f.pth"}, "/nowhere/f.pth"),
        ({"model": "tcformer_lite"}, "--model tcformer_lite is not known"),
        ({"num_classes": 2}, "--num-classes 2 is fewer than the 3 classes"),
        ({"world_size": 4}, "--world_size 4"),
        ({"data_path": "/nowhere"}, "/nowhere"),
        ({"batch_size": 64}, "batch"),
        ({"aa": "nonsense"}, "--aa"),
        ({"device": "tpu"}, "--device"),
        ({"eval": True, "resume": "auto", "output_dir": "/nowhere/out"}, "no checkpoint"),
    ],
)
def test_mistakes_are_one_sentence(small, changes, words):
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        run(small(**changes))
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_not_finite_names_the_files(small, monkeypatch):
    monkeypatch.setattr(
        ClassificationTask, "loss", lambda self, m, b: m(b.images).sum() * float("nan")
    )
    with pytest.raises(NotFinite, match=r"step 0, lr .*files: .*\.png, .*\.png"):
        run(small())


def test_dry_run_plans_and_writes_nothing(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "2")
    out = tmp_path / "out"
    result = run(small(dry_run=True, output_dir=str(out), accum=2, batch_size=6, num_workers=2))
    assert math.isnan(result.best_acc1)
    assert list(tmp_path.iterdir()) == []
    said = capsys.readouterr().out
    for part in (
        "images: 14 to train on (2 of them left out of each epoch, less than a batch), 11 to",
        "classes: 3",
        "batch: 6 per process x 1 processes x 2 accumulated = 12 images per update",
        "schedule: 2 epochs of 2 steps (1 updates), adamw",
        "step tried with: 4 images per process, fewer than --batch-size 6",
        "GiB",
        "slurm: job 7",
        "--num_workers 2 exceeds the 1 CPUs",
        "the job has GPUs, but this process runs on the CPU",
    ):
        assert part in said
    assert "will be kept" not in said


def test_dry_run_finds_what_would_fail(small, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        run(small(dry_run=True, output_dir=str(tmp_path / "file" / "out")))
    with pytest.raises(UserError, match="/nowhere"):
        run(small(dry_run=True, data_path="/nowhere"))
    with pytest.raises(UserError, match="leave --eval out"):
        run(small(dry_run=True, eval=True))


def test_corrupt_images_are_named_counted_and_skipped(small, images, tmp_path, capsys):
    shutil.copytree(images, tmp_path / "d")
    file = tmp_path / "d/train/blue/1.png"
    file.write_bytes(file.read_bytes()[:50])
    out = tmp_path / "out"
    run(small(data_path=str(tmp_path / "d"), batch_size=14, epochs=1, output_dir=str(out)))
    said = capsys.readouterr()
    assert str(file) in said.err
    assert "NOTICE: 1 unreadable images were skipped in epoch 0." in said.out
    assert json.loads((out / "log.txt").read_text())["corrupt"] == 1


def test_pretrained_weights_are_asked_of_timm(small, monkeypatch):
    asked = {}

    def create_model(name, **options):
        asked.update(options)
        return real(name, **{**options, "pretrained": False})

    real = task.timm.create_model
    monkeypatch.setattr(task.timm, "create_model", create_model)
    run(small(eval=True, pretrained=True))
    assert asked["pretrained"] is True
