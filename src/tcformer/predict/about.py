"""What a file of weights says about itself, whoever wrote it: model, classes, input."""

from __future__ import annotations

import argparse
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tcformer.errors import UserError
from tcformer.files import parse_json, read_whole
from tcformer.models.checksums import ENTRY
from tcformer.models.fetch import fetch_cached
from tcformer.models.merging import GIVEN
from tcformer.models.reading import Checkpoint, read_checkpoint

__all__ = [
    "CONFIG",
    "NECK",
    "WEIGHTS",
    "About",
    "about_checkpoint",
    "about_folder",
    "as_text",
    "average_note",
    "header_of",
    "names_of",
    "open_weights",
    "place_of",
    "size_note",
]

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


def place_of(source: str | os.PathLike[str]) -> Path:
    """The file of weights, or the folder in timm's hub format, fetched first if it is elsewhere.

    Raises:
        UserError: it cannot be had.
    """
    if isinstance(source, str) and source.startswith("hf-hub:"):
        from tcformer.predict.hub import fetch_folder

        return fetch_folder(source.removeprefix("hf-hub:"))
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        return fetch_cached(source)
    return Path(source.removeprefix("local-dir:") if isinstance(source, str) else source)


def open_weights(
    source: str | os.PathLike[str], ema: bool | None = None
) -> tuple[Checkpoint, About]:
    """Read weights from wherever they are, with what is said of them: the one door of every verb.

    Args:
        source: a file, an http(s) address of one, a folder in timm's hub format, or "hf-hub:" and a
            repository.
        ema: None takes the averaged weights wherever there are some, False the last ones; True
            refuses a file without averaged ones.

    Raises:
        UserError: it cannot be had or read.
    """
    path = place_of(source)
    if path.is_dir():
        about = about_folder(path)
        return read_checkpoint(path / WEIGHTS, ema=bool(ema)), about
    try:
        checkpoint = read_checkpoint(path, ema=ema)
    except UserError as error:
        if not str(source).startswith(("http://", "https://")):
            raise
        path.unlink(missing_ok=True)  # the next attempt fetches it anew
        raise UserError(f"{source} cannot be used: {error}") from error
    return checkpoint, about_checkpoint(checkpoint)


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
