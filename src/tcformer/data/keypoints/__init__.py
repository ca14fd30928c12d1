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
    """A set of keypoints in its fixed order.

    Attributes:
        name: of the set.
        names: of the keypoints, K of them.
        mirror: (K,) int64, the keypoint that each becomes when the picture is mirrored.
        sigmas: (K,) float64, the spread of annotators by which OKS measures; None where no OKS is
            defined.
        upper: (K,) bool, what the half-body augmentation calls the upper half; all else, hands and
            face included, is its lower half.
        parts: name of a part to its first keypoint and the one after its last.
        fields: name of a part to the key that holds it in an annotation file.
        links: name of a part to pairs of keypoints that a drawing joins.
        norm: two keypoints whose distance is the unit of the normalised mean error, or None.
    """

    name: str
    names: tuple[str, ...]
    mirror: np.ndarray
    sigmas: np.ndarray | None
    upper: np.ndarray
    parts: Mapping[str, tuple[int, int]]
    fields: Mapping[str, str]
    links: Mapping[str, tuple[tuple[int, int], ...]]
    norm: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.names)

    @property
    def swapped_pairs(self) -> tuple[tuple[int, int], ...]:
        """Pairs of keypoints that change places in a mirrored picture, the smaller number first."""
        return tuple((i, int(j)) for i, j in enumerate(self.mirror) if i < j)

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
