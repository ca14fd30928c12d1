"""Recognize the state dict of a TCFormer and translate its keys to those of this package.

Ours are the keys of the authors' classification release. Their files also come wrapped for other
programs, and their older public fork named and numbered some modules differently.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from tcformer.errors import UserError
from tcformer.models.sizes import SIZES, V1, WIDTHS
from tcformer.weights.safe_torch import StateDict

__all__ = ["Architecture", "Translated", "identify", "strip_wrappers", "translate"]

_OURS = re.compile(r"(patch_embed1|block[1-4]|norm[1-4]|ctm[1-3])\.|head\.(weight|bias)$")
_WRAPPERS = ("module.", "_orig_mod.")
_HOLDERS = (*_WRAPPERS, "model.", "net.", "network.")  # what training code calls its network
_STEM = re.compile(r"(.*?)patch_embed1\.(?:proj|projection)\.weight")
_VARIANTS = {(SIZES[name].get("embed_dims", WIDTHS), SIZES[name]["depths"]): name for name in V1}


@dataclass(frozen=True)
class Architecture:
    """The network that keys and shapes of a state dict belong to.

    `name` is None when the sizes belong to no registered variant, `num_classes` without a head.
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
    """Recognize a TCFormer by keys and shapes in our layout; None for any other network.

    PVTv2 has the same block names, but no clustering modules.
    """
    stem = state.get("patch_embed1.proj.weight")
    if stem is None or stem.dim() != 4 or "ctm1.score.weight" not in state:
        return None
    blocks = {(m[1], m[2]) for key in state if (m := re.match(r"block([1-4])\.(\d+)\.", key))}
    norms = [state.get(f"block{stage}.0.norm1.weight") for stage in range(1, 5)]
    widths = tuple(0 if norm is None else norm.numel() for norm in norms)
    depths = tuple(sum(stage == own for own, _ in blocks) for stage in "1234")
    head = state.get("head.weight")
    return Architecture(
        name=_VARIANTS.get((widths, depths)),
        widths=widths,
        depths=depths,
        num_classes=head.shape[0] if head is not None and head.dim() == 2 else None,
        in_chans=stem.shape[1],
    )


class Translated(NamedTuple):
    """The weights of a network by the keys of this package.

    Attributes:
        backbone: backbone and classifier, in the order of the release.
        others: the other parts of a larger network, such as `neck.*` and `keypoint_head.*`.
        prefix: what stands before the backbone's keys in the larger network; "" if there is none.
        notes: the changes made, each a part of a sentence.
    """

    backbone: StateDict
    others: StateDict
    prefix: str
    notes: list[str]

    @property
    def whole(self) -> StateDict:
        """All parts of a larger network; the backbone alone where there are no others."""
        if not self.others:
            return self.backbone
        return {**{self.prefix + key: self.backbone[key] for key in self.backbone}, **self.others}

    @property
    def neck(self) -> StateDict:
        """The neck of a larger network, or these weights if they are a neck's own."""
        every = {**self.backbone, **self.others}
        neck = {k.removeprefix("neck."): v for k, v in every.items() if k.startswith("neck.")}
        return neck or every

    @property
    def parts(self) -> list[str]:
        """The names of the other parts."""
        return sorted({key.split(".")[0] for key in self.others})


def translate(state: Mapping[str, Tensor]) -> Translated:
    """Bring any published layout to ours: prefixes, MMPose's stem, the fork's names and numbers.

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
        foreign = part and not _OURS.match(name) and (name == key or not key.startswith(part))
        _put(others if foreign else ours, name, value)
    if any(key.startswith("patch_embed1.projection.") for key in ours):
        notes.append("MMPose's 'patch_embed1.projection' renamed to 'patch_embed1.proj'")
    ours, from_fork = _renamed(ours)
    others, also_from_fork = _renamed(others)
    if from_fork or also_from_fork:
        notes.append("names and block numbers of the authors' development fork translated")
    ours = dict(sorted(ours.items(), key=lambda item: _place(item[0])))
    return Translated(ours, others, "backbone." if part.startswith("backbone.") else part, notes)


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

    Returns the state dict, the further prefix of the backbone's keys in it (such as "backbone."; ""
    if there is none), and a part of a sentence for each change made.
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


def _put(state: StateDict, key: str, value: Tensor) -> None:
    if key in state:
        raise UserError(f"the weights name the tensor '{key}' twice, under different prefixes")
    state[key] = value


def _renamed(state: StateDict) -> tuple[StateDict, bool]:
    """Translate the names of MMPose and of the fork, and say whether there were any of the fork's.

    There the first block of stages 2 to 4 was part of the clustering module before it.
    """
    of_fork = any(re.match(r"ctm[1-3]\.(block|conf|conv_skip)\.", key) for key in state)
    translated: StateDict = {}
    changed = False
    for key, value in state.items():
        name = key
        if re.fullmatch(r"ctm[1-3]\.T", key):
            changed = True
            continue  # a temperature that was never used
        if match := re.match(r"ctm([1-3])\.block\.", key):
            name = f"block{int(match[1]) + 1}.0.{key[match.end() :]}"
        elif of_fork and (match := re.match(r"block([2-4])\.(\d+)\.", key)):
            name = f"block{match[1]}.{int(match[2]) + 1}.{key[match.end() :]}"
        elif re.match(r"ctm[1-3]\.", key):
            name = name.replace(".conf.", ".score.").replace(".conv_skip.", ".conv.skip.")
            if name.endswith(".conv.skip.weight") and value.dim() == 2:
                value = value.unsqueeze(-1)  # a Linear there, a convolution of width 1 here
        if re.match(r"block[2-4]\.|(neck\.)?merge_blocks\.", name):
            name = name.replace(".mlp.dwconv.dwconv_skip.", ".mlp.dwconv.skip.")
            name = name.replace(".mlp.dwconv.dwconv.", ".mlp.dwconv.")
        changed |= name != key
        _put(translated, name.replace("patch_embed1.projection.", "patch_embed1.proj.", 1), value)
    return translated, changed


_STAGES = "patch_embed1 block1 norm1 ctm1 block2 norm2 ctm2 block3 norm3 ctm3 block4 norm4 head"
_INSIDE = "weight bias norm1 attn q kv proj sr conv norm score norm2 mlp fc1 dwconv skip fc2"
_RANK = {name: rank for rank, name in enumerate(_INSIDE.split())}


def _place(key: str) -> list[int]:
    """Where the release lists `key`; unknown keys come last, as they were."""
    stage, *inside = key.split(".")
    stages = _STAGES.split()
    if stage not in stages:
        return [len(stages)]
    return [
        stages.index(stage),
        *(int(n) if n.isdecimal() else _RANK.get(n, len(_RANK)) for n in inside),
    ]
