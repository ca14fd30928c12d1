"""What a file of weights says about itself, whoever wrote it: model, merging, classes, input.

Keep ratio, k, number of clusters and part grids have no parameters, so the same weights fit V1,
V2, and a model that keeps half of its tokens. Whoever saves weights therefore records how they were
trained to merge, and whoever builds a network for a file reads that.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tcformer import __version__
from tcformer.errors import UserError
from tcformer.files import atomic_write, parse_json, read_whole
from tcformer.models.sizes import SIZES, V1, V2, VARIANTS, merge_arguments, merge_rules
from tcformer.models.tcformer import CTM
from tcformer.weights.remap import identify, strip_wrappers
from tcformer.weights.safe_torch import CHECKSUM, Checkpoint, checksum, find_weights

CONFIG, WEIGHTS = "config.json", "model.safetensors"
"""The two files of a folder in timm's hub format."""

NECK = ("neck_channels", "neck_heads", "neck_mlp_ratio", "neck_reduction")
"""Options of the neck that files record, as its parameters do not show all of them."""

MERGING = ("keep_ratio", "k", "num_clusters", "part_grids")
"""Arguments of the network that say how it merges."""

_MERGING_ENTRY = "merging"
_OF_USE = ("task", "classes", "words", "input_size", "mean", "std", "crop_pct", "interpolation")
_WRITTEN_ANEW = (
    "format", "writer", CHECKSUM, "model", "num_classes", "in_chans", "epoch", _MERGING_ENTRY,
)  # fmt: skip
_MAX_SIDE = 8192
_MAX_CONFIG_BYTES = 1 << 24
_IN_THE_WEIGHTS = {"in_chans", "num_classes", "global_pool"}
_FOR_TRAINING = {"drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"}


@dataclass(frozen=True)
class Metadata:
    """What a file says about its network; None where it is silent.

    Attributes:
        classes: names of the classes, in the order of the scores; `words` are names for people,
            where they differ.
        input_size: side of the square input, pixels.
        mean, std: of the normalization, one number a channel, for pixels scaled to 0..1.
        crop_pct: ratio of the center crop to the resized short side.
        interpolation: of the resizing, timm's name.
        arguments: further arguments of the network (hub folders).
        entries: everything as it stands in the file, also what belongs to one task alone, such as a
            pose network's crop and codec.
    """

    model: str | None = None
    task: str | None = None
    classes: tuple[str, ...] | None = None
    input_size: int | None = None
    in_chans: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    crop_pct: float | None = None
    interpolation: str | None = None
    words: tuple[str, ...] | None = None
    arguments: Mapping[str, Any] | None = None
    entries: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trained_at(self) -> tuple[int, int] | None:
        """Height and width of the input in training: a pose network's crop, else the square."""
        match = re.fullmatch(r"(\d{2,4})x(\d{2,4})", str(self.entries.get("crop_size", "")))
        if match:
            return int(match[1]), int(match[2])
        return (self.input_size, self.input_size) if self.input_size else None

    def header(self) -> dict[str, str]:
        """Everything about the network's use, as the values of a header; they read back the same.

        `save_weights` adds what the weights themselves show (model, classes, channels).
        """
        of_use = {name: getattr(self, name) for name in _OF_USE}
        values = {**self.entries, **{k: value for k, value in of_use.items() if value is not None}}
        return {
            str(name): as_text(value)
            for name, value in values.items()
            if value is not None and name not in _WRITTEN_ANEW and not isinstance(value, Mapping)
        }


def size_note(trained_at: tuple[int, int] | None, height: int, width: int) -> list[str]:
    """What to say of another input size than that of the training, in both numbers."""
    if trained_at is None or trained_at == (height, width):
        return []
    trained, now = (
        f"{h} px" if h == w else f"{h} x {w} px" for h, w in (trained_at, (height, width))
    )
    return [f"trained at {trained}, and now the input is {now}"]


# ---- reading -------------------------------------------------------------------------------------


def checkpoint_metadata(checkpoint: Checkpoint) -> Metadata:
    """Read the header of our safetensors files, or the options in a training checkpoint.

    The authors' checkpoints hold their options under `args`, as ours do.
    """
    if checkpoint.format == "safetensors":
        return _metadata(checkpoint.meta)
    about, options = _entries_of(checkpoint)
    entries = dict(about)
    # A pose network has its crop; the square among its run's options was not used.
    names: tuple[str, ...] = () if "crop_size" in entries else ("input_size", "in_chans")
    if options.get("task", "classification") != "classification":
        names = (*names, *NECK)
    for name in ("model", "task", *names):
        if options.get(name) is not None:
            entries.setdefault(name, options[name])
    return _metadata(entries)


