"""A small run with everything random switched on, and what makes two runs of it the same."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

CONFIG = "configs/digits/tcformer_nano.py"
EPOCHS = 2
BATCH = 4
TRAIN, VAL = 16, 9

# Everything that draws random numbers, averages, accumulates or rounds.
OPTIONS = (
    *("--data-set", "IMNET", "--batch-size", str(BATCH), "--epochs", str(EPOCHS), "--threads", "1"),
    *("--ema", "--ema-decay", "0.9", "--amp", "bf16", "--accum", "2", "--clip-grad", "1.0"),
    *("--mixup", "0.8", "--cutmix", "1.0", "--drop-path", "0.3", "--drop", "0.1"),
    *("--aa", "rand-m9-mstd0.5-inc1", "--reprob", "0.25"),
    *("--warmup-epochs", "0", "--lr", "0.02", "--lr-noise", "0.3"),
    *("--save-steps", "2", "--save-every", "1", "--no-pin-mem"),
)

HERE = Path(__file__).parent


def make_images(root: Path) -> Path:
    """Three classes of noisy colours, as an ImageFolder."""
    random = np.random.RandomState(0)
    for split, count in (("train", TRAIN), ("val", VAL)):
        for i in range(count):
            folder = root / split / f"class{i % 3}"
            folder.mkdir(parents=True, exist_ok=True)
            pixels = random.randint(0, 120, (36 + i % 5, 40, 3)) + 60 * (i % 3)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03}.png")
    return root


def command(images: Path, output: Path, *more: str) -> list[str]:
    """The command line of the run; `--resume auto` from the start, as a supervisor would."""
    where = ("--data-path", str(images), "--output_dir", str(output))
    return ["train", CONFIG, *OPTIONS, *where, "--resume", "auto", *more]


def build_shim(folder: Path) -> Path | None:
    """The library that counts file operations; None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    target = folder / "shim.so"
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", str(target), str(HERE / "shim.c"), "-ldl"],
        check=True,
    )
    return target


def read(folder: Path) -> dict[str, Any]:
    """Everything a run left: file name -> content."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".pth":
            found[name] = torch.load(path, weights_only=True)
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


# They name the folder and when it was, in which the runs differ.
_OWN = ("output_dir", "resume", "num_workers")


def difference(whole: dict[str, Any], other: dict[str, Any]) -> str:
    """In what two runs differ: file and entry; empty when they are the same bit for bit."""
    if whole.keys() != other.keys():
        return f"files: {sorted(whole.keys() ^ other.keys())}"
    for name, content in whole.items():
        if name == "config.json":
            a, b = (json.loads(side[name]) for side in (whole, other))
            where = _differs(_without_own(a), _without_own(b), name)
        elif name == "record.json":
            a, b = (_told_by(side[name]) for side in (whole, other))
            where = _differs(a, b, name)
        elif isinstance(content, dict):
            a, b = (dict(side[name]) for side in (whole, other))
            a["args"], b["args"] = _without_own(a["args"]), _without_own(b["args"])
            where = _differs(a, b, name)
        else:
            where = "" if content == other[name] else name
        if where:
            return where
    return ""


def _told_by(record: bytes) -> dict[str, Any]:
    """What a record says of the run, without when, how long and in how many parts it ran."""
    content = json.loads(record)
    epochs = [{k: v for k, v in entry.items() if k != "seconds"} for entry in content["epochs"]]
    return {"epochs": epochs, **{k: content[k] for k in ("status", "best", "data", "model")}}


def _without_own(args: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in args.items() if key not in _OWN}


def _differs(a: Any, b: Any, where: str) -> str:
    if type(a) is not type(b):
        return f"{where}: {type(a).__name__} and {type(b).__name__}"
    if isinstance(a, dict):
        if a.keys() != b.keys():
            return f"{where}: entries {sorted(map(str, a.keys() ^ b.keys()))}"
        return next(filter(None, (_differs(a[k], b[k], f"{where}/{k}") for k in a)), "")
    if isinstance(a, (list, tuple)):
        if len(a) != len(b):
            return f"{where}: {len(a)} and {len(b)} entries"
        pairs = enumerate(zip(a, b, strict=True))
        return next(filter(None, (_differs(x, y, f"{where}/{i}") for i, (x, y) in pairs)), "")
    if isinstance(a, torch.Tensor):
        # Bytes, not values: -0.0 and NaN count as what they are.
        same = a.dtype == b.dtype and a.shape == b.shape and _bytes(a) == _bytes(b)
    else:
        same = a == b or (a != a and b != b)
    return "" if same else where


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def losses(said: str) -> dict[str, str]:
    """What is printed of a step, without its times: 'Epoch: [0] [4/8]' -> the averages."""
    found = {}
    for line in said.splitlines():
        if line.startswith("Epoch: [") and "eta:" in line:
            parts = line.split("  ")
            kept = [p for p in parts[2:] if not p.startswith(("eta:", "time:", "data:", "max mem"))]
            found["".join(parts[0:2]).replace(" ", "")] = " ".join(kept)
    return found
