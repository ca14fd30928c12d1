"""The loop: what it prints, logs, keeps and refuses to go on with."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
from toy_task import ToyTask, config, train

from tcformer.runtime.distributed import World
from tcformer.training import loop
from tcformer.training.loop import build_state, fit
from tcformer.training.optim import set_learning_rate
from tcformer.weights.safe_torch import safe_torch_load

LINE = re.compile(
    r"Epoch: \[\d\]  \[ ?\d+/12\]  eta: \d:\d\d:\d\d  lr: \d\.\d{6}  "
    r"loss: \d+\.\d{4} \(\d+\.\d{4}\)  time: \d+\.\d{4}  data: \d+\.\d{4}  max mem: \d+"
)


def test_printed_lines_are_the_published_ones(capsys):
    train(config(epochs=2), steps=12)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Start training for 2 epochs"
    steps = [line for line in lines if line.startswith("Epoch: [0]  [")]
    assert [line.split("]")[1].strip(" [") for line in steps] == ["0/12", "10/12", "11/12"]
    assert all(LINE.fullmatch(line) for line in steps)
    assert steps[0].startswith("Epoch: [0]  [ 0/12]  eta: ")  # right-aligned to the digits of n
    assert re.fullmatch(r"Epoch: \[0\] Total time: \d:\d\d:\d\d \(\d+\.\d{4} s / it\)", lines[4])
    averaged = r"Averaged stats: lr: \d\.\d{6}  loss: \d+\.\d{4} \(\d+\.\d{4}\)"
    assert re.fullmatch(averaged, lines[5])
    assert lines[6].startswith("Test:  [0/1]  eta: 0:00:00  loss: ")
    assert lines[7].startswith("Test: Total time: 0:00:00 (")
    assert lines[8].startswith("* Acc@1 ")
    assert re.fullmatch(r"Max accuracy: \d+\.\d{2}%", lines[9])
    assert re.fullmatch(r"Training time \d:\d\d:\d\d", lines[-1])


def test_files_that_are_kept(tmp_path):
    task = train(config(output_dir=str(tmp_path), epochs=12, save_every=10), steps=2)
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {
        "checkpoint.pth", "checkpoint_0.pth", "checkpoint_10.pth", "best.pth", "best.safetensors",
        "config.json", "log.txt",
    }  # fmt: skip
    assert safe_torch_load(tmp_path / "checkpoint_10.pth")["epoch"] == 10
    assert safe_torch_load(tmp_path / "checkpoint.pth")["epoch"] == 11
    rows = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    published = "train_lr train_loss test_loss test_acc1 test_acc5 epoch n_parameters"
    assert [" ".join(row) for row in rows] == [published] * 12
    assert [row["epoch"] for row in rows] == list(range(12))
    assert rows[0]["n_parameters"] == sum(p.numel() for p in task.model.parameters())
    assert rows[0]["train_loss"] == pytest.approx(sum(task.losses[:2]) / 2)


def test_best_is_the_best_and_holds_the_average(tmp_path):
    scores = iter([3.0, 9.0, 5.0])
    task_type = type(
        "Scored",
        (ToyTask,),
        {"evaluate": lambda *_: {"loss": 0.0, "acc1": next(scores), "acc5": 1.0}},
    )
    cfg = config(output_dir=str(tmp_path), ema=True, ema_decay=0.5)
    result = fit(task_type(cfg), cfg, World())
    assert (result.best, result.best_epoch) == (9.0, 1)
    assert result.last["acc1"] == 5.0
    best = safe_torch_load(tmp_path / "best.pth")
    assert (best["epoch"], best["best"]) == (1, {"epoch": 1, "acc1": 9.0})
    from safetensors.torch import load_file

    weights = load_file(tmp_path / "best.safetensors")
    assert all(torch.equal(weights[k], v) for k, v in best["model_ema"].items())
    assert not all(torch.equal(weights[k], v) for k, v in best["model"].items())


PUBLISHED = {0: 1e-6, 1: 1e-6, 2: 2.008e-4, 3: 4.006e-4, 4: 6.004e-4, 5: 8.002e-4, 6: 9.9932e-4,
             150: 5.1018e-4, 299: 1.0109e-5}  # fmt: skip


def rates(**changes):
    cfg = config(epochs=300, warmup_epochs=5, lr=5e-4, batch_size=1024, **changes)
    state = build_state(ToyTask(cfg), cfg, World())
    out = {}
    for epoch in range(cfg.optimization.epochs):
        set_learning_rate(state.scheduler, epoch, compat=cfg.optimization.lr_schedule_compat)
        out[epoch] = state.optimizer.param_groups[0]["lr"]
    return out


def test_published_rates_under_the_compatibility_option():
    lagged, ours = rates(lr_schedule_compat=True), rates()
    for epoch, rate in PUBLISHED.items():
        assert lagged[epoch] == pytest.approx(rate, rel=5e-5), epoch
    assert all(ours[e] == lagged[e + 1] for e in range(299)), "ours: of the epoch about to run"


def test_accumulation_is_one_update_for_the_whole_group():
    """Two steps of 4 that are added make the update of one step of 8, without dropout."""

    class Halves(ToyTask):
        def batches(self, epoch, start):
            for number in range(self.steps_per_epoch):
                generator = torch.Generator().manual_seed(number // (8 // self.cfg.data.batch_size))
                x = torch.randn(8, 6, generator=generator)
                half = number % (8 // self.cfg.data.batch_size) * 4
                part = x[half : half + self.cfg.data.batch_size]
                yield part, part[:, :3] * 2

    def weights(batch_size, accum, steps):
        cfg = config(epochs=1, batch_size=batch_size, accum=accum, warmup_epochs=0)
        task = Halves(cfg, steps=steps)
        task.model[2] = torch.nn.Identity()
        fit(task, cfg, World())
        return task.model.state_dict()

    whole, added = weights(8, 1, 3), weights(4, 2, 6)
    for key, value in whole.items():
        torch.testing.assert_close(added[key], value, rtol=1e-5, atol=1e-6)


def test_a_last_group_that_is_not_full_still_updates():
    cfg = config(epochs=1, accum=4, warmup_epochs=0)
    task = ToyTask(cfg, steps=3)
    before = task.model[0].weight.clone()
    fit(task, cfg, World())
    assert not torch.equal(before, task.model[0].weight)


def test_clipping_limits_the_step():
    seen = []

    class Watched(torch.optim.SGD):
        def step(self, *args, **kwargs):
            grads = [p.grad for g in self.param_groups for p in g["params"]]
            seen.append(float(torch.nn.utils.get_total_norm(grads)))
            return super().step(*args, **kwargs)

    for clip in (None, 0.01):
        cfg = config(epochs=1, clip_grad=clip, opt="sgd", opt_eps=None)
        task = ToyTask(cfg, steps=1)
        state = build_state(task, cfg, World())
        state.optimizer.__class__ = Watched
        run = loop._Run(task, cfg, World(), state, task.model, None, None, 0, 1)
        run.train_one_epoch(0)
    free, clipped = seen
    assert free > 0.01
    assert clipped == pytest.approx(0.01, rel=1e-3)


def test_fp32_resume_is_full_precision_for_two_epochs():
    dtypes = []

    class Watched(ToyTask):
        def loss(self, model, batch):
            dtypes.append(model(batch[0]).dtype)
            return super().loss(model, batch)

    cfg = config(epochs=4, amp="bf16", fp32_resume=True, start_epoch=1)
    fit(Watched(cfg, steps=1), cfg, World())
    assert dtypes == [torch.float32, torch.float32, torch.bfloat16]


def test_one_scaler_for_the_whole_run():
    cfg = config(epochs=3, amp="fp16")
    task = ToyTask(cfg, steps=2)
    state = build_state(task, cfg, World())
    state.precision.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    run = loop._Run(task, cfg, World(), state, task.model, None, None, 0, 3)
    for epoch in range(3):
        run.train_one_epoch(epoch)
    assert state.precision.scaler.get_scale() == 64.0  # grown once an epoch, never reset


def test_eval_every_and_cooldown(capsys):
    task = train(config(epochs=4, cooldown_epochs=1, eval_every=2), steps=1)
    assert task.evaluations == 3  # epochs 1 and 3, and the last
    assert capsys.readouterr().out.count("Averaged stats: lr") == 5


def test_progress_is_reported():
    seen = []
    cfg = config(epochs=2)
    fit(ToyTask(cfg, steps=2), cfg, World(), on_progress=seen.append)
    steps = [(p.phase, p.epoch, p.step, p.steps) for p in seen]
    assert steps[:3] == [("train", 0, 1, 2), ("train", 0, 2, 2), ("test", 0, 1, 1)]
    assert {p.epochs for p in seen} == {2}
    assert math.isfinite(seen[0].values["loss"])


def test_compile_runs_the_compiled_model(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    task = train(config(epochs=1, compile=True))
    assert compiled == [task.model]
    assert train(config(epochs=1)).model not in compiled
