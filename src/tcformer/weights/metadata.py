"""What a file of weights says about itself, whoever wrote it: model, merging, classes, input.

Keep ratio, k, number of clusters and part grids have no parameters, so the same weights fit V1,
V2, and a model that keeps half of its tokens. Whoever saves weights therefore notes how they were
trained to merge, and whoever builds a network for a file reads the note.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from tcformer import __version__
from tcformer.errors import UserError
from tcformer.files import atomic_write, parse_json, read_whole
from tcformer.models.sizes import SIZES, V1, V2, VARIANTS, merge_arguments, merge_rules
from tcformer.models.tcformer import CTM
from tcformer.weights.remap import identify, strip_wrappers
from tcformer.weights.safe_torch import ENTRY, Checkpoint, checksum, find_weights

CONFIG, WEIGHTS = "config.json", "model.safetensors"
"""The two files of a folder in timm's hub format."""

NECK = ("neck_channels", "neck_heads", "neck_mlp_ratio", "neck_reduction")
"""Options of the neck that files say, as its parameters do not show all of them."""

_TOLD = ("task", "classes", "words", "input_size", "mean", "std", "crop_pct", "interpolation")
_WRITTEN_ANEW = ("format", "writer", ENTRY, "model", "num_classes", "in_chans", "epoch", "merging")
_LARGEST_SIDE = 8192
_LARGEST_CONFIG = 1 << 24
_TOLD_BY_WEIGHTS = {"in_chans", "num_classes", "global_pool"}
_FOR_TRAINING = {"drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"}


@dataclass(frozen=True)
class About:
    """What a file tells; None where it is silent.

    Attributes:
        model: name of the network, ours or timm's.
        task: "classification" or "segmentation".
        classes: names of the classes, in the order of the scores.
        input_size: side of the square input, pixels.
        in_chans: channels of the input.
        mean, std: of the normalisation, one number a channel, for pixels scaled to 0..1.
        crop_pct: share of the resized short side that the centre crop keeps.
        interpolation: of the resizing, timm's name.
        arguments: further arguments of the network (hub folders).
        words: names of the classes for people, where they differ from `classes`.
        said: everything that a file of ours says of itself, as it stands there: also what belongs
            to one task alone, such as a pose network's crop and codec.
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
    arguments: Mapping[str, Any] | None = None
    words: tuple[str, ...] | None = None
    said: Mapping[str, Any] = field(default_factory=dict)

    @property
    def trained_at(self) -> tuple[int, int] | None:
        """Height and width of the input in training: a pose network's crop, else the square."""
        match = re.fullmatch(r"(\d{2,4})x(\d{2,4})", str(self.said.get("crop_size", "")))
        if match:
            return int(match[1]), int(match[2])
        return (self.input_size, self.input_size) if self.input_size else None


def average_note(checkpoint: Checkpoint) -> list[str]:
    """What to say of weights that were chosen for the user; nothing if there was no choice."""
    if not checkpoint.averaged:
        return []
    return ["the averaged weights (EMA) are taken; --no-ema takes the last ones"]


def size_note(trained_at: tuple[int, int] | None, height: int, width: int) -> list[str]:
    """What to say of another input size than that of the training, in both numbers."""
    if trained_at is None or trained_at == (height, width):
        return []
    trained, now = (
        f"{h} px" if h == w else f"{h} x {w} px" for h, w in (trained_at, (height, width))
    )
    return [f"trained at {trained}, and now the input is {now}"]


def header_of(about: About) -> dict[str, str]:
    """Everything that is said of a network's use, as the values of a header; read back the same.

    What the weights themselves tell (model, classes' number, channels) is left to `save_weights`.
    """
    told = {name: getattr(about, name) for name in _TOLD}
    values = {**about.said, **{name: value for name, value in told.items() if value is not None}}
    return {
        str(name): as_text(value)
        for name, value in values.items()
        if value is not None and name not in _WRITTEN_ANEW and not isinstance(value, Mapping)
    }


def as_text(value: Any) -> str:
    """A value as a header holds it: lists of names as lines, lists of numbers with spaces."""
    if isinstance(value, (list, tuple)):
        lines = any(isinstance(item, str) for item in value)
        return ("\n" if lines else " ").join(str(item) for item in value)
    return str(value)


