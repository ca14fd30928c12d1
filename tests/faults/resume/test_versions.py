"""What a run goes on from: files of other versions, damaged ones, strangers with the name."""

from __future__ import annotations

import random

import pytest
import torch
from toy_task import ToyTask, config, train

from tcformer.errors import UserError
from tcformer.runtime.distributed import World
from tcformer.training import checkpoint as ckpt
from tcformer.training.loop import build_state, fit
from tcformer.weights.safe_torch import safe_torch_load


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a run of three epochs that kept a checkpoint of each."""
    folder = tmp_path_factory.mktemp("versions") / "run"
    train(config(output_dir=str(folder), save_every=1, save_steps=2))
    return folder


@pytest.fixture
def content(finished):
    """What the run had saved after its second epoch."""
    return safe_torch_load(finished / "checkpoint_1.pth")


def go_on(path, **changes):
    return train(config(resume=str(path), **changes))


def test_the_first_form_is_read(content, tmp_path):
    """As the first version wrote it, which counted no skipped updates."""
    del content["skips"]
    torch.save(content, tmp_path / "old.pth")
    assert go_on(tmp_path / "old.pth").losses == train(config()).losses[10:]


@pytest.mark.parametrize("form", [2, 10**12])
def test_a_newer_form_is_refused_with_both_versions(content, tmp_path, form):
    torch.save({**content, "format": form}, tmp_path / "new.pth")
    with pytest.raises(UserError, match=rf"new.pth was .* \(format {form}, this one reads up to 1"):
        go_on(tmp_path / "new.pth")


@pytest.mark.parametrize("form", [0, -1, 1.5, "1", True])
def test_a_form_that_is_none_is_refused(content, tmp_path, form):
    torch.save({**content, "format": form}, tmp_path / "odd.pth")
    with pytest.raises(UserError, match=r"odd.pth has format .*, but formats count from 1"):
        go_on(tmp_path / "odd.pth")


@pytest.mark.parametrize("name", ["optimizer", "epoch", "samples", "best", "ranks"])
def test_a_missing_or_odd_part_is_named(content, tmp_path, name):
    odd = {**content, name: "of another kind"}
    del content[name]
    for damaged in (content, odd):
        torch.save(damaged, tmp_path / "x.pth")
        with pytest.raises(UserError, match=rf"x.pth is damaged: {name} is missing"):
            go_on(tmp_path / "x.pth")


def test_damage_deep_inside_is_a_sentence(finished, tmp_path):
    """Seeded: some value somewhere is taken out or replaced. It resumes, or says one sentence."""
    sentences = []
    for seed in range(25):
        content, draw = safe_torch_load(finished / "checkpoint_1.pth"), random.Random(seed)
        spoil(content, draw)
        torch.save(content, tmp_path / "x.pth")
        cfg = config(resume=str(tmp_path / "x.pth"))
        try:
            fit(ToyTask(cfg, steps=1), cfg, World())
        except UserError as error:
            sentences.append(str(error))
    assert len(sentences) > 8
    assert all("\n" not in said and "x.pth" in said for said in sentences), sentences


def spoil(content, draw):
    """Replace or delete one entry, at a drawn depth of the training state."""
    node, name = content, draw.choice(["ranks", "best", "samples", "epoch", "step", "optimizer"])
    while draw.random() < 0.8 and name != "optimizer":
        child = node[name]
        if isinstance(child, dict) and child:
            node, name = child, draw.choice(sorted(child, key=str))
        elif isinstance(child, list) and child:
            node, name = child, draw.randrange(len(child))
        else:
            break
    if draw.random() < 0.3:
        del node[name]
    else:
        node[name] = draw.choice([None, "x", [], {}, torch.zeros(2), -(10**9), 0.5])


def test_the_newest_by_content_where_the_last_is_damaged(content, tmp_path, capsys):
    """By epoch, then by images, whatever the names say; of equal ones that to be evaluated."""

    def save(name, epoch, samples, evaluated):
        state = {"epoch": epoch, "samples": samples, "evaluated": evaluated}
        torch.save({**content, **state}, tmp_path / name)

    (tmp_path / "checkpoint.pth").write_bytes(b"PK\x03\x04 and no more")
    save("checkpoint_30.pth", 1, 0, False)
    save("checkpoint_5.pth", 1, 12, True)
    save("checkpoint_4.pth", 1, 8, True)
    assert ckpt.find_latest(tmp_path)[0].name == "checkpoint_5.pth"
    assert f"NOTICE: leaving out {tmp_path / 'checkpoint.pth'}, which" in capsys.readouterr().out
    save("best.pth", 2, 0, True)
    assert ckpt.find_latest(tmp_path)[0].name == "best.pth"
    save("checkpoint_2.pth", 2, 0, False)
    assert ckpt.find_latest(tmp_path)[0].name == "checkpoint_2.pth"


def test_strangers_with_the_name_are_left_out(content, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    torch.save(content, folder / "checkpoint_1.pth")
    torch.save({"weights": {}}, folder / "checkpoint_7.pth")
    torch.save({**content, "format": 2}, folder / "checkpoint_8.pth")
    (folder / "checkpoint_9.pth").mkdir()
    (folder / "checkpoint_10.pth").symlink_to(folder / "nowhere")
    (folder / "checkpoint_11.pth").write_bytes(b"")
    (folder / "checkpoint_12.pth").symlink_to(folder / "checkpoint_12.pth")
    found, _ = ckpt.find_latest(folder)
    assert found.name == "checkpoint_1.pth"
    out = capsys.readouterr().out
    for number in (7, 8, 11):
        assert f"leaving out {folder / f'checkpoint_{number}.pth'}" in out
    assert train(config(output_dir=str(folder), resume="auto")).seen[0] == (2, 0)


@pytest.mark.parametrize("name", ["checkpoint.pth", "best.safetensors", "log.txt"])
def test_a_folder_with_the_name_of_a_file_is_told_before_training(tmp_path, name):
    (tmp_path / name).mkdir()
    cfg = config(output_dir=str(tmp_path), resume="auto")
    task = ToyTask(cfg)
    with pytest.raises(UserError, match=rf"{name} is a folder; the run must write a file there"):
        fit(task, cfg, World())
    assert task.losses == []


@pytest.mark.parametrize(
    ("rank", "size", "expected"), [(0, 1, (6.0, 2)), (0, 4, (24.0, 8)), (2, 4, (0.0, 0))]
)
def test_the_averages_of_several_processes_are_put_together(content, rank, size, expected):
    """A step weighs as much in the epoch's average as it would have: 4 values of 2 processes."""
    meters = [
        {"recent": [3.0, 4.0], "total": 7.0, "count": 2},
        {"recent": [1.0, 4.0], "total": 5.0, "count": 2},
    ]
    one = content["ranks"][0]
    saved = {**content, "ranks": [{**one, "meters": {"loss": meter}} for meter in meters]}
    state = build_state(ToyTask(config()), config(), World())
    world = World(rank=rank, size=size)
    notes = ckpt.restore(state, saved, config(), world, lambda m, w: m.load_state_dict(w))
    assert any(f"written by 2 process(es), now there are {size}" in note for note in notes)
    assert (state.meters["loss"].total, state.meters["loss"].count) == expected


