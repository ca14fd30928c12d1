import gc
import io
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from tcformer.data import (
    DataSpec,
    ResumableSampler,
    TransformSpec,
    build_dataset,
    build_loader,
    check_workers,
    eval_transform,
    train_transform,
)
from tcformer.data import loader as loader_module
from tcformer.errors import UserError


def fake(split="train", images=22, size=36):
    spec = DataSpec(data_set="fake", fake_images=images, fake_classes=3)
    make = train_transform if split == "train" else eval_transform
    return build_dataset(spec, split, make(TransformSpec(input_size=size)))


def training(workers, epochs=((0, 0), (1, 0)), world=1, rank=0, repeats=1):
    sampler = ResumableSampler(
        22, batch_size=4 // world, world_size=world, rank=rank, seed=1, repeats=repeats
    )
    loader = build_loader(fake(), sampler, num_workers=workers)
    found = []
    for epoch, start in epochs:
        sampler.set_epoch(epoch, start)
        assert len(loader) == 5 - start
        found += list(loader)
    return found


def same(one, two):
    assert len(one) == len(two) > 0
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.targets, b.targets)
        assert torch.equal(a.indices, b.indices)
        assert a.num_corrupt == b.num_corrupt
    return True


def test_batches_are_the_same_with_any_number_of_workers_and_after_a_resume():
    whole = training(0)
    assert same(whole, training(2))
    assert same(whole[7:], training(0, epochs=[(1, 2)]))
    assert same(whole[3:5], training(1, epochs=[(0, 3)]))
    first = whole[0]
    assert first.images.shape == (4, 3, 36, 36)
    assert first.images.dtype == torch.float32
    assert first.targets.dtype == first.indices.dtype == torch.int64
    assert first.targets.tolist() == [i % 3 for i in first.indices.tolist()]


def test_processes_share_the_same_augmented_images():
    one = training(0, epochs=[(0, 0)])
    parts = [training(0, epochs=[(0, 0)], world=2, rank=r) for r in range(2)]
    for whole, *shares in zip(one, *parts, strict=True):
        images = torch.empty_like(whole.images)
        for rank, share in enumerate(shares):
            images[rank::2] = share.images
        assert torch.equal(images, whole.images)


def test_repeats_are_other_augmentations_of_the_same_image():
    batch = training(0, epochs=[(0, 0)], repeats=2)[0]
    indices = batch.indices.tolist()
    assert indices[0] == indices[1] != indices[2] == indices[3]
    assert not torch.equal(batch.images[0], batch.images[1])


@pytest.mark.parametrize("workers", [0, 1])
def test_the_global_generators_are_left_alone(workers):
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    training(workers, epochs=[(0, 4)])
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def damaged(folder, split, bad, count=6):
    root = folder({split: {"a": count}})
    for number in bad:
        (root / split / "a" / f"{number:02d}.png").write_bytes(b"junk")
    return root


def from_folder(root, split, **options):
    transform = eval_transform(TransformSpec(input_size=16))
    return build_dataset(DataSpec(data_path=str(root), **options), split, transform)


@pytest.mark.parametrize("workers", [0, 1])
def test_unreadable_training_images_are_named_once_counted_and_left_out(folder, capsys, workers):
    root = damaged(folder, "train", bad=[1, 4])
    sampler = ResumableSampler(6, batch_size=3, shuffle=False)
    loader = build_loader(from_folder(root, "train"), sampler, num_workers=workers)
    for _ in range(2):
        batches = list(loader)
        assert [b.indices.tolist() for b in batches] == [[0, 2], [3, 5]]
        assert [b.num_corrupt for b in batches] == [1, 1]
        assert [len(b.images) for b in batches] == [2, 2]
        assert loader.num_corrupt == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"warning: skipped the unreadable image {root}")
    assert "01.png: it is not an image" in lines[0]


def test_a_training_batch_is_never_empty(folder):
    root = damaged(folder, "train", bad=[0, 1, 2])
    sampler = ResumableSampler(6, batch_size=2, shuffle=False)
    named = []
    loader = build_loader(from_folder(root, "train"), sampler, report=named.append)
    batches = list(loader)
    assert [b.indices.tolist() for b in batches] == [[3], [3], [4, 5]]
    assert len(named) == 3


def test_a_training_set_that_is_all_unreadable_stops(folder):
    root = damaged(folder, "train", bad=range(6))
    sampler = ResumableSampler(6, batch_size=2, shuffle=False)
    loader = build_loader(from_folder(root, "train"), sampler, report=lambda _: None)
    with pytest.raises(UserError, match=r"None of 8 images in a row can be read .*00.png"):
        list(loader)


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_stops_with_one_sentence_that_names_the_file(folder, workers):
    root = damaged(folder, "val", bad=[3])
    loader = build_loader(from_folder(root, "val"), range(6), batch_size=2, num_workers=workers)
    with pytest.raises(UserError) as error:
        list(loader)
    assert str(error.value).startswith(f"Cannot read the image {root}")
    assert "\n" not in str(error.value)


def test_evaluation_counts_with_skip_corrupt(folder):
    root = damaged(folder, "val", bad=[2, 3, 5])
    data = from_folder(root, "val", skip_corrupt=True)
    loader = build_loader(data, range(6), batch_size=2, report=lambda _: None)
    batches = list(loader)
    assert [b.indices.tolist() for b in batches] == [[0, 1], [4]]
    assert [b.num_corrupt for b in batches] == [0, 3]
    assert loader.num_corrupt == 3


