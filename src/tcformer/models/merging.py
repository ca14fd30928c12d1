"""How a network merges its tokens: as options, and as a record in a file of weights.

Keep ratio, k, number of clusters and part grids have no parameters, so the same weights fit V1,
V2, and a model that keeps half of its tokens. Whoever saves weights therefore notes how they were
trained to merge, and whoever builds a network for a file reads the note.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from tcformer.errors import UserError
from tcformer.models.ctm import CTM, MergeRule
from tcformer.models.reading import Checkpoint
from tcformer.models.variants import V1, V2, VARIANTS, create_model

__all__ = ["merge_options", "merging_note", "merging_of", "name_with", "recorded_merging"]

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
    options: dict[str, Any] = {}
    if rules == [MergeRule()] * len(rules) or len(rules) != 3:
        return options
    if any(rule.num_clusters is not None for rule in rules):
        options["num_clusters"] = [rule.num_clusters for rule in rules]
    elif any(rule.keep_ratio != MergeRule.keep_ratio for rule in rules):
        options["keep_ratio"] = [rule.keep_ratio for rule in rules]
    if rules[0].k != MergeRule.k:
        options["k"] = rules[0].k
    if any(rule.nest != MergeRule.nest for rule in rules):
        options["part_grids"] = [list(rule.nest[0]) for rule in rules]
    return options


def merging_note(model: nn.Module) -> dict[str, str]:
    """The entry of a file's header that :func:`recorded_merging` reads; {} for V1."""
    merging = merging_of(model)
    return {NOTE: json.dumps(merging)} if merging else {}


def name_with(name: str, note: str) -> str:
    """The variant of these sizes that merges like this: V2's name instead of V1's, where it is."""
    if name not in V1:
        return name
    twin = V2[V1.index(name)]
    with torch.device("meta"):
        grids = merging_of(create_model(twin))["part_grids"]
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
        with torch.device("meta"):
            if note is not None:
                options = json.loads(note)
                if not set(options) <= set(GIVEN):
                    raise ValueError(f"unknown entries in {note}")
                return merging_of(create_model("tcformer_nano", **options))
            options = args if isinstance(args, Mapping) else {}
            said = {**checkpoint.meta, **(about if isinstance(about, Mapping) else {})}
            name = options.get("model") or said.get("model")
            if not isinstance(name, str) or name not in VARIANTS:
                return {}
            given = {key: options.get(key) for key in GIVEN}
            return merging_of(create_model(name, **merge_options(name, **given)))
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{checkpoint.path} is damaged: it says of the merging of tokens what cannot be "
            f"({str(error)[:120].rstrip('.')})."
        ) from error