DAMAGE = {
    "newer": lambda content: {**content, "format": 2},
    "of another program": lambda _: {"state_dict": {}},
    "no training state": lambda content: {"model": content["model"], "format": 1},
}


@pytest.fixture
def spoilt(content, tmp_path):
    """A folder with a run's files, and what `spoil_file` makes unreadable."""
    folder = tmp_path / "run"
    train(config(output_dir=str(folder), save_every=1, epochs=2, resume="auto"))

    def spoil_file(name, how):
        path = folder / name
        if how in DAMAGE:
            torch.save(DAMAGE[how](content), path)
        else:
            path.write_bytes(path.read_bytes()[: 1000 * (how == "cut")])
        return path

    return folder, spoil_file


@pytest.mark.parametrize(
    ("how", "restarted"), [("newer", True), ("of another program", False), ("cut", True)]
)
def test_where_no_checkpoint_can_be_read_none_is_replaced(spoilt, monkeypatch, how, restarted):
    folder, spoil_file = spoilt
    for name in ("checkpoint.pth", "checkpoint_0.pth", "checkpoint_1.pth", "best.pth"):
        spoil_file(name, how)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    cfg = config(output_dir=str(folder), resume="" if restarted else "auto")
    if restarted:
        monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    task = ToyTask(cfg)
    with pytest.raises(UserError, match=r"checkpoint\.pth.* and 3 more.*--output_dir"):
        fit(task, cfg, World())
    assert task.losses == []
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("how", ["newer", "no training state", "empty"])
def test_what_cannot_be_read_is_set_aside_before_it_is_replaced(spoilt, capsys, how):
    folder, spoil_file = spoilt
    names = ("checkpoint.pth", "checkpoint_1.pth", "best.pth")
    before = {name: spoil_file(name, how).read_bytes() for name in names}
    before["best.safetensors"] = b"no weights"
    (folder / "best.safetensors").write_bytes(b"no weights")
    rising = type("Rising", (ToyTask,), {"lower_is_better": True})
    cfg = config(output_dir=str(folder), save_every=1, resume="auto")
    ckpt.seed_everything(0, 0)
    fit(rising(cfg), cfg, World())
    said = capsys.readouterr().out
    kept = {path.name: path for path in folder.glob("earlier-*/*")}
    assert {name: path.read_bytes() for name, path in kept.items()} == before
    assert all(f"{name} is in {path.parent} now" in said for name, path in kept.items())
    assert ckpt.find_latest(folder)[1]["epoch"] == 2
    assert ckpt.read(folder / "best.pth")
    assert len((folder / "log.txt").read_text().splitlines()) == 3


def test_keep_last_deletes_nothing_that_cannot_be_read(spoilt):
    folder, spoil_file = spoilt
    spoil_file("checkpoint_0.pth", "newer")
    train(config(output_dir=str(folder), save_every=1, keep_last=1, resume="auto"))
    assert [p.name for p in folder.glob("checkpoint_*.pth")] == ["checkpoint_2.pth"]
    assert [p.name for p in folder.glob("earlier-*/*")] == ["checkpoint_0.pth"]


def test_lines_of_others_stay_in_the_log(spoilt):
    folder, _ = spoilt
    log = folder / "log.txt"
    lines = log.read_bytes()
    log.write_bytes(lines + b"a note\n\xff\xfe\n" + lines.splitlines(keepends=True)[1] + b'{"epo')
    train(config(output_dir=str(folder), save_every=1, resume="auto"))
    assert log.read_bytes().startswith(lines[: lines.index(b"\n")])
    assert b"a note\n\xff\xfe\n" in log.read_bytes()
    assert b'{"epo{' not in log.read_bytes()