@pytest.fixture(autouse=True)
def no_workers_of_earlier_tests():
    """Those that garbage collection ends are waited for up to five seconds each."""
    yield
    for loader in list(loader_module._loaders):
        end = getattr(getattr(loader._loader, "_iterator", None), "_shutdown_workers", None)
        if end:
            end()
    gc.collect()


class Pids:
    """A data set whose label is the process that loaded it."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        from tcformer.data import Item

        if index == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return Item(torch.zeros(1, 1, 1), os.getpid(), index)


def test_workers_outlive_the_signals_of_a_job():
    loader = build_loader(Pids(), range(4), batch_size=1, num_workers=1)
    batches = iter(loader)
    worker = int(next(batches).targets)
    assert worker != os.getpid()
    for name in ("TERM", "USR1", "INT"):  # from another process: the main one may end its workers
        subprocess.run(["kill", f"-{name}", str(worker)], check=True)
    assert len(list(batches)) == 3
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_leaving_in_the_middle_of_an_epoch_does_not_hang():
    # Workers that also ignored the SIGTERM of their own main process would be waited for for ever.
    code = (
        "import builtins, torch\n"
        "from tcformer.data.dataset import Item\n"
        "from tcformer.data.loader import build_loader\n"
        "data = [Item(torch.zeros(1), 0, i) for i in range(256)]\n"
        "batches = iter(build_loader(data, range(256), batch_size=2, num_workers=2))\n"
        "next(batches)\n"
        "builtins.kept = batches\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)


def test_a_worker_that_is_killed_is_a_sentence():
    loader = build_loader(Pids(), range(6, 8), batch_size=1, num_workers=1)
    with pytest.raises(UserError, match=r"A data worker died .*fewer --num_workers"):
        list(loader)


def started(num_workers=2, size=6):
    """A loader whose workers run, and its iterator."""
    loader = build_loader(Pids(), range(size), batch_size=1, num_workers=num_workers)
    batches = iter(loader)
    next(batches)
    return loader, batches


def kill(worker):
    os.kill(worker.pid, signal.SIGKILL)
    while worker.exitcode is None:
        time.sleep(0.01)


def test_a_death_is_told_at_the_next_batch_and_not_in_between():
    """Not in a save, say: torch raises it from a signal handler, wherever the program is."""
    loader, batches = started()
    kill(loader.workers[1])
    for _ in range(1000):
        torch.save({}, io.BytesIO())
    with pytest.raises(
        UserError, match=rf"A data worker died \(process {loader.workers[1].pid}, signal 9"
    ):
        next(batches)


def test_a_death_is_told_once_by_whichever_loader_comes_first():
    (training, batches), (evaluating, _) = started(), started()
    kill(evaluating.workers[0])
    with pytest.raises(UserError, match="A data worker died"):
        next(batches)
    check_workers()
    kill(evaluating.workers[1])
    check_workers()
    kill(training.workers[0])
    with pytest.raises(UserError, match="A data worker died"):
        check_workers()


class Breaking:
    """Stands in for torch's loader: waits for a batch, and a connection breaks."""

    def __init__(self, error, worker=None):
        self.error, self.worker = error, worker

    def __iter__(self):
        if self.worker:
            threading.Timer(0.3, os.kill, [self.worker.pid, signal.SIGKILL]).start()
        raise self.error
        yield


BROKEN = [ConnectionResetError(104, "Connection reset by peer"), EOFError()]


@pytest.mark.parametrize("error", BROKEN, ids=repr)
def test_a_broken_connection_is_the_death_behind_it(error, monkeypatch):
    """It breaks before the death can be seen; without a death it stays what it is."""
    loader, _ = started(1)
    kept = loader._loader  # with its workers
    loader._loader = Breaking(error, loader.workers[0])
    with pytest.raises(UserError, match="A data worker died"):
        list(loader)
    monkeypatch.setattr(loader_module, "_PATIENCE", 0.1)
    loader._loader = Breaking(error)
    with pytest.raises(type(error)):
        list(loader)
    del kept


def test_a_thread_that_pins_memory_dies_in_silence_with_a_worker(monkeypatch):
    def _pin_memory_loop():
        raise ConnectionResetError

    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda args: seen.append(args.exc_type))
    monkeypatch.setattr(loader_module, "_child_handler", None)
    loader, _ = started(1)
    kill(loader.workers[0])
    for target in (_pin_memory_loop, lambda: 1 / 0):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    assert seen == [ZeroDivisionError]
    with pytest.raises(UserError, match="A data worker died"):
        check_workers()


def test_what_workers_get_can_be_pickled_for_other_start_methods(folder):
    data = from_folder(folder({"train": {"a": 3}}), "train")
    loader = build_loader(data, ResumableSampler(3, batch_size=3, seed=2))
    copy = pickle.loads(pickle.dumps(loader._loader.dataset))
    assert torch.equal(
        copy.__getitems__(list(loader.sampler)).batch.images, next(iter(loader)).images
    )


def test_other_errors_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(loader_module, "_PATIENCE", 0.1)

    class Broken(Pids):
        def __getitem__(self, index):
            raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(build_loader(Broken(), range(2), batch_size=1))


def test_impossible_loaders_are_refused():
    sampler = ResumableSampler(22, batch_size=4)
    with pytest.raises(UserError, match="not the sampler's 4"):
        build_loader(fake(), sampler, batch_size=5)
    with pytest.raises(UserError, match="at least 1"):
        build_loader(fake(), range(3))
    with pytest.raises(UserError, match="--num_workers"):
        build_loader(fake(), sampler, num_workers=-1)
