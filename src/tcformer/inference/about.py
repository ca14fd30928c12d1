"""What a file of weights says about itself, whoever wrote it: model, classes, input."""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tcformer.errors import UserError
from tcformer.files import parse_json, read_whole
from tcformer.models.merging import GIVEN
from tcformer.models.reading import Checkpoint

__all__ = ["CONFIG", "WEIGHTS", "About", "about_checkpoint", "about_folder"]

CONFIG, WEIGHTS = "config.json", "model.safetensors"
"""The two files of a folder in timm's hub format."""

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
        for key in ("model", "task", "input_size", "in_chans"):
            said.setdefault(key, options.get(key))
    if checkpoint.format == "safetensors":
        said = dict(checkpoint.meta)
    return About(
        model=_text(said.get("model")),
        task=_text(said.get("task")),
        classes=_names(said.get("classes")),
        input_size=_side(said.get("input_size")),
        in_chans=_side(said.get("in_chans")),
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
        if isinstance(names, list) and isinstance(described, Mapping):
            names = [described.get(name, name) for name in names]
        return About(
            model=_text(content.get("architecture")),
            task="classification",
            classes=_names(names),
            input_size=_side(size),
            in_chans=_side(channels),
            mean=_numbers(inner.get("mean")),
            std=_numbers(inner.get("std")),
            crop_pct=float(crop) if isinstance(crop, (int, float)) and 0 < crop <= 1 else None,
            interpolation=_text(pixels),
            arguments=arguments,
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


def _names(value: Any) -> tuple[str, ...] | None:
    names = value.split("\n") if isinstance(value, str) and value else value
    if not isinstance(names, (list, tuple)) or not names:
        return None
    return tuple(str(name) for name in names)


def _numbers(value: Any) -> tuple[float, ...] | None:
    if not isinstance(value, (list, tuple)) or not value:
        return None
    numbers = tuple(float(number) for number in value)
    return numbers if all(map(math.isfinite, numbers)) else None