def about_checkpoint(checkpoint: Checkpoint) -> About:
    """Read the header of our safetensors files, or the options in a training checkpoint.

    The authors' checkpoints hold their options under `args`, as ours do.
    """
    raw = checkpoint.raw if isinstance(checkpoint.raw, Mapping) else {}
    told = raw.get("about")
    said: dict[str, Any] = dict(told) if isinstance(told, Mapping) else {}
    options = raw.get("args")
    options = vars(options) if isinstance(options, argparse.Namespace) else options
    if isinstance(options, Mapping):
        # A pose network has its crop; the square among its run's options was not used.
        keys = () if "crop_size" in said else ("input_size", "in_chans")
        if options.get("task", "classification") != "classification":
            keys = (*keys, *NECK)
        for key in ("model", "task", *keys):
            if options.get(key) is not None:
                said.setdefault(key, options[key])
    if checkpoint.format == "safetensors":
        said = dict(checkpoint.meta)
    crop = _said_numbers(str(said.get("crop_pct", "")))
    return About(
        model=_text(said.get("model")),
        task=_text(said.get("task")),
        classes=names_of(said.get("classes")),
        input_size=_side(said.get("input_size")),
        in_chans=_side(said.get("in_chans")),
        mean=_said_numbers(said.get("mean")),
        std=_said_numbers(said.get("std")),
        crop_pct=crop[0] if crop and 0 < crop[0] <= 1 else None,
        interpolation=_text(said.get("interpolation")),
        words=names_of(said.get("words")),
        said=said,
    )


def about_folder(folder: str | os.PathLike[str]) -> About:
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
        content = parse_json(read_whole(path, most=_LARGEST_CONFIG))
        # timm's older form has one level; the present one keeps the preprocessing apart.
        inner = content.get("pretrained_cfg", content)
        size = inner.get("input_size")
        channels, size = (size[0], size[-1]) if isinstance(size, list) and size else (None, None)
        crop, pixels = inner.get("crop_pct"), inner.get("interpolation")
        arguments = _arguments(content.get("model_args") or {})
        names = content.get("label_names") or inner.get("label_names") or inner.get("labels")
        described = content.get("label_descriptions") or inner.get("label_descriptions")
        words = None
        if isinstance(names, list) and isinstance(described, Mapping):
            words = [described.get(name, name) for name in names]
        return About(
            model=_text(content.get("architecture")),
            task="classification",
            classes=names_of(names),
            input_size=_side(size),
            in_chans=_side(channels),
            mean=_numbers(inner.get("mean")),
            std=_numbers(inner.get("std")),
            crop_pct=float(crop) if isinstance(crop, (int, float)) and 0 < crop <= 1 else None,
            interpolation=_text(pixels),
            arguments=arguments,
            words=names_of(words),
            said={"classes": names} if names_of(names) else {},
        )
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is not a configuration that timm wrote ({error})") from error


def _arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """What changes the network besides its weights; the rest is in them, or is for training.

    Nothing else is handed on: a file from somebody else must not choose what is built or read.
    """
    unknown = set(given) - set(GIVEN) - _TOLD_BY_WEIGHTS - _FOR_TRAINING
    if unknown:
        raise ValueError(f"'{min(unknown)}' is not an argument that is taken from a file")
    return {key: value for key, value in given.items() if key in GIVEN}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _side(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) < 6:
        value = int(value)
    good = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _LARGEST_SIDE
    return value if good else None


def names_of(value: Any) -> tuple[str, ...] | None:
    """Names of classes as files hold them: a list, or lines of a text; None for anything else."""
    names = value.split("\n") if isinstance(value, str) and value else value
    if not isinstance(names, (list, tuple)) or not names:
        return None
    return tuple(str(name) for name in names)


def _said_numbers(value: Any) -> tuple[float, ...] | None:
    """Numbers as a header holds them, a text; None where there are none."""
    try:
        return _numbers(value.split() if isinstance(value, str) else value)
    except (ValueError, TypeError, OverflowError):
        return None


def _numbers(value: Any) -> tuple[float, ...] | None:
    if not isinstance(value, (list, tuple)) or not value:
        return None
    numbers = tuple(float(number) for number in value)
    return numbers if all(map(math.isfinite, numbers)) else None


NOTE = "merging"
GIVEN = ("keep_ratio", "k", "num_clusters", "part_grids")


