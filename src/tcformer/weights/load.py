"""Load weights into a model, from wherever and in whatever published wrapping they are.

This is the one loader: classifiers, backbones, necks, segmentation, pose and detection models, and
timm's other networks get their weights through :func:`load_checkpoint`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tcformer.errors import UserError, cut
from tcformer.weights.metadata import (
    WEIGHTS,
    Metadata,
    checkpoint_metadata,
    folder_metadata,
    recorded_merging,
)
from tcformer.weights.released import fetch_cached, fetch_folder
from tcformer.weights.remap import Architecture, Translated, identify, strip_wrappers, translate
from tcformer.weights.safe_torch import Checkpoint, StateDict, find_weights, read_checkpoint

__all__ = [
    "LoadReport", "WeightsFile", "classifier_of", "load_checkpoint", "open_weights", "place_of",
    "renamed_for",
]  # fmt: skip

Mismatched = list[tuple[str, tuple[int, ...], tuple[int, ...]]]


@dataclass(frozen=True)
class LoadReport:
    """What `load_checkpoint` did. Keys are the model's, after translation.

    Attributes:
        source: the path or address, or "the state dict".
        loaded: the keys that were copied into the model.
        missing: keys of the model that the source lacks; they keep their values.
        unexpected: keys of the source that the model does not have.
        mismatched: key, shape in the source, shape in the model; they keep their values.
        ignored: keys left out on purpose: a neck or pose head, or a classifier of other classes.
        notes: each translation that was made, in words.
        epoch: the epoch the source names, or None.
    """

    source: str
    loaded: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    ignored: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    epoch: int | None = None

    @property
    def complete(self) -> bool:
        """Whether every tensor of the model was loaded."""
        return not self.missing and not self.mismatched

    def __str__(self) -> str:
        parts = [f"{len(self.loaded)} tensors loaded from {self.source}", *self.notes]
        if self.missing:
            parts.append(f"not in the file: {_listed(self.missing)}")
        if self.unexpected:
            parts.append(f"not in the model: {_listed(self.unexpected)}")
        if self.mismatched:
            parts.append(f"of another shape: {_listed(key for key, _, _ in self.mismatched)}")
        return "; ".join(parts)


def load_checkpoint(
    model: nn.Module,
    source: str | os.PathLike[str] | Mapping[str, Any],
    strict: bool = True,
    *,
    allow_head_mismatch: bool = False,
    ema: bool | None = False,
    where: str | None = None,
) -> LoadReport:
    """Copy published or own weights into `model`.

    Accepted are the authors' files in every published wrapping (bare, under `model` or
    `state_dict`, prefixes `module.` and `backbone.`, MMPose's names and its pose checkpoints,
    the development fork's names), what other training code leaves (prefixes `model.` and `net.`,
    entries such as `params`), this package's training checkpoints and safetensors. A backbone or
    neck (:class:`~tcformer.models.MTA`) takes its own part of a file that holds more. Nothing in a
    file is executed. When the weights are refused the model is unchanged.

    Args:
        model: the network, also inside DistributedDataParallel, torch.compile or timm's
            `features_only`.
        source: a path, an http(s) address, or a dict that holds tensors.
        strict: refuse weights that do not fit exactly. Otherwise what fits is loaded, and the
            report names the rest; weights of which nothing fits are refused even then.
        allow_head_mismatch: keep the model's own classifier when the source's has another
            number of classes or is absent (fine-tuning).
        ema: True takes the averaged weights of a training checkpoint, None takes them wherever
            there are some.
        where: what to call the source in the report and in refusals; None is its path.

    Raises:
        UserError: the file cannot be read, holds another architecture, another number of
            classes or image channels, or misses keys.
    """
    network = _inside_wrappers(model)
    target = network.state_dict()
    if isinstance(source, Mapping):
        where = where or "the state dict"
        found, averaged = find_weights(source, "the state dict", ema)
        epoch = None
    else:
        where = where or str(source)
        checkpoint = _read(source, ema)
        found, averaged, epoch = checkpoint.state_dict, checkpoint.averaged, checkpoint.epoch
    try:
        state, notes, ignored = _translated_for(found, target)
    except UserError as error:
        raise UserError(f"{where} does not fit: {error}") from error
    notes += ["the averaged weights (EMA)"] if averaged else []
    theirs, ours = identify(state), identify(target)

    places = classifier_of(network)
    if not any(key.startswith(places) for key in target):
        places = ("head.",)
    head = [key for key in state if key.startswith(places)]
    own_head = {key for key in target if key.startswith(places)}
    other_head = _other_shape(head, state, target)
    keep_own_head = allow_head_mismatch and bool(own_head - state.keys() or other_head)
    if keep_own_head:
        notes.append(f"classifier kept as it is in the model ({_class_counts(theirs, ours)})")
    elif head and not own_head:
        notes.append("classifier left out, the model has none")
    if not own_head or keep_own_head:
        ignored += head
        state = {key: value for key, value in state.items() if key not in head}

    missing = [key for key in target if key not in state]
    unexpected = [key for key in state if key not in target]
    mismatched = _other_shape(state, state, target)
    wrong = {key for key, _, _ in mismatched}
    fitting = {key: state[key] for key in state if key in target and key not in wrong}
    forgiven = own_head if keep_own_head else set()
    if not fitting or (strict and (set(missing) - forgiven or unexpected or mismatched)):
        reason = _misfit(state, target, theirs, ours, missing, mismatched)
        raise UserError(f"{where} does not fit: {reason}")
    if keep_own_head:
        mismatched += other_head
        missing = [key for key in missing if key not in head]
    network.load_state_dict(fitting, strict=False)
    return LoadReport(
        where,
        loaded=tuple(fitting),
        missing=tuple(missing),
        unexpected=tuple(unexpected),
        mismatched=tuple(mismatched),
        ignored=tuple(ignored),
        notes=tuple(notes),
        epoch=epoch,
    )


def renamed_for(model: nn.Module, weights: Mapping[str, Tensor]) -> StateDict:
    """Weights of any published wrapping, by the keys of `model`."""
    return _translated_for(weights, _inside_wrappers(model).state_dict())[0]


def classifier_of(model: nn.Module) -> tuple[str, ...]:
    """Where the keys of a network's classifier begin, such as "head."; timm says it of its own."""
    names = (getattr(_inside_wrappers(model), "pretrained_cfg", None) or {}).get("classifier")
    names = names if isinstance(names, (list, tuple)) else (names or "head",)
    return tuple(f"{name}." for name in names)