def folder_metadata(folder: str | os.PathLike[str]) -> Metadata:
    """Read `config.json` of a folder in timm's hub format.

    Raises:
        UserError: there is no such file, or it is not what timm writes.
    """
    path = Path(folder) / CONFIG
    if not path.exists():
        raise UserError(
            f"{folder} is a folder without {CONFIG}: give a file of weights, or a folder that "
            "save_pretrained (or timm) wrote"
        )
    try:
        content = parse_json(read_whole(path, most=_MAX_CONFIG_BYTES))
        # timm's older form has one level; the present one keeps the preprocessing apart.
        inner = content.get("pretrained_cfg", content)
        size = inner.get("input_size")
        names = content.get("label_names") or inner.get("label_names") or inner.get("labels")
        words = content.get("label_descriptions") or inner.get("label_descriptions")
        entries = {
            "model": content.get("architecture"),
            "task": "classification",
            "classes": names,
            **{name: inner.get(name) for name in ("mean", "std", "crop_pct", "interpolation")},
        }
        if isinstance(size, list) and size:
            entries |= {"in_chans": size[0], "input_size": size[-1]}
        if isinstance(names, list) and isinstance(words, Mapping):
            entries["words"] = [words.get(name, name) for name in names]
        # Nothing else passes: a file from somebody else must not choose what is built or read.
        given = content.get("model_args") or {}
        if unknown := set(given) - set(MERGING) - _IN_THE_WEIGHTS - _FOR_TRAINING:
            raise ValueError(f"'{min(unknown)}' is not an argument that is taken from a file")
        return _metadata(entries, {key: given[key] for key in given if key in MERGING})
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is not a configuration that timm wrote ({error})") from error


def _metadata(entries: Mapping[str, Any], arguments: Mapping[str, Any] | None = None) -> Metadata:
    known = {name: read(entries.get(name)) for name, read in _READERS.items()}
    return Metadata(**known, arguments=arguments, entries=dict(entries))


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _side(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) < 6:
        value = int(value)
    good = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_SIDE
    return value if good else None


def _ratio(value: Any) -> float | None:
    numbers = _numbers(str(value))
    return numbers[0] if numbers and 0 < numbers[0] <= 1 else None


def names_of(value: Any) -> tuple[str, ...] | None:
    """Names of classes as files hold them: a list, or lines of a text; None for anything else."""
    names = value.split("\n") if isinstance(value, str) and value else value
    if not isinstance(names, (list, tuple)) or not names:
        return None
    return tuple(str(name) for name in names)


def as_text(value: Any) -> str:
    """A value as a header holds it: lists of names as lines, lists of numbers with spaces."""
    if isinstance(value, (list, tuple)):
        lines = any(isinstance(item, str) for item in value)
        return ("\n" if lines else " ").join(str(item) for item in value)
    return str(value)


def _numbers(value: Any) -> tuple[float, ...] | None:
    """Numbers, as a list or as the text of a header; None where there are none."""
    try:
        values = value.split() if isinstance(value, str) else value
        numbers = tuple(float(v) for v in values) if isinstance(values, (list, tuple)) else ()
    except (ValueError, TypeError, OverflowError):
        return None
    return numbers if numbers and all(map(math.isfinite, numbers)) else None


_READERS: dict[str, Callable[[Any], Any]] = {
    "model": _text, "task": _text, "interpolation": _text, "classes": names_of, "words": names_of,
    "input_size": _side, "in_chans": _side, "mean": _numbers, "std": _numbers, "crop_pct": _ratio,
}  # fmt: skip


# ---- how the network merges ----------------------------------------------------------------------