def merge_options(
    model: str,
    keep_ratio: Sequence[float] | None = None,
    k: int | None = None,
    num_clusters: Sequence[int] | None = None,
    part_grids: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Options as people give them, as keyword arguments of the network; {} if none is given.

    Args:
        model: the name of the network.
        keep_ratio: one share or three.
        k: neighbours in the density estimate.
        num_clusters: one number or three.
        part_grids: one grid or three, such as "4x4", or "4" for the same.

    Raises:
        UserError: the network merges no tokens, or the values cannot be read.
    """
    several: dict[str, Sequence[Any] | None] = {
        "keep_ratio": keep_ratio,
        "num_clusters": num_clusters,
        "part_grids": part_grids,
    }
    options: dict[str, Any] = {} if k is None else {"k": k}
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


def merging_note(model: nn.Module) -> dict[str, str]:
    """The entry of a file's header that :func:`recorded_merging` reads; {} for V1."""
    merging = merging_of(model)
    return {NOTE: json.dumps(merging)} if merging else {}


def name_with(name: str, note: str) -> str:
    """The variant of these sizes that merges like this: V2's name instead of V1's, where it is."""
    if name not in V1:
        return name
    twin = V2[V1.index(name)]
    grids = [list(grid) for grid in SIZES[twin]["part_grids"]]
    return twin if json.loads(note).get("part_grids") == grids else name


def recorded_merging(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a file of weights says of how its network merges, as :func:`merging_of` does.

    Our files say it in the header (safetensors) or by the options of their run; the authors' files
    say nothing and are of V1.

    Raises:
        UserError: the note cannot be read.
    """
    raw = checkpoint.raw if isinstance(checkpoint.raw, Mapping) else {}
    about = raw.get("about")
    note = checkpoint.meta.get(NOTE, about.get(NOTE) if isinstance(about, Mapping) else None)
    args: Any = raw.get("args")
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    try:
        if note is not None:
            options = json.loads(note)
            if not set(options) <= set(GIVEN):
                raise ValueError(f"unknown entries in {note}")
            return merge_arguments(merge_rules(**options))
        options = args if isinstance(args, Mapping) else {}
        said = {**checkpoint.meta, **(about if isinstance(about, Mapping) else {})}
        name = options.get("model") or said.get("model")
        if not isinstance(name, str) or name not in VARIANTS:
            return {}
        given = merge_options(name, **{key: options.get(key) for key in GIVEN})
        sizes = {key: value for key, value in SIZES[name].items() if key in GIVEN}
        return merge_arguments(merge_rules(**{**sizes, **given}))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{checkpoint.path} is damaged: it says of the merging of tokens what cannot be "
            f"({str(error)[:120].rstrip('.')})."
        ) from error


def save_weights(
    model: nn.Module | Mapping[str, Tensor],
    path: str | os.PathLike[str],
    metadata: Mapping[str, object] | None = None,
) -> None:
    """Write the weights of `model` as safetensors, atomically.

    The file says which variant, how many classes and image channels it is for, how the network
    merges tokens and which version wrote it; `metadata` adds to that (values become strings). A
    checksum of all of it is among the metadata, and `read_checkpoint` verifies it.

    Args:
        model: a network, or tensors by key. Wrappers and their prefixes are taken off.
        path: the file to write, usually `*.safetensors`.
        metadata: further entries for the header.

    Raises:
        UserError: the file cannot be written, or there is nothing to write.
    """
    from safetensors.torch import save

    found = model.state_dict() if isinstance(model, nn.Module) else find_weights(model, "the dict")
    state, _ = strip_wrappers(found)
    header = {"format": "pt", "writer": f"tcformer {__version__}"}
    if architecture := identify(state):
        if architecture.name:
            header["model"] = architecture.name
        if architecture.num_classes is not None:
            header["num_classes"] = str(architecture.num_classes)
        header["in_chans"] = str(architecture.in_chans)
    if isinstance(model, nn.Module):
        header |= merging_note(model)
    header |= {str(key): str(value) for key, value in (metadata or {}).items()}
    if "model" in header and "merging" in header:
        header["model"] = name_with(header["model"], header["merging"])
    # safetensors refuses tensors that share memory or have holes; copies do neither.
    tensors = {
        key: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, value in state.items()
    }
    header[ENTRY] = checksum(tensors, header)
    content = save(tensors, header)
    start, rest = _in_stable_order(content)

    def write(stream: BinaryIO) -> None:
        stream.write(start)
        stream.write(rest)

    atomic_write(path, write)


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
