"""Key layouts: how a state dict of the published family is recognised and brought to ours.

Ours is the layout of the authors' classification release. Their files also come wrapped for
other programs, and an older public fork of theirs named and numbered some modules differently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tcformer.errors import UserError
from tcformer.models.sizes import SIZES, V1, WIDTHS
from tcformer.weights.safe_torch import StateDict, find_weights

_OURS = re.compile(r"(patch_embed1|block[1-4]|norm[1-4]|ctm[1-3]|head)\.")
_WRAPPERS = ("module.", "_orig_mod.")
_HOLDERS = (*_WRAPPERS, "model.", "net.", "network.")  # what training code calls its network
_STEM = re.compile(r"(.*?)patch_embed1\.(?:proj|projection)\.weight")
_VARIANTS = {(SIZES[name].get("embed_dims", WIDTHS), SIZES[name]["depths"]): name for name in V1}


@dataclass(frozen=True)
class Architecture:
    """What the keys and shapes of a state dict say about the network they belong to.

    Attributes:
        name: the registered variant, or None when the sizes belong to none of them.
        widths: channels of the four stages.
        depths: blocks of the four stages.
        num_classes: rows of the head, or None without a head.
        in_chans: channels of the image.
    """

    name: str | None
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    num_classes: int | None
    in_chans: int

    def __str__(self) -> str:
        numbers = f"depths {list(self.depths)}, widths {list(self.widths)}"
        return f"{self.name} ({numbers})" if self.name else f"a TCFormer with {numbers}"


def identify(state: Mapping[str, Tensor]) -> Architecture | None:
    """Recognise a TCFormer by its keys and shapes; None for any other network.

    The state dict must be in our layout (`to_our_layout`). PVTv2, whose block names are the
    same, is told apart by its lack of cluster modules.
    """
    if "ctm1.score.weight" not in state or "patch_embed1.proj.weight" not in state:
        return None
    numbers: dict[int, set[str]] = {stage: set() for stage in range(1, 5)}
    for key in state:
        if match := re.match(r"block([1-4])\.(\d+)\.", key):
            numbers[int(match[1])].add(match[2])
    norms = [state.get(f"block{stage}.0.norm1.weight") for stage in range(1, 5)]
    stem = state["patch_embed1.proj.weight"]
    if stem.dim() != 4:
        return None
    widths = tuple(0 if norm is None else norm.numel() for norm in norms)
    depths = tuple(len(numbers[stage]) for stage in range(1, 5))
    head = state.get("head.weight")
    return Architecture(
        name=_VARIANTS.get((widths, depths)),
        widths=widths,
        depths=depths,
        num_classes=head.shape[0] if head is not None and head.dim() == 2 else None,
        in_chans=stem.shape[1],
    )


def strip_wrappers(state: Mapping[str, Tensor]) -> tuple[StateDict, list[str]]:
    """Remove what data parallelism, averaging and torch.compile put before every key."""
    clean: StateDict = {}
    stripped: set[str] = set()
    for key, value in state.items():
        name = key
        while name.startswith(_WRAPPERS):
            wrapper = name[: name.index(".") + 1]
            stripped.add(wrapper)
            name = name.removeprefix(wrapper)
        _put(clean, name, value)
    return clean, [f"prefix '{wrapper}' removed" for wrapper in sorted(stripped)]


def _unwrapped(state: Mapping[str, Tensor]) -> tuple[StateDict, str, list[str]]:
    """Take off what stands before the keys of the network: wrappers, and what holds it.

    Returns:
        The state dict, the further prefix of the backbone's keys in it (such as "backbone."; "" if
        there is none), and a sentence part for each change made.

    Raises:
        UserError: several networks are in it.
    """
    clean, notes = strip_wrappers(state)
    found = sorted({match[1] for key in clean if (match := _STEM.fullmatch(key))})
    if len(found) > 1:
        names = " and ".join(repr(prefix) for prefix in found)
        raise UserError(
            f"it holds {len(found)} networks, whose names begin with {names}; save the weights of "
            "the one that is meant alone"
        )
    holder, part = "", found[0] if found else ""
    if found:
        while part.startswith(_HOLDERS):
            end = part.index(".") + 1
            holder, part = holder + part[:end], part[end:]
    else:  # no TCFormer, or a part of one
        while len({key[len(holder) :].partition(".")[0] for key in clean}) == 1:
            first = next(iter(clean))[len(holder) :].partition(".")[0] + "."
            if first not in _HOLDERS:
                break
            holder += first
        if any(key.startswith(f"{holder}backbone.") for key in clean):
            part = "backbone."
    if not holder:
        return clean, part, notes
    inside = {k.removeprefix(holder): v for k, v in clean.items() if k.startswith(holder)}
    outside = {key: value for key, value in clean.items() if not key.startswith(holder)}
    if not any(key.startswith("head.") for key in inside):
        for key in [key for key in outside if key.startswith("head.")]:
            inside[key] = outside.pop(key)  # a classifier beside its backbone
    notes.append(f"prefix '{holder}' removed")
    if outside:
        names = ", ".join(sorted({key.split(".")[0] for key in outside}))
        notes.append(f"left out {names} ({len(outside)} tensors), which is outside of the network")
    return inside, part, notes


def to_our_layout(
    state: Mapping[str, Tensor], *, keep_other_parts: bool = False
) -> tuple[StateDict, list[str], list[str]]:
    """Bring any published layout to ours: prefixes, MMPose's stem, the fork's numbering.

    Args:
        state: tensors by key, in any published layout.
        keep_other_parts: keep `neck.*`, `keypoint_head.*` and their like (and the prefix
            `backbone.` that tells them apart) instead of leaving them out.

    Returns:
        The state dict in the listing order of the release, a sentence part for each change
        made, and the keys of other parts of a larger model that were left out.

    Raises:
        UserError: two keys of the file become the same one, or it holds several networks.
    """
    clean, part, notes = _unwrapped(state)
    ours: StateDict = {}
    others: StateDict = {}
    for key, value in clean.items():
        name = key.removeprefix(part)
        while name.startswith(("backbone.", *_WRAPPERS)):
            name = name[name.index(".") + 1 :]
        foreign = part and not _OURS.match(name) and name == key
        _put(others if foreign else ours, name, value)
    ours, renamed = _rename(ours)
    ours = dict(sorted(ours.items(), key=lambda item: _listing_order(item[0])))
    if others and keep_other_parts:
        kept = "backbone." if part.startswith("backbone.") else part
        return {**{f"{kept}{key}": ours[key] for key in ours}, **others}, notes + renamed, []
    notes += [f"prefix '{part}' removed"] if part else []
    notes += renamed
    if others:
        parts = sorted({key.split(".")[0] for key in others})
        notes.append(f"left out {', '.join(parts)} ({len(others)} tensors), no backbone weights")
    return ours, notes, list(others)


def published_layout(state: Mapping[str, Any]) -> StateDict:
    """Translate weights in any published wrapping to the key layout of the models here.

    Parts that are not the backbone or its classifier (a neck, a pose head) are left out.

    Raises:
        UserError: there are no weights in it.
    """
    return to_our_layout(find_weights(state, "the state dict"))[0]


def to_neck_layout(state: Mapping[str, Tensor]) -> tuple[StateDict, list[str], list[str]]:
    """Take the neck out of the weights of a larger model, and bring its keys to ours.

    Args:
        state: tensors by key: a neck's own, or those of a model with `neck.*` among them.

    Returns:
        What `to_our_layout` returns, for the neck.
    """
    clean, _, notes = _unwrapped(state)
    others = [key for key in clean if not key.startswith("neck.")]
    if len(others) < len(clean):
        clean = {key.removeprefix("neck."): clean[key] for key in clean if key not in set(others)}
        parts = sorted({key.split(".")[0] for key in others})
        notes.append("prefix 'neck.' removed")
        notes += [f"left out {', '.join(parts)} ({len(others)} tensors)"] if others else []
    else:
        others = []
    ours: StateDict = {}
    for key, value in clean.items():
        name = key.replace(".mlp.dwconv.dwconv_skip.", ".mlp.dwconv.skip.")
        _put(ours, name.replace(".mlp.dwconv.dwconv.", ".mlp.dwconv."), value)
    if ours.keys() != clean.keys():
        notes.append("names of the authors' development fork translated")
    return ours, notes, others


def _put(state: StateDict, key: str, value: Tensor) -> None:
    if key in state:
        raise UserError(f"the weights name the tensor '{key}' twice, under different prefixes")
    state[key] = value


def _rename(state: StateDict) -> tuple[StateDict, list[str]]:
    notes = []
    renamed: StateDict = {}
    for key, value in state.items():
        name = key.replace("patch_embed1.projection.", "patch_embed1.proj.", 1)
        _put(renamed, name, value)
    if renamed.keys() != state.keys():
        notes.append("MMPose's 'patch_embed1.projection' renamed to 'patch_embed1.proj'")
    if any(re.match(r"ctm[1-3]\.(block|conf|conv_skip)\.", key) for key in renamed):
        renamed = _from_development_fork(renamed)
        notes.append("names and block numbers of the authors' development fork translated")
    return renamed, notes


def _from_development_fork(state: StateDict) -> StateDict:
    """There the first block of stages 2 to 4 was part of the cluster module before it."""
    translated: StateDict = {}
    for key, value in state.items():
        if re.fullmatch(r"ctm[1-3]\.T", key):
            continue  # a temperature that was never used
        name = key
        if match := re.match(r"ctm([1-3])\.block\.", key):
            name = f"block{int(match[1]) + 1}.0.{key[match.end() :]}"
        elif match := re.match(r"block([2-4])\.(\d+)\.", key):
            name = f"block{match[1]}.{int(match[2]) + 1}.{key[match.end() :]}"
        elif match := re.match(r"ctm[1-3]\.", key):
            name = name.replace(".conf.", ".score.").replace(".conv_skip.", ".conv.skip.")
            if name.endswith(".conv.skip.weight") and value.dim() == 2:
                value = value.unsqueeze(-1)  # a Linear there, a convolution of width 1 here
        if re.match(r"block[2-4]\.", name):
            name = name.replace(".mlp.dwconv.dwconv_skip.", ".mlp.dwconv.skip.")
            name = name.replace(".mlp.dwconv.dwconv.", ".mlp.dwconv.")
        _put(translated, name, value)
    return translated


_MODULES = ["patch_embed1", "block1", "norm1"]
for _stage in range(2, 5):
    _MODULES += [f"ctm{_stage - 1}", f"block{_stage}", f"norm{_stage}"]
_MODULES.append("head")
_INNER = ["proj", "norm1", "attn", "conv", "norm", "score", "norm2", "mlp"]
_ATTENTION = ["q", "kv", "proj", "sr", "norm"]
_MLP = ["fc1", "dwconv", "fc2"]


def _listing_order(key: str) -> tuple[int, ...]:
    """Where the release lists `key`; unknown keys come last."""
    first, *rest = key.split(".")
    if first not in _MODULES:
        return (len(_MODULES),)
    number = int(rest.pop(0)) if rest and rest[0].isdigit() else 0
    names = _INNER if first != "head" else []
    order = [_MODULES.index(first), number]
    for part in rest:
        if part in names:
            order.append(names.index(part))
            names = {"attn": _ATTENTION, "mlp": _MLP}.get(part, [])
        else:
            # Within one layer: its own weight, its bias, then what is nested in it.
            order.append({"weight": 0, "bias": 1}.get(part, 2))
    return tuple(order)
