"""Checkpoints: damaged byte by byte, filled with nonsense, and pickled to do harm."""

from __future__ import annotations

import argparse
import builtins
import copy
import functools
import io
import os
import pickle
import random
import shutil
import subprocess
import tempfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from campaign import differs
from safetensors.torch import load_file, save_file
from torch import nn

import tcformer
from hostile.kinds import TRACE, Kind, disturbed, mutated, silent
from tcformer.errors import UserError
from tcformer.predict import load
from tcformer.training import checkpoint as ckpt
from tcformer.training.options import build
from tcformer.weights.load import load_checkpoint
from tcformer.weights.metadata import save_weights
from tcformer.weights.safe_torch import read_checkpoint, safe_torch_load

FILE = "weights.file"


@functools.cache
def content() -> dict[str, Any]:
    """A small training checkpoint, with everything that one holds."""

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()
    return {
        "format": ckpt.FORMAT,
        "model": model.state_dict(),
        "model_ema": copy.deepcopy(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": {"last_epoch": 3},
        "scaler": {},
        "epoch": 3,
        "step": 2,
        "samples": 16,
        "evaluated": True,
        "best": {"epoch": 2, "acc1": 51.0},
        "args": build({"model": "tcformer_nano"}).to_json(),
        "ranks": [{"rng": ckpt.rng_state(torch.device("cpu")), "meters": {}}],
    }


def _saved(value: Any, *, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


@functools.cache
def _whole(kind: str) -> bytes:
    if kind != "safetensors":
        return _saved(content(), legacy=kind == "older")
    with tempfile.NamedTemporaryFile(suffix=".safetensors") as place:
        save_weights(content()["model"], place.name, {"model": "tcformer_nano", "num_classes": 7})
        return Path(place.name).read_bytes()


def _damaged(kind: str) -> Any:
    def make(rng: random.Random, folder: Path) -> Path:
        data = mutated(rng, _whole(kind))
        if rng.random() < 0.2:
            data = mutated(rng, data)
        (folder / FILE).write_bytes(data)
        return folder / FILE

    return make


def _read_all(path: Path) -> Any:
    """As `--finetune`, `--resume` and `show` read a file; a refusal of the first is one of all."""
    checkpoint = read_checkpoint(path)
    for value in checkpoint.state_dict.values():
        value.clone()
    if checkpoint.format == "torch":
        ckpt.read(path)
    return checkpoint


def _read_zip(path: Path) -> None:
    wrong = differs(content(), _read_all(path).raw)
    assert not wrong, f"it was read, but as something else: {wrong}"


def _read_safetensors(path: Path) -> None:
    checkpoint = _read_all(path)
    written, found = (dict(sorted(d.items())) for d in (content()["model"], checkpoint.state_dict))
    assert not differs(written, found)
    assert checkpoint.meta["model"] == "tcformer_nano"


class Evil:
    """Pickles to a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class EvilState:
    """Pickles to an object whose state is set from the file."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        return argparse.Namespace, (), {"__setstate__": self.value, "x": self.value}


def _evil(rng: random.Random) -> Any:
    trace = TRACE
    return rng.choice(
        (
            lambda: Evil(os.system, f"touch {trace}"),
            lambda: Evil(subprocess.call, ["touch", trace]),
            lambda: Evil(open, trace, "w"),
            lambda: Evil(eval, f"open({trace!r}, 'w')"),
            lambda: Evil(exec, f"open({trace!r}, 'w')"),
            lambda: Evil(getattr, trace, "join"),
            lambda: Evil(builtins.__import__, "antigravity"),
            lambda: Evil(shutil.copy, __file__, trace),
            lambda: Evil(Path(trace).touch),
            lambda: Evil(functools.partial(open, trace, "w")),
            lambda: Evil(map, open, [trace]),
            lambda: Evil(os.mkdir, trace),
            lambda: Evil(torch.save, {}, trace),
            lambda: Evil(os.mkfifo, trace),
            lambda: Evil(torch.hub.load, ".", trace),
            lambda: Evil(pickle.loads, pickle.dumps(Evil(os.mkdir, trace))),
            lambda: EvilState(Evil(os.mkdir, trace)),
        )
    )()


def _make_evil(rng: random.Random, folder: Path) -> Path:
    evil = _evil(rng)
    model = dict(content()["model"])
    nested = evil
    for _ in range(rng.randint(1, 50)):
        nested = rng.choice(([nested], (nested,), {"a": nested}))
    value: Any = rng.choice(
        (
            evil,
            [evil, model],
            {"model": model, "args": argparse.Namespace(hook=[evil])},
            {"model": {**model, "more": evil}},
            {"model": model, "deep": nested},
            {"model": model, "optimizer": {"state": {0: {"exp_avg": evil}}, "param_groups": []}},
            {**content(), rng.choice(list(content())): evil},
            OrderedDict([*model.items(), ("evil", evil)]),
            {"state_dict": nn.ParameterList([nn.Parameter(torch.ones(1))]), "e": evil},
        )
    )
    path = folder / FILE
    how = rng.randrange(6)
    if how == 0:
        path.write_bytes(pickle.dumps(value, rng.randrange(6)))
    elif how == 1:
        with zipfile.ZipFile(path, "w") as archive:  # not as torch names its records
            archive.writestr(rng.choice(("data.pkl", "x/data.pkl")), pickle.dumps(value, 2))
            archive.writestr("x/version", "3")
    else:
        path.write_bytes(_saved(value, legacy=how in (2, 3)))
        if rng.random() < 0.2:
            path.write_bytes(mutated(rng, path.read_bytes()))
    return path


def _read_evil(path: Path) -> None:
    os.chdir(path.parent)
    try:
        for read in (read_checkpoint, safe_torch_load, ckpt.read, lambda p: load(None, p)):
            try:
                read(path)
            except UserError:
                continue
            # A damaged one may have lost what was evil about it.
        found = ckpt.find_latest(path.parent)
        assert found is None
    finally:
        os.chdir("/")
    raise UserError(f"{FILE}: nothing came of it")


def _odd(rng: random.Random) -> Any:
    """A value where another one was meant."""
    return rng.choice(
        (
            None, True, 0, -1, 3, 1 << 40, 10**400, 1.5, float("nan"), float("inf"), -float("inf"),
            "", "abc", "\ud800", "\n", "x" * 100_000, b"abc", [], [1], [[]], {}, {"a": 1}, {1: 2},
            (), (1,), torch.ones(1), torch.ones(3, 4), torch.tensor(float("nan")),
            torch.zeros(0), torch.ones(2, dtype=torch.complex64), torch.ones(2, 2).to_sparse(),
            torch.empty(3, device="meta"), torch.ones(1 << 12, dtype=torch.int8),
            torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), torch.Size([2]),
            argparse.Namespace(a=1), argparse.Namespace(), OrderedDict(), "tcformer_large", "2", [None],
            torch.float16, torch.device("cuda:7"), nn.Parameter(torch.ones(2)), torch.tensor(3),
            {"state": {}, "param_groups": []}, {"param_groups": [{}]}, [{}], [{"rng": {}}],
        )
    )  # fmt: skip


@functools.cache
def _nano() -> dict[str, Any]:
    torch.manual_seed(0)
    model = tcformer.create_model("tcformer_nano", num_classes=3)
    return {**content(), "model": model.state_dict(), "model_ema": None, "optimizer": {}}


def _make_odd(rng: random.Random, folder: Path) -> Path:
    value: Any = content()
    for _ in range(rng.randint(1, 3)):
        value = disturbed(rng, value, _odd)
    path = folder / "checkpoint.pth"
    path.write_bytes(_saved(value, legacy=rng.random() < 0.2))
    return path


def _make_odd_network(rng: random.Random, folder: Path) -> Path:
    whole = _nano()
    value = {key: whole[key] for key in ("model", "args", "epoch", "format")}
    where = rng.choice(("model", "model", "args", "all"))
    for _ in range(rng.randint(1, 2)):
        if where == "all" or not isinstance(value, dict):
            value = disturbed(rng, value, _odd)
        elif where in value:
            value = {**value, where: disturbed(rng, value[where], _odd)}
    path = folder / "checkpoint.pth"
    path.write_bytes(_saved(value))
    return path


def _read_odd(path: Path) -> None:
    """As a run that resumes does: find it, read it, put it into a run's state."""
    from tcformer.runtime.distributed import World
    from tcformer.training.config import TrainConfig
    from tcformer.training.loop import build_state

    refusals = []
    for step in (
        lambda: read_checkpoint(path),
        lambda: read_checkpoint(path, ema=True),
        lambda: load_checkpoint(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)), path),
        lambda: load(None, path),
    ):
        try:
            step()
        except UserError as refusal:
            refusals.append(refusal)
    with silent():
        found = ckpt.find_latest(path.parent)
    if found is not None:
        cfg = TrainConfig().replace(device="cpu", num_workers=0, batch_size=4, ema=True, epochs=9)
        task = _Task()
        state = build_state(task, cfg, World())
        with ckpt.damage_told(path):
            ckpt.restore(state, found[1], cfg, World(), task.load_weights)
        ckpt.configuration_of(found[1])
    if refusals:
        raise refusals[0]


