"""A run that was stopped and resumed is the run that was never stopped, bit for bit."""

from __future__ import annotations

import argparse
import json
import sys

import pytest
import torch
from toy_task import ToyTask, config, same, train

from tcformer.errors import UserError
from tcformer.runtime.distributed import World
from tcformer.runtime.signals import interrupt
from tcformer.training import checkpoint as ckpt
from tcformer.training.loop import Interrupted, build_state, fit
from tcformer.training.record import RunRecord
from tcformer.training.resume import was_restarted
from tcformer.weights.safe_torch import safe_torch_load


@pytest.fixture(autouse=True)
def _no_request():
    interrupt.clear()
    yield
    interrupt.clear()


def last(folder):
    return safe_torch_load(folder / "checkpoint.pth")


KINDS = {
    "plain": {},
    "all": {"ema": True, "ema_decay": 0.9, "accum": 2, "clip_grad": 0.5, "lr_noise": (0.3, 0.9)},
    "bf16": {"amp": "bf16", "ema": True, "ema_decay": 0.9},
    "fp16": {"amp": "fp16"},
    "steps counted in the groups": {"opt": "lookahead_lamb"},
}


# Every kind is stopped in the middle of an epoch, one of them everywhere else too.
PLACES = [(kind, stop_at) for kind in KINDS for stop_at in (4, 7)]
PLACES += [("all", stop_at) for stop_at in (0, 2, 14)]


@pytest.mark.parametrize(("kind", "stop_at"), PLACES)
def test_same_losses_weights_and_log(tmp_path, kind, stop_at):
    whole = config(output_dir=str(tmp_path / "whole"), **KINDS[kind])
    broken = config(output_dir=str(tmp_path / "broken"), **KINDS[kind])
    losses = train(whole).losses
    with pytest.raises(Interrupted):
        train(broken, stop_at=stop_at)
    torch.rand(17)  # a new process has other random states; they must come from the file
    second = train(broken.replace(resume="auto"))
    assert losses[-len(second.losses) :] == second.losses if second.losses else True
    done = len(losses) - len(second.losses)
    assert stop_at < done <= stop_at + 2 * whole.optimization.accum
    a, b = last(tmp_path / "whole"), last(tmp_path / "broken")
    for key in ("model", "model_ema", "optimizer", "scaler", "epoch", "step", "best", "ranks"):
        assert same(a[key], b[key]), key
    assert (tmp_path / "whole/log.txt").read_text() == (tmp_path / "broken/log.txt").read_text()


def test_every_file_has_the_same_bytes(tmp_path):
    """Beyond its content: of equal strings the pickle says whether they are one object."""
    cfg = config(output_dir=str(tmp_path / "run"), save_every=1, resume="auto", **KINDS["all"])
    files = []
    for stops in ((), (7,), (1, 4)):
        for stop_at in stops:
            with pytest.raises(Interrupted):
                train(cfg, stop_at=stop_at)
        train(cfg)
        files.append(content(tmp_path / "run"))
        (tmp_path / "run").rename(tmp_path / f"run{len(files)}")
    assert {"checkpoint.pth", "checkpoint_0.pth", "checkpoint_2.pth", "best.pth"} <= set(files[0])
    assert files[0] == files[1] == files[2]


def test_dropout_really_draws():
    """Without it, the tests above could not see lost random states."""
    task = ToyTask(config())
    x = torch.ones(4, 6)
    assert not torch.equal(task.model(x), task.model(x))


def test_interrupted_before_the_evaluation_evaluates_first(tmp_path):
    cfg = config(output_dir=str(tmp_path), epochs=2)
    with pytest.raises(Interrupted):
        train(cfg, stop_at=4)  # the last step of epoch 0: saved, not evaluated
    content = last(tmp_path)
    assert (content["epoch"], content["step"], content["evaluated"]) == (0, 0, False)
    assert not (tmp_path / "log.txt").exists()
    second = train(config(output_dir=str(tmp_path), epochs=2, resume="auto"))
    assert second.evaluations == 2
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1]