@dataclass(frozen=True)
class WeightsFile:
    """Weights from anywhere, with what is said of them: `source` as it was given, the content,
    and what the file (or the folder it lies in) says of its network.
    """

    source: str
    checkpoint: Checkpoint
    metadata: Metadata

    @cached_property
    def translated(self) -> Translated:
        """The weights by our keys; UserError if two become one, or there are several networks."""
        try:
            return translate(self.checkpoint.state_dict)
        except UserError as error:
            raise UserError(f"{self.source} cannot be used: {error}") from None

    @cached_property
    def architecture(self) -> Architecture | None:
        """The TCFormer that the weights are of, or that they have as a backbone."""
        return identify(self.translated.backbone)

    @cached_property
    def merging(self) -> dict[str, Any]:
        """How the network merges its tokens, as keyword arguments; {} is V1."""
        return recorded_merging(self.checkpoint) or dict(self.metadata.arguments or {})

    @property
    def notes(self) -> list[str]:
        """What to say of weights that were chosen for the user; nothing if there was no choice."""
        averaged = ["the averaged weights (EMA) are taken; --no-ema takes the last ones"]
        return averaged if self.checkpoint.averaged else []


def open_weights(source: str | os.PathLike[str], ema: bool | None = None) -> WeightsFile:
    """Read weights from wherever they are; every verb does it here.

    Args:
        source: a file, an http(s) address of one, a folder in timm's hub format, or "hf-hub:" and a
            repository.
        ema: None takes the averaged weights wherever there are some, False the last ones; True
            refuses a file without averaged ones.

    Raises:
        UserError: it cannot be fetched or read.
    """
    path = place_of(source)
    if path.is_dir():
        metadata = folder_metadata(path)
        return WeightsFile(str(source), read_checkpoint(path / WEIGHTS, ema=bool(ema)), metadata)
    checkpoint = _read(source, ema)
    return WeightsFile(str(source), checkpoint, checkpoint_metadata(checkpoint))


def place_of(source: str | os.PathLike[str]) -> Path:
    """The file of weights, or the folder in timm's hub format, fetched first if it is elsewhere."""
    if not isinstance(source, str):
        return Path(source)
    if source.startswith("hf-hub:"):
        return fetch_folder(source.removeprefix("hf-hub:"))
    return fetch_cached(source) if _is_address(source) else Path(source.removeprefix("local-dir:"))


def _is_address(source: str | os.PathLike[str]) -> bool:
    return isinstance(source, str) and source.startswith(("http://", "https://"))


def _read(source: str | os.PathLike[str], ema: bool | None) -> Checkpoint:
    path = place_of(source)
    try:
        return read_checkpoint(path, ema=ema)
    except UserError as error:
        if not _is_address(source):
            raise
        path.unlink(missing_ok=True)  # the next attempt fetches it anew
        raise UserError(f"{source} cannot be used: {error}") from error