class _Task:
    """As much of a task as a state is made from."""

    steps_per_epoch = 5

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))

    def follow(self, said: Any, weights: Any, source: str = "") -> list[str]:
        return []

    def load_weights(self, model: nn.Module, weights: Any, source: str = "") -> None:
        load_checkpoint(model, weights)


def _read_odd_network(path: Path) -> None:
    loaded = load(None, path)
    with torch.inference_mode():
        channels = loaded.preprocessing.in_chans
        loaded.network(torch.zeros(1, channels, 32, 32))


def _number(rng: random.Random) -> str:
    return rng.choice(
        ("0", "4", "12", "16", "48", "-4", "-0", "1e0", "1.5", "NaN", "Infinity", "null", '"4"',
         "9223372036854775807", "9223372036854775808", "18446744073709551616", "1" * 400, "[]")
    )  # fmt: skip


def _make_header(rng: random.Random, folder: Path) -> Path:
    """A header written by hand, sometimes nearly right."""
    names = ("a", "b", "a", "", "__metadata__", "\\ud800", "\\u0000", "x" * 3000, "a.weight")
    dtypes = ("F32", "F64", "BF16", "I8", "BOOL", "F8_E4M3", "F4", "U64", "C64", "f32", "", "F99")

    def entry() -> str:
        if rng.random() < 0.1:
            return rng.choice(("null", "5", "[]", '"x"', "{}", "[" * rng.choice((50, 5000))))
        shape = ",".join(_number(rng) for _ in range(rng.randrange(4)))
        offsets = ",".join(_number(rng) for _ in range(rng.choice((2, 2, 2, 2, 0, 1, 3))))
        parts = [
            f'"dtype":"{rng.choice(dtypes)}"',
            f'"shape":[{shape}]',
            f'"data_offsets":[{offsets}]',
        ]
        if rng.random() < 0.1:
            parts.pop(rng.randrange(3))
        if rng.random() < 0.1:
            parts.append(rng.choice(parts))
        return "{" + ",".join(parts) + "}"

    fields = [f'"{rng.choice(names)}":{entry()}' for _ in range(rng.randrange(5))]
    if rng.random() < 0.3:
        meta = rng.choice(
            ('{"a":"b"}', '{"a":5}', "[]", '{"tensors_sha256":"x"}', '{"merging":"{}"}', "null")
        )
        fields.append(f'"__metadata__":{meta}')
    if rng.random() < 0.4:  # a right one, to be overlapped or repeated
        fields.insert(0, '"ok":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}')
    text = ("{" + ",".join(fields) + rng.choice(("}", "}", "}", "}  ", "", "}}"))).encode()
    length = rng.choice((len(text),) * 12 + (0, 1, len(text) + 1, 1 << 30, 1 << 39, (1 << 63) - 1))
    data = length.to_bytes(8, "little") + text + bytes(rng.choice((0, 4, 16, 16, 48)))
    path = folder / FILE
    path.write_bytes(mutated(rng, data) if rng.random() < 0.2 else data)
    return path