def test_save_steps_survive_a_hard_kill(tmp_path):
    class Killed(Exception):
        pass

    def die(self, epoch, start):
        for i, batch in enumerate(ToyTask.batches(self, epoch, start)):
            if i == 3:
                raise Killed
            yield batch

    cfg = config(output_dir=str(tmp_path), save_steps=2, epochs=1)
    whole = train(config(epochs=1)).losses
    task = type("Dying", (ToyTask,), {"batches": die})(cfg)
    ckpt.seed_everything(0, 0)
    with pytest.raises(Killed):
        fit(task, cfg, World())
    assert last(tmp_path)["step"] == 2
    assert train(config(output_dir=str(tmp_path), epochs=1, resume="auto")).losses == whole[2:]


def test_killed_between_the_two_files_of_an_epoch(tmp_path, monkeypatch):
    class Killed(Exception):
        pass

    real = ckpt.atomic_write

    def die(path, write):
        if path.name == "checkpoint_1.pth":
            raise Killed
        real(path, write)

    whole = config(output_dir=str(tmp_path / "whole"), save_every=1)
    broken = config(output_dir=str(tmp_path / "broken"), save_every=1, resume="auto")
    train(whole)
    monkeypatch.setattr(ckpt, "atomic_write", die)
    with pytest.raises(Killed):
        train(broken)
    (tmp_path / "broken" / ".checkpoint_1.pth.999999999-0123abcd.tmp").touch()
    monkeypatch.undo()
    train(broken)
    a, b = ({p.name for p in (tmp_path / n).iterdir()} for n in ("whole", "broken"))
    assert a == b
    for name in ("checkpoint_1.pth", "checkpoint.pth", "best.pth"):
        one, two = (safe_torch_load(tmp_path / n / name) for n in ("whole", "broken"))
        assert same(one["model"], two["model"])
        assert same(one["ranks"], two["ranks"])


def test_a_missing_path_is_an_error():
    with pytest.raises(UserError, match=r"--resume /nowhere/x.pth does not exist.*--resume auto"):
        train(config(resume="/nowhere/x.pth", epochs=1))


@pytest.mark.parametrize("name", ["SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"])
def test_a_restarted_job_resumes_by_itself(tmp_path, monkeypatch, name):
    cfg = config(output_dir=str(tmp_path))
    assert not was_restarted()
    with pytest.raises(Interrupted):
        train(cfg, stop_at=6)
    monkeypatch.setenv(name, "1")
    assert train(cfg).seen[0] == (1, 2)


def test_checkpoint_holds_plain_values_only(tmp_path):
    train(config(output_dir=str(tmp_path), epochs=1, ema=True, ema_decay=0.5))
    content = torch.load(tmp_path / "checkpoint.pth", weights_only=True)  # no allow-list needed

    def plain(value):
        if isinstance(value, dict):
            return all(isinstance(k, (str, int)) and plain(v) for k, v in value.items())
        if isinstance(value, (list, tuple)):
            return all(map(plain, value))
        return value is None or isinstance(value, (str, int, float, bool, torch.Tensor))

    assert plain(content)
    assert content["format"] == ckpt.FORMAT
    assert content["args"]["ema_decay"] == 0.5


def published(folder, **args):
    """A checkpoint as the published code writes it, of a run that `folder` keeps."""
    content = last(folder)
    old = {k: content[k] for k in ("model", "optimizer", "lr_scheduler", "scaler", "epoch")}
    for state in old["optimizer"]["state"].values():
        state["step"] = int(state["step"])
    torch.save({**old, "args": argparse.Namespace(**args)}, folder / "old.pth")
    return str(folder / "old.pth")


@pytest.mark.parametrize("args", [{"lr": 5e-4}, {"opt": "adamw", "sched": "step"}])
def test_checkpoint_of_the_published_code(tmp_path, capsys, args):
    """An argparse namespace, integer steps, the old schedule's attributes, no random states."""
    train(config(output_dir=str(tmp_path), epochs=1))
    old = published(tmp_path, model="theirs", **args)
    assert train(config(resume=old, epochs=2)).seen[0] == (1, 0)
    said = capsys.readouterr().out
    assert "written by the published code" in said
    assert "optimizer starts anew" not in said
    with pytest.raises(UserError, match=r"--opt adabelief"):
        train(config(resume=old, epochs=2, opt="adabelief"))


