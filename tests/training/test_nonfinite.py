"""Losses and gradients that are not finite: kept for reproduction, skipped, counted."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
from torch import nn
from toy_task import ToyTask, config, same

from tcformer.errors import UserError
from tcformer.runtime.distributed import World
from tcformer.runtime.signals import interrupt
from tcformer.training import checkpoint as ckpt
from tcformer.training import nonfinite
from tcformer.training.loop import Interrupted, NotFinite, fit
from tcformer.weights.safe_torch import safe_torch_load


class Poisoned(ToyTask):
    """Some (epoch, number) have a NaN in the input, some a gradient that is not finite."""

    def __init__(self, cfg, *, nan=(), gradient=(), without=(), stop=None, dropout=True, **kw):
        super().__init__(cfg, **kw)
        self.nan, self.gradient, self.without, self.stop = nan, gradient, without, stop
        if not dropout:
            self.model[2] = nn.Identity()
        self.model.insert(1, nn.BatchNorm1d(8))
        self.now = (0, 0)

    def batches(self, epoch, start):
        numbers = range(start, self.steps_per_epoch)
        batches = super().batches(epoch, start)
        for number, (x, y) in zip(numbers, batches, strict=True):
            self.now = (epoch, number)
            if self.now in self.nan:
                x[0, 0] = float("nan")
            if self.now == self.stop:
                interrupt.request("SIGTERM")
            yield x, y

    def loss(self, model, batch):
        loss = super().loss(model, batch)
        if self.now in self.gradient:  # 0, with an infinite gradient
            loss = loss + (0 * next(model.parameters()).sum()).sqrt()
        return loss


def run(cfg, **kw):
    interrupt.clear()
    task = Poisoned(cfg, **kw)
    ckpt.seed_everything(cfg.run.seed, 0)
    try:
        fit(task, cfg, World())
    except Interrupted:
        interrupt.clear()
    return task


def state_of(folder):
    return safe_torch_load(folder / "checkpoint.pth")


def rows_of(folder):
    lines = (folder / "log.txt").read_text().splitlines()
    return [json.loads(line, parse_constant=pytest.fail) for line in lines]  # strict JSON: no NaN


def test_the_circumstances_are_kept(tmp_path):
    with pytest.raises(NotFinite) as stopped:
        run(config(output_dir=str(tmp_path), epochs=2), nan=[(1, 3)])
    said = str(stopped.value)
    assert said.startswith("Loss is nan, stopping training (epoch 1, step 3, lr 0.000200312, ")
    assert "gradient norm nan, files: a.png, b.png); the circumstances are in " in said
    record = tmp_path / "nonfinite_epoch1_step3.json"
    assert str(record) in said
    facts = json.loads(record.read_text(), parse_constant=pytest.fail)  # strict JSON: no NaN
    assert (facts["epoch"], facts["step"], facts["skipped"]) == (1, 3, False)
    assert facts["lr"] > 0
    assert facts["seed"] == 0
    batch = "nonfinite_epoch1_step3.rank0.pt"
    found = {"rank": 0, "loss": "nan", "gradient_norm": "nan", "targets": None, "batch": batch}
    assert facts["ranks"] == [{**found, "files": ["a.png", "b.png"]}]
    batch = safe_torch_load(tmp_path / facts["ranks"][0]["batch"])["batch"]
    assert batch["0"].shape == (4, 6)
    assert batch["0"][0, 0].isnan()


@pytest.mark.parametrize(("kind", "accum"), [("nan", 2), ("gradient", 1)])
def test_the_step_can_be_repeated(tmp_path, kind, accum):
    """Dropout, batch norm and the place are those of before; so the losses come again."""
    cfg = config(output_dir=str(tmp_path), accum=accum)
    again = config(accum=accum, resume=str(tmp_path / "nonfinite_epoch1_step3.pth"))
    first = Poisoned(cfg, **{kind: [(1, 3)]})
    ckpt.seed_everything(cfg.run.seed, 0)
    with pytest.raises(NotFinite) as stopped:
        fit(first, cfg, World())
    torch.rand(9)
    second = Poisoned(again, **{kind: [(1, 3)]})
    with pytest.raises(NotFinite) as repeated:
        fit(second, again, World())
    assert second.seen[0] == (1, 3 // accum * accum)
    assert str(first.losses[-len(second.losses) :]) == str(second.losses)
    assert len(second.losses) == (4 - 3 // accum * accum)
    a, b = str(stopped.value), str(repeated.value)
    assert a.partition(";")[0] == b.partition(";")[0]
    assert b.endswith("nothing saved, --output_dir is empty.")
    if kind == "gradient":
        assert a.startswith("Gradient norm is nan, stopping training (epoch 1, step 3, lr ")


@pytest.mark.parametrize(("kind", "accum"), [("nan", 1), ("gradient", 2)])
def test_what_is_skipped_leaves_no_trace(tmp_path, kind, accum):
    """Weights, average, moments and batch statistics are those of before the whole update."""
    on = {"ema": True, "ema_decay": 0.9, "accum": accum, "clip_grad": 1.0, "epochs": 1}
    cfg = config(output_dir=str(tmp_path / "skips"), skip_nonfinite=1, **on)
    task = run(cfg, steps=6, **{kind: [(0, 5)]})
    run(config(output_dir=str(tmp_path / "before"), **on), steps=6, stop=(0, 5 - accum))
    a, b = state_of(tmp_path / "skips"), state_of(tmp_path / "before")
    assert b["step"] == 6 - accum
    for key in ("model", "model_ema", "optimizer"):
        assert same(a[key], b[key]), key
    assert "1.running_mean" in a["model"]
    assert (a["skips"]["nonfinite"], b["skips"]["nonfinite"]) == (1, 0)
    assert len(task.losses) == 6
    facts = json.loads((tmp_path / "skips/nonfinite_epoch0_step5.json").read_text())
    assert facts["skipped"]
    assert facts["first_step_of_update"] == 6 - accum
    assert not list((tmp_path / "skips").glob("nonfinite*.p*"))  # no weights: bounded disk use


def test_the_rest_of_a_dropped_group_is_not_computed(tmp_path, capsys):
    task = run(config(accum=3, epochs=1, skip_nonfinite=1), steps=6, nan=[(0, 0)])
    assert len(task.losses) == 4
    assert len(task.seen) == 6
    out = capsys.readouterr().out
    assert "NOTICE: Loss is nan, skipped (1 of at most 1, --skip-nonfinite; epoch 0, step 0" in out
    assert re.search(r"Averaged stats: .*loss: \d.*  skipped: 1/2\n", out)


def test_one_more_than_allowed_ends_the_run(tmp_path):
    cfg = config(output_dir=str(tmp_path), skip_nonfinite=2)
    with pytest.raises(
        NotFinite, match=r"Loss is nan, stopping training after 2 skipped \(epoch 1"
    ):
        run(cfg, nan=[(0, 1), (0, 4), (1, 0)])
    rows = rows_of(tmp_path)
    assert [row["skipped_nonfinite"] for row in rows] == [2]
    assert math.isfinite(rows[0]["train_loss"])


def test_a_resumed_run_goes_on_counting(tmp_path):
    """Stopped between two skips, it is the run that was never stopped, to the last bit."""
    nan = [(0, 3), (1, 4), (2, 0)]
    whole = run(config(output_dir=str(tmp_path / "whole"), skip_nonfinite=3), nan=nan)
    cfg = config(output_dir=str(tmp_path / "two"), skip_nonfinite=3)
    first = run(cfg, nan=nan, stop=(1, 1))
    second = run(cfg.replace(resume="auto"), nan=nan)
    assert str(whole.losses) == str(first.losses + second.losses)
    a, b = state_of(tmp_path / "whole"), state_of(tmp_path / "two")
    for key in ("model", "optimizer", "ranks", "skips"):
        assert same(a[key], b[key]), key
    assert (tmp_path / "whole/log.txt").read_text() == (tmp_path / "two/log.txt").read_text()
    # The counts of before the stop bind: the third skip is one too many for a limit of 2.
    run(config(output_dir=str(tmp_path / "three"), skip_nonfinite=2), nan=nan[:2], stop=(1, 4))
    with pytest.raises(NotFinite, match="after 2 skipped"):
        run(config(output_dir=str(tmp_path / "three"), skip_nonfinite=2, resume="auto"), nan=nan)


def test_a_full_disk_does_not_hide_the_cause(tmp_path, monkeypatch):
    def full(*_):
        raise UserError("cannot write x: the disk is full")

    monkeypatch.setattr(nonfinite, "atomic_write", full)
    with pytest.raises(NotFinite, match=r"Loss is nan, stopping.*; cannot write x: the disk is fu"):
        run(config(output_dir=str(tmp_path), epochs=1), nan=[(0, 0)])


class Overflowing(ToyTask):
    """Scaled gradients overflow while the scale is above `limit`."""

    limit = 0.0

    def loss(self, model, batch):
        loss = super().loss(model, batch)
        loss.register_hook(lambda g: g * float("inf") if g.item() > self.limit else g)
        return loss


def test_the_loss_scalers_skips_are_counted(tmp_path, capsys):
    cfg = config(output_dir=str(tmp_path), amp="fp16", epochs=2, ema=True, ema_decay=0.5)
    task = Overflowing(cfg, steps=5)
    task.limit = 2.0**13  # 65536 is halved three times
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    fit(task, cfg, World())
    rows = rows_of(tmp_path)
    assert [row["skipped_overflow"] for row in rows] == [3, 0]
    content = state_of(tmp_path)
    assert content["skips"]["overflow"] == 3
    assert content["scaler"]["scale"] == 2.0**13
    out = capsys.readouterr().out
    assert out.count("  skipped: 3/5\n") == 1
    assert out.count("skipped") == 1
    assert not same(before, task.model.state_dict())


def test_a_scaler_that_finds_no_scale_ends_the_run(tmp_path):
    """Gradients that overflow at the least scale are not finite themselves."""
    cfg = config(output_dir=str(tmp_path), amp="fp16", epochs=9)
    with pytest.raises(NotFinite, match=r"Gradient norm is (inf|nan), stopping .*epoch 5, step 4"):
        fit(Overflowing(cfg, steps=5), cfg, World())
    facts = json.loads((tmp_path / "nonfinite_epoch5_step4.json").read_text())
    assert facts["loss_scale"] == 2.0**-14


def test_an_epoch_of_skips_alone_has_no_loss(tmp_path, capsys):
    run(
        config(output_dir=str(tmp_path), epochs=1, skip_nonfinite=9), nan=[(0, n) for n in range(5)]
    )
    (row,) = rows_of(tmp_path)
    assert row["train_loss"] is None
    assert row["skipped_nonfinite"] == 5
    assert "NOTICE: all 5 updates" in capsys.readouterr().out


def test_a_validation_loss_that_is_not_finite_is_null_in_the_log(tmp_path):
    class Blind(ToyTask):
        def evaluate(self, model, log, autocast):
            return {"loss": math.nan, "acc1": 10.0, "acc5": 50.0}

    cfg = config(output_dir=str(tmp_path), epochs=1)
    fit(Blind(cfg), cfg, World())
    (row,) = rows_of(tmp_path)
    assert row["test_loss"] is None