def _read_header(path: Path) -> None:
    checkpoint = read_checkpoint(path)
    if checkpoint.format == "safetensors":
        assert checkpoint.state_dict.keys() == load_file(path).keys()


def _make_note(rng: random.Random, folder: Path) -> Path:
    """Sound weights of ours with odd things said about them."""
    keys = ("model", "num_classes", "in_chans", "merging", "classes", "epoch", "input_size", "mean",
            "std", "task", "format", "crop_pct", "interpolation", "metric", "recipe")  # fmt: skip
    values = ("", "abc", "-1", "0", "1e9", "NaN", "null", "[]", "{}", "tcformer_large", "resnet18",
              "a\nb\nc", "[1, 2, 3]", '{"keep_ratio": [9, 9, 9]}', '{"k": -1}', '{"k": 1e99}',
              '{"num_clusters": [1000000000000, 1, 1]}', '{"part_grids": [[0, 0], [0, 0], [0, 0]]}',
              '{"part_grids": [[99999, 99999], [1, 1], [1, 1]]}', '{"zzz": 1}', "[" * 5000,
              "9" * 5000, "segmentation", "\x00", "ü\n" * 50, "1e308", "[0, 0, 0]", "[NaN]")  # fmt: skip
    said = {rng.choice(keys): rng.choice(values) for _ in range(rng.randint(1, 4))}
    path = folder / "weights.safetensors"
    save_file(_nano()["model"], path, {"format": "pt", **said})
    return path


KINDS = [
    Kind("checkpoints, damaged", _damaged("zip"), _read_zip, share=20, names=FILE),
    Kind("checkpoints of the older format, damaged", _damaged("older"), _read_all, share=6,
         names=FILE),
    Kind("safetensors, damaged", _damaged("safetensors"), _read_safetensors, share=10, names=FILE),
    Kind("safetensors, hostile headers", _make_header, _read_header, share=8, names=FILE),
    Kind("pickles that call something", _make_evil, _read_evil, share=8, names=FILE),
    Kind("checkpoints with odd contents", _make_odd, _read_odd, share=8),
    Kind("weights of a network with odd contents", _make_odd_network, _read_odd_network),
    Kind("weights with odd notes", _make_note, _read_odd_network),
]  # fmt: skip