def test_optimizer_state_that_does_not_fit_is_said(tmp_path, capsys):
    train(config(output_dir=str(tmp_path), epochs=1))
    content = last(tmp_path)
    content["optimizer"]["param_groups"].pop()
    torch.save(content, tmp_path / "odd.pth")
    train(config(resume=str(tmp_path / "odd.pth"), epochs=2))
    assert "optimizer starts anew" in capsys.readouterr().out


def test_settings_come_from_the_configuration_not_the_file(tmp_path):
    train(config(output_dir=str(tmp_path), epochs=1))
    content = last(tmp_path)
    cfg = config(epochs=2, weight_decay=0.3)
    task = ToyTask(cfg)
    state = build_state(task, cfg, World())
    ckpt.restore(state, content, cfg, World(), lambda m, w: m.load_state_dict(w))
    assert [g["weight_decay"] for g in state.optimizer.param_groups] == [0.0, 0.3]
    assert state.optimizer.state_dict()["state"][0]["step"] == 5


def test_other_batch_size_keeps_the_place(tmp_path, capsys):
    with pytest.raises(Interrupted):
        train(config(output_dir=str(tmp_path)), stop_at=2)  # 3 steps of 4 images done
    task = train(config(output_dir=str(tmp_path), batch_size=8, resume="auto"))
    assert task.seen[0] == (0, 1)
    assert "4 images are shown twice" in capsys.readouterr().out


def test_a_foreign_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"a\.safetensors is not a training .*use --finetune"):
        ckpt.read(tmp_path / "a.safetensors")
    torch.save({"weights": {}}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match="not a training checkpoint"):
        ckpt.read(tmp_path / "odd.pth")


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("ranks", [{}]), ("ranks", 5), ("samples", None), ("best", 7), ("evaluated", torch.ones(2)),
        ("epoch", float("inf")), ("scaler", [1]), ("skips", {"zzz": 1}), ("model_ema", [1]),
    ],
)  # fmt: skip
def test_a_damaged_training_state_is_one_sentence(tmp_path, entry, value):
    cfg = config(ema=True)
    task = ToyTask(cfg)
    state = build_state(task, cfg, World())
    content = {**ckpt.snapshot(state, cfg, World()), entry: value}
    said = r"x\.pth is damaged or not of this program"
    with pytest.raises(UserError, match=said) as told, ckpt.damage_told("x.pth"):
        ckpt.restore(state, content, cfg, World(), task.load_weights)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("opt", "adamw", "sgd"), ("opt", "lion", "adamw"), ("opt", "lookahead_adamw", "adamw"),
        ("opt", "adamw", "adabelief"), ("sched", "cosine", "step"), ("ema", True, False),
        ("ema", False, True), ("amp", "off", "bf16"), ("amp", "fp16", "off"),
        ("model", "tcformer", "tcformer_light"), ("task", "classification", "pose"),
    ],
)  # fmt: skip
def test_another_kind_of_run_is_refused_with_both_names(tmp_path, name, before, after):
    cfg = config(output_dir=str(tmp_path), epochs=1)
    train(cfg.replace(**{name: before}))
    kept = content(tmp_path)
    said = rf"--{name} {before}\b.*--{name} {after}\b.*--finetune"
    with pytest.raises(UserError, match=said):
        train(cfg.replace(epochs=2, resume="auto", **{name: after}))
    assert content(tmp_path) == kept


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [("sgd", "adamw"), ("lion", "adamw"), ("adam", "adamw"), ("adamw", "sgd"),
     ("adamw", "adafactor"), ("adamw", "adabelief")],
)  # fmt: skip
def test_an_optimizer_that_no_option_names_is_told_by_its_state(tmp_path, theirs, ours):
    cfg = config(output_dir=str(tmp_path), epochs=1)
    train(cfg.replace(opt=theirs))
    saved = last(tmp_path)
    own = theirs != "lion"  # else as of another program, which saves less
    saved = {k: v for k, v in saved.items() if k != "args" and (own or k in _FOREIGN)}
    torch.save(saved, tmp_path / "checkpoint.pth")
    kept = content(tmp_path)
    again = cfg.replace(epochs=2, resume="auto")
    with pytest.raises(UserError, match=rf"optimizer.*--opt {ours}\b.*--finetune"):
        train(again.replace(opt=ours))
    assert content(tmp_path) == kept
    assert train(again.replace(opt=theirs)).seen[0] == (1, 0)


