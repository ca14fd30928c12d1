"""All kinds of hostile input. A reader that is new puts its kinds here."""

from __future__ import annotations

from hostile import images, keypoints, labels, weights, words
from hostile.kinds import Kind

KINDS: list[Kind] = [*images.KINDS, *weights.KINDS, *labels.KINDS, *keypoints.KINDS, *words.KINDS]


def planned(count: int, kinds: list[Kind] | None = None) -> list[tuple[str, int]]:
    """`count` inputs, each kind with its share, taking turns so that any part holds all kinds."""
    chosen = KINDS if kinds is None else kinds
    whole = sum(kind.share for kind in chosen)
    turns = [
        ((number + 0.5) / kind.share, kind.name, number)
        for kind in chosen
        for number in range(-(-count * kind.share // whole))
    ]
    return [(name, number) for _, name, number in sorted(turns)][:count]
