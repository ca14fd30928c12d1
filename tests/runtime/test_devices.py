"""Choosing devices, with pretended GPUs."""

from __future__ import annotations

import pytest
import torch

from tcformer.errors import UserError
from tcformer.runtime.devices import choose_device
from tcformer.runtime.launcher import LaunchEnvironment


@pytest.fixture
def gpus(monkeypatch):
    chosen: list[torch.device] = []

    def pretend(number: int) -> list[torch.device]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        return chosen

    return pretend


def choose(wanted: str, **env: object) -> str:
    return str(choose_device(wanted, LaunchEnvironment(**env)))


def test_auto_takes_a_gpu_if_there_is_one(gpus):
    gpus(0)
    assert choose("auto") == "cpu"
    chosen = gpus(2)
    assert choose("auto") == "cuda:0"
    assert choose("cuda:1") == "cuda:1"
    assert choose("cpu") == "cpu"
    assert chosen == [torch.device("cuda:0"), torch.device("cuda:1")]


def test_an_apple_gpu_needs_a_torch_that_has_the_operators(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "__version__", "2.10.0+cpu")
    assert choose("mps") == "mps"
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    with pytest.raises(UserError, match=r"needs torch 2\.10"):
        choose("mps")


def test_each_process_has_its_own_gpu(gpus):
    gpus(4)
    for launcher in ("torchrun", "slurm"):
        assert choose("cuda", launcher=launcher, rank=7, local_rank=3, size=8) == "cuda:3"
    gpus(1)  # Slurm binds one to each task: all of them call it 0
    assert choose("cuda", launcher="slurm", rank=3, local_rank=3, size=4) == "cuda:0"


@pytest.mark.parametrize(
    ("number", "wanted", "env", "sentence"),
    [
        (0, "cuda", {}, "torch sees none"),
        (0, "warp", {}, "--device must be"),
        (0, "xpu", {}, "cannot be used"),
        (2, "cuda:2", {}, "torch sees 2"),
        (
            2,
            "auto",
            {"launcher": "torchrun", "rank": 2, "local_rank": 2, "size": 8, "local_size": 8},
            "8 processes on this machine need 8 GPUs but torch sees 2",
        ),
        (2, "cuda:1", {"launcher": "torchrun", "size": 2}, "on one GPU"),
    ],
)
def test_impossible_devices_are_refused(gpus, number, wanted, env, sentence):
    gpus(number)
    with pytest.raises(UserError, match=sentence):
        choose(wanted, **env)