def test_another_size_and_way_of_merging_are_said(tmp_path, capsys):
    cfg = config(output_dir=str(tmp_path), epochs=1, keep_ratio=(0.5,))
    train(cfg)
    train(cfg.replace(epochs=2, resume="auto"))
    assert "now it is" not in capsys.readouterr().out
    train(cfg.replace(epochs=3, resume="auto", input_size=96, k=3))
    said = capsys.readouterr().out
    assert "--input-size 224, and now it is 96" in said
    assert "--k None, and now it is 3" in said
    assert "--keep-ratio" not in said


_FOREIGN = ("model", "optimizer", "epoch")


def test_moments_alone_tell_another_optimizer(tmp_path):
    """As Lion is published: all of its settings are AdamW's too, and it keeps one moment."""
    train(config(output_dir=str(tmp_path), epochs=1))
    saved = {k: v for k, v in last(tmp_path).items() if k in _FOREIGN}
    for entry in saved["optimizer"]["state"].values():
        del entry["exp_avg_sq"], entry["step"]
    for group in saved["optimizer"]["param_groups"]:
        for name in group.keys() - {"lr", "betas", "weight_decay", "params"}:
            del group[name]
    torch.save(saved, tmp_path / "lion.pth")
    with pytest.raises(UserError, match=r"exp_avg.*--opt adamw"):
        train(config(resume=str(tmp_path / "lion.pth"), epochs=2))


def content(folder):
    """Every file of a folder with its bytes, what was set aside left out."""
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def aside(folder):
    return sorted(p.name for p in folder.iterdir() if p.is_dir())


def test_an_earlier_run_is_never_touched_by_one_that_does_not_resume_it(tmp_path, capsys):
    first, other = (config(output_dir=str(tmp_path / n), save_every=1, epochs=2) for n in "ab")
    train(first)
    train(other)
    kept = content(tmp_path / "a")
    train(first.replace(seed=1))
    assert content(tmp_path / "a" / "earlier-1") == kept
    assert f"{tmp_path / 'a' / 'earlier-1'} now" in capsys.readouterr().out
    # The same where it goes on from a run that lies elsewhere.
    second = content(tmp_path / "a")
    whole = str(tmp_path / "b" / "checkpoint.pth")
    train(first.replace(resume=whole, epochs=3))
    assert content(tmp_path / "a" / "earlier-2") == second
    # And a run that is resumed is one run.
    train(first.replace(resume="auto", epochs=4))
    again = str(tmp_path / "a" / "checkpoint_2.pth")
    train(first.replace(resume=again, epochs=4))
    assert aside(tmp_path / "a") == ["earlier-1", "earlier-2"]


def test_what_is_refused_moves_nothing(tmp_path, monkeypatch):
    cfg = config(output_dir=str(tmp_path), epochs=1)
    train(cfg)
    kept = content(tmp_path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="tensorboard"):
        train(cfg.replace(tensorboard=True))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        RunRecord(cfg.replace(record=str(tmp_path / "file" / "a")).run, World())
    (tmp_path / "file").unlink()
    weights = str(tmp_path / "best.pth")
    run = config(record=weights, resume=weights, eval=True).run
    with pytest.raises(UserError, match="made from"):
        RunRecord(run, World(), made_from=[run.resume])
    assert content(tmp_path) == kept
    assert aside(tmp_path) == []