def merge_options(
    model: str,
    keep_ratio: Sequence[float] | None = None,
    k: int | None = None,
    num_clusters: Sequence[int] | None = None,
    part_grids: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Options as people give them, as keyword arguments of the network `model`; {} if none is.

    All but `k` take one value, or one for each of the three merges; a grid is "4x4", or "4" for the
    same.

    Raises:
        UserError: the network merges no tokens, or the values cannot be read.
    """
    options: dict[str, Any] = {} if k is None else {"k": k}
    several: dict[str, Sequence[Any] | None] = {
        "keep_ratio": keep_ratio, "num_clusters": num_clusters, "part_grids": part_grids,
    }  # fmt: skip
    for name, values in several.items():
        if values is None:
            continue
        if len(values) not in (1, 3):
            raise UserError(
                f"{_option(name)} takes one value, or one for each of the three merges, "
                f"not {len(values)}."
            )
        read = [_grid(value) for value in values] if name == "part_grids" else list(values)
        options[name] = read * 3 if len(read) == 1 else read
    if options and model not in VARIANTS:
        raise UserError(
            f"{_option(next(iter(options)))} is about the merging of tokens, and {model} merges "
            "none; leave it out."
        )
    return options


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _grid(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,4})(?:x(\d{1,4}))?", text)
    if match is None:
        raise UserError(
            f"--part-grids is given {text!r}, but rows x columns are meant, such as 4x4 or 2x4."
        )
    return int(match[1]), int(match[2] or match[1])


def merging_of(model: nn.Module) -> dict[str, Any]:
    """How a network merges, as keyword arguments that make one which does the same.

    Only what differs from V1 is listed: {} for V1, and for networks that merge nothing.
    """
    rules = [module.rule for module in model.modules() if isinstance(module, CTM)]
    return merge_arguments(rules) if len(rules) == 3 else {}


def merging_entry(model: nn.Module) -> dict[str, str]:
    """The entry of a file's header that :func:`recorded_merging` reads; {} for V1."""
    merging = merging_of(model)
    return {_MERGING_ENTRY: json.dumps(merging)} if merging else {}


def name_with(name: str, merging: str) -> str:
    """The variant of these sizes that merges like this: V2's name instead of V1's, where it is."""
    if name not in V1:
        return name
    twin = V2[V1.index(name)]
    grids = [list(grid) for grid in SIZES[twin]["part_grids"]]
    return twin if json.loads(merging).get("part_grids") == grids else name


def recorded_merging(checkpoint: Checkpoint) -> dict[str, Any]:
    """How a file says its network merges, as :func:`merging_of` does; UserError if that cannot be.

    Our files say it in the header (safetensors) or by the options of their run; the authors' files
    say nothing and are of V1.
    """
    about, options = _entries_of(checkpoint)
    try:
        if entry := checkpoint.meta.get(_MERGING_ENTRY, about.get(_MERGING_ENTRY)):
            given = json.loads(entry)
            if not set(given) <= set(MERGING):
                raise ValueError(f"unknown entries in {entry}")
            return merge_arguments(merge_rules(**given))
        name = options.get("model") or about.get("model") or checkpoint.meta.get("model")
        if not isinstance(name, str) or name not in VARIANTS:
            return {}
        given = merge_options(name, **{key: options.get(key) for key in MERGING})
        own = {key: value for key, value in SIZES[name].items() if key in MERGING}
        return merge_arguments(merge_rules(**{**own, **given}))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{checkpoint.path} is damaged: it records a way of merging tokens that cannot be "
            f"({str(error)[:120].rstrip('.')})."
        ) from error


def _entries_of(checkpoint: Checkpoint) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What a file of torch says of its network, and the options of its run."""
    raw = checkpoint.raw if isinstance(checkpoint.raw, Mapping) else {}
    about, options = raw.get("about"), raw.get("args")
    options = vars(options) if isinstance(options, argparse.Namespace) else options
    return (
        about if isinstance(about, Mapping) else {},
        options if isinstance(options, Mapping) else {},
    )


# ---- writing -------------------------------------------------------------------------------------


def save_weights(
    model: nn.Module | Mapping[str, Tensor],
    path: str | os.PathLike[str],
    metadata: Mapping[str, object] | None = None,
) -> None:
    """Write the weights of `model` as safetensors, atomically.

    The file says which variant, how many classes and image channels it is for, how the network
    merges tokens and which version wrote it; `metadata` adds to that (values become strings). A
    checksum of all of it is among the metadata, and `read_checkpoint` verifies it. `model` may also
    be tensors by key. Wrappers and their prefixes are taken off.

    Raises:
        UserError: the file cannot be written, or there is nothing to write.
    """
    from safetensors.torch import save

    found = (
        model.state_dict() if isinstance(model, nn.Module) else find_weights(model, "the dict")[0]
    )
    state, _ = strip_wrappers(found)
    header = {"format": "pt", "writer": f"tcformer {__version__}"}
    if architecture := identify(state):
        if architecture.name:
            header["model"] = architecture.name
        if architecture.num_classes is not None:
            header["num_classes"] = str(architecture.num_classes)
        header["in_chans"] = str(architecture.in_chans)
    if isinstance(model, nn.Module):
        header |= merging_entry(model)
    header |= {str(key): str(value) for key, value in (metadata or {}).items()}
    if "model" in header and "merging" in header:
        header["model"] = name_with(header["model"], header["merging"])
    # safetensors refuses tensors that share memory or have holes; copies do neither.
    tensors = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in state.items()
    }
    header[CHECKSUM] = checksum(tensors, header)
    parts = _in_stable_order(save(tensors, header))
    atomic_write(path, lambda stream: stream.writelines(parts))


def _in_stable_order(content: bytes) -> tuple[bytes, memoryview]:
    """Sort the entries of a safetensors header, so that the same weights give the same file.

    The library writes the metadata in the random order of a hash map. Offsets count from the end
    of the header, so the rest of the file stays as it is.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text, memoryview(content)[end:]
