"""Names for classes: the training's own, ImageNet's, or numbers."""

from __future__ import annotations

import re
from functools import cache

__all__ = ["class_names"]

_SYNSET = re.compile(r"n\d{8}")
_IMAGENET = 1000


def class_names(recorded: tuple[str, ...] | None, count: int) -> tuple[tuple[str, ...], list[str]]:
    """The name of each of `count` classes, and sentences about what had to be assumed.

    Recorded names are taken as they are, except that ImageNet's folder names ("n01440764") become
    words. Without recorded names 1000 classes are taken for ImageNet's, and any other number is
    named "class 0", "class 1" and so on. The words are timm's, and come with it.
    """
    if recorded and len(recorded) <= count:
        return (*_in_words(recorded), *(f"class {i}" for i in range(len(recorded), count))), []
    notes = []
    if recorded:
        notes.append(
            f"{len(recorded)} class names are recorded for {count} classes, so none of them is used"
        )
    if count == _IMAGENET:
        notes.append("no class names are recorded: 1000 classes are taken for ImageNet's")
        return _imagenet(), notes
    if count:
        notes.append("no class names are recorded, so classes go by their numbers")
    return tuple(f"class {i}" for i in range(count)), notes


@cache
def _imagenet() -> tuple[str, ...]:
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_descriptions())


def _in_words(names: tuple[str, ...]) -> tuple[str, ...]:
    if not all(_SYNSET.fullmatch(name) for name in names):
        return names
    words = _synsets()
    return tuple(words.get(name, name) for name in names)


@cache
def _synsets() -> dict[str, str]:
    from timm.data import ImageNetInfo

    described = ImageNetInfo("imagenet-22k").label_descriptions(as_dict=True)
    assert isinstance(described, dict)
    return {**described, **dict(zip(ImageNetInfo().label_names(), _imagenet(), strict=True))}
