"""The sizes of the named networks and the rule of their merges, as data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tcformer.arguments import as_float, as_int, as_list
from tcformer.errors import shown
from tcformer.ops.local import Grids, nested_grids, usable_grids
from tcformer.tokens import Layout

__all__ = ["SIZES", "V1", "V2", "VARIANTS", "MergeRule"]

NUM_STAGES = 4

WIDTHS = (64, 128, 320, 512)
"""Channels of the four stages, unless a model says other ones."""

_NANO = {"embed_dims": (32, 64, 160, 256), "depths": (2, 2, 2, 2)}
_LIGHT = {"depths": (2, 2, 2, 2)}
_BASE = {"depths": (3, 4, 6, 3)}
_LARGE = {"depths": (3, 8, 27, 3)}
_LOCAL = {"part_grids": ((4, 4), (2, 2), (1, 1))}

SIZES: dict[str, dict[str, Any]] = {
    "tcformer_nano": _NANO,
    "tcformer_light": _LIGHT,
    "tcformer": _BASE,
    "tcformer_large": _LARGE,
    "tcformerv2_nano": {**_NANO, **_LOCAL},
    "tcformerv2_light": {**_LIGHT, **_LOCAL},
    "tcformerv2_base": {**_BASE, **_LOCAL},
    "tcformerv2_large": {**_LARGE, **_LOCAL},
}
"""Of every named model the arguments of :class:`~tcformer.models.TCFormer` that make it."""

VARIANTS = tuple(SIZES)
"""Every named model, smallest first, those of V2 after those of V1."""

V1, V2 = VARIANTS[:4], VARIANTS[4:]


@dataclass(frozen=True)
class MergeRule:
    """What a merge does, apart from its parameters.

    Attributes:
        keep_ratio: share of the tokens that are left, in (0, 1].
        k: neighbors in the density estimate, the token itself included.
        num_clusters: how many tokens are left, instead of a share; no more than there are.
        grids: the grid (rows, columns) of windows inside which tokens are clustered, then those of
            later merges, down to (1, 1). Where an image is too small for one the next is taken.

    Raises:
        ValueError: a value out of range.
        TypeError: one that is no number of its kind.
    """

    keep_ratio: float = 0.25
    k: int = 5
    num_clusters: int | None = None
    grids: Grids = ((1, 1),)

    def __post_init__(self) -> None:
        ratio = as_float("keep_ratio", self.keep_ratio, 0.0, 1.0, above=True)
        count = self.num_clusters
        count = None if count is None else as_int("num_clusters", count)
        read = {"keep_ratio": ratio, "k": as_int("k", self.k), "num_clusters": count}
        self.__dict__.update(read)  # frozen: nothing is set from now on

    def num_kept(self, num_tokens: int) -> int:
        """How many tokens are left of ``num_tokens``, before rounding down to equal windows."""
        if self.num_clusters is not None:
            return min(self.num_clusters, num_tokens)
        # 0.55 * 100 is a little more than 55: such a trifle makes no cluster.
        return max(math.ceil(num_tokens * self.keep_ratio - 1e-9), 1)

    def plan(self, layout: Layout) -> tuple[Grids, int, int]:
        """For these tokens: the usable part grids, the number of windows, the clusters of each."""
        num_kept = self.num_kept(layout.num_tokens)
        grids = usable_grids(layout, self.grids, num_kept)
        num_windows = grids[0][0] * grids[0][1]
        return grids, num_windows, num_kept // num_windows


def merge_rules(
    keep_ratio: Any = None, k: int = 5, num_clusters: Any = None, part_grids: Any = None
) -> tuple[MergeRule, ...]:
    """The rules of the three merges, from the arguments of :class:`~tcformer.models.TCFormer`.

    Raises:
        ValueError: values out of range, or that do not belong together.
        TypeError: one that is no number of its kind.
    """
    if keep_ratio is not None and num_clusters is not None:
        raise ValueError(
            "TCFormer: keep_ratio and num_clusters both say how many tokens are left; give one."
        )

    def per_merge(name: str, value: Any) -> list[Any]:
        return several(f"TCFormer: {name}", value, NUM_STAGES - 1, lambda _, v: v, or_one=True)

    ratios = per_merge("keep_ratio", 0.25 if keep_ratio is None else keep_ratio)
    counts = per_merge("num_clusters", num_clusters)
    grids = [v if as_list(v) else (v, v) for v in per_merge("part_grids", part_grids)]
    return tuple(
        MergeRule(
            ratios[merge],
            k,
            counts[merge],
            nested_grids([] if part_grids is None else grids[merge:]),
        )
        for merge in range(NUM_STAGES - 1)
    )


def merge_arguments(rules: Sequence[MergeRule]) -> dict[str, Any]:
    """The arguments that make these rules, as plain values; what V1 has is left out: {} for V1."""
    arguments: dict[str, Any] = {}
    if any(rule.num_clusters is not None for rule in rules):
        arguments["num_clusters"] = [rule.num_clusters for rule in rules]
    elif any(rule.keep_ratio != MergeRule.keep_ratio for rule in rules):
        arguments["keep_ratio"] = [rule.keep_ratio for rule in rules]
    if rules[0].k != MergeRule.k:
        arguments["k"] = rules[0].k
    if any(rule.grids != MergeRule.grids for rule in rules):
        arguments["part_grids"] = [list(rule.grids[0]) for rule in rules]
    return arguments


def check_pool(global_pool: str) -> None:
    if global_pool not in ("avg", ""):
        raise ValueError(f"global_pool must be 'avg' or '' (none), not {global_pool!r}.")


def several(
    name: str,
    value: Any,
    count: int,
    read: Callable[[str, Any], Any] = as_int,
    *,
    or_one: bool = False,
) -> list[Any]:
    """Read `count` numbers; with `or_one` a single one stands for all.

    Raises:
        ValueError: another number of values.
    """
    values = as_list(value)
    if values is None and or_one:
        values = [value] * count
    if values is None or len(values) != count:
        wanted = f"one value or {count}" if or_one else f"{count} values"
        raise ValueError(
            f"{name} needs {wanted}, not {shown(value if values is None else values)}."
        )
    return [read(name, number) for number in values]