def _inside_wrappers(model: nn.Module) -> nn.Module:
    for name in ("module", "_orig_mod", "model"):
        inner = getattr(model, name, None)
        if isinstance(inner, nn.Module) and all(
            k.startswith(f"{name}.") for k in model.state_dict()
        ):
            return _inside_wrappers(inner)
    return model


def _translated_for(
    found: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> tuple[StateDict, list[str], list[str]]:
    """The part of the weights that the target is, by its keys; notes; the keys left out."""
    plain, notes = strip_wrappers(found)
    if plain.keys() == target.keys():
        return plain, notes, []
    is_neck = any(key.startswith("lateral_convs.") for key in target)
    known = is_neck or identify(target) is not None
    if not known and (prefix := _only_prefix(plain, target)):
        notes.append(f"prefix '{prefix}' removed, other keys left out")
        return {key: plain[prefix + key] for key in target}, notes, []
    translated = translate(found)
    notes = translated.notes
    if any(key.startswith("backbone.") for key in target):
        return translated.whole, notes, []
    if is_neck:
        state, what = translated.neck, "neck"
        whole = [*(translated.prefix + key for key in translated.backbone), *translated.others]
        with_more = any(key.startswith("neck.") for key in whole)
        others = [key for key in whole if with_more and not key.startswith("neck.")]
    else:
        state, what, others = translated.backbone, "backbone", list(translated.others)
        notes += [f"prefix '{translated.prefix}' removed"] if translated.prefix else []
    if others:
        parts = ", ".join(sorted({key.split(".")[0] for key in others}))
        notes.append(f"left out {parts} ({len(others)} tensors), no {what} weights")
    return state, notes, others


def _only_prefix(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> str:
    """What stands before all keys of another network than ours, if that is one thing; else ''."""
    first = next(iter(target), "")
    found = [key.removesuffix(first) for key in state if key.endswith(f".{first}")]
    found = [prefix for prefix in found if all(prefix + key in state for key in target)]
    return found[0] if len(found) == 1 else ""


def _other_shape(
    keys: Iterable[str], state: Mapping[str, Tensor], target: Mapping[str, Tensor]
) -> Mismatched:
    return [
        (key, tuple(state[key].shape), tuple(target[key].shape))
        for key in keys
        if key in target and state[key].shape != target[key].shape
    ]


def _class_counts(theirs: Architecture | None, ours: Architecture | None) -> str:
    file, model = (getattr(a, "num_classes", None) for a in (theirs, ours))
    has = "no classifier" if file is None else f"{file} classes"
    return f"the weights have {has}, the model {model} classes"


def _misfit(
    state: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    theirs: Architecture | None,
    ours: Architecture | None,
    missing: list[str],
    mismatched: Mismatched,
) -> str:
    """The most telling reason, in words."""
    common = sum(key in target for key in state)
    if ours and not theirs and common < len(target) * 0.9:
        return (
            "these are weights of another kind of network, not of a TCFormer "
            f"({common} of {len(target)} tensors have a known name; "
            f"its own are called {_listed(state, 2)})"
        )
    wrong = [*missing, *(key for key, _, _ in mismatched)]
    if ours and theirs:
        if (theirs.widths, theirs.depths) != (ours.widths, ours.depths):
            hint = f"; create {theirs.name} instead" if theirs.name else ""
            return f"the weights are of {theirs}, the model is {ours}{hint}"
        if theirs.in_chans != ours.in_chans:
            return (
                f"the weights are for images of {theirs.in_chans} channels, "
                f"the model takes {ours.in_chans} (in_chans)"
            )
        same = theirs.num_classes == ours.num_classes
        if ours.num_classes and not same and all(key.startswith("head.") for key in wrong):
            return (
                f"{_class_counts(theirs, ours)}; to train a new classifier, load them with "
                "--finetune (allow_head_mismatch=True)"
            )
    parts = []
    if missing:
        parts.append(f"{len(missing)} tensors are missing ({_listed(missing)})")
    if unexpected := [key for key in state if key not in target]:
        parts.append(f"{len(unexpected)} are unknown to the model ({_listed(unexpected)})")
    if mismatched:
        shown = ", ".join(f"{key}: {list(a)}, not {list(b)}" for key, a, b in mismatched[:3])
        parts.append(f"{len(mismatched)} have another shape ({shown})")
    return ", ".join(parts)


def _listed(keys: Iterable[str], most: int = 3) -> str:
    names = [cut(key, 80) for key in keys]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
