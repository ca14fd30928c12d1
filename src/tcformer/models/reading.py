"""Read a file of weights, of whatever kind it is, without running code from it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from tcformer.errors import UserError, shown
from tcformer.files import check_readable, safe_torch_load
from tcformer.models.checksums import ENTRY, checksum
from tcformer.models.layouts import StateDict

_EMA_ENTRIES = (
    "model_ema", "state_dict_ema", "ema", "params_ema", "ema_state_dict", "ema_model",
    "model_ema_state_dict",
)  # fmt: skip
_WEIGHT_ENTRIES = (
    "state_dict", "model", "model_state_dict", "params", "net", "network", "module", "weights",
)  # fmt: skip
_OTHER_STATE = re.compile(r"optim|sched|scaler|rng|ranks|callback|loops|meta|args|about|param_gr")
_DEEPEST = 4  # wrappings are nested once or twice; a dict could even contain itself


@dataclass(frozen=True)
class Checkpoint:
    """What a file of weights holds.

    Attributes:
        path: where it was read.
        format: "safetensors", or "torch" for what torch.save wrote.
        state_dict: tensors by key on the CPU, as the file names them.
        epoch: the last finished epoch, where the file says it.
        meta: the metadata of a safetensors file, or the `meta` entry of an MMPose file.
        raw: everything in a file of torch (optimiser, settings ...), None for safetensors.
        averaged: whether `state_dict` is the average (EMA) that stands beside the last weights.
    """

    path: Path
    format: Literal["safetensors", "torch"]
    state_dict: StateDict
    epoch: int | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    raw: Any = None
    averaged: bool = False


def read_checkpoint(path: str | os.PathLike[str], *, ema: bool | None = False) -> Checkpoint:
    """Read weights from safetensors or from a file of torch.

    Accepted are bare state dicts and those under an entry such as `state_dict`, `model` or
    `params`, as the authors, MMPose, timm, Lightning and this package write them. The kind of file
    is told by its content, not by its name. Keys are left as they are; `load_checkpoint` translates
    them.

    Args:
        path: the file.
        ema: True takes the averaged weights of a training checkpoint instead of the last ones, None
            takes them wherever the file has some, as every verb does.

    Raises:
        UserError: the file is missing, damaged, no checkpoint, wants to run code, holds several
            sets of weights, or no averaged ones though they are asked for.
    """
    file = check_readable(path)
    kind = sniff(file)
    if kind == "safetensors":
        state, meta = _read_safetensors(file)
        if ema:
            raise UserError(f"{file} is a safetensors file, which holds one set of weights, no EMA")
        return Checkpoint(file, "safetensors", state, _as_epoch(meta.get("epoch")), meta)
    if kind != "torch":
        raise UserError(f"{file} is no checkpoint: it is {kind}")
    raw = safe_torch_load(file)
    state, averaged = choose_weights(raw, f"{file}", ema)
    meta, epoch = {}, None
    if isinstance(raw, Mapping):
        found = raw.get("meta")
        meta = dict(found) if isinstance(found, Mapping) else {}
        epoch = _as_epoch(raw.get("epoch", meta.get("epoch")))
    return Checkpoint(file, "torch", state, epoch, meta, raw, averaged)


def find_weights(content: Any, where: str, *, ema: bool | None = False) -> StateDict:
    """Take the state dict out of what was saved around it.

    Args:
        content: a state dict, or a dict with one in it.
        where: what to call the source in a refusal, such as its path.
        ema: as for `read_checkpoint`.

    Raises:
        UserError: there are no weights in it, or several sets of them.
    """
    return choose_weights(content, where, ema)[0]


def choose_weights(content: Any, where: str, ema: bool | None) -> tuple[StateDict, bool]:
    """What `find_weights` returns, and whether it is an average."""
    averaged = False
    for _ in range(_DEEPEST):
        if not isinstance(content, Mapping):
            kind = type(content).__name__
            raise UserError(f"{where} is no checkpoint: it holds a {kind}, no dict")
        averages = [] if ema is False or averaged else _holding(content, _EMA_ENTRIES)
        inner = averages or _holding(content, _WEIGHT_ENTRIES)
        if not inner and not any(_is_weight(value) for value in content.values()):
            # None of a known name: whatever else holds weights, if it is one.
            names = [name for name in content if isinstance(name, str)]
            names = [name for name in names if not _OTHER_STATE.search(name.lower())]
            inner = _holding(content, [n for n in names if n not in _EMA_ENTRIES])
            if not inner and _holding(content, _EMA_ENTRIES):
                raise UserError(f"{where} holds averaged (EMA) weights alone; do without --no-ema")
            inner = inner or [n for n in _WEIGHT_ENTRIES if isinstance(content.get(n), Mapping)][:1]
        if not inner:
            break
        if any(not _alike(content[inner[0]], content[other]) for other in inner[1:]):
            names = [shown(name) for name in inner]
            raise UserError(
                f"{where} holds several sets of weights ({', '.join(names)}); save the one that is "
                "meant alone"
            )
        averaged = averaged or bool(averages)
        content = content[inner[0]]
    if ema and not averaged:
        raise UserError(f"{where} holds no averaged (EMA) weights; ask for the ordinary ones")
    if not isinstance(content, Mapping):
        raise UserError(f"{where} is no checkpoint: it holds a {type(content).__name__}, no dict")
    return _checked(content, where), averaged


def _is_weight(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _holding(content: Mapping[Any, Any], names: Iterable[str]) -> list[str]:
    """The entries of these names that hold weights, at any depth."""
    return [name for name in names if _holds(content.get(name), _DEEPEST)]


def _holds(value: Any, depth: int) -> bool:
    if not depth or not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
        return False
    inner = value.values()
    return any(_is_weight(v) for v in inner) or any(_holds(v, depth - 1) for v in inner)


def _alike(one: Any, other: Any) -> bool:
    """Whether two entries hold the same weights, so that it does not matter which is taken."""
    if one is other:
        return True
    tensors = (isinstance(value, Tensor) for each in (one, other) for value in each.values())
    return (
        one.keys() == other.keys()
        and all(tensors)
        and all(one[key].shape == other[key].shape for key in one)
        and all(torch.equal(one[key], other[key]) for key in one)
    )


def _checked(content: Mapping[Any, Any], where: str) -> StateDict:
    """The tensors of a state dict, if they are weights."""
    # A module may add entries of its own that are no tensors; they have no place in the network.
    # Detached: whatever a file has hung on to a tensor is left behind.
    state = {key: Tensor.detach(v) for key, v in content.items() if isinstance(v, Tensor)}
    if not state:
        names = ", ".join(shown(key) for key in list(content)[:4]) or "nothing"
        raise UserError(f"{where} holds no weights: its entries are {names}")
    if not all(isinstance(key, str) for key in state):
        raise UserError(f"{where} is no checkpoint: its tensors have no names")
    for key, value in state.items():
        plain = value.layout == torch.strided and not value.is_quantized and not value.is_nested
        if not plain or value.is_meta or value.is_complex():
            kind = "dataless" if value.is_meta else f"{value.layout} {value.dtype}"
            raise UserError(f"{where} holds a {kind} tensor ({shown(key)}), which is no weight")
    return state


def sniff(path: Path) -> str:
    """Tell the kind of a file by its first bytes: "torch", "safetensors", or an English noun."""
    with open(path, "rb") as stream:
        start = stream.read(512)
    size = path.stat().st_size
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return kind
    if len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 40:
        # The length of the header may be damaged or larger than a truncated file; that is for
        # the reader of the format to say.
        return "safetensors"
    if start.startswith(b"\x80") and size > 2:
        return "torch"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return "a web page (a download went wrong)"
    if not start.strip(b"\0"):
        return "nothing but zeros (a copy went wrong)"
    if b"\0" not in start and _printable(start) > 0.9:
        return "a text file"
    return "a file of some other kind"


_MAGIC = {
    b"PK\x03\x04": "torch",
    b"version https://git-lfs": "a Git LFS pointer (fetch the real file with `git lfs pull`)",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"%PDF": "a PDF",
    b"\x1f\x8b": "a gzip archive (unpack it first)",
    b"\x89HDF": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"PK\x05\x06": "an empty zip archive",
    b"#!": "a script",
}


def _printable(data: bytes) -> float:
    good = sum(32 <= byte < 127 or byte in b"\t\r\n" or byte >= 128 for byte in data)
    return good / max(len(data), 1)


def _read_safetensors(file: Path) -> tuple[StateDict, dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt", device="cpu") as reader:
            meta = dict(reader.metadata() or {})
            # Tensors of an open file are windows into it; a copy survives its replacement.
            state = {key: reader.get_tensor(key).clone() for key in reader.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        cause = " ".join(str(error).split())[:120].rstrip(".")
        raise UserError(
            f"cannot read {file}: the safetensors file is damaged or incomplete ({cause}); "
            "get a fresh copy"
        ) from error
    if not state:
        raise UserError(f"{file} holds no weights: it is a safetensors file without tensors")
    if ENTRY in meta and meta[ENTRY] != checksum(state, meta):
        raise UserError(
            f"cannot read {file}: its weights differ from the checksum that was written with them; "
            f"get a fresh copy, or have the program that changed them drop the entry '{ENTRY}' of "
            "the header"
        )
    return state, meta


def _as_epoch(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) < 10:
        return int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if abs(value) < 10**9 else None  # NaN and infinity are not less
