"""Sets of keypoints: names, mirrors, sigmas, parts and the lines that a drawing joins them with.

The tables are the JSON files beside this module, one a set; `layout` reads them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from tcformer.errors import UserError, nearest

LAYOUTS = ("coco_wholebody", "wflw", "sticks")


@dataclass(frozen=True)
class Layout:
    """A set of K keypoints in its fixed order."""

    name: str
    names: tuple[str, ...]  # of the keypoints
    mirror: np.ndarray  # (K,) int64, the keypoint that each becomes in a mirrored image
    sigmas: np.ndarray | None  # (K,) float64, the spread of annotators by which OKS measures
    upper: np.ndarray  # (K,) bool, the upper half of the half-body augmentation
    parts: Mapping[str, tuple[int, int]]  # first keypoint of each part and the one after its last
    fields: Mapping[str, str]  # the key of each part in an annotation file
    links: Mapping[str, tuple[tuple[int, int], ...]]  # pairs of keypoints that a drawing joins
    norm: tuple[int, int] | None = None  # whose distance is the unit of the normalized mean error

    def __len__(self) -> int:
        return len(self.names)

    def slice(self, part: str) -> slice:
        """Where a part lies among the keypoints."""
        return slice(*self.parts[part])


@cache
def layout(name: str) -> Layout:
    """The set of keypoints called `name`, one of `LAYOUTS`.

    Raises:
        UserError: there is no such set.
    """
    if name not in LAYOUTS:
        near = nearest(name, LAYOUTS)
        hint = f"did you mean {near}?" if near else f"there are {', '.join(LAYOUTS)}."
        raise UserError(f"there is no set of keypoints called {name!r}; {hint}")
    table = json.loads(resources.files(__name__).joinpath(f"{name}.json").read_text("utf-8"))
    points = table["keypoints"]
    sigmas = [point["sigma"] for point in points]
    return Layout(
        name=name,
        names=tuple(point["name"] for point in points),
        mirror=_fixed(np.array([point["mirror"] for point in points], np.int64)),
        sigmas=None if None in sigmas else _fixed(np.array(sigmas, np.float64)),
        upper=_fixed(np.array([point["half"] == "upper" for point in points], bool)),
        parts={part: (first, end) for part, (first, end) in table["parts"].items()},
        fields=table["fields"],
        links={part: tuple((a, b) for a, b in pairs) for part, pairs in table["links"].items()},
        norm=tuple(table["norm"]) if "norm" in table else None,
    )


def _fixed(array: np.ndarray) -> np.ndarray:
    """`layout` hands the same object to everybody, so nobody may write into it."""
    array.setflags(write=False)
    return array
